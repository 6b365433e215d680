"""What every command on a folder of scores does first: look at the place, and have it alone.

with alone(folder, dry_run=False), open_ledger(folder, dry_run=False) as ledger:
    card = read_score_card(folder)
    ledger.sync(folder)
"""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pipeline.config import Record, checked
from pipeline.errors import ConfigError, ScoreInputError, require
from pipeline.locking import one_at_a_time
from pipeline.progress import Say, silent
from pipeline.scoring.delta import DeltaLog
from pipeline.scoring.ledger import LEDGER, NOTE, Ledger
from pipeline.scoring.parts import DamagedFile, check_files, part_files, reading, repair_command
from pipeline.scoring.sinks import DELTA, PARQUET, kept_as, sink_of
from store.disk import address_as_typed, address_kind, check_writable_file_system, explain
from store.tables import read_json

SCORE_CARD = "_salient.json"
"""In a folder of scores: whose they are."""
RUNS = "_runs"
DRIFT = "_drift"
"""Folders of summaries and of drift reports within a folder of scores."""
FORMAT_VERSIONS = {PARQUET: 3, DELTA: 4}
"""How rows are kept -> the format: a program that knows no Delta table must not add to one."""
READABLE = (2, 3, 4)
"""Format 2 knew no deleted ids: its programs would have scored them again."""
_LOCK = ".lock"


_NAMES = {PARQUET: "plain Parquet", DELTA: "a Delta table"}


class WrongPlace(ScoreInputError):
    """Scores of these heads cannot be written there."""


class _Version(Record):
    format_version: int


class _Card(Record):
    fingerprint: str
    keep_text: bool = True


@contextmanager
def alone(path: Path, *, dry_run: bool, say: Say = silent) -> Iterator[None]:
    """Hold the lock of a folder of scores, where there is one or may be written.

    What killed runs left half written is removed.

    Raises:
        ScoreInputError: the folder is something else, leads elsewhere, or cannot be written.
    """
    check_place(path)
    check_files(path)
    with ExitStack() as stack:
        if not dry_run:
            _check_writable(path)
        if not dry_run or (path / _LOCK).exists():
            stack.enter_context(one_at_a_time(path, say))
        if not dry_run:
            _remove_leftovers(path)
            sink_of(path).settle()
        yield


def check_place(path: Path) -> None:
    """Refuse a place where no scores can be written: before anything else is done.

    Raises:
        WrongPlace: an address such as ``s3://bucket/scores``, a file, another kind of folder.
    """
    if (kind := address_kind(path)) is not None:
        remedy = (
            f"leave {kind}:// out"
            if kind == "file"
            else f"scores are written to a folder of this machine or of a shared POSIX file system;"
            f" copy them to {kind}:// afterwards"
        )
        raise WrongPlace(f"{address_as_typed(path)}: {remedy}")
    if path.exists() and not path.is_dir():
        raise WrongPlace(f"{path}: is a file; scores are written to a folder: choose another name")
    if DeltaLog(path).is_foreign():
        raise WrongPlace(
            f"{path}: is a Delta table of another program; choose another folder for scores"
        )
    for name in ("zarr.json", "run.json", "head.json"):
        if (path / name).exists():
            raise WrongPlace(f"{path}: holds {name}: no folder for scores; choose another")


def check_claim(
    path: Path, card: Mapping[str, Any], out_format: str = PARQUET
) -> dict[str, Any] | None:
    """What a folder says of itself, if it is claimed, by these heads.

    Raises:
        WrongPlace: it holds scores of other heads, or keeps them otherwise.
        MissingExtra: a Delta table is wanted, and its package is not installed.
    """
    if out_format == DELTA:
        require("deltalake")
    found = read_score_card(path)
    kept = kept_as(path)
    if kept != out_format and (found is not None or part_files(path) or kept == DELTA):
        raise WrongPlace(
            f"{path}: keeps its scores as {_NAMES[kept]}, not as {_NAMES[out_format]}: give"
            f" --out-format {kept}, or another folder"
        )
    if found is not None and found.get("fingerprint") != card["fingerprint"]:
        raise WrongPlace(
            f"{path}: holds scores of other heads (fingerprint {found.get('fingerprint')}, these"
            f" are {card['fingerprint']}); score with these into a new folder, all inputs again,"
            " and switch to it when it is complete"
        )
    return found


def check_scores(path: Path) -> None:
    """Refuse a folder that holds no scores.

    Raises:
        ConfigError: it holds none.
    """
    if not path.is_dir():
        raise ConfigError(f"{path}: no such folder; name a folder of scores")
    signs = (path / SCORE_CARD, path / LEDGER)
    if not any(sign.exists() for sign in signs) and not part_files(path):
        raise ConfigError(f"{path}: no folder of scores: no {SCORE_CARD}, no date=*/*.parquet")


def format_version(path: Path) -> int:
    """The format of a folder as this version writes it."""
    return FORMAT_VERSIONS[kept_as(path)]


@contextmanager
def open_ledger(path: Path, *, dry_run: bool) -> Iterator[Ledger]:
    """The ledger of a folder; for a dry run a copy of it, which is thrown away."""
    with ExitStack() as stack:
        index = path / LEDGER
        if dry_run:
            copy = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="salient-")))
            for file in (*path.glob(f"{LEDGER}*"), *path.glob(NOTE)):
                shutil.copyfile(file, copy / file.name)
            index = copy / LEDGER
        yield stack.enter_context(Ledger(index, path))


def _check_writable(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise explain(error, path) from error
        raise ScoreInputError(
            f"{path}: cannot be written ({error.strerror}); choose another folder"
        ) from None
    check_writable_file_system(path)


def _remove_leftovers(path: Path) -> None:
    """Remove what runs that were killed left half written, and their workers."""
    for leftover in (*path.glob(".*.tmp"), *path.glob("date=*/.*.tmp"), *path.glob("_*/.*.tmp")):
        leftover.unlink()
    for leftover in path.glob(".tables-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def read_score_card(path: Path) -> dict[str, Any] | None:
    """Whose scores a folder holds; None if it does not say.

    Raises:
        DamagedFile: it is damaged, or says something else than it should.
        ScoreInputError: it is of another format.
        ScoreError: it cannot be read.
    """
    if not (path / SCORE_CARD).is_file():
        return None
    where, remedy = path / SCORE_CARD, f"{repair_command(path)} mends it"
    with reading(where, remedy):
        found = read_json(where, remedy=remedy)
    version = checked(_Version, found, where=where, remedy=remedy, error=DamagedFile).format_version
    if version not in READABLE:
        remedy = (
            "use the newer version of Salient"
            if version > max(READABLE)
            else "write to another folder"
        )
        raise ScoreInputError(
            f"{path}: scores of format {version!r}, this version writes"
            f" {format_version(path)}; {remedy}"
        )
    checked(_Card, found, where=where, remedy=remedy, error=DamagedFile)
    return found
