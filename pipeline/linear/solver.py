"""Exact linear models, many at once, from few passes over a layer that need not fit in memory.

``solve_paths`` fits every objective (a target, or a fold of one) for every penalty. All advance in
lock step: a pass over the design evaluates one point of each with one matrix product per block, in
float32 with float64 sums. Classification descends by L-BFGS, all but easy fits in the metric of the
layer's Gram matrix (:mod:`pipeline.linear.precondition`), which takes some ten passes per penalty
however badly scaled the features are; a Gram of a sample of the rows only preconditions, so the
optimum stays exact. Ridge comes from the Gram alone and is checked by a pass. The objectives are
scikit-learn's (:mod:`pipeline.linear.fitted`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import ProbeError
from pipeline.linear.design import Design
from pipeline.linear.fitted import Linear, all_classes
from pipeline.linear.labelwise import Objective, Starts, solve_by_label
from pipeline.linear.lockstep import METHODS, JointDescent, Method
from pipeline.linear.losses import Loss, Losses
from pipeline.linear.ridge import solve_ridge
from pipeline.linear.threads import BlockThreads

Array = NDArray[Any]
RIDGE_GAP = 1e-2
"""The bound on a ridge solution's relative gap may be at most this share of the tolerance."""


def solve_paths(
    design: Design,
    objectives: Sequence[Objective],
    penalties: Sequence[float],
    *,
    tol: float = 1e-4,
    gram: Array | None = None,
    method: Method = "auto",
    starts: Starts = None,
) -> list[list[Linear]]:
    """Fit every objective for every penalty.

    Args:
        design: the standardised rows.
        objectives: what to fit; classification and regression may be mixed.
        penalties: C for classification, alpha for regression; above 0, in any order.
        tol: at the optimum no entry of the mean loss's gradient is larger, and the estimated
            relative gap of the objective is at most its square. The default leaves few decisions
            in ten thousand other than at the optimum.
        gram: ``(features, features)`` float32 Gram of these standardised rows or of a sample of
            them, scaled to their number; made if needed.
        method: "gram" preconditions from the start, "plain" never; "auto" decides. To compare them:
            their optima are the same.
        starts: models to start classification from.

    Returns:
        One list per objective with one model per penalty, in the order given. A model that did
        not reach its tolerance says so in ``converged``.

    Raises:
        ProbeError: a penalty or tolerance that is not positive, targets of another length, unknown
            method.
    """

    def solve(each: Sequence[Objective], begin: Starts) -> list[list[Linear]]:
        return _solve(design, each, penalties, tol, gram, method, begin)

    return solve_by_label(objectives, starts, solve)


def _solve(
    design: Design,
    objectives: Sequence[Objective],
    penalties: Sequence[float],
    tol: float,
    gram: Array | None,
    method: Method,
    starts: Starts,
) -> list[list[Linear]]:
    """:func:`solve_paths` without label sets."""
    _check(design, objectives, penalties, method, tol)
    models: dict[tuple[int, float], Linear] = {}
    fits = [_Fit.of(i, objective) for i, objective in enumerate(objectives)]
    active = [fit for fit in fits if fit.loss is not None]
    remaining: list[tuple[_Fit, list[float]]] = []
    for fit in fits:
        if fit.loss is None:
            for penalty in penalties:
                models[fit.index, penalty] = fit.model(None, design.num_features, penalty)
    with BlockThreads() as threads:
        regressions = [fit for fit in active if fit.num_classes is None]
        for fit, penalty, theta in _regress(design, regressions, penalties, tol, threads):
            models[fit.index, penalty] = fit.model(theta, design.num_features, penalty)
        for fit in active:
            grid = sorted({p for p in penalties if (fit.index, p) not in models}, key=fit.strength)
            if grid:
                remaining.append((fit, grid))
        if remaining:
            step = JointDescent(
                design,
                [fit.loss for fit, _ in remaining if fit.loss is not None],
                [[fit.strength(p) for p in grid] for fit, grid in remaining],
                tol=tol,
                gram=gram,
                method=method,
                starts=[None if starts is None else f.start(starts[f.index]) for f, _ in remaining],
                threads=threads,
            )
            for (fit, grid), optima in zip(remaining, step.run(), strict=True):
                for penalty, best in zip(grid, optima, strict=True):
                    models[fit.index, penalty] = fit.model(
                        best.theta,
                        design.num_features,
                        penalty,
                        best.converged,
                        best.num_iterations,
                    )
    return [[models[i, penalty] for penalty in penalties] for i in range(len(objectives))]


