"""Regularised linear models on one standardised matrix, along a path of penalties.

Pure numpy and scipy; rows are samples. ``fit_path`` solves one problem for every penalty of a grid,
warm-started from the strongest. The objectives are scikit-learn's::

    logistic    1/2 ||W||^2 + C * sum_i s_i * crossentropy(y_i, W x_i + b)
    ridge       alpha * ||W||^2 + sum_i s_i * (y_i - W x_i - b)^2

with an unpenalised intercept ``b``, sample weights ``s`` and one row of ``W`` per class (a single
one for two classes and for regression).

The logistic solver is L-BFGS in the coordinates of a Cholesky factor of ``c * C * X^T X + I``,
which bounds the Hessian from above (c = 1/4 for two classes, 1/2 for more; Boehning 1992): however
badly scaled the features are, some ten to thirty passes over the data reach the optimum. The
gradients are exact, so the optimum is that of the plain problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize, special

Array = NDArray[Any]
MAX_ITERATIONS = 500
ABSENT_LOGIT = 20.0
"""Logit, negated, of a class that has no rows to fit on (scikit-learn has no row for it)."""


@dataclass(frozen=True)
class Linear:
    """A fitted linear model on standardised features.

    Attributes:
        weights: ``(outputs, features)`` float32.
        bias: ``(outputs,)`` float32.
        penalty: the C or alpha it was fitted with.
        converged: whether the gradient reached the tolerance.
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
    def fit(cls, x: Array) -> Standardiser:
        """Moments of ``x`` ``(n, features)``, accumulated in float64."""
        mean = x.mean(axis=0, dtype=np.float64)
        variance = np.zeros_like(mean)
        for start in range(0, len(x), 1024):
            variance += np.square(x[start : start + 1024] - mean).sum(axis=0)
        scale = np.sqrt(variance / len(x))
        # A constant column's deviation is rounding noise: dividing by it would blow the noise up.
        scale[scale <= 1e-7 * np.maximum(np.abs(mean), 1e-12)] = 1.0
        return cls(mean.astype(np.float32), scale.astype(np.float32), float(np.sqrt(len(x))))

    def apply(self, x: Array, *, in_place: bool = False) -> Array:
        """``(x - mean) / scale``, clipped to the bound, as float32 ``(n, features)``."""
        out = x if in_place else np.array(x, dtype=np.float32)
        out -= self.mean
        out /= self.scale
        return np.clip(out, -self.bound, self.bound, out=out)

    def take(self, features: Array) -> Standardiser:
        """The standardiser of some features."""
        return Standardiser(self.mean[features], self.scale[features], self.bound)


def fit_path(x: Array, y: Array, *, penalties: Sequence[float], **options: Any) -> list[Linear]:
    """One model per penalty, in the order of ``penalties``; see :func:`iterate_path`."""
    models = {m.penalty: m for m in iterate_path(x, y, penalties=penalties, **options)}
    return [models[penalty] for penalty in penalties]


def iterate_path(
    x: Array,
    y: Array,
    *,
    num_classes: int | None,
    penalties: Sequence[float],
    solver: str = "lbfgs",
    sample_weight: Array | None = None,
    tol: float = 1e-4,
    gram: Array | None = None,
) -> Iterator[Linear]:
    """Fit one model per penalty, the strongest regularisation first.

    Args:
        x: ``(n, features)`` float32, standardised.
        y: ``(n,)`` class indices, or values when ``num_classes`` is None.
        num_classes: number of classes; None for regression.
        penalties: C (classification) or alpha (regression), in any order.
        solver: ``"lbfgs"`` or ``"sklearn"`` (the reference).
        sample_weight: ``(n,)`` weights; rows of weight 0 are left out exactly.
        tol: largest entry of the mean loss's gradient at which a logistic fit has converged.
        gram: ``x.T @ x`` if already known; only speeds the logistic solver up.

    Yields:
        A model per penalty, warm-started from the one before.
    """
    weight = np.ones(len(x)) if sample_weight is None else np.asarray(sample_weight, np.float64)
    # A small C and a large alpha regularise strongly.
    grid = sorted(set(penalties), reverse=num_classes is None)
    if solver == "sklearn":
        yield from _sklearn_path(x, y, num_classes, grid, weight, tol)
    elif num_classes is None:
        yield from _ridge_path(x, y, grid, weight)
    else:
        yield from _logistic_path(x, y, num_classes, grid, weight, tol, gram)


