"""Changes of a store on a bucket: new objects under new names, then one record that names them.

    written = NewObjects(location, head)       names that nobody else writes
    publish_next(location, following)          the commit; None: another was first, so do it again

Nothing that a snapshot names is written again, and there are no locks: of two writers upon the same
snapshot one loses, reads what the other did, and does its own upon that, with new objects. So a
writer may sleep or die at any step. What it left has in its name the snapshot that it was made
upon; once another follows on that, nothing can name it any more, and whoever deletes or collects
garbage removes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store import disk
from store.commits import turns
from store.commits.bucketplans import BucketPlan
from store.commits.deletion import add_tombstones, doomed_records, known_authors, plan_without
from store.commits.planning import AppendPlan, new_plan_id
from store.commits.protocol import Change, IndexOf, MakeDraft
from store.commits.publishing import appended, backfilled, first_snapshot, successor
from store.disk import ObjectLocation, new_writer
from store.errors import StoreBusy, StoreError, StoreInputError
from store.layout import Block, Manifest, StoreSchema
from store.records import (
    INDEX,
    PLANS,
    PRIVATE,
    PlanRecord,
    SampleIndex,
    Snapshot,
    load_snapshot,
    publish_next,
)

MANIFEST_BYTES = 2**21
"""Of a large model; so many are read at a time as memory bears."""
_UPON = re.compile(r"([0-9]{6,12})-[0-9a-f]{16}\.(?:parquet|arrow)", re.ASCII)


class NewObjects:
    """Objects that a commit upon one snapshot may name, and no other writer writes."""

    def __init__(self, location: ObjectLocation, base: Snapshot) -> None:
        self.location, self.base = location, base
        self._ending = f"{base.id}-{new_writer()}"
        self._paths: list[str] = []

    def put(self, stem: str, suffix: str, content: object) -> str:
        """Write an object; returns its path."""
        path = f"{stem}-{self._ending}.{suffix}"
        self._paths.append(path)
        self.location.put(path, [content])
        return path

    def table(self, stem: str, table: pa.Table, *, key: str | None = None) -> str:
        """See `WriteTable`."""
        return self.put(stem, "parquet", disk.encode_parquet(table))

    def discard(self, head: Snapshot) -> None:
        """Remove what was written in vain, but for what the last commit names all the same."""
        named = {*head.files(), *plan_tables(head)}
        self.location.delete([path for path in self._paths if path not in named])


def begin_compaction(location: ObjectLocation, head: Snapshot) -> Snapshot:
    """Begin a compaction, or go on with one whose process has died.

    It excludes appends and other compactions until a commit without its plan; labels and deletions
    may come meanwhile, upon which it then has to build.

    Args:
        location: of the store.
        head: the last commit as far as is known.

    Returns:
        The last commit, whose plan is the compaction; this process has its turn.

    Raises:
        StoreInputError: an append is not finished.
    """
    while True:
        before = None if head.plan is None else head.plan.id
        held = before is not None and turns.holds_turn(location, before)
        head = turns.await_turn(location, head)
        if head.plan is not None and head.plan.kind != "compact":
            commits = BucketCommits(location, head, lambda now: partial(SampleIndex, location, now))
            head = commits.commit()
        if head.plan is not None and head.plan.kind != "compact":
            if not held:
                turns.end_turn(location, head.plan.id, say=True)
            raise StoreInputError(
                f"{location.address}: an append is not finished; run it again to finish it, then"
                " compact"
            )
        if head.plan is not None:
            if turns.holds_turn(location, head.plan.id):
                return head
            continue
        record = PlanRecord(new_plan_id(), "compact", "", 0, len(head.index), 0, {})
        done = begin(location, replace(successor(head, "plan"), plan=record))
        if done is not None:
            return done


def begin(location: ObjectLocation, following: Snapshot) -> Snapshot | None:
    """Publish a snapshot with a new plan, of which this process then has the turn.

    Returns:
        It; None if another commit was first.
    """
    assert following.plan is not None
    plan_id = following.plan.id
    try:
        turns.take_turn(location, plan_id, None)
        done = publish_next(location, following)
    except BaseException:  # nobody knows whether it is under way; if it is, it is free
        turns.end_turn(location, plan_id, say=True)
        raise
    if done is None:
        turns.end_turn(location, plan_id)
        location.delete([turns.lease_path(plan_id)])
    return done


def made_upon(path: str) -> int | None:
    """Number of the snapshot upon which a table was made, as its name says; None for others."""
    found = _UPON.fullmatch("-".join(path.rsplit("-", 2)[1:]))
    return int(found[1]) if found else None


def plan_tables(head: Snapshot) -> set[str]:
    """Paths of the tables of the plan under way."""
    return set() if head.plan is None else set(head.plan.tables.values())


def amend(
    location: ObjectLocation,
    head: Snapshot | None,
    change: Callable[[Snapshot, NewObjects], Snapshot],
) -> Snapshot:
    """Publish a change of the last commit, upon whichever that comes to be.

    Args:
        location: of the store.
        head: the last commit as far as is known.
        change: gives the snapshot that follows, or the one that it got where there is nothing to
            do. It may be called again, upon a later one; what it writes is then removed.

    Returns:
        The last commit.
    """
    head = load_snapshot(location, known=head)
    while True:
        written = NewObjects(location, head)
        try:
            following = change(head, written)
        except (StoreBusy, StoreInputError):
            raise
        except (StoreError, OSError):
            # Maybe because others have gone on, and removed what this one was about to read.
            now = load_snapshot(location, known=head)
            written.discard(now)
            if now.id == head.id:
                raise
            head = now
            continue
        if following is head:
            return head
        done = publish_next(location, following)
        if done is not None:
            return done
        now = load_snapshot(location, known=head)
        written.discard(now)
        if now.id == head.id:
            raise StoreError(
                f"{location.address}: snapshot {following.id} is there and is not listed; writing"
                " needs a server that lists what it has (S3, GCS, Azure, MinIO ...)"
            )
        head = now


def refuse_private(location: ObjectLocation) -> None:
    """Refuse to make anything where a store keeps what is its own.

    Raises:
        StoreInputError: the place is within a store's private folder.
    """
    if PRIVATE in location.key("").split("/"):
        raise StoreInputError(
            f"{location.address}: lies within the folder {PRIVATE} of a store, whose gc would"
            " remove it; choose another place"
        )


def create_on_bucket(location: ObjectLocation, schema: StoreSchema) -> bool:
    """Make an empty store where nothing is; False: something is there.

    Raises:
        StoreInputError: the server does not hold to conditions, or the place is within a store.
    """
    refuse_private(location)
    if any(not meta.path.startswith(".salient-probe-") for meta in location.list()):
        return False
    disk.check_conditions(location)
    return publish_next(location, first_snapshot(schema)) is not None


class BucketCommits:
    """See `Commits`.

    Args:
        location: of the store.
        head: the last commit as far as is known.
        index_of: see `IndexOf`.
    """

    def __init__(self, location: ObjectLocation, head: Snapshot, index_of: IndexOf) -> None:
        self.location = location
        self._head = head
        self._index_of = index_of

    # -- plans ------------------------------------------------------------------------------

    def begin(self, digest: str, make: MakeDraft) -> AppendPlan:
        """See `Commits.begin`."""
        try:
            return self._begin(digest, make)
        except BaseException:  # as on a disk: who could not plan hinders nobody
            self.release()
            raise

    def _begin(self, digest: str, make: MakeDraft) -> AppendPlan:
        while True:
            self._head = turns.await_turn(self.location, self._head)
            head = self.commit()
            if head.plan is not None and not turns.holds_turn(self.location, head.plan.id):
                continue  # another has begun meanwhile
            if head.plan is not None and head.plan.digest == digest:
                return BucketPlan.of(self.location, head)
            plan = self._begun(head, make)
            if plan is not None:
                return plan

    def _begun(self, head: Snapshot, make: MakeDraft) -> AppendPlan | None:
        """A new plan in place of the one under way; None if another commit came first."""
        location = self.location
        try:
            draft = make(head, self._index_of(head))
        except StoreBusy:
            raise
        except (StoreError, OSError):
            if load_snapshot(location, known=head).id == head.id:
                raise
            return None
        record = draft.record
        if not draft.tables and head.plan is None:
            return BucketPlan(location, record, head, looks=False)
        written = NewObjects(location, head)
        plan = BucketPlan(location, record, head, looks=False)
        tables = {
            name: written.put(
                f"{PLANS}/{record.id}/{name}", "arrow", plan.encode_table(name, table)
            )
            for name, table in draft.tables.items()
        }
        planned = replace(record, tables=tables)
        following = replace(successor(head, "plan"), plan=planned if tables else None)
        done = begin(location, following) if tables else publish_next(location, following)
        if done is None:
            written.discard(load_snapshot(location, known=head))
            return None
        self._show(done)
        if head.plan is not None:
            turns.end_turn(location, head.plan.id)
            self._remove_plan(head.plan.id)
        return BucketPlan(location, planned, done, looks=False)

    def open_plan(self, plan_id: str, snapshot: Snapshot) -> AppendPlan:
        """See `Commits.open_plan`."""
        return BucketPlan.of(self.location, load_snapshot(self.location, known=snapshot), plan_id)

    def under_way(self, snapshot: Snapshot) -> AppendPlan | None:
        """See `Commits.under_way`."""
        if snapshot.plan is None or snapshot.plan.kind == "compact":
            return None
        return BucketPlan.of(self.location, snapshot)

    def release(self) -> None:
        """See `Commits.release`."""
        turns.release_turns(self.location)

    def _remove_plan(self, plan_id: str) -> None:
        """Remove the tables of a plan that is over, and its lease."""
        found = self.location.list(f"{PLANS}/{plan_id}")
        self.location.delete([meta.path for meta in found])

    # -- commits ----------------------------------------------------------------------------

    def commit(self) -> Snapshot:
        """See `Commits.commit`."""
        before = self._head = load_snapshot(self.location, known=self._head)
        done = amend(self.location, before, self._with_finished)
        self._show(done)
        if before.plan is not None and (done.plan is None or done.plan.id != before.plan.id):
            turns.end_turn(self.location, before.plan.id)
            self._remove_plan(before.plan.id)
        return done

    def _with_finished(self, head: Snapshot, written: NewObjects) -> Snapshot:
        """The snapshot that follows by what its plan has finished, or itself."""
        if head.plan is None or head.plan.kind == "compact":
            return head
        plan = BucketPlan.of(self.location, head)
        blocks, pending = plan.waiting(head)
        if pending and (not blocks or plan.record.kind == "backfill"):
            return head
        there = plan.manifests()
        paths = [there[block.slot] for block in blocks]
        if plan.record.kind == "backfill":
            following = backfilled(plan, blocks, paths, head)
        else:
            manifests = self._manifests(plan, blocks, paths)
            index, write = self._index_of(head), written.table
            complete = not pending
            following = appended(
                plan, blocks, manifests, head, index, write, complete=complete
            ).snapshot
        return following if pending else replace(following, plan=None)

    def _manifests(
        self, plan: AppendPlan, blocks: Sequence[Block], paths: Sequence[str]
    ) -> list[Manifest]:
        """Manifests of blocks, each read with one request."""

        def read(path: str) -> Manifest:
            return Manifest(_Held(self.location, path), path)

        at_once = disk.lanes(self.location, MANIFEST_BYTES)
        manifests = list(disk.in_order(read, paths, at_once))
        for block, manifest in zip(blocks, manifests, strict=True):
            if manifest.count != plan.count(block):
                what = f"it covers {manifest.count:,} samples, not {plan.count(block):,}"
                raise disk.damaged(f"{self.location.address}/{manifest.path}", what, plan.remedy)
        return manifests

    def amend(self, change: Change, kind: str) -> None:
        """See `Commits.amend`."""

        def changed(head: Snapshot, written: NewObjects) -> Snapshot:
            after = change(head, written.table)
            return head if after is head else successor(after, kind)

        self._show(amend(self.location, self._head, changed))

    def delete(self, ids: Sequence[str] | None, author_ids: Sequence[str] | None) -> set[str]:
        """See `Commits.delete`."""
        removed: set[str] = set()

        def change(head: Snapshot, written: NewObjects) -> Snapshot:
            removed.clear()
            index, plan = self._index_of(head)(), self.under_way(head)
            if author_ids:
                known_authors(self.location.address, plan, index, author_ids)
            doomed = doomed_records(index, ids, author_ids)
            removed.update(doomed["id"].to_pylist())
            following = add_tombstones(written.table, head, doomed) if len(doomed) else head
            if plan is not None:
                left = index if following is head else SampleIndex(self.location, following)
                without = plan_without(plan, following, left, ids, author_ids)
                removed.update(without.ids)
                if removed:
                    following = self._replanned(following, plan, without.tables, written)
            return successor(following, "delete") if removed else head

        head = amend(self.location, self._head, change)
        self._show(head)
        if removed:
            remove_texts(self.location, head)
        return removed

    def _replanned(
        self,
        snapshot: Snapshot,
        plan: AppendPlan,
        tables: Mapping[str, pa.Table],
        written: NewObjects,
    ) -> Snapshot:
        """A snapshot whose plan has other tables, and is not what anybody resumes."""
        paths = {
            name: written.put(f"{PLANS}/{plan.id}/{name}", "arrow", plan.encode_table(name, table))
            for name, table in tables.items()
        }
        digest = "" if plan.record.kind == "append" else plan.record.digest
        record = replace(plan.record, digest=digest, tables={**plan.record.tables, **paths})
        return replace(snapshot, plan=record)

    def _show(self, head: Snapshot) -> None:
        self._head = head
        self._index_of(head)


def remove_texts(location: ObjectLocation, head: Snapshot) -> None:
    """Remove tables with ids and texts that no commit names, nor can: see `made_upon`."""
    named = {*head.files(), *plan_tables(head)}
    doomed = [
        meta.path
        for folder in (INDEX, PLANS)
        for meta in location.list(folder)
        if meta.path not in named
        if (upon := made_upon(meta.path)) is not None and upon < int(head.id)
    ]
    location.delete(doomed)


class _Held:
    """One object in memory, read as a location is."""

    def __init__(self, location: ObjectLocation, path: str) -> None:
        self.address = location.address
        try:
            self._content = np.frombuffer(location.read(path), np.uint8)
        except FileNotFoundError:
            raise StoreError(
                f"{location.address}/{path}: the manifest is missing; run the append again"
            ) from None

    def read_ranges(
        self, path: str, offsets: list[int], buffers: list[npt.NDArray[np.uint8]]
    ) -> int:
        """See `Location.read_ranges`."""
        for offset, buffer in zip(offsets, buffers, strict=True):
            part = self._content[offset : offset + len(buffer)]
            if len(part) == len(buffer):
                buffer[:] = part
        return len(self._content)
