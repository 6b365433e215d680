"""One snapshot as a Zarr store, for zarr-python, xarray and whatever else reads through them.

A disk's folder is plain Zarr by itself. In a bucket objects have names of their own, and what can
be derived is not there: this class finds the object behind a key by the snapshot's manifests, and
makes documents, coordinates and the shards' constant indices when they are asked for.

    xarray.open_zarr(store.zarr_store())
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from functools import lru_cache
from typing import Any

import pyarrow as pa
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import FsspecStore, LocalStore, ObjectStore

from store.disk import LocalLocation, ObjectLocation
from store.errors import SalientError, StoreInputError
from store.layout import (
    ROOT_DOCUMENT,
    array_documents,
    axis_chunk_path,
    axis_coordinates,
    encode_axis_chunk,
    encode_document,
    encode_sample_chunk,
    program,
    root_document,
    sample_coordinates,
    shard_index,
)
from store.reading.view import StoreView

_SHARD = re.compile(r"([a-z]+)/c/([0-9]+)/0/0/([0-9]+)", re.ASCII)
_CHUNK = re.compile(r"([a-z_]+)/c/([0-9]+)", re.ASCII)
SLOTS_AT_ONCE = 16
"""Slots whose texts and ids are held: their table is read once for all of them."""


class SnapshotStore(Store):
    """What a store shows at one snapshot, by the keys of Zarr; for reading only.

    Args:
        view: which store and snapshot; the object may move on to later ones.
    """

    def __init__(self, view: StoreView) -> None:
        super().__init__(read_only=True)
        self._show(StoreView(view.location, view.snapshot, check=view.check, pinned=True))

    def _show(self, view: StoreView) -> None:
        self._view = view
        schema, number = view.schema, view.num_samples
        documents = array_documents(schema, number)
        root = root_document(schema, number, view.snapshot_id, written_by=program())
        self._made = {f"{name}/{ROOT_DOCUMENT}": one for name, one in documents.items()}
        self._made |= {ROOT_DOCUMENT: root}
        self._axes = {axis_chunk_path(name): name for name in axis_coordinates(schema)}
        self._lock = threading.Lock()
        self._rows = lru_cache(maxsize=2)(self._rows_of)
        location = view.location
        if isinstance(location, ObjectLocation):
            self._files: Store = ObjectStore(location.objects, read_only=True)
        elif isinstance(location, LocalLocation):
            self._files = LocalStore(location.root, read_only=True)
        else:
            self._files = FsspecStore.from_url(location.address, read_only=True)

    def __getstate__(self) -> dict[str, Any]:
        return {"view": self._view}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__init__(read_only=True)
        self._is_open = True
        self._show(state["view"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SnapshotStore) and self._said() == other._said()

    def __hash__(self) -> int:
        return hash(self._said())

    def __str__(self) -> str:
        return f"salient://{self._view.location.address}#{self._view.snapshot_id}"

    def __repr__(self) -> str:
        return f"SnapshotStore('{self}')"

    def _said(self) -> tuple[str, str]:
        return self._view.location.address, self._view.snapshot_id

    # -- reading ----------------------------------------------------------------------------

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """The bytes of a key, or some of them; None if there is no such key."""
        shard = _SHARD.fullmatch(key)
        if shard is None or shard[1] not in self._view.schema.arrays:
            content = await asyncio.to_thread(self._content, key)
            if content is None:
                return None
            return prototype.buffer.from_bytes(content[_slice(byte_range, len(content))])
        place = shard[1], int(shard[2]), int(shard[3])
        if not self._is_there(*place):
            return None
        return await self._shard_bytes(*place, prototype, byte_range)

    async def _shard_bytes(
        self,
        array: str,
        axis: int,
        slot: int,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None,
    ) -> Buffer | None:
        """Of a shard, in this snapshot or, if a compaction replaced it, in the last; or none."""
        schema, reader = self._view.schema, self._view.reader
        layout = schema.arrays[array]
        layer = layout.layers[axis]
        index = shard_index(layout.rows, reader.shards.row_bytes)
        if isinstance(byte_range, SuffixByteRequest) and byte_range.suffix == len(index):
            return prototype.buffer.from_bytes(index)  # the same of all shards
        path = await asyncio.to_thread(reader.shard_of, array, layer, slot)
        while path is not None:
            found = await self._object(path, prototype, byte_range)
            if found is not None:
                if isinstance(byte_range, RangeByteRequest) and len(found) < _length(byte_range):
                    raise reader.damaged(path, "is cut short")
                return found
            tried = path
            path = await asyncio.to_thread(reader.shard_after, array, layer, slot, tried)
        return None

    async def _object(
        self, path: str, prototype: BufferPrototype, byte_range: ByteRequest | None
    ) -> Buffer | None:
        """Of a file or object; none if it is missing."""
        location = self._view.location
        if not isinstance(location, ObjectLocation):
            return await self._files.get(path, prototype, byte_range)
        try:
            return await self._files.get(location.key(path), prototype, byte_range)
        except Exception as error:
            told = location.explained(error, path)
            if isinstance(told, StoreInputError) and isinstance(byte_range, RangeByteRequest):
                with contextlib.suppress(SalientError, OSError):
                    # Servers refuse a range that begins behind the end.
                    if await asyncio.to_thread(location.size, path) <= byte_range.start:
                        return prototype.buffer.from_bytes(b"")
            raise told from None

    def _is_there(self, array: str, axis: int, slot: int) -> bool:
        slots = self._view.snapshot.slots
        layers = self._view.schema.arrays[array].layers
        return slot < len(slots) and axis < len(layers) and not slots[slot].emptied

    def _content(self, key: str) -> bytes | None:
        """What is made when it is asked for: documents and coordinates."""
        schema = self._view.schema
        if key in self._made:
            return encode_document(self._made[key])
        if key in self._axes:
            return encode_axis_chunk(schema, self._axes[key])
        chunk = _CHUNK.fullmatch(key)
        if chunk is None or chunk[1] not in sample_coordinates(schema):
            return None
        slot = int(chunk[2])
        if slot >= len(self._view.snapshot.slots):
            return None
        with self._lock:
            rows = self._rows(slot // SLOTS_AT_ONCE)[slot]
        return encode_sample_chunk(chunk[1], rows, schema.samples_per_shard)

    def _rows_of(self, group: int) -> dict[int, pa.Table]:
        stop = min((group + 1) * SLOTS_AT_ONCE, len(self._view.snapshot.slots))
        return self._view.index.visible_slots(range(group * SLOTS_AT_ONCE, stop))

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """See zarr: several keys, or parts of them, at a time."""
        wanted = (self.get(key, prototype, byte_range) for key, byte_range in key_ranges)
        return list(await asyncio.gather(*wanted))

    async def exists(self, key: str) -> bool:
        """Whether there is a key."""
        shard = _SHARD.fullmatch(key)
        if shard is not None and shard[1] in self._view.schema.arrays:
            return self._is_there(shard[1], int(shard[2]), int(shard[3]))
        chunk = _CHUNK.fullmatch(key)
        if chunk is not None and chunk[1] in sample_coordinates(self._view.schema):
            return int(chunk[2]) < len(self._view.snapshot.slots)
        return key in self._made or key in self._axes

    def _keys(self) -> Iterator[str]:
        yield from self._made
        yield from self._axes
        slots = range(len(self._view.snapshot.slots))
        for name in sample_coordinates(self._view.schema):
            yield from (f"{name}/c/{slot}" for slot in slots)
        for name, layout in self._view.schema.arrays.items():
            for axis in range(len(layout.layers)):
                there = (slot for slot in slots if self._is_there(name, axis, slot))
                yield from (f"{name}/c/{axis}/0/0/{slot}" for slot in there)

    async def list(self) -> AsyncIterator[str]:
        """All keys."""
        for key in self._keys():
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """The keys that begin so."""
        for key in self._keys():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """What a folder holds, by name."""
        folder = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
        keys = (key[len(folder) :] for key in self._keys() if key.startswith(folder))
        for name in dict.fromkeys(key.partition("/")[0] for key in keys):
            yield name

    # -- what a store for reading refuses ---------------------------------------------------

    @property
    def supports_writes(self) -> bool:
        """No: Salient alone writes its stores."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """No."""
        return False

    @property
    def supports_listing(self) -> bool:
        """Yes."""
        return True

    async def set(self, key: str, value: Buffer) -> None:
        """Refused."""
        self._check_writable()

    async def delete(self, key: str) -> None:
        """Refused."""
        self._check_writable()


def _length(byte_range: RangeByteRequest) -> int:
    return byte_range.end - byte_range.start


def _slice(byte_range: ByteRequest | None, size: int) -> slice:
    if isinstance(byte_range, RangeByteRequest):
        return slice(byte_range.start, byte_range.end)
    if isinstance(byte_range, OffsetByteRequest):
        return slice(byte_range.offset, None)
    if isinstance(byte_range, SuffixByteRequest):
        return slice(max(0, size - byte_range.suffix), None)
    return slice(None)
