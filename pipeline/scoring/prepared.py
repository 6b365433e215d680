"""What is scored with, and how files are read: found, checked and loaded before a row is read.

    asked = prepare(run, output, options=options, settings=settings, say=say)
    asked.target, asked.reading, asked.filters
    scorer = asked.load_scorer(say)

Heads come from a finished run, or from head folders alone: those can be carried to a machine that
has nothing else of the run but the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.config import NormaliseConfig, RunConfig, ScoreConfig
from pipeline.errors import ConfigError, ScoreInputError
from pipeline.heads import Head, describe_heads, wanted_tasks
from pipeline.progress import Say, counted, silent
from pipeline.runfolder import RunFolder, check_stage, run_config
from pipeline.scoring.batch import score_card
from pipeline.scoring.cascade import Cascade, CascadeScorer
from pipeline.scoring.origin import origin_of
from pipeline.scoring.parts import check_files
from pipeline.scoring.place import check_claim, check_place
from pipeline.scoring.prediction import trained_normalisation
from pipeline.scoring.scorer import Scorer
from pipeline.texts import (
    INPUT_FORMATS,
    USUAL,
    Filters,
    InputOptions,
    check_language_detector,
    usual_columns,
)
from store import ActivationStore, StoreInputError
from store.disk import is_url


@dataclass(frozen=True)
class ScoreOptions:
    """What to score with, and how to read the files.

    Attributes:
        heads: head folders, instead of a run.
        tasks: score these only; default all.
        format: one of ``INPUT_FORMATS``.
        text, id, time, lang, author: columns of files of texts, by name, or by number from 1 where
            a file has no header; default those under ``[score]``, else the corpus's, else as tools
            usually call them. Giving any says that the files are no dumps of posts.
        encoding: of any input; default ``score.encoding``, else UTF-8, or as the byte order mark
            says.
        detect_language: find the language of rows that do not say it (extra ``languages``);
            default ``score.detect_language``.
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
    author: str | None = None
    encoding: str | None = None
    detect_language: bool | None = None
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


@dataclass(frozen=True)
class Prepared:
    """All that scoring needs, except for the files and the loaded model.

    Attributes:
        source: where the heads come from.
        heads: in the order of their tasks.
        options: what the caller asked for; ``trust_remote_code`` as it stands for these heads.
        config: ``[score]`` with what the caller gave.
        reading: how files are read.
        filters: which rows are scored.
        target: the folder of scores, or its URL.
        cascade: how texts leave early, where that is asked for.
        card: what the folder says of itself.
    """

    source: Source
    heads: tuple[Head, ...]
    options: ScoreOptions
    config: ScoreConfig
    reading: InputOptions
    filters: Filters
    target: Path | str
    cascade: Cascade | None
    card: Mapping[str, object]

    def load_scorer(self, say: Say = silent) -> AnyScorer:
        """What scores, once it has been checked."""
        run, loading = self.source.config, self.options.loading
        if self.cascade is None or run is None:
            scorer = Scorer.load(self.source.folders, **loading)
            _check_scorer(scorer, run, self.config.parity_samples, say)
            return scorer
        both = self.cascade.scorer(RunFolder(Path(run.run_dir)), **loading)
        say(f"cascade: texts may leave after {counted(both.early.depth + 1, 'block')}")
        _check_scorer(both.full, run, self.config.parity_samples, say)
        return both

    def origin(self, scorer: AnyScorer) -> dict[str, Any]:
        """What makes the rows, for the folder to say."""
        own = scorer.full if isinstance(scorer, CascadeScorer) else scorer
        return origin_of(
            self.heads,
            self.source.folders,
            filters=self.filters.to_dict(),
            normalise=self.reading.normalise.model_dump(),
            backbone=own.extractor.backbone,
            model=self.options.model,
            workers="local" if self.source.config is None else self.source.config.cluster.kind,
            cascade=None if self.cascade is None else self.cascade.fingerprint,
        )

    @property
    def keeps_text(self) -> bool:
        """Whether quarantined lines keep how they begin."""
        if self.options.keep_text is not None:
            return self.options.keep_text
        return self.source.config is None or self.source.config.store.keep_text


def prepare(
    run: Path | None,
    output: Path | str | None,
    *,
    options: ScoreOptions,
    settings: Mapping[str, Any],
    say: Say = silent,
) -> Prepared:
    """Find the heads, and check all that can be checked without a file or a model.

    Args:
        run: a run folder, or the TOML file of a finished run.
        output: where the Parquet goes, a folder or a URL; default ``score.output``.
        options: what to score with, and how to read the files.
        settings: keys of ``[score]`` that replace those of the configuration; None: as there.
        say: told of the heads.

    Raises:
        ConfigError: wrong arguments.
        SalientError: heads that cannot be used, or not in this folder.
    """
    source = find_heads(run, options.heads, options.tasks, say=say)
    heads = tuple(Head.load(folder) for folder in source.folders)
    options = replace(options, trust_remote_code=trusts(source.config, heads, options))
    config = _settings(source.config, settings)
    reading = _reading(options, config, source.config, check_normalisation(heads, source.config))
    if reading.detect_language:
        check_language_detector()
    filters = _filters(config, any_language=reading.lang is not None)
    target = _target(output, config)
    say(f"heads: {describe_heads(heads)}")
    cascade = _cascade(source, [head.card.task for head in heads]) if options.cascade else None
    card = score_card(heads, cascade)
    check_claim(target, card, config.out_format)
    return Prepared(source, heads, options, config, reading, filters, target, cascade, card)


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


def _settings(config: RunConfig | None, changes: Mapping[str, Any]) -> ScoreConfig:
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
        encoding=options.encoding or config.encoding,
        detect_language=(
            config.detect_language if options.detect_language is None else options.detect_language
        ),
        columns=config.columns,
        delimiter=config.delimiter,
    )


def _target(output: Path | str | None, config: ScoreConfig) -> Path | str:
    target = output or config.output
    if not target:
        raise ConfigError(
            "no output folder: give --out FOLDER, or `output` under [score] of the TOML file given"
            " as --run (a run's folder does not say where)"
        )
    if is_url(target):
        check_place(target)
        return str(target)
    target = Path(target)
    check_place(target)
    check_files(target)
    return target


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


def _check_scorer(scorer: Scorer, config: RunConfig | None, num_samples: int, say: Say) -> None:
    """Say what runs; compare with the run's stored activations, where they are at hand."""
    backbone = scorer.extractor.backbone
    num_layers = scorer.heads[0].card.num_layers
    say(f"backbone: {backbone.model_type}, {scorer.depth + 1} of {num_layers} blocks")
    if scorer.golden_difference is not None:
        say(f"golden texts: outputs {scorer.golden_difference:.1e} of their range apart at most")
    if config is None:
        return
    try:
        there = ActivationStore.exists(config.store.path)
    except StoreInputError as error:
        say(f"{error}; parity with the store is not checked")
        return
    if not there:
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
