"""What every command on a folder of scores does first: look at the place, and have it alone.

A folder of this machine is had alone; one in a bucket (``bucketscores``) with others.

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
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.config import Record, checked
from pipeline.errors import ConfigError, ScoreInputError, require
from pipeline.locking import one_at_a_time
from pipeline.progress import Say, silent
from pipeline.scoring.commitlog import COMMITS
from pipeline.scoring.delta import DeltaLog
from pipeline.scoring.ledger import LEDGER, NOTE, Ledger
from pipeline.scoring.origin import with_origin
from pipeline.scoring.parts import DamagedFile, check_files, part_files, reading, repair_command
from pipeline.scoring.sinks import DELTA, PARQUET, kept_as, sink_of
from store.disk import (
    MAX_JSON_BYTES,
    Meta,
    ObjectLocation,
    address_as_typed,
    address_kind,
    check_conditions,
    check_writable_file_system,
    decode_json,
    encode_json,
    explain,
    is_url,
    locate,
)
from store.errors import StoreError
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
IN_BUCKET = 5
"""The format of a folder in a bucket, where commits say what counts."""
_FOREIGN = ("zarr.json", "run.json", "head.json", ".salient")
"""What folders of other kinds hold."""
_PROBE = ".salient-probe-"
_LOCK = ".lock"


_NAMES = {PARQUET: "plain Parquet", DELTA: "a Delta table"}


class WrongPlace(ScoreInputError):
    """Scores of these heads cannot be written there."""


class _Version(Record):
    format_version: int


class _Card(Record):
    fingerprint: str
    keep_text: bool = True


@dataclass(frozen=True)
class Claim:
    """What a run wants a folder to say of itself.

    Attributes:
        card: ``fingerprint`` of the heads, and what else is to be known of them.
        out_format: how rows are kept, one of ``SINKS``.
        origin: what makes the rows; at: since when.
        keep_text: quarantined lines keep how they begin.
    """

    card: Mapping[str, Any]
    out_format: str = PARQUET
    origin: Mapping[str, Any] | None = None
    at: datetime | None = None
    keep_text: bool = True

    def content(
        self, found: Mapping[str, Any] | None, version: int
    ) -> tuple[dict[str, Any], str | None]:
        """The card as it is to be written.

        Args:
            found: as it is.
            version: of the format.

        Returns:
            It, and a line about what is other than before; None if nothing is.
        """
        wanted = {"format_version": version, **self.card, "keep_text": self.keep_text}
        if self.origin is None or self.at is None:
            return wanted, None
        facts, other = with_origin(found or {}, self.origin, self.at)
        return wanted | facts, other


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


def check_place(path: Path | str) -> None:
    """Refuse a place where no scores can be written: before anything else is done.

    Raises:
        WrongPlace: an address that can only be read, a file, another kind of folder.
        StoreError: a bucket that is not there, or not to be reached.
    """
    if is_url(path):
        _check_bucket(_location(path))
        return
    path = Path(path)
    if (kind := address_kind(path)) is not None:
        address = address_as_typed(path)
        remedy = (
            f"leave {kind}:// out"
            if kind == "file"
            else "scores are written to a folder of this machine, or to one in a bucket whose"
            f" address is given as it is (no path is made of it); or copy them to {kind}://"
            " afterwards"
        )
        raise WrongPlace(f"{address}: {remedy}")
    if path.exists() and not path.is_dir():
        raise WrongPlace(f"{path}: is a file; scores are written to a folder: choose another name")
    if DeltaLog(path).is_foreign():
        raise WrongPlace(
            f"{path}: is a Delta table of another program; choose another folder for scores"
        )
    for name in _FOREIGN[:3]:
        if (path / name).exists():
            raise WrongPlace(f"{path}: holds {name}: no folder for scores; choose another")


def _location(address: Path | str) -> ObjectLocation:
    found = locate(str(address))
    if not isinstance(found, ObjectLocation) or str(address).startswith("http"):
        raise WrongPlace(
            f"{address}: scores are not written there; give a folder of this machine, or of a"
            " bucket as s3://…, gs://… or az://…"
        )
    return found


def _check_bucket(location: ObjectLocation) -> None:
    """Refuse a folder that holds something else, or scores without the commits that say so."""
    names = {name for name in location.names("") if not name.startswith(_PROBE)}
    for name in _FOREIGN:
        if name in names:
            raise WrongPlace(
                f"{location.address}: holds {name}: no folder for scores; choose another"
            )
    if COMMITS not in names and (others := sorted(names - {SCORE_CARD})):
        raise WrongPlace(
            f"{location.address}: holds {others[0]}, and no {COMMITS} that say what of it counts:"
            " something else, or a copy of a folder on a disk; choose an empty one"
        )


def check_claim(
    path: Path | str, card: Mapping[str, Any], out_format: str = PARQUET
) -> dict[str, Any] | None:
    """What a folder says of itself, if it is claimed, by these heads.

    Raises:
        WrongPlace: it holds scores of other heads, or keeps them otherwise.
        MissingExtra: a Delta table is wanted, and its package is not installed.
    """
    if is_url(path):
        _check_format(path, out_format)
        found = read_score_card(path)
        _check_heads(path, found, card)
        return found
    path = Path(path)
    if out_format == DELTA:
        require("deltalake")
    found = read_score_card(path)
    kept = kept_as(path)
    if kept != out_format and (found is not None or part_files(path) or kept == DELTA):
        raise WrongPlace(
            f"{path}: keeps its scores as {_NAMES[kept]}, not as {_NAMES[out_format]}: give"
            f" --out-format {kept}, or another folder"
        )
    _check_heads(path, found, card)
    return found


def _check_format(address: Path | str, out_format: str) -> None:
    if out_format != PARQUET:
        raise WrongPlace(
            f"{address}: {_NAMES[out_format]} is written on a disk only; leave --out-format out, or"
            " copy it there afterwards"
        )


def _check_heads(
    path: Path | str, found: Mapping[str, Any] | None, card: Mapping[str, Any]
) -> None:
    if found is not None and found.get("fingerprint") != card["fingerprint"]:
        raise WrongPlace(
            f"{path}: holds scores of other heads (fingerprint {found.get('fingerprint')}, these"
            f" are {card['fingerprint']}); score with these into a new folder, all inputs again,"
            " and switch to it when it is complete"
        )


def check_scores(path: Path | str) -> None:
    """Refuse a folder that holds no scores.

    Raises:
        ConfigError: it holds none.
    """
    if is_url(path):
        if not {SCORE_CARD, COMMITS} & set(_location(path).names("")):
            raise ConfigError(f"{path}: no folder of scores: no {SCORE_CARD}, no {COMMITS}")
        return
    path = Path(path)
    if not path.is_dir():
        raise ConfigError(f"{path}: no such folder; name a folder of scores")
    signs = (path / SCORE_CARD, path / LEDGER)
    if not any(sign.exists() for sign in signs) and not part_files(path):
        raise ConfigError(f"{path}: no folder of scores: no {SCORE_CARD}, no date=*/*.parquet")


def format_version(path: Path | str) -> int:
    """The format of a folder as this version writes it."""
    if is_url(path):
        return IN_BUCKET
    path = Path(path)
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


def read_score_card(path: Path | str) -> dict[str, Any] | None:
    """Whose scores a folder holds; None if it does not say.

    Raises:
        DamagedFile: it is damaged, or says something else than it should.
        ScoreInputError: it is of another format.
        ScoreError: it cannot be read.
    """
    if is_url(path):
        found = _fetch_card(_location(path))
        return None if found is None else found[0]
    path = Path(path)
    if not (path / SCORE_CARD).is_file():
        return None
    where, remedy = path / SCORE_CARD, f"{repair_command(path)} mends it"
    with reading(where, remedy):
        content = read_json(where, remedy=remedy)
    return _checked_card(content, path, READABLE)


def _checked_card(
    found: dict[str, Any], path: Path | str, readable: tuple[int, ...]
) -> dict[str, Any]:
    where, remedy = f"{path}/{SCORE_CARD}", f"{repair_command(path)} mends it"
    version = checked(_Version, found, where=where, remedy=remedy, error=DamagedFile).format_version
    if version not in readable:
        remedy = (
            "use the newer version of Salient"
            if version > IN_BUCKET
            else "score into the bucket that it is a copy of"
            if version == IN_BUCKET
            else "write to another folder"
        )
        raise ScoreInputError(
            f"{path}: scores of format {version!r}, this version writes"
            f" {format_version(path)}; {remedy}"
        )
    checked(_Card, found, where=where, remedy=remedy, error=DamagedFile)
    return found


def _fetch_card(location: ObjectLocation) -> tuple[dict[str, Any], Meta] | None:
    """The card of a folder in a bucket, and of which object it is."""
    where = f"{location.address}/{SCORE_CARD}"
    remedy = f"{repair_command(location.address)} mends it"
    try:
        content, meta = location.get(SCORE_CARD, max_bytes=MAX_JSON_BYTES, remedy=remedy)
    except FileNotFoundError:
        return None
    try:
        found = decode_json(content, where=where, remedy=remedy)
    except StoreError as error:
        raise DamagedFile(str(error)) from None
    return _checked_card(found, location.address, (IN_BUCKET,)), meta


def claim_bucket(
    location: ObjectLocation, claim: Claim, *, has_texts: bool, dry_run: bool, say: Say
) -> bool:
    """Have a folder in a bucket say whose it is; of several writers at a time all agree.

    Args:
        location: of the folder.
        claim: what it is to say.
        has_texts: quarantined lines may keep how they begin as yet, if the folder says so.
        dry_run: only look whether it may.
        say: told of what is other than before.

    Returns:
        Whether such lines may be there, by what the folder said before.

    Raises:
        WrongPlace: it holds scores of other heads.
    """
    _check_format(location.address, claim.out_format)
    while True:
        entry = _fetch_card(location)
        found, meta = (None, None) if entry is None else entry
        _check_heads(location.address, found, claim.card)
        kept = found is None or bool(found.get("keep_text", True))
        wanted, changed = claim.content(found, IN_BUCKET)
        wanted["keep_text"] = claim.keep_text or (has_texts and kept)
        if dry_run or found == wanted:
            return kept
        content = encode_json(wanted)
        if meta is None:
            check_conditions(location)
            is_ours = location.create(SCORE_CARD, content)
        else:
            is_ours = location.replace(SCORE_CARD, content, meta)
        if is_ours:
            if changed is not None:
                say(f"{location.address}: {changed}")
            return kept
