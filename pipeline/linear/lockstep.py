"""Many descents side by side: every pass over the rows serves all that are not done.

A round of :class:`JointDescent`, ``d`` being every :class:`pipeline.linear.lbfgs.Descent`::

    d.ask()              where to evaluate
       │                     Losses.evaluate: one pass over the rows (float64 after float32)
    d.tell()             loss and gradient there: on along the line, or a direction is needed
    d.right_sides()      gradients
       │                     Preconditioner.solve: one for all that share it at one scale
    d.turn()             solved: a new line, or an optimum and a direction for the next penalty
       └── next round

The layer's Gram matrix preconditions a path of many penalties, and few of them if they prove hard;
the Hessian at hand a fit that is slow even so (nearly separable classes at a weak penalty: most
rows have no curvature left, so the Gram says little about the Hessian).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.linear.design import Design
from pipeline.linear.gram import design_gram, hessian_gram, sample_step
from pipeline.linear.lbfgs import Descent, Optimum
from pipeline.linear.losses import Kind, Loss, Losses
from pipeline.linear.precondition import (
    MAX_HESSIANS,
    MIN_FACTORS,
    Diagonal,
    Dual,
    Hessians,
    Preconditioner,
    Primal,
)
from pipeline.linear.threads import BlockThreads

Array = NDArray[Any]
Method = Literal["auto", "plain", "gram"]
METHODS: tuple[Method, ...] = ("auto", "plain", "gram")
EASY_PASSES = 20
"""Passes for one C of an easy plain fit: a Gram matrix that costs less is made at once."""
PRECONDITIONED_PASSES = 15
"""Passes that a fit still needs once a Gram matrix preconditions it."""
PRODUCTS_PER_PASS = 50.0
"""Multiplications in a Gram that take as long as one value of a pass, before any column."""
PRODUCTS_PER_COLUMN = 2.5
"""As many more for each column of the pass."""
SLOW_ITERATIONS = 40
"""Iterations at one C after which the Hessian at hand is made, at the earliest."""
MEMORY = 20
"""Curvature pairs to keep."""
CURVATURE: dict[Kind, float] = {"binary": 0.25, "softmax": 0.5, "squared": 1.0}
"""Largest second derivative of a loss in the output (Boehning 1992)."""


def gram_passes(design: Design, num_columns: int, side: int) -> float:
    """What a preconditioner of so many rows takes to make and factor, in passes of so many columns.

    Args:
        design: the rows.
        num_columns: of the passes.
        side: rows of the matrix: the features, or the design's rows if these are fewer.
    """
    n, size = design.num_rows, design.num_features
    sample = len(range(0, n, sample_step(n, size)))
    per_value = PRODUCTS_PER_PASS + PRODUCTS_PER_COLUMN * num_columns
    return (sample * size * side + side**3 / 3) / (per_value * n * size)


def has_hessians(num_rows: int, num_features: int) -> bool:
    """Whether Hessians may be made: with far fewer rows than features they take too long."""
    return 2 * num_rows >= num_features


def descent_bytes(num_rows: int, num_features: int) -> int:
    """Most bytes that a descent's matrices take: the Gram, factors, Hessians with a factor each."""
    side = min(num_rows, num_features)
    grams = (1 + MIN_FACTORS) * side * side
    rows = num_rows * num_features if num_rows < num_features else 0
    hessians = 2 * MAX_HESSIANS * num_features**2 if has_hessians(num_rows, num_features) else 0
    return 4 * (grams + rows + hessians)


def make_preconditioner(design: Design, gram: Array | None = None) -> Preconditioner:
    """The cheaper form for a design: in the features, or in its fewer rows."""
    n, size = design.num_rows, design.num_features
    if gram is None and n < size:
        xt = np.empty((size, n), np.float32)
        for rows, block in design.blocks():
            xt[:, rows] = block
        return Dual(xt)
    return Primal(design_gram(design, sample_step(n, size)) if gram is None else gram, n)


