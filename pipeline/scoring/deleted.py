"""Which ids were deleted from a folder of scores, and what a deletion tells.

    Deleted.load(folder).mask(ids)              # which of these must not be scored again

The list holds keyed digests, never ids. On a disk it is a file and its copy; in a bucket the
commits say it (:meth:`Deleted.of`).
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.errors import ScoreError, listed
from pipeline.progress import counted
from pipeline.scoring.parts import SET_ASIDE, DamagedFile, is_quarantine, reading, repair_command
from pipeline.scoring.summary import CLASHES
from pipeline.texts import file_stem
from store.tables import read_arrays, write_arrays
from store.upkeep import unmet

DELETED = "_deleted.safetensors"
COPY = "_deleted.copy.safetensors"
"""The list stands twice: it is the one thing that cannot be made again from other files."""
CLASH = f"{CLASHES}: id "
"""How the reason of a quarantined row begins whose id was there with another text."""
_FORMAT_VERSION = 1
_SALT_BYTES = 32
_DIGEST = np.dtype("S17")
Meant = Callable[[Sequence[str]], NDArray[np.bool_]]
"""Which of some ids are meant, ``(ids,)`` bool."""
_NUMBERS = re.compile(r"\d+")
_WORDS = re.compile(r"[^\s,;|{}\[\]\"']+")


@dataclass(frozen=True, eq=False)
class Deleted:
    """The ids that were deleted from a folder of scores.

    Attributes:
        salt: key of the digests, one for each folder: lists of two folders cannot be compared.
        digests: of the ids, ``(ids,)`` of 17 bytes, sorted, each once; the last byte is 1, since
            numpy leaves out zeros at the end.
        pending: the rows of some of them may still be there.
    """

    salt: bytes = field(default_factory=lambda: os.urandom(_SALT_BYTES))
    digests: NDArray[np.bytes_] = field(default_factory=lambda: np.zeros(0, _DIGEST))
    pending: bool = False

    @classmethod
    def of(cls, salt: bytes, digests: NDArray[np.uint8]) -> Deleted:
        """Of digests ``(ids, 16)``, sorted."""
        return cls(salt, _as_digests(digests))

    @classmethod
    def load(cls, folder: Path) -> Deleted:
        """The list of a folder; empty if there is none.

        Raises:
            ScoreError: it or its copy is damaged.
        """
        found = {name: cls._read(folder, name) for name in (DELETED, COPY)}
        if found[DELETED] is None and found[COPY] is not None:
            raise ScoreError(
                f"{folder / DELETED}: missing, and its copy is there; {repair_command(folder)}"
                " brings it back (`salient score delete --forget` is how to lift a deletion)"
            )
        return found[DELETED] or cls()

    @classmethod
    def _read(cls, folder: Path, name: str) -> Deleted | None:
        path = folder / name
        if not path.exists():
            return None
        remedy = f"{repair_command(folder)} takes it from its copy"
        with reading(path, remedy):
            arrays = read_arrays(path, remedy=remedy)
            version = arrays.get("format_version", np.zeros(0)).tolist()
            if version != [_FORMAT_VERSION] and "format_version" in arrays:
                raise ScoreError(
                    f"{path}: of format {version}, this version knows {_FORMAT_VERSION}; use the"
                    " newer version of Salient"
                )
            salt, pending, digests = (arrays[key] for key in ("salt", "pending", "digests"))
            shapes = (salt.shape, pending.shape, digests.shape[1:], digests.ndim)
            kinds = {one.dtype for one in (salt, pending, digests)}
            if shapes != ((_SALT_BYTES,), (1,), (16,), 2) or kinds != {np.dtype(np.uint8)}:
                raise ValueError("its arrays are not those written")
            return cls(salt.tobytes(), _as_digests(digests), bool(pending[0]))

    def save(self, folder: Path) -> None:
        """Write the list and its copy."""
        digests = self.digests.view(np.uint8).reshape(-1, 17)[:, :16]
        arrays = {
            "format_version": np.array([_FORMAT_VERSION]),
            "salt": np.frombuffer(self.salt, np.uint8),
            "pending": np.array([self.pending], np.uint8),
            "digests": digests,
        }
        for name in (DELETED, COPY):
            write_arrays(folder / name, arrays)

    def same_as(self, other: Deleted | None) -> bool:
        """Whether two lists say the same."""
        return (
            other is not None
            and (self.salt, self.pending) == (other.salt, other.pending)
            and np.array_equal(self.digests, other.digests)
        )

    @classmethod
    def mend(cls, folder: Path, *, dry_run: bool) -> str | None:
        """Bring back a damaged list from its copy, or the copy from the list.

        Returns:
            The name of what was mended; None if nothing was to be.

        Raises:
            ScoreError: both are damaged, or one cannot be read.
        """
        found: dict[str, Deleted | None] = {}
        for name in (DELETED, COPY):
            try:
                found[name] = cls._read(folder, name)
            except DamagedFile:
                found[name] = None
        paths = [folder / name for name in (DELETED, COPY)]
        sound = found[DELETED] or found[COPY]
        if sound is None and any(path.exists() for path in paths):
            raise ScoreError(
                f"{paths[0]}: damaged, and so is its copy {COPY}: which ids were deleted cannot be"
                " told any more; remove both, and delete those ids again"
            )
        if sound is None or all(sound.same_as(one) for one in found.values()):
            return None
        if not dry_run:
            sound.save(folder)
        return COPY if found[DELETED] is not None else DELETED

    def __len__(self) -> int:
        return len(self.digests)

    def __bool__(self) -> bool:
        return True

    def mask(self, ids: Sequence[str]) -> NDArray[np.bool_]:
        """Which of some ids are listed, ``(ids,)`` bool."""
        if not len(self) or not len(ids):
            return np.zeros(len(ids), bool)
        wanted = self._digests_of(ids)
        at = np.minimum(np.searchsorted(self.digests, wanted), len(self) - 1)
        return np.asarray(self.digests[at] == wanted)

    def lines(self, table: pa.Table) -> NDArray[np.bool_]:
        """Which of some quarantined lines may be of a listed id, ``(lines,)`` bool."""
        return named_in(table, self.mask) if len(self) else np.zeros(len(table), bool)

    def with_ids(self, ids: Iterable[str]) -> Deleted:
        """The list with further ids, which are yet to be taken out."""
        listed = np.union1d(self.digests, self._digests_of(ids))
        return replace(self, digests=listed, pending=True)

    def without(self, ids: Iterable[str]) -> Deleted:
        """The list without some ids."""
        return replace(self, digests=np.setdiff1d(self.digests, self._digests_of(ids)))

    def _digests_of(self, ids: Iterable[str]) -> NDArray[np.bytes_]:
        digest = hashlib.blake2b
        content = b"".join(
            digest(id.encode(), key=self.salt, digest_size=16).digest() for id in ids
        )
        return _as_digests(np.frombuffer(content, np.uint8).reshape(-1, 16))


def _as_digests(content: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """``(ids, 16)`` bytes as they are compared."""
    whole = np.ones((len(content), 17), np.uint8)
    whole[:, :16] = content
    return whole.view(_DIGEST).reshape(-1)


def named_in(table: pa.Table, is_meant: Meant) -> NDArray[np.bool_]:
    """Which of some quarantined lines may be of meant ids, ``(lines,)`` bool."""
    names = [sorted(_ids_named(line)) for line in table.to_pylist()]
    meant = is_meant([name for some in names for name in some])
    owner = np.repeat(np.arange(len(names)), [len(some) for some in names])
    return np.isin(np.arange(len(names)), owner[meant])


def _ids_named(line: Mapping[str, Any]) -> set[str]:
    """All that a quarantined line could have as its id: rather one too many.

    An id after the first 200 characters is not among them: the excerpt ends there.
    """
    text, reason = str(line["excerpt"] or ""), str(line["reason"] or "")
    found = {*_NUMBERS.findall(text), *_WORDS.findall(text), *_NUMBERS.findall(reason)}
    found.add(f"{file_stem(str(line['source_file']))}:{line['line']}")
    if reason.startswith(CLASH):
        with contextlib.suppress(ValueError, SyntaxError):
            found.add(str(ast.literal_eval(reason.removeprefix(CLASH))))
    return found


@dataclass(frozen=True)
class DeletionReport:
    """What a deletion did.

    Attributes:
        output: the folder of scores.
        dry_run: nothing was changed.
        ids: different ones that were given, or found for the authors.
        found: rows of theirs that were there, and are not any more.
        lines: quarantined lines that may have been of theirs.
        files: Parquet files that were rewritten or removed.
        listed: ids in the list that later runs leave out.
        forgotten: ids that were taken from that list.
        authors: different ones that were given.
        is_lifted: ids were to be scored again, not to be deleted.
        not_searched: damaged files that were set aside; what they hold cannot be told.
        unreadable: lines of the dumps that could not be read: tweets of the authors may be in them.
        without_author: tweets of the dumps that do not say who wrote them.
        incomplete: what each such dump lacks, in words.
        missing: ids that were given, are not in the scores, and had not been deleted before (of a
            lift: had not been deleted).
    """

    output: str
    dry_run: bool
    ids: int
    found: int = 0
    lines: int = 0
    files: int = 0
    listed: int = 0
    forgotten: int = 0
    authors: int = 0
    is_lifted: bool = False
    not_searched: tuple[str, ...] = ()
    unreadable: int = 0
    without_author: int = 0
    incomplete: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def not_found(self, ids: Sequence[str], of_file: Sequence[str]) -> ScoreError | None:
        """The error where one of some ids, or every one of a file, was not there; None otherwise.

        Args:
            ids: named one by one.
            of_file: listed in one, as all tweets that were deleted anywhere.
        """
        if not (named := unmet(self.missing, ids, of_file)):
            return None
        said = "is" if len(named) == 1 else "are"
        what = "among the deleted" if self.is_lifted else "in the scores"
        return ScoreError(f"{self.output}: {shown_ids(named)} {said} not {what}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"status": "dry run" if self.dry_run else "done", **asdict(self)}

    def __str__(self) -> str:
        if self.is_lifted:
            said = (
                f"of {counted(self.ids, 'id')} {self.forgotten:,} had been deleted, scored again"
                " by the next run that reads their dumps"
            )
        else:
            verb = "would go" if self.dry_run else "removed"
            said = (
                f"{counted(self.found, 'row')} of {counted(self.ids, 'id')} found and {verb},"
                f" {counted(self.lines, 'quarantined line')}, {counted(self.files, 'file')}"
                f" rewritten; {counted(self.listed, 'deleted id')} in all: not scored here again"
            )
            if self.missing:
                said += f"; not in the scores: {shown_ids(self.missing)}"
        text = f"{self.output}: {said}"
        if self.not_searched:
            text += (
                f"\n{len(self.not_searched)} damaged files in {SET_ASIDE} cannot be searched;"
                " delete them once their rows have come back"
            )
        return text


def shown_ids(ids: Sequence[str]) -> str:
    """Some ids in a message: ``id 7``, ``ids 7, 8 and 3 more``."""
    return f"id{'s' * (len(ids) > 1)} {listed(ids)}"


class IncompleteDeletion(ScoreError):
    """What was found is deleted, but not all of the dumps could be looked through."""

    def __init__(self, report: DeletionReport) -> None:
        super().__init__(
            f"{'; '.join(report.incomplete)}: the authors' tweets in there may be left; get the"
            " dumps whole and delete again, or name the ids with --ids"
        )
        self.report = report


@dataclass
class Searched:
    """What dumps say of some authors: the ids of their tweets, and what could not be told."""

    ids: set[str] = field(default_factory=set)
    unreadable: int = 0
    without_author: int = 0
    incomplete: list[str] = field(default_factory=list)


@dataclass
class Swept:
    """What was taken out of the files."""

    rows: int = 0
    lines: int = 0
    files: int = 0
    ids: set[str] = field(default_factory=set)
    """Of the wanted ids those that were there."""

    def add(self, path: Path, number: int) -> None:
        """Count what was taken out of a file."""
        self.files += number > 0
        self.lines += number * is_quarantine(path)
        self.rows += number * (not is_quarantine(path))

    def __iadd__(self, other: Swept) -> Swept:
        self.rows, self.lines = self.rows + other.rows, self.lines + other.lines
        self.files += other.files
        return self
