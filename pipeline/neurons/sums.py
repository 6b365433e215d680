"""Sums over the samples of a layer, for every task at once, from one pass through its shards.

    columns = Columns.of([target, ...], num_samples=store.num_samples)
    sums = layer_sums(store, layer, columns)             # a list of Sums per target

A target's *groups* are its classes; the quartiles of a number. Reweightings of its rows (bootstrap
replicates) are further columns of the same matrix products. Features are pooling-major,
``pooling * neurons + neuron``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pipeline.texts import Rows
from store import ActivationStore
from store.layout import widen

Array = NDArray[Any]
NUM_BINS = 16
"""Bins of an activation for mutual information."""
NUM_QUANTILE_GROUPS = 4
"""Groups that a number is divided into."""
EDGE_SAMPLES = 4096
EDGE_SHARDS = 8
CHUNK_BYTES = 1 << 21
"""Float32 activations that are worked on at once: few enough for a core's cache."""
ROUNDING = 1e-6
"""Relative error of a sum of float32 products."""
_CONSTANT = 1e-7
"""Deviation, relative to the mean, below which a feature counts as constant."""


@dataclass(frozen=True)
class RankingTarget:
    """What one task's training rows say of the samples.

    Attributes:
        positions: ``(n,)`` int64 sample positions; repeats allowed.
        groups: ``(n,)`` int64 group of each row.
        num_groups: number of groups.
        values: ``(n,)`` float64 of a number, less their mean; None for classes.
        weights: ``(replicates, n)`` float64, how often each row counts; the first replicate is the
            one that rankings are made from.
    """

    positions: Array
    groups: Array
    num_groups: int
    values: Array | None
    weights: Array

    @classmethod
    def of(
        cls, rows: Rows, *, num_classes: int | None, weights: Array | None = None
    ) -> RankingTarget:
        """The target of a task's rows; every row counts once without ``weights``."""
        weights = np.ones((1, len(rows))) if weights is None else np.atleast_2d(weights)
        if num_classes is not None:
            return cls(rows.positions, rows.targets, num_classes, None, weights)
        shares = np.arange(1, NUM_QUANTILE_GROUPS) / NUM_QUANTILE_GROUPS
        groups = np.searchsorted(np.quantile(rows.targets, shares), rows.targets)
        centred = rows.targets - rows.targets.mean()
        return cls(rows.positions, groups, NUM_QUANTILE_GROUPS, centred, weights)


@dataclass(frozen=True)
class Columns:
    """What a pass multiplies activations with: a row per sample, columns per target and replicate.

    Attributes:
        targets: the targets, in order.
        groups: ``(samples, sum of replicates * groups)`` weights by group.
        values: ``(samples, sum of replicates)`` weighted values, of numbers only.
        totals: ``(samples, sum of replicates)`` weights.
    """

    targets: tuple[RankingTarget, ...]
    groups: sparse.csr_array
    values: sparse.csr_array
    totals: sparse.csr_array

    @classmethod
    def of(cls, targets: Sequence[RankingTarget], *, num_samples: int) -> Columns:
        """Columns for some targets over the positions ``0 .. num_samples``."""
        groups, values, totals = [], [], []
        for target in targets:
            replicates, n = target.weights.shape
            replicate = np.repeat(np.arange(replicates), n)
            rows = np.tile(target.positions, replicates)
            column = replicate * target.num_groups + np.tile(target.groups, replicates)
            weight = target.weights.ravel()
            groups.append(
                _columns(weight, rows, column, num_samples, replicates * target.num_groups)
            )
            totals.append(_columns(weight, rows, replicate, num_samples, replicates))
            if target.values is not None:
                weighted = (target.weights * target.values).ravel()
                values.append(_columns(weighted, rows, replicate, num_samples, replicates))
        empty = sparse.csr_array((num_samples, 0), dtype=np.float32)
        return cls(
            tuple(targets),
            sparse.hstack(groups, format="csr"),
            sparse.hstack([*values, empty], format="csr"),
            sparse.hstack(totals, format="csr"),
        )


def _columns(weight: Array, rows: Array, column: Array, num_rows: int, num: int) -> Any:
    shape = (num_rows, num)
    return sparse.csr_array((weight.astype(np.float32), (rows, column)), shape=shape)


@dataclass(frozen=True)
class Sums:
    """Weighted sums over one target's rows, for every feature of a layer (float64).

    Attributes:
        counts: ``(groups,)`` rows.
        sums: ``(groups, features)`` of the activations less ``shift``.
        squares: ``(features,)`` of their squares.
        shift: ``(features,)`` float32.
        above: ``(bins - 1, groups, features)`` rows above each bin edge.
        value_sum, value_square: of the (centred) values; 0 for classes.
        products: ``(features,)`` of values and activations less ``shift``; empty for classes.
    """

    counts: Array
    sums: Array
    squares: Array
    shift: Array
    above: Array
    value_sum: float
    value_square: float
    products: Array

    @property
    def num_rows(self) -> float:
        """Weight of all rows."""
        return float(self.counts.sum())

    @property
    def group_means(self) -> Array:
        """``(groups, features)`` less ``shift``, of the groups that have rows."""
        present = self.counts > 0
        return np.asarray(self.sums[present] / self.counts[present, None])

    @property
    def mean(self) -> Array:
        """``(features,)`` less ``shift``."""
        return np.asarray(self.sums.sum(axis=0) / max(self.num_rows, 1.0))

    @property
    def bins(self) -> Array:
        """``(bins, groups, features)`` rows in each bin."""
        edge = np.empty((1, *self.above.shape[1:]))
        edge[...] = self.counts[:, None]
        levels = np.concatenate([edge, self.above, np.zeros_like(edge)])
        return np.asarray(levels[:-1] - levels[1:])

    @property
    def scatter(self) -> Array:
        """``(features,)`` sum of squared deviations from the mean; 0 where constant."""
        total = self.squares - self.num_rows * np.square(self.mean)
        floor = self.num_rows * np.square(_CONSTANT * np.abs(self.shift + self.mean) + 1e-12)
        floor = np.maximum(floor, ROUNDING * self.squares)
        return np.asarray(np.where(total > floor, total, 0.0))


