"""`salient score`: find the heads of a run, open the input files, score them.

``INPUTS`` says how files become rows; dumps of tweets and plain files of texts meet in one schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config import NormaliseConfig, RunConfig
from pipeline.errors import ConfigError, CorpusError, DumpError, ScoreError
from pipeline.heads import Head, describe_heads
from pipeline.jobs import Say, silent
from pipeline.runfolder import RunFolder, read_card
from pipeline.score import InputBlock, Scorer, ScoreReport, score_blocks
from pipeline.textfiles import TEXTS_SCHEMA, read_rows, read_texts
from pipeline.tweets import QUARANTINE_SCHEMA, read_dump
from store import ActivationStore

FORMATS = ("auto", "tweets", "csv", "tsv", "jsonl", "parquet", "text")


def score_files(
    inputs: Sequence[Path],
    run_path: Path,
    output: Path | None,
    *,
    tasks: Sequence[str] = (),
    format: str = "auto",
    text: str | None = None,
    id: str | None = None,
    model: str | None = None,
    device: str = "auto",
    say: Say = silent,
) -> tuple[ScoreReport, Path]:
    """Score files with the chosen heads of a run.

    Args:
        inputs: tweet dumps or files of texts.
        run_path: a run folder, or the TOML file of a finished run.
        output: where the Parquet goes; default ``score.output`` of the configuration.
        tasks: score these only; default all of the run.
        format: one of ``FORMATS``.
        text, id: columns of files of texts; default ``text``, and ``id`` if there is one. Giving
            either says that the files are no tweet dumps.
        model: the backbone's location, if it moved.
        device: torch device.
        say: called with progress lines.

    Returns:
        The counts and the output folder.

    Raises:
        SalientError: see :mod:`pipeline.score`; also a missing input or an unknown task or format.
    """
    if format not in FORMATS:
        raise ConfigError(f"--format {format!r}: choose one of {', '.join(FORMATS)}")
    for path in inputs:
        if not path.is_file():
            raise ConfigError(f"{path}: no such input file")
    config = _configuration(run_path)
    if unknown := sorted(set(tasks) - {task.name for task in config.tasks}):
        raise ConfigError(f"--task {unknown[0]!r}: the run has {[t.name for t in config.tasks]}")
    target = output or (Path(config.score.output) if config.score.output else None)
    if target is None:
        raise ConfigError("no output folder: give --out FOLDER, or `output` under [score]")
    folder = RunFolder(Path(config.run_dir))
    heads = [
        Head.load(folder.head(task.name))
        for task in config.tasks
        if not tasks or task.name in tasks
    ]
    say(f"heads: {describe_heads(heads)}")
    scorer = Scorer(heads, model=model, device=device)
    backbone = scorer.extractor.backbone
    say(f"backbone: {backbone.model_type}, blocks 0..{scorer.depth} of {heads[0].card.num_layers}")
    if ActivationStore.exists(config.store.path):
        worst = scorer.check_parity(
            ActivationStore.open(config.store.path), config.score.parity_samples
        )
        if worst is None:
            say("parity with the stored activations: not checked, nothing to compare")
        else:
            say(f"parity with the stored activations: {worst:.1e} of their range apart at most")
    else:
        say(f"{config.store.path}: no store here, so parity with it is not checked")
    if any(head.card.provenance.get("config_fingerprint") != config.fingerprint for head in heads):
        say("the heads were trained with an earlier configuration of this run")
    failed: list[str] = []

    def blocks() -> Iterator[InputBlock]:
        for path in inputs:
            try:
                yield from read_input(
                    path,
                    format=format,
                    text=text,
                    id=id,
                    normalise=NormaliseConfig(**scorer.normalise),
                    block_rows=config.score.block_rows,
                )
            except (CorpusError, DumpError) as error:
                # The other files go on; this one is reported at the end.
                failed.append(str(error))
                say(f"skipped: {error}")

    report = score_blocks(blocks(), scorer, target, max_errors=config.score.max_errors, say=say)
    if failed:
        more = f" (and {len(failed) - 1} more files)" if len(failed) > 1 else ""
        raise ScoreError(f"{failed[0]}{more}; all other rows: {report.summary()}")
    return report, target


def _configuration(run_path: Path) -> RunConfig:
    """The configuration of a run, from its folder or its TOML file."""
    if run_path.is_dir():
        card = read_card(RunFolder(run_path))
        config = RunConfig.from_dict(card["config"], origin=run_path / "run.json")
        return config.model_copy(update={"run_dir": str(run_path.resolve())})
    return RunConfig.load(run_path)


def read_input(
    path: Path,
    *,
    format: str,
    text: str | None = None,
    id: str | None = None,
    normalise: NormaliseConfig,
    block_rows: int,
) -> Iterator[InputBlock]:
    """One input file as blocks of rows.

    Raises:
        SalientError: the file cannot be read as its format.
    """
    maybe_tweets = format == "auto" and text is None and id is None
    if format == "tweets" or (maybe_tweets and _holds_tweets(path)):
        for block in read_dump(path, normalise=normalise, block_rows=block_rows):
            yield InputBlock(block.table, block.quarantine, block.notices)
        return
    kind = "auto" if format == "auto" else format
    if id is None and _has_column(path, "id", format=kind):
        id = "id"
    time = "created_at" if _has_column(path, "created_at", format=kind) else None
    bad: list[dict[str, Any]] = []

    def on_bad(line: int, reason: str, excerpt: str) -> None:
        bad.append({"source_file": path.name, "line": line, "reason": reason, "excerpt": excerpt})

    for table in read_texts(
        path,
        text=text or "text",
        id=id,
        time=time,
        format=kind,
        normalise=normalise,
        block_rows=block_rows,
        on_bad=on_bad,
    ):
        yield InputBlock(table, _taken(bad))
    if bad:
        yield InputBlock(TEXTS_SCHEMA.empty_table(), _taken(bad))


def _taken(bad: list[dict[str, Any]]) -> pa.Table:
    """The unreadable rows so far, as a table; empties the list."""
    table = pa.Table.from_pylist(bad, schema=QUARANTINE_SCHEMA)
    bad.clear()
    return table


def _holds_tweets(path: Path) -> bool:
    """Whether the first records of a file are mostly tweets (or notices about tweets)."""
    try:
        first = next(iter(read_dump(path, block_rows=50)), None)
    except DumpError:
        return False
    if first is None:
        return False
    return len(first.table) + sum(first.notices.values()) > len(first.quarantine)


def _has_column(path: Path, name: str, *, format: str) -> bool:
    try:
        next(iter(read_rows(path, [name], format=format, block_rows=1)), None)
    except CorpusError:
        return False
    return True
