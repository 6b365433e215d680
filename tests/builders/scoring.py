"""Scoring without a model: the same way of rows to the folder, and nothing to wait for."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.commands.line import run_command
from pipeline.errors import ScoreError
from pipeline.heads.drift import Drift
from pipeline.scoring.batch import ScoreRun
from pipeline.scoring.folder import open_scores
from pipeline.scoring.scorer import Compute, Scored
from pipeline.scoring.seen import SeenFiles
from pipeline.scoring.summary import OUTCOMES, ScoreReport
from pipeline.texts.filters import Filters
from pipeline.texts.inputs import InputOptions
from store.disk import durable

ROW_COLUMNS = ("id", "created_at", "source_file", "text_hash")


def check_balance(report: ScoreReport) -> dict[str, Any]:
    """The summary; nothing in it is unaccounted for."""
    found = json.loads(json.dumps(report.to_dict()))
    assert found["read"] == sum(found[name] for name in OUTCOMES)
    assert found["filtered"] == sum(found["filtered_by"].values())
    assert found["quarantined"] == sum(found["quarantined_by"].values())
    return found


def compute_up_to(stop: int | None) -> Compute:
    """Reads all there is ahead of its first result, and fails at a table; no model."""

    def compute(works: Iterable[tuple[Any, pa.Table]]) -> Iterator[tuple[Any, Scored]]:
        for number, (work, table) in enumerate(list(works)):
            if number == stop:
                raise ScoreError("stopped")
            columns = {name: table[name] for name in ROW_COLUMNS}
            columns["n_tokens"] = pa.array([3] * len(table), pa.int32())
            columns["truncated"] = pa.array([False] * len(table))
            columns["of"] = table["text_hash"]
            yield work, Scored(pa.table(columns), Drift())

    return compute


def run_without_model(
    inputs: Sequence[Path],
    output: Path | str,
    stop: int | None = None,
    *,
    keep_text: bool = True,
    languages: Sequence[str] = (),
    note: bool = False,
    trust: bool = True,
    **opening: Any,
) -> ScoreReport:
    """Score files as the command does, but for the model; every text's score is its hash.

    What else is given goes to ``open_scores``.
    """
    report = ScoreReport(str(output), "made")
    card = {"fingerprint": "made", "tasks": {}}
    with open_scores(output, card, buffer_rows=20, keep_text=keep_text, **opening) as folder:
        options, filters = InputOptions(block_rows=8), Filters.of(languages=languages)
        seen = SeenFiles.load(folder.bookkeeping, trust=trust) if note else SeenFiles()
        ScoreRun(
            folder, report, options=options, filters=filters, cache_texts=30,
            compute=compute_up_to(stop), seen=seen,
        ).run(inputs)  # fmt: skip
        if note:
            seen.save(folder.bookkeeping)
    check_balance(report)
    return report


def die_at_step(words: list[str], step: int) -> None:
    """Run ``salient``; die by SIGKILL at the ``step``-th fsync or rename."""
    steps = count()

    def watch(_: str) -> None:
        if next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    durable.watch_steps(watch)
    sys.exit(run_command(words))
