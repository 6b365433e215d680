"""Heads over one truncated backbone: tables of texts in, tables of predictions out.

All tasks share one forward pass: blocks up to the deepest that any head reads (if it ends with a
block's neurons, only those that are read), and of every layer only the features that are read are
pooled. What a head reads of the texts themselves is made beside the tokens. Reading, tokenising,
computing and what the caller does with the results overlap::

    scorer = Scorer.load([run / "heads/anger/chosen", run / "heads/joy/chosen"])
    for scored in scorer.score(tables):         # read ahead, in another thread
        write(scored.table)                     # the next table is computed meanwhile

Before the first row is scored, the golden texts recorded with the heads, and on request a few
stored samples, are computed again: another model revision, tokenizer, precision or library that
changes the numbers cannot go unnoticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.backbone import Backbone, Encoded, load_recorded
from pipeline.config import SCORE_COLUMNS
from pipeline.errors import ScoreError, ScoreInputError
from pipeline.extraction import (
    STORED,
    Extractor,
    Golden,
    Pooled,
    RoutedLayers,
    ahead,
    departure,
    read_outputs,
)
from pipeline.heads import (
    REFERENCE_FILE,
    Drift,
    DriftCounts,
    Head,
    Reference,
    all_features,
    output_rounding,
    text_activations,
)
from pipeline.scoring.alerts import THRESHOLD, Watched, write_drift
from pipeline.scoring.prediction import Predicting, head_columns
from store import ActivationStore
from store.layout import NGRAMS, Source, ffn, last_block, stored_sources

Array = NDArray[Any]
AHEAD = 2
"""Tables that are computed before the caller asks for them; one more is read."""
SUMS = 2.0**-20
"""What adding up in another order may do to a head's outputs, relative to those of 1 and more."""
Carried = TypeVar("Carried")
"""What goes along with a table."""


@dataclass(frozen=True)
class Scored:
    """The results for one table of rows.

    Attributes:
        table: a row for each of them, in order; see :meth:`Scorer.score_table`.
        drift: counts of its different texts with content, by date, for tasks with a reference.
    """

    table: pa.Table
    drift: Drift


class Compute(Protocol):
    """What computes scores: :meth:`Scorer.score_along`, or what stands for it."""

    def __call__(
        self, works: Iterable[tuple[Carried, pa.Table]]
    ) -> Iterator[tuple[Carried, Scored]]:
        """Score tables of rows, in order, each with what goes along."""


@dataclass(frozen=True)
class _Batch:
    """A table's different texts, encoded; ``rows`` text of each row, ``first`` a row of each;
    ``beside``: task -> what its head reads of the texts themselves."""

    table: pa.Table
    rows: Array
    first: Array
    blank: Array
    encoded: Encoded
    beside: Mapping[str, Mapping[Source, Array]]


