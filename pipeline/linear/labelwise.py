"""Label sets as one binary fit for each label, and the models of the labels as one again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.linear.fitted import Linear

Array = NDArray[Any]


@dataclass(frozen=True)
class Objective:
    """One fit.

    Attributes:
        targets: ``(n,)`` int64 classes or float64 values, in the design's row order, or label sets
            ``(n, labels)`` of 0 and 1, each label a binary fit. Negative classes and NaN are
            missing labels: those rows have no part in the fit.
        num_classes: number of classes or labels; None for regression.
        weight: ``(n,)`` float64 weight of each row, None for 1; 0 leaves a row out exactly.
    """

    targets: Array
    num_classes: int | None
    weight: Array | None = None

    def by_label(self) -> list[Objective]:
        """The binary objectives of label sets; otherwise itself."""
        if self.targets.ndim == 1:
            return [self]
        return [Objective(column, 2, self.weight) for column in self.targets.T]


Starts = Sequence[Linear | None] | None
Solve = Callable[[Sequence[Objective], Starts], list[list[Linear]]]


def solve_by_label(
    objectives: Sequence[Objective], starts: Starts, solve: Solve
) -> list[list[Linear]]:
    """Solve objectives, those of label sets label by label in the same call.

    Args:
        objectives: what to fit.
        starts: a model near each optimum, or None.
        solve: of objectives without label sets and their starts, a path for each.

    Returns:
        A path for each objective; a model of label sets has an output per label.
    """
    parts = [objective.by_label() for objective in objectives]
    flat = [one for own in parts for one in own]
    begin: Starts = None
    if starts is not None:
        begin = [
            model if model is None or len(own) == 1 else _row(model, i)
            for model, own in zip(starts, parts, strict=True)
            for i in range(len(own))
        ]
    paths = iter(solve(flat, begin))
    out = []
    for own in parts:
        found = [next(paths) for _ in own]
        out.append([_joined(models) for models in zip(*found, strict=True)])
    return out


def _row(model: Linear, label: int) -> Linear:
    rows = slice(label, label + 1)
    return Linear(model.weights[rows], model.bias[rows], model.penalty)


def _joined(models: Sequence[Linear]) -> Linear:
    if len(models) == 1:
        return models[0]
    return Linear(
        np.concatenate([model.weights for model in models]),
        np.concatenate([model.bias for model in models]),
        models[0].penalty,
        all(model.converged for model in models),
        max(model.num_iterations for model in models),
    )
