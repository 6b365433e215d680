"""Drift: whether the texts that are scored still look like those a head was validated on.

A head's ``Reference`` holds bins of what it puts out (each class probability, or the value), the
shares of the decided classes, and bins of the most important activations that it reads (not of
n-grams), all from the rows that judged it. Scoring counts texts in the same bins; counts of blocks,
runs and days add up::

    features = important_features(head, MAX_FEATURES)
    reference = Reference.of(head, features, columns, outputs)      # of rows that it was judged on
    counts = reference.count(head, new_activations, new_outputs) + counts
    [found.psi for found in reference.compare(counts)]

The population stability index is ``sum (a - e) ln(a / e)`` over the bins. Without any drift it is
not 0 but on average ``(bins - 1) (1 / n + 1 / m)`` for ``n`` texts against a reference of ``m``
rows, and over that spread distributed as chi-squared (Yurdakul & Naranjo 2020): ``Finding`` says
both what was found and what chance alone does.

Held-out outputs are those of several models, one without each fold, and scoring uses another, of
all rows. A prediction that tells the models apart rather than the texts (of a label that no text
has, or that nothing tells) is spread otherwise there, without any drift: such are not watched; the
decided classes and the activations still are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline.errors import COPY_AGAIN, HeadError
from pipeline.heads.model import Head
from store.layout import Source
from store.tables import check_array, read_arrays

Array = NDArray[Any]
REFERENCE_FILE = "reference.safetensors"
"""In a head's folder: what drift is counted against."""
SITE_NAMES = ("ffn", "hidden", "router", "experts")
"""Sites by their number in a reference."""
NUM_BINS = 10
MAX_FEATURES = 64
SMOOTHING = 0.5
"""Added to every bin's count, so that an empty bin does not make the index infinite."""
MOST_BY_FOLDS = 0.5
"""Share of a prediction's variance that folds explain from which on it is not watched: a mixture of
that many models' differs from one model's by an index of about 0.2, as drift does."""
FALSE_ALARMS = 1e-3
"""How often chance may exceed ``Finding.chance_limit`` in any quantity of a head."""


def psi(expected: Array, actual: Array) -> Array:
    """Population stability index over the last axis.

    Args:
        expected, actual: shares ``(…, bins)``; bins without share on both sides do not count.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = (actual - expected) * np.log(actual / expected)
    return np.asarray(np.where((expected == 0) & (actual == 0), 0.0, terms).sum(-1))


@dataclass(frozen=True)
class DriftCounts:
    """How many texts fell where; adds up.

    Attributes:
        num_texts: texts counted.
        classes: ``(classes,)`` int64, by decided class or label; empty for regression.
        bins: ``(quantities, NUM_BINS)`` int64.
    """

    num_texts: int
    classes: Array
    bins: Array

    def __add__(self, other: DriftCounts) -> DriftCounts:
        return DriftCounts(
            self.num_texts + other.num_texts, self.classes + other.classes, self.bins + other.bins
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "num_texts": self.num_texts,
            "classes": self.classes.tolist(),
            "bins": self.bins.tolist(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DriftCounts:
        """From JSON."""
        bins = np.asarray(data["bins"], np.int64).reshape(-1, NUM_BINS)
        return cls(int(data["num_texts"]), np.asarray(data["classes"], np.int64), bins)


@dataclass(frozen=True)
class Drift:
    """Counts by date and task; adds up over blocks and runs.

    Attributes:
        dates: date as ``YYYY-MM-DD``, or ``unknown`` -> task -> counts.
    """

    dates: Mapping[str, Mapping[str, DriftCounts]] = field(default_factory=dict)

    def __add__(self, other: Drift) -> Drift:
        dates = {date: dict(tasks) for date, tasks in self.dates.items()}
        for date, tasks in other.dates.items():
            sums = dates.setdefault(date, {})
            for task, counts in tasks.items():
                sums[task] = sums[task] + counts if task in sums else counts
        return Drift(dates)

    def total(self, task: str) -> DriftCounts | None:
        """Counts of one task over all dates."""
        found = [tasks[task] for tasks in self.dates.values() if task in tasks]
        return reduce(DriftCounts.__add__, found) if found else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            date: {task: counts.to_dict() for task, counts in tasks.items()}
            for date, tasks in self.dates.items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Drift:
        """From JSON."""
        return cls(
            {
                date: {task: DriftCounts.from_dict(counts) for task, counts in tasks.items()}
                for date, tasks in data.items()
            }
        )


@dataclass(frozen=True)
class Finding:
    """The index of one quantity.

    Attributes:
        psi: as counted.
        by_chance: what it is on average without any drift, for so few texts.
        chance_limit: what chance exceeds in one of 1,000 comparisons of a head.
    """

    psi: float
    by_chance: float
    chance_limit: float

    @property
    def excess(self) -> float:
        """The index less what chance makes of it, not below 0."""
        return max(0.0, self.psi - self.by_chance)

    def drifts(self, threshold: float) -> bool:
        """Whether the excess is over the threshold, and the index beyond what chance does."""
        return self.excess > threshold and self.psi > self.chance_limit

    def can_tell(self, threshold: float) -> bool:
        """Whether a drift of the threshold's size would be told from chance."""
        return self.by_chance + threshold > self.chance_limit


