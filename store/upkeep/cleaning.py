"""What a store holds without a trace of what was deleted: for a compaction, and for copies.

Positions stay what they are. A deleted sample's numbers are NaN, its row holds nothing, its id is
in no table; a slot whose samples are all deleted has no shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store.commits import summarise
from store.disk import Location, ObjectLocation
from store.layout import ArrayLayout, LayerSummary, shard_index
from store.reading import ActivationReader
from store.records import IndexPart, SampleIndex, Snapshot, read_label_file

NUM_THREADS = 4
"""Shards in work at once, each whole in memory."""

AnyArray = npt.NDArray[np.generic]
Mask = npt.NDArray[np.bool_]


class CleanShard(NamedTuple):
    """The numbers of one layer of one slot.

    Attributes:
        layout: of the array.
        layer: by value.
        values: `(rows, samples_per_shard)`, NaN where deleted and behind the last sample.
        summary: its checksums and moments.
    """

    layout: ArrayLayout
    layer: int
    values: AnyArray
    summary: LayerSummary


def sound_reader(location: Location, snapshot: Snapshot) -> ActivationReader:
    """A reader that compares all that it reads with checksums, and shows what is deleted too."""
    nobody = np.broadcast_to(np.False_, snapshot.num_samples)
    return ActivationReader(location, snapshot, nobody, check="always")


def layers_of(snapshot: Snapshot) -> list[tuple[ArrayLayout, int]]:
    """All arrays and layers of a store."""
    return [(a, layer) for a in snapshot.schema.arrays.values() for layer in a.layers]


def clean_shard(
    reader: ActivationReader, layout: ArrayLayout, layer: int, slot: int, dead: Mask
) -> CleanShard:
    """One shard without the dead samples.

    Args:
        reader: from `sound_reader`.
        layout: of the array.
        layer: by value.
        slot: whose shard.
        dead: `(samples,)` bool, of the whole store.
    """
    size = reader.schema.samples_per_shard
    stored = reader.read_committed(layout.name, layer, slot)
    count = stored.shape[1]
    values = np.full((layout.rows, size), np.nan, reader.schema.dtype)
    values[:, :count] = stored
    values[:, :count][:, dead[slot * size : slot * size + count]] = np.nan
    return CleanShard(layout, layer, values, summarise(values[:, :count]))


def put_shard(location: ObjectLocation, path: str, values: AnyArray) -> int:
    """Write a block `(rows, samples_per_shard)` as a shard's object; returns its length."""
    index = shard_index(values.shape[0], values.shape[1] * values.itemsize)
    return location.put(path, [values, index]).size


def empty_slots(snapshot: Snapshot, dead: Mask) -> set[int]:
    """The slots whose samples are all dead."""
    size = snapshot.schema.samples_per_shard
    slots = range(len(snapshot.slots))
    return {slot for slot in slots if dead[slot * size : (slot + 1) * size].all()}


def clean_index(index: SampleIndex, snapshot: Snapshot) -> Iterator[tuple[IndexPart, pa.Table]]:
    """The parts of the index as readers see them, each with its table.

    Rows appear under their first living id; the further ids follow in one part; nothing is left to
    be marked as deleted. A part that says what it said before comes as it is, path and all; of a
    changed one the path is "".
    """
    for part in snapshot.index:
        if part.kind != "rows":
            continue
        rows = index.visible_rows(part.start, part.stop)
        same = rows.equals(index.rows(start=part.start, stop=part.stop))
        yield part if same else replace(part, path=""), rows
    further = _further_ids(index)
    if len(further):
        yield IndexPart("aliases", ""), further


def _further_ids(index: SampleIndex) -> pa.Table:
    """Living ids beside the one that each row appears under, in order of arrival."""
    positions = index.records["position"].to_numpy()
    _, first = np.unique(positions, return_index=True)
    further = np.ones(len(positions), bool)
    further[first] = False
    return index.records.filter(pa.array(further))


def clean_labels(location: Location, path: str, index: SampleIndex) -> tuple[pa.Table, bool]:
    """A table of labels without deleted ids, and whether it held any."""
    table = read_label_file(location, path)
    gone = index.was_deleted(table["id"])
    return table.filter(pa.array(~gone)), bool(gone.any())
