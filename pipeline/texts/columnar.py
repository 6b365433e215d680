"""Files of columns: Parquet, and Arrow's own (Feather), whole or as a stream."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import CorpusError
from pipeline.texts.blocks import (
    BLOCK_CHARS,
    Blocks,
    RowBlock,
    Wanted,
    as_texts,
    missing_column,
    num_chars,
)
from pipeline.texts.framing import Unreadable, excerpt, too_long
from pipeline.texts.objects import ObjectPath

PARQUET_MAGIC = b"PAR1"
ARROW_MAGIC = b"ARROW1"
FEATHER1_MAGIC = b"FEA1"
STREAM_MAGIC = b"\xff\xff\xff\xff"
"""Before the first message of an Arrow stream."""
COLUMNAR = {
    PARQUET_MAGIC: "parquet",
    ARROW_MAGIC: "arrow",
    STREAM_MAGIC: "arrow",
    FEATHER1_MAGIC: "arrow",
}
"""First bytes -> format."""
_UNREADABLE = (pa.ArrowException, KeyError, ValueError, OverflowError)
"""What the readers raise; not all of it is Arrow's: two columns of one name, an unknown time zone,
a time beyond the year 9999."""
_AS_BYTES = {
    pa.string(): pa.binary(),
    pa.large_string(): pa.large_binary(),
    pa.string_view(): pa.binary_view(),
}


def read_parquet(path: Path, wanted: Wanted) -> Iterator[RowBlock]:
    """Parquet, a group of rows after the other."""
    _check_unpacked(path, PARQUET_MAGIC, "Parquet")
    try:
        with path.open("rb") as source, pq.ParquetFile(source) as file:
            schema = file.schema_arrow
        for column in wanted.columns:
            if column not in schema.names:
                raise missing_column(path, column, schema.names)
        texts = [name for name in wanted.columns if _is_text(schema.field(name).type)]
        yield from _blocks(_parquet_batches(path, wanted, texts), wanted)
    except _UNREADABLE as error:
        raise _unreadable(path, "Parquet", error) from None


def read_arrow(path: Path, wanted: Wanted) -> Iterator[RowBlock]:
    """Arrow IPC, of which Feather is another name: a file, or a stream such as ``datasets``
    keeps."""
    with path.open("rb") as file:
        magic = file.read(len(ARROW_MAGIC))
    if magic.startswith(FEATHER1_MAGIC):
        raise CorpusError(
            f"{path}: is Feather of version 1, which is given up; save it as Parquet, or as Feather"
            " of version 2"
        )
    whole = magic == ARROW_MAGIC
    if not whole:
        _check_unpacked(path, STREAM_MAGIC, "Arrow")
    try:
        with _mapped(path) as source:
            open_ = pa.ipc.open_file if whole else pa.ipc.open_stream
            schema = open_(source).schema
            for column in wanted.columns:
                if column not in schema.names:
                    raise missing_column(path, column, schema.names)
            source.seek(0)
            places = [schema.names.index(name) for name in wanted.columns]
            # The other columns stay packed, however much they are.
            reader = open_(source, options=pa.ipc.IpcReadOptions(included_fields=places))
            batches = (
                (reader.get_batch(number) for number in range(reader.num_record_batches))
                if whole
                else iter(reader)
            )
            yield from _blocks(_slices(batches, wanted), wanted)
    except _UNREADABLE as error:
        raise _unreadable(path, "Arrow", error) from None


def _mapped(path: Path) -> pa.NativeFile:
    """A file that Arrow reads as it lies there; an object by ranges."""
    if isinstance(path, ObjectPath):
        return pa.PythonFile(path.open("rb"), mode="r")
    return pa.memory_map(str(path))


def _check_unpacked(path: Path, magic: bytes, format: str) -> None:
    with path.open("rb") as file:
        if file.read(len(magic)) != magic:
            raise CorpusError(
                f"{path}: is not a readable {format} file: it does not begin as one; if it is"
                " packed, unpack it"
            )


def _unreadable(path: Path, format: str, error: Exception) -> CorpusError:
    reason = excerpt(str(error).partition("\n")[0])
    return CorpusError(f"{path}: is not a readable {format} file: {reason}")


def _parquet_batches(path: Path, wanted: Wanted, texts: list[str]) -> Iterator[pa.RecordBatch]:
    # Values that repeat, as a dictionary page has them, stay one value each: a page of one long
    # text may stand for a million rows.
    with path.open("rb") as source, pq.ParquetFile(source, read_dictionary=texts) as file:
        for group in range(file.num_row_groups):
            facts = file.metadata.row_group(group)
            row_bytes = max(facts.total_byte_size, 0) // max(facts.num_rows, 1) + 1
            yield from file.iter_batches(
                batch_size=max(1, min(wanted.block_rows, BLOCK_CHARS // row_bytes)),
                row_groups=[group],
                columns=list(wanted.columns),
            )


def _slices(batches: Iterator[pa.RecordBatch], wanted: Wanted) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        columns = batch.select(list(wanted.columns))
        for column in columns.columns:
            _check_places(column)
        row_bytes = columns.nbytes // max(len(columns), 1) + 1
        size = max(1, min(wanted.block_rows, BLOCK_CHARS // row_bytes))
        for start in range(0, len(columns), size):
            yield columns.slice(start, size)


def _check_places(column: pa.Array) -> None:
    """Refuse offsets that lead out of their buffer: Arrow takes those of a file on trust.

    Texts are checked as bytes, so that one that is no UTF-8 costs its row only.

    Raises:
        pa.ArrowInvalid: one does.
    """
    if pa.types.is_dictionary(column.type):
        column.validate()
        column.indices.validate(full=True)
        _check_places(column.dictionary)
    else:
        as_bytes = _AS_BYTES.get(column.type)
        (column if as_bytes is None else column.view(as_bytes)).validate(full=True)


def _blocks(batches: Iterator[pa.RecordBatch], wanted: Wanted) -> Iterator[RowBlock]:
    rows, start = Blocks(wanted), 1
    for batch in batches:
        columns = [_values(batch.column(name), wanted) for name in wanted.columns]
        for line, values in enumerate(zip(*columns, strict=True), start):
            bad = next((one for one in values if isinstance(one, Unreadable)), None)
            if bad is not None:
                wanted.on_bad(line, bad.reason, bad.excerpt)
                continue
            read = [one for one in values if not isinstance(one, Unreadable)]
            if rows.add(read, line, num_chars(read)):
                yield from rows.block()
        start += batch.num_rows
    yield from rows.block()


def _values(column: pa.Array, wanted: Wanted) -> list[str | Unreadable | None]:
    """A column's values as strings; what is no UTF-8, or too long, as what is wrong with it."""
    if _is_text(column.type):
        return [_decoded(one, wanted) for one in column.cast(pa.large_binary()).to_pylist()]
    if not pa.types.is_dictionary(column.type):
        return list(as_texts(column))
    used, places = np.unique(pc.fill_null(column.indices, -1).to_numpy(), return_inverse=True)
    values = column.dictionary.take(pa.array(np.maximum(used, 0)[used >= 0]))
    known: list[str | Unreadable | None] = [None] * int((used < 0).sum())
    known += _values(values, wanted)
    return [known[place] for place in places]


def _decoded(value: bytes | None, wanted: Wanted) -> str | Unreadable | None:
    if value is None:
        return None
    if len(value) > wanted.max_line_bytes:
        return Unreadable(0, too_long(wanted.max_line_bytes), excerpt(value))
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        return Unreadable(0, f"not UTF-8: byte 0x{value[error.start]:02X}", excerpt(value))


def _is_text(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_binary,
            pa.types.is_large_binary,
            pa.types.is_string_view,
            pa.types.is_binary_view,
        )
    )
