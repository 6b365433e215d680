"""L-BFGS for one model along a path of penalties, driven from outside one evaluation at a time.

A :class:`Descent` never evaluates anything itself. Its driver, which serves many at a time::

    while (point := descent.ask()) is not None:
        if descent.tell(*loss_and_gradient(point)):          # a new direction is needed
            while descent.turn(*solve(descent.right_sides())):
                pass                                         # an optimum; on to the next penalty

Curvature pairs keep the loss's part apart from the penalty's, so they stay exact when C changes and
a descent carries its history along (Nocedal & Wright 2006, ch. 7).
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
    """Where a descent ended for one penalty."""

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


@dataclass
class _History:
    """The newest curvature pairs, oldest first, and the two loops of L-BFGS over them."""

    memory: int
    pairs: list[_Pair] = field(default_factory=list)
    alphas: list[float] = field(default_factory=list)
    """Of the first loop, newest pair first: the second needs them."""

    def add(self, move: Array, change: Array) -> None:
        self.pairs.append(_Pair(move.astype(np.float32), change.astype(np.float32)))
        del self.pairs[: -self.memory]

    def reduce(self, q: Array, strength: float) -> None:
        """First loop: take the history's part off a gradient, in place."""
        self.alphas = []
        for pair in reversed(self.pairs):
            pair.scale_to(strength)
            alpha = pair.rho * float(np.vdot(pair.move, q))
            q -= np.float32(alpha) * pair.y
            self.alphas.append(alpha)

    def expand(self, applied: Array, applied_change: Array | None) -> Array:
        """Second loop: the preconditioned rest of the gradient -> minus the direction."""
        direction = applied
        if applied_change is not None:
            newest = self.pairs[-1]
            scale = 1.0 / (newest.rho * float(np.vdot(newest.y, applied_change)))
            direction = applied * np.float32(scale)
        for pair, alpha in zip(self.pairs, reversed(self.alphas), strict=True):
            beta = pair.rho * float(np.vdot(pair.y, direction))
            direction += np.float32(alpha - beta) * pair.move
        return direction


@dataclass
class _LineSearch:
    """The direction at work and how far along it the next trial lies."""

    direction: Array
    slope: float = 0.0
    """The objective's derivative along the direction, where it starts."""
    step: float = 1.0
    backtracks: int = 0

    def accepts(self, old: float, new: float, slope: float, noise: float) -> bool:
        """Whether a trial is low enough.

        Args:
            old: the objective where the direction starts.
            new: at the trial.
            slope: the derivative along the direction at the trial.
            noise: rounding of the objective.
        """
        decreases = new <= old + SUFFICIENT_DECREASE * self.step * self.slope
        # Where rounding hides the decrease, the slopes tell (Hager & Zhang 2005, eq. 4.1).
        flattens = new <= old + noise and slope <= (2 * SUFFICIENT_DECREASE - 1) * self.slope
        return bool(np.isfinite(new) and (decreases or flattens))

    def shorten(self, rise: float) -> bool:
        """After a trial that rose by so much; returns whether the step has become too short."""
        self.backtracks += 1
        if self.backtracks > MAX_BACKTRACKS:
            self.backtracks = 0
            return False
        factor = 0.1
        if np.isfinite(rise):
            factor = -self.slope * self.step / (2 * (rise - self.slope * self.step))
        self.step *= min(0.5, max(0.1, factor))
        return True


@dataclass
class _Progress:
    """How far the descent has come at the C at work."""

    iterations: int = 0
    excesses: list[float] = field(default_factory=list)
    """How often the tolerance was exceeded, at each direction."""
    restarted: bool = False

    def forecast(self) -> float:
        """See :meth:`Descent.forecast`."""
        if len(self.excesses) < FORECAST_AFTER:
            return 0.0
        recent = np.log(self.excesses[int(len(self.excesses) * (1 - FORECAST_SHARE)) :])
        if not np.isfinite(recent).all():
            return np.inf
        rate = -np.polyfit(np.arange(len(recent)), recent, 1)[0]
        return float(recent[-1] / rate) if rate > 0 else np.inf


