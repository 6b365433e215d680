"""Removing the bytes of deleted samples.

`compact` keeps every position where it is, so open readers, snapshots and label tables stay true:
deleted samples' values become NaN, their ids and texts disappear from all tables, and slots without
any living sample lose their shard files.

It can die anywhere and be run again: see `store.layout.manifests` for what holds while a shard is
being replaced. On a bucket nothing is replaced: see `store.upkeep.rewriting`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from store import disk
from store.activations import ActivationStore
from store.commits import (
    active_plan_id,
    begin_compaction,
    commit_finished,
    end_turn,
    lease_path,
    new_plan_id,
    remove_texts,
    successor,
    summarise,
    unneeded,
)
from store.disk import LocalLocation, ObjectLocation, locked, process_lock
from store.errors import StoreError, StoreInputError
from store.layout import (
    LayerKey,
    LayerSummary,
    Manifest,
    encode_manifest,
    write_shard,
)
from store.reading import ActivationReader
from store.records import (
    APPEND_LOCK,
    COMMIT_LOCK,
    DELETED_SCHEMA,
    LABELS,
    PLANS,
    IndexPart,
    SampleIndex,
    Snapshot,
    encode_snapshot,
    publish,
    read_label_file,
    read_parquet,
    snapshot_path,
)
from store.upkeep.rewriting import (
    base_of,
    commit,
    freed_bytes,
    head_with,
    look,
    look_at_last,
    rewrite,
)
from store.upkeep.sweeping import do_sweep, plan_sweep

AnyArray = npt.NDArray[np.generic]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CompactReport:
    """What a compaction did."""

    num_samples: int
    num_slots: int
    emptied_slots: tuple[int, ...]
    freed_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.num_samples:,} deleted samples removed from {self.num_slots} slots; "
            f"{len(self.emptied_slots)} empty slots freed {self.freed_bytes / 1e6:.3f} MB"
        )


def compact(store: ActivationStore) -> CompactReport:
    """Really remove what was deleted; every snapshot that is kept loses it too.

    Waits for an append under way in another process.

    Args:
        store: the store, opened without a snapshot.

    Raises:
        StoreError: an unfinished append; finish it first.
    """
    location = store.writable_location()
    if isinstance(location, ObjectLocation):
        report = _compact_bucket(location)
        store.refresh()
        return report
    root = store.writable_root()
    lease = process_lock(root / APPEND_LOCK)
    held = lease.held  # by an append of this process, which keeps it
    lease.acquire()
    try:
        with locked(root / COMMIT_LOCK):
            snapshot = commit_finished(root)
            if active_plan_id(root) is not None:
                raise StoreInputError(
                    f"{root}: an append is not finished; run it again to finish it, then compact"
                )
            report = _compact(root, store, snapshot)
    finally:
        if not held:
            lease.release()
    store.refresh()
    return report


def _compact(root: Path, store: ActivationStore, snapshot: Snapshot) -> CompactReport:
    location = LocalLocation(root)
    index = SampleIndex(location, snapshot)
    kept_hash = pc.is_valid(index.rows(["text_hash"])["text_hash"]).to_numpy()
    todo = index.dead & kept_hash  # a row without hash was removed by an earlier compaction
    size = snapshot.schema.samples_per_shard
    slots = np.unique(np.flatnonzero(todo) // size).tolist()
    # Among all slots, not just today's: an interrupted run may have left shard files behind.
    emptied = tuple(
        slot
        for slot in range(len(snapshot.slots))
        if index.dead[slot * size : (slot + 1) * size].all()
    )
    history = store.snapshots()
    for slot in slots:
        dead = index.dead[slot * size : (slot + 1) * size]
        if slot not in emptied:
            _scrub_slot(root, snapshot, history, slot, dead)
    _scrub_tables(root, history, index)
    following = successor(_without_slots(snapshot, emptied), "compact")
    if snapshot.has_dead:
        disk.write_files(
            {
                root / snapshot_path(old.id): [encode_snapshot(_without_slots(old, emptied))]
                for old in history
            }
        )
        publish(root, following)
    freed = _remove_shards(root, snapshot, emptied)
    remove_texts(root, snapshot)
    for path in list(unneeded(root, history, [LABELS])):
        disk.remove(root / path)
    return CompactReport(int(todo.sum()), len(slots), emptied, freed)


def _compact_bucket(location: ObjectLocation) -> CompactReport:
    head, work = look_at_last(location)
    if head.plan is not None or work.is_needed:
        head = begin_compaction(location, head)
        assert head.plan is not None
        plan = head.plan
        try:
            work = look(location, base_of(head))
            commit(location, plan, work, rewrite(location, plan, work))
        except BaseException as error:
            end_turn(location, plan.id, say=True)  # it is anybody's to go on with
            if isinstance(error, StoreError):  # maybe of what is gone since another went on with it
                head_with(location, plan)
            raise
        end_turn(location, plan.id)
        location.delete([lease_path(plan.id)])
    found = plan_sweep(location)
    do_sweep(location, found)
    num_slots, freed = len(work.slots), freed_bytes(found, work.emptied)
    return CompactReport(int(work.todo.sum()), num_slots, work.emptied, freed)


def _without_slots(snapshot: Snapshot, emptied: Iterable[int]) -> Snapshot:
    slots = list(snapshot.slots)
    for slot in emptied:
        if slot < len(slots):
            slots[slot] = slots[slot]._replace(emptied=True)
    return replace(snapshot, slots=tuple(slots), has_dead=True)


def _scrub_slot(
    root: Path, snapshot: Snapshot, history: list[Snapshot], slot: int, dead: Mask
) -> None:
    """Replace one slot's shards, keeping all its manifests true at every moment."""
    location = LocalLocation(root)
    nobody = np.zeros(snapshot.num_samples, bool)
    reader = ActivationReader(location, snapshot, nobody, check="always")
    staging = root / PLANS / f"compact-{new_plan_id()}"
    paths = {
        path: None
        for old in [*history, snapshot]
        if slot < len(old.slots)
        for path in old.slots[slot].manifests
    }
    manifests = [Manifest(location, path) for path in paths]
    results = {manifest.path: manifest.sample_results() for manifest in manifests}
    after: dict[str, dict[LayerKey, LayerSummary]] = {path: {} for path in paths}
    moves = []
    for layout in snapshot.schema.arrays.values():
        for layer in layout.layers:
            shard = np.full(
                (layout.rows, snapshot.schema.samples_per_shard), np.nan, snapshot.schema.dtype
            )
            values = reader.read_committed(layout.name, layer, slot)
            count = values.shape[1]
            shard[:, :count] = values
            shard[:, :count][:, dead[:count]] = np.nan
            relative = layout.shard_path(layer, slot)
            disk.make_directories((staging / relative).parent)
            write_shard(staging / relative, shard)
            moves.append((staging / relative, root / relative))
            for manifest in manifests:
                if manifest.covers(layout.name, layer):
                    after[manifest.path][layout.name, layer] = summarise(shard[:, : manifest.count])
    for manifest in manifests:
        content = encode_manifest(
            manifest.count, after[manifest.path], results[manifest.path], replacing=manifest
        )
        disk.write_file(root / manifest.path, [content])
    for source, target in moves:
        disk.replace_file(source, target)
    disk.sync_directories({target.parent for _, target in moves})
    for manifest in manifests:
        content = encode_manifest(manifest.count, after[manifest.path], results[manifest.path])
        disk.write_file(root / manifest.path, [content])
    disk.remove(staging)