@dataclass(frozen=True)
class Comparison:
    """Findings of a head: predictions (one for each probability, or the value), classes (None for
    regression), and activations, in the order of ``Reference.features``."""

    predictions: tuple[Finding, ...]
    classes: Finding | None
    activations: tuple[Finding, ...]


@dataclass(frozen=True)
class Reference:
    """What a head put out and saw on rows that it was not fitted on, or held out.

    Attributes:
        num_rows: how many there were.
        classes: ``(classes,)`` int64 rows by decided class or label; empty for regression.
        edges: ``(quantities, NUM_BINS - 1)`` float32 upper ends of all bins but the last, deciles
            increasing; infinite beyond a quantity's own where deciles coincide, and all of one that
            is not watched.
        bins: ``(quantities, NUM_BINS)`` int64 rows by bin.
        features: ``(f, 3)`` int64 of the last ``f`` quantities, the most important first: number of
            the site in :data:`SITE_NAMES`, layer and feature index; the quantities before are the
            predictions.
    """

    num_rows: int
    classes: Array
    edges: Array
    bins: Array
    features: Array

    @classmethod
    def of(
        cls,
        head: Head,
        features: Array,
        columns: Sequence[Array],
        outputs: Array,
        folds: Array | None = None,
    ) -> Reference:
        """From rows that the head was not fitted on.

        Args:
            head: the head.
            features: ``(f, 3)`` int64 of :func:`important_features`.
            columns: activations ``(n,)`` of each of them.
            outputs: ``(n, outputs)`` of the head.
            folds: ``(n,)`` fold of each row, where models without it made the outputs.
        """
        values = _quantities(head, columns, outputs)
        levels = np.arange(1, NUM_BINS) / NUM_BINS
        # Deciles that are values of rows: ties fall on one side of them, whatever the rounding.
        deciles = np.quantile(values, levels, axis=0, method="inverted_cdf").T
        edges = np.full(deciles.shape, np.inf, np.float32)
        for row, found in zip(edges, deciles, strict=True):
            distinct = np.unique(found)
            row[: len(distinct)] = distinct
        if folds is not None:
            predictions = values[:, : values.shape[1] - len(columns)]
            edges[: predictions.shape[1]][_tells_folds(predictions, folds)] = np.inf
        return cls(
            len(values), _decided(head, outputs), edges, _count_bins(values, edges), features
        )

    def count(self, head: Head, activations: Mapping[Source, Array], outputs: Array) -> DriftCounts:
        """Count texts.

        Args:
            head: the head.
            activations: source -> ``(n, k)`` of ``head.features[source]``, in order.
            outputs: ``(n, outputs)`` of the head.
        """
        values = _quantities(head, _columns(head, self.places(), activations), outputs)
        return DriftCounts(len(values), _decided(head, outputs), _count_bins(values, self.edges))

    def compare(self, counts: DriftCounts) -> Comparison:
        """Held against counted texts."""
        used = np.arange(NUM_BINS) <= np.isfinite(self.edges).sum(1)[:, None]
        sizes = used.sum(1)
        tests = len(self.bins) + (len(self.classes) > 0)
        found = [
            self._finding(expected, actual, tests)
            for expected, actual in zip(
                (row[:size] for row, size in zip(self.bins, sizes, strict=True)),
                (row[:size] for row, size in zip(counts.bins, sizes, strict=True)),
                strict=True,
            )
        ]
        split = len(found) - len(self.features)
        classes = None
        if len(self.classes):
            classes = self._finding(self.classes, counts.classes, tests)
        return Comparison(tuple(found[:split]), classes, tuple(found[split:]))

    def _finding(self, expected: Array, actual: Array, tests: int) -> Finding:
        """Of counts, which add up to the texts; those of labels to all decided labels."""
        index = float(psi(_shares(expected), _shares(actual)))
        spread = 1 / max(int(actual.sum()), 1) + 1 / max(int(expected.sum()), 1)
        freedom = max(len(expected) - 1, 1)
        limit = float(stats.chi2.isf(FALSE_ALARMS / tests, freedom))
        return Finding(index, freedom * spread, limit * spread)

    def arrays(self) -> dict[str, Array]:
        """As named arrays, each of its attribute's shape, to be stored."""
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Reference:
        """From :meth:`arrays`, of the same shapes; earlier ones had no site, only FFN layers."""
        rest = {field.name: arrays[field.name] for field in fields(cls) if field.name != "num_rows"}
        missing = 3 - rest["features"].shape[1]
        rest["features"] = np.pad(rest["features"], ((0, 0), (missing, 0)))
        return cls(num_rows=int(arrays["num_rows"]), **rest)

    @classmethod
    def read(cls, folder: Path, head: Head) -> Reference:
        """From a head's folder.

        Raises:
            HeadError, StoreError: none there, a damaged one, or another head's.
        """
        path = folder / REFERENCE_FILE
        arrays = read_arrays(path, remedy=COPY_AGAIN)
        try:
            found = cls.from_arrays(arrays)
            found._check(head)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise HeadError(
                f"{path}: is no reference of this head ({error}); {COPY_AGAIN}"
            ) from None
        return found

    def _check(self, head: Head) -> None:
        """Raises KeyError or ValueError where it is not this head's."""
        classes = len(head.card.classes)
        count = max(classes, 1) + len(self.features)
        for name, kind, shape in (
            ("classes", "i", (classes,)),
            ("edges", "f", (count, NUM_BINS - 1)),
            ("bins", "i", (count, NUM_BINS)),
            ("features", "i", (len(self.features), 3)),
        ):
            check_array(name, getattr(self, name), kind, shape)
        if self.num_rows < 0 or min(self.bins.min(initial=0), self.classes.min(initial=0)) < 0:
            raise ValueError("counts below 0")
        if (self.features < 0).any():
            raise ValueError("features below 0")
        for source, feature in self.places():
            if feature not in head.features[source]:
                raise KeyError(f"{source.label}, feature {feature}")

    def places(self) -> list[tuple[Source, int]]:
        """Source and feature index of each of ``features``."""
        return _places(self.features)