def _check(
    design: Design,
    objectives: Sequence[Objective],
    penalties: Sequence[float],
    method: str,
    tol: float,
) -> None:
    if method not in METHODS:
        raise ProbeError(f"method {method!r} is not one of {', '.join(METHODS)}")
    if not tol > 0:
        raise ProbeError(f"tol {tol!r}: must be above 0")
    for penalty in penalties:
        if not (penalty > 0 and np.isfinite(penalty)):
            raise ProbeError(f"penalty {penalty!r}: must be a positive number; remove it")
    for i, objective in enumerate(objectives):
        arrays = {"targets": objective.targets, "weight": objective.weight}
        for name, array in arrays.items():
            if array is not None and array.shape != (design.num_rows,):
                raise ProbeError(
                    f"objective {i}: {name} has shape {array.shape}, the design"
                    f" {design.num_rows} rows; give one for each row"
                )


@dataclass(frozen=True)
class _Fit:
    """An objective as a loss over the classes that have rows; none to fit without two of them."""

    index: int
    num_classes: int | None
    present: Array
    loss: Loss | None

    @classmethod
    def of(cls, index: int, objective: Objective) -> _Fit:
        targets = np.asarray(objective.targets)
        missing = np.isnan(targets) if objective.num_classes is None else targets < 0
        weight = np.ones(len(targets)) if objective.weight is None else objective.weight
        weight = np.where(missing, 0, weight).astype(np.float32)
        kept = weight > 0
        if objective.num_classes is None:
            values = np.where(missing, 0, targets).astype(np.float32)
            loss = Loss("squared", 1, values, weight) if kept.any() else None
            return cls(index, None, np.zeros(0, np.int64), loss)
        present = np.unique(targets[kept]).astype(np.int64)
        if len(present) < 2:
            return cls(index, objective.num_classes, present, None)
        if objective.num_classes == 2:
            sign = np.where(targets == 1, 1, -1).astype(np.float32)
            loss = Loss("binary", 1, sign, weight)
        else:
            codes = np.clip(np.searchsorted(present, targets), 0, len(present) - 1)
            loss = Loss("softmax", len(present), codes.astype(np.float32), weight)
        return cls(index, objective.num_classes, present, loss)

    def strength(self, penalty: float) -> float:
        """The factor C of the loss beside ``1/2 ||W||^2``."""
        return 1.0 / penalty if self.num_classes is None else penalty

    def model(
        self,
        theta: Array | None,
        num_features: int,
        penalty: float,
        converged: bool = True,
        num_iterations: int = 0,
    ) -> Linear:
        weights, bias = all_classes(theta, self.present, self.num_classes, num_features)
        return Linear(weights, bias, penalty, converged, num_iterations)

    def start(self, model: Linear | None) -> Array | None:
        """A point ``(outputs, features + 1)`` float64 from an earlier model."""
        if model is None:
            return None
        theta = np.concatenate([model.weights, model.bias[:, None]], axis=1).astype(np.float64)
        return theta[self.present] if (self.num_classes or 0) > 2 else theta


def _regress(
    design: Design,
    fits: Sequence[_Fit],
    penalties: Sequence[float],
    tol: float,
    threads: BlockThreads,
) -> Iterator[tuple[_Fit, float, Array]]:
    """Ridge solutions from Gram matrices, those that a pass over the rows confirms."""
    losses = [fit.loss for fit in fits if fit.loss is not None]
    if not losses:
        return
    zero = np.zeros((1, design.num_features + 1))
    at_zero = Losses(design, losses, threads).evaluate({i: zero for i in range(len(losses))})
    right = np.concatenate([-at_zero[i][1] for i in range(len(losses))])
    found = [
        (i, alpha, theta[None])
        for members, alpha, solutions in solve_ridge(design, losses, right, sorted(set(penalties)))
        for i, theta in zip(members, solutions, strict=True)
    ]
    repeated = Losses(design, [losses[i] for i, *_ in found], threads)
    unsure = {number: theta for number, (*_, theta) in enumerate(found)}
    # Where float32's rounding alone exceeds the bound, as for rows that are nearly interpolated,
    # float64 decides.
    for dtype in (torch.float32, torch.float64):
        values = repeated.evaluate(unsure, dtype) if unsure else {}
        for number, (loss, gradient) in values.items():
            i, alpha, theta = found[number]
            if is_ridge_optimum(theta, alpha, loss, gradient, losses[i].total, tol):
                del unsure[number]
                yield fits[i], alpha, theta


def is_ridge_optimum(
    theta: Array, alpha: float, loss: float, gradient: Array, total: float, tol: float
) -> bool:
    """Whether the gradient, and the bound on the gap that it gives, are within the tolerance.

    ``alpha / 2 ||w||^2 + loss`` is ``alpha``-strongly convex, so it lies at most
    ``||gradient||^2 / (2 alpha)`` above its minimum.
    """
    full = gradient.copy()
    full[:, :-1] += alpha * theta[:, :-1]
    value = loss + 0.5 * alpha * float(np.vdot(theta[:, :-1], theta[:, :-1]))
    gap = float(np.vdot(full, full)) / (2 * alpha)
    return bool(np.abs(full).max() <= tol * total and gap <= RIDGE_GAP * tol * value)
