"""Plan how deep to score: for every depth the heads' scores and what running them really costs.

    plan = make_plan([Path("runs/demo/run")])
    plan.picked.depth, plan.picked.heads["sentiment"].score, plan.picked.speed.texts_per_s

Several tasks are planned together: they share one forward pass, so the deepest head sets the cost,
and an option is, for a depth, the best heads that reach no deeper. Scores are those that heads were
chosen by (validation rows); throughput is measured (:mod:`pipeline.costs`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config import RunConfig
from pipeline.costs import MeasureOptions, Speed, flops, measure
from pipeline.errors import ConfigError, HeadError
from pipeline.heads import Head
from pipeline.loading import load_from_settings
from pipeline.locking import one_at_a_time
from pipeline.metrics import utility
from pipeline.phase2 import finite
from pipeline.progress import Say, silent
from pipeline.reportdata import pareto_front
from pipeline.runfolder import RunFolder, run_config
from pipeline.scorer import Scorer
from pipeline.targets import wanted_tasks
from store.durable import sync_directory
from store.tables import read_table, write_json

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
class Option:
    """Heads of all tasks that can be scored together in one pass over layers ``0..depth``.

    Attributes:
        depth: deepest layer of any of them.
        heads: task -> its head.
        loss: the most that any task loses against its own best head, in its selection metric.
        num_neurons: salient (layer, neuron) pairs that the pass reads, for all tasks together.
        flops_per_text: operations of linear layers and attention products, without pads; the last
            block's first projection counts the salient neurons only.
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


# ---------------------------------------------------------------------- planning: pure


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
            f"no depth reaches {min_texts_per_s:,.0f} texts/s here; the fastest, layers"
            f" 0..{fastest.depth}, runs {fastest.speed.texts_per_s:,.0f}: ask for less, or plan on"
            " a faster machine"
        )
    return {name: options.index(rule(fast, tolerance)) for name, rule in RULES.items()}


def front_of(options: Sequence[Option]) -> tuple[int, ...]:
    """Indices of the options that none at least as fast equals in loss, the fastest first."""
    seconds = [1 / option.speed.texts_per_s for option in options]
    return tuple(int(i) for i in pareto_front(seconds, [-option.loss for option in options]))


# ---------------------------------------------------------------------- planning: doing


def make_plan(
    runs: Sequence[Path],
    *,
    tasks: Sequence[str] = (),
    pick: str | None = None,
    tolerance: float | None = None,
    min_texts_per_s: float | None = None,
    measuring: MeasureOptions | None = None,
    say: Say = silent,
) -> Plan:
    """Read the heads of finished runs, and measure what scoring with them takes at every depth.

    Args:
        runs: run folders or TOML files of finished runs over the same kind of extraction.
        tasks: plan for these only; default all.
        pick: a key of ``RULES``; default ``smallest``, or with ``min_texts_per_s`` ``best``.
        tolerance: loss allowed to the pick ``smallest``; default ``head.tolerance``.
        min_texts_per_s: throughput that a pick must reach.
        measuring: what to measure on, and how.
        say: called with progress lines.

    Raises:
        ConfigError: wrong arguments, or an unfinished run.
        SalientError: damaged heads, no texts, another model, or no depth that is fast enough.
    """
    pick = pick or ("smallest" if min_texts_per_s is None else "best")
    if pick not in RULES:
        raise ConfigError(f"--pick {pick!r}: choose one of {', '.join(RULES)}")
    planned = read_tasks(runs, tasks)
    metrics = {task.name: task.metric for task in planned}
    heads = {task.name: task.heads for task in planned}
    sets = sets_by_depth(heads, metrics)
    chosen = {task.name: task.chosen for task in planned}
    if _prints(chosen) not in [_prints(one) for one in sets]:
        sets.append(chosen)
    say(f"planning {', '.join(metrics)}: {len(sets)} sets of heads to measure")
    losses = [loss_of(one, heads, metrics) for one in sets]
    options, measured = _measured(planned, sets, losses, measuring or MeasureOptions(), say)
    now = next(option for option in options if _prints(option.heads) == _prints(chosen))
    if sets[-1] is chosen:
        options.pop()
    margin = (
        tolerance if tolerance is not None else min(task.config.head.tolerance for task in planned)
    )
    return Plan(
        tasks=planned,
        options=tuple(options),
        chosen=now,
        front=front_of(options),
        picks=picks_of(options, tolerance=margin, min_texts_per_s=min_texts_per_s),
        pick=pick,
        tolerance=margin,
        min_texts_per_s=min_texts_per_s,
        measured=measured,
    )


