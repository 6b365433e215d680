"""Trained heads of one task, and the choice among them by their out-of-fold loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.heads.model import Part
from pipeline.measures import (
    METRICS,
    Resamples,
    difference,
    finite,
    interval,
    logit_map,
    row_losses,
)
from pipeline.probes import Problem
from pipeline.progress import counted

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
    rule = Rule(groups, constant_loss, standard_errors)
    best = rule.best(candidates)
    good = [best, *(head for head in candidates if rule.is_about_as_good(head, best))]
    return min(good, key=_size)


def _size(head: Candidate) -> tuple[int, int, int, float]:
    return head.depth, head.num_features, len(head.parts), head.loss


@dataclass(frozen=True)
class Rule:
    """What is sure of two heads.

    Attributes:
        groups: ``(judged,)`` near-duplicates among the rows.
        constant_loss: of knowing nothing of the texts.
        standard_errors: of a paired difference of losses, beyond which it is sure.
    """

    groups: Array
    constant_loss: float
    standard_errors: float

    def behind(self, head: Candidate, other: Candidate) -> tuple[float, float]:
        """By how much a head's loss is more than another's, and how unsure that is."""
        apart = head.losses - other.losses
        error = standard_error(apart, self.groups)
        return float(apart.mean()), self.standard_errors * error

    def best(self, candidates: Sequence[Candidate]) -> Candidate:
        """The head on all features; or that of the least loss among those surely better."""
        best = _on_all_features(candidates)
        for head in sorted(candidates, key=lambda c: c.loss):
            apart, unsure = self.behind(head, best)
            if apart + unsure < 0:
                return head
        return best

    def allowed(self, best: Candidate) -> float:
        """Loss that a smaller head than the best may cost."""
        return GIVEN_AWAY * max(self.constant_loss - best.loss, 0.0)

    def is_about_as_good(self, head: Candidate, best: Candidate) -> bool:
        """Whether a head surely costs no more than is allowed."""
        apart, unsure = self.behind(head, best)
        return apart + unsure <= self.allowed(best)


def why_chosen(
    chosen: Candidate, candidates: Sequence[Candidate], rule: Rule, *, num_layers: int, loss: str
) -> str:
    """Why this head, and neither a smaller one nor that of the least loss: a sentence.

    Args:
        chosen: by :func:`choose`.
        candidates: that it was chosen from.
        rule: that it was chosen by.
        num_layers: blocks of the model.
        loss: its name.
    """

    def named(head: Candidate) -> str:
        return f"{head.kind} on {head.depth + 1} of {num_layers} blocks, {_features(head)}"

    def figures(head: Candidate, other: Candidate) -> str:
        apart, unsure = rule.behind(head, other)
        error = unsure / rule.standard_errors if rule.standard_errors else 0.0
        return f"{loss} {apart:+.2g} ± {error:.1g}" if error else f"{loss} {apart:+.2g}"

    best = rule.best(candidates)
    share = f"{100 * GIVEN_AWAY:g} % of what is learnt (at most {rule.allowed(best):.2g})"
    smaller = [head for head in candidates if _size(head)[:2] < _size(chosen)[:2]]
    if chosen is not best:
        said = f"it surely costs less than {share} against {named(best)} ({figures(chosen, best)})"
        if smaller:
            said += "; nothing smaller surely does"
    elif smaller:
        nearest = min(smaller, key=lambda head: sum(rule.behind(head, best)))
        said = (
            f"nothing smaller surely costs less than {share}; the nearest is {named(nearest)}"
            f" ({figures(nearest, best)})"
        )
    else:
        said = "nothing smaller was tried"
    least = min(candidates, key=lambda head: head.loss)
    if least is not chosen and least is not best and least.loss < best.loss:
        said += (
            f"; {named(least)} has the least {loss}, but is not surely better"
            f" ({figures(least, best)})"
        )
    return said


def _features(head: Candidate) -> str:
    return counted(head.num_features, "feature")


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


class Scores:
    """Scores of heads on the rows that judge, with 95 % bootstrap intervals, as JSON.

    Args:
        judge: of the heads.
        seed: of the bootstrap, which draws the same rows for all heads.
    """

    def __init__(self, judge: Judge, seed: int) -> None:
        self._judge = judge
        resamples = Resamples(len(judge.targets), replicates=REPLICATES, seed=seed)
        self._options: dict[str, Any] = {
            "resamples": resamples,
            "positive": judge.problem.positive,
        }

    def bounds(self, head: Candidate) -> list[float] | None:
        """The interval of a head's score; None of so few rows that there is none."""
        metric, targets = self._judge.problem.metric, self._judge.targets
        found = interval(metric, targets, head.outputs, **self._options)
        return None if np.isnan(found.low) else [found.low, found.high]

    def gain(self, head: Candidate, other: Candidate) -> dict[str, float | None]:
        """By how much a head's score is better than another's, rows resampled together."""
        metric, targets = self._judge.problem.metric, self._judge.targets
        pair = (head.outputs, other.outputs)
        pair = pair if METRICS[metric].higher_is_better else pair[::-1]
        found = difference(metric, targets, *pair, **self._options)
        return {name: finite(getattr(found, name)) for name in ("value", "low", "high")}

    def by_size(
        self, pairs: Sequence[tuple[Candidate, Sequence[Candidate]]]
    ) -> list[dict[str, Any]]:
        """Sparse heads against as many random features, the latter by the draw in the middle."""
        out = []
        for head, randoms in pairs:
            order = sorted(randoms, key=lambda one: one.score)
            middle = order[len(order) // 2]
            random = self._entry(middle) | {"draws": [finite(one.score) for one in order]}
            size = {name: getattr(head, name) for name in ("depth", "size", "num_features")}
            gain = self.gain(head, middle)
            out.append(size | {"salient": self._entry(head), "random": random, "gain": gain})
        return out

    def _entry(self, head: Candidate) -> dict[str, Any]:
        bounds = self.bounds(head)
        return {"score": finite(head.score), "score_interval": bounds, "loss": head.loss}


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
