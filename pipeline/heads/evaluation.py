"""The one look at the test split: every model that validation has chosen, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import RunConfig, TaskConfig
from pipeline.heads.model import Head
from pipeline.linear import HIDDEN
from pipeline.measures import (
    Calibration,
    Resamples,
    calibrate,
    difference,
    finite,
    intervals,
    metric_names,
    utility,
)
from pipeline.probes import Probe, Problem, load_probe, problem_of, read_rows
from pipeline.runfolder import RunFolder
from pipeline.texts import Target, load_target
from store import ActivationStore
from store.tables import read_json

Array = NDArray[Any]


def evaluate_task(config: RunConfig, snapshot: str, task: TaskConfig) -> dict[str, Any]:
    """Read the test split, once, and score everything that validation has already chosen.

    Returns:
        JSON: the task's validation and test metrics of the final hidden state, each single layer,
        the best single layer (by validation), the best head of each kind and the chosen head.
        ``test_interval`` holds [low, high] of 95 % bootstrap intervals, and ``gain`` the chosen
        head's metric less the final hidden state's on the same rows. For classes
        ``hidden_calibrated`` is the final hidden state's head with a calibration and thresholds
        found in the same way as the heads', on the validation rows, and ``gain_calibrated`` the
        chosen head's gain over that.
    """
    store = ActivationStore.open(config.store.path, snapshot=snapshot)
    folder = RunFolder(Path(config.run_dir))
    target = load_target(store, task)
    problem = problem_of(target)
    heads = _load_heads(config, folder, task.name)
    hidden_probe = load_probe(folder, task.name, HIDDEN)
    tuned = _calibrated(config, store, target, hidden_probe)
    rows = target.rows("test")
    test = HeldOut(rows.targets, problem, Resamples(len(rows), seed=config.seed))
    hidden_outputs = hidden_probe.outputs(read_rows(store, HIDDEN, rows))
    hidden = _probe_entry(folder, task.name, HIDDEN, test.report(hidden_outputs))
    layers = []
    needed: dict[str, dict[int, Array]] = {name: {} for name in heads}
    for layer in range(store.schema.num_layers):
        x = read_rows(store, layer, rows)
        own = test.report(load_probe(folder, task.name, layer).outputs(x))
        layers.append(_probe_entry(folder, task.name, layer, own))
        for name, head in heads.items():
            if layer in head.features:
                needed[name][layer] = x[:, head.features[layer]]
    outputs = {name: head.outputs(needed[name]) for name, head in heads.items()}
    decided = {name: head.decision_outputs(outputs[name]) for name, head in heads.items()}
    found: dict[str, Any] = {
        "metric": task.selection_metric,
        "type": task.type,
        "classes": list(target.classes),
        "num_test": len(rows),
        "hidden": hidden,
        "layers": layers,
        "best_layer": max(layers, key=lambda e: utility(task.selection_metric, e["val"])),
        "gain": test.gain(decided["chosen"], hidden_outputs),
    }
    if tuned is not None:
        baseline = tuned.decision_outputs(hidden_outputs)
        calibration = {"val": hidden["val"], "calibration": tuned.facts}
        found["hidden_calibrated"] = calibration | test.report(baseline, hidden_outputs)
        found["gain_calibrated"] = test.gain(decided["chosen"], baseline)
    for name, head in heads.items():
        found[name] = _head_entry(head, test.report(decided[name], outputs[name]))
    return found


@dataclass(frozen=True)
class HeldOut:
    """Rows on which nothing was fitted or chosen, and how outputs for them are judged.

    Attributes:
        targets: ``(n,)`` class indices or values.
        problem: classes and metric.
        resamples: of the rows; the same for all outputs, so that intervals of gains are paired.
    """

    targets: Array
    problem: Problem
    resamples: Resamples

    def report(self, outputs: Array, plain: Array | None = None) -> dict[str, Any]:
        """Every metric of outputs ``(n, outputs)`` with its interval, as JSON.

        Args:
            outputs: those of the decided classes, or values.
            plain: those of the probabilities, for the metrics of these; default ``outputs``.
        """
        names = metric_names(regression=self.problem.num_classes is None)
        options: dict[str, Any] = {
            "resamples": self.resamples,
            "positive": self.problem.positive,
        }
        found = intervals(names, self.targets, outputs, **options)
        if plain is not None and "auc" in names:
            found |= intervals(["auc"], self.targets, plain, **options)
        return {
            "test": {name: finite(entry.value) for name, entry in found.items()},
            "test_interval": {
                name: None if np.isnan(entry.low) else [entry.low, entry.high]
                for name, entry in found.items()
            },
        }

    def gain(self, outputs: Array, baseline: Array) -> dict[str, float | None]:
        """What the selection metric gains over a baseline's outputs, with its interval."""
        found = difference(
            self.problem.metric,
            self.targets,
            outputs,
            baseline,
            resamples=self.resamples,
            positive=self.problem.positive,
        )
        return {name: finite(getattr(found, name)) for name in ("value", "low", "high")}


def _load_heads(config: RunConfig, folder: RunFolder, task: str) -> dict[str, Head]:
    """The chosen head, and the best one of each kind."""
    heads = {"chosen": Head.load(folder.head(task))}
    for kind in config.head.kinds:
        if folder.head(task, kind).is_dir():
            heads[kind] = Head.load(folder.head(task, kind))
    return heads


def _calibrated(
    config: RunConfig, store: ActivationStore, target: Target, probe: Probe
) -> Calibration | None:
    """The final hidden state's head calibrated as heads are; None where these are not."""
    problem = problem_of(target)
    if problem.num_classes is None or not config.head.calibrate:
        return None
    val = target.rows("val")
    return calibrate(
        probe.outputs(read_rows(store, HIDDEN, val)),
        val.targets,
        metric=problem.metric,
        positive=problem.positive,
        seed=config.seed,
    )


def _probe_entry(
    folder: RunFolder, task: str, source: int | str, report: Mapping[str, Any]
) -> dict[str, Any]:
    card = read_json(folder.probe(task, source).with_suffix(".json"))
    return {"source": source, "val": card["val_score"], **report}


def _head_entry(head: Head, report: Mapping[str, Any]) -> dict[str, Any]:
    card = head.card
    return {
        "kind": card.kind,
        "depth": card.depth,
        "selection": card.selection,
        "num_features": card.num_features,
        "val": card.val_score,
        "score": card.metrics["score"],
        **{key: card.metrics[key] for key in ("calibration",) if key in card.metrics},
        **report,
    }
