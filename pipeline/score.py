"""Batch scoring: texts or tweet dumps in, partitioned Parquet out, one forward pass for all tasks.

The backbone is loaded up to the deepest block that any head needs. Before the first row is scored,
a few stored samples are computed again and compared with the store, so that another model
revision, tokenizer or precision cannot go unnoticed.

Every tweet id gets exactly one row: rows are published by renaming finished files, and ids that the
output already holds are left out, so that a rerun after a kill adds only what is missing. One run
writes to an output folder at a time; a second one waits.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.backbone import Backbone
from pipeline.config import SCORE_COLUMNS
from pipeline.errors import ScoreError
from pipeline.extract import Extractor
from pipeline.heads import Head
from pipeline.locking import one_at_a_time
from pipeline.metrics import predictions, probabilities
from pipeline.runfolder import SCORE_CARD
from store import ActivationStore
from store.tables import read_json, table_digest, write_json, write_table

Array = NDArray[Any]
PARITY_TOLERANCE = {"float32": 2e-3, "bfloat16": 4e-2}
"""Largest accepted difference to stored activations, relative to a layer's largest value."""


@dataclass
class ScoreReport:
    """What became of the rows: read = scored + already_scored + repeated_ids + quarantined."""

    read: int = 0
    scored: int = 0
    already_scored: int = 0
    repeated_ids: int = 0
    """Rows whose id came earlier in the same input; the first one counts."""
    empty: int = 0
    """Rows without text: scored with null predictions."""
    truncated: int = 0
    """Texts cut to the backbone's context."""
    quarantined: int = 0
    """Unreadable rows, and rows whose id came before with another text."""
    other: dict[str, int] = field(default_factory=dict)
    """Records that are no tweets (deletion notices …), by kind."""
    files: int = 0
    """Parquet files written."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return dict(vars(self))

    def summary(self) -> str:
        """One line."""
        parts = [f"{self.read} rows read", f"{self.scored} scored in {self.files} files"]
        for count, what in (
            (self.already_scored, "scored before"),
            (self.repeated_ids, "repeating an earlier id"),
            (self.empty, "without text (null predictions)"),
            (self.truncated, "cut to the context"),
            (self.quarantined, "unusable, see quarantine/"),
            *((count, kind) for kind, count in self.other.items()),
        ):
            if count:
                parts.append(f"{count} {what}")
        return ", ".join(parts)


@dataclass(frozen=True)
class InputBlock:
    """Rows to score (id, text, text_hash, created_at, source_file, line), and unreadable ones."""

    rows: pa.Table
    bad: pa.Table | None = None
    other: Mapping[str, int] = field(default_factory=dict)


class Scorer:
    """Heads over one truncated backbone.

    Args:
        heads: of any tasks, trained on the same kind of extraction.
        model: the backbone's location, if it is not where the heads were trained.
        device: torch device.

    Raises:
        ScoreError: heads of different extractions, or a model that is not the one they know.
    """

    def __init__(
        self, heads: Sequence[Head], *, model: str | None = None, device: str = "auto"
    ) -> None:
        if not heads:
            raise ScoreError("no heads to score with; run `salient consolidate` first")
        fingerprints = {head.card.extraction_fingerprint for head in heads}
        if len(fingerprints) > 1:
            raise ScoreError(
                "these heads were trained on activations of different extractions; score them in"
                f" separate runs: {', '.join(head.card.task for head in heads)}"
            )
        names = [head.card.task for head in heads]
        if len(set(names)) != len(names):
            raise ScoreError(f"two heads for one task among {names}; give one head per task")
        self.heads = tuple(heads)
        card = heads[0].card
        settings = card.extraction["backbone"]
        self.normalise: dict[str, bool] = card.extraction["normalise"]
        self.depth = max(head.card.depth for head in heads)
        self.layers = sorted({edges.layer for head in heads for edges in head.layers})
        self.dtype: str = settings["dtype"]
        self.stored = np.dtype(card.stored_dtype)
        backbone = Backbone.load(
            model or settings["model"],
            revision=settings["revision"] if model is None else None,
            dtype=settings["dtype"],
            device=device,
            ffn_site=settings["ffn_site"],
            max_length=settings["max_length"],
            last_layer=self.depth,
            trust_remote_code=settings["trust_remote_code"],
        )
        self.extractor = Extractor(
            backbone,
            poolings=card.poolings,
            special_tokens=settings["special_tokens"],
            layers=self.layers,
            hidden="none",
        )
        found = self.extractor.fingerprint(normalisation=self.normalise)
        if found != card.extraction_fingerprint:
            raise ScoreError(
                f"{backbone.source}: not the backbone these heads were trained on (extraction"
                f" fingerprint {found[:12]}, expected {card.extraction_fingerprint[:12]}); give the"
                " same model files and revision, or train the heads again"
            )
        self.columns = list(SCORE_COLUMNS)
        for head in heads:
            self.columns += [head.card.task, *head_columns(head).values()]
        if twice := [name for name in self.columns if self.columns.count(name) > 1]:
            raise ScoreError(
                f"two columns of the scores would be called {twice[0]!r}; rename the task or class"
            )
        together = " ".join(sorted(head.fingerprint for head in heads))
        self.fingerprint = hashlib.sha256(together.encode()).hexdigest()[:16]

    def activations(self, texts: Sequence[str]) -> tuple[dict[int, Array], Array, Array]:
        """Layer -> ``(n, features)`` float32, rounded as in the store; tokens; truncated."""
        found = self.extractor(texts)
        layers = {
            layer: found.ffn[i].reshape(-1, len(texts)).T.astype(self.stored).astype(np.float32)
            for i, layer in enumerate(self.extractor.layers)
        }
        return layers, found.n_tokens, found.truncated

    def outputs(self, texts: Sequence[str]) -> tuple[dict[str, Array], Array, Array]:
        """Task -> outputs ``(n, outputs)``; tokens ``(n,)``; truncated ``(n,)``."""
        layers, n_tokens, truncated = self.activations(texts)
        return (
            {head.card.task: head.outputs_full(layers) for head in self.heads},
            n_tokens,
            truncated,
        )

    def check_parity(self, store: ActivationStore, num_samples: int) -> float | None:
        """Compute some stored samples again.

        Returns:
            The largest difference, relative to the largest stored value of the layer; None if there
            was nothing to compare: no samples, no texts kept, or another extraction's store.

        Raises:
            ScoreError: the difference is beyond rounding.
        """
        samples = store.samples()
        other = store.schema.fingerprint != self.heads[0].card.extraction_fingerprint
        if other or not num_samples or not len(samples) or samples["text"].null_count:
            return None
        picks = np.unique(np.linspace(0, len(samples) - 1, num_samples).astype(np.int64))
        chosen = samples.take(pa.array(picks))
        layers, _, _ = self.activations(chosen["text"].to_pylist())
        worst = 0.0
        for layer, values in layers.items():
            stored = store.read_matrix("ffn", layer=layer, samples=chosen["position"].to_numpy())
            scale = max(float(np.abs(stored).max()), 1e-6)
            worst = max(worst, float(np.abs(values - stored).max()) / scale)
        if not worst <= PARITY_TOLERANCE[self.dtype]:
            raise ScoreError(
                f"recomputed activations differ from the stored ones by {worst:.1e} of their range:"
                " the model, tokenizer, precision or library versions have changed since"
                " extraction; use those of the run, or extract and train again"
            )
        return worst


def head_columns(head: Head) -> dict[str, str]:
    """Class name -> column of its probability."""
    return {name: f"{head.card.task}_p_{name}" for name in head.card.classes}


def result_table(scorer: Scorer, rows: pa.Table) -> pa.Table:
    """Predictions for rows.

    Args:
        scorer: the heads.
        rows: id, text (normalised), text_hash, created_at (int64 seconds or null), source_file.

    Returns:
        ``id``, ``created_at`` (UTC), ``source_file``, ``text_hash``, ``n_tokens``, ``truncated``,
        then per task its prediction ``TASK`` (class name or float64) and, for classes, a
        probability ``TASK_p_CLASS`` float32 each. Null predictions where the text is empty.
    """
    texts = [text or "" for text in rows["text"].to_pylist()]
    outputs, n_tokens, truncated = scorer.outputs(texts)
    blank = np.array([not text.strip() for text in texts])
    columns: dict[str, Any] = {
        "id": rows["id"],
        "created_at": rows["created_at"].cast(pa.timestamp("s", tz="UTC")),
        "source_file": rows["source_file"],
        "text_hash": rows["text_hash"],
        "n_tokens": pa.array(n_tokens, pa.int32()),
        "truncated": pa.array(truncated),
    }
    for head in scorer.heads:
        card, values = head.card, outputs[head.card.task]
        if card.type == "regression":
            columns[card.task] = pa.array(predictions(values, regression=True), mask=blank)
            continue
        index = pa.array(predictions(values, regression=False), mask=blank)
        columns[card.task] = pa.array(card.classes, pa.string()).take(index)
        names = head_columns(head).values()
        for name, column in zip(names, probabilities(values).T, strict=True):
            columns[name] = pa.array(column.astype(np.float32), mask=blank)
    return pa.table(columns)


def score_blocks(
    blocks: Iterable[InputBlock],
    scorer: Scorer,
    output: Path,
    *,
    max_errors: float = 0.05,
    say: Callable[[str], None] = lambda _: None,
) -> ScoreReport:
    """Score blocks into ``output/date=YYYY-MM-DD/*.parquet``.

    Args:
        blocks: the input, in order.
        scorer: the heads.
        output: folder of this set of heads' scores.
        max_errors: share of unreadable rows above which the run fails, after writing what it could.
        say: called with a line of progress after each block.

    Raises:
        ScoreError: the folder holds scores of other heads, or too many rows were quarantined.
    """
    _check_folder(output)
    with one_at_a_time(output, say):
        _claim(output, scorer)
        known = _known_ids(output)
        seen: dict[str, str] = {}
        report = ScoreReport()
        for block in blocks:
            report.read += len(block.rows)
            for kind, count in block.other.items():
                report.other[kind] = report.other.get(kind, 0) + count
            if block.bad is not None and len(block.bad):
                report.read += len(block.bad)
                report.quarantined += len(block.bad)
                _write_part(output / "quarantine", block.bad)
            rows, clashing = _fresh(block.rows, known, seen, report)
            if len(clashing):
                _write_part(output / "quarantine", clashing)
            if len(rows):
                table = result_table(scorer, rows)
                report.empty += sum(not (text or "").strip() for text in rows["text"].to_pylist())
                report.truncated += int(pc.sum(table["truncated"]).as_py() or 0)
                report.files += sum(1 for _ in _write_partitions(output, table))
                report.scored += len(rows)
            say(f"{report.read} rows read, {report.scored} scored")
    if report.quarantined > max_errors * max(report.read, 1):
        raise ScoreError(
            f"{report.quarantined} of {report.read} rows could not be scored, more than the allowed"
            f" share {max_errors:g} (score.max_errors); {output / 'quarantine'} says why; the"
            f" {report.scored} others were scored"
        )
    return report


def _claim(output: Path, scorer: Scorer) -> None:
    """Say whose scores the folder holds, or check it."""
    card = output / SCORE_CARD
    if card.is_file():
        found = read_json(card).get("fingerprint")
        if found != scorer.fingerprint:
            raise ScoreError(
                f"{output}: holds scores of other heads (fingerprint {found}, these are"
                f" {scorer.fingerprint}); write to another folder"
            )
        return
    write_json(
        card,
        {
            "format_version": 1,
            "fingerprint": scorer.fingerprint,
            "extraction_fingerprint": scorer.heads[0].card.extraction_fingerprint,
            "tasks": {
                head.card.task: {
                    "kind": head.card.kind,
                    "depth": head.card.depth,
                    "num_features": head.card.num_features,
                    "classes": head.card.classes,
                }
                for head in scorer.heads
            },
        },
    )


def _check_folder(output: Path) -> None:
    """Refuse folders that are something else, or that cannot be written."""
    for name in ("zarr.json", "run.json", "head.json"):
        if (output / name).exists():
            raise ScoreError(f"{output}: holds {name}: no folder for scores; choose another")
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise ScoreError(
            f"{output}: cannot be written ({error.strerror}); choose another folder"
        ) from None


def _known_ids(output: Path) -> dict[str, str]:
    """Id -> text hash of all rows in finished files."""
    known: dict[str, str] = {}
    for path in output.glob("date=*/*.parquet"):
        try:
            table = pq.read_table(path, columns=["id", "text_hash"], partitioning=None)
        except (pa.ArrowException, OSError) as error:
            raise ScoreError(
                f"{path}: damaged ({error}); move it away and score again: its rows come back"
            ) from None
        known.update(zip(table["id"].to_pylist(), table["text_hash"].to_pylist(), strict=True))
    return known


