"""Which rows a folder of scores holds: an index beside its Parquet files, which are the truth.

The ledger answers "is this id there already?" for hundreds of millions of ids in little memory. It
is a SQLite file that can be lost at any time: ``sync`` compares it with the Parquet files and reads
those it does not know. So a file is published first and recorded afterwards, and a kill between the
two costs only that reading. Ids are kept exactly, not as hashes.

    with Ledger(folder / LEDGER) as ledger:
        ledger.sync(folder)
        ledger.known([id_key("1344908468193435649")])   # key -> Entry
        ledger.record([Published.of(path, folder, keys)], {input: Finished(name, counts)})

It also remembers which input files were read to their end, so that they need not be read again.

A damaged ledger would let rows in twice, so it is never used:

- closed in peace, it leaves a note with the checksum of all its bytes (``_ledger.json``), which the
  next run compares before anything else: 35 bytes an id, so 3.5 GB for 100 million, read once;
- after a kill there is no note (it goes before the first change), and every row is looked at: each
  carries a checksum, keys must increase, and every file must have the rows that it had. That takes
  1.5 µs an id, minutes for 100 million; making it again takes about thrice that.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import google_crc32c

from pipeline.errors import ScoreError
from pipeline.progress import Say, silent
from pipeline.scoring.parts import Key, part_files, part_keys, repair_command
from pipeline.scoring.summary import Finished as Finished
from store import StoreError
from store.disk import sync_directory
from store.tables import read_json, write_json

LEDGER = "_ledger.sqlite"
NOTE = "_ledger.json"
"""The checksum of a ledger that was closed in peace."""
FORMAT_VERSION = 2
APPLICATION_ID = 0x5A4C4E54
"""Says that a SQLite file is a ledger of Salient's; format 1 had none."""
_NOTE_VERSION = 1
_NOT_ITS_FAULT = tuple(
    f"SQLITE_{name}"
    for name in ("CANTOPEN", "READONLY", "FULL", "BUSY", "LOCKED", "PERM", "IOERR", "NOMEM")
)
_ASK_KEYS = 500
_CACHE_KIB = 65_536
_CHUNK_BYTES = 1 << 24
_FETCH_ROWS = 4096
_TABLES = (
    "CREATE TABLE files (number INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT UNIQUE NOT NULL,"
    " size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sources TEXT NOT NULL,"
    " num_rows INTEGER NOT NULL, num_repeated INTEGER NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE rows (id PRIMARY KEY NOT NULL, text INTEGER NOT NULL, file INTEGER NOT NULL,"
    " crc INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE inputs (key TEXT PRIMARY KEY NOT NULL, name TEXT NOT NULL, counts TEXT NOT NULL,"
    " crc INTEGER NOT NULL) WITHOUT ROWID",
)


@dataclass(frozen=True)
class Published:
    """A Parquet file that is in its place, and what it holds.

    Attributes:
        path: relative to the folder of scores.
        size, mtime_ns: as the file system has them.
        keys: key and text digest of every row; may be an iterator, good for one reading.
        sources: names of the input files that its rows came from; once ``keys`` has been read.
    """

    path: str
    size: int
    mtime_ns: int
    keys: Iterable[tuple[Key, int]]
    sources: Collection[str] = ()

    @classmethod
    def of(
        cls,
        path: Path,
        folder: Path,
        keys: Iterable[tuple[Key, int]],
        sources: Collection[str] = (),
    ) -> Published:
        """A file as it is on the disk."""
        facts = path.stat()
        where = str(path.relative_to(folder))
        return cls(where, facts.st_size, facts.st_mtime_ns, keys, sources)

    @classmethod
    def unread(cls, path: Path, folder: Path) -> Published:
        """A file as it is on the disk, whose keys are read once they are asked for."""
        sources: set[str] = set()
        return cls.of(path, folder, part_keys(path, sources), sources)


@dataclass(frozen=True)
class Entry:
    """What is known of a row: a digest of its text (``text_digest``), the number of its file."""

    text: int
    file: int


