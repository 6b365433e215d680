"""The commits of a folder of scores in a bucket: the truth about what it holds.

    log = CommitLog(locate("s3://scores/sentiment"))
    for number, commit in log.after(12):        # those after number 12, in their order
        …
    log.create(13, Commit(kind="score", adds=(…,), rows=rows_of(…)))   # False: another was first

A commit is one object ``_commits/00000013.arrow`` that is created once and never taken back. It
says which parts it adds and removes, which inputs were read to their end, and which ids were
deleted; its table has the digest of every added row's key. Who comes second in a race for a number
reads what the first has done, and tries the next one. So the order of commits is one for all,
whatever the clocks of machines say, and an id is added once.

    metadata  "salient": JSON {format_version, kind, writer, at, salt, adds, removes, inputs,
                               forgets_inputs}
    columns   key    16 bytes, digest of the row's id (or of a quarantined line), keyed by the salt
              text   64 bits of the text's hash, keyed likewise; 0 of lines
              part   number of its part among `adds`; DELETED or LIFTED: it is an id's that must not
                     come back, or may again

Of a part that a later commit removes, the rows may be missing in the commit that added it: they
were taken out for good (:meth:`CommitLog.scrub`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ScoreError
from pipeline.scoring.parts import repair_command
from pipeline.scoring.summary import Finished
from store.disk import Meta, ObjectLocation, check_table, decode_json, encode_json, with_checksums
from store.errors import StoreError

COMMITS = "_commits"
STAGED = "_staged"
"""Parts lie here until their commit is there."""
FORMAT_VERSION = 1
DELETED, LIFTED = -1, -2
"""In the column ``part``."""
SALT_BYTES = 32
DIGEST_BYTES = 16
SCHEMA = pa.schema([("key", pa.binary(DIGEST_BYTES)), ("text", pa.int64()), ("part", pa.int32())])
_FACTS = b"salient"
_HEAD_BYTES = 1 << 18
"""Read of a longer commit where only its facts are wanted."""
_AT_A_TIME = 8
"""Commits that are fetched, and in memory, at a time."""
_REMEDY = "restore the object from an earlier version or a copy, or score into a new folder"


@dataclass(frozen=True)
class Added:
    """A part that a commit adds.

    Attributes:
        path: ``date=2026-11-23/part-….parquet``, ``_quarantine/part-….parquet``; used once only.
        size: of the object in bytes.
        rows: in it; 0 where a later commit removes it, and its rows were taken out of this one.
        sources: names of the input files that its rows came from.
        replaces: the part that has these rows before, if they are not new.
    """

    path: str
    size: int
    rows: int
    sources: tuple[str, ...] = ()
    replaces: str | None = None

    @property
    def staged(self) -> str:
        """Where it lies before its commit, and until somebody has settled it."""
        return staged_path(self.path)


@dataclass(frozen=True)
class Commit:
    """One commit.

    Attributes:
        kind: ``create``, ``score``, ``delete``, ``lift``, ``repair``, ``redact``: for people.
        writer: whose it is: two commits are never the same bytes.
        salt: key of the folder's digests, the same in all of its commits.
        adds, removes: parts, by path; a part is removed once and for all.
        inputs: key of an input -> what was in it: those whose rows are all there now.
        forgets_inputs: inputs that were finished before are to be read again.
        rows: ``SCHEMA``.
        at: when it was made, by the writer's clock; nothing depends on it.
    """

    kind: str
    writer: str
    salt: bytes
    adds: tuple[Added, ...] = ()
    removes: tuple[str, ...] = ()
    inputs: Mapping[str, Finished] = field(default_factory=dict)
    forgets_inputs: bool = False
    rows: pa.Table = field(default_factory=SCHEMA.empty_table)
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def encoded(self) -> bytes:
        """As the bytes of its object."""
        facts = {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "writer": self.writer,
            "at": self.at,
            "salt": self.salt.hex(),
            "adds": [
                {
                    "path": one.path,
                    "size": one.size,
                    "rows": one.rows,
                    "sources": list(one.sources),
                    "replaces": one.replaces,
                }
                for one in self.adds
            ],
            "removes": list(self.removes),
            "inputs": {
                key: {"name": one.name, "counts": dict(one.counts)}
                for key, one in self.inputs.items()
            },
            "forgets_inputs": self.forgets_inputs,
        }
        table = self.rows.cast(SCHEMA).replace_schema_metadata(
            {_FACTS: encode_json(facts, indent=None)}
        )
        table, sink = with_checksums(table), pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue().to_pybytes())

    @classmethod
    def decoded(cls, content: bytes, *, where: str) -> Commit:
        """From the bytes of its object.

        Raises:
            ScoreError: they are not what was written, or of a newer version.
        """
        try:
            with pa.ipc.open_stream(pa.BufferReader(content)) as reader:
                table = reader.read_all()
            found = _from_facts(table.schema.metadata or {}, where)
            rows = check_table(table, where=where, remedy=_REMEDY).replace_schema_metadata(None)
            if rows.schema != SCHEMA:
                raise ValueError("its columns are not those that were written")
            return replace(found, rows=rows)
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise _damaged(where, str(error)) from None
        except StoreError as error:
            raise ScoreError(str(error)) from None

    @classmethod
    def decoded_head(cls, content: bytes, *, where: str) -> Commit | None:
        """All but the rows, from the first bytes of its object; None if these are too few."""
        try:
            schema = pa.ipc.read_schema(pa.BufferReader(content))
            return _from_facts(schema.metadata or {}, where)
        except (pa.ArrowException, OSError, EOFError):
            return None
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(where, str(error)) from None


def _from_facts(metadata: Mapping[bytes, bytes], where: str) -> Commit:
    try:
        facts = decode_json(metadata[_FACTS], where=where, remedy=_REMEDY)
    except StoreError as error:
        raise ScoreError(str(error)) from None
    if facts.get("format_version") != FORMAT_VERSION:
        raise ScoreError(
            f"{where}: a commit of format {facts.get('format_version')!r}, this version knows"
            f" {FORMAT_VERSION}; use the newer version of Salient"
        )
    return Commit(
        kind=str(facts["kind"]),
        writer=str(facts["writer"]),
        at=str(facts["at"]),
        salt=bytes.fromhex(facts["salt"]),
        adds=tuple(
            Added(
                _checked_path(one["path"]),
                int(one["size"]),
                int(one["rows"]),
                tuple(one["sources"]),
                None if one["replaces"] is None else _checked_path(one["replaces"]),
            )
            for one in facts["adds"]
        ),
        removes=tuple(map(_checked_path, facts["removes"])),
        inputs={
            str(key): Finished(one["name"], dict(one["counts"]))
            for key, one in facts["inputs"].items()
        },
        forgets_inputs=bool(facts["forgets_inputs"]),
    )


def _checked_path(path: Any) -> str:
    """A part's path, which is put and deleted by name: never a card or a commit."""
    folder, _, name = str(path).partition("/")
    if not (folder.startswith("date=") or folder == "_quarantine") or "/" in name or not name:
        raise ValueError(f"{path!r} is no path of a part")
    return str(path)


