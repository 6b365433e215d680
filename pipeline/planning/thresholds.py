"""Find a cascade: from which depth and with which confidence texts may leave early.

    cascade, facts = build(plan, loss=0.005)    # chosen on validation, measured
    cascade.save(run, facts)                    # cascade.json in the run folder

Scores need no forward pass: the heads are applied to the stored activations of the validation rows.
The thresholds are the loosest with which no task loses more than stated there; on texts of another
difficulty both the loss and the share that leaves will differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError, HeadError
from pipeline.heads import Head, held_out_outputs, stored_outputs
from pipeline.measures import Resamples, difference, score, utility
from pipeline.planning.costs import MeasureOptions, measure
from pipeline.planning.depth import SLACK, Option, Plan, PlannedTask
from pipeline.progress import Say, counted, silent
from pipeline.runfolder import RunFolder, open_snapshot, read_metrics
from pipeline.scoring import NEVER, Cascade, CascadeTask, leaving
from pipeline.texts import load_target, sample_texts

Array = NDArray[Any]
NUM_THRESHOLDS = 50
"""Thresholds tried for each task and depth: so many quantiles of its confidence."""


@dataclass(frozen=True)
class Judged:
    """A task's validation rows among texts that all tasks have in common.

    Attributes:
        metric, positive: the selection metric.
        rows: ``(n,)`` int64, text of each of the task's rows.
        targets: ``(n,)`` class indices.
        plain: ``(texts, outputs)`` of the chosen head, as decided by.
        early: ``(texts, outputs)`` of the early head, as decided by.
        confidence: ``(texts,)`` float64, probability of the early head's most probable class.
    """

    metric: str
    positive: int
    rows: Array
    targets: Array
    plain: Array
    early: Array
    confidence: Array

    def outputs(self, leaves: Array) -> Array:
        """``(n, outputs)`` of the task's rows when the texts of a mask ``(texts,)`` leave early."""
        chosen = np.where(leaves[:, None], self.early, self.plain)
        return np.asarray(chosen[self.rows])

    def loss(self, leaves: Array) -> float:
        """What the metric loses by it; below 0 if it gains."""
        return self._plain_utility - self._utility(self.outputs(leaves))

    @cached_property
    def _plain_utility(self) -> float:
        return self._utility(self.plain[self.rows])

    def _utility(self, outputs: Array) -> float:
        value = score(self.metric, self.targets, outputs, positive=self.positive)
        return utility(self.metric, value)


def find_thresholds(judged: Mapping[str, Judged], *, loss: float) -> dict[str, float]:
    """The loosest thresholds, sought from the strict end, with which no task loses more than that.

    Each task's threshold is lowered for itself as long as the task does not lose too much; then
    those of tasks that lose too much by what all tasks let leave together are raised again.
    """
    grids = {task: _grid(one.confidence) for task, one in judged.items()}
    at = {}
    for task, one in judged.items():
        steps = range(1, len(grids[task]))
        bad = (i for i in steps if one.loss(one.confidence >= grids[task][i]) > loss + SLACK)
        at[task] = next(bad, len(grids[task])) - 1
    confidence = {task: one.confidence for task, one in judged.items()}
    while True:
        thresholds = {task: grids[task][i] for task, i in at.items()}
        leaves = leaving(confidence, thresholds)
        losing = [task for task, one in judged.items() if one.loss(leaves) > loss + SLACK]
        if not losing:
            return thresholds
        at |= {task: max(at[task] - 1, 0) for task in losing}


def _grid(confidence: Array) -> list[float]:
    """Thresholds to try, strictest first: nobody leaves, quantiles, all leave."""
    levels = np.linspace(1, 0, NUM_THRESHOLDS)
    found = np.unique(np.quantile(confidence, levels, method="nearest"))[::-1]
    return [NEVER, *found.tolist()]


def build(
    plan: Plan,
    *,
    loss: float,
    measuring: MeasureOptions | None = None,
    say: Say = silent,
) -> tuple[Cascade, dict[str, Any]]:
    """Choose depth and thresholds by the validation rows' stored activations; measure the gain.

    Args:
        plan: of one run's classification tasks; its chosen heads are those to reach.
        loss: what no task may lose of its selection metric on its validation rows.
        measuring: what to measure on, and how; stored texts are those of the validation rows only,
            for heads are surer of training texts.
        say: called with progress lines.

    Returns:
        The cascade, and facts: shares that leave, scores with and without, throughput.

    Raises:
        ConfigError: several runs, or tasks without classes.
        HeadError: none is faster than the chosen heads.
    """
    run, measuring = check(plan.tasks), measuring or MeasureOptions()
    best = _cheapest(plan, loss, say)
    cascade = Cascade(
        {
            task: CascadeTask(
                early.name,
                early.depth,
                early.fingerprint,
                plan.chosen.heads[task].depth,
                plan.chosen.heads[task].fingerprint,
                best.thresholds[task],
            )
            for task, early in best.option.heads.items()
        },
        loss,
    )
    chosen = [Head.load(run.head(task.name)) for task in plan.tasks]
    scorer = cascade.scorer(
        run,
        model=measuring.model,
        device=measuring.device,
        trust_remote_code=measuring.allows_code(chosen, [task.config for task in plan.tasks]),
    )
    device = scorer.full.extractor.backbone.device
    rows = measuring.rows(plan.tasks[0].config, device, splits=("val",))
    plain, own = measure([scorer.full, scorer], rows, rounds=measuring.rounds)
    early_table = scorer.early.score_table(rows).table
    return cascade, {
        "early_depth": best.option.depth,
        "full_depth": plan.chosen.depth,
        "num_validation_texts": len(best.leaves),
        "share_early": float(best.leaves.mean()),
        "expected_gain": best.gain,
        "tasks": {task: _scores(one, best.leaves) for task, one in best.judged.items()},
        "measured": {
            "num_texts": len(rows),
            "share_early": float(scorer.leaves(early_table).mean()),
            "gain": own.texts_per_s / plain.texts_per_s,
            "plain": asdict(plain),
            "cascade": asdict(own),
        },
    }


