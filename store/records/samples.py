"""The sample index: which ids and texts the store knows, and at which positions.

A *row* is one position with one text; a *record* is one id that points at a row. The first record
of a row is its own id, further ones are aliases (other ids with an identical text). Deleting
removes records; a row that no record points at any more is dead: every read hides it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from store.disk import Location
from store.errors import StoreError
from store.records.snapshots import Snapshot

Positions = npt.NDArray[np.int64]

SAMPLE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("text_hash", pa.string()),
        ("created_at", pa.int64()),
        ("author_id", pa.string()),
    ]
)
ROW_SCHEMA = pa.schema(
    [*SAMPLE_SCHEMA, pa.field("n_tokens", pa.int32()), pa.field("truncated", pa.bool_())]
)
ALIAS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("position", pa.int64()),
        ("created_at", pa.int64()),
        ("author_id", pa.string()),
    ]
)
DELETED_SCHEMA = pa.schema([("id", pa.string()), ("position", pa.int64())])


def text_hash(text: str) -> str:
    """Content hash of a text: 32 hex digits (BLAKE2b, 16 bytes, of its UTF-8)."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def as_samples(table: pa.Table, *, store_text: bool) -> pa.Table:
    """Validate samples to append and bring them to `SAMPLE_SCHEMA`.

    Args:
        table: `id` (string or integer), and `text` or `text_hash` or both; optional `created_at`
            (int64 seconds) and `author_id`.
        store_text: False drops the text after hashing.

    Raises:
        StoreError: missing columns, missing ids, a text without hash.
    """
    names = table.column_names
    if "id" not in names or not {"text", "text_hash"} & set(names):
        raise StoreError(
            f"samples have the columns {', '.join(names)}; they need id and text (or text_hash)"
        )
    columns: dict[str, Any] = {}
    for field in SAMPLE_SCHEMA:
        if field.name in names:
            columns[field.name] = _cast(table, field)
        else:
            columns[field.name] = pa.nulls(len(table), field.type)
    if "text_hash" not in names:
        hashes = [None if text is None else text_hash(text) for text in columns["text"].to_pylist()]
        columns["text_hash"] = pa.array(hashes, pa.string())
    if not store_text:
        columns["text"] = pa.nulls(len(table), pa.string())
    for name in ("id", "text_hash"):
        missing = columns[name].null_count
        if missing:
            row = pc.index(pc.is_null(columns[name]), pa.scalar(True)).as_py()
            raise StoreError(f"samples: {missing} rows have no {name}, the first is row {row}")
    return pa.table(columns, schema=SAMPLE_SCHEMA)


def _cast(table: pa.Table, field: pa.Field) -> Any:
    column = table.column(field.name)
    if pa.types.is_timestamp(column.type) and field.name == "created_at":
        column = column.cast(pa.timestamp("s"), safe=False)
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise StoreError(
            f"samples: column {field.name} is {column.type}, needed is {field.type}"
        ) from error