def _damaged(where: str, what: str) -> ScoreError:
    return ScoreError(f"{where}: damaged ({what}); {_REMEDY}")


def staged_path(path: str) -> str:
    """Where a part lies before its commit."""
    return f"{STAGED}/{path.rpartition('/')[2]}"


def part_content(
    location: ObjectLocation, path: str, fetch: Callable[[str], bytes] | None = None
) -> bytes:
    """The bytes of a part that counts, wherever it lies by now.

    Args:
        location: of the folder.
        path: of the part.
        fetch: gets an object, or what is wanted of it; default all of it.

    Raises:
        FileNotFoundError: another commit has removed it, or it is lost.
    """
    for place in (path, staged_path(path), path):  # it may be settled between two looks
        with suppress(FileNotFoundError):
            return (fetch or location.read)(place)
    raise FileNotFoundError(f"{location.address}/{path}: there is no such object")


def lost_part(address: str, path: str) -> ScoreError:
    """The error for a part that counts and is nowhere."""
    return ScoreError(
        f"{address}/{path}: is not there, though a commit says so; {repair_command(address)} says"
        " what can come back"
    )


class Digests:
    """Digests of ids and lines, keyed so that those of two folders cannot be compared."""

    def __init__(self, salt: bytes) -> None:
        self.salt = salt

    def of_key(self, key: int | str | bytes) -> bytes:
        """Of a row's key (``pipeline.scoring.parts``); of an id the same as ``Deleted`` has."""
        if isinstance(key, bytes):
            return hashlib.blake2b(
                key, key=self.salt, digest_size=DIGEST_BYTES, person=b"line"
            ).digest()
        return hashlib.blake2b(str(key).encode(), key=self.salt, digest_size=DIGEST_BYTES).digest()

    def of_text(self, key: int | str | bytes, text: int) -> int:
        """Of a row's text digest: tells another text under the same id, and nothing else."""
        if isinstance(key, bytes):
            return 0
        content = f"{text} {key}".encode()
        found = hashlib.blake2b(content, key=self.salt, digest_size=8, person=b"text").digest()
        return int.from_bytes(found, "big", signed=True)

    def rows(self, part: int, keys: Iterable[tuple[int | str | bytes, int]]) -> pa.Table:
        """Rows of a commit for the keys and text digests of one of its parts."""
        pairs = self.of_rows(keys)
        return rows_of(part, [key for key, _ in pairs], [text for _, text in pairs])

    def of_rows(self, keys: Iterable[tuple[int | str | bytes, int]]) -> list[tuple[bytes, int]]:
        """Of the keys and text digests of some rows."""
        return [(self.of_key(key), self.of_text(key, text)) for key, text in keys]


