"""The ledger of a folder of scores in a bucket: what its commits say, kept on this machine.

    with replayed(location) as (ledger, folder):    # a cache of one's own for as long as it lasts
        for number, commit in log.after(ledger.number):
            ledger.replay(number, commit)
        ledger.known([digest])                      # by the digests of ids

It lies in the user's cache folder and may be lost or damaged at any time: then it is made again
from the commits, as on a machine that has never seen the folder. Processes of one machine that have
the same folder open at a time have a cache each.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from pipeline.backbone import cache_folder
from pipeline.errors import ScoreError
from pipeline.scoring.commitlog import DELETED, LIFTED, Commit
from pipeline.scoring.ledger import LEDGER, NOTE, Ledger, Published, remove_ledger, row_crc
from store.disk import ObjectLocation

_KIND = "scores"


class Replayed(Ledger):
    """What the commits say up to a number; rows are known by the digests of their keys."""

    tables = (
        *Ledger.tables,
        "CREATE TABLE log (one INTEGER PRIMARY KEY, number INTEGER NOT NULL, writer TEXT NOT NULL,"
        " salt BLOB NOT NULL)",
        "CREATE TABLE removed (path TEXT PRIMARY KEY NOT NULL, successor TEXT) WITHOUT ROWID",
        "CREATE TABLE added (path TEXT PRIMARY KEY NOT NULL, number INTEGER NOT NULL)",
        "CREATE TABLE unscrubbed (number INTEGER PRIMARY KEY)",
        "CREATE TABLE deleted (id BLOB PRIMARY KEY NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID",
    )

    def damaged(self, what: str) -> ScoreError:
        """The error for a cache that is not to be trusted; the next opening makes it anew."""
        self._is_sound = False
        return ScoreError(
            f"{self._path}: damaged ({what}); it is a cache of the commits: run again, which makes"
            " it anew"
        )

    def _check_all(self, db: sqlite3.Connection) -> None:
        super()._check_all(db)
        for key, crc in db.execute("SELECT * FROM deleted"):
            if crc != row_crc(key, 0, DELETED):
                raise self.damaged("a deleted id differs from its checksum")

    @property
    def number(self) -> int:
        """Of the last commit that it knows; 0 if none."""
        return self._last()[0]

    @property
    def writer(self) -> str:
        """Whose the last commit is: in a folder that was made again it is another's."""
        return self._last()[1]

    @property
    def salt(self) -> bytes | None:
        """Key of the folder's digests; None before the first commit."""
        return self._last()[2] or None

    def _last(self) -> tuple[int, str, bytes]:
        row = self._db.execute("SELECT number, writer, salt FROM log").fetchone()
        return (0, "", b"") if row is None else (row[0], row[1], bytes(row[2]))

    def removed(self) -> dict[str, str | None]:
        """Path of every part that was ever removed -> the part that has its rows now."""
        return dict(self._db.execute("SELECT path, successor FROM removed"))

    def removed_of(self, paths: Iterable[str]) -> list[str]:
        """Those of some parts that were removed."""
        query = "SELECT 1 FROM removed WHERE path = ?"
        return [path for path in paths if self._db.execute(query, (path,)).fetchone()]

    def unscrubbed(self) -> list[int]:
        """Numbers of commits that added parts which were removed since: they may have their rows
        as yet."""
        return [number for (number,) in self._db.execute("SELECT number FROM unscrubbed")]

    def note_scrubbed(self, number: int) -> None:
        """Note that a commit has no row of a part that is removed."""
        with self._transaction() as db:
            db.execute("DELETE FROM unscrubbed WHERE number = ?", (number,))

    def deleted(self) -> list[bytes]:
        """Digests of the ids that must not come back, sorted."""
        found = []
        for key, crc in self._db.execute("SELECT id, crc FROM deleted ORDER BY id"):
            if crc != row_crc(key, 0, DELETED):
                raise self.damaged("a deleted id differs from its checksum")
            found.append(key)
        return found

    def clear(self) -> None:
        """Know nothing, as at first."""
        with self._transaction() as db:
            for table in self.tables:
                db.execute(f"DELETE FROM {table.split()[2]}")

    def replay(self, number: int, commit: Commit) -> list[int]:
        """Learn of the next commit; all of it or nothing.

        Returns:
            The numbers that the parts that it adds have here.
        """
        assert number == self.number + 1, "commits are replayed in their order"
        parts = commit.rows["part"].to_numpy()
        keys, texts = commit.rows["key"], commit.rows["text"]
        numbers = []
        with self._transaction() as db:
            if commit.removes:
                self._remove(db, commit)
            for at, one in enumerate(commit.adds):
                own = np.flatnonzero(parts == at)
                pairs = zip(keys.take(own).to_pylist(), texts.take(own).to_pylist(), strict=True)
                # As they lie in the tree: neighbours are on one page.
                file = Published(one.path, one.size, 0, sorted(pairs), one.sources)
                numbers.append(self._insert(db, file))
                db.execute("INSERT OR REPLACE INTO added VALUES (?, ?)", (one.path, number))
                if one.replaces is not None:
                    values = (one.replaces, one.path)
                    db.execute("INSERT OR REPLACE INTO removed VALUES (?, ?)", values)
            gone = keys.filter(pc.equal(commit.rows["part"], DELETED)).to_pylist()
            db.executemany(
                "INSERT OR IGNORE INTO deleted VALUES (?, ?)",
                ((key, row_crc(key, 0, DELETED)) for key in gone),
            )
            back = keys.filter(pc.equal(commit.rows["part"], LIFTED)).to_pylist()
            db.executemany("DELETE FROM deleted WHERE id = ?", ((key,) for key in back))
            if commit.forgets_inputs:
                db.execute("DELETE FROM inputs")
            self._finish(db, commit.inputs)
            last = (number, commit.writer, commit.salt)
            db.execute("INSERT OR REPLACE INTO log VALUES (1, ?, ?, ?)", last)
        return numbers

    def _remove(self, db: sqlite3.Connection, commit: Commit) -> None:
        paths = [(path,) for path in commit.removes]
        db.execute("CREATE TEMP TABLE gone (path TEXT PRIMARY KEY)")
        db.executemany("INSERT OR IGNORE INTO gone VALUES (?)", paths)
        db.execute(
            "DELETE FROM rows WHERE file IN"
            " (SELECT number FROM files WHERE path IN (SELECT path FROM gone))"
        )
        db.execute("DELETE FROM files WHERE path IN (SELECT path FROM gone)")
        db.execute("INSERT OR IGNORE INTO removed SELECT path, NULL FROM gone")
        theirs = "FROM added WHERE path IN (SELECT path FROM gone)"
        db.execute(f"INSERT OR IGNORE INTO unscrubbed SELECT number {theirs}")
        db.execute(f"DELETE {theirs}")
        db.execute("DROP TABLE gone")


