"""Linear models on chosen features of many sources: the salient ones, or random ones to compare.

The features are those of large weight in a model on all of them. The score of a row comes from a
model whose features, too, were chosen without the row's fold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from pipeline.heads.joint import Joint, JointFit, Sets
from pipeline.linear import INTERCEPT, solve_positive
from store.layout import Source

Array = NDArray[Any]
SCALES = (0.3, 1.0, 3.0, 10.0, 30.0)
"""Factors of the shares that are tried: fewer features carry less, so their penalty is weaker."""


def fit_chosen(
    joint: Joint,
    shares: dict[Source, float],
    chosen: Sequence[Sets],
    *,
    scale: float | None = None,
) -> JointFit:
    """Fit a model on chosen features.

    Args:
        joint: of the rows.
        shares: source -> its weight in the model on all features.
        chosen: the features of the model itself, then, where folds judge, those of the models
            without each fold of the first assignment, of the second one …; the same object where
            they are the same.
        scale: factor of the shares, such as that of a like model; default the best of ``SCALES``.
    """
    kernels = _kernels(joint, shares, chosen, joint.blocks[0])
    scale = _best_scale(joint, kernels) if scale is None else scale
    scaled = {source: share * scale for source, share in shares.items()}
    whole, *without = chosen
    number, size = len(joint.blocks), joint.goal.centred.shape[1]
    duals: list[Array] = []
    joined: list[list[Array]] = []
    seen = np.zeros((len(without) // joint.num_folds, len(joint.rows), size), np.float32)
    for block in joint.blocks:
        if block is not joint.blocks[0]:
            kernels = _kernels(joint, shares, chosen, block)
        own, *by_fold = kernels
        duals.append(_solve(joint, np.float32(scale) * own, block))
        joined.append([])
        for (assignment, held), unscaled in zip(_folds(joint, block), by_fold, strict=False):
            kernel = np.float32(scale) * unscaled
            if held.any():
                seen[assignment, block[held]] = _held_out(joint, kernel, block, held)
            if number > 1:
                rows = ~held if joint.is_apart else None
                joined[-1].append(_solve(joint, kernel, block, rows))
    weights, cross = _project(joint, scaled, whole, duals)
    constants = np.mean([INTERCEPT * dual.sum(axis=0, dtype=np.float64) for dual in duals], axis=0)
    if not joint.by_folds:
        outputs = (cross + constants)[joint.judged][None]
    else:
        outputs = seen / number
        for i, sets in enumerate(without if number > 1 else ()):
            _, others = _project(joint, scaled, sets, [own[i] for own in joined])
            for b, block in enumerate(joint.blocks):
                assignment, held = _folds(joint, block)[i]
                rest = sum(own[i].sum(axis=0) for c, own in enumerate(joined) if c != b)
                more = others[block[held]] + INTERCEPT * np.asarray(rest) / number
                outputs[assignment, block[held]] += more
    goal = joint.goal
    spread = goal.spread.astype(np.float32)
    return JointFit(
        scaled,
        {source: own * spread for source, own in weights.items()},
        constants * goal.spread + goal.center,
        np.asarray(outputs * spread + goal.center, np.float32),
    )


def _folds(joint: Joint, block: Array) -> list[tuple[int, Array]]:
    """Each assignment's folds: its number, and the mask of a block's rows in the fold."""
    return [
        (number, own[block] == k)
        for number, own in enumerate(joint.rows.folds)
        for k in range(joint.num_folds)
    ]


def _kernels(
    joint: Joint, shares: dict[Source, float], chosen: Sequence[Sets], block: Array
) -> list[Array]:
    """Kernels ``(n_b, n_b)`` float32 over the chosen features of a block, for each of the sets."""
    distinct = list({id(sets): sets for sets in chosen}.values())
    totals = [np.zeros((len(block),) * 2, np.float32) for _ in distinct]
    for source in shares:
        wanted = [(i, sets[source]) for i, sets in enumerate(distinct) if source in sets]
        if not wanted:
            continue
        x = joint.features.read(source, block)
        for i, features in wanted:
            part = x[:, features]
            product = part @ part.T
            if sparse.issparse(product):
                product = product.toarray()
            totals[i] += np.float32(shares[source]) * product
    places = {id(sets): i for i, sets in enumerate(distinct)}
    return [totals[places[id(sets)]] for sets in chosen]


def _best_scale(joint: Joint, kernels: Sequence[Array]) -> float:
    """The scale of least held-out error in the first block, walking from the middle."""
    block, goal = joint.blocks[0], joint.goal.centred
    folds = _folds(joint, block)
    by_fold = kernels[1:] if len(kernels) > 1 else [kernels[0]] * len(folds)
    folds = folds[: len(by_fold)]
    parts = [(held, kernel) for (_, held), kernel in zip(folds, by_fold, strict=True)]
    weight = np.ones(len(joint.rows)) if joint.weight is None else joint.weight

    def error(scale: float) -> float:
        total = 0.0
        for held, kernel in parts:
            if held.any():
                found = _held_out(joint, np.float32(scale) * kernel, block, held)
                miss = np.square(goal[block[held]] - found).sum(axis=1)
                total += float(weight[block[held]] @ miss)
        return total

    return walk(error, SCALES)


def walk(error: Callable[[float], float], values: Sequence[float]) -> float:
    """The value of least error, of errors that fall and then rise, from the third one on."""
    known: dict[int, float] = {}

    def at(i: int) -> float:
        if i not in known:
            known[i] = error(values[i])
        return known[i]

    place = 2
    while True:
        near = [i for i in (place - 1, place, place + 1) if 0 <= i < len(values)]
        best = min(near, key=at)
        if best == place:
            return values[place]
        place = best


def _solve(joint: Joint, kernel: Array, block: Array, rows: Array | None = None) -> Array:
    """Duals ``(n_b, outputs)`` float32 of a ridge model on some rows (a mask) of a block; without
    any the model is the mean of the targets, which are centred."""
    inside = np.ones(len(block), bool) if rows is None else rows
    found = np.zeros((len(block), joint.goal.centred.shape[1]), np.float32)
    if not inside.any():
        return found
    matrix = kernel[np.ix_(inside, inside)] + np.float32(INTERCEPT)
    noise = 1.0 if joint.weight is None else 1.0 / joint.weight[block[inside]].astype(np.float32)
    matrix[np.diag_indices_from(matrix)] += noise
    found[inside] = solve_positive(matrix, joint.goal.centred[block[inside]])
    return found


def _held_out(joint: Joint, kernel: Array, block: Array, held: Array) -> Array:
    """Scores of the rows of a mask by the model of the others."""
    dual = _solve(joint, kernel, block, ~held)
    return np.asarray(kernel[held] @ dual + INTERCEPT * dual.sum(axis=0))


def _project(
    joint: Joint, shares: dict[Source, float], sets: Sets, duals: Sequence[Array]
) -> tuple[dict[Source, Array], Array]:
    """Weights of the chosen features, and what blocks say of the rows of others."""
    weights, cross = {}, np.zeros((len(joint.rows), duals[0].shape[1]), np.float32)
    for source, features in sets.items():
        if len(features):
            columns = [np.float32(shares[source]) * dual for dual in duals]
            weights[source], seen = joint.project(source, columns, features)
            cross += seen
    return weights, cross
