"""Many descents side by side: every pass over the rows serves all that are not done.

:class:`JointDescent` drives :class:`pipeline.descent.Path` objects and chooses their
preconditioners: the layer's Gram matrix for a path of many penalties, and for few of them if they
prove hard; the Hessian at hand for a fit that is slow even so (nearly separable classes at a weak
penalty: most rows have no curvature left, so the Gram says little about the Hessian).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.descent import Optimum, Path
from pipeline.design import Design
from pipeline.gram import design_gram, hessian_gram, sample_step
from pipeline.losses import Kind, Losses, Problem, curvature
from pipeline.parallel import BlockThreads
from pipeline.precondition import (
    MIN_FACTORS,
    Diagonal,
    Dual,
    Preconditioner,
    Primal,
    Weighted,
)

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
MAX_HESSIANS = 4
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


def matrix_bytes(num_rows: int, num_features: int) -> int:
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
    """Descends several paths at once.

    Args:
        design: the standardised rows.
        problems: the losses.
        strengths: every C of each problem, smallest first.
        tol: see :class:`Path`.
        gram: ``(features, features)`` float32 Gram of the rows, if known.
        method: "gram" preconditions from the start, "plain" never; "auto" decides.
        starts: ``(outputs, features + 1)`` float64 of each problem, or None for zeros.
        threads: to run passes on.
    """

    def __init__(
        self,
        design: Design,
        problems: Sequence[Problem],
        strengths: Sequence[Sequence[float]],
        *,
        tol: float,
        gram: Array | None,
        method: Method,
        starts: Sequence[Array | None],
        threads: BlockThreads,
    ) -> None:
        self.design = design
        self.problems = problems
        self.losses = Losses(design, problems, threads)
        self.method = method
        self._gram = gram
        columns = sum(problem.num_outputs for problem in problems)
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
        self.paths = [
            Path(
                (problem.num_outputs, design.num_features + 1),
                grid,
                problem.total,
                tol=tol,
                memory=MEMORY,
                start=start,
            )
            for problem, grid, start in zip(problems, strengths, starts, strict=True)
        ]
        self._shared: Preconditioner = (
            Diagonal(design.num_rows) if self.plain else make_preconditioner(design, gram)
        )
        self._hessians: dict[tuple[int, float], Weighted] = {}
        self._own: dict[int, tuple[int, float]] = {}

    def run(self) -> list[list[Optimum]]:
        """Descend to the end: one optimum per problem and strength."""
        while any(path.trial is not None for path in self.paths):
            if self.plain and self.method == "auto" and self._is_hard():
                self.plain = False
                self._shared = make_preconditioner(self.design, self._gram)
                for path in self.paths:
                    path.num_slow = 0
            needing = []
            for precise in (False, True):
                points = {
                    i: path.trial
                    for i, path in enumerate(self.paths)
                    if path.trial is not None and path.precise == precise
                }
                if points:
                    dtype = torch.float64 if precise else torch.float32
                    for i, (loss, gradient) in self.losses.evaluate(points, dtype).items():
                        if self.paths[i].absorb(loss, gradient):
                            needing.append(i)
            if not self.plain:
                for i in needing:
                    if self.paths[i].num_slow >= self._patience:
                        self._use_hessian(i)
            while needing:
                needing = self._give_directions(needing)
        return [path.optima for path in self.paths]

    def _is_hard(self) -> bool:
        """Whether to go on plain would take longer than a Gram matrix and what it leaves to do.

        The Gram is made at the latest when as many passes have been spent as it takes, so that at
        worst the time is about doubled (the ski-rental rule of online algorithms).
        """
        if self.losses.num_passes >= self.gram_passes:
            return True
        ahead = max(path.forecast() for path in self.paths if path.trial is not None)
        return ahead > self.gram_passes + PRECONDITIONED_PASSES

    def _use_hessian(self, i: int) -> None:
        """Precondition a slow path by the Hessian where it is, or where one much like it was."""
        path = self.paths[i]
        path.num_slow = 0
        key = self.losses.target_key(i), path.strength
        if key not in self._hessians or self._own.get(i) == key:
            problem, theta = self.problems[i], path.theta
            self._hessians.pop(key, None)
            while len(self._hessians) >= MAX_HESSIANS:
                self._hessians.pop(next(iter(self._hessians)))
            self._hessians[key] = Weighted(
                hessian_gram(
                    self.design,
                    lambda rows, block: curvature(problem, theta, rows, block),
                    sample_step(self.design.num_rows, self.design.num_features),
                )
            )
        self._own[i] = key

    def _preconditioner(self, i: int) -> tuple[Preconditioner, float]:
        """What to precondition a path with, and at which scale."""
        path, problem = self.paths[i], self.problems[i]
        own = self._hessians.get(self._own[i]) if i in self._own else None
        if own is not None:
            return own, path.strength
        share = problem.total / self.design.num_rows
        return self._shared, CURVATURE[problem.kind] * path.strength * share

    def _give_directions(self, needing: Sequence[int]) -> list[int]:
        """Set the next trial of some paths; returns those that went on to their next penalty."""
        halves = {i: self.paths[i].begin_direction() for i in needing}
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
                if self.paths[i].end_direction(applied, change, first):
                    again.append(i)
        return again
