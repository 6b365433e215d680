"""`salient score`: check that everything fits, score the files, write the summary.

    score_files([Path("new.csv")], Path("run.toml"), Path("scores"), languages=("en",))

Whatever is to be scored with is found and checked by ``pipeline.scoring.prepared``; a *round* is
what then happens to some files: the folder is opened, the files are read and scored, the records
are written. `salient score` is one round, ``pipeline.scoring.following`` has many of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.events import emit
from pipeline.heads import Drift
from pipeline.progress import Say, silent
from pipeline.runfolder import RunFolder
from pipeline.scoring.alerts import drift_of_tasks
from pipeline.scoring.batch import IncompleteScores, ScoreRun, WrongInputs
from pipeline.scoring.distributed import ScoreRecipe, computing
from pipeline.scoring.folder import ScoreFolder, open_scores
from pipeline.scoring.inputs import NO_NAMES, check_apart, check_inputs, find_inputs
from pipeline.scoring.place import DRIFT, RUNS
from pipeline.scoring.prepared import AnyScorer, Prepared, prepare
from pipeline.scoring.prepared import ScoreOptions as ScoreOptions
from pipeline.scoring.seen import SeenFiles
from pipeline.scoring.spool import standard_input
from pipeline.scoring.summary import InputReport, ScoreReport
from pipeline.texts import as_path
from store import StoreError
from store.tables import read_json, write_json


@dataclass(frozen=True)
class Clock:
    """When a round began."""

    begun_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed_s(self) -> float:
        """Seconds since then."""
        return time.monotonic() - self.started


def score_files(
    inputs: Sequence[Path | str],
    run: Path | None = None,
    output: Path | str | None = None,
    *,
    options: ScoreOptions | None = None,
    say: Say = silent,
    **settings: Any,
) -> ScoreReport:
    """Score files with the chosen heads of a run, or with the heads in some folders.

        score_files([Path("new.csv")], Path("run.toml"), Path("scores"), languages=("en",))
        score_files(dumps, output=Path("scores"), options=ScoreOptions(heads=folders))

    Args:
        inputs: dumps, files of texts, folders or patterns of these, or their URLs; ``-`` is
            standard input.
        run: a run folder, or the TOML file of a finished run.
        output: where the Parquet goes, a folder or a URL; default ``score.output``.
        options: what to score with, and how to read the files.
        say: called with progress lines.
        **settings: keys of ``[score]`` that replace those of the configuration; None: as there.

    Returns:
        The counts.

    Raises:
        ConfigError: wrong arguments, or no file that can be read as asked; nothing was written.
        IncompleteScores: a file failed, or too many rows were unreadable; has the counts.
        WrongInputs: the same in a dry run; or every row's language or time is not known.
        SalientError: nothing could be scored.
    """
    clock, options = Clock(), options or ScoreOptions()
    asked = prepare(run, output, options=options, settings=settings, say=say)
    dumps = [as_path(one) for one in inputs]
    check_apart(dumps, asked.target)
    with standard_input(dumps, say=say) as (given, names):
        paths = find_inputs(given, say=say)
        check_inputs(paths, asked.reading, asked.filters, names=names)
        scorer = None if options.dry_run else asked.load_scorer(say)
        report = score_round(asked, scorer, paths, names=names, clock=clock, say=say)
    if report.problem is not None:
        raise _failure(report)
    return report


def score_round(
    asked: Prepared,
    scorer: AnyScorer | None,
    paths: Sequence[Path],
    *,
    failed: Sequence[InputReport] = (),
    names: Mapping[Path, str] = NO_NAMES,
    told: Callable[[], bool] = lambda: False,
    opened: Callable[[], object] = lambda: None,
    clock: Clock | None = None,
    say: Say = silent,
) -> ScoreReport:
    """Open the folder, score files into it, and leave the records; alone there for so long.

    Args:
        asked: what to score with, and where to.
        scorer: loaded from it; None in a dry run.
        paths: files.
        failed: files that have failed before, and make this round a failed one.
        names: paths -> what the user calls them, where that is something else.
        told: whether to end after the blocks in hand.
        opened: called once the folder is this process's, and nothing is waited for any more.
        clock: when the round began; default now.
        say: called with progress lines.

    Returns:
        The counts; ``problem`` is set if the round failed.

    Raises:
        SalientError: the folder cannot be opened or written.
    """
    clock = clock or Clock()
    report = ScoreReport(str(asked.target), str(asked.card["fingerprint"]), scorer is None)
    report.details = _details(asked, clock.begun_at)
    report.inputs += failed
    run, config = asked.source.config, asked.config
    recipe = ScoreRecipe.of(asked.source.folders, **asked.options.loading)
    here = None if scorer is None else scorer.score_along
    opening: dict[str, Any] = {
        "buffer_rows": config.buffer_rows,
        "out_format": config.out_format,
        "origin": None if scorer is None else asked.origin(scorer),
        "at": clock.begun_at,
        "keep_text": asked.keeps_text,
        "dry_run": scorer is None,
    }
    with (
        open_scores(asked.target, asked.card, **opening, say=say) as folder,
        computing(here, run, recipe, asked.target, say) as compute,
    ):
        opened()
        seen = SeenFiles.load(folder.bookkeeping, trust=not asked.options.check_content, say=say)
        files = ScoreRun(
            folder,
            report,
            options=asked.reading,
            filters=asked.filters,
            cache_texts=config.cache_texts,
            compute=compute,
            seen=seen,
            names=names,
            told=told,
            say=say,
        )
        files.run(paths)
        report.files_written, report.dates = folder.files_written, dict(folder.rows_written)
        report.elapsed_s = clock.elapsed_s
        report.judge(config.max_errors)
        drift = None
        if scorer is None:
            report.estimate_s = _estimate(asked, report.counts()["computed"])
            for line in report.warnings:
                say(f"warning: {line}")
        else:
            seen.save(folder.bookkeeping)
            name = f"{clock.begun_at:%Y%m%dT%H%M%S%f}-{os.getpid()}"
            drift = _write_records(asked, folder, name, scorer, files.drift, report, say)
        emit(report.finished(None if drift is None else drift_of_tasks(drift)))
    return report


def _failure(report: ScoreReport) -> IncompleteScores:
    """The error of a run that failed; of a dry run, which has written nothing, the input's."""
    is_input = report.nothing_known or report.dry_run
    return (WrongInputs if is_input else IncompleteScores)(report)


