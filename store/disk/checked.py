"""Bytes that show when they were damaged: JSON, arrays and tables with checksums inside.

    content = encode_json({"layers": [1, 2]})
    data = decode_json(content, where="run/card.json", remedy="delete it and run its stage again")

Whatever Salient keeps for itself and reads again is written and read here, so that a flipped bit is
a StoreError that names the file, and never another number. The formats stay what they are: a
checksum is one more member of a JSON object, one more entry of a safetensors file's metadata, and
one of a Parquet schema's. Content without a checksum (of earlier versions, or of a person) is taken
as it is. The checksum is crc32c, against accidents, not against people.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import safetensors
import safetensors.numpy
from safetensors import SafetensorError

from store.errors import StoreError

AnyArray = npt.NDArray[Any]
CHECKSUM = "checksum"
"""Last member of a JSON object, and key of a safetensors file's metadata."""
COLUMN_CHECKSUMS = b"salient.checksums"
"""Key of a table's schema metadata: JSON, name of a column -> its checksum."""
MAX_JSON_BYTES = 2**28
FROM_BACKUP = "restore it from a backup"
"""What to do about a damaged file that nothing else can make again."""


def damaged(where: str, what: str, remedy: str) -> StoreError:
    """The error for damaged content."""
    return StoreError(f"{where}: damaged ({what}); {remedy}")


def checksum(*parts: Any) -> str:
    """The crc32c of the concatenation of some buffers, as it is kept: ``crc32c:0a1b2c3d``."""
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return f"crc32c:{crc:08x}"


# -- JSON -----------------------------------------------------------------------------------------


def json_checksum(data: Mapping[str, Any]) -> str:
    """The checksum of what a JSON object says, however it is spaced and ordered."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return checksum(text.encode())


def encode_json(data: Mapping[str, Any], *, indent: int | None = 2) -> bytes:
    """A JSON object with its checksum, keys in the order given.

    Raises:
        ValueError: it holds NaN, or a member of the checksum's name.
        StoreError: it is longer than what `decode_json` reads.
    """
    if CHECKSUM in data:
        raise ValueError(f"a member {CHECKSUM!r}, which is kept for the checksum of the others")
    plain = json.loads(json.dumps(data, allow_nan=False))
    whole = {**plain, CHECKSUM: json_checksum(plain)}
    text = json.dumps(whole, indent=indent, ensure_ascii=False)
    content = (text + "\n").encode("utf-8", "surrogatepass")
    if len(content) > MAX_JSON_BYTES:
        raise StoreError(
            f"a JSON file of {len(content):,} bytes could not be read again, at most "
            f"{MAX_JSON_BYTES:,} can; nothing was written: keep less in it"
        )
    return content


def decode_json(content: bytes, *, where: str, remedy: str) -> dict[str, Any]:
    """The object that `encode_json` wrote, without its checksum.

    Args:
        content: the bytes of the file.
        where: the file, for the error.
        remedy: what to do about a damaged one.

    Raises:
        StoreError: no JSON object, too large, or not what its checksum says.
    """
    return take_checksum(parse_json(content, where=where, remedy=remedy), where, remedy)


def parse_json(content: bytes, *, where: str, remedy: str) -> dict[str, Any]:
    """The object as it stands, its checksum with it; for the rest see `decode_json`."""
    if len(content) > MAX_JSON_BYTES:
        raise damaged(where, f"{len(content):,} bytes, at most {MAX_JSON_BYTES:,}", remedy)
    try:
        data = json.loads(content.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise damaged(where, str(error), remedy) from None
    if not isinstance(data, dict):
        raise StoreError(f"{where}: holds no JSON object; {remedy}")
    return data


def take_checksum(data: Mapping[str, Any], where: str, remedy: str) -> dict[str, Any]:
    """The object without its checksum, once that has been compared, if it has one."""
    said = {name: value for name, value in data.items() if name != CHECKSUM}
    stated = data.get(CHECKSUM)
    if stated is not None and stated != json_checksum(said):
        raise damaged(
            where,
            "it differs from its checksum",
            f'{remedy} (if you changed it yourself, take out its member "{CHECKSUM}")',
        )
    return said


# -- arrays ---------------------------------------------------------------------------------------


def arrays_checksum(arrays: Mapping[str, AnyArray]) -> str:
    """The checksum of names, types, shapes and values of some arrays."""
    parts: list[Any] = []
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        parts += (f"{name}\0{array.dtype.str}\0{array.shape}\0".encode(), _bytes_of(array))
    return checksum(*parts)


def encode_metadata(arrays: Mapping[str, AnyArray]) -> dict[str, str]:
    """What goes into the metadata of a safetensors file of these arrays."""
    return {CHECKSUM: arrays_checksum(arrays)}


def read_checked_arrays(path: str, *, remedy: str) -> dict[str, AnyArray]:
    """All arrays of a safetensors file; FileNotFoundError if there is none.

    Raises:
        StoreError: no safetensors file, cut short, or not what its checksum says.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, MemoryError) as error:
        raise damaged(path, str(error), remedy) from None
    stated = metadata.get(CHECKSUM)
    if stated is not None and stated != arrays_checksum(arrays):
        raise damaged(path, "it differs from its checksum", remedy)
    return arrays


def _bytes_of(array: AnyArray) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


# -- tables ---------------------------------------------------------------------------------------


