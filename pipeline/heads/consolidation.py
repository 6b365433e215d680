"""Phase 2 over a store: salient slices in, head folders out; everything is chosen on validation."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import RunConfig, TaskConfig
from pipeline.errors import HeadError
from pipeline.extraction import read_golden, write_outputs
from pipeline.heads.choice import Candidate, best_of, candidate_rows, choose_depth
from pipeline.heads.drift import REFERENCE_FILE, Reference
from pipeline.heads.model import Head, HeadCard
from pipeline.heads.salient import salient_sets
from pipeline.heads.slices import Reading, read_slices
from pipeline.heads.sweep import Sweep, TrainingData
from pipeline.measures import calibrate, finite, metric_names, score
from pipeline.probes import assign_folds, problem_of, row_weights
from pipeline.runfolder import RunFolder
from pipeline.texts import Target, load_target
from store import ActivationStore
from store.tables import write_arrays, write_table

Array = NDArray[Any]


@dataclass(frozen=True)
class HeadResult:
    """The heads of one task, chosen on validation."""

    task: str
    chosen: Head
    num_tried: int
    reading: Reading


def consolidate_task(config: RunConfig, snapshot: str, task: TaskConfig) -> HeadResult:
    """Train the heads of one task; write the chosen one and the best of each kind and depth.

    Raises:
        HeadError: no candidate is small enough, or the ranking is not there.
    """
    store = ActivationStore.open(config.store.path, snapshot=snapshot)
    folder = RunFolder(Path(config.run_dir))
    target = load_target(store, task)
    train, val = target.rows("train"), target.rows("val")
    layers, reading = read_slices(config, store, target, train, val)
    problem = problem_of(target)
    folds = None
    if config.head.num_folds:
        folds = assign_folds(train, folds=config.head.num_folds, seed=config.seed)
    data = TrainingData(
        train.targets,
        val.targets,
        folds,
        row_weights(train.targets, problem, config.probe),
        config.seed,
    )
    sweep = Sweep(layers, data, problem, config.probe, config.head)
    candidates = list(sweep.candidates())
    if not candidates:
        smallest = config.head.sizes[0]
        fewest = len(salient_sets(layers, 0, smallest, config.head).whole[0])
        raise HeadError(
            f"task {task.name!r}: no head has at most head.max_features ="
            f" {config.head.max_features} features; the smallest (depth 0, {config.head.select}"
            f" {smallest:g}) needs {fewest}"
        )
    rows = candidate_rows(candidates, sweep.judged, problem, seed=config.seed)
    write_table(folder.sweep(task.name), pa.Table.from_pylist(rows))
    metric = problem.metric
    chosen = choose_depth(
        candidates, metric=metric, tolerance=config.head.tolerance, max_layer=len(layers) - 1
    )
    named = {"chosen": chosen}
    for kind in config.head.kinds:
        if any(candidate.kind == kind for candidate in candidates):
            named[kind] = best_of(candidates, metric=metric, kind=kind)
    for depth in sorted({candidate.depth for candidate in candidates}):
        named[f"depth_{depth:03d}"] = best_of(candidates, metric=metric, depth=depth)
    writer = _HeadWriter(config, snapshot, store, target, sweep)
    shutil.rmtree(folder.head(task.name).parent, ignore_errors=True)
    heads = {name: writer.write(c, folder.head(task.name, name)) for name, c in named.items()}
    return HeadResult(task.name, heads["chosen"], len(candidates), reading)


@dataclass(frozen=True)
class _HeadWriter:
    """Makes heads of candidates, and their folders."""

    config: RunConfig
    snapshot: str
    store: ActivationStore
    target: Target
    sweep: Sweep

    def write(self, candidate: Candidate, path: Path) -> Head:
        """Write a candidate as a head folder, with what scoring checks it by."""
        head = self.head(candidate)
        layers = {layer.layer: layer for layer in self.sweep.layers}
        val = {i: layers[i].raw_val(features) for i, features in head.features.items()}
        reference = Reference.of(head, val, head.outputs(val))
        write_arrays(path / REFERENCE_FILE, reference.arrays())
        golden = read_golden(RunFolder(Path(self.config.run_dir)).golden)
        if golden is not None:
            write_outputs(path, head.outputs_full(golden))
        head.save(path)  # last: it makes the folder a head
        return head

    def head(self, candidate: Candidate) -> Head:
        """The calibrated head of a candidate, with its card."""
        config, task, schema = self.config, self.target.task, self.store.schema
        sweep, problem = self.sweep, self.sweep.problem
        num_val = len(sweep.data.y_val)
        parts, thresholds, outputs = candidate.parts, None, candidate.outputs[:num_val]
        metrics: dict[str, Any] = {
            "judged_on": config.head.judge,
            "num_judged": len(sweep.judged),
            "score": candidate.score,
        }
        if problem.num_classes is not None and config.head.calibrate:
            found = calibrate(
                candidate.outputs,
                sweep.judged,
                metric=problem.metric,
                positive=problem.positive,
                seed=config.seed,
            )
            parts = tuple(part.rescaled(found.scale, found.shift) for part in parts)
            thresholds, outputs = found.thresholds, found.decision_outputs(outputs)
            metrics["calibration"] = found.facts
        names = metric_names(regression=problem.num_classes is None)
        metrics["validation"] = {
            name: finite(score(name, sweep.data.y_val, outputs, positive=problem.positive))
            for name in names
        }
        selected = "mixed sizes" if candidate.size is None else f"{candidate.size:g}"
        card = HeadCard(
            task=task.name,
            type=task.type,
            kind=candidate.kind,
            classes=self.target.classes,
            metric=task.selection_metric,
            positive=task.positive,
            depth=candidate.depth,
            num_layers=schema.num_layers,
            num_features=candidate.num_features,
            selection=f"{config.head.select} {selected} by {config.head.ranking}",
            val_score=candidate.val_score,
            poolings=schema.poolings,
            stored_dtype=schema.dtype,
            extraction=dict(schema.provenance),
            extraction_fingerprint=schema.fingerprint,
            licence=config.head.licence,
            metrics=metrics,
            provenance=self._provenance(),
        )
        return Head(card, parts, thresholds)

    def _provenance(self) -> dict[str, Any]:
        config = self.config
        return {
            "run": config.name,
            "config_fingerprint": config.fingerprint,
            "snapshot": self.snapshot,
            "training": config.head.training,
            "num_train": len(self.sweep.data.y_train),
            "num_val": len(self.sweep.data.y_val),
        }
