"""Phase 2 over a store: heads from salient slices, the depth, the one look at the test split."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import RunConfig, TaskConfig
from pipeline.consolidate import (
    Candidate,
    SalientLayer,
    TrainingData,
    best_of,
    choose_depth,
    layer_salient,
    sweep,
    sweep_rows,
)
from pipeline.errors import HeadError
from pipeline.heads import Head, HeadCard
from pipeline.intervals import Resamples, difference, intervals
from pipeline.metrics import metric_names, utility
from pipeline.phase1 import HIDDEN, load_probe, problem_of, read_rows
from pipeline.probe import row_weights
from pipeline.runfolder import RunFolder
from pipeline.targets import Target, assign_folds, load_target
from store import ActivationStore
from store.tables import read_json, write_table

Array = NDArray[Any]


@dataclass(frozen=True)
class HeadResult:
    """The heads of one task, chosen on validation."""

    task: str
    chosen: Head
    best: Mapping[str, Head]
    """The best head of each kind, whatever its depth."""
    num_tried: int
    bytes_read: int


def consolidate_task(config: RunConfig, snapshot: str, task: TaskConfig) -> HeadResult:
    """Train the heads of one task, write the chosen one and the best of each kind."""
    store = ActivationStore.open(config.store.path, snapshot=snapshot)
    folder = RunFolder(Path(config.run_dir))
    target = load_target(store, task)
    train, val = target.rows("train"), target.rows("val")
    folds = None
    if config.head.training == "cross_fit":
        folds = assign_folds(train, folds=config.head.folds, seed=config.seed)
    store.reset_bytes_read()
    layers = []
    max_layer = deepest_layer(store.schema.num_layers, config.head.max_depth)
    rows = np.concatenate([train.positions, val.positions])
    for layer in range(max_layer + 1):
        probe = load_probe(folder, task.name, layer)
        features = layer_salient(probe, max(config.head.eta))
        slices = np.ascontiguousarray(
            store.read_features(layer=layer, features=features, samples=rows)
        )
        layers.append(
            SalientLayer(layer, probe, features, slices[: len(train)], slices[len(train) :])
        )
    problem = problem_of(target)
    candidates = list(
        sweep(
            layers,
            TrainingData(
                train.targets,
                val.targets,
                folds,
                row_weights(train.targets, problem, config.probe),
                config.seed,
            ),
            problem=problem,
            probe_config=config.probe,
            config=config.head,
        )
    )
    if not candidates:
        fewest = min(len(layer_salient(layers[0].probe, eta)) for eta in config.head.eta)
        raise HeadError(
            f"task {task.name!r}: no head has at most head.max_features ="
            f" {config.head.max_features} features; the smallest (depth 0, eta"
            f" {min(config.head.eta)}) needs {fewest}"
        )
    write_table(folder.sweep(task.name), pa.Table.from_pylist(sweep_rows(candidates)))
    metric = problem.metric
    best: dict[str, Candidate] = {
        kind: best_of(candidates, metric=metric, kind=kind)
        for kind in config.head.kinds
        if any(c.kind == kind for c in candidates)
    }
    chosen = choose_depth(
        candidates, metric=metric, tolerance=config.head.tolerance, max_layer=max_layer
    )
    facts = {
        "run": config.name,
        "config_fingerprint": config.fingerprint,
        "snapshot": snapshot,
        "num_train": len(train),
        "num_val": len(val),
    }
    heads = {kind: _head(c, target, store, facts) for kind, c in best.items()}
    shutil.rmtree(folder.head(task.name).parent, ignore_errors=True)
    for kind, head in heads.items():
        head.save(folder.head(task.name, kind))
    head = _head(chosen, target, store, facts)
    head.save(folder.head(task.name))
    return HeadResult(
        task.name,
        head,
        heads,
        len(candidates),
        store.bytes_read,
    )


def deepest_layer(num_layers: int, max_depth: float) -> int:
    """Index of the deepest layer that a head may use: not beyond the share, but at least 0."""
    return max(1, int(num_layers * max_depth + 1e-9)) - 1


def _head(
    candidate: Candidate, target: Target, store: ActivationStore, facts: Mapping[str, Any]
) -> Head:
    task, schema = target.task, store.schema
    card = HeadCard(
        task=task.name,
        type=task.type,
        kind=candidate.kind,
        classes=target.classes,
        metric=task.selection_metric,
        positive=task.positive,
        depth=candidate.depth,
        num_layers=schema.num_layers,
        num_features=candidate.num_features,
        eta=candidate.eta,
        val_score=candidate.val_score,
        poolings=schema.poolings,
        stored_dtype=schema.dtype,
        extraction=dict(schema.provenance),
        extraction_fingerprint=schema.fingerprint,
        provenance=dict(facts),
    )
    return Head(card, candidate.layers, candidate.dense)


def evaluate_task(config: RunConfig, snapshot: str, task: TaskConfig) -> dict[str, Any]:
    """Read the test split, once, and score everything that validation has already chosen.

    Returns:
        JSON: the task's validation and test metrics of the final hidden state, each single layer,
        the best single layer (by validation), the best frozen and sparse head and the chosen head.
        ``test_interval`` holds [low, high] of 95 % bootstrap intervals, and ``gain`` the chosen
        head's metric less the final hidden state's on the same rows.
    """
    store = ActivationStore.open(config.store.path, snapshot=snapshot)
    folder = RunFolder(Path(config.run_dir))
    target = load_target(store, task)
    test = target.rows("test")
    names = metric_names(regression=task.type == "regression")
    heads = {"chosen": Head.load(folder.head(task.name))}
    for kind in config.head.kinds:
        if folder.head(task.name, kind).is_dir():
            heads[kind] = Head.load(folder.head(task.name, kind))
    needed: dict[str, dict[int, Array]] = {name: {} for name in heads}

    resamples = Resamples(len(test), seed=config.seed)

    def report(outputs: Array) -> dict[str, Any]:
        found = intervals(
            names, test.targets, outputs, resamples=resamples, positive=target.positive
        )
        return {
            "test": {name: _finite(entry.value) for name, entry in found.items()},
            "test_interval": {
                name: None if np.isnan(entry.low) else [entry.low, entry.high]
                for name, entry in found.items()
            },
        }

    def probe_entry(source: int | str, x: Array) -> dict[str, Any]:
        card = read_json(folder.probe(task.name, source).with_suffix(".json"))
        outputs = load_probe(folder, task.name, source).outputs(x)
        return {"source": source, "val": card["val_score"], **report(outputs)}

    x_hidden = read_rows(store, HIDDEN, test)
    hidden = probe_entry(HIDDEN, x_hidden)
    layers = []
    for layer in range(store.schema.num_layers):
        x = read_rows(store, layer, test)
        layers.append(probe_entry(layer, x))
        for name, head in heads.items():
            for edges in head.layers:
                if edges.layer == layer:
                    needed[name][layer] = x[:, edges.features]
    gain = difference(
        task.selection_metric,
        test.targets,
        heads["chosen"].outputs(needed["chosen"]),
        load_probe(folder, task.name, HIDDEN).outputs(x_hidden),
        resamples=resamples,
        positive=target.positive,
    )
    best = max(layers, key=lambda entry: utility(task.selection_metric, entry["val"]))
    return {
        "metric": task.selection_metric,
        "type": task.type,
        "classes": list(target.classes),
        "num_test": len(test),
        "hidden": hidden,
        "layers": layers,
        "best_layer": best,
        "gain": {name: _finite(getattr(gain, name)) for name in ("value", "low", "high")},
        **{
            name: {
                "kind": head.card.kind,
                "depth": head.card.depth,
                "eta": head.card.eta,
                "num_features": head.card.num_features,
                "val": head.card.val_score,
                **report(head.outputs(needed[name])),
            }
            for name, head in heads.items()
        },
    }


def _finite(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return float(value) if np.isfinite(value) else None