def rows_of(part: int, keys: Sequence[bytes], texts: Sequence[int] | None = None) -> pa.Table:
    """Rows of a commit.

    Args:
        part: among ``adds``; or ``DELETED``, ``LIFTED``.
        keys: digests.
        texts: digests of their texts; of deleted and lifted ids there are none.
    """
    return pa.table(
        {
            "key": pa.array(keys, SCHEMA.field("key").type),
            "text": pa.array(texts or [0] * len(keys), pa.int64()),
            "part": pa.array(np.full(len(keys), part, np.int32)),
        }
    )


class CommitLog:
    """The commits of one folder.

    Args:
        location: of the folder.
    """

    def __init__(self, location: ObjectLocation) -> None:
        self.location = location

    def where(self, number: int) -> str:
        """The address of a commit, for messages."""
        return f"{self.location.address}/{commit_path(number)}"

    def newer(self, number: int) -> Iterator[tuple[int, Meta]]:
        """The commits after a number, without a gap, in their order.

        Raises:
            ScoreError: one is missing.
        """
        after = commit_path(number) if number > 0 else None
        for meta in self.location.list(COMMITS, after=after):
            found = _number_of(meta.path)
            if found is None or found <= number:
                continue
            if found != number + 1:
                raise ScoreError(f"{self.where(number + 1)}: no such commit; {_REMEDY}")
            number = found
            yield number, meta

    def after(self, number: int) -> Iterator[tuple[int, Commit]]:
        """The commits after a number, with their rows; several are fetched at a time."""
        return self._fetched(number, lambda found, _: self.read(found))

    def heads_after(self, number: int) -> Iterator[tuple[int, Commit]]:
        """The commits after a number, without their rows; several are fetched at a time."""
        return self._fetched(number, self.read_head)

    def _fetched(
        self, number: int, fetch: Callable[[int, int], Commit]
    ) -> Iterator[tuple[int, Commit]]:
        newer = self.newer(number)
        first = list(islice(newer, 1))
        if not first:  # as a rule
            return
        found = chain(first, newer)
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            while some := list(islice(found, _AT_A_TIME)):
                sizes = [meta.size for _, meta in some]
                commits = pool.map(fetch, [one for one, _ in some], sizes)
                yield from zip((one for one, _ in some), commits, strict=True)

    def read(self, number: int) -> Commit:
        """A commit with its rows.

        Raises:
            ScoreError: it is damaged or missing.
        """
        try:
            content, _ = self.location.get(commit_path(number))
        except FileNotFoundError:
            raise ScoreError(f"{self.where(number)}: no such commit; {_REMEDY}") from None
        return Commit.decoded(content, where=self.where(number))

    def read_head(self, number: int, size: int) -> Commit:
        """A commit without its rows; of a long object only the first bytes are read.

        Args:
            number: of the commit.
            size: of its object.
        """
        path = commit_path(number)
        try:
            if size > _HEAD_BYTES:
                head = self.location.read_range(path, 0, _HEAD_BYTES)
                if (found := Commit.decoded_head(head, where=self.where(number))) is not None:
                    return found
            content, _ = self.location.get(path)
        except FileNotFoundError:
            raise ScoreError(f"{self.where(number)}: no such commit; {_REMEDY}") from None
        found = Commit.decoded_head(content, where=self.where(number))
        if found is None:
            raise _damaged(self.where(number), "it does not say what it is")
        return found

    def create(self, number: int, commit: Commit) -> bool:
        """Put a commit in its place; False if there is another.

        It is there, whatever became of the answer, or it never will be: the number is taken.

        Args:
            number: one more than the last.
            commit: whose parts are staged, after that last one was known.
        """
        path = commit_path(number)
        if self.location.create(path, commit.encoded()):
            return True
        # If the answer was lost, it may have been scrubbed before it could be looked at.
        return self.read_head(number, self.location.size(path)).writer == commit.writer

    def scrub(self, number: int, removed: Collection[str]) -> bool:
        """Take the rows of parts that were removed since out of a commit, for good.

        Nobody who has all commits misses them: a later one takes those parts out whole.

        Args:
            number: of the commit.
            removed: paths of parts that a later commit removes.

        Returns:
            Whether there were any.
        """
        while True:
            content, meta = self.location.get(commit_path(number))
            commit = Commit.decoded(content, where=self.where(number))
            gone = [at for at, one in enumerate(commit.adds) if one.rows and one.path in removed]
            if not gone:
                return False
            mask = pc.is_in(commit.rows["part"], value_set=pa.array(gone, pa.int32()))
            adds = tuple(
                replace(one, rows=0) if at in gone else one for at, one in enumerate(commit.adds)
            )
            left = replace(commit, adds=adds, rows=commit.rows.filter(pc.invert(mask)))
            if self.location.replace(commit_path(number), left.encoded(), meta):
                return True


