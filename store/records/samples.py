"""The sample index: which ids and texts the store knows, and at which positions.

A *row* is one position with one text; a *record* is one id that points at a row. The first record
of a row is its own id, further ones are aliases (other ids with an identical text). Deleting
removes records; a row that no record points at any more is dead: every read hides it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from store import disk
from store.disk import Location
from store.errors import StoreBusy, StoreError, StoreInputError
from store.records.history import load_snapshot
from store.records.snapshots import IndexPart, Snapshot

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
_OF_RECORD = ("id", "created_at", "author_id")
"""What a row shows of its first living record; the rest is its own."""
PART_BYTES = 2**24
"""About what a part of the index takes in memory while it is read."""
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
        raise StoreInputError(
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
            raise StoreInputError(f"samples: {missing} rows have no {name}, the first is row {row}")
    return pa.table(columns, schema=SAMPLE_SCHEMA)


def _cast(table: pa.Table, field: pa.Field) -> Any:
    column = table.column(field.name)
    if pa.types.is_timestamp(column.type) and field.name == "created_at":
        column = column.cast(pa.timestamp("s"), safe=False)
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise StoreInputError(
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
        # The last part that was read, all of it, while slots are gone through one by one.
        self._held: dict[str, pa.Table] | None = None
        self._replay()

    def _replay(self) -> None:
        records = ALIAS_SCHEMA.empty_table()
        start = 0
        tables = self._consistent_parts()
        deleted = [tables[part.path]["id"] for part in self._snapshot.deletions]
        self._deleted = pa.concat_arrays([pa.array([], pa.string()), *map(disk.one_array, deleted)])
        for part in self._snapshot.index:
            if part.kind == "rows":
                rows = tables[part.path]
                stop = start + len(rows)
                position = pa.array(np.arange(start, stop, dtype=np.int64))
                rows = rows.append_column("position", position).select(ALIAS_SCHEMA.names)
                rows = rows.filter(pc.is_valid(rows["id"]))
                records = pa.concat_tables([records, rows])
                start = stop
            elif part.kind == "aliases":
                aliases = tables[part.path]
                self._check_positions(part, aliases)
                if self._snapshot.has_dead:
                    aliases = _not_there(aliases, records)
                records = pa.concat_tables([records, aliases])
            else:
                records = _without(records, tables[part.path])
        self.records = records.combine_chunks()
        self.num_rows = start
        self.dead = np.ones(start, bool)
        self.dead[self.records["position"].to_numpy()] = False

    def _consistent_parts(self) -> dict[str, pa.Table]:
        """All parts by path, as they are together before, amid or after a compaction.

        It rewrites rows, then aliases, then tombstones; they are read the other way round, and
        again if tombstones changed meanwhile.
        """
        if self._snapshot.on_bucket:  # nothing is rewritten, and a request waits for its answer
            parts = self._snapshot.index
            tables = disk.in_order(self._part, parts, disk.lanes(self._location, PART_BYTES))
            return {part.path: table for part, table in zip(parts, tables, strict=True)}
        deleted = self._tables_of("deleted", DELETED_SCHEMA)
        while True:
            others = self._tables_of("aliases", ALIAS_SCHEMA)
            others |= {
                part.path: self._rows_of(part, _OF_RECORD)
                for part in self._snapshot.index
                if part.kind == "rows"
            }
            before, deleted = deleted, self._tables_of("deleted", DELETED_SCHEMA)
            if all(before[path].equals(table) for path, table in deleted.items()):
                return others | deleted

    def _part(self, part: IndexPart) -> pa.Table:
        """What is needed of a part to replay it."""
        if part.kind == "rows":
            return self._rows_of(part, _OF_RECORD)
        return self._read(part.path, ALIAS_SCHEMA if part.kind == "aliases" else DELETED_SCHEMA)

    def _tables_of(self, kind: str, schema: pa.Schema) -> dict[str, pa.Table]:
        paths = [part.path for part in self._snapshot.index if part.kind == kind]
        return {path: self._read(path, schema) for path in paths}

    def _read(self, path: str, schema: pa.Schema) -> pa.Table:
        return read_parquet(self._location, path, schema)

    def _rows_of(self, part: IndexPart, names: Sequence[str]) -> pa.Table:
        """Columns of a part of the rows, with a row for each of its positions."""
        schema = pa.schema([ROW_SCHEMA.field(name) for name in names])
        held = {} if self._held is None else self._held
        if part.path not in held:
            held.clear()
            expected = part.stop - part.start
            held[part.path] = read_parquet(self._location, part.path, schema, num_rows=expected)
        return held[part.path]

    def _check_positions(self, part: IndexPart, table: pa.Table) -> None:
        found = table["position"]
        bounds = pc.min_max(found).as_py()
        last = self._snapshot.num_samples - 1
        inside = not len(found) or 0 <= bounds["min"] <= bounds["max"] <= last
        if found.null_count or pc.any(pc.is_null(table["id"])).as_py() or not inside:
            raise disk.damaged(
                f"{self._location.address}/{part.path}",
                "it names positions that are none",
                disk.FROM_BACKUP,
            )

    def first(self, number: int) -> SampleIndex:
        """This index less the positions from `number` on, which a later snapshot has more."""
        if number < self.num_rows:
            at = self.records["position"].to_numpy()
            self.records = self.records.filter(pa.array(at < number)).combine_chunks()
            self.dead = self.dead[:number]
            self.num_rows = number
        return self

    @cached_property
    def _ids(self) -> pa.Array:
        return disk.one_array(self.records["id"])

    @cached_property
    def _hashes(self) -> pa.Array:
        """Hash per position; null where dead, so that a deleted text is computed anew."""
        hashes = disk.one_array(self.rows(["text_hash"])["text_hash"])
        if self.dead.any():
            hashes = pc.if_else(pa.array(~self.dead), hashes, pa.scalar(None, pa.string()))
        return hashes

    def rows(
        self, columns: Sequence[str] | None = None, *, start: int = 0, stop: int | None = None
    ) -> pa.Table:
        """The stored rows of positions `[start, stop)`, dead ones included, in position order."""
        while True:
            shown = self._snapshot  # other threads may go on to a later one meanwhile
            try:
                return self._rows(shown, columns, start, stop)
            except StoreError as error:
                # Positions never move: the last commit has the same rows, less what was deleted.
                self._snapshot = after_compaction(self._location, shown, error)

    def _rows(
        self, shown: Snapshot, columns: Sequence[str] | None, start: int, stop: int | None
    ) -> pa.Table:
        wanted = pa.schema([ROW_SCHEMA.field(name) for name in columns or ROW_SCHEMA.names])
        stop = self.num_rows if stop is None else stop
        parts = [
            part
            for part in shown.index
            if part.kind == "rows" and part.start < stop and part.stop > start
        ]

        def read(part: IndexPart) -> pa.Table:
            first = max(start - part.start, 0)
            rows = self._rows_of(part, wanted.names)
            return rows.slice(first, min(stop, part.stop) - part.start - first)

        # What is held for the next slots is one thread's.
        at_once = 1 if self._held is not None else disk.lanes(self._location, PART_BYTES)
        return pa.concat_tables([wanted.empty_table(), *disk.in_order(read, parts, at_once)])

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

    def visible_rows(
        self, start: int, stop: int, columns: Sequence[str] = tuple(ROW_SCHEMA.names)
    ) -> pa.Table:
        """Rows `[start, stop)` as every reader may see them.

        A row whose own id was deleted appears under its next living id; a dead row is all null.
        """
        wanted = pa.schema([ROW_SCHEMA.field(name) for name in columns])
        own = [name for name in columns if name not in _OF_RECORD]
        rows = self.rows(own, start=start, stop=stop) if own else None
        owner = self._owners(start, stop)
        owners = self.records.take(owner)
        alive = pc.is_valid(owner)
        found = {}
        for field in wanted:
            if rows is None or field.name in _OF_RECORD:
                found[field.name] = owners[field.name]
            else:
                null = pa.scalar(None, field.type)
                found[field.name] = pc.if_else(alive, disk.one_array(rows[field.name]), null)
        return pa.table(found, schema=wanted)

    def visible_slots(self, slots: Iterable[int]) -> dict[int, pa.Table]:
        """`visible_rows` of whole slots; each part of the index is read once."""
        size = self._snapshot.schema.samples_per_shard
        self._held = {}
        try:
            return {
                slot: self.visible_rows(slot * size, min((slot + 1) * size, self.num_rows))
                for slot in sorted(slots)
            }
        finally:
            self._held = None

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
        if not len(self._deleted):
            return np.zeros(len(ids), bool)
        deleted: npt.NDArray[np.bool_] = pc.is_in(ids, value_set=self._deleted).to_numpy()
        return deleted & (self.positions(ids) < 0)

    def in_period(self, since: int | None, until: int | None) -> npt.NDArray[np.bool_]:
        """Positions alive with a record of `since <= created_at < until`: `(samples,)` bool."""
        keep = pa.array(np.ones(len(self.records), bool))
        created = disk.one_array(self.records["created_at"])
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
    found = disk.one_array(found) if isinstance(found, pa.ChunkedArray) else found
    index = found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    if len(positions) == 0:
        return np.full(len(index), -1, np.int64)
    return np.where(index < 0, -1, positions[index]).astype(np.int64)


def _strings(values: Sequence[Any]) -> pa.Array:
    return pa.array([None if value is None else str(value) for value in values], pa.string())


def _not_there(aliases: pa.Table, records: pa.Table) -> pa.Table:
    """Aliases less those that a compaction, maybe killed since, has made their rows' own ids."""
    at = (
        pc.index_in(aliases["id"], value_set=disk.one_array(records["id"])).fill_null(-1).to_numpy()
    )
    own = records["position"].to_numpy()
    same = (at >= 0) & (own[at] == aliases["position"].to_numpy()) if len(own) else at >= 0
    return aliases.filter(pa.array(~same))


