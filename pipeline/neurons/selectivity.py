"""Label-shuffle control: how much of a probe's score is the probe's own capacity.

Hewitt & Liang 2019, "Designing and interpreting probes with control tasks": the same probe is
fitted to labels that are shuffled over the texts, and its *selectivity* is the score with the
labels less that with shuffled ones. On the validation rows shuffled labels cannot be predicted but
by chance; on the training rows their score says how much the probe memorises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.linear import Design, Linear, Objective, solve_paths
from pipeline.measures import score, utility
from pipeline.probes import Problem, design_outputs
from pipeline.texts import Rows

Array = NDArray[Any]


@dataclass(frozen=True)
class Selectivity:
    """Scores of one layer's probe and of its controls (means over the shuffles).

    Attributes:
        val, val_control: on the validation rows.
        train, train_control: on the training rows.
        selectivity: the metric's gain over the control on the validation rows, positive if the
            labels are better predicted.
    """

    val: float
    val_control: float
    train: float
    train_control: float
    selectivity: float


def shuffled(rows: Rows, draw: np.random.Generator) -> Array:
    """Targets ``(n,)`` dealt out anew; rows of one text share one."""
    _, first, sample = np.unique(rows.positions, return_index=True, return_inverse=True)
    return np.asarray(rows.targets[draw.permutation(first)][sample])


def selectivity(
    model: Linear,
    design: Design,
    train: Rows,
    x_val: Array,
    val: Rows,
    *,
    problem: Problem,
    weight: Array | None = None,
    shuffles: int = 5,
    seed: int = 0,
    tol: float = 1e-4,
) -> Selectivity:
    """Fit the controls of one layer, all in lock step.

    Args:
        model: the probe; its penalty serves the controls too.
        design: the layer's training rows.
        train: their positions and targets, in the design's order.
        x_val: ``(n, features)`` float32, standardised by the design's standardiser.
        val: the validation rows' positions and targets.
        problem: classes and metric.
        weight: ``(n,)`` row weights of the probe, in the design's order.
        shuffles: how many controls.
        seed: of the shuffles.
        tol: the solver's.
    """
    draw = np.random.default_rng(seed)
    controls = [(shuffled(train, draw), shuffled(val, draw)) for _ in range(shuffles)]
    objectives = [Objective(labels, problem.num_classes, weight) for labels, _ in controls]
    models = [path[0] for path in solve_paths(design, objectives, [model.penalty], tol=tol)]
    outputs = design_outputs(design, [model, *models])

    def value(targets: Array, z: Array) -> float:
        return score(problem.metric, targets, z, positive=problem.positive)

    def mean(values: list[float]) -> float:
        finite = [v for v in values if np.isfinite(v)]
        return float(np.mean(finite)) if finite else float("nan")

    val_score = value(val.targets, model.outputs(x_val))
    val_control = mean(
        [
            value(labels, control.outputs(x_val))
            for control, (_, labels) in zip(models, controls, strict=True)
        ]
    )
    train_control = mean(
        [value(labels, z) for z, (labels, _) in zip(outputs[1:], controls, strict=True)]
    )
    gain = utility(problem.metric, val_score) - utility(problem.metric, val_control)
    return Selectivity(
        val_score, val_control, value(train.targets, outputs[0]), train_control, gain
    )
