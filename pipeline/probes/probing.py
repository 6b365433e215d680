"""Phase 1 over a store: the probes of every task, a layer at a time.

``fit_layer`` fits all tasks on one layer and writes their probes; layers may be fitted anywhere, by
:func:`pipeline.cluster.map_tasks`. A probe is complete when its JSON card exists with the right
fingerprint, so a second run skips it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.cluster import offers_gpu
from pipeline.config import RunConfig
from pipeline.linear import CPU, StoreDesign
from pipeline.probes.fitting import ProbeTask, fit_probes
from pipeline.probes.grouping import Group, group_tasks, shared_rows
from pipeline.probes.keptgrams import layer_gram, write_part
from pipeline.probes.model import ProbeCard, ProbeFit, Problem, load_probe
from pipeline.probes.rows import groups_are_known, task_rows
from pipeline.runfolder import RunFolder
from pipeline.texts import Rows, Target, load_target
from store import ActivationStore
from store.errors import SalientError
from store.layout import Source
from store.tables import write_arrays, write_json

Array = NDArray[Any]


@dataclass(frozen=True)
class ProbeResult:
    """What became of one probe."""

    task: str
    source: Source
    val_score: float
    penalty: float
    converged: bool
    computed: bool
    """False if an earlier run had left it complete."""


def problem_of(target: Target) -> Problem:
    """Classes and metric of a task."""
    metric = target.task.selection_metric
    return Problem(target.num_classes, metric, target.positive, target.multilabel)


def read_rows(store: ActivationStore, source: Source, rows: Rows) -> Array:
    """Raw activations ``(n, features)`` float32 of a stored source."""
    matrix = store.read_matrix(source.site, layer=source.layer, samples=rows.positions)
    return np.array(matrix, dtype=np.float32, order="C")


def load_targets(config: RunConfig, store: ActivationStore) -> list[Target]:
    """All tasks, in the configuration's order."""
    return [load_target(store, task) for task in config.tasks]


def phase1_fingerprint(config: RunConfig, target: Target, extraction: str, shared: str = "") -> str:
    """Digest of all that a task's probes depend on; texts of other tasks are not part of it.

    Args:
        config: the configuration.
        target: the task with its labels.
        extraction: the store's fingerprint.
        shared: digest of the rows that the task is standardised with, where others share them.
    """
    parts = {
        "probe": config.probe.model_dump(mode="json"),
        "folds": _folds(config, target) if config.head.num_folds else 0,
        "task": target.task.model_dump(mode="json"),
        "seed": config.seed,
        "labels": target.digest,
        "extraction": extraction,
    }
    if shared:
        parts["shared"] = shared
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _folds(config: RunConfig, target: Target) -> list[Any]:
    """What the folds depend on; near-duplicates were not kept together by earlier versions, and are
    not where nobody knows them."""
    by = "near_duplicates" if groups_are_known(config, target) else None
    return [config.head.folds, config.head.folds_by or by]


def probe_fingerprints(
    config: RunConfig, store: ActivationStore, targets: Sequence[Target]
) -> dict[str, str]:
    """The fingerprint of each task's probes, of all tasks of the configuration."""
    return {
        target.task.name: phase1_fingerprint(config, target, store.schema.fingerprint, group.digest)
        for group in group_tasks(targets)
        for target in group.targets
    }


def fit_layer(
    config: RunConfig, snapshot: str, source: Source, raw_bytes: int | None = None
) -> list[ProbeResult]:
    """Fit and write the probes of all tasks on one source.

    Args:
        config: the configuration.
        snapshot: of the store.
        source: a stored source.
        raw_bytes: most bytes of stored values to hold at a time; None for no limit.

    Returns:
        A result per task, in the configuration's order; probes that were complete stay.
    """
    store = ActivationStore.open(config.store.path, snapshot=snapshot)
    return fit_targets(config, store, load_targets(config, store), source, raw_bytes)


def fit_targets(
    config: RunConfig,
    store: ActivationStore,
    targets: Sequence[Target],
    source: Source,
    raw_bytes: int | None = None,
) -> list[ProbeResult]:
    """The same for the targets of all tasks; see :func:`fit_layer`."""
    found: dict[str, ProbeResult] = {}
    for group in group_tasks(targets):
        for result in _fit_group(config, store, source, group, raw_bytes):
            found[result.task] = result
    return [found[task.name] for task in config.tasks]


