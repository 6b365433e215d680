"""Metrics of many weightings of the same rows at once.

Every function takes ``counts (replicates, n)``, how often each row is taken, and what
:class:`pipeline.measures.metrics.Metric` computes from: targets ``(n,)``, predictions ``(n,)``,
probabilities ``(n, classes)`` or values ``(n,)``, and the positive class. It returns
``(replicates,)`` float64: what the metric is on the rows repeated that often. NaN where the metric
is not defined. For ``macro_f1``, ``macro_recall`` and ``f1`` targets may also be ``(n, classes)``,
the share of each row that has the class.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[Any]
_CONSTANT = 1e-12
"""Share of a variable's sum of squares below which its variance is rounding noise."""


def divide(numerator: Array, denominator: Array, otherwise: float = 0.0) -> Array:
    """The quotient of arrays that broadcast; ``otherwise`` where the denominator is not above 0."""
    out = np.full(np.broadcast(numerator, denominator).shape, otherwise)
    return np.asarray(np.divide(numerator, denominator, out=out, where=denominator > 0))


def _margins(
    counts: Array, targets: Array, predictions: Array, classes: int
) -> tuple[Array, Array, Array]:
    """Rows of each class that are predicted right, that are predicted, and that there are: each
    ``(replicates, classes)``."""
    rows = np.arange(len(predictions))
    one = np.ones(len(rows))
    if targets.ndim == 1:
        classes = max(classes, int(targets.max(initial=0)) + 1)
    shape = len(rows), classes
    guess = sparse.csr_array((one, (rows, predictions)), shape=shape)
    if targets.ndim == 1:
        right = (targets == predictions).astype(np.float64)
        truth = sparse.csr_array((one, (rows, targets)), shape=shape)
    else:
        right, truth = targets[rows, predictions], targets
    hits = sparse.csr_array((right, (rows, predictions)), shape=shape)
    return counts @ hits, counts @ guess, counts @ truth


def accuracy(counts: Array, y: Array, prediction: Array, _: Array, __: int) -> Array:
    """Share of rows predicted right."""
    return divide(counts @ (y == prediction), counts.sum(axis=1), np.nan)


def macro_f1(counts: Array, y: Array, prediction: Array, probability: Array, _: int) -> Array:
    """Mean F1 of the classes that the targets have."""
    hits, predicted, support = _margins(counts, y, prediction, probability.shape[1])
    return _mean_present(divide(2 * hits, support + predicted), support)


def macro_recall(counts: Array, y: Array, prediction: Array, probability: Array, _: int) -> Array:
    """Mean recall of the classes that the targets have."""
    hits, _predicted, support = _margins(counts, y, prediction, probability.shape[1])
    return _mean_present(divide(hits, support), support)


def _mean_present(each: Array, support: Array) -> Array:
    present = support > 0
    return divide((each * present).sum(axis=1), present.sum(axis=1), np.nan)


def f1(counts: Array, y: Array, prediction: Array, _: Array, positive: int) -> Array:
    """F1 of the positive class; 0 where it is neither present nor predicted."""
    truth = y[:, positive] if y.ndim == 2 else (y == positive).astype(np.float64)
    guess = (prediction == positive).astype(np.float64)
    return divide(2 * (counts @ (truth * guess)), counts @ (truth + guess))


def auc(counts: Array, y: Array, _: Array, probability: Array, positive: int) -> Array:
    """Area under the ROC curve of the positive class: the share of ordered pairs, ties half."""
    order, starts, _ = _groups(probability[:, positive])
    truth = (y == positive)[order]
    taken = counts[:, order]
    above = np.add.reduceat(taken * truth, starts, axis=1)
    below = np.add.reduceat(taken * ~truth, starts, axis=1)
    pairs = (above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1)
    return divide(pairs, above.sum(axis=1) * below.sum(axis=1), np.nan)


def pearson(counts: Array, y: Array, prediction: Array, _: Array, __: int) -> Array:
    """Pearson's correlation; 0 where either side is constant."""
    y, prediction = y - y.mean(), prediction - prediction.mean()
    moments = counts @ np.stack(
        [y, prediction, y * y, prediction * prediction, y * prediction], axis=1
    )
    return _correlation(counts.sum(axis=1), *moments.T)


def spearman(counts: Array, y: Array, prediction: Array, _: Array, __: int) -> Array:
    """Spearman's correlation: Pearson's of the mid-ranks."""
    a, b = _mid_ranks(counts, y), _mid_ranks(counts, prediction)
    sums = (np.einsum("rn,rn->r", counts, a), np.einsum("rn,rn->r", counts, b))
    products = [np.einsum("rn,rn,rn->r", counts, p, q) for p, q in ((a, a), (b, b), (a, b))]
    return _correlation(counts.sum(axis=1), *sums, *products)


def _correlation(n: Array, x: Array, y: Array, xx: Array, yy: Array, xy: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        var_x, var_y, cov = xx - x * x / n, yy - y * y / n, xy - x * y / n
    defined = (n > 1) & (var_x > _CONSTANT * xx) & (var_y > _CONSTANT * yy)
    scale = np.sqrt(np.where(defined, var_x * var_y, 1.0))
    return np.asarray(np.where(defined, np.clip(cov / scale, -1, 1), 0.0))


def mae(counts: Array, y: Array, prediction: Array, _: Array, __: int) -> Array:
    """Mean absolute error."""
    return divide(counts @ np.abs(y - prediction), counts.sum(axis=1), np.nan)


def r2(counts: Array, y: Array, prediction: Array, _: Array, __: int) -> Array:
    """Share of the variance explained; of constant targets 1 if all are met, else 0."""
    error = counts @ np.square(y - prediction)
    y = y - y.mean()
    n, squares = counts.sum(axis=1), counts @ np.square(y)
    total = squares - divide(np.square(counts @ y), n)
    varies = total > _CONSTANT * squares
    explained = 1 - error / np.where(varies, total, 1.0)
    return np.asarray(np.where(varies, explained, (error == 0).astype(np.float64)))


def _groups(values: Array) -> tuple[Array, Array, Array]:
    """Sorting order, the start of every run of equal values in it, and each row's run."""
    order = np.argsort(values, kind="stable")
    new = np.ones(len(values), dtype=bool)
    new[1:] = np.diff(values[order]) != 0
    run = np.empty(len(values), dtype=np.int64)
    run[order] = np.cumsum(new) - 1
    return order, np.flatnonzero(new), run


def _mid_ranks(counts: Array, values: Array) -> Array:
    """``(replicates, n)`` rank of each row among the rows taken, ties at their mean."""
    order, starts, run = _groups(values)
    size = np.add.reduceat(counts[:, order], starts, axis=1)
    return np.asarray((np.cumsum(size, axis=1) - (size - 1) / 2)[:, run])
