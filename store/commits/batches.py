"""Arrow files of a plan's rows, batch by batch: what is read is checked, and no more is read."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from store import disk
from store.disk import LocalLocation, ObjectLocation
from store.errors import StoreError

CHECKSUMS = b"salient.batches"
"""Key of the file's schema metadata: JSON, the checksums of each batch as its own metadata."""


def encode_batches(table: pa.Table, sizes: Iterable[int]) -> pa.Buffer:
    """A table as an Arrow file whose batches have so many rows, with checksums of each."""
    batches, sums, start = [], [], 0
    for size in sizes:
        part = disk.with_checksums(_without_hidden(table.slice(start, size).combine_chunks()))
        start += size
        batches += part.replace_schema_metadata(None).to_batches()
        sums.append({key.decode(): text.decode() for key, text in part.schema.metadata.items()})
    if len(batches) != len(sums):
        raise StoreError("a batch is too large for one Arrow array; use smaller shards")
    schema = table.schema.with_metadata({CHECKSUMS: json.dumps(sums).encode()})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))
    return sink.getvalue()


def _without_hidden(table: pa.Table) -> pa.Table:
    """The table without the bytes that Arrow may keep under what is null: deleted texts."""
    numbers = np.arange(len(table))
    columns = [
        column.take(pa.array(numbers, mask=pc.is_null(column).to_numpy()))
        for column in table.columns
    ]
    return pa.table(columns, schema=table.schema)


class BatchFile:
    """An Arrow file of a store, of which no more is read than is asked for.

    Files without checksums (of earlier versions) are taken as they are.

    Args:
        location: where the store is.
        path: of the file.
        schema: what its columns must be.
        remedy: what to do about a damaged one.

    Raises:
        FileNotFoundError: there is none.
        StoreError: no such file, or damaged.
    """

    def __init__(
        self,
        location: LocalLocation | ObjectLocation,
        path: str,
        schema: pa.Schema,
        *,
        remedy: str,
    ) -> None:
        self._where, self._remedy = f"{location.address}/{path}", remedy
        try:
            size = location.size(path)  # refuses what is no file, or leads out of the store
            if isinstance(location, LocalLocation):
                source = pa.memory_map(str(location.root / path))
            else:
                source = pa.PythonFile(_RangeFile(location, path, size), mode="r")
            self._file = pa.ipc.open_file(source)
            content = (self._file.schema.metadata or {}).get(CHECKSUMS)
            self._sums = None if content is None else list(json.loads(content))
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            raise self._damaged(str(error)) from None
        if not self._file.schema.equals(schema):
            raise self._damaged("its columns are not those that were written")
        if self._sums is not None and len(self._sums) != self._file.num_record_batches:
            raise self._damaged("batches are missing")

    def read(self, number: int, start: int, size: int) -> pa.Table:
        """The rows of one batch, which are those from `start` on."""
        if self._sums is None:
            return self.read_all().slice(start, size)
        if not 0 <= number < len(self._sums):
            raise self._damaged(f"there is no batch {number}")
        rows = self._checked(number)
        if len(rows) != size:
            raise self._damaged(f"batch {number} has {len(rows)} rows instead of {size}")
        return rows

    def read_all(self) -> pa.Table:
        """The rows of all batches."""
        count = self._file.num_record_batches
        empty = self._file.schema.remove_metadata().empty_table()
        return pa.concat_tables([empty, *(self._checked(number) for number in range(count))])

    def _checked(self, number: int) -> pa.Table:
        try:
            batch = self._file.get_batch(number)
            batch.validate(full=True)
            metadata = None if self._sums is None else dict(self._sums[number])
            table = pa.Table.from_batches([batch.replace_schema_metadata(metadata)])
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:
            raise self._damaged(str(error)) from None
        return disk.check_table(table, where=self._where, remedy=self._remedy)

    def _damaged(self, what: str) -> StoreError:
        return disk.damaged(self._where, what, self._remedy)


class _RangeFile(io.RawIOBase):
    """An object as a file that can be read anywhere."""

    def __init__(self, location: ObjectLocation, path: str, size: int) -> None:
        self._location, self._path = location, path
        self._size, self._at = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = base + offset
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        stop = self._size if size is None or size < 0 else min(self._at + size, self._size)
        content = self._location.read_range(self._path, self._at, stop)
        self._at += len(content)
        return content
