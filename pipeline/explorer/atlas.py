"""Questions about neurons, answered from a store and, where there is one, a finished run.

    atlas = Atlas.open("runs/demo/activations", run="runs/demo/run")
    neuron = Neuron(layer=3, pooling="max", neuron=417)
    values = atlas.values(neuron)                   # (samples,) float32, one read a shard
    atlas.distribution(values, "sentiment")         # histogram per class
    atlas.top(values, 10)                           # samples that excite it most
    atlas.ranks(neuron)                             # its place in each task
    atlas.decisions(atlas.sample(17))               # what each head says of a text, and why

Nothing here draws or serves a page; :mod:`pipeline.explorer.server` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError, HeadError
from pipeline.heads import Head, contributions, text_activations
from pipeline.neurons import Rank, RankTables
from pipeline.runfolder import RunFolder, read_card
from pipeline.texts import StoredTexts
from store import ActivationStore
from store.errors import SalientError
from store.layout import NGRAMS, Source, ffn, stored_sources

Array = NDArray[Any]
NUM_BINS = 40
NUM_REASONS = 12
"""Contributions that are shown of a decision; the rest is summed up."""


@dataclass(frozen=True)
class Neuron:
    """One neuron of one layer, in one pooling."""

    layer: int
    pooling: str
    neuron: int


@dataclass(frozen=True)
class Distribution:
    """How a neuron's activations are distributed over the labelled samples.

    Attributes:
        edges: ``(bins + 1,)`` of the histogram.
        names: a class each, with the number of its samples.
        shares: ``(classes, bins)`` share of the class's samples in each bin.
        means: ``(classes,)`` mean activation.
        correlation: Pearson's with the value, for regression; else None.
    """

    edges: Array
    names: tuple[tuple[str, int], ...]
    shares: Array
    means: Array
    correlation: float | None


@dataclass(frozen=True)
class Strong:
    """A neuron that is unusually active on a text; ``z`` in standard deviations of the store."""

    neuron: Neuron
    value: float
    z: float


@dataclass(frozen=True)
class Reason:
    """A feature's part in a decision: ``weight`` times ``standardised``, in logits.

    ``neuron`` is None where ``name`` is that of a hidden state's unit or of an n-gram.
    """

    name: str
    neuron: Neuron | None
    contribution: float
    standardised: float


@dataclass(frozen=True)
class Decision:
    """What one head says of one text.

    Attributes:
        task: the task's name.
        outcome: class name, or the value.
        probabilities: class -> probability; empty for regression.
        reasons: the largest contributions to the outcome, by size.
        rest: the sum of all other contributions.
    """

    task: str
    outcome: str
    probabilities: Mapping[str, float]
    reasons: tuple[Reason, ...]
    rest: float


@dataclass(frozen=True)
class Correlated:
    """Another neuron whose activations go with this one's."""

    neuron: Neuron
    correlation: float


