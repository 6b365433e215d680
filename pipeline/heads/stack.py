"""The stack: a weighted sum of heads' outputs, its few weights learnt on their out-of-fold outputs.

Weights are not negative, and drawn towards the plain mean; how strongly, the nested out-of-fold
loss decides. With few rows it is the mean: weights would fit what the heads' outputs on them, by
which the heads themselves were tuned, say too well. What is said of a row comes from weights that
were learnt without its fold. Source: Breiman 1996, "Stacked regressions".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from pipeline.heads.choice import Candidate, Judge, losses_of
from pipeline.measures import label_probabilities, probabilities

Array = NDArray[Any]
PULLS = (0.03, 0.3, np.inf)
"""Strengths, in nats or squared spreads a row, that are tried; infinite for the plain mean."""
ROWS_A_WEIGHT = 50
"""With fewer rows for each head, the plain mean."""


def stacked(judge: Judge, folds: Array, members: Sequence[Candidate]) -> Candidate:
    """Combine heads.

    Args:
        judge: of all heads.
        folds: ``(n,)`` fold of each judged row.
        members: heads of one model each, at least two.
    """
    outputs = np.stack([member.outputs for member in members]).astype(np.float64)
    pulls = PULLS if len(folds) >= ROWS_A_WEIGHT * len(members) else (np.inf,)
    found = {pull: _held_out(judge, outputs, folds, pull) for pull in pulls}
    pull = min(found, key=lambda one: losses_of(judge.problem, judge.targets, found[one]).mean())
    weights = _weights(judge, outputs, np.ones(len(folds), bool), pull)
    count = np.float32(len(members))  # a head is the mean of its parts
    parts = [
        part.rescaled(np.full(outputs.shape[2], weight * count), np.zeros(outputs.shape[2]))
        for member, weight in zip(members, weights, strict=True)
        for part in member.parts
    ]
    names = ", ".join(
        f"{weight:.2f} {member.kind}" for member, weight in zip(members, weights, strict=True)
    )
    return judge.candidate(
        "stack",
        parts,
        np.asarray(found[pull], np.float32)[None],
        selection=f"sum of {names}",
        are_logits=True,
    )


def _held_out(judge: Judge, outputs: Array, folds: Array, pull: float) -> Array:
    total = np.empty(outputs.shape[1:])
    for fold in np.unique(folds):
        held = folds == fold
        weights = _weights(judge, outputs, ~held, pull)
        total[held] = np.tensordot(weights, outputs[:, held], axes=1)
    return total


def _weights(judge: Judge, outputs: Array, rows: Array, pull: float) -> Array:
    """``(members,)`` of least loss on some rows (a mask), drawn towards the mean."""
    count = len(outputs)
    mean = np.full(count, 1.0 / count)
    if np.isinf(pull) or not rows.any():  # all that judge may be in one fold
        return mean
    z, targets = outputs[:, rows], judge.targets[rows]
    scale = 1.0
    if judge.problem.num_classes is None:
        scale = max(float(np.var(targets)), float(np.finfo(np.float32).tiny))

    def objective(weights: Array) -> tuple[float, Array]:
        total = np.tensordot(weights, z, axes=1)
        loss = float(losses_of(judge.problem, targets, total).mean()) / scale
        slope = _slopes(judge, targets, total)
        gradient = np.einsum("mnc,nc->m", z, slope) / (len(targets) * scale)
        apart = weights - mean
        return loss + 0.5 * pull * float(apart @ apart), gradient + pull * apart

    bounds = [(0.0, None)] * count
    return np.asarray(
        optimize.minimize(objective, mean, jac=True, method="L-BFGS-B", bounds=bounds).x
    )


def _slopes(judge: Judge, targets: Array, outputs: Array) -> Array:
    """Derivatives ``(n, outputs)`` of the rows' losses in their outputs."""
    if judge.problem.num_classes is None:
        return np.asarray(2 * (outputs[:, 0] - targets)[:, None])
    size = outputs.shape[1]
    if judge.problem.multilabel:
        return np.asarray((label_probabilities(outputs) - targets) / size)
    truth = np.eye(max(judge.problem.num_classes, 2))[targets][:, -size:]
    return np.asarray(probabilities(outputs)[:, -size:] - truth)
