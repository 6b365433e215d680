"""A faster reader for Zarr shards whose inner chunks are whole, uncompressed rows.

zarr-python handles the inner chunks of a shard one by one, which is slow where a shard has
thousands. For shards laid out as this store writes them, `RowShardingCodec` reads the index once
and then whole runs of rows; anything else goes to zarr's own codec, as does all writing. The format
is plain `sharding_indexed`: without this class everything still opens.

Importing the module makes it zarr's sharding codec in this process. An installed Salient is found
through its entry point in the group `zarr.codecs.sharding_indexed`, so `xr.open_zarr(path)` is fast
without any import.
"""

from __future__ import annotations

import asyncio
import mmap
import os
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec
from zarr.core.buffer import numpy_buffer_prototype
from zarr.registry import register_codec
from zarr.storage import LocalStore, StorePath

from store.disk import read_into
from store.errors import DamagedShardError
from store.layout import CRC_BYTES, INDEX_ENTRY_BYTES, merge_runs, shard_index

if TYPE_CHECKING:
    from zarr.abc.store import ByteGetter
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import NDBuffer

AnyArray = npt.NDArray[np.generic]
Rows = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
ZARRS_OWN = "zarr.codecs.sharding.ShardingCodec"
MISSING = np.uint64(2**64 - 1)


class RowShardingCodec(ShardingCodec):
    """zarr's sharding codec with vectorised reads of uncompressed rows."""

    async def _decode_partial_single(
        self, byte_getter: ByteGetter, selection: Any, shard_spec: ArraySpec
    ) -> NDBuffer | None:
        if not self._has_plain_rows(shard_spec):
            return await super()._decode_partial_single(byte_getter, selection, shard_spec)
        wanted = _Selection(selection, shard_spec.shape)
        path = _local_path(byte_getter)
        row_bytes = shard_spec.shape[-1] * shard_spec.dtype.to_native_dtype().itemsize
        if path is None:
            values = await _read_remote(byte_getter, wanted.rows, wanted.num_rows, row_bytes)
        else:
            values = await asyncio.to_thread(
                _read_local, path, wanted.rows, wanted.num_rows, row_bytes
            )
        return _chosen(values, wanted, shard_spec)

    def _decode_partial_sync(
        self, byte_getter: ByteGetter, selection: Any, shard_spec: ArraySpec
    ) -> NDBuffer | None:
        """The same for zarr's `FusedCodecPipeline` (3.3 and newer), which awaits nothing."""
        path = _local_path(byte_getter)
        if path is None or not self._has_plain_rows(shard_spec):
            found: NDBuffer | None = super()._decode_partial_sync(  # type: ignore[misc]
                byte_getter, selection, shard_spec
            )
            return found
        wanted = _Selection(selection, shard_spec.shape)
        row_bytes = shard_spec.shape[-1] * shard_spec.dtype.to_native_dtype().itemsize
        values = _read_local(path, wanted.rows, wanted.num_rows, row_bytes)
        return _chosen(values, wanted, shard_spec)

    def _has_plain_rows(self, shard_spec: ArraySpec) -> bool:
        inner = tuple(self.chunk_shape)
        plain_rows = inner == (1,) * (len(inner) - 1) + (shard_spec.shape[-1],)
        native = np.dtype(shard_spec.dtype.to_native_dtype())
        return (
            plain_rows
            and len(inner) > 1
            and native.kind in "biufc"
            and str(getattr(self.index_location, "value", self.index_location)) == "end"
            and _is_little(self.codecs, native)
            and len(self.index_codecs) == 2
            and _is_little(self.index_codecs[:1], np.dtype("<u8"))
            and isinstance(self.index_codecs[1], Crc32cCodec)
        )


def _is_little(codecs: Any, dtype: np.dtype[Any]) -> bool:
    if len(codecs) != 1 or not isinstance(codecs[0], BytesCodec):
        return False
    endian = getattr(codecs[0].endian, "value", codecs[0].endian)
    return dtype.itemsize == 1 or (endian == "little" and dtype.isnative)