def important_features(head: Head, count: int) -> Array:
    """The features of the model with the largest weights on standardised activations.

    Returns:
        ``(f, 3)`` int64 as in :class:`Reference`.
    """
    importance = head_importance(head)
    rows, values = [np.zeros((0, 3), np.int64)], [np.zeros(0)]
    for source, own in importance.items():
        # No more than `count` of one source can be among the best of all.
        few = np.argsort(-own, kind="stable")[:count]
        site = np.full(len(few), SITE_NAMES.index(source.site))
        features = head.features[source]
        rows.append(np.stack([site, np.full(len(few), source.layer), features[few]], axis=1))
        values.append(own[few])
    best, value = np.concatenate(rows), np.concatenate(values)
    return best[np.lexsort((*best.T[::-1], -value))[:count]]


def head_importance(head: Head) -> dict[Source, Array]:
    """How much each feature of the model weighs in a head: the norms of its weights on
    standardised activations.

    Norms are over the outputs of a part's source, and relative to the part's largest, since parts
    differ in scale.

    Returns:
        Source -> ``(k,)`` float64 from 0 to 1, as in ``head.features[source]``.
    """
    known = {s: own for s, own in head.features.items() if s.site in SITE_NAMES}
    importance = {source: np.zeros(len(own)) for source, own in known.items()}
    for part in head.parts:
        norms = [np.linalg.norm(edges.weights, axis=0) for edges in part.edges]
        largest = max((float(norm.max()) for norm in norms if len(norm)), default=0.0) or 1.0
        for edges, norm in zip(part.edges, norms, strict=True):
            if edges.source in known:
                places = np.searchsorted(known[edges.source], edges.features)
                own = importance[edges.source]
                own[places] = np.maximum(own[places], norm / largest)
    return importance


