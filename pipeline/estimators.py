"""Probes by scikit-learn's estimators on a matrix in memory: L1 and elastic-net penalties.

The objectives, with sample weights ``s`` and the share ``r`` of the L1 norm (``l1_ratio``)::

    classes     r * |W|_1 + (1 - r) / 2 * ||W||^2 + C * sum_i s_i * crossentropy(y_i, W x_i + b)
    values      2 * alpha * r * |W|_1 + alpha * (1 - r) * ||W||^2 + sum_i s_i * (y_i - W x_i - b)^2

so that ``r = 0`` is the ridge penalty of :mod:`pipeline.linear`. Classes are fitted by SAGA, values
by coordinate descent; both take many passes and hold the layer in memory as float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet, LogisticRegression

from pipeline.linear import ABSENT_LOGIT, Linear

Array = NDArray[Any]
MAX_EPOCHS = 1000
_BEFORE_1_8 = tuple(int(part) for part in sklearn.__version__.split(".")[:2]) < (1, 8)


def sparse_path(
    x: Array,
    y: Array,
    *,
    num_classes: int | None,
    penalties: Sequence[float],
    l1_ratio: float,
    sample_weight: Array | None = None,
    tol: float = 1e-4,
) -> list[Linear]:
    """Elastic-net models along a path, warm-started from the strongest penalty.

    Args:
        x: ``(n, features)`` float32, standardised.
        y: ``(n,)`` class indices, or values when ``num_classes`` is None.
        num_classes: number of classes; None for regression.
        penalties: C (classification) or alpha (regression), in any order.
        l1_ratio: share of the L1 norm, in (0, 1].
        sample_weight: ``(n,)`` weights; rows of weight 0 are left out.
        tol: scikit-learn's, of the estimator.

    Returns:
        A model per penalty, in the order given.
    """
    weight = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    keep = weight > 0
    rows, target, weight = x[keep], y[keep], weight[keep]
    fit = _values if num_classes is None else _classes
    # A small C and a large alpha regularise strongly.
    grid = sorted(set(penalties), reverse=num_classes is None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        path = fit(rows, target, num_classes, grid, l1_ratio, weight, tol)
    return [path[penalty] for penalty in penalties]


def _values(
    x: Array,
    y: Array,
    _: int | None,
    grid: Sequence[float],
    l1_ratio: float,
    weight: Array,
    tol: float,
) -> dict[float, Linear]:
    path = {}
    model = ElasticNet(l1_ratio=l1_ratio, tol=tol, max_iter=MAX_EPOCHS, warm_start=True)
    for alpha in grid:
        model.set_params(alpha=alpha / weight.sum())
        model.fit(np.asfortranarray(x), y.astype(x.dtype), sample_weight=weight.astype(x.dtype))
        path[alpha] = Linear(
            np.array(model.coef_[None], np.float32),
            np.array([model.intercept_], np.float32),
            alpha,
            bool(model.n_iter_ < MAX_EPOCHS),
            int(model.n_iter_),
        )
    return path


def _classes(
    x: Array,
    y: Array,
    num_classes: int | None,
    grid: Sequence[float],
    l1_ratio: float,
    weight: Array,
    tol: float,
) -> dict[float, Linear]:
    assert num_classes is not None
    present = np.unique(y)
    num_outputs = 1 if num_classes == 2 else num_classes
    path = {}
    options = {"penalty": "elasticnet"} if _BEFORE_1_8 else {}
    model = LogisticRegression(
        solver="saga",
        l1_ratio=l1_ratio,
        tol=tol,
        max_iter=MAX_EPOCHS,
        warm_start=True,
        random_state=0,
        **options,
    )
    for penalty in grid:
        w = np.zeros((num_outputs, x.shape[1]), np.float32)
        b = np.full(num_outputs, -ABSENT_LOGIT, np.float32)
        converged, epochs = True, 0
        if len(present) < 2:
            if num_outputs > 1 or (len(present) and present[0] == 1):
                b[present if num_outputs > 1 else [0]] = ABSENT_LOGIT
        else:
            model.set_params(C=penalty)
            model.fit(x, y, sample_weight=weight)
            epochs = int(model.n_iter_.max())
            converged = epochs < MAX_EPOCHS
            if len(present) == 2 and num_outputs > 1:
                w[present] = model.coef_ * np.array([[-0.5], [0.5]])
                b[present] = model.intercept_ * np.array([-0.5, 0.5])
            else:
                used = [0] if num_outputs == 1 else present
                w[used], b[used] = model.coef_, model.intercept_
        path[penalty] = Linear(w, b, penalty, converged, epochs)
    return path
