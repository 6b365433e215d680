"""L-BFGS for one model along a path of penalties, driven from outside one evaluation at a time.

A :class:`Path` asks for the loss and its gradient at ``trial``; whoever drives it evaluates the
trials of many paths in one pass. Curvature pairs keep the loss's part apart from the penalty's, so
they stay exact when C changes and a path carries its history along (Nocedal & Wright 2006, ch. 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
MAX_ITERATIONS = 2000
MAX_BACKTRACKS = 6
FORECAST_AFTER = 15
"""Iterations after which a forecast is more than a guess."""
FORECAST_SHARE = 0.7
"""Share of the iterations, the latest ones, whose decay is carried forward."""
SUFFICIENT_DECREASE = 1e-4


@dataclass(frozen=True)
class Optimum:
    """Where a path ended for one penalty."""

    theta: Array
    converged: bool
    num_iterations: int


@dataclass
class _Pair:
    """A move and the change of the loss's gradient along it, float32."""

    move: Array
    change: Array
    strength: float = np.nan
    y: Array = field(init=False)
    """Change of the whole gradient at ``strength``."""
    rho: float = np.nan

    def scale_to(self, strength: float) -> None:
        if strength != self.strength:
            self.strength = strength
            self.y = np.float32(strength) * self.change
            self.y[:, :-1] += self.move[:, :-1]
            self.rho = 1.0 / float(np.vdot(self.move, self.y))


class Path:
    """Minimises ``1/2 ||W||^2 + C * loss(W, b)`` for each C of a path, warm-started.

    Args:
        shape: ``(outputs, features + 1)``, the bias last.
        strengths: every C, smallest first.
        total: sum of the row weights.
        tol: largest entry of the mean loss's gradient at the optimum; its square is the largest
            estimated relative gap of the objective, which is quadratic in the gradient.
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
        self._pairs: list[_Pair] = []
        self._iterations = 0
        self._excesses: list[float] = []
        self.num_slow = 0
        self._backtracks = 0
        self._step = 1.0
        self._direction = np.zeros(shape)
        self._slope = 0.0
        self._restarted = False
        self._alphas: list[float] = []

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
        self._pairs.append(_Pair(move.astype(np.float32), change.astype(np.float32)))
        del self._pairs[: -self.memory]

    # -- directions: two halves around the preconditioner ------------------------------------

    def begin_direction(self) -> tuple[Array, Array | None]:
        """First half of the two-loop recursion, in float32: only the gradient need be exact.

        Returns:
            What the preconditioner is to be applied to: the reduced gradient, and the newest
            gradient change (None without history), ``(outputs, features + 1)`` float32 each.
        """
        q = self._gradient(self.theta, self._loss_gradient).astype(np.float32)
        self._alphas = []
        for pair in reversed(self._pairs):
            pair.scale_to(self.strength)
            alpha = pair.rho * float(np.vdot(pair.move, q))
            q -= np.float32(alpha) * pair.y
            self._alphas.append(alpha)
        return q, self._pairs[-1].y if self._pairs else None

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
            newest = self._pairs[-1]
            scale = 1.0 / (newest.rho * float(np.vdot(newest.y, applied_change)))
            direction = applied * np.float32(scale)
        for pair, alpha in zip(self._pairs, reversed(self._alphas), strict=True):
            beta = pair.rho * float(np.vdot(pair.y, direction))
            direction += np.float32(alpha - beta) * pair.move
        direction = direction.astype(np.float64)
        gradient = self._gradient(self.theta, self._loss_gradient)
        self._direction = -direction
        self._slope = float(np.vdot(gradient, self._direction))
        if self._slope >= 0 and gradient.any():
            self._pairs.clear()
            self._direction = -gradient / max(1.0, self.strength * self.total)
            self._slope = float(np.vdot(gradient, self._direction))
        excess = self._excess(gradient)
        self._excesses.append(excess)
        optimal = excess <= 1.0
        if optimal or self._iterations >= MAX_ITERATIONS:
            self._finish(optimal)
            return self.trial is not None
        self._step = 1.0 if self._pairs else first
        self.trial = self.theta + self._step * self._direction
        return False

    def _excess(self, gradient: Array) -> float:
        """How often the tolerance fits into the estimated gap, or the gradient's square into its
        own, whichever is more; at most 1 at an optimum."""
        largest = float(np.abs(gradient).max(initial=0)) / (self.strength * self.total)
        value = max(self._value(self.theta, self._loss), np.finfo(float).tiny)
        gap = -0.5 * self._slope / value
        # NaN if either is.
        return float(np.maximum((largest / self.tol) ** 2, gap / self.tol**2))

    def forecast(self) -> float:
        """Iterations to the optimum at this C, if the excess goes on decaying as it has lately.

        0 as long as there are too few to tell; infinite where nothing decays.
        """
        if len(self._excesses) < FORECAST_AFTER:
            return 0.0
        recent = np.log(self._excesses[int(len(self._excesses) * (1 - FORECAST_SHARE)) :])
        if not np.isfinite(recent).all():
            return np.inf
        rate = -np.polyfit(np.arange(len(recent)), recent, 1)[0]
        return float(recent[-1] / rate) if rate > 0 else np.inf

    def _finish(self, converged: bool) -> None:
        # The direction that shows how near the optimum is also leads there: a step for nothing.
        last = self._direction if converged and self._pairs else 0.0
        self.optima.append(Optimum(self.theta + last, converged, self._iterations))
        self._iterations = 0
        self._excesses.clear()
        self.num_slow = 0
        self._restarted = False
        if len(self.optima) == len(self.strengths):
            self.trial = None
            self._pairs.clear()