def _places(features: Array) -> list[tuple[Source, int]]:
    return [
        (Source(SITE_NAMES[site], layer), feature) for site, layer, feature in features.tolist()
    ]


def _columns(
    head: Head, places: Sequence[tuple[Source, int]], activations: Mapping[Source, Array]
) -> list[Array]:
    return [
        activations[source][:, np.searchsorted(head.features[source], feature)]
        for source, feature in places
    ]


def _quantities(head: Head, columns: Sequence[Array], outputs: Array) -> Array:
    """Predictions, then activations, ``(n, quantities)`` float32."""
    regression = head.card.type == "regression"
    predictions = outputs if regression else head.probabilities(outputs)
    if not columns:
        return np.asarray(predictions, np.float32)
    return np.concatenate([predictions, np.stack(columns, 1)], 1, dtype=np.float32)


def _tells_folds(predictions: Array, folds: Array) -> Array:
    """Mask ``(k,)`` of predictions ``(n, k)`` of whose variance folds ``(n,)`` explain the most."""
    _, fold = np.unique(folds, return_inverse=True)
    centred = np.asarray(predictions, np.float64)
    centred = centred - centred.mean(axis=0)
    sizes = np.bincount(fold)
    sums = np.stack([np.bincount(fold, column) for column in centred.T], axis=1)
    between = (np.square(sums) / sizes[:, None]).sum(axis=0)
    return np.asarray(between >= MOST_BY_FOLDS * np.square(centred).sum(axis=0))


def _decided(head: Head, outputs: Array) -> Array:
    """Rows by decided class or label; empty for regression."""
    if head.card.type == "regression":
        return np.zeros(0, np.int64)
    decided = head.decide(head.probabilities(outputs))
    if head.multilabel:
        return np.asarray(decided.sum(axis=0, dtype=np.int64))
    return np.bincount(decided, minlength=len(head.card.classes)).astype(np.int64)


def _count_bins(values: Array, edges: Array) -> Array:
    """Rows by bin ``(quantities, NUM_BINS)``; a value on an edge belongs below it."""
    above = [np.count_nonzero(values > edges[:, i], axis=0) for i in range(edges.shape[1])]
    total = np.full(len(edges), len(values))
    ladder = np.stack([total, *above, np.zeros_like(total)])
    return np.asarray((ladder[:-1] - ladder[1:]).T.astype(np.int64))


def _shares(counts: Array) -> Array:
    smooth: Array = np.asarray(counts, np.float64) + SMOOTHING
    return np.asarray(smooth / smooth.sum())
