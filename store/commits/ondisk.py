"""Changes of a store on a disk: under locks, by renames, the root `zarr.json` last.

Everything here can die at any point: moving staged files is repeatable, shards that replace a
shorter one begin with the same samples, and readers look no further than the root that `publish`
swaps last.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from store import disk
from store.commits.deletion import add_tombstones, doomed_records, known_authors, plan_without
from store.commits.leftovers import remove_texts
from store.commits.planning import AppendPlan, backfilled_schema
from store.commits.plans import (
    ATTEMPT_NAME,
    DiskPlan,
    active_plan_id,
    drop_plan,
    save_plan,
    shard_name,
)
from store.commits.protocol import Change, IndexOf, MakeDraft
from store.commits.publishing import appended, backfilled, first_snapshot, successor
from store.commits.settling import announce, catch_up, settle
from store.disk import LocalLocation, locked, process_lock
from store.layout import Block, Manifest, StoreSchema, write_axis_coordinates, write_sample_chunks
from store.records import (
    APPEND_LOCK,
    COMMIT_LOCK,
    INDEX,
    LABELS,
    MANIFESTS,
    PLANS,
    PRIVATE,
    ROW_SCHEMA,
    SNAPSHOTS,
    SampleIndex,
    Snapshot,
    WriteTable,
    load_snapshot,
    publish,
)


class DiskCommits:
    """See `Commits`.

    Args:
        root: of the store.
        index_of: see `IndexOf`.
    """

    def __init__(self, root: Path, index_of: IndexOf) -> None:
        self.root = root
        self._index_of = index_of

    def begin(self, digest: str, make: MakeDraft) -> AppendPlan:
        """See `Commits.begin`."""
        lease = process_lock(self.root / APPEND_LOCK)
        lease.acquire()
        try:
            with locked(self.root / COMMIT_LOCK):
                # What a dead process finished is kept, whether or not its plan is resumed.
                snapshot = commit_finished(self.root)
                index = self._index_of(snapshot)
                active = active_plan_id(self.root)
                if active is not None:
                    plan = self._load(active, snapshot)
                    if plan.record.digest == digest:
                        return plan
                size = snapshot.schema.samples_per_shard
                plan = save_plan(self.root, make(snapshot, index), samples_per_shard=size)
                if active is not None:  # superseded, once its successor is safe
                    drop_plan(self.root, active)
        except BaseException:
            lease.release()
            raise
        if not plan.directory.exists():  # nothing to do, so nobody needs to wait
            lease.release()
        return plan

    def open_plan(self, plan_id: str, snapshot: Snapshot) -> AppendPlan:
        """See `Commits.open_plan`."""
        return self._load(plan_id, snapshot)

    def under_way(self, snapshot: Snapshot) -> AppendPlan | None:
        """See `Commits.under_way`."""
        plan_id = active_plan_id(self.root)
        return None if plan_id is None else self._load(plan_id, snapshot)

    def _load(self, plan_id: str, snapshot: Snapshot) -> DiskPlan:
        size = snapshot.schema.samples_per_shard
        return DiskPlan.load(self.root, plan_id, samples_per_shard=size)

    def commit(self) -> Snapshot:
        """See `Commits.commit`."""
        with locked(self.root / COMMIT_LOCK):
            done = commit_finished(self.root)
            self._index_of(done)
            if active_plan_id(self.root) is None:
                self.release()
        return done

    def release(self) -> None:
        """See `Commits.release`."""
        process_lock(self.root / APPEND_LOCK).release()

    def amend(self, change: Change, kind: str) -> None:
        """See `Commits.amend`."""
        with locked(self.root / COMMIT_LOCK):
            self._publish(self._current(), change, kind)

    def delete(self, ids: Sequence[str] | None, author_ids: Sequence[str] | None) -> set[str]:
        """See `Commits.delete`."""
        removed: set[str] = set()

        def change(current: Snapshot, write: WriteTable) -> Snapshot:
            index = self._index_of(current)
            if author_ids:
                known_authors(str(self.root), self.under_way(current), index(), author_ids)
            doomed = doomed_records(index(), ids, author_ids)
            removed.update(doomed["id"].to_pylist())
            if not removed:
                return current
            size = current.schema.samples_per_shard
            announce(self.root, np.unique(doomed["position"].to_numpy() // size).tolist())
            return add_tombstones(write, current, doomed)

        with locked(self.root / COMMIT_LOCK):
            current = self._publish(self._current(), change, "delete")
            plan = self.under_way(current)
            if isinstance(plan, DiskPlan):
                # Whoever asks for the same samples after a delete gets a new plan, for what was
                # deleted may be among them: now, or by a process that died here.
                without = plan_without(plan, current, self._index_of(current)(), ids, author_ids)
                if plan.record.kind == "append":
                    plan.forget_request()
                for name, table in without.tables.items():
                    plan.write_table(name, table)
                removed |= without.ids
            remove_texts(self.root, current)
        return removed

    def _current(self) -> Snapshot:
        """The last commit, with what belongs to it made good; the caller holds the commit lock."""
        current = load_snapshot(LocalLocation(self.root))
        catch_up(self.root, current)
        self._index_of(current)
        return current

    def _publish(self, current: Snapshot, change: Change, kind: str) -> Snapshot:
        changed = change(current, table_writer(self.root))
        if changed is current:
            return current
        following = successor(changed, kind)
        publish(self.root, following)
        settle(self.root, following, self._index_of(following))
        return following


def create_on_disk(root: Path, schema: StoreSchema) -> None:
    """Make an empty store in an empty directory."""
    for directory in (PRIVATE, SNAPSHOTS, MANIFESTS, INDEX, LABELS, PLANS):
        disk.make_directories(root / directory)
    write_axis_coordinates(root, schema)
    publish(root, first_snapshot(schema))


def table_writer(root: Path) -> WriteTable:
    """What keeps the tables of a store on a disk."""

    def write(stem: str, table: pa.Table, *, key: str | None = None) -> str:
        path = f"{stem}-{key or uuid.uuid4().hex[:12]}.parquet"
        disk.make_directories((root / path).parent)
        disk.write_file(root / path, [disk.encode_parquet(table)])
        return path

    return write


def commit_finished(root: Path) -> Snapshot:
    """Publish what the active plan has finished; returns the last commit, new or not.

    The caller holds the commit lock.
    """
    location = LocalLocation(root)
    snapshot = load_snapshot(location)
    catch_up(root, snapshot)
    plan_id = active_plan_id(root)
    if plan_id is None:
        return snapshot
    if snapshot.finished_plan == plan_id:
        drop_plan(root, plan_id)
        return snapshot
    plan = DiskPlan.load(root, plan_id, samples_per_shard=snapshot.schema.samples_per_shard)
    blocks, pending = plan.waiting(snapshot)
    complete = not pending
    if plan.record.kind == "backfill":
        if not complete:
            return snapshot
        _install_shards(root, plan, blocks, backfilled_schema(snapshot.schema, plan))
        paths = [plan.manifest_path(block) for block in blocks]
        following = backfilled(plan, blocks, paths, snapshot)
        write_axis_coordinates(root, following.schema)
    else:
        if not blocks and not complete:
            return snapshot
        following = _appended(root, plan, blocks, snapshot, complete=complete)
    publish(root, following)
    settle(root, following)
    if complete:
        drop_plan(root, plan_id)
    else:
        _remove_attempts(plan, blocks)
    return following


def _appended(
    root: Path, plan: DiskPlan, blocks: Sequence[Block], snapshot: Snapshot, *, complete: bool
) -> Snapshot:
    """The snapshot that follows; all it names is in its place."""
    location = LocalLocation(root)

    def index() -> SampleIndex:
        return SampleIndex(location, snapshot)

    if blocks:
        _install_shards(root, plan, blocks, snapshot.schema)
    manifests = [Manifest(location, plan.manifest_path(block)) for block in blocks]
    writer = table_writer(root)
    done = appended(plan, blocks, manifests, snapshot, index, writer, complete=complete)
    if blocks:
        _write_coordinates(root, snapshot, done.rows, blocks)
    announce(root, done.changing)
    return done.snapshot


def _as_seen(rows: pa.Table) -> pa.Table:
    """Rows as every reader may see them: nothing of those that were deleted while they came."""
    alive = pc.is_valid(rows["id"])
    columns = {
        field.name: pc.if_else(alive, rows[field.name], pa.scalar(None, field.type))
        for field in ROW_SCHEMA
    }
    return pa.table(columns, schema=ROW_SCHEMA)


def _write_coordinates(
    root: Path, snapshot: Snapshot, rows: pa.Table, blocks: Sequence[Block]
) -> None:
    size = snapshot.schema.samples_per_shard
    slots = {}
    rows = _as_seen(rows)
    for block in blocks:
        own = rows.slice(block.start - blocks[0].start, len(block))
        before = block.slot * size
        if block.start > before:
            index = SampleIndex(LocalLocation(root), snapshot)
            own = pa.concat_tables([index.visible_rows(before, block.start), own])
        slots[block.slot] = own
    write_sample_chunks(root, snapshot.schema, slots)


def _install_shards(
    root: Path, plan: DiskPlan, blocks: Sequence[Block], schema: StoreSchema
) -> None:
    """Move staged shards, then manifests, to their places. Repeatable after a crash."""
    directories = set()
    for block in blocks:
        staged = plan.attempt_directory(block, _attempt(root, plan, block))
        for name, layers in plan.record.layers.items():
            for layer in layers:
                target = root / schema.array(name).shard_path(layer, block.slot)
                directories.add(target.parent)
                _move(staged / shard_name(name, layer), target, plan.remedy)
    disk.sync_directories(directories)
    for block in blocks:
        target = root / plan.manifest_path(block)
        disk.make_directories(target.parent)
        _move(plan.staged_manifest(block), target, plan.remedy)
    if blocks:
        disk.sync_directory((root / plan.manifest_path(blocks[0])).parent)


def _remove_attempts(plan: DiskPlan, blocks: Sequence[Block]) -> None:
    """Remove what killed or doubled workers staged for blocks that are committed now."""
    slots = {f"{block.slot:08d}" for block in blocks}
    for entry in plan.directory.iterdir():
        if entry.is_dir() and entry.name.split("-")[0] in slots:
            disk.remove(entry)


def _attempt(root: Path, plan: DiskPlan, block: Block) -> str:
    """The attempt whose shards make up the block, by a manifest that is the block's."""
    path = plan.staged_manifest(block)
    relative = str(path.relative_to(root)) if path.exists() else plan.manifest_path(block)
    manifest, count = Manifest(LocalLocation(root), relative), plan.count(block)
    if manifest.count != count:
        what = f"it covers {manifest.count:,} samples, its block's slot has {count:,}"
        raise disk.damaged(str(root / relative), what, plan.remedy)
    if not ATTEMPT_NAME.fullmatch(manifest.attempt):
        what = f"it names no attempt, but {manifest.attempt!r}"
        raise disk.damaged(str(root / relative), what, plan.remedy)
    return manifest.attempt


def _move(source: Path, target: Path, remedy: str) -> None:
    """Rename, unless an interrupted commit already did."""
    try:
        if source.exists():
            disk.make_directories(target.parent)
            disk.replace_file(source, target)
        elif not target.exists():
            raise disk.damaged(str(source), "a finished shard is gone", remedy)
    except OSError as error:
        raise disk.explain(error, target) from error
