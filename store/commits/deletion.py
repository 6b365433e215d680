"""Tombstones: which records a deletion removes, and what readers of the Zarr view still see."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from store import disk
from store.layout import write_sample_chunks
from store.records import DELETED_SCHEMA, INDEX, IndexPart, SampleIndex, Snapshot, encode_parquet


def doomed_records(
    index: SampleIndex, ids: Sequence[str] | None, author_ids: Sequence[str] | None
) -> pa.Table:
    """The living records (id, position) with one of these ids or authors."""
    records = index.records
    keep = np.zeros(len(records), bool)
    for name, values in (("id", ids), ("author_id", author_ids)):
        if values is not None:
            wanted = pa.array([str(value) for value in values], pa.string())
            keep |= pc.is_in(records[name], value_set=wanted).to_numpy()
    return records.filter(pa.array(keep)).select(DELETED_SCHEMA.names)


def add_tombstones(root: Path, snapshot: Snapshot, doomed: pa.Table) -> Snapshot:
    """Write the tombstones; returns `snapshot` with them (not yet published)."""
    path = f"{INDEX}/deleted-{uuid.uuid4().hex[:12]}.parquet"
    disk.write_file(root / path, [encode_parquet(doomed)])
    index = (*snapshot.index, IndexPart("deleted", path))
    return replace(snapshot, index=index, has_dead=True)


def hide_in_coordinates(
    root: Path, snapshot: Snapshot, index: SampleIndex, doomed: pa.Table
) -> None:
    """Blank deleted ids and texts in the Zarr coordinates, which any reader may open."""
    size = snapshot.schema.samples_per_shard
    slots = {}
    for slot in np.unique(doomed["position"].to_numpy() // size).tolist():
        start = slot * size
        slots[slot] = index.visible_rows(start, start + snapshot.slots[slot].count)
    write_sample_chunks(root, snapshot.schema, slots)
