"""Linear models on standardised features, the standardisation, and scikit-learn as the reference.

The objectives are scikit-learn's::

    logistic    1/2 ||W||^2 + C * sum_i s_i * crossentropy(y_i, W x_i + b)
    ridge       alpha * ||W||^2 + sum_i s_i * (y_i - W x_i - b)^2

with an unpenalised intercept ``b``, sample weights ``s`` and one row of ``W`` per class (a single
one for two classes and for regression). :mod:`pipeline.solver` minimises them fast and out of core;
:func:`sklearn_path` is the reference that it is held to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
MAX_REFERENCE_ITERATIONS = 20_000
ABSENT_LOGIT = 20.0
"""Logit, negated, of a class that has no rows to fit on (scikit-learn has no row for it)."""


@dataclass(frozen=True)
class Linear:
    """A fitted linear model on standardised features.

    Attributes:
        weights: ``(outputs, features)`` float32.
        bias: ``(outputs,)`` float32.
        penalty: the C or alpha it was fitted with.
        converged: whether the optimum was reached to the tolerance.
        num_iterations: solver iterations (0 for closed forms).
    """

    weights: Array
    bias: Array
    penalty: float
    converged: bool = True
    num_iterations: int = 0

    def outputs(self, x: Array) -> Array:
        """Logits or values ``(n, outputs)`` float32 for standardised ``x`` ``(n, features)``."""
        return np.asarray(x @ self.weights.T + self.bias)


@dataclass(frozen=True)
class Standardiser:
    """Per-feature mean and scale of the training rows; constant features get scale 1.

    No training row can lie farther than ``sqrt(n - 1)`` deviations from the mean. Other rows are
    clipped there: a neuron that is silent on all training texts has a minute deviation, and the
    first text that wakes it would otherwise outweigh all other features together.

    Attributes:
        mean, scale: ``(features,)`` float32.
        bound: largest standardised value, ``sqrt(n)``.
    """

    mean: Array
    scale: Array
    bound: float

    @classmethod
    def from_moments(cls, count: int, mean: Array, m2: Array) -> Standardiser:
        """From count, mean and sum of squared deviations, float64 ``(features,)`` each."""
        scale = np.sqrt(np.asarray(m2, np.float64) / max(count, 1))
        # A constant column's deviation is rounding noise: dividing by it would blow the noise up.
        scale[scale <= 1e-7 * np.maximum(np.abs(mean), 1e-12)] = 1.0
        return cls(mean.astype(np.float32), scale.astype(np.float32), float(np.sqrt(count)))

    @classmethod
    def fit(cls, x: Array) -> Standardiser:
        """Moments of ``x`` ``(n, features)``, accumulated in float64."""
        mean = x.mean(axis=0, dtype=np.float64)
        m2 = np.zeros_like(mean)
        for start in range(0, len(x), 1024):
            m2 += np.square(x[start : start + 1024] - mean).sum(axis=0)
        return cls.from_moments(len(x), mean, m2)

    def apply(self, x: Array, *, in_place: bool = False) -> Array:
        """``(x - mean) / scale``, clipped to the bound, as float32 ``(n, features)``."""
        out = x if in_place else np.array(x, dtype=np.float32)
        out -= self.mean
        out /= self.scale
        return np.clip(out, -self.bound, self.bound, out=out)

    def take(self, features: Array) -> Standardiser:
        """The standardiser of some features ``(k,)``."""
        return Standardiser(self.mean[features], self.scale[features], self.bound)


def sklearn_path(
    x: Array,
    y: Array,
    *,
    num_classes: int | None,
    penalties: Sequence[float],
    sample_weight: Array | None = None,
    tol: float = 1e-4,
) -> list[Linear]:
    """The same problems by scikit-learn, with float64 features in memory: the reference.

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
    from sklearn.linear_model import LogisticRegression, Ridge

    weight = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    keep = weight > 0
    rows, target, weight = x[keep].astype(np.float64), y[keep], weight[keep]
    if num_classes is None:
        models = [Ridge(alpha=alpha).fit(rows, target, sample_weight=weight) for alpha in penalties]
        return [
            Linear(_float32(model.coef_[None]), _float32([model.intercept_]), alpha)
            for model, alpha in zip(models, penalties, strict=True)
        ]
    present = np.unique(target)
    path = []
    for penalty in penalties:
        w = np.zeros((1 if num_classes == 2 else num_classes, x.shape[1]))
        b = np.full(len(w), -ABSENT_LOGIT)
        converged = True
        if len(present) > 1:
            model = LogisticRegression(C=penalty, tol=tol, max_iter=MAX_REFERENCE_ITERATIONS)
            model.fit(rows, target, sample_weight=weight)
            converged = bool(model.n_iter_.max() < MAX_REFERENCE_ITERATIONS)
            if len(present) == 2 and num_classes > 2:
                # One logit for two of the classes: half of it for each has the same difference.
                w[present] = model.coef_ * np.array([[-0.5], [0.5]])
                b[present] = model.intercept_ * np.array([-0.5, 0.5])
            else:
                used = [0] if num_classes == 2 else present
                w[used], b[used] = model.coef_, model.intercept_
        elif num_classes > 2 or (len(present) and present[0] == 1):
            b[present if num_classes > 2 else [0]] = ABSENT_LOGIT
        path.append(Linear(_float32(w), _float32(b), penalty, converged))
    return path


def _float32(values: Any) -> Array:
    return np.asarray(values, dtype=np.float32)
