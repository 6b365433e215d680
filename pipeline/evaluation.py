"""The one look at the test split: every model that validation has chosen, with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.calibration import calibrate
from pipeline.config import RunConfig, TaskConfig
from pipeline.design import HIDDEN
from pipeline.heads import Head
from pipeline.intervals import Interval, Resamples, difference, intervals
from pipeline.metrics import metric_names, utility
from pipeline.phase1 import load_probe, problem_of, read_rows
from pipeline.phase2 import finite
from pipeline.runfolder import RunFolder
from pipeline.targets import load_target
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
    heads = {"chosen": Head.load(folder.head(task.name))}
    for kind in config.head.kinds:
        if folder.head(task.name, kind).is_dir():
            heads[kind] = Head.load(folder.head(task.name, kind))
    hidden_probe = load_probe(folder, task.name, HIDDEN)
    val = target.rows("val")
    tuned = None
    if problem.num_classes is not None and config.head.calibrate:
        tuned = calibrate(
            hidden_probe.outputs(read_rows(store, HIDDEN, val)),
            val.targets,
            metric=problem.metric,
            positive=problem.positive,
            seed=config.seed,
        )
    test = target.rows("test")
    names = metric_names(regression=problem.num_classes is None)
    resamples = Resamples(len(test), seed=config.seed)

    def report(outputs: Array, plain: Array | None = None) -> dict[str, Any]:
        """Metrics of decided classes or values; those of probabilities from ``plain`` outputs."""
        options: dict[str, Any] = {"resamples": resamples, "positive": target.positive}
        found = intervals(names, test.targets, outputs, **options)
        if plain is not None and "auc" in names:
            found |= intervals(["auc"], test.targets, plain, **options)
        return {
            "test": {name: finite(entry.value) for name, entry in found.items()},
            "test_interval": {
                name: None if np.isnan(entry.low) else [entry.low, entry.high]
                for name, entry in found.items()
            },
        }

    def gain(outputs: Array, baseline: Array) -> dict[str, float | None]:
        found: Interval = difference(
            task.selection_metric,
            test.targets,
            outputs,
            baseline,
            resamples=resamples,
            positive=target.positive,
        )
        return {name: finite(getattr(found, name)) for name in ("value", "low", "high")}

    def probe_entry(source: int | str, outputs: Array) -> dict[str, Any]:
        card = read_json(folder.probe(task.name, source).with_suffix(".json"))
        return {"source": source, "val": card["val_score"], **report(outputs)}

    hidden_outputs = hidden_probe.outputs(read_rows(store, HIDDEN, test))
    layers = []
    needed: dict[str, dict[int, Array]] = {name: {} for name in heads}
    for layer in range(store.schema.num_layers):
        x = read_rows(store, layer, test)
        layers.append(probe_entry(layer, load_probe(folder, task.name, layer).outputs(x)))
        for name, head in heads.items():
            if layer in head.features:
                needed[name][layer] = x[:, head.features[layer]]
    outputs = {name: head.outputs(needed[name]) for name, head in heads.items()}
    decided = {name: head.decision_outputs(outputs[name]) for name, head in heads.items()}
    found: dict[str, Any] = {
        "metric": task.selection_metric,
        "type": task.type,
        "classes": list(target.classes),
        "num_test": len(test),
        "hidden": probe_entry(HIDDEN, hidden_outputs),
        "layers": layers,
        "best_layer": max(layers, key=lambda e: utility(task.selection_metric, e["val"])),
        "gain": gain(decided["chosen"], hidden_outputs),
    }
    if tuned is not None:
        baseline = tuned.decision_outputs(hidden_outputs)
        calibration = {"val": found["hidden"]["val"], "calibration": tuned.facts}
        found["hidden_calibrated"] = calibration | report(baseline, hidden_outputs)
        found["gain_calibrated"] = gain(decided["chosen"], baseline)
    for name, head in heads.items():
        card = head.card
        found[name] = {
            "kind": card.kind,
            "depth": card.depth,
            "selection": card.selection,
            "num_features": card.num_features,
            "val": card.val_score,
            "score": card.metrics["score"],
            **{key: card.metrics[key] for key in ("calibration",) if key in card.metrics},
            **report(decided[name], outputs[name]),
        }
    return found