def _logistic_path(
    x: Array,
    y: Array,
    num_classes: int,
    penalties: Sequence[float],
    weight: Array,
    tol: float,
    gram: Array | None,
) -> Iterator[Linear]:
    num_outputs = 1 if num_classes == 2 else num_classes
    curvature = 0.25 if num_classes == 2 else 0.5
    total = float(weight.sum())
    if gram is None:
        gram = x.T @ x
    w = np.zeros((num_outputs, x.shape[1]))
    b = np.zeros(num_outputs)
    for penalty in penalties:
        factor = _upper_factor(gram, curvature * penalty * float(weight.max()))
        bias_scale = np.sqrt(curvature * penalty * total)
        w, b, converged, iterations = _lbfgs(
            _logistic_loss(x, y, num_outputs, weight),
            w,
            b,
            penalty,
            factor,
            bias_scale,
            tol * total,
        )
        yield Linear(w.astype(np.float32), b.astype(np.float32), penalty, converged, iterations)


def _upper_factor(gram: Array, factor: float) -> Array:
    """Upper Cholesky factor of ``factor * gram + I``; it only preconditions: jitter is harmless."""
    jitter = 1.0
    while True:
        matrix = gram * np.float32(factor)
        matrix[np.diag_indices_from(matrix)] += np.float32(jitter)
        try:
            return np.asarray(linalg.cholesky(matrix, overwrite_a=True, check_finite=False))
        except linalg.LinAlgError:
            jitter = 10 * jitter + 1e-6 * float(np.trace(gram)) * factor


def _logistic_loss(
    x: Array, y: Array, num_outputs: int, weight: Array
) -> Callable[[Array, Array], tuple[float, Array, Array]]:
    """Pure function ``(W, b) -> (loss, gradient of W, gradient of b)`` summed over the rows."""
    rows = np.arange(len(x))

    def binary(w: Array, b: Array) -> tuple[float, Array, Array]:
        z = (x @ w[0].astype(np.float32)).astype(np.float64) + b[0]
        loss = weight @ (np.logaddexp(0.0, z) - y * z)
        residual = weight * (special.expit(z) - y)
        return float(loss), (residual.astype(np.float32) @ x)[None], residual.sum(keepdims=True)

    def softmax(w: Array, b: Array) -> tuple[float, Array, Array]:
        z = (x @ w.T.astype(np.float32)).astype(np.float64) + b
        log_sum = special.logsumexp(z, axis=1)
        loss = weight @ (log_sum - z[rows, y])
        residual = np.exp(z - log_sum[:, None])
        residual[rows, y] -= 1.0
        residual *= weight[:, None]
        return float(loss), residual.T.astype(np.float32) @ x, residual.sum(axis=0)

    return binary if num_outputs == 1 else softmax


