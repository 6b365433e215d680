"""A folder of scores in a bucket, open for changes: parts are staged, committed, and settled.

    with open_bucket("s3://scores/sentiment") as scores:
        while True:
            scores.refresh()                               # as the commits say now
            staged = [scores.stage("date=2026-11-23", table)]
            if scores.append("score", staged):             # False: another committed first
                break
        scores.settle(staged)

    _staged/part-….parquet      put; nobody takes it for scores
    _commits/00000013.arrow     created: the part counts, or, if another was first, never will
    date=…/part-….parquet       copied from where it was staged, by whoever committed it, or by the
                                next one who opens the folder

Nobody waits for anybody. What a commit is based on is known before its parts are staged
(:meth:`append` insists), and who loses stages anew under new names. So what was staged before some
commit, and is named by none up to it, never will be: who wants it away lists it, then commits, then
removes it (:meth:`staged_now`, :meth:`remove_unnamed`).
A part is deleted in its place only if a commit removes it, and who has copied one looks afterwards
whether a commit has removed it meanwhile. Who dies before that leaves it to the next one to open
the folder, who deletes whatever was removed.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.progress import Say, silent
from pipeline.scoring.bucketledger import Replayed, replayed
from pipeline.scoring.commitlog import (
    DELETED,
    LIFTED,
    SALT_BYTES,
    SCHEMA,
    STAGED,
    Added,
    Commit,
    CommitLog,
    Digests,
    lost_part,
    part_content,
    rows_of,
    staged_path,
)
from pipeline.scoring.deleted import Deleted
from pipeline.scoring.keeping import keys_in
from pipeline.scoring.parts import (
    QUARANTINE,
    DamagedFile,
    part_name,
    repair_command,
)
from pipeline.scoring.summary import Finished
from store.disk import Meta, ObjectLocation, encode_parquet, locate, new_writer, read_parquet
from store.errors import StoreError
from store.tables import table_digest

MANY_COMMITS = 100
"""To catch up with, from which on it is said."""
MAX_PAUSE_S = 2.0
"""Longest of a writer that has lost several races for a commit."""
_AT_A_TIME = 8
"""Parts that are copied at a time."""
NO_INPUTS: Mapping[str, Finished] = {}


@dataclass(frozen=True)
class Staged:
    """A part that is ready to be committed.

    Attributes:
        added: what a commit says of it.
        base: number of the last commit that was known when it was staged.
        digests: of the key and the text of every row.
    """

    added: Added
    base: int
    digests: Sequence[tuple[bytes, int]]


class BucketScores:
    """A folder of scores in a bucket; made by :func:`open_bucket`.

    Args:
        location: of the folder.
        ledger: what is known of its commits; brought up to date by :meth:`refresh`.
        bookkeeping: a folder of this machine for what may be lost.
        dry_run: nothing is written; what is committed only the ledger knows.
        say: told of progress.
    """

    def __init__(
        self,
        location: ObjectLocation,
        ledger: Replayed,
        bookkeeping: Path,
        *,
        dry_run: bool = False,
        say: Say = silent,
    ) -> None:
        self.location = location
        self.address = location.address
        self.log = CommitLog(location)
        self.ledger = ledger
        self.bookkeeping = bookkeeping
        self.dry_run = dry_run
        self.writer = new_writer()
        self.own_files: set[int] = set()
        """Numbers in the ledger of the parts that were committed here."""
        self.inputs_forgotten = False
        """Since it was opened another's commit has had inputs forgotten: those that are being read
        have left out rows that are to be read again."""
        self._say = say
        self._num_staged = 0
        self._is_made_up = False
        self._salt = os.urandom(SALT_BYTES)

    # ------------------------------------------------------------------ what is known

    @property
    def number(self) -> int:
        """Of the last commit that is known."""
        return self.ledger.number

    @property
    def digests(self) -> Digests:
        """The folder's digests of ids, as :attr:`ledger` knows rows by them."""
        return Digests(self.ledger.salt or self._salt)

    @cached_property
    def deleted(self) -> Deleted:
        """The ids that must not come back."""
        found = self.ledger.deleted()
        content = np.frombuffer(b"".join(found), np.uint8).reshape(-1, 16)
        return Deleted.of(self.digests.salt, content)

    def parts(self) -> list[str]:
        """Paths of the parts that count: rows by date, then quarantined lines."""
        found = [file.path for file in self.ledger.files()]
        return sorted(found, key=lambda path: (path.startswith(QUARANTINE), path))

    def read(self, path: str) -> bytes:
        """The bytes of a part that counts, wherever it lies by now.

        Raises:
            FileNotFoundError: it has been removed meanwhile (:meth:`refresh` tells), or is lost.
        """
        return part_content(self.location, path)

    def read_table(self, path: str) -> pa.Table:
        """The rows of a part that counts, every column compared with its checksum.

        Raises:
            FileNotFoundError: see :meth:`read`.
            DamagedFile: it holds something else than was written.
        """
        where, remedy = f"{self.address}/{path}", f"{repair_command(self.address)} sets it aside"
        content = self.read(path)
        try:
            return read_parquet(pa.BufferReader(content), where=where, remedy=remedy)
        except StoreError as error:
            raise DamagedFile(str(error)) from None

    # ------------------------------------------------------------------ catching up

    def refresh(self) -> None:
        """Learn of the commits that others have made since."""
        if self._is_made_up:
            return
        begun = self.ledger.number
        for number, commit in self.log.after(begun):
            if number == begun + MANY_COMMITS:
                self._say(f"{self.address}: reading many commits that are new here")
            self._replay(number, commit)

    def _replay(self, number: int, commit: Commit) -> list[int]:
        files = self.ledger.replay(number, commit)
        if pc.any(pc.less(commit.rows["part"], 0)).as_py():
            self.__dict__.pop("deleted", None)
        self.inputs_forgotten |= commit.forgets_inputs
        return files

    def catch_up(self) -> None:
        """Learn of all commits when the folder is opened; what is known may be of another."""
        number = self.ledger.number
        if number:
            found = dict(self.log.newer(number - 1))
            if (
                number not in found
                or self.log.read_head(number, found[number].size).writer != self.ledger.writer
            ):
                self._say(f"{self.address}: is another than before; its commits are read again")
                self.ledger.clear()
                self.__dict__.pop("deleted", None)
        self.refresh()

    # ------------------------------------------------------------------ changes

    def begin(self) -> None:
        """Make the first commit, unless somebody has."""
        while not self.ledger.number and not self.append("create"):
            self.refresh()

    def stage(
        self,
        partition: str,
        table: pa.Table,
        *,
        replaces: str | None = None,
        digests: Sequence[tuple[bytes, int]] | None = None,
    ) -> Staged:
        """Put a part where it can be committed from; its name is used by nobody else, ever.

        Args:
            partition: ``date=2026-11-23`` or ``_quarantine``.
            table: its rows, with the metadata that it is to have.
            replaces: the part that is removed for it, if the rows are not new.
            digests: of its rows, if they are known.
        """
        path = f"{partition}/{self._new_name(table_digest(table))}"
        content = encode_parquet(table)
        if not self.dry_run:
            self.location.put(staged_path(path), content)
        if digests is None:
            digests = self.digests.of_rows(keys_in(partition, table))
        sources = sorted({one for one in table["source_file"].unique().to_pylist() if one})
        added = Added(path, len(content), len(table), tuple(sources), replaces)
        return Staged(added, self.ledger.number, digests)

    def restage(self, lost: Sequence[Staged]) -> list[Staged | None]:
        """Have parts that lost a race with their commit ready for the next one, under new names.

        Args:
            lost: kept by :meth:`append`.

        Returns:
            For each what is to be committed; None if it is to be staged from its rows.
        """
        names = [self._new_name(one.added.path) for one in lost]

        def copied(one: Staged, name: str) -> Staged | None:
            path = f"{one.added.path.rpartition('/')[0]}/{name}"
            if not self.dry_run:
                try:
                    self.location.copy(one.added.staged, staged_path(path))
                except FileNotFoundError:  # another has taken it for a dead writer's
                    return None
            return replace(one, added=replace(one.added, path=path), base=self.ledger.number)

        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            return list(pool.map(copied, lost, names))

    def discard(self, staged: Iterable[Staged]) -> None:
        """Remove what was staged, and never will be committed."""
        if not self.dry_run:
            self.location.delete([one.added.staged for one in staged])

    def _new_name(self, of: str) -> str:
        self._num_staged += 1
        unique = f"{of} {self.writer} {self._num_staged}"
        return part_name(hashlib.sha256(unique.encode()).hexdigest())

    def staged_now(self) -> list[Meta]:
        """The parts that lie staged, and that no commit names as far as is known."""
        named = set(map(staged_path, self.parts()))
        found = (meta for meta in self.location.list(STAGED) if meta.path.endswith(".parquet"))
        return [meta for meta in found if meta.path not in named]

    def remove_unnamed(self, staged: Iterable[str]) -> list[str]:
        """Remove what no commit names, though one was made after it was listed, so that none will.

        Args:
            staged: paths of :meth:`staged_now`.

        Returns:
            Those that were.
        """
        self.refresh()
        named = set(map(staged_path, self.parts()))
        gone = [path for path in staged if path not in named]
        self.location.delete(gone)
        return gone

    def append(
        self,
        kind: str,
        staged: Sequence[Staged] = (),
        *,
        removes: Sequence[str] = (),
        inputs: Mapping[str, Finished] = NO_INPUTS,
        deleted: Sequence[bytes] = (),
        lifted: Sequence[bytes] = (),
        forgets_inputs: bool = False,
        keeps: bool = False,
    ) -> bool:
        """Commit, as the next after the last commit that is known.

        Args:
            kind: see :class:`Commit`.
            staged: parts that count from now on, staged since the last :meth:`refresh`.
            removes: parts that do not any more; they must count now.
            inputs: whose rows are all there with this commit.
            deleted, lifted: digests of ids.
            forgets_inputs: all inputs that were finished before are to be read again.
            keeps: what was staged stays if another was first, for :meth:`restage`.

        Returns:
            False if another has committed meanwhile: then nothing has happened, what was staged is
            gone, and all is to be done again after :meth:`refresh`.
        """
        number = self.ledger.number
        assert all(one.base == number for one in staged), "staged before the last refresh"
        tables = [rows_of(at, *_columns(one.digests)) for at, one in enumerate(staged)]
        tables += [rows_of(DELETED, deleted), rows_of(LIFTED, lifted)]
        commit = Commit(
            kind,
            self.writer,
            self.digests.salt,
            adds=tuple(one.added for one in staged),
            removes=tuple(removes),
            inputs=inputs,
            forgets_inputs=forgets_inputs,
            rows=pa.concat_tables([SCHEMA.empty_table(), *tables]),
        )
        self._is_made_up = self.dry_run
        if not self.dry_run and not self.log.create(number + 1, commit):
            if not keeps:
                self.discard(staged)
            return False
        forgotten = self.inputs_forgotten
        self.own_files.update(self._replay(number + 1, commit))
        self.inputs_forgotten = forgotten
        return True

    def settle(self, staged: Sequence[Staged] | None = None) -> None:
        """Have committed parts in their place, and none there that a commit has removed.

        Args:
            staged: parts that were committed just now; None: whatever anybody has left.
        """
        if self.dry_run:
            return
        left = set[str]()
        if staged is None:
            left = {meta.path for meta in self.location.list(STAGED)}
            paths = [path for path in self.parts() if staged_path(path) in left] if left else []
        else:
            paths = [one.added.path for one in staged]
        for path in paths:
            try:
                self.location.copy(staged_path(path), path)
            except FileNotFoundError:  # somebody else has settled it, or taken it out
                self._check_settled(path)
        # Only then: who copies late must not bring back what was deleted meanwhile.
        self.refresh()
        gone = self._removed_there(left) if staged is None else self.ledger.removed_of(paths)
        self.location.delete([*gone, *map(staged_path, paths)])

    def _removed_there(self, staged: set[str]) -> list[str]:
        """Of the parts that were ever removed, the objects that are there all the same."""
        removed = set(self.ledger.removed())
        if not removed:
            return []
        rows = self.location.list(after="date")  # the folders of dates are the last
        shown = [meta.path for found in (rows, self.location.list(QUARANTINE)) for meta in found]
        return [
            *(path for path in shown if path in removed),
            *(path for path in map(staged_path, removed) if path in staged),
        ]

    def _check_settled(self, path: str) -> None:
        try:
            self.location.head(path)
        except FileNotFoundError:
            self.refresh()
            if not self.ledger.removed_of([path]):
                raise lost_part(self.address, path) from None


