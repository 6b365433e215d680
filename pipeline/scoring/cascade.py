"""Score in two passes: easy texts leave after a few layers, the others run on to the chosen heads.

    scorer = Cascade.load(run).scorer(run)      # cascade.json of a run; scores like a ``Scorer``

All texts are scored by heads of a shallow depth. A text of which every task's most probable class
is at least as probable as the task's threshold keeps those results; the others are run again from
the beginning with the chosen heads. With ``c1`` and ``c2`` seconds a text for the two passes and a
share ``p`` that leaves early, a text takes ``c1 + (1 - p) c2``, so it pays if ``p > c1 / c2``.

Regression and label sets have no one confidence to leave by.
:mod:`pipeline.planning.thresholds` finds depth and thresholds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import Field

from pipeline.backbone import load_recorded
from pipeline.config import Name, Record, checked
from pipeline.errors import ConfigError, HeadError
from pipeline.extraction import ahead
from pipeline.heads import Drift, Head, all_features
from pipeline.runfolder import RunFolder
from pipeline.scoring.alerts import THRESHOLD
from pipeline.scoring.prediction import head_columns
from pipeline.scoring.scorer import AHEAD, Carried, Scored, Scorer
from store.layout import last_block
from store.tables import read_json, write_json

Array = NDArray[Any]
FORMAT_VERSION = 1
NEVER = 1.01
"""A threshold that no probability reaches."""


def leaving(confidence: Mapping[str, Array], thresholds: Mapping[str, float]) -> Array:
    """Mask ``(texts,)`` of the texts of which every task is confident enough."""
    sure = [confidence[task] >= threshold for task, threshold in thresholds.items()]
    return np.asarray(np.logical_and.reduce(sure))


@dataclass(frozen=True)
class CascadeTask:
    """One task of a cascade: its early head (a folder of the run) and its chosen one."""

    early: Name
    early_depth: int
    early_fingerprint: str
    full_depth: int
    full_fingerprint: str
    threshold: float
    """Probability of the most probable class from which on the early head's results are kept."""


class _Record(Record):
    """What is relied on of ``cascade.json``."""

    tasks: dict[Name, CascadeTask] = Field(min_length=1)
    loss: float


@dataclass(frozen=True)
class Cascade:
    """Two sets of heads of a run and the thresholds between them."""

    tasks: Mapping[str, CascadeTask]
    loss: float
    """What no task was to lose of its selection metric, on validation."""

    @property
    def fingerprint(self) -> str:
        """Digest of what determines its scores; never that of the heads alone; 16 hex digits."""
        facts = {
            task: [one.early_fingerprint, one.full_fingerprint, one.threshold]
            for task, one in self.tasks.items()
        }
        digest = hashlib.sha256(f"cascade {json.dumps(facts, sort_keys=True)}".encode())
        return digest.hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "format_version": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "loss": self.loss,
            "tasks": {task: asdict(one) for task, one in self.tasks.items()},
        }

    def save(self, run: RunFolder, facts: Mapping[str, Any]) -> Path:
        """Write ``cascade.json``; ``facts`` say what it gains, for people."""
        write_json(run.cascade, self.to_dict() | {"found": dict(facts)})
        return run.cascade

    @classmethod
    def load(cls, run: RunFolder) -> Cascade:
        """Read ``cascade.json`` and check that the run has the heads that it was made for.

        Raises:
            ConfigError: none there, of another format, or made for other heads.
            SalientError: a damaged file or head.
        """
        again = f"run `salient plan {run.path} --cascade`"
        if not run.cascade.is_file():
            raise ConfigError(f"{run.path}: no cascade here; {again} first")
        data = read_json(run.cascade, remedy=f"{again} again")
        if data.get("format_version") != FORMAT_VERSION:
            raise ConfigError(
                f"{run.cascade}: format {data.get('format_version')!r}, this version reads"
                f" {FORMAT_VERSION}; {again} again"
            )
        where, remedy = f"{run.cascade}: not a cascade", f"{again} again"
        found = checked(_Record, data, where=where, remedy=remedy, error=ConfigError)
        tasks, cascade = found.tasks, cls(found.tasks, found.loss)
        for task, one in tasks.items():
            for name, fingerprint in (
                (one.early, one.early_fingerprint),
                ("chosen", one.full_fingerprint),
            ):
                if Head.load(run.head(task, name)).fingerprint != fingerprint:
                    raise ConfigError(
                        f"{run.cascade}: was made for other heads of task {task!r} than the run has"
                        f" now; {again} again"
                    )
        return cascade

    def scorer(
        self,
        run: RunFolder,
        *,
        model: str | None = None,
        device: str = "auto",
        trust_remote_code: bool = False,
    ) -> CascadeScorer:
        """The scorer of a run with this cascade.

        Args:
            run: its folder.
            model: the backbone's location, if it moved.
            device: torch device.
            trust_remote_code: the model's own code may run, where the heads ask for it.
        """
        early = [run.head(task, one.early) for task, one in self.tasks.items()]
        full = [run.head(task) for task in self.tasks]
        heads = [Head.load(folder) for folder in (*early, *full)]
        backbone = load_recorded(
            heads[0].card.extraction,
            asked_by=heads[0].place,
            device=device,
            last_layer=last_block(all_features(heads), heads[0].card.num_layers),
            model=model,
            trust_remote_code=trust_remote_code,
        )
        thresholds = {task: one.threshold for task, one in self.tasks.items()}
        return CascadeScorer(
            Scorer.load(early, backbone=backbone),
            Scorer.load(full, backbone=backbone),
            thresholds,
        )


