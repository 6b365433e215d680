"""`salient score`: find the heads, check that everything fits, score the files, write the summary.

Heads come from a finished run, or from head folders alone: those can be carried to a machine that
has nothing else of the run but the model.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.config import NormaliseConfig, RunConfig, ScoreConfig
from pipeline.errors import ConfigError, ScoreInputError
from pipeline.heads import Drift, Head, describe_heads, wanted_tasks
from pipeline.progress import Say, counted, silent
from pipeline.runfolder import RunFolder, check_stage, run_config
from pipeline.scoring.batch import IncompleteScores, ScoreRun, WrongInputs, score_card
from pipeline.scoring.cascade import Cascade, CascadeScorer
from pipeline.scoring.distributed import ScoreRecipe, computing
from pipeline.scoring.folder import open_scores
from pipeline.scoring.inputs import check_apart, check_inputs, find_inputs
from pipeline.scoring.parts import check_files
from pipeline.scoring.place import DRIFT, RUNS, check_claim, check_place
from pipeline.scoring.prediction import trained_normalisation
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.seen import SeenFiles
from pipeline.scoring.summary import ScoreReport
from pipeline.texts import INPUT_FORMATS, USUAL, Filters, InputOptions, usual_columns
from store import ActivationStore, StoreError
from store.tables import read_json, write_json


@dataclass(frozen=True)
class ScoreOptions:
    """What to score with, and how to read the files.

    Attributes:
        heads: head folders, instead of a run.
        tasks: score these only; default all.
        format: one of ``INPUT_FORMATS``.
        text, id, time, lang: columns of files of texts; default those under ``[score]``, else the
            first of the corpus's that a file has, else ``text``, ``id``, ``created_at``, ``lang``.
            Giving any says that the files are no tweet dumps.
        model: the backbone's location, if it moved.
        device: torch device.
        trust_remote_code: the model's own code may run, where the heads ask for it; so it may where
            the run is a TOML file that allows it, of the model that it names.
        cascade: let easy texts leave early, as ``cascade.json`` of the run says.
        keep_text: unreadable lines keep how they begin; default ``keep_text`` of the run's store.
        check_content: look at the bytes of every file, also of those of the same size and time.
        dry_run: read and count only: no model, nothing written.
    """

    heads: Sequence[Path] = ()
    tasks: Sequence[str] = ()
    format: str = "auto"
    text: str | None = None
    id: str | None = None
    time: str | None = None
    lang: str | None = None
    model: str | None = None
    device: str = "auto"
    trust_remote_code: bool = False
    cascade: bool = False
    keep_text: bool | None = None
    check_content: bool = False
    dry_run: bool = False

    @property
    def loading(self) -> dict[str, Any]:
        """How the model is loaded, here and on workers."""
        return {name: getattr(self, name) for name in ("model", "device", "trust_remote_code")}


@dataclass(frozen=True)
class Source:
    """Where heads come from.

    Attributes:
        folders: their folders.
        config: the run's configuration; None where head folders were given.
    """

    folders: tuple[Path, ...]
    config: RunConfig | None


AnyScorer = Scorer | CascadeScorer


def score_files(
    inputs: Sequence[Path],
    run: Path | None = None,
    output: Path | None = None,
    *,
    options: ScoreOptions | None = None,
    say: Say = silent,
    **settings: Any,
) -> ScoreReport:
    """Score files with the chosen heads of a run, or with the heads in some folders.

        score_files([Path("new.csv")], Path("run.toml"), Path("scores"), languages=("en",))
        score_files(dumps, output=Path("scores"), options=ScoreOptions(heads=folders))

    Args:
        inputs: tweet dumps, files of texts, or folders of these.
        run: a run folder, or the TOML file of a finished run.
        output: where the Parquet goes; default ``score.output`` of the configuration.
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
    started, begun_at = time.monotonic(), datetime.now(UTC)
    options = options or ScoreOptions()
    source = find_heads(run, options.heads, options.tasks, say=say)
    heads = [Head.load(folder) for folder in source.folders]
    options = replace(options, trust_remote_code=trusts(source.config, heads, options))
    config = _settings(source.config, settings)
    reading = _reading(options, config, source.config, check_normalisation(heads, source.config))
    filters = _filters(config, any_language=reading.lang is not None)
    target = _target(output, config)
    check_apart(inputs, target)
    paths = find_inputs(inputs, say=say)
    say(f"heads: {describe_heads(heads)}")
    cascade = _cascade(source, [head.card.task for head in heads]) if options.cascade else None
    card = score_card(heads, cascade)
    check_claim(target, card)
    check_inputs(paths, reading, filters)
    scorer = None if options.dry_run else _load_scorer(source, cascade, options, config, say)
    report = ScoreReport(str(target), str(card["fingerprint"]), dry_run=options.dry_run)
    report.details = _details(source, filters, reading, begun_at)
    here = None if scorer is None else scorer.score_along
    recipe = ScoreRecipe.of(source.folders, **options.loading)
    opening: dict[str, Any] = {"buffer_rows": config.buffer_rows, "dry_run": options.dry_run}
    opening["keep_text"] = keep_text = _keeps_text(options, source.config)
    with (
        open_scores(target, card, **opening, say=say) as folder,
        computing(here, source.config, recipe, target, say) as compute,
    ):
        seen = SeenFiles.load(target, trust=not options.check_content, say=say)
        files = ScoreRun(
            folder,
            report,
            options=reading,
            filters=filters,
            cache_texts=config.cache_texts,
            compute=compute,
            seen=seen,
            say=say,
        )
        files.run(paths)
        folder.flush()
        report.files_written = folder.files_written
        report.elapsed_s = time.monotonic() - started
        report.judge(config.max_errors)
        if scorer is None:
            report.estimate_s = _estimate(source, heads, report.counts()["computed"])
            for line in report.warnings:
                say(f"warning: {line}")
        else:
            seen.save(target)
            name, found = f"{begun_at:%Y%m%dT%H%M%S%f}-{os.getpid()}", (files.drift, report)
            _write_records(target, name, scorer, *found, config, say, keep_text=keep_text)
    if report.problem is not None:
        raise _failure(report)
    return report


