"""Trained heads of a sweep, and the choice among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from pipeline.heads.model import Part
from pipeline.measures import Resamples, interval, utility
from pipeline.probes import Problem

Array = NDArray[Any]
REPLICATES = 400


@dataclass(frozen=True)
class Candidate:
    """A trained head of the sweep.

    Attributes:
        kind: frozen, sparse or ensemble.
        depth: the deepest layer it reads.
        size: of its salient sets; None for an ensemble of two sizes.
        score: what it is judged by.
        val_score: on the validation rows alone.
        num_features: salient slices read.
        parts: the models.
        outputs: ``(judged, outputs)`` on the rows that it is judged on, validation rows first.
    """

    kind: str
    depth: int
    size: float | None
    score: float
    val_score: float
    num_features: int
    parts: tuple[Part, ...]
    outputs: Array


def choose_depth(
    candidates: Sequence[Candidate], *, metric: str, tolerance: float, max_layer: int
) -> Candidate:
    """The best head of the smallest depth that is good enough.

    Args:
        candidates: heads of one task, of any kind, size and depth.
        metric: the selection metric of their ``score``.
        tolerance: a depth is good enough within this of the best score at any allowed depth.
        max_layer: the deepest layer allowed.
    """
    allowed = [c for c in candidates if c.depth <= max_layer]
    best = max(utility(metric, c.score) for c in allowed)
    good = [c for c in allowed if utility(metric, c.score) >= best - tolerance]
    return best_of(good, metric=metric, depth=min(c.depth for c in good))


def best_of(candidates: Sequence[Candidate], *, metric: str, **where: Any) -> Candidate:
    """The candidate with the best score among those whose attributes match ``where``."""
    fitting = [c for c in candidates if all(getattr(c, k) == v for k, v in where.items())]
    return max(fitting, key=lambda c: (utility(metric, c.score), -c.num_features))


def candidate_rows(
    candidates: Sequence[Candidate], judged: Array, problem: Problem, *, seed: int
) -> list[Mapping[str, Any]]:
    """Candidates as table rows.

    Args:
        candidates: of one task.
        judged: ``(n,)`` targets of the rows that they are judged on.
        problem: classes and metric.
        seed: of the bootstrap.

    Returns:
        ``kind``, ``depth``, ``size``, ``score`` with its 95 % bootstrap interval ``low`` to
        ``high``, ``val_score`` and ``num_features``.
    """
    names = ("kind", "depth", "size", "score", "val_score", "num_features")
    resamples = Resamples(len(judged), replicates=REPLICATES, seed=seed)
    rows: list[Mapping[str, Any]] = []
    for candidate in candidates:
        row = {name: getattr(candidate, name) for name in names}
        options: dict[str, Any] = {"resamples": resamples, "positive": problem.positive}
        found = interval(problem.metric, judged, candidate.outputs, **options)
        rows.append(row | {"low": found.low, "high": found.high})
    return rows
