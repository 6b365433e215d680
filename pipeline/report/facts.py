"""What a report shows of a finished run, read from its folder: plain arrays and tables, no plots.

    run = read_run(Path("runs/demo/run"))
    run.tasks[0].predictions.confusion()        # (classes, classes) counts, labels in rows

The chosen head's predictions on the test split are made again from the store. Where the store or
a table is not there any more, ``notes`` says what is left out and why; the rest is still shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import DriftReport, RunConfig, checked
from pipeline.errors import ScoreError
from pipeline.heads import Head, ngram_table, stored_outputs
from pipeline.neurons import importance_cube, read_ablations, read_overlaps
from pipeline.prevalence import SharesReport, find_shares
from pipeline.probes import read_importance
from pipeline.report.labelnoise import DOUBTS_SHOWN, LabelDoubts, doubts_of
from pipeline.report.mistakes import Mistake, Predictions, find_mistakes
from pipeline.report.salience import SalientNeuron, first_neurons, with_texts, with_weights
from pipeline.runfolder import (
    RunFolder,
    finished_metrics,
    open_snapshot,
    read_card,
    read_sweep,
    run_config,
    what_was_lost,
)
from pipeline.scoring import DRIFT, check_files, scores_at
from pipeline.texts import StoredTexts, load_target, sample_texts
from store.disk import is_url, join
from store.errors import SalientError

Array = NDArray[Any]
JSON = Mapping[str, Any]


@dataclass(frozen=True)
class DriftFacts:
    """Drift of a folder of scores for one task.

    Attributes:
        threshold: of the excess, above which a date counts as drifted.
        dates: date -> its entry in the drift report, dates in order.
    """

    threshold: float
    dates: Mapping[str, JSON]


@dataclass(frozen=True)
class TaskFacts:
    """One task of a run.

    Attributes:
        name: the task's name.
        metrics: its entry in ``metrics.json``.
        sweep: every head tried: ``kind``, ``depth``, ``num_features``, ``val_score`` …
        importance: per layer ``(layers, poolings, neurons)`` float64, the L2 norm of the probe's
            weights; None if the table is missing.
        poolings: names of its second axis.
        overlaps: ``overlaps/TASK.parquet`` of `salient rank`, if it ran.
        ablation: the task's entry in ``ablation.json``, if there is one.
        predictions: on the test split.
        head: the chosen head's card.
        ngrams: the n-grams that it reads, the most important first; None if it reads none.
        mistakes: the test rows on which the chosen head errs most surely.
        neurons: the most important ones, with what they speak for and the texts that excite them.
        doubts: the labels that its out-of-fold outputs most doubt.
        drift: of the texts scored with it, if there are scores.
        shares: of classes among these texts, of all tasks.
        notes: what could not be shown, and why.
    """

    name: str
    metrics: JSON
    sweep: pa.Table
    importance: Array | None = None
    poolings: tuple[str, ...] = ()
    overlaps: pa.Table | None = None
    ablation: JSON | None = None
    predictions: Predictions | None = None
    head: JSON = field(default_factory=dict)
    ngrams: pa.Table | None = None
    mistakes: tuple[Mistake, ...] = ()
    neurons: tuple[SalientNeuron, ...] = ()
    doubts: LabelDoubts | None = None
    drift: DriftFacts | None = None
    shares: SharesReport | None = None
    notes: tuple[str, ...] = ()

    @property
    def metric(self) -> str:
        """The selection metric."""
        return str(self.metrics["metric"])


@dataclass(frozen=True)
class RunFacts:
    """A finished run: its card (``run.json``), the configuration in it and its tasks; ``lost``
    says so where the store has lost samples of it."""

    path: Path
    card: JSON
    config: RunConfig
    tasks: tuple[TaskFacts, ...]
    lost: str | None = None


def read_run(path: Path, *, scores: Path | str | None = None) -> RunFacts:
    """Read a finished run.

    Args:
        path: the run's folder, or the TOML file that it was made with.
        scores: a folder of scores made with its heads, for their drift; default the one that the
            TOML file names (a folder may come from anybody, and leads nowhere else).

    Raises:
        ConfigError: the run is not finished.
        SalientError: no run there, or damaged files.
    """
    if path.suffix == ".toml" and path.is_file():
        own = run_config(path)
        path = Path(own.run_dir)
        if scores is None and own.score.output is not None:
            output = own.score.output
            scores = output if is_url(output) else Path(output)
    folder = RunFolder(path)
    card = read_card(folder)
    metrics = finished_metrics(folder)
    config = run_config(path)
    ablated = read_ablations(folder.ablation) if folder.ablation.is_file() else {}
    drift = {} if scores is None else read_drift(scores)
    shares, unknown = _read_shares(scores, folder.path)
    tasks = tuple(
        replace(found, drift=drift.get(found.name), shares=shares, notes=(*found.notes, *unknown))
        for name, entry in metrics["tasks"].items()
        for found in [
            _read_task(folder, config, name, entry, metrics.get("snapshot"), ablated.get(name))
        ]
    )
    return RunFacts(path, card, config, tasks, what_was_lost(config))


def _read_shares(
    scores: Path | str | None, run: Path
) -> tuple[SharesReport | None, tuple[str, ...]]:
    """Shares by day in a folder of scores, or why there are none; where the folder does not say
    what its heads get wrong, the run is asked."""
    if scores is None:
        return None, ()
    try:
        found = find_shares(scores, by="day")
    except SalientError as error:
        return None, (f"no shares of classes: {error}",)
    known = set(zip(*(found.table[key].to_pylist() for key in ("task", "method")), strict=True))
    if all((task, "adjusted") in known for task, _ in known):
        return found, ()
    try:
        return find_shares(scores, by="day", run=run), ()
    except SalientError as error:
        return found, (f"no corrected shares: {error}",)


def _read_task(
    folder: RunFolder,
    config: RunConfig,
    name: str,
    metrics: JSON,
    snapshot: str | None,
    ablation: JSON | None,
) -> TaskFacts:
    notes: list[str] = []
    importance: Array | None = None
    poolings: tuple[str, ...] = ()
    if folder.importance(name).is_file():
        importance, poolings = importance_cube(read_importance(folder, name))
    else:
        notes.append("no importance table: the importance map and the neurons are left out")
    overlaps = folder.ranking("overlaps", name)
    if not overlaps.is_file():
        notes.append("no rankings: `salient rank` compares other ways of ranking the neurons")
    if not metrics.get("by_size"):
        notes.append(
            "no salient against random features by their number: the run is of an older version, or"
            " tried no sparse head"
        )
    predictions, card, ngrams = None, {}, None
    mistakes: tuple[Mistake, ...] = ()
    try:
        head = Head.load(folder.head(name))
        card, ngrams = dict(vars(head.card)), ngram_table(head)
        predictions, mistakes = _predict(head, config, name, snapshot)
    except (SalientError, OSError) as error:
        notes.append(f"no predictions of the test split: {error}")
    neurons: tuple[SalientNeuron, ...] = ()
    if importance is not None:
        first = first_neurons(importance, poolings)
        try:
            neurons = with_weights(first, folder, name)
        except (SalientError, OSError, KeyError) as error:
            neurons = first
            notes.append(f"no signs of the neurons: {error}")
        try:
            neurons = with_texts(neurons, open_snapshot(config, snapshot), config.task(name))
        except (SalientError, OSError) as error:
            notes.append(f"no texts of the neurons: {error}")
    doubts = None
    try:
        doubts = doubts_of(config, open_snapshot(config, snapshot), name, limit=DOUBTS_SHOWN)
    except (SalientError, OSError) as error:
        notes.append(f"no doubted labels: {error}")
    return TaskFacts(
        name=name,
        metrics=metrics,
        sweep=read_sweep(folder, name),
        importance=importance,
        poolings=poolings,
        overlaps=read_overlaps(overlaps) if overlaps.is_file() else None,
        ablation=ablation,
        predictions=predictions,
        head=card,
        ngrams=ngrams,
        mistakes=mistakes,
        neurons=neurons,
        doubts=doubts,
        notes=tuple(notes),
    )


def _predict(
    head: Head, config: RunConfig, task: str, snapshot: str | None
) -> tuple[Predictions | None, tuple[Mistake, ...]]:
    store = open_snapshot(config, snapshot)
    target = load_target(store, config.task(task))
    rows = target.rows("test")
    if not len(rows):
        return None, ()
    outputs = stored_outputs(
        head, store, rows.positions, lambda: sample_texts(store, rows.positions, config)
    )
    if target.classes:
        probability = head.probabilities(outputs)
        decided = head.decide(probability)
    else:
        probability, decided = None, outputs[:, 0].astype(np.float64)
    found = Predictions(target.classes, rows.targets, decided, probability, rows.positions)
    return found, find_mistakes(found, StoredTexts(store))


def read_drift(scores: Path | str) -> dict[str, DriftFacts]:
    """Task -> drift by date, from all drift reports of a folder of scores; later ones win."""
    if not is_url(scores):
        check_files(Path(scores))
    held = scores_at(scores)
    dates: dict[str, dict[str, JSON]] = {}
    threshold = 0.0
    for name in held.records(DRIFT):
        again = f"`salient score repair {scores}` sets it aside; or delete it"
        where, facts = join(scores, name), held.read_record(name, remedy=again)
        report = checked(DriftReport, facts, where=where, remedy=again, error=ScoreError)
        threshold = report.threshold
        for task, entry in report.tasks.items():
            found = {date: one.model_dump(exclude_none=True) for date, one in entry.dates.items()}
            dates.setdefault(task, {}).update(found)
    return {
        task: DriftFacts(threshold, dict(sorted(found.items())))
        for task, found in dates.items()
        if found
    }
