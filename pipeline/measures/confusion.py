"""What a model gets wrong on rows held out, in a few numbers: enough to correct shares by later.

    found = Confusion.of(probability, decided, targets)
    found.confusion                                 # (classes, classes), true by decided
    Confusion.from_dict(found.to_dict())            # small, for a head's card

Beside the counts there are *draws*: what the rows, drawn again with repetition, would have said of
the classes' frequencies and of the probabilities' calibration. The draws are one Newton step from
the optimum each (the "one-step bootstrap"): no fit is repeated.

Of a regression :class:`Slope` holds the line from true to predicted values, with draws alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import special

Array = NDArray[Any]
NUM_DRAWS = 64
NEWTON_STEPS = 50
CLOSE = 1e-9
LEAST_PROBABILITY = 1e-7
"""Probabilities are clipped there: those of scores are float32."""
DIGITS = 5
"""Significant digits that are kept of draws."""
LEVELS = 3
"""Thirds of the rows decided for a class, by its probability."""
EDGE = 1e-6
SUREST = 0.95
"""What is surer is of one level: finer ones would tell the models of the folds apart, which decide
the rows held out, from the one of all rows, which decides new texts."""
DRAWN = ("scales", "shifts", "priors")


def log_probabilities(probability: Array) -> Array:
    """``(n, classes)`` float64, finite."""
    return np.log(np.clip(np.asarray(probability, np.float64), LEAST_PROBABILITY, 1.0))


@dataclass(frozen=True)
class Confusion:
    """Of a classifier of ``k`` classes, or of one label (absent, present), on rows held out.

    Attributes:
        table: ``(k, k, LEVELS)`` int64, rows by true class, decided class, and how probable that
            one was.
        edges: ``(k, LEVELS - 1)`` float64, ends of these levels for each decided class.
        scales: ``(1 + draws, k)`` float64: log probabilities are multiplied by it to be calibrated
            (each class by its own: Kull et al. 2019); the first is of all rows, the others are of
            rows drawn with repetition.
        shifts: ``(1 + draws, k)`` float64, added to them.
        priors: ``(1 + draws, k)`` float64, frequencies of the classes, which the calibrated
            probabilities assume.
    """

    table: Array
    edges: Array
    scales: Array
    shifts: Array
    priors: Array

    @property
    def confusion(self) -> Array:
        """Rows ``(k, k)`` by true and by decided class."""
        return np.asarray(self.table.sum(axis=2))

    @property
    def num_rows(self) -> int:
        """Rows held out."""
        return int(self.table.sum())

    @property
    def possible(self) -> Array:
        """Mask ``(k, LEVELS)`` of the levels that can hold texts: edges that coincide leave none
        between them."""
        found = np.ones(self.table.shape[1:], bool)
        found[:, 1:-1] = self.edges[:, 1:] > self.edges[:, :-1]
        return found

    @classmethod
    def of(
        cls,
        probability: Array,
        decided: Array,
        targets: Array,
        *,
        groups: Array | None = None,
        seed: int = 0,
    ) -> Self:
        """From rows that the model was not fitted on.

        Args:
            probability: ``(n, k)``.
            decided: ``(n,)`` class indices that were decided for.
            targets: ``(n,)`` true class indices.
            groups: ``(n,)`` near-duplicates, which are drawn together; default each row alone.
            seed: of the draws.
        """
        size = probability.shape[1]
        edges = np.tile(np.arange(1, LEVELS) / LEVELS, (size, 1))
        levels = np.arange(1, LEVELS) / LEVELS
        for k in np.unique(decided):
            edges[k] = np.minimum(np.quantile(probability[decided == k, k], levels), SUREST)
        table = np.zeros((size, size, LEVELS), np.int64)
        np.add.at(table, (targets, decided, _levels(probability, decided, edges)), 1)
        logs, truth = log_probabilities(probability), np.eye(size)[targets]
        theta = _recalibrated(logs, truth)
        score, bend = _slopes(theta, logs, truth)
        draws = list(_redrawn(len(targets), groups, seed))
        steps = np.linalg.solve(bend, np.stack([(own - 1) @ score for own in draws]).T).T
        thetas = np.concatenate([theta[None], theta - steps])
        totals = np.stack([truth.sum(axis=0), *(own @ truth for own in draws)]) + 1 / size
        priors = totals / totals.sum(axis=1, keepdims=True)
        return cls(table, edges, np.exp(thetas[:, :size]), thetas[:, size:], priors)

    def cells(self, probability: Array, decided: Array) -> Array:
        """Texts ``(k, LEVELS)`` int64 by decided class and how probable it was.

        Args:
            probability: ``(n, k)``.
            decided: ``(n,)``.
        """
        found = np.zeros(self.table.shape[1:], np.int64)
        np.add.at(found, (decided, _levels(probability, decided, self.edges)), 1)
        return found

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        drawn = {name: _rounded(getattr(self, name)) for name in DRAWN}
        return {"confusion": self.table.tolist(), "levels": _rounded(self.edges), **drawn}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From JSON.

        Raises:
            ValueError, KeyError, TypeError: it says something else.
        """
        table = np.asarray(data["confusion"])
        edges = np.asarray(data["levels"], np.float64)
        drawn = [np.asarray(data[name], np.float64) for name in DRAWN]
        size, draws = len(table), len(drawn[0])
        if table.shape != (size, size, LEVELS) or table.dtype.kind != "i" or size < 2:
            raise ValueError(f"confusion: {table.dtype} {table.shape}, no counts of two by decided")
        if table.min() < 0 or edges.shape != (size, LEVELS - 1):
            raise ValueError("confusion: counts below 0, or others than levels")
        if draws < 2 or any(own.shape != (draws, size) for own in drawn):
            raise ValueError(f"{', '.join(DRAWN)}: of different lengths")
        if not all(np.isfinite(own).all() for own in (edges, *drawn)) or drawn[2].min() <= 0:
            raise ValueError(f"{', '.join(DRAWN)}: not finite, or frequencies of 0")
        return cls(table, edges, *drawn)


