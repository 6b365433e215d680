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

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.explorer.choices import groups_of
from pipeline.explorer.decisions import Decision, decide
from pipeline.explorer.places import Neuron, feature_of, neuron_at
from pipeline.heads import Head
from pipeline.neurons import Rank, RankTables
from pipeline.probes import load_probe
from pipeline.report import Voice, voice_of
from pipeline.runfolder import RunFolder, read_card
from pipeline.texts import StoredTexts
from store import ActivationStore
from store.errors import SalientError
from store.layout import Source, ffn, stored_sources

Array = NDArray[Any]
NUM_BINS = 40


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
        run: the run's folder, if there is one.
    """

    def __init__(self, store: ActivationStore, run: RunFolder | None = None) -> None:
        self.store = store
        self.texts = StoredTexts(store)
        self.heads: dict[str, Head] = {}
        self.notes: list[str] = []
        self.ranking = RankTables({}, {})
        self.run = run
        self._probes: dict[tuple[str, int], Array | None] = {}
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
        return feature_of(self.store.schema, neuron)

    def name(self, layer: int, feature: int) -> Neuron:
        """The neuron of a feature index ``pooling * neurons + neuron``."""
        return neuron_at(self.store.schema, layer, feature)

    def values(self, neuron: Neuron) -> Array:
        """``(samples,)`` float32 by position; NaN where deleted."""
        feature = self.check(neuron)
        return np.asarray(self.store.read_features(layer=neuron.layer, features=[feature])[:, 0])

    def in_each_pooling(self, neuron: Neuron) -> dict[str, Array]:
        """Pooling -> ``(samples,)`` float32 of a neuron's values, whatever its own; one read."""
        poolings = self.store.schema.poolings
        features = [self.check(replace(neuron, pooling=name)) for name in poolings]
        values = self.store.read_features(layer=neuron.layer, features=features)
        return {name: values[:, i] for i, name in enumerate(poolings)}

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
            groups = [(name, chosen & mask) for name, mask in groups_of(self.texts, task or "")]
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

    def voices(self, neuron: Neuron) -> list[Voice]:
        """What the neuron says in every task that the run has a probe of its layer for."""
        feature = self.check(neuron)
        found = []
        for task in self.ranking.tasks:
            weights = self._probe_weights(task, neuron.layer)
            kind, classes = self._outputs(task)
            if weights is None:
                continue
            voice = voice_of(weights[:, feature], kind, classes, task=task)
            if voice is not None:
                found.append(voice)
        return found

    def _probe_weights(self, task: str, layer: int) -> Array | None:
        """``(outputs, features)`` float32 of the run's probe on a layer; None if there is none."""
        if self.run is None:
            return None
        if (task, layer) not in self._probes:
            try:
                probe = load_probe(self.run, task, Source("ffn", layer), self.store.schema)
                self._probes[task, layer] = probe.weights
            except SalientError:  # an older run, or one that was moved without its probes
                self._probes[task, layer] = None
        return self._probes[task, layer]

    def _outputs(self, task: str) -> tuple[str, tuple[str, ...]]:
        """Type of a task, and its classes or labels."""
        if (head := self.heads.get(task)) is not None:
            return head.card.type, tuple(head.card.classes)
        spec = self.store.label_spec(task) if task in self.store.tasks() else {}
        classes = tuple(map(str, spec.get("classes") or ()))
        kind = str(spec.get("type") or ("classification" if classes else "regression"))
        return kind, classes

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
        """What every head says of one text, and its largest reasons; of label sets one decision
        for each label that is given.

        Args:
            vectors: source -> ``(features,)`` activations of the text, as stored.
            text: itself, which heads with n-grams read.
        """
        for head in self.heads.values():
            yield from decide(head, vectors, self.store.schema, text)


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
