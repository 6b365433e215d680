"""Writing the small Zarr arrays: axis coordinates and the per-sample columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from store import disk
from store.layout.documents import (
    NAMED_AXES,
    NO_TIME,
    axis_coordinates,
    encode_numbers,
    encode_strings,
    sample_coordinates,
)
from store.layout.schema import StoreSchema

_FILLS = {"n_tokens": 0, "truncated": False, "created_at": NO_TIME}


def write_axis_coordinates(root: Path, schema: StoreSchema) -> None:
    """Write layer, pooling and unit coordinates, one chunk each."""
    disk.write_files(
        {
            root / axis_chunk_path(name): [encode_axis_chunk(schema, name)]
            for name in axis_coordinates(schema)
        }
    )


def axis_chunk_path(name: str) -> str:
    """Path of the one chunk of an axis coordinate."""
    return f"{name}/c/0"


def check_axis_chunk(content: bytes, name: str, schema: StoreSchema) -> bool:
    """Whether a stored chunk says what the schema does (a backfill under way may say more)."""
    expected = encode_axis_chunk(schema, name)
    if name in NAMED_AXES:
        return content == expected
    shown = 8 * len(axis_coordinates(schema)[name][0])
    return len(content) == len(expected) and content[:shown] == expected[:shown]


def encode_axis_chunk(schema: StoreSchema, name: str) -> bytes:
    """The one chunk of an axis coordinate."""
    values, chunk = axis_coordinates(schema)[name]
    if name in NAMED_AXES:
        return encode_strings([str(value) for value in values], chunk)
    padded = np.zeros(chunk, "<i8")
    padded[: len(values)] = np.asarray(values, dtype=np.int64)
    return padded.tobytes()


def write_sample_chunks(root: Path, schema: StoreSchema, slots: Mapping[int, pa.Table]) -> None:
    """Write the chunks of every per-sample coordinate for some slots, given all rows of each.

    A chunk that replaces a shorter one begins with the same rows, so readers are not disturbed.
    """
    disk.write_files(
        {
            root / name / "c" / str(slot): [
                encode_sample_chunk(name, rows, schema.samples_per_shard)
            ]
            for name in sample_coordinates(schema)
            for slot, rows in slots.items()
        }
    )


def check_sample_chunk(content: bytes, name: str, rows: pa.Table, size: int) -> bool:
    """Whether a stored chunk begins with `rows` (a later append may have added more).

    What follows them must be readable too: plain Zarr readers decode whole chunks.
    """
    expected = encode_sample_chunk(name, rows, size)
    if content == expected:
        return True
    if name in _FILLS:
        prefix = len(expected) // size * len(rows)
        return len(content) == len(expected) and content[:prefix] == expected[:prefix]
    prefix = len(expected) - 4 * (size - len(rows))  # an empty string is its 4-byte length
    return content[:prefix] == expected[:prefix] and _are_strings(
        content[prefix:], size - len(rows)
    )


def _are_strings(content: bytes, number: int) -> bool:
    """Whether these bytes are so many strings and nothing else."""
    place = 0
    for _ in range(number):
        if place + 4 > len(content):
            return False
        stop = place + 4 + int.from_bytes(content[place : place + 4], "little")
        try:
            content[place + 4 : stop].decode()
        except UnicodeDecodeError:
            return False
        place = stop
    return place == len(content)


def encode_sample_chunk(name: str, rows: pa.Table, size: int) -> bytes:
    """The chunk of a per-sample coordinate, of `rows` of a slot of `size`."""
    column = rows["id" if name == "sample_id" else name]
    if name in _FILLS:
        return encode_numbers(column.fill_null(_FILLS[name]).to_numpy(), size, name)
    return encode_strings(column.to_pylist(), size)