def _lbfgs(
    loss: Callable[[Array, Array], tuple[float, Array, Array]],
    w: Array,
    b: Array,
    penalty: float,
    factor: Array,
    bias_scale: float,
    tol: float,
) -> tuple[Array, Array, bool, int]:
    """Minimise ``1/2 ||W||^2 + penalty * loss`` in coordinates ``W factor^T``, ``b bias_scale``."""
    shape = w.shape
    gradient_size = np.inf

    def unpack(v: Array) -> tuple[Array, Array]:
        body = v[: w.size].reshape(shape).astype(np.float32)
        solved = linalg.solve_triangular(factor, body.T, check_finite=False).T
        return solved.astype(np.float64), v[w.size :] / bias_scale

    def objective(v: Array) -> tuple[float, Array]:
        nonlocal gradient_size
        weights, bias = unpack(v)
        value, grad_w, grad_b = loss(weights, bias)
        grad_w = weights + penalty * grad_w
        gradient_size = max(np.abs(grad_w).max() / penalty, np.abs(grad_b).max())
        body = linalg.solve_triangular(
            factor, grad_w.T.astype(np.float32), trans="T", check_finite=False
        ).T
        full = np.concatenate([body.ravel(), penalty * grad_b / bias_scale])
        return 0.5 * float(np.vdot(weights, weights)) + penalty * value, full.astype(np.float64)

    def stop(_: Array) -> None:
        if gradient_size <= tol:
            raise StopIteration

    start = np.concatenate([(w @ factor.T.astype(np.float64)).ravel(), b * bias_scale])
    result = optimize.minimize(  # type: ignore[call-overload, unused-ignore]
        objective,
        start,
        jac=True,
        method="L-BFGS-B",
        callback=stop,
        options={"maxiter": MAX_ITERATIONS, "maxcor": 20, "ftol": 0.0, "gtol": 0.0},
    )
    weights, bias = unpack(result.x)
    objective(result.x)
    # Near float32's resolution the line search stalls; ten times the tolerance is close enough.
    return weights, bias, bool(gradient_size <= 10 * tol), int(result.nit)


def _ridge_path(x: Array, y: Array, penalties: Sequence[float], weight: Array) -> Iterator[Linear]:
    """Closed form; in the features or, when there are fewer rows, in the rows."""
    keep = weight > 0
    rows, target, root = x[keep], y[keep].astype(np.float64), np.sqrt(weight[keep])
    x_mean = (weight[keep] @ rows) / weight.sum()
    y_mean = float(weight[keep] @ target / weight.sum())
    rows = (rows - x_mean.astype(np.float32)) * root[:, None].astype(np.float32)
    target = (target - y_mean) * root
    primal = rows.shape[0] >= rows.shape[1]
    gram = (rows.T @ rows if primal else rows @ rows.T).astype(np.float64)
    right = rows.T.astype(np.float64) @ target if primal else target
    for penalty in penalties:
        matrix = gram.copy()
        matrix[np.diag_indices_from(matrix)] += penalty
        solved = linalg.solve(matrix, right, assume_a="pos", overwrite_a=True, check_finite=False)
        w = solved if primal else rows.T.astype(np.float64) @ solved
        b = y_mean - w @ x_mean
        yield Linear(w[None].astype(np.float32), np.array([b], np.float32), penalty)


def _sklearn_path(
    x: Array,
    y: Array,
    num_classes: int | None,
    penalties: Sequence[float],
    weight: Array,
    tol: float,
) -> Iterator[Linear]:
    from sklearn.linear_model import LogisticRegression, Ridge

    keep = weight > 0
    present = np.unique(y[keep]) if num_classes is not None else np.empty(0)
    for penalty in penalties:
        if num_classes is None:
            model = Ridge(alpha=penalty).fit(x[keep], y[keep], sample_weight=weight[keep])
            yield Linear(_float32(model.coef_[None]), _float32([model.intercept_]), penalty)
            continue
        w = np.zeros((1 if num_classes == 2 else num_classes, x.shape[1]))
        b = np.full(len(w), -ABSENT_LOGIT)
        if len(present) > 1:
            model = LogisticRegression(C=penalty, tol=tol, max_iter=10 * MAX_ITERATIONS)
            model.fit(x[keep].astype(np.float64), y[keep], sample_weight=weight[keep])
            if len(present) == 2 and num_classes > 2:
                # One logit for two of the classes: half of it for each has the same difference.
                w[present] = model.coef_ * np.array([[-0.5], [0.5]])
                b[present] = model.intercept_ * np.array([-0.5, 0.5])
            else:
                rows = [0] if num_classes == 2 else present
                w[rows], b[rows] = model.coef_, model.intercept_
        elif num_classes > 2 or present[0] == 1:
            b[present if num_classes > 2 else [0]] = ABSENT_LOGIT
        yield Linear(_float32(w), _float32(b), penalty)


def _float32(values: Any) -> Array:
    return np.asarray(values, dtype=np.float32)
