"""What follows on a snapshot: the blocks that a plan has finished become part of the next one.

Nothing is published here: `ondisk` and `onbucket` write what these records name, then the record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import pyarrow as pa

from store.commits.due import due_records
from store.commits.planning import AppendPlan, backfilled_schema
from store.layout import Block, Manifest, StoreSchema
from store.records import (
    INDEX,
    ROW_SCHEMA,
    IndexPart,
    SampleIndex,
    SlotRecord,
    Snapshot,
    WriteTable,
)


def first_snapshot(schema: StoreSchema) -> Snapshot:
    """The snapshot of an empty store."""
    return Snapshot(
        id="000000",
        parent=None,
        kind="create",
        created_at=time.time(),
        num_samples=0,
        schema=schema,
    )


def successor(snapshot: Snapshot, kind: str) -> Snapshot:
    """A snapshot that follows `snapshot`, with the same content so far."""
    return replace(
        snapshot, id=snapshot.next_id, parent=snapshot.id, kind=kind, created_at=time.time()
    )


class Appended(NamedTuple):
    """What an append's blocks add.

    Attributes:
        snapshot: that follows.
        rows: that are new, `ROW_SCHEMA`.
        changing: slots committed before whose visible ids or texts change.
    """

    snapshot: Snapshot
    rows: pa.Table
    changing: set[int]


def appended(
    plan: AppendPlan,
    blocks: Sequence[Block],
    manifests: Sequence[Manifest],
    snapshot: Snapshot,
    index: Callable[[], SampleIndex],
    write: WriteTable,
    *,
    complete: bool,
) -> Appended:
    """The snapshot that follows by some blocks of an append; its tables are written.

    Args:
        plan: of the append.
        blocks: that follow on from what is committed.
        manifests: of these, where the snapshot names them.
        snapshot: the last commit.
        index: gives its sample index.
        write: keeps tables.
        complete: no blocks of the plan are left.
    """
    slots = list(snapshot.slots)
    parts = list(snapshot.index)
    of_blocks = [_block_rows(plan, *pair) for pair in zip(blocks, manifests, strict=True)]
    rows = pa.concat_tables([ROW_SCHEMA.empty_table(), *of_blocks])
    for block, manifest in zip(blocks, manifests, strict=True):
        record = SlotRecord(plan.count(block), (manifest.path,))
        slots[block.slot : block.slot + 1] = [record]
    due = due_records(plan, index, rows, complete=complete)
    bounds = f"{snapshot.num_samples}-{snapshot.num_samples + len(rows)}"
    if len(due.replaced):
        path = write(f"{INDEX}/deleted-replaced-{bounds}", due.replaced, key=plan.id)
        parts.append(IndexPart("deleted", path))
    if blocks:
        path = write(f"{INDEX}/rows-{bounds}", rows, key=plan.id)
        parts.append(IndexPart("rows", path, blocks[0].start, blocks[-1].stop))
    if len(due.aliases):
        path = write(f"{INDEX}/aliases", due.aliases, key=plan.id)
        parts.append(IndexPart("aliases", path))
    following = replace(
        successor(snapshot, "append"),
        num_samples=snapshot.num_samples + len(rows),
        slots=tuple(slots),
        index=tuple(parts),
        finished_plan=plan.id if complete else snapshot.finished_plan,
        has_dead=snapshot.has_dead or len(due.replaced) > 0 or rows["id"].null_count > 0,
    )
    size = snapshot.schema.samples_per_shard
    return Appended(following, rows, {int(p) // size for p in due.changing})


def _block_rows(plan: AppendPlan, block: Block, manifest: Manifest) -> pa.Table:
    samples = plan.rows(block)
    for name in ("n_tokens", "truncated"):
        samples = samples.append_column(name, pa.array(manifest.result(name, len(block))))
    return samples.cast(ROW_SCHEMA)


def backfilled(
    plan: AppendPlan, blocks: Sequence[Block], manifests: Sequence[str], snapshot: Snapshot
) -> Snapshot:
    """The snapshot that follows by all blocks of added layers.

    Args:
        plan: of the layers.
        blocks: all of them.
        manifests: their paths, where the snapshot names them.
        snapshot: the last commit.
    """
    slots = list(snapshot.slots)
    for block, path in zip(blocks, manifests, strict=True):
        record = slots[block.slot]
        slots[block.slot] = record._replace(manifests=(*record.manifests, path))
    return replace(
        successor(snapshot, "backfill"),
        schema=backfilled_schema(snapshot.schema, plan),
        slots=tuple(slots),
        finished_plan=plan.id,
    )