class CascadeScorer:
    """Scores as a :class:`Scorer` does, in two passes.

    Drift is counted by the early heads, which see all texts. Whether a text leaves is decided by
    its probability as written; rounding, which depends on the texts computed beside it, can turn
    that where the probability is at the threshold, so scoring a file in other blocks may.

    Args:
        early: with the heads that texts may leave at.
        full: with the chosen heads of the same tasks, in the same order.
        thresholds: task -> probability of its most probable class from which on a text may leave.

    Raises:
        HeadError: heads of regression or label sets, or of other tasks or classes.
    """

    def __init__(self, early: Scorer, full: Scorer, thresholds: Mapping[str, float]) -> None:
        if early.columns != full.columns or list(thresholds) != [h.card.task for h in full.heads]:
            raise HeadError("the early and the chosen heads of a cascade have other classes")
        if any(head.card.type != "classification" for head in full.heads):
            raise HeadError(
                "a cascade is for classes: values and label sets have no confidence to leave by"
            )
        self.early = early
        self.full = full
        self.thresholds = dict(thresholds)

    def score(self, tables: Iterable[pa.Table]) -> Iterator[Scored]:
        """Score tables of rows, read and computed ahead of the caller."""
        return (scored for _, scored in self.score_along((None, table) for table in tables))

    def score_along(
        self, works: Iterable[tuple[Carried, pa.Table]]
    ) -> Iterator[tuple[Carried, Scored]]:
        """Score tables of rows; each comes back with what went in with it."""

        def compute(work: tuple[Carried, pa.Table]) -> tuple[Carried, Scored]:
            return work[0], self.score_table(work[1])

        read = ahead(works, lambda work: work)
        return ahead(read, compute, count=AHEAD, cores_each=torch.get_num_threads())

    def score_table(self, table: pa.Table) -> Scored:
        """Score one table of rows; the rows of a text take the same way."""
        first = self.early.score_table(table)
        stays = np.flatnonzero(~self.leaves(first.table))
        if not len(stays):
            return first
        second = self.full.score_table(table.take(pa.array(stays)))
        rows = np.arange(len(table))
        rows[stays] = len(table) + np.arange(len(stays))
        both = pa.concat_tables([first.table, second.table])
        return Scored(both.take(pa.array(rows)), first.drift)

    def leaves(self, table: pa.Table) -> Array:
        """Mask ``(rows,)`` of the rows that keep the early heads' results; empty texts do."""
        confidence = {}
        for head in self.early.heads:
            columns = [table[name] for name in head_columns(head).values()]
            filled = [column.fill_null(np.inf).to_numpy().astype(np.float64) for column in columns]
            confidence[head.card.task] = np.max(filled, axis=0)
        return leaving(confidence, self.thresholds)

    def write_drift(
        self, folder: Path, name: str, drift: Drift, *, threshold: float = THRESHOLD
    ) -> dict[str, Any]:
        """Report drift counts as :meth:`Scorer.write_drift` does."""
        return self.early.write_drift(folder, name, drift, threshold=threshold)
