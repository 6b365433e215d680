"""Ridge regression from Gram matrices: every penalty, target and fold without further passes.

The Gram of a weighting is a weighted sum of the Grams of groups of rows (a fold's is the whole
less the held-out part), found in one pass for all folds. Each system is factored in float32 and
refined in float64, or factored in float64 where it is too badly conditioned for that. With fewer
rows than features the systems are those of the rows (the kernel form).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import linalg

from pipeline.linear.design import Design
from pipeline.linear.gram import group_grams
from pipeline.linear.losses import Loss
from pipeline.linear.products import factorise

Array = NDArray[Any]
REFINEMENTS = 4
RESIDUAL = 1e-9
MAX_GROUPS = 10
"""Grams to sum up in one pass: the folds of one target, or of several that agree on most."""
KERNEL_FEATURES = 512
"""Features widened to float64 at a time."""


def ridge_bytes(num_rows: int, num_features: int, num_folds: int, num_targets: int) -> int:
    """Most bytes that the matrices take.

    Float64: the Grams of groups of rows, a weighted sum of them and a factor if need be; float32: a
    copy of the sum and its factor. With fewer rows than features, their kernel and the rows.
    """
    n, size = num_rows, num_features
    if n < size:
        return 40 * n * n + 16 * n * size
    groups = min(MAX_GROUPS, num_folds if num_targets == 1 else (num_folds + 1) ** num_targets)
    return (8 * max(1, groups) + 8 + 8 + 4 + 4) * size * size


def solve_ridge(
    design: Design, losses: Sequence[Loss], right: Array, alphas: Sequence[float]
) -> Iterator[tuple[list[int], float, Array]]:
    """Ridge solutions.

    Args:
        design: the standardised rows.
        losses: of kind ``"squared"``.
        right: ``(losses, features + 1)`` float64, ``sum_i s_i y_i (x_i, 1)`` of each.
        alphas: penalties.

    Yields:
        ``(losses, alpha, (losses, features + 1))``: float64, for each weighting and penalty.
    """
    weightings: dict[bytes, list[int]] = {}
    for i, loss in enumerate(losses):
        weightings.setdefault(loss.weight.tobytes(), []).append(i)
    members = list(weightings.values())
    weights = [losses[m[0]].weight.astype(np.float64) for m in members]
    if design.num_rows < design.num_features:
        yield from _kernel_solutions(design, losses, members, weights, alphas)
        return
    for chosen, (gram, sums), weight in zip(
        members, weighted_grams(design, weights), weights, strict=True
    ):
        total = weight.sum()
        mean = sums / total
        torch.from_numpy(gram).addr_(
            torch.from_numpy(mean), torch.from_numpy(mean), alpha=-float(total)
        )
        part = right[chosen]
        centred = (part[:, :-1] - part[:, -1:] * mean).T
        narrow = gram.astype(np.float32)
        for alpha in alphas:
            w = solve_shifted(gram, alpha, centred, narrow=narrow).T
            b = part[:, -1] / total - w @ mean
            yield chosen, alpha, np.concatenate([w, b[:, None]], axis=1)


def weighted_grams(design: Design, weights: Sequence[Array]) -> Iterator[tuple[Array, Array]]:
    """``sum_i s_i x_i x_i^T`` and ``sum_i s_i x_i`` for each weighting ``s`` ``(n,)``, float64.

    Weightings that are constant on few groups of rows, such as folds, share one pass.
    """
    values, groups = np.unique(np.stack(weights), axis=1, return_inverse=True)
    groups = groups.ravel()
    used = np.flatnonzero(values.any(axis=0))
    if len(used) <= min(MAX_GROUPS, 2 * len(weights)):
        renumbered = np.full(values.shape[1], -1)
        renumbered[used] = np.arange(len(used))
        grams, sums = group_grams(design, renumbered[groups], len(used))
        for row in values[:, used]:
            if len(used) == 1:
                yield grams[0] * row[0] if row[0] != 1 else grams[0], sums[0] * row[0]
            else:
                yield np.tensordot(row, grams, axes=1), row @ sums
        return
    for weight in weights:
        root = np.sqrt(weight)
        grams, sums = group_grams(design, np.where(weight > 0, 0, -1), 1, root)
        yield grams[0], sums[0]


def solve_shifted(gram: Array, alpha: float, right: Array, *, narrow: Array | None = None) -> Array:
    """Solve ``(gram + alpha I) w = right`` for symmetric float64 ``gram``: ``(features, k)``.

    ``narrow`` is the same matrix in float32, C order, for callers with many ``alpha``.
    """
    matrix = (gram.astype(np.float32) if narrow is None else narrow.copy()).T
    diagonal = np.diag_indices_from(matrix)
    matrix[diagonal] += np.float32(alpha)
    try:
        factor = factorise(matrix)
    except linalg.LinAlgError:
        return _solve_exactly(gram, alpha, right)
    size = max(float(np.abs(right).max(initial=0)), np.finfo(float).tiny)
    w: Array = np.zeros_like(right)
    residual = right
    for _ in range(REFINEMENTS):
        scale = float(np.abs(residual).max(initial=0)) or 1.0
        step = linalg.cho_solve(
            (factor, True), (residual / scale).astype(np.float32), check_finite=False
        )
        w = w + step * scale
        before, residual = scale, right - gram @ w - alpha * w
        largest = float(np.abs(residual).max(initial=0))
        if largest <= RESIDUAL * size:
            return w
        if not largest < 0.3 * before:
            break
    return _solve_exactly(gram, alpha, right)


def _solve_exactly(gram: Array, alpha: float, right: Array) -> Array:
    matrix = gram.copy(order="F")
    matrix[np.diag_indices_from(matrix)] += alpha
    try:
        return np.asarray(
            linalg.solve(matrix, right, assume_a="pos", overwrite_a=True, check_finite=False)
        )
    except linalg.LinAlgError:
        # Rounding of the Gram hides so small an alpha: no solution, which a pass will tell.
        return np.zeros_like(right)


def _kernel_solutions(
    design: Design,
    losses: Sequence[Loss],
    members: Sequence[list[int]],
    weights: Sequence[Array],
    alphas: Sequence[float],
) -> Iterator[tuple[list[int], float, Array]]:
    xt = np.empty((design.num_features, design.num_rows), np.float32)
    for rows, block in design.blocks():
        xt[:, rows] = block
    # float64: under weak penalties the rows are nearly interpolated, all but the rounding.
    kernel = np.zeros((design.num_rows, design.num_rows))
    for start in range(0, design.num_features, KERNEL_FEATURES):
        part = xt[start : start + KERNEL_FEATURES].astype(np.float64)
        kernel += part.T @ part
    for chosen, weight in zip(members, weights, strict=True):
        keep = np.flatnonzero(weight > 0)
        w, root = weight[keep], np.sqrt(weight[keep])
        total = w.sum()
        part = kernel[np.ix_(keep, keep)]
        row_mean = part @ w / total
        part -= row_mean + row_mean[:, None] - w @ row_mean / total
        part *= root * root[:, None]
        y = np.stack([losses[i].target[keep].astype(np.float64) for i in chosen], axis=1)
        y_mean = w @ y / total
        x_mean = xt[:, keep] @ (w / total)
        narrow = part.astype(np.float32)
        for alpha in alphas:
            dual = solve_shifted(part, alpha, (y - y_mean) * root[:, None], narrow=narrow)
            # Exactly orthogonal to the intercept's direction, in which only alpha damps rounding.
            dual -= np.outer(root / total, root @ dual)
            dual *= root[:, None]
            theta = (xt[:, keep].astype(np.float64) @ dual).T
            bias = y_mean - theta @ x_mean
            yield chosen, alpha, np.concatenate([theta, bias[:, None]], axis=1)