def _failure(report: ScoreReport) -> IncompleteScores:
    """The error of a run that failed; of a dry run, which has written nothing, the input's."""
    is_input = report.nothing_known or report.dry_run
    return (WrongInputs if is_input else IncompleteScores)(report)


def _estimate(source: Source, heads: Sequence[Head], num_texts: int) -> float | None:
    """Seconds that texts take, if `salient plan` has measured these heads."""
    if source.config is None or not RunFolder(Path(source.config.run_dir)).plan.is_file():
        return None
    try:
        chosen = read_json(RunFolder(Path(source.config.run_dir)).plan)["chosen"]
        prints = {task: one["fingerprint"] for task, one in chosen["heads"].items()}
        rate = float(chosen["speed"]["texts_per_s"])
    except (StoreError, KeyError, TypeError, ValueError):  # of another version, or damaged
        return None
    same = prints == {head.card.task: head.fingerprint for head in heads}
    return num_texts / rate if same and rate > 0 else None


def _details(
    source: Source, filters: Filters, reading: InputOptions, begun_at: datetime
) -> dict[str, Any]:
    return {
        "begun_at": begun_at.isoformat(timespec="seconds"),
        "filters": filters.to_dict(),
        "normalise": reading.normalise.model_dump(),
        "heads": [str(folder) for folder in source.folders],
    }


def find_heads(
    run_path: Path | None, heads: Sequence[Path], tasks: Sequence[str], *, say: Say = silent
) -> Source:
    """The folders of the heads to score with.

    Raises:
        ConfigError: neither or both of a run and head folders, no head there, or an unknown task.
    """
    if (run_path is None) == (not heads):
        raise ConfigError("give either --run RUN, or --heads FOLDER (which may be repeated)")
    if run_path is not None:
        config = run_config(run_path, say=say)
        run = RunFolder(Path(config.run_dir))
        found = {task.name: run.head(task.name) for task in config.tasks}
        folders = tuple(found[name] for name in wanted_tasks(tasks, list(found)))
        if not all((folder / "head.json").is_file() for folder in folders):
            check_stage(run.path, run_path, "consolidate")
        source = Source(folders, config)
    else:
        by_task = {_task_of(folder): folder for folder in heads}
        if len(by_task) < len(heads):
            raise ConfigError(f"--heads: two heads for one task among {list(map(str, heads))}")
        chosen = wanted_tasks(tasks, list(by_task))
        source = Source(tuple(by_task[name] for name in chosen), None)
    return source


def trusts(config: RunConfig | None, heads: Sequence[Head], options: ScoreOptions) -> bool:
    """Whether the caller allows a model's own code: by the option, or by a file of his own."""
    moved = options.model is not None
    return options.trust_remote_code or (
        config is not None
        and all(config.trusts(head.card.extraction["backbone"], moved=moved) for head in heads)
    )


def _cascade(source: Source, tasks: Sequence[str]) -> Cascade:
    """The run's cascade.

    Raises:
        ConfigError: heads without a run, a run on a cluster, no cascade or one of other tasks.
    """
    if source.config is None:
        raise ConfigError("--cascade goes with --run RUN: it is kept in the run's folder")
    if source.config.cluster.kind != "local":
        raise ConfigError(
            f"--cascade scores on this machine only, and cluster.kind is"
            f" {source.config.cluster.kind!r}; set it to 'local', or leave --cascade out"
        )
    found = Cascade.load(RunFolder(Path(source.config.run_dir)))
    if list(found.tasks) != list(tasks):
        options = " ".join(f"--task {name}" for name in found.tasks)
        raise ConfigError(
            f"--cascade: the run's cascade is for {', '.join(found.tasks)}, and {', '.join(tasks)}"
            f" are to be scored; give {options}, or make one for all of them"
        )
    return found


def _task_of(folder: Path) -> str:
    if not (folder / "head.json").is_file():
        inside = sorted(str(path.parent) for path in folder.glob("**/chosen/head.json"))
        hint = f"; there are {', '.join(inside[:5])}" if inside else ""
        raise ConfigError(f"--heads {folder}: no head here (no head.json){hint}")
    return Head.load(folder).card.task