def _measured(
    tasks: Sequence[PlannedTask],
    sets: Sequence[Mapping[str, PlannedHead]],
    losses: Sequence[float],
    measuring: MeasureOptions,
    say: Say,
) -> tuple[list[Option], dict[str, Any]]:
    """An option for each set of heads, and what they were measured on."""
    scorers = load_scorers(tasks, sets, model=measuring.model, device=measuring.device)
    first, backbone = scorers[0], scorers[0].extractor.backbone
    rows = measuring.rows(tasks[0].config, backbone.device)
    speeds = measure(scorers, rows, rounds=measuring.rounds, say=say)
    options = [
        Option(
            max(head.depth for head in heads.values()),
            heads,
            loss,
            _num_neurons(scorer),
            *flops(scorer, rows),
            speed,
        )
        for heads, loss, scorer, speed in zip(sets, losses, scorers, speeds, strict=True)
    ]
    return options, {
        "source": "stored texts" if measuring.texts is None else str(measuring.texts),
        "num_texts": len(rows),
        "num_tokens": int(first.extractor.encode(rows["text"].to_pylist()).lengths.sum()),
        "rounds": measuring.rounds,
        "device": str(backbone.device),
        "dtype": first.dtype,
        "engine": backbone.engine,
        "threads": torch.get_num_threads(),
    }


def _prints(heads: Mapping[str, PlannedHead]) -> dict[str, str]:
    return {task: head.fingerprint for task, head in heads.items()}


def read_tasks(runs: Sequence[Path], names: Sequence[str] = ()) -> tuple[PlannedTask, ...]:
    """The tasks of finished runs with their heads.

    Raises:
        ConfigError: an unfinished run, an unknown task, or one that two runs have.
        SalientError: damaged heads.
    """
    configs = [run_config(path) for path in runs]
    known = [(config, task) for config in configs for task in config.tasks]
    wanted = wanted_tasks(names, [task.name for _, task in known])
    if len(set(wanted)) < len(wanted):
        raise ConfigError(f"two runs have a task of one name among {wanted}; plan them one by one")
    found = []
    for config, task in known:
        if task.name not in wanted:
            continue
        folder = RunFolder(Path(config.run_dir))
        if not folder.metrics.is_file() or not folder.sweep(task.name).is_file():
            raise ConfigError(
                f"{folder.path}: the run is not finished; run `salient consolidate` first"
            )
        sweep = read_table(folder.sweep(task.name)).to_pylist()
        paths = sorted(folder.head(task.name).parent.glob("depth_*/head.json"))
        if not paths:
            raise HeadError(
                f"{folder.head(task.name).parent}: no heads by depth there; run `salient"
                " consolidate` again"
            )
        if not folder.head(task.name).exists():
            with one_at_a_time(folder.path, silent):  # no exchange is under way then
                recover(folder.head(task.name))
        heads = tuple(_planned(path.parent, sweep) for path in paths)
        chosen = _planned(folder.head(task.name), sweep)
        found.append(PlannedTask(task.name, task.selection_metric, config, folder, heads, chosen))
    return tuple(found)


def recover(chosen: Path) -> None:
    """Put a chosen head back that was moved away by an exchange that was killed, if there is one.

    The caller holds the run's lock.
    """
    old = chosen.with_name(".chosen.old")
    if not chosen.exists() and old.is_dir():
        old.rename(chosen)
        sync_directory(chosen.parent)


def _planned(path: Path, sweep: Sequence[Mapping[str, Any]]) -> PlannedHead:
    head = Head.load(path)
    card = head.card
    judged = float(card.metrics.get("score", card.val_score))
    key = (card.kind, card.depth, card.num_features, judged)
    spans = [
        (row["low"], row["high"])
        for row in sweep
        if (row["kind"], row["depth"], row["num_features"], row.get("score")) == key
    ]
    low, high = spans[0] if spans else (float("nan"), float("nan"))
    return PlannedHead(
        path.name,
        card.depth,
        card.kind,
        judged,
        low,
        high,
        card.val_score,
        card.num_features,
        head.fingerprint,
    )


def load_scorers(
    tasks: Sequence[PlannedTask],
    sets: Sequence[Mapping[str, PlannedHead]],
    *,
    model: str | None = None,
    device: str = "auto",
) -> list[Scorer]:
    """A scorer for each set of heads, all on the weights of one backbone.

    Raises:
        SalientError: a head that is not there any more, or another model.
    """
    folders = [[task.run.head(task.name, one[task.name].name) for task in tasks] for one in sets]
    deepest = max(head.depth for one in sets for head in one.values())
    card = Head.load(folders[0][0]).card
    backbone = load_from_settings(
        card.extraction["backbone"], device=device, last_layer=deepest, model=model
    )
    return [Scorer.load(own, backbone=backbone) for own in folders]


def _num_neurons(scorer: Scorer) -> int:
    size = scorer.extractor.backbone.neuron_size
    return sum(len(np.unique(features % size)) for features in scorer.features.values())


def write_plan(plan: Plan) -> Path:
    """Write ``plan.json`` into the folder of the (first) run."""
    path = plan.tasks[0].run.plan
    write_json(path, plan.to_dict())
    return path
