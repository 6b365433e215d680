"""`salient rank`: all rankings of a probed run's neurons, with their agreement and controls.

Work goes by layers, on a cluster's workers too; every task of the run shares the layer's pass.
Written into the run's folder::

    rankings/TASK.parquet       task, layer, pooling, neuron, ranking, value, rank, share
    overlaps/TASK.parquet       task, layer, ranking, other, top, jaccard, expected, spearman
    stability/TASK.parquet      task, layer, ranking, top, replicates, overlap, jaccard, ...
    selectivity/TASK.parquet    task, layer, metric, val, val_control, train, ..., selectivity
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.cluster import Needs, map_tasks
from pipeline.config import RunConfig, TaskConfig
from pipeline.errors import ConfigError, ProbeError
from pipeline.events import Tally, stage
from pipeline.linear import Linear, StoreDesign
from pipeline.locking import one_at_a_time
from pipeline.neurons.rankings import ranking_table, streamed_values
from pipeline.neurons.selectivity import selectivity
from pipeline.neurons.stability import (
    bootstrap_counts,
    default_top,
    overlap_table,
    refit_importance,
    stability,
)
from pipeline.neurons.sums import Columns, RankingTarget, Sums, layer_sums
from pipeline.probes import (
    ProbeCard,
    feature_importance,
    lacking,
    load_probe,
    load_targets,
    probe_fingerprints,
    problem_of,
    read_rows,
    row_weights,
)
from pipeline.progress import Say, silent
from pipeline.runfolder import RunFolder, open_run
from pipeline.texts import Rows, Target, load_target
from store import ActivationStore
from store.layout import ffn
from store.tables import write_table

Array = NDArray[Any]
SHUFFLES = 5
"""Shuffles of the labels for the control, unless told."""
DESIGN_BYTES = 1 << 30
"""Raw activations of a layer kept in memory while its probe is fitted again."""


@dataclass(frozen=True)
class RankOptions:
    """What to compute beside the rankings.

    Attributes:
        top: features of a layer in the sets that are compared; None for a twentieth of them.
        replicates: bootstrap replicates of every ranking; 0 for none.
        shuffles: shuffles of the labels for the control; 0 for none.
    """

    top: int | None = None
    replicates: int = 0
    shuffles: int = 0

    def __post_init__(self) -> None:
        if self.top is not None and self.top < 1:
            raise ConfigError(f"--top is {self.top}; give at least 1")
        if self.replicates < 0 or self.replicates == 1:
            raise ConfigError(
                f"--stability is {self.replicates}; give 2 replicates or more, or 0 for none"
            )


def rank(
    config: RunConfig,
    *,
    tasks: Sequence[str] = (),
    options: RankOptions | None = None,
    say: Say = silent,
) -> dict[str, dict[str, pa.Table]]:
    """Rank the neurons of a probed run and write the tables.

    Args:
        config: the run's configuration.
        tasks: names; all tasks of the run by default.
        options: what to compute beside the rankings.
        say: told of progress.

    Returns:
        task -> kind (see the module) -> table; kinds that were not asked for are left out.

    Raises:
        ConfigError: an unknown or multilabel task, or a top set larger than a layer.
        ProbeError: the run has no complete probes of this configuration.
    """
    options = options or RankOptions()
    chosen = [config.task(name) for name in dict.fromkeys(tasks)] or list(config.tasks)
    snapshot, store = open_run(config)
    folder = RunFolder(Path(config.run_dir))
    if "ffn" not in store.schema.arrays:
        raise ConfigError(
            f"{config.store.path}: holds no FFN activations, and rankings are of the FFN's neurons;"
            " probes' own importance of experts' neurons is in importance_experts of the run folder"
        )
    layers = sorted(store.schema.array("ffn").layers)
    num_features = store.schema.array("ffn").rows
    if options.top is not None and options.top > num_features:
        raise ConfigError(
            f"--top is {options.top}, but a layer has {num_features} features (neurons in each"
            " pooling); give fewer"
        )
    if options.shuffles and config.probe.penalty != "l2":
        raise ConfigError(
            f"--selectivity fits probes with probe.penalty = 'l2', not {config.probe.penalty!r};"
            " rank without it, or use a run with that penalty"
        )
    targets = load_targets(config, store)
    if several := [each.task.name for each in targets if each.task in chosen and each.multilabel]:
        others = [f"--task {task.name}" for task in config.tasks if task.type != "multilabel"]
        raise ConfigError(
            f"task {several[0]!r} is multilabel, and the rankings compare classes that exclude each"
            f" other; its probes' own ranking is in {folder.importance(several[0])}"
            + (f"; rank the others: {' '.join(others)}" if others else "")
        )
    fingerprints = probe_fingerprints(config, store, targets)
    for target in (each for each in targets if each.task in chosen):
        name = target.task.name
        for layer in layers:
            if why := lacking(config, store, target, ffn(layer), fingerprints[name]):
                raise ProbeError(
                    f"{config.run_dir}: no probe of task {name!r} for layer {layer} with this"
                    f" configuration; run `salient probe` first ({why})"
                )
    num_done, tally = 0, Tally("ranked", len(layers), "layers")

    def announce(_: dict[str, dict[str, pa.Table]]) -> None:
        nonlocal num_done
        num_done += 1
        tally(num_done)

    arguments = [(config, snapshot, chosen, layer, options) for layer in layers]
    with stage("rank", folder.path), one_at_a_time(folder.path, say):
        parts = map_tasks(rank_layer, arguments, config.cluster, on_done=announce, needs=_needs)
        found: dict[str, dict[str, pa.Table]] = {}
        for task in chosen:
            found[task.name] = {}
            for kind in parts[0][task.name]:
                table = pa.concat_tables([part[task.name][kind] for part in parts])
                found[task.name][kind] = table.unify_dictionaries()
                write_table(folder.ranking(kind, task.name), found[task.name][kind])
    return found


def _needs(
    _: RunConfig, _snapshot: str, _tasks: Sequence[TaskConfig], layer: int, _options: RankOptions
) -> Needs:
    """What ranking a layer has to do with the run's folder."""
    return Needs(reads=(f"probes/*/{ffn(layer).name}.*",))


