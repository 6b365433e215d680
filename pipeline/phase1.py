"""Phase 1 over a store: probes for every task and layer, as tasks for :mod:`pipeline.cluster`.

``fit_one`` reads one layer's activations, fits and writes one probe. It is complete when its JSON
card exists with the right fingerprint, so a second run skips it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import RunConfig, TaskConfig
from pipeline.probe import Probe, Problem, fit_probe, importance_table
from pipeline.runfolder import RunFolder
from pipeline.targets import Rows, Target, assign_folds, load_target
from store import ActivationStore, StoreError
from store.tables import read_arrays, read_json, write_arrays, write_json, write_table

Array = NDArray[Any]
HIDDEN = "hidden"


@dataclass(frozen=True)
class ProbeResult:
    """What became of one probe."""

    task: str
    source: int | str
    val_score: float
    penalty: float
    converged: bool
    computed: bool
    """False if an earlier run had left it complete."""


def problem_of(target: Target) -> Problem:
    """Classes and metric of a task."""
    return Problem(target.num_classes, target.task.selection_metric, target.positive)


def read_rows(store: ActivationStore, source: int | str, rows: Rows) -> Array:
    """Raw activations ``(n, features)`` float32 of a layer, or of the final hidden state."""
    if source == HIDDEN:
        matrix = store.read_matrix("hidden", layer=final_hidden(store), samples=rows.positions)
    else:
        matrix = store.read_matrix("ffn", layer=int(source), samples=rows.positions)
    return np.array(matrix, dtype=np.float32, order="C")


def final_hidden(store: ActivationStore) -> int:
    """Index of the final hidden state among the stored ones."""
    return max(store.schema.hidden_layers)


def phase1_fingerprint(config: RunConfig, target: Target, extraction: str) -> str:
    """Digest of all that a task's probes depend on; texts of other tasks are not part of it."""
    parts = {
        "probe": config.probe.model_dump(mode="json"),
        "folds": config.head.folds if config.head.training == "cross_fit" else 0,
        "task": target.task.model_dump(mode="json"),
        "seed": config.seed,
        "labels": target.digest,
        "extraction": extraction,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def fit_one(config: RunConfig, snapshot: str, task: TaskConfig, source: int | str) -> ProbeResult:
    """Fit and write the probe of one task on one layer (or on the final hidden state)."""
    store = ActivationStore.open(config.store.path, snapshot=snapshot)
    stem = RunFolder(Path(config.run_dir)).probe(task.name, source)
    target = load_target(store, task)
    fingerprint = phase1_fingerprint(config, target, store.schema.fingerprint)
    if (done := _complete(stem, fingerprint)) is not None:
        return ProbeResult(
            task.name, source, done["val_score"], done["penalty"], done["converged"], computed=False
        )
    train, val = target.rows("train"), target.rows("val")
    folds = None
    if config.head.training == "cross_fit" and source != HIDDEN:
        folds = assign_folds(train, folds=config.head.folds, seed=config.seed)
    fit = fit_probe(
        read_rows(store, source, train),
        train.targets,
        read_rows(store, source, val),
        val.targets,
        problem=problem_of(target),
        config=config.probe,
        folds=folds,
    )
    chosen = next(point for point in fit.path if point[0] == fit.penalty)
    write_arrays(stem.with_suffix(".safetensors"), fit.probe.arrays())
    card = {
        "fingerprint": fingerprint,
        "task": task.name,
        "source": source,
        "classes": target.classes,
        "metric": task.selection_metric,
        "num_train": len(train),
        "num_val": len(val),
        "penalty": fit.penalty,
        "val_score": fit.val_score,
        "converged": chosen[2],
        "path": [
            {"penalty": penalty, "val_score": value, "converged": converged}
            for penalty, value, converged in fit.path
        ],
    }
    write_json(stem.with_suffix(".json"), card)
    return ProbeResult(task.name, source, fit.val_score, fit.penalty, chosen[2], computed=True)


def _complete(stem: Path, fingerprint: str) -> dict[str, Any] | None:
    if not stem.with_suffix(".safetensors").is_file():
        return None
    try:
        card = read_json(stem.with_suffix(".json"))
    except StoreError:
        return None  # missing or damaged: fitted again
    return card if card.get("fingerprint") == fingerprint else None


def is_complete(config: RunConfig, target: Target, source: int | str, extraction: str) -> bool:
    """Whether the probe of this very configuration and these labels has been written."""
    stem = RunFolder(Path(config.run_dir)).probe(target.task.name, source)
    return _complete(stem, phase1_fingerprint(config, target, extraction)) is not None


def load_probe(folder: RunFolder, task: str, source: int | str) -> Probe:
    """A probe written by :func:`fit_one`."""
    return Probe.from_arrays(read_arrays(folder.probe(task, source).with_suffix(".safetensors")))


def write_importance(
    folder: RunFolder,
    task: str,
    layers: Sequence[int],
    *,
    poolings: Sequence[str],
    classes: Sequence[str],
) -> None:
    """Write the importance table of a task, all layers in one Parquet file."""
    tables = [
        importance_table(
            load_probe(folder, task, layer).weights, layer=layer, poolings=poolings, classes=classes
        )
        for layer in layers
    ]
    write_table(folder.importance(task), pa.concat_tables(tables))
