"""Linear models on standardised features, and the standardisation.

The objectives are scikit-learn's::

    logistic    1/2 ||W||^2 + C * sum_i s_i * crossentropy(y_i, W x_i + b)
    ridge       alpha * ||W||^2 + sum_i s_i * (y_i - W x_i - b)^2

with an unpenalised intercept ``b``, sample weights ``s`` and one row of ``W`` per class (a single
one for two classes and for regression). :mod:`pipeline.linear.solver` minimises them fast and out
of core; :func:`pipeline.linear.estimators.sklearn_path` is the reference that it is held to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
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


def all_classes(
    theta: Array | None, present: Array, num_classes: int | None, num_features: int
) -> tuple[Array, Array]:
    """Weights and bias over all classes, of a fit over those that have rows.

    Args:
        theta: ``(k, features + 1)``, the bias last: a row for each class that is present, or one
            row of two classes and of values; None if nothing was fitted (fewer than two classes).
        present: ``(k,)`` int64 increasing classes that have rows.
        num_classes: all of them; None for values.
        num_features: features.

    Returns:
        ``(outputs, features)`` and ``(outputs,)`` float32; a single row for two classes and values.
    """
    rows = num_classes if num_classes is not None and num_classes > 2 else 1
    weights, bias = np.zeros((rows, num_features), np.float32), np.zeros(rows, np.float32)
    if rows == 1:
        if theta is not None:
            weights[:], bias[:] = theta[:, :-1], theta[:, -1]
        elif num_classes == 2 and len(present):
            bias[:] = ABSENT_LOGIT if present[0] == 1 else -ABSENT_LOGIT
        return weights, bias
    bias[:] = -ABSENT_LOGIT
    if theta is None:
        bias[present] = ABSENT_LOGIT
    elif len(theta) < len(present):
        # One logit for two of the classes: half of it for each has the same difference.
        half = theta * np.array([[-0.5], [0.5]])
        weights[present], bias[present] = half[:, :-1], half[:, -1]
    else:
        weights[present], bias[present] = theta[:, :-1], theta[:, -1]
    return weights, bias


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