def rank_layer(
    config: RunConfig,
    snapshot: str,
    tasks: Sequence[TaskConfig],
    layer: int,
    options: RankOptions,
) -> dict[str, dict[str, pa.Table]]:
    """The tables of one layer, task -> kind -> table; one pass for the rankings of all tasks."""
    store = ActivationStore.open(config.store.path, snapshot=snapshot)
    targets = [load_target(store, task) for task in tasks]
    train = [target.rows("train") for target in targets]
    counts = [_counts(rows, options, config.seed) for rows in train]
    columns = Columns.of(
        [
            RankingTarget.of(rows, num_classes=target.num_classes, weights=weights)
            for target, rows, weights in zip(targets, train, counts, strict=True)
        ],
        num_samples=store.num_samples,
    )
    sums = layer_sums(store, layer, columns)
    return {
        target.task.name: _task_tables(config, store, target, rows, weights, part, layer, options)
        for target, rows, weights, part in zip(targets, train, counts, sums, strict=True)
    }


def _counts(rows: Rows, options: RankOptions, seed: int) -> Array:
    """``(1 + replicates, n)`` row weights: all rows once, then the bootstrap's draws."""
    once = np.ones((1, len(rows)))
    if not options.replicates:
        return once
    drawn = bootstrap_counts(len(rows), replicates=options.replicates, seed=seed)
    return np.concatenate([once, drawn])


def _task_tables(
    config: RunConfig,
    store: ActivationStore,
    target: Target,
    rows: Rows,
    counts: Array,
    sums: Sequence[Sums],
    layer: int,
    options: RankOptions,
) -> dict[str, pa.Table]:
    name, schema = target.task.name, store.schema
    folder = RunFolder(Path(config.run_dir))
    probe = load_probe(folder, name, ffn(layer), schema)
    own = "l2" if config.probe.penalty == "l2" else "l1"
    values = {own: feature_importance(probe.weights), **streamed_values(sums[0])}
    top = options.top or default_top(len(values[own]))
    tables = {
        "rankings": ranking_table(values, task=name, layer=layer, poolings=schema.poolings),
        "overlaps": overlap_table(values, task=name, layer=layer, top=top),
    }
    if not (options.replicates or options.shuffles):
        return tables
    problem = problem_of(target)
    penalty = ProbeCard.read(folder, name, ffn(layer)).penalty
    model = Linear(probe.weights, probe.bias, penalty)
    design = StoreDesign(store, ffn(layer), rows.positions, probe.standardiser, DESIGN_BYTES)
    rows = Rows(rows.positions[design.order], rows.targets[design.order])
    weight = row_weights(rows.targets, problem, config.probe)
    if options.replicates:
        drawn = [streamed_values(part) for part in sums[1:]]
        replicates = {ranking: np.stack([one[ranking] for one in drawn]) for ranking in drawn[0]}
        if own == "l2":
            scale = 1.0 if weight is None else weight
            replicates[own] = refit_importance(
                design,
                rows.targets,
                num_classes=problem.num_classes,
                weights=[scale * times for times in counts[1:, design.order]],
                start=model,
                tol=config.probe.tol,
            )
        head = {"task": name, "layer": layer}
        facts = {"top": top, "replicates": options.replicates}
        tables["stability"] = pa.Table.from_pylist(
            [
                head
                | {"ranking": ranking}
                | facts
                | asdict(stability(values[ranking], replicates[ranking], top=top))
                for ranking in values
                if ranking in replicates
            ]
        )
    if options.shuffles:
        val = target.rows("val")
        x_val = probe.standardiser.apply(read_rows(store, ffn(layer), val), in_place=True)
        found = selectivity(
            model,
            design,
            rows,
            x_val,
            val,
            problem=problem,
            weight=weight,
            shuffles=options.shuffles,
            seed=config.seed,
            tol=config.probe.tol,
        )
        row = {"task": name, "layer": layer, "metric": problem.metric, **asdict(found)}
        tables["selectivity"] = pa.Table.from_pylist([row | {"shuffles": options.shuffles}])
    return tables