@contextmanager
def replayed(location: ObjectLocation, *, dry_run: bool = False) -> Iterator[tuple[Replayed, Path]]:
    """The ledger of a folder, as this machine has it, and the folder of this machine that it is in.

    Args:
        location: of the scores.
        dry_run: what it learns is forgotten again.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(_own_cache(location.address))
        place = folder
        if dry_run:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="salient-")))
            for file in (*folder.glob(f"{LEDGER}*"), *folder.glob(NOTE)):
                shutil.copyfile(file, place / file.name)
        try:
            ledger = Replayed(place / LEDGER)
        except ScoreError:  # of another version, or damaged
            remove_ledger(place / LEDGER)
            ledger = Replayed(place / LEDGER)
        stack.enter_context(ledger)
        yield ledger, folder


@contextmanager
def _own_cache(address: str) -> Iterator[Path]:
    """A folder for what is known of an address, that no other process has at the moment."""
    root = _caches(address)
    for number in itertools.count():
        folder = root / f"{number}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:  # no home, or one that cannot be written: then for this time only
            break
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(held)
            continue
        except OSError:  # a file system without locks
            os.close(held)
            break
        try:
            yield folder
        finally:
            os.close(held)
        return
    with tempfile.TemporaryDirectory(prefix="salient-") as folder_of_now:
        yield Path(folder_of_now)


def _caches(address: str) -> Path:
    return cache_folder() / _KIND / hashlib.sha256(address.encode()).hexdigest()[:32]