class Scorer(Predicting):
    """Heads over one truncated backbone.

    Args:
        heads: of any tasks, trained on the same kind of extraction.
        model: the backbone's location, if it is not where the heads were trained.
        device: torch device.
        backbone: from ``load_recorded``, instead of loading one: several scorers can share its
            weights.
        trust_remote_code: the model's own code may run, where the heads ask for it.
        golden: task -> texts with the outputs that the head must have for them.
        references: task -> what to count drift against.

    Raises:
        ScoreError: heads of different extractions, or a model that is not the one they know.
    """

    def __init__(
        self,
        heads: Sequence[Head],
        *,
        model: str | None = None,
        device: str = "auto",
        backbone: Backbone | None = None,
        trust_remote_code: bool = False,
        golden: Mapping[str, Golden] | None = None,
        references: Mapping[str, Reference] | None = None,
    ) -> None:
        if not heads:
            raise ScoreInputError("no heads to score with; run `salient consolidate` first")
        if len(_recorded(heads)) > 1 and len({_described(head) for head in heads}) > 1:
            raise _different(heads)
        names = [head.card.task for head in heads]
        if len(set(names)) != len(names):
            raise ScoreInputError(f"two heads for one task among {names}; give one head per task")
        self.heads = tuple(heads)
        self.references = dict(references or {})
        for head in heads:
            if odd := [s for s in head.features if s.array is None and s != NGRAMS]:
                raise ScoreInputError(
                    f"head {head.card.task!r} reads the {odd[0].label}, which is there to be"
                    " compared with only; name another head, such as the chosen one"
                )
        card = heads[0].card
        self.normalise: dict[str, bool] = card.extraction["normalise"]
        self.dtype: str = card.extraction["backbone"]["dtype"]
        self.stored: str = card.stored_dtype
        self.features = all_features(heads)
        """Source of the model -> the features that any head reads of it."""
        self.depth = max([0, *(source.depth for source in self.features)])
        """The last block that runs."""
        self._columns = {
            head.card.task: {
                source: np.searchsorted(self.features[source], features)
                for source, features in head.features.items()
                if source in self.features
            }
            for head in heads
        }
        last = last_block(self.features, card.num_layers)
        if backbone is None:  # whole if any of the runs found that it must be
            whole = (head for head in heads if head.card.extraction["backbone"].get("whole"))
            source = next(whole, heads[0])
            backbone = load_recorded(
                source.card.extraction,
                asked_by=source.place,
                device=device,
                last_layer=last,
                model=model,
                trust_remote_code=trust_remote_code,
            )
        _check_features(heads[0], self.features, backbone)
        backbone = _cut(backbone, self.features, last)
        self.extractor = Extractor(
            backbone,
            poolings=card.poolings,
            special_tokens=card.extraction["backbone"]["special_tokens"],
            features=self._of_site("ffn"),
            hidden=sorted(self._of_site("hidden")),
            routed=RoutedLayers.recorded(
                card.extraction,
                router=self._of_site("router"),
                features=self._of_site("experts"),
            ),
        )
        self._check_extractions()
        self.columns = list(SCORE_COLUMNS)
        for head in heads:
            self.columns += [head.card.task, *head_columns(head).values()]
        if twice := [name for name in self.columns if self.columns.count(name) > 1]:
            raise ScoreInputError(
                f"two columns of the scores would be called {twice[0]!r}; rename the task or class"
            )
        self.fingerprint = heads_fingerprint(heads)
        self.golden_difference = self._check_golden(golden or {})
        """Largest difference to golden outputs, relative to the largest; None without any."""

    @classmethod
    def load(
        cls,
        folders: Sequence[Path],
        *,
        model: str | None = None,
        device: str = "auto",
        backbone: Backbone | None = None,
        trust_remote_code: bool = False,
    ) -> Scorer:
        """From head folders, with what they record of golden texts and drift references.

        No folder may allow that a model's own code runs: ``trust_remote_code`` does.

        Raises:
            SalientError: a folder without a head, or a damaged one; and as the class.
        """
        heads = [Head.load(folder) for folder in folders]
        golden, references = {}, {}
        for head, folder in zip(heads, folders, strict=True):
            if (recorded := read_outputs(folder)) is not None:
                golden[head.card.task] = recorded
            if (folder / REFERENCE_FILE).is_file():
                references[head.card.task] = Reference.read(folder, head)
        return cls(
            heads,
            model=model,
            device=device,
            backbone=backbone,
            trust_remote_code=trust_remote_code,
            golden=golden,
            references=references,
        )

    def _check_extractions(self) -> None:
        """All heads read what this backbone gives; an older version may have trained some."""
        recorded = _recorded(self.heads)
        found = {one: self._compared(one) for one in recorded}
        if None not in found.values():
            return
        if len(recorded) > 1:
            raise _different(self.heads)
        here = self.extractor.fingerprint(normalisation=self.normalise)
        raise ScoreInputError(
            f"{self.extractor.backbone.source}: not the backbone these heads were trained on"
            f" (extraction fingerprint {here[:12]}, expected {recorded[0][:12]}); give the same"
            " model files and revision, or train the heads again"
        )

    def _compared(self, recorded: str) -> str | None:
        return self.extractor.compared(recorded, normalisation=self.normalise)

    # ------------------------------------------------------------------ scoring

    def score(self, tables: Iterable[pa.Table]) -> Iterator[Scored]:
        """Score tables of rows; columns as in :meth:`score_table`.

        The iterable is consumed by another thread, up to three tables ahead of the caller; what it
        raises is raised here once the results before it have been handed out. A table's results
        depend on its own texts only, so that doing it again gives the same bits.
        """
        return (scored for _, scored in self.score_along((None, table) for table in tables))

    def score_along(
        self, works: Iterable[tuple[Carried, pa.Table]]
    ) -> Iterator[tuple[Carried, Scored]]:
        """Score tables of rows as :meth:`score` does; each comes back with what went in with it."""

        def prepare(work: tuple[Carried, pa.Table]) -> tuple[Carried, _Batch]:
            return work[0], self._prepare(work[1])

        def compute(work: tuple[Carried, _Batch]) -> tuple[Carried, _Batch, Pooled]:
            return *work, self._run(work[1].encoded)

        prepared = ahead(works, prepare)
        cores = self.extractor.cores  # whatever the caller's thread would use
        for carried, batch, pooled in ahead(prepared, compute, count=AHEAD, cores_each=cores):
            yield carried, self._finish(batch, pooled)

    def score_table(self, table: pa.Table) -> Scored:
        """Score one table of rows.

        Args:
            table: id, text (normalised), text_hash, created_at (int64 seconds or null),
                source_file.

        Returns:
            With ``id``, ``created_at`` (UTC), ``source_file``, ``text_hash``, ``n_tokens``,
            ``truncated``, then per task its prediction ``TASK`` (class name, list of label names or
            float64) and, for classes and labels, a probability ``TASK_p_CLASS`` float32 each. Null
            predictions where the text is empty.
        """
        batch = self._prepare(table)
        return self._finish(batch, self._run(batch.encoded))

    def activations(self, texts: Sequence[str]) -> dict[Source, Array]:
        """Source of the model -> ``(n, k)`` float32 of ``features``, rounded as stored."""
        return self._sources(self._run(self.extractor.encode(texts)))

    def outputs(self, texts: Sequence[str]) -> dict[str, Array]:
        """Task -> outputs of its head ``(n, outputs)`` for normalised texts."""
        found, beside = self.activations(texts), self._beside(texts)
        return {head.card.task: head.outputs(self._own(found, beside, head)) for head in self.heads}

    # Inherited; named here because the pages of the API list what a class itself has.
    tasks, classes = Predicting.tasks, Predicting.classes
    predict, predict_proba = Predicting.predict, Predicting.predict_proba
    predict_frame, predict_frames = Predicting.predict_frame, Predicting.predict_frames

    def _of_site(self, site: str) -> dict[int, Array]:
        """Layer -> the features that are read of it."""
        return {s.layer: own for s, own in self.features.items() if s.site == site}

    def _prepare(self, table: pa.Table) -> _Batch:
        encoding = pc.fill_null(table["text"], "").combine_chunks().dictionary_encode()
        texts = encoding.dictionary.to_pylist()
        rows = encoding.indices.to_numpy()
        first = np.unique(rows, return_index=True)[1]
        blank = np.array([not text.strip() for text in texts], bool)
        encoded = self.extractor.encode(texts)
        return _Batch(table, rows, first, blank, encoded, self._beside(texts))

    def _beside(self, texts: Sequence[str]) -> dict[str, dict[Source, Array]]:
        """Task -> what its head reads of the texts themselves; each head has its own n-grams."""
        return {head.card.task: text_activations(head, texts) for head in self.heads}

    def _run(self, encoded: Encoded) -> Pooled:
        return self.extractor.compute(encoded, dtype=STORED[self.stored])

    def _sources(self, pooled: Pooled) -> dict[Source, Array]:
        found = {}
        for source, values in zip(self.extractor.sources, pooled.rows, strict=True):
            rows, features = values.float().numpy(), self.features[source]
            # Of neurons nothing else was pooled; hidden states and routers are small.
            found[source] = rows if rows.shape[1] == len(features) else rows[:, features]
        return found

    def _own(
        self,
        found: Mapping[Source, Array],
        beside: Mapping[str, Mapping[Source, Array]],
        head: Head,
    ) -> dict[Source, Array]:
        """A head's own features out of those of all, and what it reads of the texts themselves."""
        own = dict(beside[head.card.task])
        for source, index in self._columns[head.card.task].items():
            rows = found[source]
            own[source] = rows if len(index) == rows.shape[1] else rows[:, index]
        return own

    def _finish(self, batch: _Batch, pooled: Pooled) -> Scored:
        """Heads and drift counts of the different texts, spread over the rows."""
        found, rows = self._sources(pooled), batch.rows
        table, blank = batch.table, batch.blank[rows]
        created = table["created_at"].cast(pa.timestamp("s", tz="UTC"))
        columns: dict[str, Any] = {
            "id": table["id"],
            "created_at": created,
            "source_file": table["source_file"],
            "text_hash": table["text_hash"],
            "n_tokens": pa.array(pooled.n_tokens[rows], pa.int32()),
            "truncated": pa.array(pooled.truncated[rows]),
        }
        counted = self._texts_by_date(batch, created) if self.references else {}
        drift: dict[str, dict[str, DriftCounts]] = {date: {} for date in counted}
        for head in self.heads:
            card, own = head.card, self._own(found, batch.beside, head)
            outputs = head.outputs(own)
            if card.type == "regression":
                columns[card.task] = pa.array(outputs[rows, 0].astype(np.float64), mask=blank)
            else:
                probability = head.probabilities(outputs)
                columns[card.task] = _named(head, probability).take(pa.array(rows, mask=blank))
                for name, values in zip(head_columns(head).values(), probability.T, strict=True):
                    columns[name] = pa.array(values.astype(np.float32)[rows], mask=blank)
            if (reference := self.references.get(card.task)) is not None:
                for date, texts in counted.items():
                    some = {source: values[texts] for source, values in own.items()}
                    drift[date][card.task] = reference.count(head, some, outputs[texts])
        return Scored(pa.table(columns), Drift(drift))

    def _texts_by_date(self, batch: _Batch, created: pa.ChunkedArray) -> dict[str, Array]:
        """Date -> numbers of its different texts that are not blank."""
        dates = pc.fill_null(pc.strftime(created, format="%Y-%m-%d"), "unknown")
        encoding = dates.combine_chunks().dictionary_encode()
        day, found = encoding.indices.to_numpy(), {}
        for number, date in enumerate(encoding.dictionary.to_pylist()):
            texts = np.unique(batch.rows[day == number])
            texts = texts[~batch.blank[texts]]
            if len(texts):
                found[date] = texts
        return found

    def write_drift(
        self, folder: Path, name: str, drift: Drift, *, threshold: float = THRESHOLD
    ) -> dict[str, Any]:
        """Report counts as ``folder/NAME.json`` and a plot; see :mod:`pipeline.scoring.alerts`."""
        sizes = {site: self.extractor.width(site) for site in self.extractor.by_site}
        watched = {
            head.card.task: Watched(head, self.references[head.card.task], sizes)
            for head in self.heads
            if head.card.task in self.references
        }
        return write_drift(folder, name, watched, drift, threshold=threshold)

    # ------------------------------------------------------------------ checks

    def _check_golden(self, golden: Mapping[str, Golden]) -> float | None:
        """Compare with what was recorded for the golden texts: what heads read, and put out.

        Raises:
            ScoreError: the difference is beyond rounding.
        """
        worst = None
        types = {"dtype": self.dtype, "stored": self.stored}
        for head in self.heads:
            recorded = golden.get(head.card.task)
            if recorded is None:
                continue
            texts = recorded.texts
            _check_record(recorded, head)
            own = self._own(self.activations(texts), self._beside(texts), head)
            read = {
                source: own[source][:, np.searchsorted(head.features[source], features)]
                for source, features in recorded.features.items()
            }
            outputs = head.outputs(own)
            allowed = output_rounding(head, own, **types)
            allowed = allowed + SUMS * np.maximum(np.abs(recorded.outputs), 1)
            apart = np.abs(outputs - recorded.outputs) / allowed
            difference = recorded.difference(outputs)
            for what, times in (
                ("what it reads of", departure(recorded.activations, read, **types)),
                ("its outputs for", float(apart.max())),
            ):
                if not times <= 1:
                    raise ScoreError(
                        f"head {head.card.task!r}: {what} the golden texts recorded with it differs"
                        f" by {times:.1f} times what rounding explains (outputs by"
                        f" {difference:.1e} of their range): the model, tokenizer, precision or"
                        " library versions have changed since it was trained; use those of its"
                        " run, or train it again"
                    )
            worst = max(worst or 0.0, difference)
        return worst

    def check_parity(self, store: ActivationStore, num_samples: int) -> float | None:
        """Compute some stored samples again.

        Returns:
            The largest difference, relative to the largest stored value of the source; None if
            there was nothing to compare: no samples, no texts kept, another extraction's store,
            nothing in it that the heads read.

        Raises:
            ScoreError: the difference is beyond rounding.
        """
        samples = store.samples()
        other = self._compared(store.schema.fingerprint) is None
        shared = set(self.extractor.sources) & set(stored_sources(store.schema))
        if other or not shared or not num_samples or not len(samples):
            return None
        if samples["text"].null_count:
            return None
        picks = np.unique(np.linspace(0, len(samples) - 1, num_samples).astype(np.int64))
        chosen = samples.take(pa.array(picks))
        found = self.activations(chosen["text"].to_pylist())
        positions = chosen["position"].to_numpy()
        worst, recorded = 0.0, {}
        for source in shared:
            recorded[source] = stored = store.read_features(
                source.site,
                layer=source.layer,
                features=self.features[source],
                samples=positions,
            )
            scale = max(float(np.abs(stored).max()), 1e-6)
            worst = max(worst, float(np.abs(found[source] - stored).max()) / scale)
        times = departure(recorded, found, dtype=self.dtype, stored=store.schema.dtype)
        if not times <= 1:
            raise ScoreError(
                f"recomputed activations differ from the stored ones by {times:.1f} times what"
                f" rounding explains (at most {worst:.1e} of their range): the model,"
                " tokenizer, precision or library versions have changed since"
                " extraction; use those of the run, or extract and train again"
            )
        return worst


