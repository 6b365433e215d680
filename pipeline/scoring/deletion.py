"""Take tweets out of a folder of scores, for good: their rows, their lines, and their return.

    delete_scores(folder, ids=["1344908468193435649"])
    Deleted.load(folder).mask(ids)              # which of these must not be scored again

First the ids are listed in ``_deleted.safetensors`` as keyed digests, marked as pending; then every
file that holds one is rewritten in its place; then the mark goes. Killed in between, the next
command that opens the folder ends the work, by the digests alone. Later runs leave listed ids out
and count them as ``filtered/deleted``, so that reading the same dump again brings nothing back, and
look through files that they do not know, so that neither does a file that is put back.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ConfigError, ScoreError, listed
from pipeline.progress import Say, counted, silent
from pipeline.scoring.ledger import File, Ledger
from pipeline.scoring.parts import (
    SET_ASIDE,
    DamagedFile,
    Key,
    id_key,
    is_quarantine,
    keys_of,
    read_part,
    reading,
    repair_command,
    rewrite_part,
)
from pipeline.scoring.place import (
    SCORE_CARD,
    alone,
    check_scores,
    format_version,
    open_ledger,
    read_score_card,
)
from pipeline.scoring.sinks import sink_of
from pipeline.scoring.summary import CLASHES, reason_kind
from pipeline.texts import (
    TWEETS,
    USUAL,
    InputOptions,
    as_path,
    detect,
    file_stem,
    read_blocks,
    read_dump,
    settled,
)
from store.tables import read_arrays, write_arrays, write_json
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


def delete_scores(
    folder: Path | str,
    ids: Iterable[str] = (),
    *,
    authors: Collection[str] = (),
    dumps: Sequence[Path | str] = (),
    forget: bool = False,
    dry_run: bool = False,
    within: Callable[..., DeletionReport] | None = None,
    say: Say = silent,
) -> DeletionReport:
    """Take tweets out of a folder of scores: rows, text hashes, ledger entries, quarantined lines.

    Again is no harm; killed at any moment, the next command that opens the folder ends the work.

    Args:
        folder: of the scores, or its URL.
        ids: of the rows.
        authors: all tweets of these authors that stand in ``dumps``.
        dumps: files of tweets, which say who wrote them.
        forget: the other way round: let these ids be scored again.
        dry_run: change nothing, only count.
        within: what takes ids out of the folder; default from one of this machine.
        say: told of progress.

    Raises:
        ConfigError: no folder of scores, nothing named, or authors without dumps.
        IncompleteDeletion: all is done, but the dumps hold lines that cannot be read, or tweets
            that do not say who wrote them.
        ScoreError: a damaged file.
    """
    check_scores(folder)
    wanted = set(ids)
    if not wanted and not authors:
        raise ConfigError("nothing to delete: give --id, --ids or --authors")
    for name in (*wanted, *authors):
        if not _is_text(name):
            raise ConfigError(
                f"{name!r}: no text in UTF-8, so no row or author has it; leave it out"
            )
    searched = ids_of_authors(authors, dumps) if authors else Searched()
    wanted |= searched.ids
    take_out = _delete if within is None else within
    report = take_out(folder, wanted, searched, forget=forget, dry_run=dry_run, say=say)
    report = replace(report, authors=len(set(authors)))
    if report.incomplete:
        raise IncompleteDeletion(report)
    return report


def _delete(
    folder: Path | str,
    wanted: set[str],
    searched: Searched,
    *,
    forget: bool,
    dry_run: bool,
    say: Say,
) -> DeletionReport:
    folder = Path(folder)
    with alone(folder, dry_run=dry_run, say=say):
        card = read_score_card(folder)
        if not dry_run and card is not None and card["format_version"] != format_version(folder):
            # Programs that know no list of deleted ids are to refuse the folder from now on.
            write_json(folder / SCORE_CARD, {**card, "format_version": format_version(folder)})
        with open_ledger(folder, dry_run=dry_run) as ledger:
            left = catch_up(folder, ledger, dry_run=dry_run, say=say)
            report = DeletionReport(
                str(folder),
                dry_run,
                len(wanted),
                unreadable=searched.unreadable,
                without_author=searched.without_author,
                incomplete=tuple(searched.incomplete),
                not_searched=tuple(sorted(map(str, (folder / SET_ASIDE).glob("*.damaged")))),
            )
            if forget:
                names = sorted(wanted)
                known = Deleted.load(folder).mask(names)
                number = forget_ids(folder, ledger, wanted, dry_run=dry_run)
                return replace(
                    report,
                    forgotten=number,
                    listed=len(Deleted.load(folder)),
                    is_lifted=True,
                    missing=_unmarked(names, known),
                )
            before = Deleted.load(folder)
            found, deleted = delete_ids(folder, ledger, wanted, dry_run=dry_run)
            unlisted = sorted(wanted - found.ids - searched.ids)
            known = before.mask(unlisted)
    return replace(
        report,
        missing=_unmarked(unlisted, known),
        found=found.rows + left.rows,
        lines=found.lines + left.lines,
        files=found.files + left.files,
        listed=len(deleted),
    )


def _unmarked(names: Sequence[str], marks: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(name for name, is_marked in zip(names, marks, strict=True) if not is_marked)


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


def sweep(
    folder: Path, ledger: Ledger, files: Iterable[File], is_meant: Meant, *, dry_run: bool = False
) -> Swept:
    """Take all rows and lines of some ids out of files; again is no harm.

    Args:
        folder: of the scores.
        ledger: that knows the files as they are.
        files: to look at.
        is_meant: of ids.
        dry_run: only count.
    """
    found = Swept()
    for file in files:
        keys, now = _take_out(folder / file.path, is_meant, dry_run=dry_run)
        if keys and not dry_run:
            ledger.take_out(file, now, keys=keys, num_taken=len(keys))
        found.add(folder / file.path, len(keys))
    return found


def _take_out(path: Path, is_meant: Meant, *, dry_run: bool) -> tuple[list[Key], Path | None]:
    """Take rows or lines out of one file; their keys, and the file that has the others."""
    keep, keys = [], list[Key]()
    quarantined = is_quarantine(path)
    for table in read_part(path):
        own = [key for key, _ in keys_of(path, table)]
        gone = named_in(table, is_meant) if quarantined else is_meant(table["id"].to_pylist())
        keep.append(~gone)
        keys += [own[at] for at in np.flatnonzero(gone)]
    left: Path | None = path
    if keys and not dry_run:
        left = rewrite_part(path, np.concatenate(keep))
    return keys, left


def catch_up(folder: Path, ledger: Ledger, *, dry_run: bool, say: Say = silent) -> Swept:
    """Have the ledger know all files, and no row of a deleted id be in them.

    Files that were put back, or that another program made of rows it had read before, may hold such
    rows; those the ledger does not know yet are looked through before it does. A deletion that was
    killed is ended.

    Args:
        folder: of the scores.
        ledger: its ledger, or in a dry run a copy.
        dry_run: change no file.
        say: told of progress.

    Returns:
        What was taken out.
    """
    deleted, found = Deleted.load(folder), Swept()
    if not dry_run:
        Deleted.mend(folder, dry_run=False)  # killed between the list and its copy
        for path in ledger.unknown(folder) if len(deleted) else ():
            found.add(path, len(_take_out(path, deleted.mask, dry_run=False)[0]))
        if found.rows:
            sink_of(folder).purge()
    ledger.sync(folder, say)
    if not dry_run:
        found += finish_deletion(folder, ledger, say)
    return found


def finish_deletion(folder: Path, ledger: Ledger, say: Say = silent) -> Swept:
    """End a deletion that was killed."""
    deleted = Deleted.load(folder)
    if not deleted.pending:
        return Swept()
    say(f"{folder}: a deletion was interrupted; looking for what it left")
    found = sweep(folder, ledger, ledger.files(), deleted.mask)
    sink_of(folder).purge()
    replace(deleted, pending=False).save(folder)
    return found


def delete_ids(
    folder: Path, ledger: Ledger, ids: Collection[str], *, dry_run: bool
) -> tuple[Swept, Deleted]:
    """Take ids out of an open folder of scores, and list them."""
    deleted, wanted = Deleted.load(folder), frozenset(ids)
    longer = deleted.with_ids(wanted)
    if not dry_run:
        longer.save(folder)
    files = ledger.files()
    if not any(file.num_repeated for file in files):  # else an id may be in other files too
        places = {entry.file for entry in ledger.known(map(id_key, wanted)).values()}
        files = [one for one in files if one.number in places or is_quarantine(Path(one.path))]

    there: set[str] = set()

    def is_wanted(names: Sequence[str]) -> NDArray[np.bool_]:
        there.update(wanted.intersection(names))
        return np.fromiter(map(wanted.__contains__, names), bool, len(names))

    found = sweep(folder, ledger, files, is_wanted, dry_run=dry_run)
    found.ids = there
    longer = replace(longer, pending=False)
    if not dry_run:
        sink_of(folder).purge()
        longer.save(folder)
    return found, longer


def forget_ids(folder: Path, ledger: Ledger, ids: Collection[str], *, dry_run: bool) -> int:
    """Let ids be scored again; all inputs are read again, to find them. Returns how many."""
    deleted = Deleted.load(folder)
    left = deleted.without(ids)
    if not dry_run and len(left) < len(deleted):
        ledger.forget_inputs()
        left.save(folder)
    return len(deleted) - len(left)


def read_names(path: Path) -> list[str]:
    """The ids or authors in a file, one a line.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    return [name for line in lines if (name := line.strip(" \t"))]  # ids may hold other signs