@dataclass(frozen=True)
class File:
    """What is known of a Parquet file; ``num_rows`` are those recorded under it, ``num_repeated``
    those whose id another file had before."""

    number: int
    path: str
    size: int
    mtime_ns: int
    sources: tuple[str, ...]
    num_rows: int
    num_repeated: int


class Ledger:
    """The index of one folder of scores; one process at a time.

    A ledger of format 1 is made anew; the inputs that it knows stay if it says what is there.

    Args:
        path: the SQLite file; made if missing.
        folder: whose ledger it is; default where it lies.

    Raises:
        ScoreError: the file cannot be opened, is damaged, or of a newer format.
    """

    tables: ClassVar[tuple[str, ...]] = _TABLES
    """What makes them."""

    def __init__(self, path: Path, folder: Path | None = None) -> None:
        self._path = path
        self._folder = folder or path.parent
        self._is_sound = True
        self._carried: Carried | None = None
        self._noted = self._check_note()
        try:
            self._db = self._open()
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorname", "").startswith(_NOT_ITS_FAULT):
                raise ScoreError(
                    f"{self._folder / LEDGER}: cannot be opened ({error}); if the disk is not full"
                    " and no other program is at work on it,"
                    f" {repair_command(self._folder)} makes it again from the Parquet files"
                ) from None
            raise self.damaged(str(error)) from None
        self.first_new_file = 0
        """Files of a lower number were there at the last ``sync``."""

    def damaged(self, what: str) -> ScoreError:
        """The error for a ledger that is not to be trusted: it gets no note any more."""
        self._is_sound = False
        return ScoreError(
            f"{self._folder / LEDGER}: damaged ({what}); {repair_command(self._folder)} makes it"
            " again from the Parquet files"
        )

    def _open(self) -> sqlite3.Connection:
        if not self._path.parent.is_dir():
            raise ScoreError(f"{self._path}: cannot be opened: there is no folder {self._folder}")
        # Several threads of this process may use it, one at a time.
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")  # before WAL: no shared memory needed
            if db.execute("PRAGMA user_version").fetchone()[0] == 1 and not _pragma(
                db, "application_id"
            ):
                self._carried = Carried.of_old(db)
                db.close()
                remove_ledger(self._path)
                return self._open()
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA secure_delete = ON")
            db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            if _pragma(db, "page_count") <= 1 and not _tables(db):
                _create(db, self.tables)
            self._check_format(db)
            if not self._noted:
                self._check_all(db)
        except BaseException:
            db.close()
            raise
        return db

    # ---------------------------------------------------------------- soundness

    def _check_note(self) -> bool:
        """Whether it was closed in peace, and is as it was then."""
        note, wal = self._path.with_name(NOTE), self._path.with_name(f"{LEDGER}-wal")
        if not self._path.exists():
            note.unlink(missing_ok=True)
            return False
        if not note.exists():
            return False
        try:
            found = read_json(note, remedy=f"{repair_command(self._folder)} mends it")
        except StoreError as error:
            raise ScoreError(str(error)) from None
        if found.get("format_version") != _NOTE_VERSION:
            raise self._newer(f"its note {NOTE} is of format {found.get('format_version')!r}")
        if found != {"format_version": _NOTE_VERSION, **_bytes_of(self._path)}:
            raise self.damaged(f"it differs from its checksum in {NOTE}")
        if wal.exists() and wal.stat().st_size:
            note.unlink()
            return False
        return True

    def _check_format(self, db: sqlite3.Connection) -> None:
        version, application = _pragma(db, "user_version"), _pragma(db, "application_id")
        if application == APPLICATION_ID and version > FORMAT_VERSION:
            raise self._newer(f"of format {version}, this version knows {FORMAT_VERSION}")
        if (version, application) != (FORMAT_VERSION, APPLICATION_ID):
            raise self.damaged(f"format {version} of application {application:#x}")
        if _tables(db) != sorted(self.tables):
            raise self.damaged("its tables are not those that were made")

    def _newer(self, what: str) -> ScoreError:
        return ScoreError(
            f"{self._folder / LEDGER}: {what}; use the newer version of Salient, or"
            f" {repair_command(self._folder)}"
        )

    def _check_all(self, db: sqlite3.Connection) -> None:
        """Look at every row of a ledger that was not closed in peace."""
        if (found := db.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
            raise self.damaged(found)
        counts = self._count_rows(db)
        for file in self._files(db):
            if counts.pop(file.number, 0) != file.num_rows:
                raise self.damaged(f"rows of {file.path} are missing")
        if counts:
            raise self.damaged(f"{sum(counts.values())} rows are of no file")
        for key, name, text, crc in db.execute("SELECT * FROM inputs"):
            if crc != _crc(key, name, text):
                raise self.damaged("an input differs from its checksum")

    def _count_rows(self, db: sqlite3.Connection) -> Counter[int]:
        """File -> its rows, all of which are sound and can be found."""
        counts: Counter[int] = Counter()
        last: tuple[int, Any] = (-1, None)
        cursor = db.execute("SELECT id, text, file, crc FROM rows")  # as they lie in the tree
        while rows := cursor.fetchmany(_FETCH_ROWS):
            if not all(_is_sound(*row) for row in rows):
                raise self.damaged("a row differs from its checksum")
            places = [last, *(_place(row[0]) for row in rows)]
            if not all(one < other for one, other in pairwise(places)):
                raise self.damaged("rows are out of order")
            last = places[-1]
            counts.update(row[2] for row in rows)
        return counts

    def _forget_note(self) -> None:
        if self._noted:
            self._path.with_name(NOTE).unlink(missing_ok=True)
            sync_directory(self._path.parent)
            self._noted = False

    def _leave_note(self) -> None:
        if not self._is_sound:
            self._forget_note()
        elif not self._noted and not self._path.with_name(f"{LEDGER}-wal").exists():
            facts = {"format_version": _NOTE_VERSION, **_bytes_of(self._path)}
            with contextlib.suppress(StoreError):  # no room: the next run looks at every row
                write_json(self._path.with_name(NOTE), facts)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._db.close()
        if isinstance(error, sqlite3.DatabaseError):
            raise ScoreError(
                f"{self._folder / LEDGER}: {error}; if the disk is not full,"
                f" {repair_command(self._folder)} makes it again from the Parquet files"
            ) from None
        self._leave_note()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._forget_note()
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
        except BaseException:
            if self._db.in_transaction:  # a full disk has ended it already
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # ---------------------------------------------------------------- what it knows

    def files(self) -> list[File]:
        """The files that are recorded."""
        return self._files(self._db)

    def _files(self, db: sqlite3.Connection) -> list[File]:
        found = []
        for number, path, size, mtime_ns, sources, rows, repeated, crc in db.execute(
            "SELECT * FROM files ORDER BY number"
        ):
            if crc != _crc(number, path, size, mtime_ns, sources, rows, repeated):
                raise self.damaged("a file differs from its checksum")
            names = tuple(json.loads(sources))
            found.append(File(number, path, size, mtime_ns, names, rows, repeated))
        return found

    def known(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        """Those of ``keys`` that are recorded."""
        found: dict[Key, Entry] = {}
        for some in _chunks(keys):
            marks = ", ".join("?" * len(some))
            query = f"SELECT id, text, file, crc FROM rows WHERE id IN ({marks})"
            for key, text, file, crc in self._db.execute(query, some):
                if not _is_sound(key, text, file, crc):
                    raise self.damaged("a row differs from its checksum")
                found[key] = Entry(text, file)
        return found

    @contextmanager
    def telling_repeated(self) -> Iterator[Callable[[Sequence[Key]], list[bool]]]:
        """Which of some keys came before; kept on disk, so of any number.

        with ledger.telling_repeated() as came_before:
            came_before([1, 2, 1])  # [False, False, True]
        """
        self._db.execute("CREATE TEMP TABLE seen (id PRIMARY KEY NOT NULL) WITHOUT ROWID")

        def came_before(keys: Sequence[Key]) -> list[bool]:
            before: set[Key] = set()
            for some in _chunks(keys):
                marks = ", ".join("?" * len(some))
                query = f"SELECT id FROM seen WHERE id IN ({marks})"
                before.update(key for (key,) in self._db.execute(query, some))
            said = []
            for key in keys:
                said.append(key in before)
                before.add(key)
            self._db.execute("BEGIN")
            self._db.executemany("INSERT OR IGNORE INTO seen VALUES (?)", ((one,) for one in keys))
            self._db.execute("COMMIT")
            return said

        try:
            yield came_before
        finally:
            self._db.execute("DROP TABLE seen")

    def finished(self, key: str) -> Finished | None:
        """What was in an input that was read to its end, None if it was not."""
        query = "SELECT name, counts, crc FROM inputs WHERE key = ?"
        row = self._db.execute(query, (key,)).fetchone()
        if row is None:
            return None
        if row[2] != _crc(key, row[0], row[1]):
            raise self.damaged("an input differs from its checksum")
        return Finished(row[0], dict(json.loads(row[1])))

    def carried(self) -> Carried:
        """What a ledger that is made anew may take from this one."""
        if self._carried is not None:
            return self._carried
        keys = [key for (key,) in self._db.execute("SELECT key FROM inputs ORDER BY key")]
        inputs = {key: found for key in keys if (found := self.finished(key)) is not None}
        files = frozenset((file.path, file.size, file.mtime_ns) for file in self.files())
        return Carried(files, inputs)

    # ---------------------------------------------------------------- changes

    def sync(self, folder: Path, say: Say = silent) -> None:
        """Make the ledger say what the Parquet files of ``folder`` hold.

        Files that it does not know are read. The rows of files that are gone or were replaced are
        forgotten, and so is which inputs are finished: their rows are to come back.

        Raises:
            ScoreError: a Parquet file is damaged.
        """
        gone, replaced, new = self._compare(folder)
        if gone:
            # Together, so that what a file had is not forgotten if it is damaged now.
            with self._transaction() as db:
                self._forget(db, gone)
                for path in replaced:
                    self._insert(db, Published.unread(path, folder))
            new = self._compare(folder)[2]
        if len(new) > 100:
            say(f"{folder}: reading the ids of {len(new)} files")
        for path in new:
            self.record([Published.unread(path, folder)], {})
        if self._carried is not None:
            self.record([], self._carried.inputs_if(self.files()))
            self._carried = None
        self.first_new_file = 1 + max((file.number for file in self.files()), default=0)

    def unknown(self, folder: Path) -> list[Path]:
        """The Parquet files of ``folder`` that the next ``sync`` reads: new or replaced."""
        _, replaced, new = self._compare(folder)
        return [*replaced, *new]

    def _compare(self, folder: Path) -> tuple[list[int], list[Path], list[Path]]:
        """Numbers of files that are gone or replaced; files that are replaced, or new."""
        found = {str(path.relative_to(folder)): path.stat() for path in part_files(folder)}
        gone, replaced = [], []
        for file in self.files():
            facts = found.pop(file.path, None)
            if facts is None or (facts.st_size, facts.st_mtime_ns) != (file.size, file.mtime_ns):
                gone.append(file.number)
                replaced += [] if facts is None else [folder / file.path]
        return gone, replaced, [folder / path for path in found]

    @staticmethod
    def _forget(db: sqlite3.Connection, numbers: Sequence[int]) -> None:
        db.execute("DELETE FROM inputs")
        if db.execute("SELECT sum(num_repeated) FROM files").fetchone()[0]:
            # An id may stand in another file too, where it was not recorded: start again.
            db.execute("DELETE FROM rows")
            db.execute("DELETE FROM files")
            return
        db.execute("CREATE TEMP TABLE gone (number INTEGER PRIMARY KEY)")
        db.executemany("INSERT INTO gone VALUES (?)", ((number,) for number in numbers))
        db.execute("DELETE FROM rows WHERE file IN (SELECT number FROM gone)")
        db.execute("DELETE FROM files WHERE number IN (SELECT number FROM gone)")
        db.execute("DROP TABLE gone")

    def forget_inputs(self) -> None:
        """Have all inputs read again by the runs that name them."""
        with self._transaction() as db:
            db.execute("DELETE FROM inputs")

    def record(self, published: Iterable[Published], finished: Mapping[str, Finished]) -> None:
        """Note what has been published, and inputs whose rows all are; all of it or nothing.

        Args:
            published: files in their place.
            finished: key of an input -> what was in it.
        """
        with self._transaction() as db:
            for file in published:
                self._insert(db, file)
            self._finish(db, finished)

    @staticmethod
    def _finish(db: sqlite3.Connection, finished: Mapping[str, Finished]) -> None:
        rows = ((key, one.name, json.dumps(dict(one.counts))) for key, one in finished.items())
        db.executemany(
            "INSERT OR REPLACE INTO inputs VALUES (?, ?, ?, ?)",
            ((*row, _crc(*row)) for row in rows),
        )

    @staticmethod
    def _insert(db: sqlite3.Connection, file: Published) -> int:
        """Record a file; the number that it gets."""
        number = db.execute(
            "INSERT INTO files (path, size, mtime_ns, sources, num_rows, num_repeated, crc)"
            " VALUES (?, 0, 0, '', 0, 0, 0)",
            (file.path,),
        ).lastrowid
        assert number is not None
        Ledger._fill(db, number, file)
        return number

    @staticmethod
    def _fill(db: sqlite3.Connection, number: int, file: Published) -> None:
        """Record the rows of a file, and how many they are."""
        before, num_keys = db.total_changes, 0

        def rows() -> Iterator[tuple[Key, int, int, int]]:
            nonlocal num_keys
            for key, text in file.keys:
                num_keys += 1
                yield key, text, number, row_crc(key, text, number)

        db.executemany("INSERT OR IGNORE INTO rows VALUES (?, ?, ?, ?)", rows())
        num_rows = db.total_changes - before
        names, num_repeated = tuple(sorted(file.sources)), num_keys - num_rows
        _set_file(
            db,
            File(number, file.path, file.size, file.mtime_ns, names, num_rows, num_repeated),
        )

    def rewritten(self, file: File, before: Iterable[Key], now: Published) -> None:
        """Note that the same rows have other keys now, as lines whose text went; inputs stay.

        Args:
            file: as it was recorded.
            before: the keys that it had.
            now: the file as it is.
        """
        with self._transaction() as db:
            db.executemany(
                "DELETE FROM rows WHERE id = ? AND file = ?", ((key, file.number) for key in before)
            )
            self._fill(db, file.number, now)

    def take_out(
        self, file: File, now: Path | None, *, keys: Collection[Key] = (), num_taken: int
    ) -> None:
        """Note that rows have been taken out of a file, or all of it.

        Args:
            file: as it was recorded.
            now: the file that has its other rows; None if there are none.
            keys: that are to be forgotten, as far as they are recorded under this file.
            num_taken: rows that went.
        """
        with self._transaction() as db:
            before = db.total_changes
            db.executemany(
                "DELETE FROM rows WHERE id = ? AND file = ?", ((key, file.number) for key in keys)
            )
            num_known = db.total_changes - before
            if now is None:
                db.execute("DELETE FROM files WHERE number = ?", (file.number,))
                return
            facts = now.stat()
            left = replace(
                file,
                path=str(now.relative_to(self._folder)),
                size=facts.st_size,
                mtime_ns=facts.st_mtime_ns,
                num_rows=file.num_rows - num_known,
                num_repeated=file.num_repeated - (num_taken - num_known),
            )
            _set_file(db, left)


@dataclass(frozen=True)
class Carried:
    """What a ledger that is made anew takes from the one before: the inputs that were read to their
    end, as long as the files are those it knew."""

    files: frozenset[tuple[str, int, int]]
    inputs: Mapping[str, Finished]

    @classmethod
    def of_old(cls, db: sqlite3.Connection) -> Carried | None:
        """From a ledger of format 1; None if it is not sound."""
        try:
            if db.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
                return None
            files = frozenset(db.execute("SELECT path, size, mtime_ns FROM files").fetchall())
            found = {}
            for key, text in db.execute("SELECT key, counts FROM inputs"):
                counts = json.loads(text)
                if not all(isinstance(count, int) for count in counts.values()):
                    return None
                found[str(key)] = Finished("", counts)
        except (sqlite3.Error, ValueError, AttributeError, TypeError):
            return None
        return cls(files, found)

    def inputs_if(self, files: Iterable[File]) -> Mapping[str, Finished]:
        """The inputs, if these files are the same; otherwise none."""
        now = frozenset((file.path, file.size, file.mtime_ns) for file in files)
        return self.inputs if now == self.files else {}


def _chunks(keys: Iterable[Key]) -> Iterator[list[Key]]:
    rest = iter(keys)
    while some := list(islice(rest, _ASK_KEYS)):
        yield some


def remove_ledger(path: Path) -> None:
    """Remove a ledger with all that belongs to it."""
    for name in (NOTE, *(LEDGER + ending for ending in ("-wal", "-shm", "-journal", ""))):
        path.with_name(name).unlink(missing_ok=True)


def row_crc(key: Key, text: int, file: int) -> int:
    """The checksum of a row."""
    if type(key) is int:
        return zlib.crc32(_ROW(b"i", key, text, file))
    content = key if isinstance(key, bytes) else str(key).encode()
    return zlib.crc32(content, zlib.crc32(_ROW(b"b" if key is content else b"s", 0, text, file)))


_ROW = struct.Struct("<cqqq").pack


def _is_sound(key: Any, text: Any, file: Any, crc: Any) -> bool:
    try:
        return bool(crc == row_crc(key, text, file))
    except (struct.error, TypeError, ValueError):  # of other types than were written
        return False


def _crc(*values: int | str) -> int:
    return zlib.crc32(json.dumps(values, default=repr).encode())


def _tables(db: sqlite3.Connection) -> list[str]:
    """What the tables were made with."""
    query = "SELECT sql FROM sqlite_master WHERE sql NOT NULL AND name NOT LIKE 'sqlite_%'"
    return sorted(sql for (sql,) in db.execute(query))


def _create(db: sqlite3.Connection, made: Sequence[str]) -> None:
    tables = "".join(f"{table}; " for table in made)
    db.executescript(
        f"BEGIN; {tables} PRAGMA application_id = {APPLICATION_ID};"
        f" PRAGMA user_version = {FORMAT_VERSION}; COMMIT"
    )


def _pragma(db: sqlite3.Connection, name: str) -> int:
    return int(db.execute(f"PRAGMA {name}").fetchone()[0])


def _place(key: Any) -> tuple[int, Any]:
    """What SQLite orders keys by: numbers, then texts by their bytes, then bytes."""
    if type(key) is int:
        return 0, key
    return (1, key.encode()) if isinstance(key, str) else (2, key)


def _set_file(db: sqlite3.Connection, file: File) -> None:
    sources = json.dumps(file.sources)
    values = (file.size, file.mtime_ns, sources, file.num_rows, file.num_repeated)
    db.execute(
        "UPDATE files SET path = ?, size = ?, mtime_ns = ?, sources = ?, num_rows = ?,"
        " num_repeated = ?, crc = ? WHERE number = ?",
        (file.path, *values, _crc(file.number, file.path, *values), file.number),
    )


def _bytes_of(path: Path) -> dict[str, int]:
    """Size and crc32c of a file."""
    size = crc = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            size, crc = size + len(chunk), google_crc32c.extend(crc, chunk)
    return {"size": size, "crc32c": crc}
