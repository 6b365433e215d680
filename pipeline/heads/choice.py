"""Trained heads of one task, and the choice among them by their out-of-fold loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.heads.model import Part
from pipeline.measures import Resamples, interval, logit_map, row_losses
from pipeline.probes import Problem

Array = NDArray[Any]
REPLICATES = 400
GIVEN_AWAY = 0.02
"""Largest share of the gain over a constant that a smaller head may cost."""


@dataclass(frozen=True)
class Candidate:
    """A trained head.

    Attributes:
        kind: a key of ``KINDS``, or the name of a baseline.
        depth: the last block that must run.
        size: of its salient sets; None where all features of its sources are read, or two sizes.
        selection: how its features were selected.
        num_features: features read.
        parts: the models.
        outputs: ``(judged, outputs)`` logits or values on the rows that it is judged on.
        losses: ``(judged,)`` log loss or squared error of each of them, the mean over the
            assignments to folds.
        score: the selection metric of the outputs.
        val_score: the same on the validation rows alone.
    """

    kind: str
    depth: int
    size: float | None
    selection: str
    num_features: int
    parts: tuple[Part, ...]
    outputs: Array
    losses: Array
    score: float
    val_score: float

    @property
    def loss(self) -> float:
        """The mean loss."""
        return float(self.losses.mean())


def losses_of(problem: Problem, targets: Array, outputs: Array) -> Array:
    """Log loss, or squared error, of each row ``(n,)`` for outputs ``(n, outputs)``; of label sets
    the mean log loss of the labels."""
    if problem.num_classes is None:
        return np.asarray(np.square(np.asarray(outputs, np.float64)[:, 0] - targets))
    return row_losses(outputs, targets)


def as_logits(
    problem: Problem, targets: Array, scores: Array, parts: Sequence[Part]
) -> tuple[Array, Array, tuple[Part, ...]]:
    """Models whose scores are regressions on indicators as models whose outputs are logits.

    Args:
        problem: classes and metric.
        targets: ``(n,)`` of the judged rows, or label sets ``(n, labels)``.
        scores: ``(assignments, n, outputs)`` held out.
        parts: the models.

    Returns:
        ``(n, outputs)`` outputs of the first assignment, ``(n,)`` losses, and the models; values
        stay as they are.
    """
    if problem.num_classes is None:
        losses = [losses_of(problem, targets, own) for own in scores]
        return scores[0], np.mean(losses, axis=0), tuple(parts)
    scale, shift = logit_map(np.concatenate(scores), np.concatenate([targets] * len(scores)))
    logits = [np.asarray(own * scale + shift, np.float32) for own in scores]
    losses = [losses_of(problem, targets, own) for own in logits]
    return logits[0], np.mean(losses, axis=0), tuple(part.rescaled(scale, shift) for part in parts)


def standard_error(difference: Array, groups: Array) -> float:
    """Of the mean of ``(n,)``, whose rows of one group go together."""
    _, number = np.unique(groups, return_inverse=True)
    sums = np.bincount(number, difference - difference.mean())
    return float(np.sqrt(np.square(sums).sum()) / len(difference))


def choose(
    candidates: Sequence[Candidate],
    groups: Array,
    *,
    constant_loss: float,
    standard_errors: float = 3.0,
) -> Candidate:
    """The head on all features, unless another is surely better; or a smaller one that is surely
    about as good: the shallowest of these, then that of the fewest features, then models.

    Where rows are few, the head of the least loss is so by luck: of some twenty, one leads by two
    standard errors. The head on all features contains most others; so it must be beaten surely.

    Args:
        candidates: heads of one task; at least one.
        groups: ``(judged,)`` near-duplicates among the rows.
        constant_loss: of knowing nothing of the texts.
        standard_errors: of a paired difference of losses, beyond which it is sure.
    """

    def behind(head: Candidate, other: Candidate) -> tuple[float, float]:
        apart = head.losses - other.losses
        return float(apart.mean()), standard_errors * standard_error(apart, groups)

    best = _on_all_features(candidates)
    for head in sorted(candidates, key=lambda c: c.loss):
        apart, unsure = behind(head, best)
        if apart + unsure < 0:
            best = head
            break
    most = GIVEN_AWAY * max(constant_loss - best.loss, 0.0)
    good = [best]
    for head in candidates:
        apart, unsure = behind(head, best)
        if apart + unsure <= most:
            good.append(head)
    return min(good, key=lambda c: (c.depth, c.num_features, len(c.parts), c.loss))


def _on_all_features(candidates: Sequence[Candidate]) -> Candidate:
    """The deepest dense head; without any, the head of the least loss."""
    dense = [head for head in candidates if head.kind == "dense"]
    if not dense:
        return min(candidates, key=lambda c: c.loss)
    return max(dense, key=lambda c: c.depth)


def best_of(candidates: Sequence[Candidate], **where: Any) -> Candidate:
    """The candidate of least loss among those whose attributes match ``where``."""
    fitting = [c for c in candidates if all(getattr(c, k) == v for k, v in where.items())]
    return min(fitting, key=lambda c: (c.loss, c.num_features))


@dataclass(frozen=True)
class Judge:
    """How candidates are judged.

    Attributes:
        problem: classes and metric.
        targets: ``(n,)`` of the judged rows.
        groups: ``(n,)`` near-duplicates among them.
        val: mask ``(n,)`` of the validation rows.
    """

    problem: Problem
    targets: Array
    groups: Array
    val: Array

    @cached_property
    def constant_losses(self) -> Array:
        """Losses ``(n,)`` of the best constant: their mean is an entropy, or a variance."""
        if self.problem.num_classes is None:
            return np.asarray(np.square(self.targets - self.targets.mean()))
        if self.targets.ndim == 2:
            share = self.targets.mean(axis=0, dtype=np.float64)
            right = np.where(self.targets > 0, share, 1 - share)
            return np.asarray(-np.log(right).mean(axis=1))
        share = np.bincount(self.targets) / len(self.targets)
        return np.asarray(-np.log(share[self.targets]))

    def levelled(self, candidate: Candidate, beside: Candidate) -> Candidate:
        """A head judged on the first assignment to folds, as if on all of them.

        What another head's loss is on all assignments more than on the first one is added; no loss
        is below 0.
        """
        first = losses_of(self.problem, self.targets, beside.outputs)
        levelled = np.maximum(candidate.losses + (beside.losses - first), 0.0)
        return replace(candidate, losses=levelled)

    def candidate(
        self,
        kind: str,
        parts: Sequence[Part],
        scores: Array,
        *,
        selection: str,
        size: float | None = None,
        are_logits: bool = False,
    ) -> Candidate:
        """A model with what it says of the judged rows.

        Args:
            kind: of the head.
            parts: its models.
            scores: ``(assignments, n, outputs)``.
            selection: how its features were selected.
            size: of its salient sets.
            are_logits: of classes: already, not regressions on indicators.
        """
        problem, targets = self.problem, self.targets
        if are_logits:
            outputs, losses = scores[0], losses_of(problem, targets, scores[0])
            found = tuple(parts)
        else:
            outputs, losses, found = as_logits(problem, targets, scores, parts)
        read = {(e.source, f) for part in found for e in part.edges for f in e.features.tolist()}
        return Candidate(
            kind,
            max((0, *(source.depth for source, _ in read))),
            size,
            selection,
            len(read),
            found,
            outputs,
            losses,
            problem.score(targets, outputs),
            problem.score(targets[self.val], outputs[self.val]),
        )

    def mean_of(self, first: Candidate, second: Candidate) -> Candidate:
        """The ensemble of two heads: the mean of their outputs, which are logits alike."""
        return self.candidate(
            "ensemble",
            (*first.parts, *second.parts),
            ((first.outputs + second.outputs) / 2)[None],
            selection=f"{first.selection}; {second.selection}",
            size=first.size if first.size == second.size else None,
            are_logits=True,
        )


def candidate_rows(
    candidates: Sequence[Candidate], targets: Array, problem: Problem, *, seed: int
) -> list[Mapping[str, Any]]:
    """Candidates as table rows.

    Args:
        candidates: of one task.
        targets: ``(n,)`` of the rows that they are judged on.
        problem: classes and metric.
        seed: of the bootstrap.

    Returns:
        ``kind``, ``depth``, ``size``, ``num_features``, ``loss``, ``val_score`` and ``score`` with
        its 95 % bootstrap interval ``low`` to ``high``.
    """
    names = ("kind", "depth", "size", "num_features", "loss", "score", "val_score")
    resamples = Resamples(len(targets), replicates=REPLICATES, seed=seed)
    rows: list[Mapping[str, Any]] = []
    for candidate in candidates:
        row = {name: getattr(candidate, name) for name in names}
        options: dict[str, Any] = {"resamples": resamples, "positive": problem.positive}
        found = interval(problem.metric, targets, candidate.outputs, **options)
        rows.append(row | {"low": found.low, "high": found.high})
    return rows