def pause_before(attempt: int) -> None:
    """Wait a little before a commit is tried again; ``attempt`` counts from 0."""
    if attempt > 1:
        time.sleep(random.uniform(0, min(MAX_PAUSE_S, 0.05 * 2 ** min(attempt, 9))))


def _columns(digests: Sequence[tuple[bytes, int]]) -> tuple[list[bytes], list[int]]:
    return [key for key, _ in digests], [text for _, text in digests]


@contextmanager
def open_bucket(
    address: str, *, dry_run: bool = False, say: Say = silent
) -> Iterator[BucketScores]:
    """Open a folder of scores in a bucket as its commits say it is now; it need not exist.

    Others may have it open at the same time. What those that died have left half done is done.

    Args:
        address: such as ``s3://bucket/scores``.
        dry_run: write nothing there.
        say: told of progress.

    Raises:
        ScoreError: a commit or part is damaged or missing.
        StoreError: the bucket cannot be reached, or lets nobody in.
    """
    location = locate(address)
    assert isinstance(location, ObjectLocation)
    with replayed(location, dry_run=dry_run) as (ledger, bookkeeping):
        scores = BucketScores(location, ledger, bookkeeping, dry_run=dry_run, say=say)
        scores.catch_up()
        if scores.ledger.number:
            scores.settle()
        scores.inputs_forgotten = False  # nothing has been read yet
        yield scores