class _Selection:
    """A selection of a shard split in two: rows to read, then numpy indexing into those rows.

    Zarr hands over integers and slices with at most one array, or arrays that broadcast together.
    """

    def __init__(self, selection: Any, shape: tuple[int, ...]) -> None:
        parts = selection if isinstance(selection, tuple) else (selection,)
        parts = parts + (slice(None),) * (len(shape) - len(parts))
        self.num_rows = prod(shape[:-1])
        numbers = np.arange(self.num_rows, dtype=np.int64).reshape(shape[:-1])
        picked = np.asarray(numbers[parts[:-1]])
        self._last = parts[-1]
        arrays = [isinstance(part, np.ndarray) for part in parts]
        self._together = arrays[-1] and any(arrays[:-1])
        self._shape = picked.shape
        self._lookup: AnyArray | None = None
        self.rows: Rows = picked.ravel()
        ordered = bool((np.diff(self.rows) > 0).all())
        if self._together or not ordered:
            self.rows, inverse = np.unique(picked, return_inverse=True)
            self._lookup = inverse.reshape(picked.shape)

    def apply(self, block: AnyArray) -> AnyArray:
        """The selected values, from a block whose rows are `self.rows`."""
        if self._lookup is None:
            values: AnyArray = block.reshape(*self._shape, block.shape[-1])[..., self._last]
        elif self._together:
            values = block[self._lookup, self._last]
        else:
            values = block[self._lookup][..., self._last]
        return values


def _chosen(
    values: tuple[AnyArray, npt.NDArray[np.bool_]] | None,
    wanted: _Selection,
    shard_spec: ArraySpec,
) -> NDBuffer | None:
    """What zarr asked for, of the rows read; None where there is no shard."""
    if values is None:
        return None
    found, present = values
    block = found.view(shard_spec.dtype.to_native_dtype())
    if not present.all():
        block[~present] = shard_spec.fill_value
    return shard_spec.prototype.nd_buffer.from_numpy_array(wanted.apply(block))


def _local_path(byte_getter: ByteGetter) -> Path | None:
    if isinstance(byte_getter, StorePath) and type(byte_getter.store) is LocalStore:
        return Path(byte_getter.store.root) / byte_getter.path
    return None


def _index_bytes(num_rows: int) -> int:
    return num_rows * INDEX_ENTRY_BYTES + CRC_BYTES


def _parse_index(content: Bytes, num_rows: int, row_bytes: int, where: str) -> AnyArray | None:
    """Offsets and lengths `(row, 2)`; None for the usual layout, rows in order without gaps."""
    usual = np.frombuffer(shard_index(num_rows, row_bytes), np.uint8)
    if np.array_equal(content, usual):
        return None
    payload = content[:-CRC_BYTES].tobytes()
    stored = int.from_bytes(content[-CRC_BYTES:].tobytes(), "little")
    if google_crc32c.value(payload) != stored:
        raise DamagedShardError(
            f"{where}: the shard's index is damaged or cut off; restore it from a backup, or "
            "remove the store and extract again (`salient store verify STORE` lists all damage)"
        )
    return np.frombuffer(payload, "<u8").reshape(num_rows, 2)


def _ranges(
    index: AnyArray | None, rows: Rows, row_bytes: int
) -> tuple[list[tuple[int, int, int]], npt.NDArray[np.bool_]]:
    """Byte ranges (target, offset, length) that bring `rows`, and which rows there are."""
    if index is None:
        ranges, done = [], 0
        for start, stop in merge_runs(rows):
            length = (stop - start) * row_bytes
            ranges.append((done, start * row_bytes, length))
            done += length
        return ranges, np.ones(len(rows), bool)
    offsets = index[rows, 0]
    present = offsets != MISSING
    ranges = [(int(i) * row_bytes, int(offsets[i]), row_bytes) for i in np.flatnonzero(present)]
    return ranges, present