def _settings(config: RunConfig | None, changes: dict[str, Any]) -> ScoreConfig:
    """``[score]`` with what the caller gave."""
    given = {name: value for name, value in changes.items() if value not in (None, ())}
    base = config.score.model_dump() if config is not None else {}
    try:
        return ScoreConfig.model_validate(base | given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{where}: {first['msg']}, not {first['input']!r}") from None


def _filters(config: ScoreConfig, *, any_language: bool) -> Filters:
    """The filters; a column that the caller names may hold languages by any name."""
    return Filters.of(
        languages=config.languages,
        any_language=any_language,
        since=config.since,
        until=config.until,
        retweets=config.retweets,
    )


def _reading(
    options: ScoreOptions, config: ScoreConfig, run: RunConfig | None, normalise: NormaliseConfig
) -> InputOptions:
    if options.format not in INPUT_FORMATS:
        raise ConfigError(f"--format {options.format!r}: choose one of {', '.join(INPUT_FORMATS)}")
    return InputOptions(
        format=options.format,
        **{name: getattr(options, name) or getattr(config, name) for name in USUAL},
        usual=usual_columns(() if run is None else run.corpus),
        normalise=normalise,
        block_rows=config.block_rows,
        max_line_bytes=config.max_line_bytes,
        encoding=config.encoding,
        columns=config.columns,
        delimiter=config.delimiter,
    )


def _target(output: Path | None, config: ScoreConfig) -> Path:
    target = output or (Path(config.output) if config.output else None)
    if target is None:
        raise ConfigError(
            "no output folder: give --out FOLDER, or `output` under [score] of the TOML file given"
            " as --run (a run's folder does not say where)"
        )
    check_place(target)
    check_files(target)
    return target


def _keeps_text(options: ScoreOptions, config: RunConfig | None) -> bool:
    if options.keep_text is not None:
        return options.keep_text
    return config is None or config.store.keep_text


def check_normalisation(heads: Sequence[Head], config: RunConfig | None) -> NormaliseConfig:
    """How texts were normalised in training.

    Raises:
        ScoreInputError: the configuration, or this version, normalises otherwise.
    """
    normalise = trained_normalisation(heads)
    if config is not None and config.normalise != normalise:
        now, then = config.normalise.model_dump(), normalise.model_dump()
        key = next(key for key in now if now[key] != then[key])
        raise ScoreInputError(
            f"normalise.{key} is {str(now[key]).lower()} in the configuration, and was"
            f" {str(then[key]).lower()} when the heads were trained; set it back, or extract and"
            " train again"
        )
    return normalise


def _load_scorer(
    source: Source,
    cascade: Cascade | None,
    options: ScoreOptions,
    config: ScoreConfig,
    say: Say,
) -> AnyScorer:
    """What scores, once it has been checked."""
    if cascade is None or source.config is None:
        scorer = Scorer.load(source.folders, **options.loading)
        _check_scorer(scorer, source.config, config.parity_samples, say)
        return scorer
    both = cascade.scorer(RunFolder(Path(source.config.run_dir)), **options.loading)
    say(f"cascade: texts may leave after {counted(both.early.depth + 1, 'block')}")
    _check_scorer(both.full, source.config, config.parity_samples, say)
    return both


def _check_scorer(scorer: Scorer, config: RunConfig | None, num_samples: int, say: Say) -> None:
    """Say what runs; compare with the run's stored activations, where they are at hand."""
    backbone = scorer.extractor.backbone
    num_layers = scorer.heads[0].card.num_layers
    say(f"backbone: {backbone.model_type}, {scorer.depth + 1} of {num_layers} blocks")
    if scorer.golden_difference is not None:
        say(f"golden texts: outputs {scorer.golden_difference:.1e} of their range apart at most")
    if config is None:
        return
    if not ActivationStore.exists(config.store.path):
        say(f"{config.store.path}: no store here, so parity with it is not checked")
        return
    worst = scorer.check_parity(ActivationStore.open(config.store.path), num_samples)
    if worst is None:
        say("parity with the stored activations: not checked, nothing to compare")
    else:
        say(f"parity with the stored activations: {worst:.1e} of their range apart at most")
    fingerprints = {head.card.provenance.get("config_fingerprint") for head in scorer.heads}
    if fingerprints != {config.fingerprint}:
        say("the heads were trained with an earlier configuration of this run")


def _write_records(
    target: Path,
    name: str,
    scorer: AnyScorer,
    drift: Drift,
    report: ScoreReport,
    config: ScoreConfig,
    say: Say,
    *,
    keep_text: bool,
) -> None:
    """Leave the drift report and the run's summary in the folder; say what is to be warned of."""
    if drift.dates:
        found = scorer.write_drift(target / DRIFT, name, drift, threshold=config.drift_warning)
        report.warnings += found["warnings"]
    for line in report.warnings:
        say(f"warning: {line}")
    write_json(target / RUNS / f"{name}.json", report.record(keep_text=keep_text))