def layer_sums(store: ActivationStore, layer: int, columns: Columns) -> list[list[Sums]]:
    """One pass through a stored layer; for every target a :class:`Sums` per replicate.

    Memory: one shard, and per feature ``NUM_BINS + 2`` numbers for every column.
    """
    _, mean, _ = store.moments(layer=layer)
    blocks = ((first, view.T) for first, view in store.iter_blocks(layer=layer))
    return stream_sums(
        blocks, columns, edges=layer_edges(store, layer, columns), shift=mean.astype(np.float32)
    )


def layer_edges(store: ActivationStore, layer: int, columns: Columns) -> Array:
    """Bin edges ``(bins - 1, features)`` float32: quantiles over a seeded sample of the rows.

    At most ``EDGE_SAMPLES`` samples that some target has, from ``EDGE_SHARDS`` shards.
    """
    used = np.unique(np.concatenate([target.positions for target in columns.targets]))
    shard = used // store.schema.samples_per_shard
    shards = np.unique(shard)
    chosen = shards[np.unique(np.linspace(0, len(shards) - 1, EDGE_SHARDS).astype(int))]
    used = used[np.isin(shard, chosen)]
    if len(used) > EDGE_SAMPLES:
        used = np.sort(np.random.default_rng(0).choice(used, EDGE_SAMPLES, replace=False))
    return quantile_edges(store.read_matrix(layer=layer, samples=used).T)


def quantile_edges(xt: Array) -> Array:
    """Edges ``(NUM_BINS - 1, features)`` of bins with equal shares of ``xt (features, n)``.

    A value lies in the bin numbered by how many edges are smaller than it.
    """
    ordered = np.sort(np.asarray(xt, dtype=np.float32), axis=1)
    places = np.arange(1, NUM_BINS) * xt.shape[1] // NUM_BINS - 1
    return np.ascontiguousarray(ordered[:, np.maximum(places, 0)].T)


def stream_sums(
    blocks: Iterable[tuple[int, Array]], columns: Columns, *, edges: Array, shift: Array
) -> list[list[Sums]]:
    """Sums over blocks of a layer.

    Args:
        blocks: ``(first position, (features, samples) float16 or float32)``.
        columns: what to sum, by position.
        edges: ``(bins - 1, features)`` float32.
        shift: ``(features,)`` float32 near the mean, taken off for accuracy.

    Returns:
        For every target a :class:`Sums` per replicate.
    """
    num_features, num_groups = len(shift), columns.groups.shape[1]
    sums = np.zeros((num_features, num_groups + columns.values.shape[1]))
    squares = np.zeros((num_features, columns.totals.shape[1]))
    above = np.zeros((len(edges), num_features, num_groups), np.float32)  # whole numbers
    for first, xt in blocks:
        part = slice(first, first + xt.shape[1])
        groups = columns.groups[part]
        keep = np.flatnonzero(np.diff(groups.indptr))
        if not len(keep):
            continue
        by_group = groups[keep].toarray()
        both = np.concatenate([by_group, columns.values[part][keep].toarray()], axis=1)
        totals = columns.totals[part][keep].toarray()
        for rows, block in _chunks(xt, keep):
            for number, edge in enumerate(edges[:, rows]):
                above[number, rows] += (
                    np.greater(block, edge[:, None]).astype(np.float32) @ by_group
                )
            block -= shift[rows, None]
            sums[rows] += block @ both
            np.square(block, out=block)
            squares[rows] += block @ totals
    return list(_split(columns, sums, squares, above, shift))


def _chunks(xt: Array, keep: Array) -> Iterator[tuple[slice, Array]]:
    """Some features at a time, of the samples ``keep``, as float32."""
    size = max(8, CHUNK_BYTES // (4 * len(keep)))
    buffer = np.empty((size, len(keep)), np.float32)
    for start in range(0, len(xt), size):
        rows = slice(start, min(start + size, len(xt)))
        part = xt[rows] if len(keep) == xt.shape[1] else np.take(xt[rows], keep, axis=1)
        block = buffer[: len(part)]
        widen(part, block)
        yield rows, block


def _split(
    columns: Columns, sums: Array, squares: Array, above: Array, shift: Array
) -> Iterator[list[Sums]]:
    """The accumulated columns, target by target and replicate by replicate."""
    group, value, total = 0, columns.groups.shape[1], 0
    for target in columns.targets:
        found = []
        for weight in target.weights:
            span = slice(group, group + target.num_groups)
            counts = np.bincount(target.groups, weight, minlength=target.num_groups)
            y = np.empty(0) if target.values is None else target.values
            found.append(
                Sums(
                    counts=counts,
                    sums=sums[:, span].T,
                    squares=squares[:, total],
                    shift=shift,
                    above=np.moveaxis(above[:, :, span], 2, 1),
                    value_sum=float(weight[: len(y)] @ y),
                    value_square=float(weight[: len(y)] @ np.square(y)),
                    products=sums[:, value] if len(y) else np.empty(0),
                )
            )
            group, total, value = span.stop, total + 1, value + bool(len(y))
        yield found
