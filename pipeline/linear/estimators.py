"""Linear models by scikit-learn's estimators on a matrix in memory.

:func:`sklearn_path` fits the objectives of :mod:`pipeline.linear.fitted`: it is the reference that
:mod:`pipeline.linear.solver` is held to. :func:`sparse_path` fits L1 and elastic-net penalties.
With sample weights ``s`` and the share ``r`` of the L1 norm (``l1_ratio``) its objectives are::

    classes     r * |W|_1 + (1 - r) / 2 * ||W||^2 + C * sum_i s_i * crossentropy(y_i, W x_i + b)
    values      2 * alpha * r * |W|_1 + alpha * (1 - r) * ||W||^2 + sum_i s_i * (y_i - W x_i - b)^2

so that ``r = 0`` is the ridge penalty. Classes are fitted by SAGA, values by coordinate descent;
both take many passes and hold the layer in memory as float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import ElasticNet, LogisticRegression, Ridge

from pipeline.linear.fitted import Linear, all_classes

Array = NDArray[Any]
MAX_REFERENCE_ITERATIONS = 20_000
MAX_EPOCHS = 1000
_BEFORE_1_8 = tuple(int(part) for part in sklearn.__version__.split(".")[:2]) < (1, 8)


def sklearn_path(
    x: Array,
    y: Array,
    *,
    num_classes: int | None,
    penalties: Sequence[float],
    sample_weight: Array | None = None,
    tol: float = 1e-4,
) -> list[Linear]:
    """Models with an L2 penalty along a path, with float64 features in memory: the reference.

    Args:
        x: ``(n, features)`` standardised.
        y: ``(n,)`` class indices, or values when ``num_classes`` is None.
        num_classes: number of classes; None for regression.
        penalties: C (classification) or alpha (regression), in any order.
        sample_weight: ``(n,)`` weights; rows of weight 0 are left out.
        tol: scikit-learn's.

    Returns:
        A model per penalty, in the order given.
    """
    rows, target, weight = _kept_rows(x, y, sample_weight)
    rows = rows.astype(np.float64)
    path = []
    for penalty in penalties:
        if num_classes is None:
            model = Ridge(alpha=penalty)
        else:
            model = LogisticRegression(C=penalty, tol=tol, max_iter=MAX_REFERENCE_ITERATIONS)
        path.append(_fit(model, rows, target, weight, num_classes, penalty))
    return path


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
    rows, target, weight = _kept_rows(x, y, sample_weight)
    options: dict[str, Any] = {
        "l1_ratio": l1_ratio,
        "tol": tol,
        "max_iter": MAX_EPOCHS,
        "warm_start": True,
    }
    if num_classes is None:
        model = ElasticNet(**options)
        rows = np.asfortranarray(rows)
        target, weight = target.astype(rows.dtype), weight.astype(rows.dtype)
    else:
        if _BEFORE_1_8:
            options["penalty"] = "elasticnet"
        model = LogisticRegression(solver="saga", random_state=0, **options)
    path = {}
    # A small C and a large alpha regularise strongly.
    for penalty in sorted(set(penalties), reverse=num_classes is None):
        if num_classes is None:
            model.set_params(alpha=penalty / weight.sum())
        else:
            model.set_params(C=penalty)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            path[penalty] = _fit(model, rows, target, weight, num_classes, penalty)
    return [path[penalty] for penalty in penalties]


def _kept_rows(x: Array, y: Array, sample_weight: Array | None) -> tuple[Array, Array, Array]:
    weight = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    keep = weight > 0
    return x[keep], y[keep], weight[keep]


def _fit(
    model: Any, x: Array, y: Array, weight: Array, num_classes: int | None, penalty: float
) -> Linear:
    """Fit an estimator, unless there are fewer than two classes."""
    present = np.zeros(0, np.int64) if num_classes is None else np.unique(y).astype(np.int64)
    theta, converged, count = None, True, 0
    if num_classes is None or len(present) > 1:
        model.fit(x, y, sample_weight=weight)
        theta = np.column_stack([np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)])
        if getattr(model, "n_iter_", None) is not None:  # a closed form has none
            count = int(np.max(model.n_iter_))
            converged = count < model.max_iter
    weights, bias = all_classes(theta, present, num_classes, x.shape[1])
    return Linear(weights, bias, penalty, converged, count)