def _estimate(asked: Prepared, num_texts: int) -> float | None:
    """Seconds that texts take, if `salient plan` has measured these heads."""
    config = asked.source.config
    if config is None or not RunFolder(Path(config.run_dir)).plan.is_file():
        return None
    try:
        chosen = read_json(RunFolder(Path(config.run_dir)).plan)["chosen"]
        prints = {task: one["fingerprint"] for task, one in chosen["heads"].items()}
        rate = float(chosen["speed"]["texts_per_s"])
    except (StoreError, KeyError, TypeError, ValueError):  # of another version, or damaged
        return None
    same = prints == {head.card.task: head.fingerprint for head in asked.heads}
    return num_texts / rate if same and rate > 0 else None


def _details(asked: Prepared, begun_at: datetime) -> dict[str, Any]:
    return {
        "begun_at": begun_at.isoformat(timespec="seconds"),
        "filters": asked.filters.to_dict(),
        "normalise": asked.reading.normalise.model_dump(),
        "heads": [str(folder) for folder in asked.source.folders],
    }


def _write_records(
    asked: Prepared,
    folder: ScoreFolder,
    name: str,
    scorer: AnyScorer,
    drift: Drift,
    report: ScoreReport,
    say: Say,
) -> dict[str, Any] | None:
    """Leave the drift report and the run's summary in the folder; say what is to be warned of.

    Returns:
        What was found of drift, if there was anything to measure.
    """
    found, config = None, asked.config
    if drift.dates:
        with folder.records(DRIFT) as place:
            found = scorer.write_drift(place, name, drift, threshold=config.drift_warning)
        report.warnings += found["warnings"]
    for line in report.warnings:
        say(f"warning: {line}")
    record = report.record(keep_text=asked.keeps_text)
    with folder.records(RUNS) as place:
        write_json(place / f"{name}.json", record)
    return found