def _read_local(
    path: Path, rows: Rows, num_rows: int, row_bytes: int
) -> tuple[AnyArray, npt.NDArray[np.bool_]] | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        index_bytes = _index_bytes(num_rows)
        end = os.fstat(descriptor).st_size - index_bytes
        index = None
        if not _ends_as_usual(descriptor, end, num_rows, row_bytes):
            content = np.empty(index_bytes, np.uint8)
            if end < 0 or read_into(descriptor, content, end) != index_bytes:
                raise DamagedShardError(f"{path}: the shard is cut short; restore it from a backup")
            index = _parse_index(content, num_rows, row_bytes, str(path))
        if index is None and len(rows) == num_rows:
            # All of the shard: zarr copies from the page cache to its result, so reading it into
            # memory of our own first would double the work.
            mapped = mmap.mmap(descriptor, end, prot=mmap.PROT_READ)
            whole = np.frombuffer(mapped, np.uint8).reshape(num_rows, row_bytes)
            return whole, np.ones(num_rows, bool)
        out = np.empty((len(rows), row_bytes), np.uint8)
        flat = out.reshape(-1)
        ranges, present = _ranges(index, rows, row_bytes)
        for target, offset, length in ranges:
            if read_into(descriptor, flat[target : target + length], offset) != length:
                raise DamagedShardError(f"{path}: the shard is cut short; restore it from a backup")
        return out, present
    finally:
        os.close(descriptor)


def _ends_as_usual(descriptor: int, end: int, num_rows: int, row_bytes: int) -> bool:
    """Whether length and checksum are those of the usual index, which then need not be read."""
    if end != num_rows * row_bytes:
        return False
    checksum = np.empty(CRC_BYTES, np.uint8)
    read_into(descriptor, checksum, end + num_rows * INDEX_ENTRY_BYTES)
    return checksum.tobytes() == shard_index(num_rows, row_bytes)[-CRC_BYTES:]


async def _read_remote(
    byte_getter: ByteGetter, rows: Rows, num_rows: int, row_bytes: int
) -> tuple[AnyArray, npt.NDArray[np.bool_]] | None:
    prototype = numpy_buffer_prototype()
    suffix = SuffixByteRequest(_index_bytes(num_rows))
    buffer = await byte_getter.get(prototype=prototype, byte_range=suffix)
    if buffer is None:
        return None
    content = np.frombuffer(buffer.to_bytes(), np.uint8)
    index = _parse_index(content, num_rows, row_bytes, str(byte_getter))
    out = np.empty((len(rows), row_bytes), np.uint8)
    flat = out.reshape(-1)
    ranges, present = _ranges(index, rows, row_bytes)
    parts = await asyncio.gather(
        *(
            byte_getter.get(prototype=prototype, byte_range=RangeByteRequest(offset, offset + size))
            for _, offset, size in ranges
        )
    )
    there = [part for part in parts if part is not None]
    if len(there) < len(parts):  # removed since: a compaction has emptied its slot
        return None
    for (target, _, length), part in zip(ranges, there, strict=True):
        received = part.to_bytes()
        if len(received) != length:
            raise DamagedShardError(f"{byte_getter}: the shard is cut short; restore it")
        flat[target : target + length] = np.frombuffer(received, np.uint8)
    return out, present


def register() -> None:
    """Make this class zarr's sharding codec, unless the user has configured another one."""
    register_codec("sharding_indexed", RowShardingCodec)
    if zarr.config.get("codecs.sharding_indexed", None) == ZARRS_OWN:
        name = f"{RowShardingCodec.__module__}.{RowShardingCodec.__qualname__}"
        zarr.config.set({"codecs.sharding_indexed": name})


# On import, because an entry point can only name a class: registering alone would not select it.
register()