def _fresh(
    rows: pa.Table, known: Mapping[str, str], seen: dict[str, str], report: ScoreReport
) -> tuple[pa.Table, pa.Table]:
    """The rows whose id is new, and those whose id came before with another text; counts."""
    keep, clash = [], []
    for identifier, text in zip(rows["id"].to_pylist(), rows["text_hash"].to_pylist(), strict=True):
        earlier = seen.get(identifier, known.get(identifier))
        keep.append(earlier is None)
        clash.append(earlier is not None and earlier != text)
        if clash[-1]:
            report.quarantined += 1
        elif identifier in seen:
            report.repeated_ids += 1
        elif identifier in known:
            report.already_scored += 1
        seen.setdefault(identifier, earlier or text)
    clashing = rows.filter(pa.array(clash, pa.bool_()))
    bad = pa.table(
        {
            "source_file": clashing["source_file"],
            "line": clashing["line"],
            "reason": [
                f"id {one!r}: scored before with another text" for one in clashing["id"].to_pylist()
            ],
            "excerpt": pc.utf8_slice_codeunits(clashing["text"], 0, 200),
        }
    )
    return rows.filter(pa.array(keep, pa.bool_())), bad


def _write_partitions(output: Path, table: pa.Table) -> Iterator[Path]:
    """One file per date; yields its path once it is published."""
    dates = pc.fill_null(pc.strftime(table["created_at"], format="%Y-%m-%d"), "unknown")
    for date in sorted(pc.unique(dates).to_pylist()):
        part = table.filter(pc.equal(dates, date))
        yield _write_part(output / f"date={date}", part)


def _write_part(folder: Path, table: pa.Table) -> Path:
    """Write a Parquet file named by its content; the same rows give the same file."""
    path = folder / f"part-{table_digest(table)[:20]}.parquet"
    write_table(path, table)
    return path
