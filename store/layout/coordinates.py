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
    files = {}
    for name, (values, chunk) in axis_coordinates(schema).items():
        if name in NAMED_AXES:
            content = encode_strings([str(value) for value in values], chunk)
        else:
            padded = np.zeros(chunk, "<i8")
            padded[: len(values)] = np.asarray(values, dtype=np.int64)
            content = padded.tobytes()
        files[root / name / "c" / "0"] = [content]
    disk.write_files(files)


def write_sample_chunks(root: Path, schema: StoreSchema, slots: Mapping[int, pa.Table]) -> None:
    """Write the chunks of every per-sample coordinate for some slots, given all rows of each.

    A chunk that replaces a shorter one begins with the same rows, so readers are not disturbed.
    """
    disk.write_files(
        {
            root / name / "c" / str(slot): [_encode_chunk(name, rows, schema.samples_per_shard)]
            for name in sample_coordinates(schema)
            for slot, rows in slots.items()
        }
    )


def check_sample_chunk(content: bytes, name: str, rows: pa.Table, size: int) -> bool:
    """Whether a stored chunk begins with `rows` (a later append may have added more)."""
    expected = _encode_chunk(name, rows, size)
    if name not in _FILLS:
        prefix = len(expected) - 4 * (size - len(rows))  # an empty string is its 4-byte length
    else:
        prefix = len(expected) // size * len(rows)
    return content[:prefix] == expected[:prefix]


def _encode_chunk(name: str, rows: pa.Table, size: int) -> bytes:
    column = rows["id" if name == "sample_id" else name]
    if name in _FILLS:
        return encode_numbers(column.fill_null(_FILLS[name]).to_numpy(), size, name)
    return encode_strings(column.to_pylist(), size)