class JointDescent:
    """Descends to the optima of several losses at once.

    Args:
        design: the standardised rows.
        losses: what to minimise, beside the penalty.
        strengths: every C of each loss, smallest first.
        tol: see :class:`Descent`.
        gram: ``(features, features)`` float32 Gram of the rows, if known.
        method: "gram" preconditions from the start, "plain" never; "auto" decides.
        starts: ``(outputs, features + 1)`` float64 of each loss, or None for zeros.
        threads: to run passes on.
    """

    def __init__(
        self,
        design: Design,
        losses: Sequence[Loss],
        strengths: Sequence[Sequence[float]],
        *,
        tol: float,
        gram: Array | None,
        method: Method,
        starts: Sequence[Array | None],
        threads: BlockThreads,
    ) -> None:
        self.design = design
        self.losses = Losses(design, losses, threads)
        self.method = method
        self._gram = gram
        columns = sum(loss.num_outputs for loss in losses)
        n, size = design.num_rows, design.num_features
        self.gram_passes = gram_passes(design, columns, min(n, size))
        # A Hessian made after as many passes as it costs pays, or nearly.
        self._patience = (
            max(SLOW_ITERATIONS, gram_passes(design, columns, size))
            if has_hessians(n, size)
            else np.inf
        )
        self.plain = method == "plain" or (
            method == "auto"
            and gram is None
            and max(map(len, strengths)) * EASY_PASSES < self.gram_passes
        )
        self.descents = [
            Descent(
                (loss.num_outputs, size + 1), grid, loss.total, tol=tol, memory=MEMORY, start=start
            )
            for loss, grid, start in zip(losses, strengths, starts, strict=True)
        ]
        self._shared: Preconditioner = Diagonal(n) if self.plain else self._of_gram()
        self._hessians = Hessians()

    def run(self) -> list[list[Optimum]]:
        """Descend to the end: one optimum per loss and strength."""
        while any(descent.ask() is not None for descent in self.descents):
            if self.plain and self.method == "auto" and self._is_hard():
                self.plain = False
                self._shared = self._of_gram()
                for descent in self.descents:
                    descent.num_slow = 0
            needing = self._evaluate()
            if not self.plain:
                for i in needing:
                    if self.descents[i].num_slow >= self._patience:
                        self._use_hessian(i)
            while needing:
                needing = self._give_directions(needing)
        return [descent.optima for descent in self.descents]

    def _evaluate(self) -> list[int]:
        """Answer all that ask; returns the descents that now need a direction."""
        needing = []
        for precise in (False, True):
            points = {
                i: point
                for i, descent in enumerate(self.descents)
                if descent.precise == precise and (point := descent.ask()) is not None
            }
            if points:
                dtype = torch.float64 if precise else torch.float32
                for i, found in self.losses.evaluate(points, dtype).items():
                    if self.descents[i].tell(*found):
                        needing.append(i)
        return needing

    def _is_hard(self) -> bool:
        """Whether to go on plain would take longer than a Gram matrix and what it leaves to do.

        The Gram is made at the latest when as many passes have been spent as it takes, so that at
        worst the time is about doubled (the ski-rental rule of online algorithms).
        """
        if self.losses.num_passes >= self.gram_passes:
            return True
        ahead = max(each.forecast() for each in self.descents if each.ask() is not None)
        return ahead > self.gram_passes + PRECONDITIONED_PASSES

    def _of_gram(self) -> Preconditioner:
        return make_preconditioner(self.design, self._gram)

    def _use_hessian(self, i: int) -> None:
        """Precondition a slow descent by the Hessian where it is, or where one like it was."""
        descent, loss = self.descents[i], self.losses.each[i]
        descent.num_slow = 0
        theta = descent.theta

        def make() -> Array:
            every = sample_step(self.design.num_rows, self.design.num_features)
            return hessian_gram(
                self.design, lambda rows, block: loss.curvature(theta, rows, block), every
            )

        self._hessians.keep(i, (self.losses.target_key(i), descent.strength), make)

    def _preconditioner(self, i: int) -> tuple[Preconditioner, float]:
        """What to precondition a descent with, and at which scale."""
        strength, loss = self.descents[i].strength, self.losses.each[i]
        hessian = self._hessians.get(i)
        if hessian is not None:
            return hessian, strength
        share = loss.total / self.design.num_rows
        return self._shared, CURVATURE[loss.kind] * strength * share

    def _give_directions(self, needing: Sequence[int]) -> list[int]:
        """Turn some descents; returns those that went on to their next penalty."""
        halves = {i: self.descents[i].right_sides() for i in needing}
        batches: dict[tuple[int, float], list[int]] = {}
        for i in needing:
            inverse, scale = self._preconditioner(i)
            batches.setdefault((id(inverse), scale), []).append(i)
        first = self.design.num_features**-0.5 if self.plain else 1.0
        again = []
        for members in batches.values():
            inverse, scale = self._preconditioner(members[0])
            right = [part for i in members for part in halves[i] if part is not None]
            inverse.factor(scale)
            with self.losses.threads.single_threaded_blas():
                solved = inverse.solve(scale, np.concatenate(right))
            parts = iter(np.split(solved, np.cumsum([len(part) for part in right])[:-1]))
            for i in members:
                applied = next(parts)
                change = None if halves[i][1] is None else next(parts)
                if self.descents[i].turn(applied, change, first):
                    again.append(i)
        return again
