"""Small results beside the activations: weights as safetensors, cards as JSON, tables as Parquet.

Every writer publishes by rename, so a reader sees the old file or the new one, never half of one.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.numpy import save

from store import disk
from store.errors import StoreError

T = TypeVar("T")
AGAIN = "delete it and run its stage again"
"""What to do about a damaged file of a run."""


def _publish(path: Path, fill: Callable[[Path], object]) -> None:
    disk.make_directories(path.parent)
    disk.fill_file(path, fill, shared=True)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a JSON object with its checksum, indented, keys in the order given."""
    content = disk.encode_json(data)
    _publish(path, lambda file: file.write_bytes(content))


def read_json(path: Path, *, remedy: str = AGAIN) -> dict[str, Any]:
    """Read a JSON object; its checksum is compared and left out.

    Args:
        path: the file.
        remedy: what to do about a damaged one.

    Raises:
        StoreError: missing or damaged file.
    """
    content = _existing(path, path.read_bytes, max_bytes=disk.MAX_JSON_BYTES)
    return disk.decode_json(content, where=str(path), remedy=remedy)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays, of any shapes, as one safetensors file with a checksum."""
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    content = save(contiguous, metadata=disk.encode_metadata(contiguous))
    # not safetensors' `save_file`: that one fills a temporary file of its own beside ours, which
    # nobody knows to remove after a kill
    _publish(path, lambda file: file.write_bytes(content))


def read_arrays(path: Path, *, remedy: str = AGAIN) -> dict[str, NDArray[Any]]:
    """Read the arrays, of any shapes, of a safetensors file.

    Raises:
        StoreError: missing or damaged file.
    """
    return _existing(path, lambda: disk.read_checked_arrays(str(path), remedy=remedy))


def check_array(name: str, array: NDArray[Any], kind: str, shape: tuple[int | None, ...]) -> None:
    """Refuse an array of another type or shape than is expected of it.

    Args:
        name: of the array, for the error.
        array: any.
        kind: numpy's letter of its types, ``"f"``, ``"i"``.
        shape: as it must be; None for an axis of any length.

    Raises:
        ValueError: naming what was found and expected.
    """
    fits = array.ndim == len(shape) and all(
        wanted in (None, found) for wanted, found in zip(shape, array.shape, strict=True)
    )
    if array.dtype.kind != kind or not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(f"{name}: {array.dtype} {array.shape}, not {kind}… ({wanted})")


def write_table(path: Path, table: pa.Table) -> None:
    """Write an Arrow table as Parquet, with checksums of its columns and pages."""
    _publish(path, lambda file: disk.write_parquet(table, file))


def table_digest(table: pa.Table) -> str:
    """sha256 of a table's columns and rows, in their order; 64 hex digits."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return hashlib.sha256(sink.getvalue()).hexdigest()


def read_table(
    path: Path, columns: Sequence[str] | None = None, *, remedy: str = AGAIN
) -> pa.Table:
    """Read a Parquet file written by :func:`write_table`.

    Args:
        path: the file.
        columns: read these only.
        remedy: what to do about a damaged one.

    Raises:
        StoreError: missing or damaged file.
    """
    return _existing(
        path, lambda: disk.read_parquet(path, where=str(path), remedy=remedy, columns=columns)
    )


def _existing(path: Path, read: Callable[[], T], *, max_bytes: int | None = None) -> T:
    """What is read of a file that is there, a regular one and no longer than it may be."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):  # a pipe would be waited at for ever
            raise StoreError(f"{path}: is no file; remove it and run the stage that writes it")
        if max_bytes is not None and facts.st_size > max_bytes:
            raise StoreError(
                f"{path}: damaged ({facts.st_size:,} bytes, at most {max_bytes:,}); remove it and"
                " run the stage that writes it"
            )
        return read()
    except FileNotFoundError:
        raise StoreError(f"{path}: no such file; run the stage that writes it first") from None
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror or error})") from None