def _check_record(recorded: Golden, head: Head) -> None:
    """A record of golden texts is this head's: of its outputs, and of features that it reads."""
    other = next(
        (
            source.label
            for source, features in recorded.features.items()
            if not np.isin(features, head.features.get(source, features[:0])).all()
        ),
        None if recorded.outputs.shape[1] == head.num_outputs else "the outputs",
    )
    if other is not None:
        raise ScoreError(
            f"{head.place}: the golden texts' record is another head's (of {other}); copy the head"
            " again, or run `salient consolidate` again"
        )


def _check_features(head: Head, read: Mapping[Source, Array], backbone: Backbone) -> None:
    """The backbone has what is read of it; a head of these may come from anybody."""
    for source, features in read.items():
        size = backbone.width(source.site) * len(head.card.poolings)
        if source.layer not in backbone.site_layers(source.site) or features[-1] >= size:
            raise ScoreInputError(
                f"{head.place}: feature {features[-1]} of {source.label} is read, and"
                f" {backbone.source} has {size} there in {backbone.num_layers} blocks; give the"
                " model that it was trained on"
            )


def _cut(backbone: Backbone, features: Mapping[Source, Array], last: int | None) -> Backbone:
    """Down to its last block, and in that to the neurons that are read, if it ends with them.

    Where a hidden state is the last thing read, its block is entered and not run; the block before
    it is whole.
    """
    if last is None:
        return backbone
    read = features.get(ffn(last))
    neurons = None if read is None else np.unique(read % backbone.neuron_size).tolist()
    return backbone.truncate(last, neurons=neurons)


