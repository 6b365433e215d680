"""Which rows a folder of scores holds: an index beside its Parquet files, which are the truth.

The ledger answers "is this id there already?" for hundreds of millions of ids in little memory. It
is a SQLite file that can be lost at any time: ``sync`` compares it with the Parquet files and reads
those it does not know. So a file is published first and recorded afterwards, and a kill between the
two costs only that reading. Ids are kept exactly, not as hashes.

    with Ledger(folder / LEDGER) as ledger:
        ledger.sync(folder)
        ledger.known([id_key("1344908468193435649")])   # key -> Entry
        ledger.record([Published.of(path, folder, keys)], {input: counts})

It also remembers which input files were read to their end, so that they need not be read again.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ScoreError
from pipeline.progress import Say, silent

LEDGER = "_ledger.sqlite"
QUARANTINE = "_quarantine"
FORMAT_VERSION = 1
Key = int | str | bytes
"""A numeric id, any other id, or the digest of a quarantined line."""
_CACHE_KIB = 65_536
_READ_ROWS = 65_536
_MAX_ID = 1 << 63
_TABLES = """
CREATE TABLE files (
    number INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT UNIQUE NOT NULL,
    size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, num_repeated INTEGER NOT NULL);
CREATE TABLE rows (
    id PRIMARY KEY NOT NULL, text INTEGER NOT NULL, file INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE inputs (key TEXT PRIMARY KEY NOT NULL, counts TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Published:
    """A Parquet file that is in its place, and what it holds.

    Attributes:
        path: relative to the folder of scores.
        size, mtime_ns: as the file system has them.
        keys: key and text digest of every row.
    """

    path: str
    size: int
    mtime_ns: int
    keys: Iterable[tuple[Key, int]]

    @classmethod
    def of(cls, path: Path, folder: Path, keys: Iterable[tuple[Key, int]]) -> Published:
        """A file as it is on the disk."""
        facts = path.stat()
        return cls(str(path.relative_to(folder)), facts.st_size, facts.st_mtime_ns, keys)


@dataclass(frozen=True)
class Entry:
    """What is known of a row: a digest of its text (``text_digest``), the number of its file."""

    text: int
    file: int


def id_key(id: str) -> int | str:
    """The key of an id: the number where that is the id exactly, which is the shorter."""
    if id.isascii() and id.isdigit() and (id[0] != "0" or id == "0"):
        number = int(id) if len(id) < 20 else _MAX_ID
        if number < _MAX_ID:
            return number
    return id


def text_digest(text_hash: str) -> int:
    """64 bits of a text's hash, to tell another text under the same id."""
    return int.from_bytes(bytes.fromhex(text_hash[:16]), "big", signed=True)


def row_keys(table: pa.Table) -> list[tuple[Key, int]]:
    """Key and text digest of every row of scores (``id``, ``text_hash``)."""
    ids, hashes = table["id"].to_pylist(), table["text_hash"].to_pylist()
    return [(id_key(one), text_digest(text)) for one, text in zip(ids, hashes, strict=True)]


def line_keys(table: pa.Table) -> list[tuple[Key, int]]:
    """Key of every quarantined line (all of ``LINE_COLUMNS``): the same line is kept once."""
    columns = (table[name].to_pylist() for name in LINE_COLUMNS)
    return [
        (hashlib.blake2b(json.dumps(line).encode(), digest_size=16).digest(), 0)
        for line in zip(*columns, strict=True)
    ]


ROW_COLUMNS = ("id", "text_hash")
LINE_COLUMNS = ("source_file", "line", "reason", "excerpt")


class Ledger:
    """The index of one folder of scores; one process at a time.

    Args:
        path: the SQLite file; made if missing, and made anew if it is damaged or of another format.

    Raises:
        ScoreError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._db = self._open()
        except sqlite3.DatabaseError:
            self._remove()
            try:
                self._db = self._open()
            except sqlite3.DatabaseError as error:
                raise ScoreError(f"{path}: cannot be opened ({error}); delete it") from None
        self.first_new_file = 0
        """Files of a lower number were there at the last ``sync``."""

    def _open(self) -> sqlite3.Connection:
        # Several threads of this process may use it, one at a time.
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")  # before WAL: no shared memory needed
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            if db.execute("PRAGMA user_version").fetchone()[0] != FORMAT_VERSION:
                if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    raise sqlite3.DatabaseError("another format")
                db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {FORMAT_VERSION}; COMMIT")
            db.execute("SELECT count(*) FROM files").fetchone()
        except sqlite3.DatabaseError:
            db.close()
            raise
        return db

    def _remove(self) -> None:
        for ending in ("", "-wal", "-shm", "-journal"):
            self._path.with_name(self._path.name + ending).unlink(missing_ok=True)

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
                f"{self._path}: {error}; if the disk is not full, delete it: it is made again from"
                " the Parquet files"
            ) from None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def sync(self, folder: Path, say: Say = silent) -> None:
        """Make the ledger say what the Parquet files of ``folder`` hold.

        Files that it does not know are read. The rows of files that are gone or were replaced are
        forgotten, and so is which inputs are finished: their rows are to come back.

        Raises:
            ScoreError: a Parquet file is damaged.
        """
        found = {
            str(path.relative_to(folder)): path.stat()
            for pattern in ("date=*/*.parquet", f"{QUARANTINE}/*.parquet")
            for path in sorted(folder.glob(pattern))
        }
        known = {
            path: (number, size, mtime_ns)
            for number, path, size, mtime_ns in self._db.execute(
                "SELECT number, path, size, mtime_ns FROM files"
            )
        }
        gone = [
            path
            for path, (_, size, mtime_ns) in known.items()
            if path not in found
            or (found[path].st_size, found[path].st_mtime_ns) != (size, mtime_ns)
        ]
        if gone:
            self._forget([known[path][0] for path in gone])
            left = {path for (path,) in self._db.execute("SELECT path FROM files")}
            known = {path: facts for path, facts in known.items() if path in left}
        new = [folder / path for path in found if path not in known]
        if len(new) > 100:
            say(f"{folder}: reading the ids of {len(new)} files")
        for path in new:
            self.record([Published.of(path, folder, _keys_of_file(path))], {})
        self.first_new_file = 1 + (
            self._db.execute("SELECT max(number) FROM files").fetchone()[0] or 0
        )

    def _forget(self, numbers: Sequence[int]) -> None:
        with self._transaction() as db:
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

    def known(self, keys: Iterable[Key]) -> dict[Key, Entry]:
        """Those of ``keys`` that are recorded."""
        found: dict[Key, Entry] = {}
        for key in keys:
            row = self._db.execute("SELECT text, file FROM rows WHERE id = ?", (key,)).fetchone()
            if row is not None:
                found[key] = Entry(*row)
        return found

    def record(
        self, published: Iterable[Published], finished: Mapping[str, Mapping[str, int]]
    ) -> None:
        """Note what has been published, and inputs whose rows all are; all of it or nothing.

        Args:
            published: files in their place.
            finished: key of an input -> counts of what was in it.
        """
        with self._transaction() as db:
            for file in published:
                self._insert(db, file)
            db.executemany(
                "INSERT OR REPLACE INTO inputs VALUES (?, ?)",
                ((key, json.dumps(dict(counts))) for key, counts in finished.items()),
            )

    @staticmethod
    def _insert(db: sqlite3.Connection, file: Published) -> None:
        number = db.execute(
            "INSERT INTO files (path, size, mtime_ns, num_repeated) VALUES (?, ?, ?, 0)",
            (file.path, file.size, file.mtime_ns),
        ).lastrowid
        before, num_keys = db.total_changes, 0

        def rows() -> Iterator[tuple[Key, int, int | None]]:
            nonlocal num_keys
            for key, text in file.keys:
                num_keys += 1
                yield key, text, number

        db.executemany("INSERT OR IGNORE INTO rows VALUES (?, ?, ?)", rows())
        num_repeated = num_keys - (db.total_changes - before)
        db.execute("UPDATE files SET num_repeated = ? WHERE number = ?", (num_repeated, number))

    def finished(self, key: str) -> dict[str, int] | None:
        """The counts of an input that was read to its end, None if it was not."""
        row = self._db.execute("SELECT counts FROM inputs WHERE key = ?", (key,)).fetchone()
        return None if row is None else dict(json.loads(row[0]))


def _keys_of_file(path: Path) -> Iterator[tuple[Key, int]]:
    """Keys of the rows of a published file, in bounded memory."""
    is_quarantine = path.parent.name == QUARANTINE
    columns = list(LINE_COLUMNS if is_quarantine else ROW_COLUMNS)
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_READ_ROWS, columns=columns):
                table = pa.Table.from_batches([batch])
                yield from line_keys(table) if is_quarantine else row_keys(table)
    except (pa.ArrowException, OSError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise ScoreError(
            f"{path}: damaged, or no scores ({error}); move it away and score again: its rows come"
            " back"
        ) from None