class SampleIndex:
    """The index of one snapshot, replayed from its parts.

    Attributes:
        records: living records in order of arrival: id, position, created_at, author_id.
        dead: bool per position; True where nothing points any more.
    """

    def __init__(self, location: Location, snapshot: Snapshot) -> None:
        self._location = location
        self._snapshot = snapshot
        self._replay()

    def _replay(self) -> None:
        records = ALIAS_SCHEMA.empty_table()
        start = 0
        for part in self._snapshot.index:
            if part.kind == "rows":
                rows = self._read(part.path, ["id", "created_at", "author_id"])
                stop = start + len(rows)
                position = pa.array(np.arange(start, stop, dtype=np.int64))
                rows = rows.append_column("position", position).select(ALIAS_SCHEMA.names)
                rows = rows.filter(pc.is_valid(rows["id"]))
                records = pa.concat_tables([records, rows])
                start = stop
            elif part.kind == "aliases":
                records = pa.concat_tables([records, self._read(part.path, ALIAS_SCHEMA.names)])
            else:
                records = _without(records, self._read(part.path, DELETED_SCHEMA.names))
        self.records = records.combine_chunks()
        self.num_rows = start
        self.dead = np.ones(start, bool)
        self.dead[self.records["position"].to_numpy()] = False

    def _read(self, path: str, columns: Sequence[str] | None) -> pa.Table:
        return read_parquet(self._location, path, columns)

    @cached_property
    def _ids(self) -> pa.Array:
        return one_chunk(self.records["id"])

    @cached_property
    def _hashes(self) -> pa.Array:
        """Hash per position; null where dead, so that a deleted text is computed anew."""
        hashes = one_chunk(self.rows(["text_hash"])["text_hash"])
        if self.dead.any():
            hashes = pc.if_else(pa.array(~self.dead), hashes, pa.scalar(None, pa.string()))
        return hashes

    def rows(
        self, columns: Sequence[str] | None = None, *, start: int = 0, stop: int | None = None
    ) -> pa.Table:
        """The stored rows of positions `[start, stop)`, dead ones included, in position order."""
        wanted = pa.schema([ROW_SCHEMA.field(name) for name in columns or ROW_SCHEMA.names])
        stop = self.num_rows if stop is None else stop
        tables = [wanted.empty_table()]
        for part in self._snapshot.index:
            if part.kind == "rows" and part.start < stop and part.stop > start:
                first = max(start - part.start, 0)
                rows = self._read(part.path, wanted.names)
                tables.append(rows.slice(first, min(stop, part.stop) - part.start - first))
        return pa.concat_tables(tables)

    def owner_ids(self) -> pa.Array:
        """The id under which each position appears, `(samples,)`: its first living one, or null."""
        return self._ids.take(self._owners(0, self.num_rows))

    def _owners(self, start: int, stop: int) -> pa.Array:
        """For positions `[start, stop)`, the number of the first living record; null if none."""
        positions = self.records["position"].to_numpy()
        owner = np.full(stop - start, -1, np.int64)
        inside = np.flatnonzero((positions >= start) & (positions < stop))[::-1]
        owner[positions[inside] - start] = inside  # reversed: the earliest record wins
        return pa.array(owner, mask=owner < 0)

    def visible_rows(self, start: int, stop: int) -> pa.Table:
        """Rows `[start, stop)` as every reader may see them.

        A row whose own id was deleted appears under its next living id; a dead row is all null.
        """
        rows = self.rows(start=start, stop=stop)
        owner = self._owners(start, stop)
        owners = self.records.take(owner)
        alive = pc.is_valid(owner)
        columns = {}
        for field in ROW_SCHEMA:
            if field.name in ("id", "created_at", "author_id"):
                columns[field.name] = owners[field.name]
            else:
                null = pa.scalar(None, field.type)
                columns[field.name] = pc.if_else(alive, one_chunk(rows[field.name]), null)
        return pa.table(columns, schema=ROW_SCHEMA)

    def positions(self, ids: Sequence[str] | pa.Array) -> Positions:
        """int64 position of each id, `(n,)`, through aliases; -1 where unknown or deleted."""
        return _look_up(ids, self._ids, self.records["position"].to_numpy())

    def positions_by_hash(self, hashes: Sequence[str] | pa.Array) -> Positions:
        """int64 position of each content hash, `(n,)`; -1 where unknown or deleted."""
        return _look_up(hashes, self._hashes, np.arange(self.num_rows, dtype=np.int64))

    def hashes_at(self, positions: Positions) -> pa.Array:
        """Content hash of the texts at living positions `(n,)`."""
        return self._hashes.take(pa.array(positions))

    def was_deleted(self, ids: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        """Which ids were deleted and have not come back: `(n,)` bool."""
        gone = [one_chunk(self._read(part.path, ["id"])["id"]) for part in self._snapshot.deletions]
        if not gone:
            return np.zeros(len(ids), bool)
        deleted: npt.NDArray[np.bool_] = pc.is_in(ids, value_set=pa.concat_arrays(gone)).to_numpy()
        return deleted & (self.positions(ids) < 0)

    def in_period(self, since: int | None, until: int | None) -> npt.NDArray[np.bool_]:
        """Positions alive with a record of `since <= created_at < until`: `(samples,)` bool."""
        keep = pa.array(np.ones(len(self.records), bool))
        created = one_chunk(self.records["created_at"])
        if since is not None:
            keep = pc.and_(keep, pc.greater_equal(created, since))
        if until is not None:
            keep = pc.and_(keep, pc.less(created, until))
        mask = np.zeros(self.num_rows, bool)
        mask[self.records.filter(keep)["position"].to_numpy()] = True
        return mask

    def living(self) -> pa.Table:
        """Living rows in position order, under the first living id of each, with `position`."""
        rows = self.visible_rows(0, self.num_rows)
        position = pa.array(np.arange(self.num_rows, dtype=np.int64))
        return rows.append_column("position", position).filter(pa.array(~self.dead))


def _look_up(values: Sequence[str] | pa.Array, known: pa.Array, positions: Positions) -> Positions:
    array = values if isinstance(values, pa.Array | pa.ChunkedArray) else _strings(values)
    found = pc.index_in(array.cast(pa.string()), value_set=known, skip_nulls=True)
    found = one_chunk(found) if isinstance(found, pa.ChunkedArray) else found
    index = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    if len(positions) == 0:
        return np.full(len(index), -1, np.int64)
    return np.where(index < 0, -1, positions[index]).astype(np.int64)


def _strings(values: Sequence[Any]) -> pa.Array:
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def one_chunk(column: Any) -> pa.Array:
    """A column as one array, `(rows,)`."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)


def _without(records: pa.Table, deleted: pa.Table) -> pa.Table:
    """Records less the deleted (id, position) pairs."""
    marked = deleted.append_column("gone", pa.array(np.ones(len(deleted), bool)))
    order = records.append_column("order", pa.array(np.arange(len(records))))
    joined = order.join(marked, keys=["id", "position"], join_type="left outer")
    kept = np.sort(joined.filter(pc.is_null(joined["gone"]))["order"].to_numpy())
    return records.take(pa.array(kept))


def read_parquet(location: Location, path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one of the store's own tables; StoreError if it is missing or damaged."""
    try:
        return pq.read_table(pa.BufferReader(location.read(path)), columns=columns)
    except (FileNotFoundError, pa.ArrowInvalid, OSError) as error:
        what = "missing" if isinstance(error, FileNotFoundError) else "damaged"
        raise StoreError(
            f"{location.address}/{path}: the table is {what}; restore it from a backup"
        ) from error


def encode_parquet(table: pa.Table) -> bytes:
    """A table as Parquet bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())