class Descent:
    """Minimises ``1/2 ||W||^2 + C * loss(W, b)`` for each C of a path, warm-started.

    Args:
        shape: ``(outputs, features + 1)``, the bias last.
        strengths: every C, smallest first.
        total: sum of the row weights.
        tol: largest entry of the mean loss's gradient at the optimum; its square is the largest
            estimated relative gap of the objective, which is quadratic in the gradient.
        memory: curvature pairs to keep.
        start: where to begin, of that shape, float64; default: zeros.

    Attributes:
        theta: the lowest point so far.
        optima: of the penalties that are done.
        precise: whether the evaluation should be in float64, because float32 has stalled.
        num_slow: iterations at this C since its preconditioner was chosen.
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
        self.theta = np.zeros(shape) if start is None else start
        self.optima: list[Optimum] = []
        self.precise = False
        self.num_slow = 0
        self._trial: Array | None = self.theta
        self._started = False
        self._loss = np.nan
        self._loss_gradient = np.zeros(shape)
        self._line = _LineSearch(np.zeros(shape))
        self._history = _History(memory)
        self._progress = _Progress()

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

    # -- evaluations ------------------------------------------------------------------------

    def ask(self) -> Array | None:
        """Where to evaluate next, ``(outputs, features + 1)`` float64; None when done."""
        return self._trial

    def tell(self, loss: float, loss_gradient: Array) -> bool:
        """Take the evaluation of what was asked for; returns whether a new direction is needed."""
        trial, line = self._trial, self._line
        assert trial is not None
        if not self._started:
            self._started = True
            self._loss, self._loss_gradient = loss, loss_gradient
            return True
        old = self._value(self.theta, self._loss)
        new = self._value(trial, loss)
        slope = float(np.vdot(self._gradient(trial, loss_gradient), line.direction))
        noise = (1e-13 if self.precise else 3e-7) * abs(old)
        if not line.accepts(old, new, slope, noise):
            if not line.shorten(new - old):
                return self._stall()
            self._trial = self.theta + line.step * line.direction
            return False
        self._remember(trial - self.theta, loss_gradient - self._loss_gradient)
        self.theta, self._loss, self._loss_gradient = trial, loss, loss_gradient
        self._progress.iterations += 1
        self.num_slow += 1
        line.backtracks = 0
        return True

    def _stall(self) -> bool:
        """No decrease along a descent direction: forget, then use float64, then give up."""
        self._history.pairs.clear()
        if not self.precise:
            self.precise = True
            self._started = False
            self._trial = self.theta
            return False
        if not self._progress.restarted:
            self._progress.restarted = True
            return True
        self._finish(False)
        return self._trial is not None

    def _remember(self, move: Array, change: Array) -> None:
        curvature = self.strength * float(np.vdot(move, change)) + float(
            np.vdot(move[:, :-1], move[:, :-1])
        )
        if curvature > 0:
            self._history.add(move, change)

    # -- directions: two halves around the preconditioner ------------------------------------

    def right_sides(self) -> tuple[Array, Array | None]:
        """What the preconditioner is to be applied to, in float32: only the gradient need be exact.

        Returns:
            The gradient less the history's part, and the newest gradient change (None without
            history), ``(outputs, features + 1)`` each.
        """
        q = self._gradient(self.theta, self._loss_gradient).astype(np.float32)
        self._history.reduce(q, self.strength)
        return q, self._history.pairs[-1].y if self._history.pairs else None

    def turn(self, applied: Array, applied_change: Array | None, first: float = 1.0) -> bool:
        """Take a new direction, or finish a penalty whose optimum is reached.

        Args:
            applied, applied_change: the preconditioned :meth:`right_sides`.
            first: step to try without history.

        Returns:
            Whether the next penalty now needs a direction.
        """
        direction = self._history.expand(applied, applied_change).astype(np.float64)
        gradient = self._gradient(self.theta, self._loss_gradient)
        line = self._line
        line.direction = -direction
        line.slope = float(np.vdot(gradient, line.direction))
        if line.slope >= 0 and gradient.any():
            self._history.pairs.clear()
            line.direction = -gradient / max(1.0, self.strength * self.total)
            line.slope = float(np.vdot(gradient, line.direction))
        excess = self._excess(gradient)
        self._progress.excesses.append(excess)
        optimal = excess <= 1.0
        if optimal or self._progress.iterations >= MAX_ITERATIONS:
            self._finish(optimal)
            return self._trial is not None
        line.step = 1.0 if self._history.pairs else first
        self._trial = self.theta + line.step * line.direction
        return False

    def _excess(self, gradient: Array) -> float:
        """How often the tolerance fits into the estimated gap, or the gradient's square into its
        own, whichever is more; at most 1 at an optimum."""
        largest = float(np.abs(gradient).max(initial=0)) / (self.strength * self.total)
        value = max(self._value(self.theta, self._loss), np.finfo(float).tiny)
        gap = -0.5 * self._line.slope / value
        # NaN if either is.
        return float(np.maximum((largest / self.tol) ** 2, gap / self.tol**2))

    def forecast(self) -> float:
        """Iterations to the optimum at this C, if the excess goes on decaying as it has lately.

        0 as long as there are too few to tell; infinite where nothing decays.
        """
        return self._progress.forecast()

    def _finish(self, converged: bool) -> None:
        # The direction that shows how near the optimum is also leads there: a step for nothing.
        last = self._line.direction if converged and self._history.pairs else 0.0
        self.optima.append(Optimum(self.theta + last, converged, self._progress.iterations))
        self._progress = _Progress()
        self.num_slow = 0
        if len(self.optima) == len(self.strengths):
            self._trial = None
            self._history.pairs.clear()