class Atlas:
    """Queries over one store; see the module.

    Attributes:
        store: the store.
        texts: of its samples, with their labels.
        heads: task -> chosen head, of the run.
        notes: what is not available, and why.
    """

    def __init__(self, store: ActivationStore, run: RunFolder | None = None) -> None:
        self.store = store
        self.texts = StoredTexts(store)
        self.heads: dict[str, Head] = {}
        self.notes: list[str] = []
        self.ranking = RankTables({}, {})
        if run is not None:
            self._read_run(run)

    @classmethod
    def open(cls, store: str | Path, *, run: str | Path | None = None) -> Atlas:
        """Open a store, and the run whose heads and importance tables go with it.

        Raises:
            SalientError: no store or run there.
            ConfigError: a store without FFN activations.
        """
        folder = None
        if run is not None:
            folder = RunFolder(Path(run))
            read_card(folder)
        opened = ActivationStore.open(store)
        if "ffn" not in opened.schema.arrays:
            raise ConfigError(f"{store}: holds no FFN activations; extract them first")
        return cls(opened, folder)

    def _read_run(self, folder: RunFolder) -> None:
        schema = self.store.schema
        self.ranking = RankTables.read(folder, schema)
        for path in sorted(folder.path.glob("heads/*/chosen/head.json")):
            try:
                head = Head.load(path.parent)
            except SalientError as error:
                self.notes.append(str(error))
                continue
            if head.card.extraction_fingerprint == schema.fingerprint:
                self.heads[head.card.task] = head
            else:
                self.notes.append(
                    f"{path.parent}: trained on activations of another extraction; left out"
                )

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks with labels, importance or a head."""
        return tuple(dict.fromkeys([*self.store.tasks(), *self.ranking.tasks, *self.heads]))

    # -- one neuron -------------------------------------------------------------------------

    def check(self, neuron: Neuron) -> int:
        """The neuron's feature index in its layer.

        Raises:
            ConfigError: no such layer, pooling or neuron.
        """
        schema = self.store.schema
        layers = schema.array("ffn").layers
        if neuron.layer not in layers:
            raise ConfigError(f"no layer {neuron.layer}; the store has {min(layers)}-{max(layers)}")
        if neuron.pooling not in schema.poolings:
            raise ConfigError(
                f"no pooling {neuron.pooling!r}; the store has {', '.join(schema.poolings)}"
            )
        if not 0 <= neuron.neuron < schema.neuron_size:
            raise ConfigError(f"no neuron {neuron.neuron}; a layer has 0-{schema.neuron_size - 1}")
        return schema.poolings.index(neuron.pooling) * schema.neuron_size + neuron.neuron

    def name(self, layer: int, feature: int) -> Neuron:
        """The neuron of a feature index ``pooling * neurons + neuron``."""
        pooling, neuron = divmod(int(feature), self.store.schema.neuron_size)
        return Neuron(int(layer), self.store.schema.poolings[pooling], neuron)

    def values(self, neuron: Neuron) -> Array:
        """``(samples,)`` float32 by position; NaN where deleted."""
        feature = self.check(neuron)
        return np.asarray(self.store.read_features(layer=neuron.layer, features=[feature])[:, 0])

    def peaks(self, neuron: Neuron, positions: Array) -> tuple[Array, Array]:
        """Where and how high a neuron peaks in stored texts, whatever its pooling.

        Args:
            neuron: which.
            positions: ``(k,)`` of the texts.

        Returns:
            ``(k,)`` int64 tokens, counted within the pooled part of the text (-1 without tokens),
            and ``(k,)`` float32 max-pooled activations.

        Raises:
            StoreError: the store has no peaks.
        """
        wanted = {"ffn": self.check(replace(neuron, pooling="max")), "peak": neuron.neuron}
        values, tokens = (
            self.store.read_features(
                array, layer=neuron.layer, features=[feature], samples=positions
            )[:, 0]
            for array, feature in wanted.items()
        )
        return tokens.astype(np.int64), values

    def distribution(self, values: Array, task: str | None = None) -> Distribution | None:
        """Histogram of a neuron's values ``(samples,)``, per class of a task, or of all samples.

        Returns:
            None if no sample counts.
        """
        labels = self.texts.labels(task) if task is not None else None
        alive = np.isfinite(values)
        chosen = alive if labels is None else alive & labels.known
        if not chosen.any():
            return None
        low, high = float(values[chosen].min()), float(values[chosen].max())
        edges = np.linspace(low, high if high > low else low + 1e-6, NUM_BINS + 1)
        correlation = None
        if labels is None or not labels.classes:
            groups = [("all samples" if labels is None else "labelled samples", chosen)]
            if labels is not None:
                correlation = _correlation(values[chosen], labels.values[chosen])
        else:
            groups = [(name, chosen & mask) for name, mask in labels.groups()]
        counts = [np.histogram(values[mask], edges)[0] for _, mask in groups]
        return Distribution(
            edges,
            tuple((name, int(mask.sum())) for name, mask in groups),
            np.array([count / max(count.sum(), 1) for count in counts]),
            np.array([values[m].mean(dtype=np.float64) if m.any() else np.nan for _, m in groups]),
            correlation,
        )

    def top(self, values: Array, count: int, *, lowest: bool = False) -> Array:
        """Positions ``(k,)`` of the highest (or lowest) values, the most extreme first."""
        alive = np.flatnonzero(np.isfinite(values))
        keys = values[alive] if lowest else -values[alive]
        count = min(count, len(alive))
        if not count:
            return alive
        nearest = np.argpartition(keys, count - 1)[:count]
        return np.asarray(alive[nearest[np.argsort(keys[nearest], kind="stable")]])

    def ranks(self, neuron: Neuron) -> list[Rank]:
        """The neuron's place in its layer for every task of the run."""
        feature = self.check(neuron)
        found = []
        for task in self.ranking.tasks:
            rank = self.ranking.rank(task, neuron.layer, feature)
            if (head := self.heads.get(task)) is not None:
                read = head.features.get(ffn(neuron.layer), ())
                rank = replace(rank, salient=bool(np.isin(feature, read)))
            found.append(rank)
        return found

    def most_important(self, task: str, count: int = 20) -> list[tuple[Neuron, float]]:
        """The neurons with the largest share of their layer's squared importance."""
        return [
            (self.name(layer, feature), share)
            for layer, feature, share in self.ranking.first(task, count)
        ]

    def correlated(
        self, neuron: Neuron, *, layer: int | None = None, count: int = 10
    ) -> list[Correlated]:
        """The neurons of one layer whose activations correlate most with this one's.

        One pass over the layer; means and deviations come from the store's manifests.

        Args:
            neuron: the neuron.
            layer: where to look; default its own layer.
            count: how many, by the size of the correlation.
        """
        own = self.check(neuron)
        layer = neuron.layer if layer is None else layer
        n, _, own_m2 = self.store.moments(layer=neuron.layer)
        values = self.values(neuron)
        centred = np.where(np.isfinite(values), values - np.nanmean(values, dtype=np.float64), 0)
        centred = centred.astype(np.float32)
        _, _, m2 = self.store.moments(layer=layer)
        products = np.zeros(len(m2))
        for start, block in self.store.iter_blocks(layer=layer):
            part = centred[start : start + len(block)]
            products += _product(block, part)
        scale = np.sqrt(np.maximum(m2 * own_m2[own], 0.0))
        found = np.divide(products, scale, out=np.zeros_like(products), where=scale > 1e-12 * n)
        if layer == neuron.layer:
            found[own] = 0.0
        order = np.argsort(-np.abs(found), kind="stable")[:count]
        return [Correlated(self.name(layer, f), float(np.clip(found[f], -1, 1))) for f in order]

    # -- one text ---------------------------------------------------------------------------

    def sample(self, position: int) -> dict[Source, Array]:
        """Source -> ``(features,)`` float32 of a stored sample; reads a shard for each."""
        return {
            source: np.asarray(
                self.store.read_matrix(source.site, layer=source.layer, samples=[position])[0]
            )
            for source in stored_sources(self.store.schema)
        }

    def strongest(self, vectors: Mapping[Source, Array], count: int = 15) -> list[Strong]:
        """The neurons most above their mean over the store, in standard deviations.

        Args:
            vectors: source -> ``(features,)`` activations of one text; hidden states do not count.
            count: how many.
        """
        found: list[Strong] = []
        for (site, layer), x in vectors.items():
            if site != "ffn":
                continue
            mean, deviation = self._spread(layer)
            z = np.divide(x - mean, deviation, out=np.zeros(len(x)), where=deviation > 0)
            for feature in np.argsort(-z, kind="stable")[:count]:
                place = self.name(layer, feature)
                found.append(Strong(place, float(x[feature]), float(z[feature])))
        return sorted(found, key=lambda strong: -strong.z)[:count]

    def _spread(self, layer: int) -> tuple[Array, Array]:
        count, mean, m2 = self.store.moments(layer=layer)
        return mean, np.sqrt(np.maximum(m2, 0.0) / max(count, 1))

    def decisions(
        self, vectors: Mapping[Source, Array], text: str | None = None
    ) -> Iterator[Decision]:
        """What every head says of one text, and its largest reasons.

        Args:
            vectors: source -> ``(features,)`` activations of the text, as stored.
            text: itself, which heads with n-grams read.
        """
        for task, head in self.heads.items():
            slices = {s: vectors[s][at] for s, at in head.features.items() if s in vectors}
            if len(slices) < len(head.features):
                if text is None:
                    raise HeadError(f"task {task!r}: its head reads the text, which is not stored")
                beside: Mapping[Source, Any] = text_activations(head, [text])
                slices |= {source: rows.toarray()[0] for source, rows in beside.items()}
            found = contributions(head, slices)
            probabilities: dict[str, float] = {}
            decided: int | None = None
            outcome = f"{found.outputs[0]:.4g}"
            if head.card.classes:
                probability = head.probabilities(found.outputs[None])
                probabilities = dict(zip(head.card.classes, probability[0].tolist(), strict=True))
                if head.multilabel:  # the reasons are those of the most probable label
                    decided, mask = int(probability[0].argmax()), head.decide(probability)[0]
                    outcome = ", ".join(np.array(head.card.classes)[mask]) or "no label"
                else:
                    decided = int(head.decide(probability)[0])
                    outcome = head.card.classes[decided]
            towards = found.towards(decided, alone=head.multilabel)
            sources = list(towards)
            parts = np.concatenate([towards[source] for source in sources])
            scaled = np.concatenate([found.standardised[source] for source in sources])
            features = np.concatenate([head.features[source] for source in sources])
            owner = np.repeat(np.arange(len(sources)), [len(towards[s]) for s in sources])
            order = np.argsort(-np.abs(parts), kind="stable")
            terms = () if head.lexicon is None else head.lexicon.terms
            reasons = tuple(
                self._reason(terms, sources[owner[at]], int(features[at]), parts[at], scaled[at])
                for at in order[:NUM_REASONS].tolist()
            )
            rest = float(parts[order[NUM_REASONS:]].sum())
            yield Decision(task, outcome, probabilities, reasons, rest)

    def _reason(
        self, terms: Sequence[str], source: Source, feature: int, part: float, standardised: float
    ) -> Reason:
        schema = self.store.schema
        if source == NGRAMS:
            return Reason(terms[feature], None, float(part), float(standardised))
        pooling, unit = divmod(feature, schema.array(source.site).width)
        name = f"{source.label}, {schema.poolings[pooling]}, {unit}"
        neuron = self.name(source.layer, feature) if source.site == "ffn" else None
        return Reason(name, neuron, float(part), float(standardised))


def _product(block: Array, part: Array) -> Array:
    """``(features,)`` sums of a block ``(samples, features)`` times one column; NaN counts as 0."""
    rows = np.asarray(block.T, np.float32)
    products = rows @ part
    if not np.isfinite(products).all():
        products = np.nan_to_num(rows) @ part
    return np.asarray(products)


def _correlation(x: Array, y: Array) -> float:
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    return float(np.corrcoef(x.astype(np.float64), y)[0, 1])
