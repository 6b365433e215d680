"""Publishing finished blocks: the contiguous prefix of a plan becomes the next snapshot.

Everything here runs under the commit lock and can die at any point: moving staged files is
repeatable, shards that replace a shorter one begin with the same samples, and readers look no
further than the root that `publish` swaps last.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from store import disk
from store.commits.due import due_records
from store.commits.plans import ATTEMPT_NAME, AppendPlan, active_plan_id, drop_plan, shard_name
from store.commits.settling import announce, catch_up, settle
from store.disk import LocalLocation
from store.layout import Block, Manifest, StoreSchema, write_axis_coordinates, write_sample_chunks
from store.records import (
    INDEX,
    ROW_SCHEMA,
    IndexPart,
    SampleIndex,
    SlotRecord,
    Snapshot,
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
    catch_up(root, snapshot)
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
        following, changing = _appended(root, plan, blocks, snapshot, complete=complete)
        announce(root, changing)
    publish(root, following)
    settle(root, following)
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
) -> tuple[Snapshot, set[int]]:
    """The snapshot that follows, and the slots whose earlier coordinates it changes."""
    following = successor(snapshot, "append")
    slots = list(snapshot.slots)
    index = list(snapshot.index)
    rows = ROW_SCHEMA.empty_table()
    if blocks:
        _install_shards(root, plan, blocks, snapshot.schema)
        manifests = [Manifest(LocalLocation(root), plan.manifest_path(b)) for b in blocks]
        rows = pa.concat_tables(
            _block_rows(plan, block, manifest)
            for block, manifest in zip(blocks, manifests, strict=True)
        )
        for block, manifest in zip(blocks, manifests, strict=True):
            record = SlotRecord(plan.count(block), (manifest.path,))
            slots[block.slot : block.slot + 1] = [record]
    due = due_records(root, plan, snapshot, rows, complete=complete)
    name = f"{snapshot.num_samples}-{snapshot.num_samples + len(rows)}-{plan.id}"
    if len(due.replaced):
        index.append(_write_part(root, "deleted", due.replaced, f"replaced-{name}"))
    if blocks:
        part = _write_part(root, "rows", rows, name)
        index.append(replace(part, start=blocks[0].start, stop=blocks[-1].stop))
        _write_coordinates(root, snapshot, rows, blocks)
    if len(due.aliases):
        index.append(_write_part(root, "aliases", due.aliases, plan.id))
    following = replace(
        following,
        num_samples=snapshot.num_samples + len(rows),
        slots=tuple(slots),
        index=tuple(index),
        finished_plan=plan.id if complete else snapshot.finished_plan,
        has_dead=snapshot.has_dead or len(due.replaced) > 0 or rows["id"].null_count > 0,
    )
    return following, {int(p) // snapshot.schema.samples_per_shard for p in due.changing}


def _block_rows(plan: AppendPlan, block: Block, manifest: Manifest) -> pa.Table:
    samples = plan.rows(block)
    for name in ("n_tokens", "truncated"):
        samples = samples.append_column(name, pa.array(manifest.result(name, len(block))))
    return samples.cast(ROW_SCHEMA)


def _as_seen(rows: pa.Table) -> pa.Table:
    """Rows as every reader may see them: nothing of those that were deleted while they came."""
    alive = pc.is_valid(rows["id"])
    columns = {
        field.name: pc.if_else(alive, rows[field.name], pa.scalar(None, field.type))
        for field in ROW_SCHEMA
    }
    return pa.table(columns, schema=ROW_SCHEMA)


def _write_part(root: Path, kind: str, table: pa.Table, name: str) -> IndexPart:
    path = f"{INDEX}/{kind}-{name}.parquet"
    disk.make_directories(root / INDEX)
    disk.write_file(root / path, [disk.encode_parquet(table)])
    return IndexPart(kind, path)


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
    root: Path, plan: AppendPlan, blocks: Sequence[Block], schema: StoreSchema
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


def _remove_attempts(plan: AppendPlan, blocks: Sequence[Block]) -> None:
    """Remove what killed or doubled workers staged for blocks that are committed now."""
    slots = {f"{block.slot:08d}" for block in blocks}
    for entry in plan.directory.iterdir():
        if entry.is_dir() and entry.name.split("-")[0] in slots:
            disk.remove(entry)


def _attempt(root: Path, plan: AppendPlan, block: Block) -> str:
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
        slots[block.slot] = record._replace(manifests=paths)
    return replace(
        successor(snapshot, "backfill"),
        schema=schema,
        slots=tuple(slots),
        finished_plan=plan.id,
    )


def backfilled_schema(schema: StoreSchema, plan: AppendPlan) -> StoreSchema:
    """The schema once the plan's layers are there; they are there if a dead process committed."""
    layers = plan.record.layers
    return schema.with_layers(
        layers=tuple(i for i in layers.get("ffn", ()) if i not in (schema.layers or ())),
        hidden_layers=tuple(i for i in layers.get("hidden", ()) if i not in schema.hidden_layers),
        hidden_size=plan.record.hidden_size,
    )
