"""Plan how deep to score: for every depth the heads' scores and what running them really costs.

    plan = make_plan([Path("runs/demo/run")])
    plan.picked.depth, plan.picked.heads["sentiment"].score, plan.picked.speed.texts_per_s

Several tasks are planned together: they share one forward pass, so the deepest head sets the cost,
and an option is, for a depth, the best heads that reach no deeper. Scores are those that heads were
chosen by (validation rows); throughput is measured (:mod:`pipeline.planning.costs`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.backbone import load_recorded
from pipeline.errors import ConfigError, RunInputError
from pipeline.heads import Head, all_features, wanted_tasks
from pipeline.locking import one_at_a_time
from pipeline.planning.costs import MeasureOptions, flops, measure
from pipeline.planning.depth import (
    RULES,
    Option,
    Plan,
    PlannedHead,
    PlannedTask,
    front_of,
    loss_of,
    picks_of,
    sets_by_depth,
)
from pipeline.planning.exchange import recover
from pipeline.progress import Say, silent
from pipeline.runfolder import RunFolder, read_sweep, run_config, what_was_lost
from pipeline.scoring import Scorer
from store.layout import last_block
from store.tables import write_json

ANYWHERE = MeasureOptions()


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
    measuring = measuring or ANYWHERE
    measuring.check()
    planned = read_tasks(runs, tasks)
    for config in {task.config.run_dir: task.config for task in planned}.values():
        if lost := what_was_lost(config):
            say(lost)
    metrics = {task.name: task.metric for task in planned}
    heads = {task.name: task.heads for task in planned}
    sets = sets_by_depth(heads, metrics)
    chosen = {task.name: task.chosen for task in planned}
    if _prints(chosen) not in [_prints(one) for one in sets]:
        sets.append(chosen)
    say(f"planning {', '.join(metrics)}: {len(sets)} sets of heads to measure")
    losses = [loss_of(one, heads, metrics) for one in sets]
    options, measured = _measured(planned, sets, losses, measuring, say)
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
    scorers = load_scorers(tasks, sets, measuring)
    first, backbone = scorers[0], scorers[0].extractor.backbone
    rows = measuring.rows(tasks[0].config, backbone.device)
    speeds = measure(scorers, rows, rounds=measuring.rounds)
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
        sweep = read_sweep(folder, task.name).to_pylist()
        paths = sorted(folder.head(task.name).parent.glob("depth_*/head.json"))
        if not paths:
            raise RunInputError(
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
    measuring: MeasureOptions = ANYWHERE,
) -> list[Scorer]:
    """A scorer for each set of heads, all on the weights of one backbone, loaded as ``measuring``
    says.

    Raises:
        SalientError: a head that is not there any more, or another model.
    """
    folders = [[task.run.head(task.name, one[task.name].name) for task in tasks] for one in sets]
    heads = [Head.load(folder) for folder in sorted({path for own in folders for path in own})]
    card = heads[0].card
    backbone = load_recorded(
        card.extraction,
        asked_by=heads[0].place,
        device=measuring.device,
        last_layer=last_block(all_features(heads), card.num_layers),
        model=measuring.model,
        trust_remote_code=measuring.allows_code(heads, [task.config for task in tasks]),
    )
    return [Scorer.load(own, backbone=backbone) for own in folders]


def _num_neurons(scorer: Scorer) -> int:
    return sum(
        len(np.unique(features % scorer.extractor.width(source.site)))
        for source, features in scorer.features.items()
    )


def write_plan(plan: Plan) -> Path:
    """Write ``plan.json`` into the folder of the (first) run."""
    path = plan.tasks[0].run.plan
    write_json(path, plan.to_dict())
    return path