def _fit_group(
    config: RunConfig,
    store: ActivationStore,
    source: Source,
    group: Group,
    raw_bytes: int | None,
) -> list[ProbeResult]:
    folder = RunFolder(Path(config.run_dir))
    results = []
    wanted: list[tuple[Target, Array, str]] = []
    for target, rows in zip(group.targets, group.rows, strict=True):
        name = target.task.name
        fingerprint = phase1_fingerprint(config, target, store.schema.fingerprint, group.digest)
        done = _complete(folder, name, source, store, fingerprint)
        if isinstance(done, str):
            wanted.append((target, rows, fingerprint))
        else:
            facts = done.val_score, done.penalty, done.converged
            results.append(ProbeResult(name, source, *facts, computed=False))
    if not wanted:
        return results
    val_rows = [target.rows("val") for target, *_ in wanted]
    val_positions, val_places = shared_rows([rows.positions for rows in val_rows])
    # Both positions increase, so a design's rows are in their order.
    train = StoreDesign(
        store, source, group.positions, memory_bytes=raw_bytes, device=gram_device(config)
    )
    val = StoreDesign(store, source, val_positions, train.standardiser, memory_bytes=0)
    tasks = []
    for (target, rows, _), val_row, val_place in zip(wanted, val_rows, val_places, strict=True):
        labelled = target.rows("train")
        folds, num_folds = None, config.head.num_folds if source.site == "ffn" else 0
        if num_folds:
            folds = task_rows(config, store, target).folds[0][: len(labelled)]
        own = rows, labelled.targets, val_place, val_row.targets, folds, num_folds
        tasks.append(ProbeTask(problem_of(target), *own, weight=labelled.weights))

    def gram() -> Array:
        # Kept only where it takes less room than the layer itself.
        size = 4 * train.num_features**2
        stored = store.num_samples * train.num_features * store.schema.itemsize
        path = folder.gram(group.name, source.name)
        return layer_gram(path, store, source, group.positions, train, keep=size <= stored)

    fits = fit_probes(train, val, tasks, config=config.probe, gram=gram)
    for (target, rows, fingerprint), val_row, fit in zip(wanted, val_rows, fits, strict=True):
        results.append(
            _write_probe(folder, target, source, fit, fingerprint, len(rows), len(val_row))
        )
    return results


def _write_probe(
    folder: RunFolder,
    target: Target,
    source: Source,
    fit: ProbeFit,
    fingerprint: str,
    num_train: int,
    num_val: int,
) -> ProbeResult:
    name = target.task.name
    stem = folder.probe(name, source.name)
    chosen = next(point for point in fit.path if point[0] == fit.penalty)
    stem.with_suffix(".json").unlink(missing_ok=True)  # of the weights that are now replaced
    write_arrays(stem.with_suffix(".safetensors"), fit.probe.arrays())
    card = {
        "fingerprint": fingerprint,
        "task": name,
        "source": source.name,
        "classes": target.classes,
        "metric": target.task.selection_metric,
        "num_train": num_train,
        "num_val": num_val,
        "penalty": fit.penalty,
        "val_score": fit.val_score,
        "converged": chosen[2],
        "path": [
            {
                "penalty": penalty,
                "val_score": value if np.isfinite(value) else None,
                "converged": converged,
            }
            for penalty, value, converged in fit.path
        ],
    }
    write_json(stem.with_suffix(".json"), card)
    return ProbeResult(name, source, fit.val_score, fit.penalty, chosen[2], computed=True)


def gram_part(config: RunConfig, snapshot: str, source: Source, part: int, num_parts: int) -> None:
    """Make one share of a layer's Gram matrices, for a layer too large for one worker's memory."""
    store = ActivationStore.open(config.store.path, snapshot=snapshot)
    folder = RunFolder(Path(config.run_dir))
    for group in group_tasks(load_targets(config, store)):
        path = folder.gram(group.name, source.name)
        device = gram_device(config)
        write_part(path, store, source, group.positions, part, num_parts, device)


def gram_device(config: RunConfig) -> torch.device:
    """Where Gram matrices are made: on the GPU if one is asked for and this worker has it."""
    asked = config.cluster.device
    if not asked.startswith("cuda") or not torch.cuda.is_available():
        return CPU
    if config.cluster.kind != "local":
        from distributed import get_worker

        # Workers beside a GPU that they do not offer leave it alone.
        if not offers_gpu(get_worker().state.total_resources):
            return CPU
    return torch.device(asked)


def _complete(
    folder: RunFolder, task: str, source: Source, store: ActivationStore, fingerprint: str
) -> ProbeCard | str:
    """The card of a probe that is there and whole; else what is the matter with it."""
    try:
        card = ProbeCard.read(folder, task, source)
        load_probe(folder, task, source, store.schema)
    except SalientError as error:
        return str(error)  # missing or damaged: fitted again
    stem = folder.probe(task, source.name)
    return card if card.fingerprint == fingerprint else f"{stem}.json: of another configuration"


def lacking(
    config: RunConfig, store: ActivationStore, target: Target, source: Source, fingerprint: str
) -> str | None:
    """What keeps the probe of this very configuration and these labels from being complete.

    Args:
        config: the configuration.
        store: with the source.
        target: the task.
        source: a stored source.
        fingerprint: the task's, of :func:`probe_fingerprints`.
    """
    folder = RunFolder(Path(config.run_dir))
    found = _complete(folder, target.task.name, source, store, fingerprint)
    return found if isinstance(found, str) else None
