"""Which heads go together at each depth, and which depth to pick.

Pure rules over scores and measured costs; :data:`RULES` names those that pick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.config import RunConfig
from pipeline.errors import HeadError
from pipeline.measures import finite, pareto_front, utility
from pipeline.progress import counted
from pipeline.runfolder import RunFolder

FORMAT_VERSION = 1
SLACK = 1e-9
"""Differences of scores up to this are rounding."""


@dataclass(frozen=True)
class PlannedHead:
    """A head of a run, as a plan sees it.

    Attributes:
        name: of its folder, ``depth_003`` or ``chosen``.
        depth: deepest layer that it reads.
        kind: frozen, sparse or ensemble.
        score: what it was chosen by, with its 95 % interval ``low`` to ``high`` (NaN if unknown).
        val_score: on the validation rows alone.
        num_features: salient (layer, pooling, neuron) slices read.
        fingerprint: of its predictions.
    """

    name: str
    depth: int
    kind: str
    score: float
    low: float
    high: float
    val_score: float
    num_features: int
    fingerprint: str


@dataclass(frozen=True)
class PlannedTask:
    """A task of a run: its best head of every depth, and the one that is chosen now."""

    name: str
    metric: str
    config: RunConfig
    run: RunFolder
    heads: tuple[PlannedHead, ...]
    chosen: PlannedHead


@dataclass(frozen=True)
class Speed:
    """Measured throughput; ``pass_s`` are the seconds of each round over the same texts."""

    texts_per_s: float
    tokens_per_s: float
    pass_s: tuple[float, ...]


@dataclass(frozen=True)
class Option:
    """Heads of all tasks that can be scored together in one pass over blocks ``0..depth``.

    Attributes:
        depth: deepest block that any of them needs.
        heads: task -> its head.
        loss: the most that any task loses against its own best head, in its selection metric.
        num_neurons: neurons, and units of hidden states, that the pass reads for all tasks
            together, counted for each layer.
        flops_per_text: operations of linear layers and attention products, without pads; where the
            pass ends with a block's neurons, its first projection counts those that are read only.
        flops_per_token: the same by token.
        speed: as measured.
    """

    depth: int
    heads: Mapping[str, PlannedHead]
    loss: float
    num_neurons: int
    flops_per_text: float
    flops_per_token: float
    speed: Speed

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        heads = {
            task: {key: finite(v) if isinstance(v, float) else v for key, v in asdict(head).items()}
            for task, head in self.heads.items()
        }
        return asdict(self) | {"heads": heads}


@dataclass(frozen=True)
class Plan:
    """Options by depth, and what the rules pick of them.

    Attributes:
        tasks: the planned tasks.
        options: one for each depth, increasing.
        chosen: the heads chosen now; its ``depth`` may be one of the options'.
        front: indices of the options that no cheaper one equals, cheapest first.
        picks: rule -> index of an option.
        pick: the rule asked for.
        tolerance: loss that ``smallest`` may have more than the best.
        min_texts_per_s: what a pick must reach; None for any.
        measured: on what: texts, tokens, device, precision, kernels, threads, rounds.
    """

    tasks: tuple[PlannedTask, ...]
    options: tuple[Option, ...]
    chosen: Option
    front: tuple[int, ...]
    picks: Mapping[str, int]
    pick: str
    tolerance: float
    min_texts_per_s: float | None
    measured: Mapping[str, Any] = field(default_factory=dict)

    @property
    def picked(self) -> Option:
        """What the rule asked for picks."""
        return self.options[self.picks[self.pick]]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "format_version": FORMAT_VERSION,
            "tasks": {
                task.name: {"metric": task.metric, "run": str(task.run.path)} for task in self.tasks
            },
            "options": [option.to_dict() for option in self.options],
            "chosen": self.chosen.to_dict(),
            "front": [self.options[i].depth for i in self.front],
            "picks": {rule: self.options[i].depth for rule, i in self.picks.items()},
            "pick": self.pick,
            "tolerance": self.tolerance,
            "min_texts_per_s": self.min_texts_per_s,
            "measured": dict(self.measured),
        }


def sets_by_depth(
    heads: Mapping[str, Sequence[PlannedHead]], metrics: Mapping[str, str]
) -> list[dict[str, PlannedHead]]:
    """For every depth the best heads of which the deepest is that deep.

    =====  ====  =====  =====================  ===========================================
    depth  mood  level  heads                  why
    =====  ====  =====  =====================  ===========================================
    0      0.70  0.50   mood at 0, level at 0
    1      0.74  0.48   mood at 1, level at 0  each task's best up to there
    2      0.73  0.47   mood at 2, level at 0  mood loses less by its head of 2 than level
    =====  ====  =====  =====================  ===========================================

    Args:
        heads: task -> heads, at most one for each depth.
        metrics: task -> selection metric.

    Returns:
        By increasing depth, task -> head: each the task's best one up to there. At a depth where
        no task has its best head so far, the task that loses least by it takes its head of there.
        Depths up to which a task has no head at all are left out.
    """
    found = []
    for depth in sorted({head.depth for own in heads.values() for head in own}):
        within = {task: [h for h in own if h.depth <= depth] for task, own in heads.items()}
        if not all(within.values()):
            continue
        best = {task: best_head(own, metrics[task]) for task, own in within.items()}
        sets = [best]
        if max(head.depth for head in best.values()) < depth:
            sets = [
                best | {task: head}
                for task, own in within.items()
                for head in own
                if head.depth == depth
            ]
        found.append(min(sets, key=lambda one: _losses(one, heads, metrics)))
    return found


def best_head(heads: Iterable[PlannedHead], metric: str) -> PlannedHead:
    """The head with the best score; of equals the one that reads least."""
    return max(heads, key=lambda h: (utility(metric, h.score), -h.num_features, -h.depth))


def loss_of(
    chosen: Mapping[str, PlannedHead],
    heads: Mapping[str, Sequence[PlannedHead]],
    metrics: Mapping[str, str],
) -> float:
    """The most that any task loses by its chosen head against the best of ``heads``, at least 0."""
    return _losses(chosen, heads, metrics)[0]


def _losses(
    chosen: Mapping[str, PlannedHead],
    heads: Mapping[str, Sequence[PlannedHead]],
    metrics: Mapping[str, str],
) -> tuple[float, float]:
    """The largest loss of any task, and the mean."""
    losses = [
        utility(metrics[task], best_head(heads[task], metrics[task]).score)
        - utility(metrics[task], head.score)
        for task, head in chosen.items()
    ]
    return max(0.0, *losses), sum(losses) / len(losses)


def pick_best(options: Sequence[Option], tolerance: float) -> Option:
    """The option that loses least; of equals the shallowest."""
    least = min(option.loss for option in options)
    return next(option for option in _by_depth(options) if option.loss <= least + SLACK)


def pick_smallest(options: Sequence[Option], tolerance: float) -> Option:
    """The shallowest option that loses at most ``tolerance`` more than the best of them."""
    allowed = min(option.loss for option in options) + tolerance + SLACK
    return next(option for option in _by_depth(options) if option.loss <= allowed)


def _by_depth(options: Sequence[Option]) -> list[Option]:
    return sorted(options, key=lambda option: option.depth)


RULES: dict[str, Callable[[Sequence[Option], float], Option]] = {
    "best": pick_best,
    "smallest": pick_smallest,
}
"""Name of a pick -> (options, tolerance) -> the option picked."""


def picks_of(
    options: Sequence[Option], *, tolerance: float, min_texts_per_s: float | None = None
) -> dict[str, int]:
    """Rule -> index of its pick among the options that are fast enough.

    Raises:
        HeadError: none is.
    """
    fast = [o for o in options if o.speed.texts_per_s >= (min_texts_per_s or 0.0)]
    if not fast:
        fastest = max(options, key=lambda option: option.speed.texts_per_s)
        raise HeadError(
            f"no depth reaches {min_texts_per_s:,.0f} texts/s here; the fastest, of"
            f" {counted(fastest.depth + 1, 'block')}, runs {fastest.speed.texts_per_s:,.0f}: ask"
            " for less, or plan on a faster machine"
        )
    return {name: options.index(rule(fast, tolerance)) for name, rule in RULES.items()}


def front_of(options: Sequence[Option]) -> tuple[int, ...]:
    """Indices of the options that none at least as fast equals in loss, the fastest first."""
    seconds = [1 / option.speed.texts_per_s for option in options]
    return tuple(int(i) for i in pareto_front(seconds, [-option.loss for option in options]))
