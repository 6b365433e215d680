"""Publishing finished blocks: the contiguous prefix of a plan becomes the next snapshot.

Everything here runs under the commit lock and can die at any point: moving staged files is
repeatable, shards that replace a shorter one begin with the same samples, and readers look no
further than the root that `publish` swaps last.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from store import disk
from store.commits.plans import AppendPlan, active_plan_id, drop_plan, shard_name
from store.disk import LocalLocation
from store.errors import StoreError
from store.layout import Block, Manifest, StoreSchema, write_axis_coordinates, write_sample_chunks
from store.records import (
    INDEX,
    ROW_SCHEMA,
    IndexPart,
    SampleIndex,
    SlotRecord,
    Snapshot,
    encode_parquet,
    load_snapshot,
    publish,
)


def successor(snapshot: Snapshot, kind: str) -> Snapshot:
    """A snapshot that follows `snapshot`, with the same content so far."""
    return replace(
        snapshot, id=snapshot.next_id, parent=snapshot.id, kind=kind, created_at=time.time()
    )


def commit_finished(root: Path) -> Snapshot:
    """Publish what the active plan has finished; returns the last commit, new or not."""
    location = LocalLocation(root)
    snapshot = load_snapshot(location)
    plan_id = active_plan_id(root)
    if plan_id is None:
        return snapshot
    if snapshot.finished_plan == plan_id:
        drop_plan(root, plan_id)
        return snapshot
    plan = AppendPlan.load(root, plan_id, samples_per_shard=snapshot.schema.samples_per_shard)
    blocks, pending = _contiguous(plan, snapshot)
    complete = not pending
    if plan.record.kind == "backfill":
        if not complete:
            return snapshot
        following = _backfilled(root, plan, blocks, snapshot)
    else:
        if not blocks and not complete:
            return snapshot
        following = _appended(root, plan, blocks, snapshot, complete=complete)
    publish(root, following)
    if complete:
        drop_plan(root, plan_id)
    else:
        _remove_attempts(plan, blocks)
    return following


def _contiguous(plan: AppendPlan, snapshot: Snapshot) -> tuple[list[Block], list[Block]]:
    """The blocks that can be published now, in order, and those that cannot."""
    if plan.record.kind == "backfill":
        waiting = list(plan.all_blocks)
    else:
        waiting = [block for block in plan.all_blocks if block.start >= snapshot.num_samples]
    ready = []
    for block in waiting:
        if not plan.is_finished(block):
            break
        ready.append(block)
    return ready, waiting[len(ready) :]


def _appended(
    root: Path, plan: AppendPlan, blocks: Sequence[Block], snapshot: Snapshot, *, complete: bool
) -> Snapshot:
    following = successor(snapshot, "append")
    slots = list(snapshot.slots)
    index = list(snapshot.index)
    if complete and len(plan.replaced()):
        index.append(_write_part(root, "deleted", plan.replaced(), f"replaced-{plan.id}"))
        following = replace(following, has_dead=True)
    if blocks:
        _install_shards(root, plan, blocks, snapshot.schema)
        manifests = [Manifest(LocalLocation(root), plan.manifest_path(b)) for b in blocks]
        rows = pa.concat_tables(
            _block_rows(plan, block, manifest)
            for block, manifest in zip(blocks, manifests, strict=True)
        )
        start, stop = blocks[0].start, blocks[-1].stop
        part = _write_part(root, "rows", rows, f"{start}-{stop}-{plan.id}")
        index.append(replace(part, start=start, stop=stop))
        for block, manifest in zip(blocks, manifests, strict=True):
            record = SlotRecord(manifest.count, (manifest.path,))
            slots[block.slot : block.slot + 1] = [record]
    if complete and len(plan.aliases()):
        index.append(_write_part(root, "aliases", plan.aliases(), plan.id))
    following = replace(
        following,
        num_samples=blocks[-1].stop if blocks else snapshot.num_samples,
        slots=tuple(slots),
        index=tuple(index),
        finished_plan=plan.id if complete else snapshot.finished_plan,
    )
    if blocks:
        _write_coordinates(root, snapshot, rows, blocks)
    return following


def _block_rows(plan: AppendPlan, block: Block, manifest: Manifest) -> pa.Table:
    samples = plan.samples(block)
    for name in ("n_tokens", "truncated"):
        samples = samples.append_column(name, pa.array(manifest[name]))
    return samples.cast(ROW_SCHEMA)


def _write_part(root: Path, kind: str, table: pa.Table, name: str) -> IndexPart:
    path = f"{INDEX}/{kind}-{name}.parquet"
    disk.make_directories(root / INDEX)
    disk.write_file(root / path, [encode_parquet(table)])
    return IndexPart(kind, path)


def _write_coordinates(
    root: Path, snapshot: Snapshot, rows: pa.Table, blocks: Sequence[Block]
) -> None:
    size = snapshot.schema.samples_per_shard
    slots = {}
    for block in blocks:
        own = rows.slice(block.start - blocks[0].start, len(block))
        before = block.slot * size
        if block.start > before:
            index = SampleIndex(LocalLocation(root), snapshot)
            own = pa.concat_tables([index.visible_rows(before, block.start), own])
        slots[block.slot] = own
    write_sample_chunks(root, snapshot.schema, slots)


def _install_shards(
    root: Path, plan: AppendPlan, blocks: Sequence[Block], schema: StoreSchema
) -> None:
    """Move staged shards, then manifests, to their places. Repeatable after a crash."""
    directories = set()
    for block in blocks:
        staged = plan.attempt_directory(block, _attempt(root, plan, block))
        for name, layers in plan.record.layers.items():
            for layer in layers:
                target = root / schema.arrays[name].shard_path(layer, block.slot)
                directories.add(target.parent)
                _move(staged / shard_name(name, layer), target)
    disk.sync_directories(directories)
    for block in blocks:
        target = root / plan.manifest_path(block)
        disk.make_directories(target.parent)
        _move(plan.staged_manifest(block), target)
    if blocks:
        disk.sync_directory((root / plan.manifest_path(blocks[0])).parent)


def _remove_attempts(plan: AppendPlan, blocks: Sequence[Block]) -> None:
    """Remove what killed or doubled workers staged for blocks that are committed now."""
    slots = {f"{block.slot:08d}" for block in blocks}
    for entry in plan.directory.iterdir():
        if entry.is_dir() and entry.name.split("-")[0] in slots:
            shutil.rmtree(entry, ignore_errors=True)


def _attempt(root: Path, plan: AppendPlan, block: Block) -> str:
    """The attempt whose shards make up the block."""
    path = plan.staged_manifest(block)
    relative = str(path.relative_to(root)) if path.exists() else plan.manifest_path(block)
    return Manifest(LocalLocation(root), relative).attempt


def _move(source: Path, target: Path) -> None:
    """Rename, unless an interrupted commit already did."""
    try:
        if source.exists():
            disk.make_directories(target.parent)
            disk.replace_file(source, target)
        elif not target.exists():
            raise StoreError(f"{source}: a finished shard is gone; write its block again")
    except OSError as error:
        raise disk.explain(error, target) from error


def _backfilled(
    root: Path, plan: AppendPlan, blocks: Sequence[Block], snapshot: Snapshot
) -> Snapshot:
    schema = backfilled_schema(snapshot.schema, plan)
    _install_shards(root, plan, blocks, schema)
    write_axis_coordinates(root, schema)
    slots = list(snapshot.slots)
    for block in blocks:
        record = slots[block.slot]
        paths = (*record.manifests, plan.manifest_path(block))
        slots[block.slot] = replace(record, manifests=paths)
    return replace(
        successor(snapshot, "backfill"),
        schema=schema,
        slots=tuple(slots),
        finished_plan=plan.id,
    )


def backfilled_schema(schema: StoreSchema, plan: AppendPlan) -> StoreSchema:
    """The schema once the plan's layers are there."""
    return schema.with_layers(
        layers=plan.record.layers.get("ffn", ()),
        hidden_layers=plan.record.layers.get("hidden", ()),
        hidden_size=plan.record.hidden_size,
    )