@dataclass(frozen=True)
class _Tried:
    """What leaving early at an option's depth would bring.

    Attributes:
        option: with the heads to leave at.
        judged: task -> its validation rows.
        thresholds: task -> the loosest one allowed.
        leaves: mask ``(texts,)`` of the texts that leave by them.
        gain: how many times as fast as the chosen heads alone the cascade is to be.
    """

    option: Option
    judged: Mapping[str, Judged]
    thresholds: Mapping[str, float]
    leaves: Array
    gain: float


def _cheapest(plan: Plan, loss: float, say: Say) -> _Tried:
    """The depth above the chosen heads' that makes the fastest cascade.

    Raises:
        HeadError: none is faster than the chosen heads.
    """
    stored = _Stored(plan.tasks)
    plain = {task.name: stored.outputs(task, "chosen") for task in plan.tasks}
    seconds = 1 / plan.chosen.speed.texts_per_s
    tried = []
    for option in plan.options:
        if option.depth < plan.chosen.depth:
            judged = {task.name: stored.judged(task, option, plain) for task in plan.tasks}
            thresholds = find_thresholds(judged, loss=loss)
            leaves = leaving({t: one.confidence for t, one in judged.items()}, thresholds)
            cost = 1 / option.speed.texts_per_s + (1 - leaves.mean()) * seconds
            tried.append(_Tried(option, judged, thresholds, leaves, seconds / cost))
            say(
                f"after {counted(option.depth + 1, 'block')} {leaves.mean():.0%} of {len(leaves)}"
                f" validation texts may leave, {tried[-1].gain:.2f} times as fast to expect"
            )
    best = max(tried, key=lambda one: one.gain, default=None)
    if best is None or best.gain <= 1:
        raise HeadError(
            f"no cascade is faster than the chosen heads alone within a loss of {loss:g}"
            + ("" if best is None else f" (the best: {best.gain:.2f} times as fast)")
            + ": allow more --loss, or stay with the chosen heads"
        )
    return best


def check(tasks: Sequence[PlannedTask]) -> RunFolder:
    """The run of tasks that can have a cascade together.

    Raises:
        ConfigError: they cannot.
    """
    if len({task.run.path for task in tasks}) > 1:
        raise ConfigError("--cascade: plan one run at a time")
    kinds = {task.name: task.config.task(task.name).type for task in tasks}
    if others := [name for name, kind in kinds.items() if kind != "classification"]:
        classes = [f"--task {name}" for name in kinds if name not in others]
        what = {"regression": "a regression", "multilabel": "multilabel"}[kinds[others[0]]]
        raise ConfigError(
            f"--cascade: task {others[0]!r} is {what}, which has no confidence to leave by;"
            + (f" plan the others alone: {' '.join(classes)}" if classes else " score it plainly")
        )
    return tasks[0].run


class _Stored:
    """Heads over the stored activations of all tasks' validation rows."""

    def __init__(self, tasks: Sequence[PlannedTask]) -> None:
        self._config, run = tasks[0].config, tasks[0].run
        snapshot = read_metrics(run).get("snapshot")
        self._store = open_snapshot(self._config, snapshot)
        self._targets = {t.name: load_target(self._store, t.config.task(t.name)) for t in tasks}
        self._rows = {name: target.rows("val") for name, target in self._targets.items()}
        every = np.concatenate([rows.positions for rows in self._rows.values()])
        self._positions = np.unique(every)

    def outputs(self, task: PlannedTask, name: str) -> tuple[Head, Array]:
        """A head, and what it says, held out, of the texts of any task's validation rows."""
        folder = task.run.head(task.name, name)
        head = Head.load(folder)
        outputs = stored_outputs(
            head,
            self._store,
            self._positions,
            lambda: sample_texts(self._store, self._positions, self._config),
        )
        return head, held_out_outputs(folder, self._positions, outputs)

    def judged(
        self, task: PlannedTask, option: Option, plain: Mapping[str, tuple[Head, Array]]
    ) -> Judged:
        rows, full = self._rows[task.name], plain[task.name]
        early = self.outputs(task, option.heads[task.name].name)
        # As written: float32.
        probability = early[0].probabilities(early[1]).astype(np.float32)
        return Judged(
            task.metric,
            self._targets[task.name].positive,
            np.searchsorted(self._positions, rows.positions),
            rows.targets,
            full[0].outputs_for(task.metric, full[1]),
            early[0].outputs_for(task.metric, early[1]),
            probability.max(axis=1).astype(np.float64),
        )


def _scores(judged: Judged, leaves: Array) -> dict[str, Any]:
    plain, mixed = judged.plain[judged.rows], judged.outputs(leaves)
    options: dict[str, Any] = {"positive": judged.positive}
    values = [score(judged.metric, judged.targets, one, **options) for one in (plain, mixed)]
    resamples = Resamples(len(judged.rows), replicates=400)
    found = difference(judged.metric, judged.targets, mixed, plain, resamples=resamples, **options)
    known = np.isfinite(found.low)
    return {
        "metric": judged.metric,
        "plain": values[0],
        "cascade": values[1],
        "change": [found.low, found.high] if known else None,
    }
