"""Small results beside the activations: weights as safetensors, cards as JSON, tables as Parquet.

Every writer publishes by rename, so a reader sees the old file or the new one, never half of one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from store import disk
from store.errors import StoreError


def _publish(path: Path, fill: Callable[[Path], object]) -> None:
    disk.make_directories(path.parent)
    disk.fill_file(path, fill, shared=True)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON object, indented, keys in the order given."""
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    _publish(path, lambda file: file.write_bytes(text.encode()))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        StoreError: missing or damaged file.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file; run the stage that writes it first") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: damaged ({error}); delete it and run its stage again") from None
    if not isinstance(data, dict):
        raise StoreError(f"{path}: holds no JSON object; delete it and run its stage again")
    return data


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays, of any shapes, as one safetensors file."""
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    _publish(path, lambda file: save_file(contiguous, file))


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays, of any shapes, of a safetensors file.

    Raises:
        StoreError: missing or damaged file.
    """
    try:
        return dict(load_file(path))
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file; run the stage that writes it first") from None
    except (SafetensorError, OSError) as error:
        raise StoreError(f"{path}: damaged ({error}); delete it and run its stage again") from None


def write_table(path: Path, table: pa.Table) -> None:
    """Write an Arrow table as Parquet."""
    _publish(path, lambda file: pq.write_table(table, file, compression="zstd"))


def table_digest(table: pa.Table) -> str:
    """sha256 of a table's columns and rows, in their order; 64 hex digits."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()


def read_table(path: Path) -> pa.Table:
    """Read a Parquet file written by :func:`write_table`.

    Raises:
        StoreError: missing or damaged file.
    """
    try:
        return pq.read_table(path, partitioning=None)
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file; run the stage that writes it first") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"{path}: damaged ({error}); delete it and run its stage again") from None