def commit_path(number: int) -> str:
    """Of the object, relative to the folder."""
    return f"{COMMITS}/{number:08d}.arrow"


def _number_of(path: str) -> int | None:
    name = path.rpartition("/")[2].removesuffix(".arrow")
    return int(name) if name.isdecimal() and len(name) == 8 else None


@dataclass
class Parts:
    """Which parts count, by the commits, without their rows.

    Attributes:
        number: of the last commit that is known; 0 before the first.
        live: path -> the part.
        removed: path of a part that was removed -> the part that has its rows now, if any are left.
    """

    number: int = 0
    live: dict[str, Added] = field(default_factory=dict)
    removed: dict[str, str | None] = field(default_factory=dict)

    @classmethod
    def of(cls, log: CommitLog) -> Parts:
        """As they are now."""
        found = cls()
        found.refresh(log)
        return found

    def refresh(self, log: CommitLog) -> bool:
        """Learn of later commits; whether there were any."""
        before = self.number
        for number, commit in log.heads_after(self.number):
            self.apply(number, commit)
        return self.number > before

    def apply(self, number: int, commit: Commit) -> None:
        """Learn of the next commit."""
        for path in commit.removes:
            self.live.pop(path, None)
            self.removed[path] = None
        for one in commit.adds:
            self.live[one.path] = one
            if one.replaces is not None:
                self.removed[one.replaces] = one.path
        self.number = number