def _scrub_tables(root: Path, history: list[Snapshot], index: SampleIndex) -> None:
    """Take deleted ids and texts out of every table of every kept snapshot, in place."""
    location = LocalLocation(root)
    for path in {record.path for old in history for record in old.labels.values()}:
        table = read_label_file(location, path)
        gone = index.was_deleted(table["id"])
        if gone.any():
            disk.write_file(root / path, [disk.encode_parquet(table.filter(pa.array(~gone)))])
    parts = list({part.path: part for old in history for part in old.index}.values())

    def scrub(part: IndexPart, change: Callable[[pa.Table], pa.Table]) -> None:
        table = read_parquet(location, part.path)
        scrubbed = change(table)
        if not scrubbed.equals(table):
            disk.write_file(root / part.path, [disk.encode_parquet(scrubbed)])

    def of(kind: str) -> list[IndexPart]:
        return [part for part in parts if part.kind == kind]

    # In an order in which all parts together say the same living ids at every moment. An alias may
    # have been deleted and come back, and then become its row's own id, before all tombstones.
    seen: set[str] = set()
    for part in reversed(of("aliases")):
        scrub(part, lambda table: _last_aliases(table, index, seen))
    for part in of("rows"):
        scrub(part, partial(_visible, part, index))
    for part in of("deleted"):
        scrub(part, lambda table: table.filter(pa.array(~_is_living(table, index))))
    for part in of("aliases"):
        scrub(part, lambda table: table.filter(pa.array(~_is_owner(table, index))))
    # Tombstones go last: until then they say what else must go.
    for part in of("deleted"):
        scrub(part, lambda table: DELETED_SCHEMA.empty_table())


def _visible(part: IndexPart, index: SampleIndex, table: pa.Table) -> pa.Table:
    return index.visible_rows(part.start, part.stop)


def _is_living(table: pa.Table, index: SampleIndex) -> Mask:
    living: Mask = index.positions(table["id"]) == table["position"].to_numpy()
    return living


def _is_owner(table: pa.Table, index: SampleIndex) -> Mask:
    """Which aliases are those that their row appears under."""
    own = index.owner_ids().take(table["position"])
    same: Mask = pc.equal(own, table["id"]).fill_null(False).to_numpy()
    return same


def _last_aliases(table: pa.Table, index: SampleIndex, seen: set[str]) -> pa.Table:
    """Living aliases that are not among those seen in later parts; notes them as seen."""
    keep = _is_living(table, index)
    keep &= ~pc.is_in(table["id"], value_set=pa.array(sorted(seen), pa.string())).to_numpy()
    kept = table.filter(pa.array(keep))
    seen.update(kept["id"].to_pylist())
    return kept


def _remove_shards(root: Path, snapshot: Snapshot, emptied: Iterable[int]) -> int:
    freed = 0
    for slot in emptied:
        for layout in snapshot.schema.arrays.values():
            for layer in layout.layers:
                path = root / layout.shard_path(layer, slot)
                if path.exists():
                    freed += path.stat().st_size
                    disk.remove(path)
    return freed
