"""Bootstrap confidence intervals for every row of :data:`pipeline.measures.metrics.METRICS`.

    resamples = Resamples(num_rows=len(targets), seed=0)
    interval("macro_f1", targets, outputs, resamples=resamples)       # Interval(value, low, high)
    difference("macro_f1", targets, outputs, baseline, resamples=resamples)

The test rows are drawn again with replacement, and the interval lies between percentiles of the
metric's values on them (Efron & Tibshirani 1993, ch. 13). The same ``Resamples`` draws the same
rows for every model, so differences between models are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.measures.metrics import METRICS, as_judged, score

Array = NDArray[Any]
CHUNK_BYTES = 1 << 25
"""Size of the counts that are worked on at once."""
LEAST_ROWS = 20
"""Rows below which there is no interval: draws of so few again and again look too sure."""
FEW_ROWS = 100
"""Rows below which an interval is so wide that it is told beforehand."""


def doubt_of_rows(number: int) -> str | None:
    """What is to be said of scores of so many rows; None where these are enough.

    Args:
        number: of the rows.
    """
    if number >= FEW_ROWS:
        return None
    if number < LEAST_ROWS:
        return (
            f"fewer than {LEAST_ROWS}, too few for an interval, so none is given, and scores are"
            " little more than luck; label more texts"
        )
    half = 0.98 / number**0.5  # of a share's 95 % interval, at a half
    return (
        f"fewer than {FEW_ROWS}, so scores are rough: an accuracy may be off by ±{half:.2f} by"
        " chance alone; read the intervals, or label more texts"
    )


@dataclass(frozen=True)
class Interval:
    """A metric's value on all rows with its confidence interval.

    ``low`` and ``high`` are NaN where the metric is defined on no resample, and of fewer than
    ``LEAST_ROWS`` rows.
    """

    value: float
    low: float
    high: float
    level: float = 0.95


@dataclass(frozen=True)
class Resamples:
    """Draws of ``num_rows`` rows with replacement, the same ones whenever they are asked for."""

    num_rows: int
    replicates: int = 1000
    seed: int = 0

    def chunks(self) -> Iterator[tuple[slice, Array]]:
        """``(replicates, counts)``: how often each row is drawn, float64 ``(chunk, num_rows)``."""
        size = max(1, CHUNK_BYTES // (8 * max(1, self.num_rows)))
        draw = np.random.default_rng(self.seed)
        for start in range(0, self.replicates, size):
            stop = min(start + size, self.replicates)
            counts = np.empty((stop - start, self.num_rows))
            for row in counts:
                drawn = draw.integers(self.num_rows, size=self.num_rows)
                row[...] = np.bincount(drawn, minlength=self.num_rows)
            yield slice(start, stop), counts


def intervals(
    names: Sequence[str],
    targets: Array,
    outputs: Array,
    *,
    resamples: Resamples,
    positive: int = -1,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Intervals of several metrics of one model.

    Args:
        names: keys of ``METRICS``, all for the same kind of task.
        targets: ``(n,)`` class indices or values, or label sets ``(n, labels)``.
        outputs: ``(n, outputs)`` logits or values.
        resamples: draws of the ``n`` rows.
        positive: class index that ``f1`` and ``auc`` are about.
        level: share of the sampling distribution inside the interval.
    """
    many = _scorers(names, targets, outputs, positive)
    plain = [score(name, targets, outputs, positive=positive) for name in names]
    found = _bounds(many, plain, resamples, level)
    return dict(zip(names, found, strict=True))


def interval(name: str, targets: Array, outputs: Array, **options: Any) -> Interval:
    """Interval of one metric; shapes as in :func:`intervals`."""
    return intervals([name], targets, outputs, **options)[name]


def difference(
    name: str,
    targets: Array,
    outputs: Array,
    baseline: Array,
    *,
    resamples: Resamples,
    positive: int = -1,
    level: float = 0.95,
) -> Interval:
    """Interval of ``metric(outputs) - metric(baseline)``, ``(n, outputs)`` each, rows resampled
    together."""
    ours, theirs = (_scorers([name], targets, z, positive)[0] for z in (outputs, baseline))
    plain = score(name, targets, outputs, positive=positive) - score(
        name, targets, baseline, positive=positive
    )
    return _bounds([lambda counts: ours(counts) - theirs(counts)], [plain], resamples, level)[0]


def _scorers(
    names: Sequence[str], targets: Array, outputs: Array, positive: int
) -> list[Callable[[Array], Array]]:
    """One function ``counts (replicates, n) -> (replicates,)`` per metric."""
    y = np.asarray(targets)
    judged = as_judged(METRICS[names[0]], y, outputs, positive)

    def scorer(name: str) -> Callable[[Array], Array]:
        return lambda counts: METRICS[name].of_counts(counts, y, *judged)

    return [scorer(name) for name in names]


def _bounds(
    scorers: Sequence[Callable[[Array], Array]],
    plain: Sequence[float],
    resamples: Resamples,
    level: float,
) -> list[Interval]:
    """Percentile intervals of each scorer, whose values on all rows are ``plain``."""
    if resamples.num_rows < LEAST_ROWS:
        none = float("nan")
        return [Interval(float(value), none, none, level) for value in plain]
    drawn = np.empty((len(scorers), resamples.replicates))
    for rows, counts in resamples.chunks():
        for values, scorer in zip(drawn, scorers, strict=True):
            values[rows] = scorer(counts)
    tails = [(1 - level) / 2, (1 + level) / 2]
    out = []
    for value, replicates in zip(plain, drawn, strict=True):
        finite = replicates[np.isfinite(replicates)]
        low = high = float("nan")
        if len(finite) and np.isfinite(value):
            low, high = np.quantile(finite, tails)
        out.append(Interval(float(value), float(low), float(high), level))
    return out