def with_checksums(table: pa.Table) -> pa.Table:
    """The table with a checksum of each column in its schema's metadata."""
    sums = {name: column_checksum(table[name]) for name in table.column_names}
    metadata = {**(table.schema.metadata or {}), COLUMN_CHECKSUMS: json.dumps(sums).encode()}
    return table.replace_schema_metadata(metadata)


def check_table(
    table: pa.Table, *, where: str, remedy: str, columns: Sequence[str] | None = None
) -> pa.Table:
    """The table without its checksums, once every column has been compared with its own.

    Args:
        table: as it was read, all rows of it.
        where: the file, for the error.
        remedy: what to do about a damaged one.
        columns: what was asked for; by default all columns that were written.

    Raises:
        StoreError: a column is missing or not what its checksum says.
    """
    metadata = dict(table.schema.metadata or {})
    content = metadata.pop(COLUMN_CHECKSUMS, None)
    if content is None:
        return table
    try:
        sums = dict(json.loads(content))
    except (ValueError, TypeError) as error:
        raise damaged(where, f"its checksums cannot be read: {error}", remedy) from None
    wanted = list(sums if columns is None else columns)
    if sorted(wanted) != sorted(table.column_names):
        raise damaged(where, "its columns are not those that were written", remedy)
    for name in wanted:
        try:
            sound = sums.get(name) == column_checksum(table[name])
        except pa.ArrowException:  # a type that nobody wrote
            sound = False
        if not sound:
            raise damaged(where, f"column {name!r} differs from its checksum", remedy)
    return table.replace_schema_metadata(metadata or None)


def encode_parquet(table: pa.Table) -> bytes:
    """A table as Parquet bytes, with checksums of its columns and of its pages."""
    sink = pa.BufferOutputStream()
    write_parquet(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def write_parquet(table: pa.Table, sink: Any) -> None:
    """Write what `encode_parquet` encodes to a path or an open file."""
    pq.write_table(with_checksums(table), sink, compression="zstd", write_page_checksum=True)


def read_parquet(
    source: Any, *, where: str, remedy: str, columns: Sequence[str] | None = None
) -> pa.Table:
    """The table of a Parquet file; FileNotFoundError if there is none.

    Args:
        source: a path, a `pyarrow.Buffer` or an open file.
        where: the file, for the error.
        remedy: what to do about a damaged one.
        columns: read these only, in this order.

    Raises:
        StoreError: no Parquet file, damaged, or without one of the columns.
    """
    wanted = None if columns is None else list(columns)
    try:
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            table = file.read(columns=wanted)
        table.validate(full=True)
    except FileNotFoundError:
        raise
    # Arrow's errors are of several families, and the names of columns may be no UTF-8 any more.
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise damaged(where, str(error), remedy) from None
    missing = [name for name in wanted or () if name not in table.column_names]
    if missing:
        raise damaged(where, f"it has no column {missing[0]!r}", remedy)
    return check_table(table, where=where, remedy=remedy, columns=wanted)


def column_checksum(column: pa.Array | pa.ChunkedArray) -> str:
    """The checksum of a column `(rows,)`, however it is cut in chunks and laid out in memory."""
    return checksum(*_parts_of(one_array(column)))


def one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column as one array, `(rows,)`; StoreError if it is too long for that."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # too long for one array
        raise StoreError(f"a table of {len(column):,} rows is too long for one file; cut it")
    return column


def _parts_of(array: pa.Array) -> list[Any]:
    """Type, length, which values are there, and the values: the same for equal arrays."""
    if pa.types.is_dictionary(array.type):
        return _parts_of(array.dictionary_decode())
    if pa.types.is_timestamp(array.type) and array.type.unit == "s":
        # Parquet knows no seconds and gives back milliseconds.
        return _parts_of(array.cast(pa.timestamp("ms", array.type.tz)))
    kind = array.type
    valid = np.packbits(array.is_valid().to_numpy(zero_copy_only=False))
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    name = "list" if is_list else str(kind)  # what a list calls its items may change on the way
    parts: list[Any] = [name.encode(), struct.pack("<Q", len(array)), _bytes_of(valid)]
    if pa.types.is_null(kind):
        return parts
    if is_list:
        lengths = pc.list_value_length(array).fill_null(0).cast(pa.int64())
        return [*parts, _bytes_of(lengths.to_numpy()), *_parts_of(array.flatten())]
    if pa.types.is_boolean(kind):
        values = array.fill_null(False).to_numpy(zero_copy_only=False)
        return [*parts, _bytes_of(np.packbits(values))]
    if pa.types.is_primitive(kind):
        raw = array.view(getattr(pa, f"uint{kind.bit_width}")()).fill_null(0)
        return [*parts, _bytes_of(raw.to_numpy())]
    wide = array.cast(pa.large_binary()) if not pa.types.is_large_binary(kind) else array
    filled = pa.concat_arrays([wide.fill_null(b"")])
    lengths = pc.binary_length(filled).cast(pa.int64()).to_numpy()
    offsets, data = filled.buffers()[1:]
    bounds = np.frombuffer(offsets, np.int64)[filled.offset : filled.offset + len(filled) + 1]
    start, stop = (int(bounds[0]), int(bounds[-1])) if len(bounds) else (0, 0)
    content = np.frombuffer(data, np.uint8)[start:stop] if stop else b""
    return [*parts, _bytes_of(lengths), content]