def ids_of_authors(authors: Collection[str], dumps: Sequence[Path | str]) -> Searched:
    """The ids of all tweets of some authors in some dumps; scores do not say who wrote a tweet.

    Raises:
        ConfigError: no dumps, or a file that does not say who wrote what.
    """
    if not dumps:
        raise ConfigError(
            "--authors: scores do not hold who wrote a tweet; name the dumps too, which say it"
            " (salient score delete OUT DUMP... --authors FILE)"
        )
    wanted, found = pa.array(sorted(set(authors)), pa.string()), Searched()
    for path in map(as_path, dumps):
        if not path.is_file():
            raise ConfigError(f"{path}: no such input file")
        reasons, without_author = Counter[str](), 0
        for rows, bad in _with_authors(path):
            theirs = rows.filter(pc.is_in(rows["author_id"], value_set=wanted))
            found.ids.update(theirs["id"].to_pylist())
            without_author += rows["author_id"].null_count
            reasons.update(map(reason_kind, bad["reason"].to_pylist()))
        unreadable, lacks = reasons.total(), list[str]()
        if unreadable:
            said = ", ".join(reason for reason, _ in reasons.most_common(3))
            lacks.append(f"{unreadable} lines could not be read ({said})")
        if without_author:
            lacks.append(f"{without_author} tweets do not say who wrote them")
        if lacks:
            found.incomplete.append(f"{path}: {' and '.join(lacks)}")
        found.unreadable += unreadable
        found.without_author += without_author
    return found


def _with_authors(path: Path) -> Iterator[tuple[pa.Table, pa.Table]]:
    """The rows of a dump or table with ``id`` and ``author_id``, and the lines that are no rows."""
    kind = detect(path, InputOptions())
    if kind == TWEETS:
        for dump in read_dump(path):
            yield dump.table, dump.quarantine
        return
    settings = settled(path, kind, InputOptions())
    if settings.author is None:
        raise ConfigError(
            f"{path}: no dump of posts, and no column that says who wrote what (such as"
            f" {', '.join(USUAL['author'][:3])}); give the ids of its rows with --ids"
        )
    for block in read_blocks(path, kind, settings):
        yield block.rows, block.bad


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


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
