"""The one look at the test split: every model that was chosen before, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.config import RunConfig, TaskConfig
from pipeline.heads.activations import near, stored_outputs
from pipeline.heads.consolidation import BASELINE
from pipeline.heads.model import KINDS, SITE_KEYS, Head
from pipeline.measures import (
    METRICS,
    Resamples,
    difference,
    finite,
    interval,
    intervals,
    metric_names,
    utility,
)
from pipeline.probes import ProbeCard, Problem, load_probe, problem_of, read_rows
from pipeline.runfolder import RunFolder
from pipeline.texts import Target, load_target, sample_texts
from store import ActivationStore
from store.layout import Source, stored_sources

Array = NDArray[Any]
ALWAYS = ("ffn", "hidden")
"""Sites whose key is there without entries, too."""


def evaluate_task(config: RunConfig, snapshot: str, task: TaskConfig) -> dict[str, Any]:
    """Read the test split, once, and score everything that has been chosen before.

    Returns:
        JSON: validation and test metrics of each source's probe (``layers``, ``hidden_states`` and,
        where stored, ``routers`` and ``experts``), the best single FFN layer (by validation), the
        best head of each kind, the chosen head and ``baselines``, what it is compared with; of
        label sets also the chosen head's F1 of each label (``labels``). ``test_interval`` holds
        [low, high] of 95 % bootstrap intervals, and ``gain`` by how much the chosen head's metric
        is better than a baseline's on the same rows: that over the conventional head, on the final
        hidden state, is the task's own. ``score_interval`` and ``score_gain`` are the same of the
        rows that heads were judged by. Of fewer than 20 rows there are no intervals.
    """
    store = near(ActivationStore.open(config.store.path, snapshot=snapshot))
    folder = RunFolder(Path(config.run_dir))
    target = load_target(store, task)
    problem, rows = problem_of(target), target.rows("test")
    test = HeldOut(rows.targets, problem, Resamples(len(rows), seed=config.seed))
    probes: dict[str, list[dict[str, Any]]] = {site: [] for site in SITE_KEYS}
    for source in stored_sources(store.schema):
        probe = load_probe(folder, task.name, source, store.schema)
        outputs = probe.outputs(read_rows(store, source, rows))
        probes[source.site].append(_probe_entry(folder, task.name, source, test.report(outputs)))

    def texts() -> list[str]:
        return sample_texts(store, rows.positions, config)

    known: dict[str, _Judged] = {}  # one head goes by several names

    def judged(name: str) -> _Judged:
        head = Head.load(folder.head(task.name, name))
        if head.fingerprint not in known:
            outputs = stored_outputs(head, store, rows.positions, texts)
            decided = head.decision_outputs(outputs)
            graded = head.outputs_for(problem.metric, outputs)
            known[head.fingerprint] = _Judged(test.report(decided, outputs), decided, graded)
        found = known[head.fingerprint]
        facts = head.card.metrics
        return found._replace(
            entry=_head_entry(head, found.entry),
            score_gain=facts.get("score_gain"),
            num_judged=facts.get("num_judged"),
        )

    chosen = judged("chosen")
    found: dict[str, Any] = {
        "metric": task.selection_metric,
        "type": task.type,
        "classes": list(target.classes),
        "num_test": len(rows),
        "num_judged": chosen.num_judged,
        **{SITE_KEYS[site]: own for site, own in probes.items() if own or site in ALWAYS},
        "chosen": chosen.entry,
        "baselines": _baselines(folder, target, judged, test, chosen.outputs),
    }
    if probes["ffn"]:
        found["best_layer"] = max(
            probes["ffn"], key=lambda e: utility(task.selection_metric, e["val"])
        )
    if problem.multilabel:
        found["labels"] = test.by_label(chosen.decided, target.classes)
    found["hidden"] = found["baselines"]["final"]
    found["gain"] = found["hidden"]["gain"]
    for kind in KINDS:
        if folder.head(task.name, kind).is_dir():
            found[kind] = judged(kind).entry
    return found


class _Judged(NamedTuple):
    """A head on the test rows.

    Attributes:
        entry: of the report.
        decided: ``(n, outputs)`` of the decided classes.
        outputs: ``(n, outputs)`` as the selection metric takes them.
        score_gain: of the chosen head over it on the rows that judged, if it is compared with.
        num_judged: rows that judged.
    """

    entry: dict[str, Any]
    decided: Array
    outputs: Array
    score_gain: dict[str, float | None] | None = None
    num_judged: int | None = None


def _baselines(
    folder: RunFolder,
    target: Target,
    judged: Callable[[str], _Judged],
    test: HeldOut,
    chosen: Array,
) -> dict[str, Any]:
    """Name -> entry of what the chosen head is compared with, and its gain over that."""
    found = {}
    for path in sorted(folder.head(target.task.name).parent.glob(f"{BASELINE}*")):
        own = judged(path.name)
        gain = test.gain(chosen, own.outputs)
        gains = {"gain": gain, "score_gain": own.score_gain}
        found[path.name.removeprefix(BASELINE)] = own.entry | gains
    if test.problem.num_classes is not None:
        constant = _majority(target.rows("train").targets, len(test.targets), test.problem)
        entry = {"kind": "majority", **test.report(constant)}
        found["majority"] = entry | {"gain": test.gain(chosen, constant)}
    return found


def _majority(targets: Array, num_rows: int, problem: Problem) -> Array:
    """Outputs ``(num_rows, outputs)`` for the largest class of the training rows' ``targets``, or
    for what most of them have of each label."""
    if problem.multilabel:
        share = targets.mean(axis=0, dtype=np.float64)
        return np.tile(share - 0.5, (num_rows, 1))  # the commonest label ranks first
    assert problem.num_classes is not None
    constant = np.zeros((num_rows, max(problem.num_classes, 2)), np.float32)
    constant[:, np.bincount(targets).argmax()] = 1.0
    return constant if constant.shape[1] > 2 else constant[:, 1:] - constant[:, :1]


@dataclass(frozen=True)
class HeldOut:
    """Rows on which nothing was fitted or chosen, and how outputs for them are judged.

    Attributes:
        targets: ``(n,)`` class indices or values, or label sets ``(n, labels)``.
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
        names = metric_names(self.problem.type)
        options: dict[str, Any] = {
            "resamples": self.resamples,
            "positive": self.problem.positive,
        }
        found = intervals(names, self.targets, outputs, **options)
        graded = [name for name in names if not METRICS[name].of_decisions]
        if plain is not None and graded:
            found |= intervals(graded, self.targets, plain, **options)
        return {
            "test": {name: finite(entry.value) for name, entry in found.items()},
            "test_interval": {
                name: None if np.isnan(entry.low) else [entry.low, entry.high]
                for name, entry in found.items()
            },
        }

    def by_label(self, outputs: Array, labels: Sequence[str]) -> dict[str, dict[str, Any]]:
        """F1 of each label of outputs ``(n, labels)``, with its interval and its number of rows.

        None where the label neither is nor is decided for.
        """
        found = {}
        for i, name in enumerate(labels):
            truth = self.targets[:, [i]]
            one = interval("macro_f1", truth, outputs[:, [i]], resamples=self.resamples)
            bounds = None if np.isnan(one.low) else [one.low, one.high]
            found[name] = {"f1": finite(one.value), "interval": bounds, "rows": int(truth.sum())}
        return found

    def gain(self, outputs: Array, baseline: Array) -> dict[str, float | None]:
        """By how much the selection metric is better than for a baseline's outputs, with its
        interval; both as the metric takes them, ``(n, outputs)``."""
        metric = self.problem.metric
        pair = (outputs, baseline) if METRICS[metric].higher_is_better else (baseline, outputs)
        found = difference(
            metric,
            self.targets,
            *pair,
            resamples=self.resamples,
            positive=self.problem.positive,
        )
        return {name: finite(getattr(found, name)) for name in ("value", "low", "high")}


def _probe_entry(
    folder: RunFolder, task: str, source: Source, report: Mapping[str, Any]
) -> dict[str, Any]:
    card = ProbeCard.read(folder, task, source)
    return {"source": source.layer, "val": card.val_score, **report}


def _head_entry(head: Head, report: Mapping[str, Any]) -> dict[str, Any]:
    card = head.card
    return {
        "kind": card.kind,
        "depth": card.depth,
        "selection": card.selection,
        "num_features": card.num_features,
        "val": card.val_score,
        **{
            k: card.metrics[k]
            for k in ("score", "score_interval", "loss", "judged_on", "calibration", "choice")
            if k in card.metrics
        },
        **report,
    }
