"""Metrics of label sets: a text has any subset of the labels, one logit each.

Shapes as in :mod:`pipeline.measures.weighted`, but targets and predictions are ``(n, labels)`` 0 or
1, and what is graded are the logits ``(n, labels)``. A label that neither is nor is predicted on
the rows has no F1 there and does not count (scikit-learn's ``zero_division=nan``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.measures.weighted import divide

Array = NDArray[Any]
PAIRS = 1 << 22
"""Pairs of labels that are compared at once."""


def label_f1(counts: Array, y: Array, prediction: Array) -> Array:
    """F1 of each label ``(replicates, labels)``; NaN where it neither is nor is predicted."""
    hits, taken = _hits(counts, y, prediction)
    return divide(2 * hits, taken, np.nan)


def macro_f1(counts: Array, y: Array, prediction: Array, _: Array, __: int) -> Array:
    """Mean F1 of the labels that have one."""
    each = label_f1(counts, y, prediction)
    known = np.isfinite(each)
    return divide(np.where(known, each, 0.0).sum(axis=1), known.sum(axis=1), np.nan)


def micro_f1(counts: Array, y: Array, prediction: Array, _: Array, __: int) -> Array:
    """F1 of all pairs of a row and a label together."""
    hits, taken = _hits(counts, y, prediction)
    return divide(2 * hits.sum(axis=1), taken.sum(axis=1), np.nan)


def lrap(counts: Array, y: Array, _: Array, logits: Array, __: int) -> Array:
    """Label ranking average precision: see :func:`ranking_precision`."""
    return divide(counts @ ranking_precision(y, logits), counts.sum(axis=1), np.nan)


def _hits(counts: Array, y: Array, prediction: Array) -> tuple[Array, Array]:
    """Right predictions, and labels plus predictions, ``(replicates, labels)`` each."""
    truth, guess = y.astype(np.float64), prediction.astype(np.float64)
    return counts @ (truth * guess), counts @ (truth + guess)


def ranking_precision(y: Array, logits: Array) -> Array:
    """Mean over a row's labels of the share of its labels among those ranked as high, ``(n,)``.

    1 for a row with no label or all of them, as in scikit-learn's
    ``label_ranking_average_precision_score``, whose mean over the rows it is.
    """
    out = np.ones(len(y))
    step = max(1, PAIRS // y.shape[1] ** 2)
    for start in range(0, len(y), step):
        truth, own = y[start : start + step] > 0, logits[start : start + step]
        above = own[:, None, :] >= own[:, :, None]
        precision = (above & truth[:, None, :]).sum(axis=2) / above.sum(axis=2)
        number = truth.sum(axis=1)
        mean = divide((precision * truth).sum(axis=1), number, 1.0)
        out[start : start + step] = np.where(number == y.shape[1], 1.0, mean)
    return out


def rarest_label(y: Array) -> Array:
    """The label of each row that the fewest rows have ``(n,)`` int64; ``labels`` for none."""
    counts = y.sum(axis=0, dtype=np.int64)
    cost = np.where(y > 0, counts, len(y) + 1)
    return np.asarray(np.where(y.any(axis=1), cost.argmin(axis=1), y.shape[1]))