def _levels(probability: Array, decided: Array, edges: Array) -> Array:
    """How probable ``(n,)`` the decided class was, from 0 to ``LEVELS - 1``."""
    own = probability[np.arange(len(decided)), decided]
    # Scores are float32: what lies on an edge lies below it, in every precision.
    return np.asarray((own[:, None] > edges[decided] + EDGE).sum(axis=1))


def _recalibrated(logs: Array, truth: Array) -> Array:
    """Log scales and shifts ``(2 k,)`` of least log loss, by Newton's method; a weight of one row
    pulls all to 0."""
    theta, best = np.zeros(2 * logs.shape[1]), np.inf
    step = np.zeros_like(theta)
    for _ in range(NEWTON_STEPS):
        loss = _loss(theta - step, logs, truth)
        while not loss <= best + 1e-12 and np.abs(step).max() > CLOSE:
            step = step / 2
            loss = _loss(theta - step, logs, truth)
        theta, best = theta - step, min(best, loss)
        score, bend = _slopes(theta, logs, truth)
        step = np.linalg.solve(bend, score.sum(axis=0) + theta)
        if np.abs(step).max() < CLOSE:
            break
    return theta


def _loss(theta: Array, logs: Array, truth: Array) -> float:
    log_scales, shifts = np.split(theta, 2)
    z = np.exp(log_scales) * logs + shifts
    return float((special.logsumexp(z, axis=1) - (z * truth).sum(axis=1)).sum() + theta @ theta / 2)


def _slopes(theta: Array, logs: Array, truth: Array) -> tuple[Array, Array]:
    """Gradient of each row's log loss ``(n, 2 k)``; the curvature of all ``(2 k, 2 k)``, by Gauss
    and Newton, which is positive."""
    size = logs.shape[1]
    scaled = np.exp(theta[:size]) * logs
    p = special.softmax(scaled + theta[size:], axis=1)
    score = np.concatenate([(p - truth) * scaled, p - truth], axis=1)
    parts = np.concatenate([p * scaled, p], axis=1)
    bend = np.eye(2 * size) - parts.T @ parts
    for i, first in enumerate((scaled, None)):
        for j, other in enumerate((scaled, None)):
            product = p.copy()
            for factor in (first, other):
                product = product if factor is None else product * factor
            block = bend[i * size : (i + 1) * size, j * size : (j + 1) * size]
            block += np.diag(product.sum(axis=0))
    return score, bend


def _redrawn(num_rows: int, groups: Array | None, seed: int) -> Iterator[Array]:
    """How often each row is taken ``(n,)``, in every draw; rows of one group alike."""
    number = np.arange(num_rows)
    if groups is not None:
        number = np.unique(groups, return_inverse=True)[1]
    size = int(number.max(initial=-1)) + 1
    draw = np.random.default_rng(seed)
    for _ in range(NUM_DRAWS):
        yield np.bincount(draw.integers(size, size=size), minlength=size)[number].astype(float)


@dataclass(frozen=True)
class Slope:
    """Of a regression on rows held out: ``predicted = intercept + slope * true``.

    Attributes:
        num_rows: rows held out.
        intercepts, slopes: ``(1 + draws,)`` float64; the first are of all rows.
    """

    num_rows: int
    intercepts: Array
    slopes: Array

    @classmethod
    def of(
        cls, values: Array, targets: Array, *, groups: Array | None = None, seed: int = 0
    ) -> Self:
        """From predicted and true values ``(n,)`` of rows that the model was not fitted on."""
        x, y = np.asarray(targets, np.float64), np.asarray(values, np.float64)
        rows = np.stack([np.ones(len(x)), x, y, x * x, x * y])
        draws = (np.ones(len(x)), *_redrawn(len(values), groups, seed))
        total, *sums = np.stack([rows @ own for own in draws], axis=1)
        mean_x, mean_y, square, product = (own / total for own in sums)
        spread, shared = square - mean_x * mean_x, product - mean_x * mean_y
        slopes = np.divide(shared, spread, out=np.zeros_like(shared), where=spread > 0)
        return cls(len(values), mean_y - slopes * mean_x, slopes)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "rows": self.num_rows,
            "intercepts": _rounded(self.intercepts),
            "slopes": _rounded(self.slopes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From JSON.

        Raises:
            ValueError, KeyError, TypeError: it says something else.
        """
        lines = [np.asarray(data[name], np.float64) for name in ("intercepts", "slopes")]
        if lines[0].ndim != 1 or len(lines[0]) < 2 or lines[0].shape != lines[1].shape:
            raise ValueError("intercepts and slopes: of different lengths")
        if not all(np.isfinite(line).all() for line in lines):
            raise ValueError("intercepts and slopes: not finite")
        return cls(int(data["rows"]), *lines)


def _rounded(values: Array) -> Any:
    """Lists of ``DIGITS`` significant digits."""
    return np.vectorize(lambda x: float(f"{x:.{DIGITS}g}"), otypes=[float])(values).tolist()
