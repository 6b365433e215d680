"""L-BFGS for one model along a path of penalties, driven from outside one evaluation at a time.

A :class:`Path` asks for the loss and its gradient at ``trial``; whoever drives it evaluates the
trials of many paths in one pass. Curvature pairs keep the loss's part apart from the penalty's, so
they stay exact when C changes and a path carries its history along (Nocedal & Wright 2006, ch. 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
MAX_ITERATIONS = 2000
MAX_BACKTRACKS = 6
SUFFICIENT_DECREASE = 1e-4
GAP_SHARE = 1e-2
"""The estimated relative gap to the optimum may be at most this share of the tolerance."""


@dataclass(frozen=True)
class Optimum:
    """Where a path ended for one penalty."""

    theta: Array
    converged: bool
    num_iterations: int


class Path:
    """Minimises ``1/2 ||W||^2 + C * loss(W, b)`` for each C of a path, warm-started.

    Args:
        shape: ``(outputs, features + 1)``, the bias last.
        strengths: every C, smallest first.
        total: sum of the row weights.
        tol: largest entry of the mean loss's gradient at the optimum, and (times ``GAP_SHARE``)
            largest estimated relative gap of the objective.
        memory: curvature pairs to keep.

    Attributes:
        trial: where to evaluate next; None when done.
        num_slow: iterations at this C since its preconditioner was chosen.
        precise: whether the evaluation should be in float64, because float32 has stalled.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        strengths: Sequence[float],
        total: float,
        *,
        tol: float,
        memory: int,
        start: Array | None = None,
    ) -> None:
        self.strengths = list(strengths)
        self.total = total
        self.tol = tol
        self.memory = memory
        self.precise = False
        self.optima: list[Optimum] = []
        self.theta = np.zeros(shape) if start is None else start
        self.trial: Array | None = self.theta
        self._loss = np.nan
        self._loss_gradient = np.zeros(shape)
        self._started = False
        self._pairs: list[tuple[Array, Array]] = []
        self._iterations = 0
        self.num_slow = 0
        self._backtracks = 0
        self._step = 1.0
        self._direction = np.zeros(shape)
        self._slope = 0.0
        self._restarted = False

    # -- the current objective ------------------------------------------------------------

    @property
    def strength(self) -> float:
        """The C at work."""
        return self.strengths[len(self.optima)]

    def _value(self, theta: Array, loss: float) -> float:
        return 0.5 * float(np.vdot(theta[:, :-1], theta[:, :-1])) + self.strength * loss

    def _gradient(self, theta: Array, loss_gradient: Array) -> Array:
        gradient = self.strength * loss_gradient
        gradient[:, :-1] += theta[:, :-1]
        return gradient

    # -- what an evaluation brings ---------------------------------------------------------

    def absorb(self, loss: float, loss_gradient: Array) -> bool:
        """Take the evaluation of ``trial``; returns whether a new direction is needed."""
        assert self.trial is not None
        trial = self.trial
        if not self._started:
            self._started = True
            self._loss, self._loss_gradient = loss, loss_gradient
            return True
        old = self._value(self.theta, self._loss)
        new = self._value(trial, loss)
        slope = float(np.vdot(self._gradient(trial, loss_gradient), self._direction))
        noise = (1e-13 if self.precise else 3e-7) * abs(old)
        decreases = new <= old + SUFFICIENT_DECREASE * self._step * self._slope
        # Where rounding hides the decrease, the slopes tell (Hager & Zhang 2005, eq. 4.1).
        flattens = new <= old + noise and slope <= (2 * SUFFICIENT_DECREASE - 1) * self._slope
        if not (np.isfinite(new) and (decreases or flattens)):
            return self._shorten(new - old)
        self._remember(trial - self.theta, loss_gradient - self._loss_gradient)
        self.theta, self._loss, self._loss_gradient = trial, loss, loss_gradient
        self._iterations += 1
        self.num_slow += 1
        self._backtracks = 0
        return True

    def _shorten(self, rise: float) -> bool:
        self._backtracks += 1
        if self._backtracks > MAX_BACKTRACKS:
            self._backtracks = 0
            return self._stall()
        factor = 0.1
        if np.isfinite(rise):
            factor = -self._slope * self._step / (2 * (rise - self._slope * self._step))
        self._step *= min(0.5, max(0.1, factor))
        self.trial = self.theta + self._step * self._direction
        return False

    def _stall(self) -> bool:
        """No decrease along a descent direction: forget, then use float64, then give up."""
        self._pairs.clear()
        if not self.precise:
            self.precise = True
            self._started = False
            self.trial = self.theta
            return False
        if not self._restarted:
            self._restarted = True
            return True
        self._finish(False)
        return self.trial is not None

    def _remember(self, move: Array, change: Array) -> None:
        curvature = self.strength * float(np.vdot(move, change)) + float(
            np.vdot(move[:, :-1], move[:, :-1])
        )
        if curvature <= 0:
            return
        self._pairs.append((move.astype(np.float32), change.astype(np.float32)))
        del self._pairs[: -self.memory]

    # -- directions: two halves around the preconditioner ------------------------------------

    def begin_direction(self) -> tuple[Array, Array | None]:
        """First half of the two-loop recursion.

        Returns:
            What the preconditioner is to be applied to: the reduced gradient, and the newest
            gradient change (None without history), ``(outputs, features + 1)`` float64 each.
        """
        q = self._gradient(self.theta, self._loss_gradient)
        self._used = []
        for move, change in reversed(self._pairs):
            y = self._change(move, change)
            rho = 1.0 / float(np.vdot(move.astype(np.float64), y))
            alpha = rho * float(np.vdot(move.astype(np.float64), q))
            q -= alpha * y
            self._used.append((move, y, rho, alpha))
        return q, self._used[0][1] if self._used else None

    def _change(self, move: Array, change: Array) -> Array:
        y = self.strength * change.astype(np.float64)
        y[:, :-1] += move[:, :-1]
        return y

    def end_direction(self, applied: Array, applied_change: Array | None, first: float) -> bool:
        """Second half; sets ``trial``, or finishes a penalty whose optimum is reached.

        Returns:
            Whether the next penalty now needs a direction.

        Args:
            applied: the preconditioned reduced gradient.
            applied_change: the preconditioned newest change.
            first: step to try without history.
        """
        direction = applied
        if applied_change is not None:
            _, y, rho, _ = self._used[0]
            direction = applied / (rho * float(np.vdot(y, applied_change)))
        for move, y, rho, alpha in reversed(self._used):
            beta = rho * float(np.vdot(y, direction))
            direction = direction + (alpha - beta) * move
        gradient = self._gradient(self.theta, self._loss_gradient)
        self._direction = -direction
        self._slope = float(np.vdot(gradient, self._direction))
        if self._slope >= 0 and gradient.any():
            self._pairs.clear()
            self._direction = -gradient / max(1.0, self.strength * self.total)
            self._slope = float(np.vdot(gradient, self._direction))
        optimal = self._is_optimal(gradient)
        if optimal or self._iterations >= MAX_ITERATIONS:
            self._finish(optimal)
            return self.trial is not None
        self._step = 1.0 if self._pairs else first
        self.trial = self.theta + self._step * self._direction
        return False

    def _is_optimal(self, gradient: Array) -> bool:
        largest = float(np.abs(gradient).max(initial=0)) / (self.strength * self.total)
        gap = -0.5 * self._slope
        value = self._value(self.theta, self._loss)
        return largest <= self.tol and gap <= GAP_SHARE * self.tol * value

    def _finish(self, converged: bool) -> None:
        self.optima.append(Optimum(self.theta.copy(), converged, self._iterations))
        self._iterations = 0
        self.num_slow = 0
        self._restarted = False
        if len(self.optima) == len(self.strengths):
            self.trial = None
            self._pairs.clear()