def _recorded(heads: Sequence[Head]) -> list[str]:
    """The extractions that heads were trained on."""
    return list(dict.fromkeys(head.card.extraction_fingerprint for head in heads))


def _described(head: Head) -> tuple[object, ...]:
    """What a head's extraction gives, as far as its card tells without the model."""
    card, made = head.card, head.card.extraction.get("extraction", {})
    sizes = [made.get(name) for name in ("model_type", "neuron_size", "hidden_size")]
    return card.num_layers, card.stored_dtype, *sizes


def _different(heads: Sequence[Head]) -> ScoreInputError:
    return ScoreInputError(
        "these heads were trained on activations of different extractions; score them in separate"
        f" runs: {', '.join(head.card.task for head in heads)}"
    )


def heads_fingerprint(heads: Sequence[Head]) -> str:
    """Digest of what determines the scores of these heads together; 16 hex digits."""
    together = " ".join(sorted(head.fingerprint for head in heads))
    return hashlib.sha256(together.encode()).hexdigest()[:16]


def _named(head: Head, probability: Array) -> pa.Array:
    """Decided class names ``(n,)``, or lists of label names, of probabilities ``(n, classes)``."""
    names, decided = pa.array(head.card.classes, pa.string()), head.decide(probability)
    if not head.multilabel:
        return names.take(pa.array(decided))
    ends = np.concatenate([[0], np.cumsum(decided.sum(axis=1))]).astype(np.int32)
    return pa.ListArray.from_arrays(ends, names.take(pa.array(np.nonzero(decided)[1])))