def _without(records: pa.Table, deleted: pa.Table) -> pa.Table:
    """Records less the deleted (id, position) pairs."""
    marked = deleted.append_column("gone", pa.array(np.ones(len(deleted), bool)))
    order = records.append_column("order", pa.array(np.arange(len(records))))
    joined = order.join(marked, keys=["id", "position"], join_type="left outer")
    kept = np.sort(joined.filter(pc.is_null(joined["gone"]))["order"].to_numpy())
    return records.take(pa.array(kept))


def after_compaction(location: Location, shown: Snapshot, error: StoreError) -> Snapshot:
    """The last commit, whose tables replace those of `shown` that cannot be read; or the error.

    A bucket's compaction writes tables of other names, and then deletes the ones before.
    """
    if isinstance(error, StoreBusy) or not shown.on_bucket:
        raise error
    newest = load_snapshot(location, known=shown)
    if newest.id == shown.id:
        raise error
    return newest


def read_parquet(
    location: Location,
    path: str,
    schema: pa.Schema | None = None,
    *,
    num_rows: int | None = None,
) -> pa.Table:
    """Read one of the store's own tables.

    Args:
        location: where the store is.
        path: of the table.
        schema: its columns that are wanted; by default all, whatever they are.
        num_rows: how many rows it must have.

    Returns:
        The columns in the schema's order.

    Raises:
        StoreError: missing, damaged, of other columns or another length.
    """
    where = f"{location.address}/{path}"
    try:
        source = pa.BufferReader(location.read(path))
        names = None if schema is None else schema.names
        table = disk.read_parquet(source, where=where, remedy=disk.FROM_BACKUP, columns=names)
    except FileNotFoundError:
        raise StoreError(f"{where}: the table is missing; {disk.FROM_BACKUP}") from None
    except OSError as error:
        raise disk.unreadable(where, error, disk.FROM_BACKUP) from error
    if schema is not None and table.schema.types != schema.types:
        found = ", ".join(f"{field.name} {field.type}" for field in table.schema)
        raise disk.damaged(where, f"its columns are {found}", disk.FROM_BACKUP)
    if num_rows is not None and len(table) != num_rows:
        raise disk.damaged(where, f"{len(table):,} rows instead of {num_rows:,}", disk.FROM_BACKUP)
    return table
