"""The frozen head's network: fitted by full-batch L-BFGS along a path of weight decays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special
from threadpoolctl import threadpool_limits

from pipeline.heads.model import Dense

Array = NDArray[Any]
DECAYS = (1e-4, 1e-3, 1e-2, 1e-1)
"""Weight decays tried, per row of the mean loss; a strong one could put out the hidden layer for
good, so it comes last."""
MAX_ITERATIONS = 100
"""For each decay; the weakest would go on for long to fit what does not hold."""
TOLERANCE = 1e-7
"""Relative decrease of the objective at which a fit ends; float32 sees no smaller one."""


def iterate_dense(
    z: Array,
    y: Array,
    *,
    num_classes: int | None,
    width: int,
    seed: int,
    weight: Array | None = None,
) -> Iterator[Dense]:
    """A network per weight decay, the weakest first, each started from the one before.

    Minimises the weighted mean loss (cross-entropy, or half the squared error) plus
    ``decay / 2 * ||W||^2`` over all weights.

    Args:
        z: ``(n, inputs)`` float32, of about unit scale.
        y: ``(n,)`` class indices, or values when ``num_classes`` is None.
        num_classes: number of classes; None for regression.
        width: of the hidden layer; 0 for none.
        seed: of the first start.
        weight: ``(n,)`` of the rows; None for all alike.
    """
    share = np.ones(len(y)) if weight is None else weight
    share = (share / share.sum()).astype(np.float32)
    z = np.ascontiguousarray(z, np.float32)
    num_outputs = num_classes if num_classes is not None and num_classes > 2 else 1
    center, spread = 0.0, 1.0
    if num_classes is None:
        center, spread = float(y.mean()), float(y.std()) or 1.0
    goal = ((y - center) / spread).astype(np.float32)
    inner = width or z.shape[1]
    shapes = [(width, z.shape[1]), (width,), (num_outputs, inner), (num_outputs,)]
    sizes = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    penalised = np.concatenate(
        [np.full(int(np.prod(shape)), float(len(shape) == 2)) for shape in shapes]
    )

    def unpack(theta: Array) -> list[Array]:
        parts = np.split(theta, sizes)
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def objective(theta: Array, decay: float) -> tuple[float, Array]:
        w1, b1, w2, b2 = unpack(theta.astype(np.float32))
        hidden = np.tanh(z @ w1.T + b1) if width else z
        out = hidden @ w2.T + b2
        loss, residual = _mean_loss(out, goal, share, num_classes)
        grad_w2, grad_b2 = residual.T @ hidden, residual.sum(0)
        back = (residual @ w2) * (1 - np.square(hidden)) if width else residual[:, :0]
        gradient = np.concatenate([(back.T @ z).ravel(), back.sum(0), grad_w2.ravel(), grad_b2])
        regular = penalised * theta
        return loss + 0.5 * decay * float(theta @ regular), gradient + decay * regular

    theta = np.random.default_rng(seed).normal(size=penalised.size) * penalised
    theta[: sizes[0]] /= np.sqrt(z.shape[1])
    theta[sizes[1] : sizes[2]] /= np.sqrt(inner)
    for decay in DECAYS:
        # The matrices are small: more threads than one only wait for each other.
        with threadpool_limits(1, user_api="blas"):
            theta = optimize.minimize(
                objective,
                theta,
                args=(decay,),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": MAX_ITERATIONS, "ftol": TOLERANCE},
            ).x
        w1, b1, w2, b2 = (part.astype(np.float32) for part in unpack(theta))
        scale = np.float32(spread)
        yield Dense(w1, b1, w2 * scale, b2 * scale + np.float32(center))


def _mean_loss(out: Array, y: Array, share: Array, num_classes: int | None) -> tuple[float, Array]:
    """Weighted mean loss and its gradient with respect to the outputs ``(n, outputs)``."""
    if num_classes is None:
        error = out[:, 0] - y
        return 0.5 * float(np.dot(share, np.square(error))), (share * error)[:, None]
    if num_classes == 2:
        margin = np.where(y > 0, out[:, 0], -out[:, 0])
        loss = np.logaddexp(0, -margin)
        slope = special.expit(-margin) * np.where(y > 0, -share, share)
        return float(np.dot(share, loss)), slope[:, None]
    rows, labels = np.arange(len(out)), y.astype(np.int64)
    logits = out - out.max(axis=1, keepdims=True)
    exponents = np.exp(logits)
    total = exponents.sum(axis=1)
    loss = np.log(total) - logits[rows, labels]
    residual = exponents / total[:, None]
    residual[rows, labels] -= 1.0
    return float(np.dot(share, loss)), residual * share[:, None]
