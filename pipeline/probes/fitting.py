"""All probes of one layer together: targets, penalties and folds from the same passes.

``fit_probes`` takes two designs, of training and of validation rows, that several tasks share, and
where each task's rows lie in them. Every pass over a design serves all tasks; a text without a
task's label has weight 0 in it. Nothing but the designs is as large as the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import ProbeConfig
from pipeline.linear import (
    Design,
    Linear,
    Objective,
    sklearn_path,
    solve_by_label,
    solve_paths,
    sparse_path,
)
from pipeline.probes.model import Probe, ProbeFit, Problem, choose, row_weights

Array = NDArray[Any]
MIN_FITS = 3
"""Fits from which on a Gram matrix pays: it is kept, and serves the held-out folds too."""


@dataclass(frozen=True)
class ProbeTask:
    """One task on the rows of shared designs.

    Attributes:
        problem: classes and metric.
        train: ``(n,)`` int64 different rows of the training design, its labelled ones.
        y_train: ``(n,)`` int64 class indices or float64 values, or label sets ``(n, labels)``.
        val: ``(m,)`` int64 rows of the validation design.
        y_val: ``(m,)``.
        folds: ``(n,)`` fold of each training row; None for no out-of-fold models.
        num_folds: how many there are. Validation rows are in folds too, so that a fold may have no
            training row: the model without it is the whole one.
        weight: ``(n,)`` float64 sample weights, beside class weights; None for 1.
    """

    problem: Problem
    train: Array
    y_train: Array
    val: Array
    y_val: Array
    folds: Array | None = None
    num_folds: int = 0
    weight: Array | None = None

    def penalties(self, config: ProbeConfig) -> tuple[float, ...]:
        """Its grid: C of classes, alpha of values."""
        return config.alpha if self.problem.num_classes is None else config.C

    def objective(self, num_rows: int, config: ProbeConfig, fold: int | None = None) -> Objective:
        """Its fit on all its training rows, or on those outside a fold."""
        classes = self.problem.num_classes
        weight = np.ones(len(self.train)) if self.weight is None else self.weight
        balance = row_weights(self.y_train, self.problem, config)
        if balance is not None:
            weight = weight * balance
        if fold is not None:
            assert self.folds is not None
            weight = np.where(self.folds == fold, 0.0, weight)
        everywhere = np.zeros(num_rows)
        everywhere[self.train] = weight
        shape = (num_rows, *self.y_train.shape[1:])
        targets = np.full(shape, np.nan) if classes is None else np.full(shape, -1, np.int64)
        targets[self.train] = self.y_train
        return Objective(targets, classes, everywhere)


def fit_probes(
    train: Design,
    val: Design,
    tasks: Sequence[ProbeTask],
    *,
    config: ProbeConfig,
    gram: Callable[[], Array] | None = None,
) -> list[ProbeFit]:
    """Fit a probe per task, choosing each one's penalty on validation.

    Args:
        train: the training rows of all tasks.
        val: the validation rows, standardised like the training rows.
        tasks: what to fit.
        config: solver and penalties.
        gram: makes the Gram matrix of the training rows, ``(features, features)`` float32; called
            only if the fits are worth one. Default: the solver's own.

    Returns:
        A fit per task, in order.
    """
    solve = _Solver(train, config, gram, _num_fits(tasks, config))
    whole = [task.objective(train.num_rows, config) for task in tasks]
    paths: dict[int, list[Linear]] = {}
    for grid in dict.fromkeys(task.penalties(config) for task in tasks):
        members = [i for i, task in enumerate(tasks) if task.penalties(config) == grid]
        found = solve([whole[i] for i in members], grid, None)
        paths |= dict(zip(members, found, strict=True))
    outputs = design_outputs(val, [model for i in range(len(tasks)) for model in paths[i]])
    done = 0
    best, scores = [], []
    for i, task in enumerate(tasks):
        here = outputs[done : done + len(paths[i])]
        done += len(here)
        values = task.problem.score_all(task.y_val, [rows[task.val] for rows in here])
        best.append(choose(paths[i], values, task.problem))
        scores.append(values)
    held_out = _held_out(solve, tasks, [paths[i][b] for i, b in enumerate(best)], config)
    fits = []
    for i in range(len(tasks)):
        model = paths[i][best[i]]
        empty = np.empty((0, *model.weights.shape), np.float32)
        folds = held_out[i]
        probe = Probe(
            weights=model.weights,
            bias=model.bias,
            standardiser=train.standardiser,
            fold_weights=np.stack([m.weights for m in folds]) if folds else empty,
            fold_bias=np.stack([m.bias for m in folds]) if folds else empty[..., 0],
        )
        points = zip(paths[i], scores[i], strict=True)
        path = tuple((m.penalty, value, m.converged) for m, value in points)
        fits.append(ProbeFit(probe, model.penalty, scores[i][best[i]], path))
    return fits


def _num_fits(tasks: Sequence[ProbeTask], config: ProbeConfig) -> int:
    """Classification fits; ridge needs other Grams."""
    return sum(
        (task.y_train.shape[1] if task.problem.multilabel else 1)
        * (len(task.penalties(config)) + task.num_folds)
        for task in tasks
        if task.problem.num_classes is not None
    )


class _Solver:
    """Fits objectives on one design by the configured solver; makes the Gram once."""

    def __init__(
        self,
        design: Design,
        config: ProbeConfig,
        make_gram: Callable[[], Array] | None,
        num_fits: int,
    ) -> None:
        self.design = design
        self._config = config
        self._gram: Array | None = None
        worth = num_fits >= MIN_FITS and design.num_rows >= design.num_features
        self._make_gram = make_gram if worth else None
        self._in_memory = config.solver == "sklearn" or config.penalty != "l2"
        self._x = matrix(design) if self._in_memory else None

    def __call__(
        self,
        objectives: Sequence[Objective],
        penalties: Sequence[float],
        starts: Sequence[Linear] | None,
    ) -> list[list[Linear]]:
        """A path per objective; ``starts`` are models near the optima."""
        if (x := self._x) is not None:
            return solve_by_label(
                objectives, None, lambda each, _: [self._path(x, one, penalties) for one in each]
            )
        classes = objectives[0].num_classes is not None
        if classes and self._gram is None and self._make_gram is not None:
            self._gram = self._make_gram()
        return solve_paths(
            self.design,
            objectives,
            penalties,
            tol=self._config.tol,
            gram=self._gram if classes else None,
            starts=starts if classes else None,
        )

    def _path(self, x: Array, objective: Objective, penalties: Sequence[float]) -> list[Linear]:
        config = self._config
        if config.penalty == "l2":
            return sklearn_path(
                x,
                objective.targets,
                num_classes=objective.num_classes,
                penalties=penalties,
                sample_weight=objective.weight,
                tol=config.tol,
            )
        return sparse_path(
            x,
            objective.targets,
            num_classes=objective.num_classes,
            penalties=penalties,
            l1_ratio=1.0 if config.penalty == "l1" else config.l1_ratio,
            sample_weight=objective.weight,
            tol=config.tol,
        )


def _held_out(
    solve: _Solver, tasks: Sequence[ProbeTask], models: Sequence[Linear], config: ProbeConfig
) -> list[list[Linear]]:
    """The chosen models fitted again without each fold, those of one penalty in lock step."""
    wanted: dict[tuple[bool, float], list[tuple[int, Objective]]] = {}
    for i, (task, model) in enumerate(zip(tasks, models, strict=True)):
        for fold in range(task.num_folds):
            key = (task.problem.num_classes is None, model.penalty)
            objective = task.objective(solve.design.num_rows, config, fold)
            wanted.setdefault(key, []).append((i, objective))
    held_out: list[list[Linear]] = [[] for _ in tasks]
    for (_, penalty), fits in wanted.items():
        found = solve([o for _, o in fits], [penalty], [models[i] for i, _ in fits])
        for (i, _), (model,) in zip(fits, found, strict=True):
            held_out[i].append(model)
    return held_out


def design_outputs(design: Design, models: Sequence[Linear]) -> list[Array]:
    """Logits or values of each model on all rows, from one pass: ``(rows, outputs)`` float32."""
    weights = np.concatenate([model.weights for model in models])
    out = np.empty((design.num_rows, len(weights)), np.float32)
    for rows, block in design.blocks():
        out[rows] = (weights @ block).T
    out += np.concatenate([model.bias for model in models])
    ends = np.cumsum([len(model.weights) for model in models])
    return np.split(out, ends[:-1], axis=1)


def matrix(design: Design) -> Array:
    """A design as ``(rows, features)`` float32 in memory."""
    x = np.empty((design.num_rows, design.num_features), np.float32)
    for rows, block in design.blocks():
        x[rows] = block.T
    return x
