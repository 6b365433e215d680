"""One shard = one file = one layer of one slot: a C-order block `(rows, S)`, then a constant index.

Byte for byte a Zarr v3 shard (`sharding_indexed`, uncompressed inner chunks `(1, 1, 1, S)`, index
at the end with crc32c). So writing is one write, reading a layer is one read into the caller's
buffer, and one neuron's samples are one contiguous range.

In a bucket a range is a request. Ranges there are asked for together where little lies between
them (`merge_ranges`), and nothing else is: a shard's length is known, and never changes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import google_crc32c
import numpy as np
import numpy.typing as npt

from store import disk
from store.disk import Location, ObjectLocation
from store.errors import DamagedShardError
from store.layout.slots import merge_runs

AnyArray = npt.NDArray[np.generic]
Crcs = npt.NDArray[np.uint32]
Offsets = npt.NDArray[np.int64]
INDEX_ENTRY_BYTES = 16
CRC_BYTES = 4
WASTE = 0.05
"""What may be read of a shard in a bucket beyond what is needed, to need fewer requests."""
PART_BYTES = 2**24
"""The least that one of several requests for a shard is for."""
LONG_RUN = 32
"""Rows side by side that are one range even if none is full: only a store's last slot is so."""


@lru_cache(maxsize=8)
def shard_index(rows: int, row_bytes: int) -> bytes:
    """The index that ends every shard: (offset, length) of each row, and a crc32c of it."""
    entries = np.empty((rows, 2), "<u8")
    entries[:, 0] = np.arange(rows, dtype=np.uint64) * np.uint64(row_bytes)
    entries[:, 1] = row_bytes
    payload = entries.tobytes()
    checksum: int = google_crc32c.value(payload)
    return payload + checksum.to_bytes(CRC_BYTES, "little")


def shard_bytes(rows: int, row_bytes: int) -> int:
    """Length of a shard file."""
    return rows * (row_bytes + INDEX_ENTRY_BYTES) + CRC_BYTES


def merge_ranges(
    starts: Offsets, stops: Offsets, *, waste: float = WASTE
) -> tuple[Offsets, Offsets]:
    """Fewer ranges of bytes that hold all of some ranges `(n,)`, sorted and disjoint.

    The smallest gaps are closed, as long as all that are come to at most `waste` of the bytes
    needed: no other choice within that needs fewer requests.
    """
    gaps = starts[1:] - stops[:-1]
    order = np.argsort(gaps, kind="stable")
    closed = np.cumsum(gaps[order]) <= waste * int((stops - starts).sum())
    cut = np.ones(len(gaps), bool)
    cut[order[closed]] = False
    first = np.ones(min(1, len(starts)), bool)
    return starts[np.concatenate((first, cut))], stops[np.concatenate((cut, first))]


def write_shard(path: Path, block: AnyArray) -> None:
    """Write a C-contiguous block `(rows, S)` as one durable shard file.

    The caller syncs the directory, once for all shards of a block.
    """
    disk.write_file(path, shard_parts(block), sync_name=False)


def shard_parts(block: AnyArray) -> tuple[AnyArray, bytes]:
    """What a shard consists of: the bytes of a C-contiguous block `(rows, S)`, and the index."""
    index = shard_index(block.shape[0], block.shape[1] * block.itemsize)
    return block.reshape(-1).view(np.uint8), index


def row_crcs(values: AnyArray) -> Crcs:
    """crc32c of the bytes of each row of a 2-D array with contiguous rows."""
    crc = google_crc32c.value
    return np.fromiter((crc(row) for row in values.view(np.uint8)), np.uint32, len(values))


class ShardReader:
    """Reads shards of one shape from one location and counts the payload bytes.

    Args:
        location: where the store is.
        samples_per_shard: `S`.
        dtype: stored element type.
        damaged: called with (path, what is wrong) to build the error to raise.
    """

    def __init__(
        self,
        location: Location,
        *,
        samples_per_shard: int,
        dtype: npt.DTypeLike,
        damaged: Callable[[str, str], DamagedShardError],
    ) -> None:
        self.location = location
        self.bucket = location if isinstance(location, ObjectLocation) else None
        self.dtype = np.dtype(dtype)
        self.row_bytes = samples_per_shard * self.dtype.itemsize
        self.samples_per_shard = samples_per_shard
        self.bytes_read = 0
        self.requests = 0
        self._count = threading.Lock()
        self._damaged = damaged

    def read_block(self, path: str, rows: int, out: AnyArray) -> None:
        """Fill C-contiguous `out` `(rows, S)` with one read."""
        if self.bucket is not None:
            out[...] = self.fetch_block(path, rows)
            return
        self._fill(path, rows, [0], [out.reshape(-1).view(np.uint8)])

    def read_rows(
        self, path: str, rows: int, wanted: npt.NDArray[np.int64], count: int, out: AnyArray
    ) -> None:
        """Fill C-contiguous `out` `(len(wanted), count)` with the first `count` samples of rows.

        Adjacent rows of a full shard are one read; `wanted` is sorted and unique.
        """
        size = count * self.dtype.itemsize
        if self.bucket is not None:
            self._fetch_rows(path, wanted, out.reshape(-1).view(np.uint8).reshape(-1, size))
            return
        flat = out.reshape(-1).view(np.uint8)
        if size == self.row_bytes:
            runs: Iterable[tuple[int, int]] = merge_runs(wanted)
        else:
            runs = ((row, row + 1) for row in wanted.tolist())
        offsets, buffers, done = [], [], 0
        for start, stop in runs:
            offsets.append(start * self.row_bytes)
            buffers.append(flat[done : done + (stop - start) * size])
            done += (stop - start) * size
        self._fill(path, rows, offsets, buffers)

    def rows_of(
        self,
        path: str,
        rows: int,
        wanted: slice | npt.NDArray[np.int64],
        count: int,
        *,
        at_once: int = 1,
    ) -> AnyArray | None:
        """`(len(wanted), count)` of adjacent rows, without a copy; None where there must be one.

        Args:
            path: of the shard.
            rows: that it has.
            wanted: which of them, a slice or sorted unique numbers.
            count: samples of each.
            at_once: see `fetch_block`.
        """
        if not isinstance(wanted, slice):
            return None
        if self.bucket is None:
            block = self.map_block(path, rows)
            return None if block is None else block[wanted, :count]
        if count < self.samples_per_shard and wanted.stop - wanted.start <= LONG_RUN:
            return None
        block = self.fetch_block(path, rows, wanted.start, wanted.stop, at_once=at_once)
        return block[:, :count]

    def map_block(self, path: str, rows: int) -> AnyArray | None:
        """The block `(rows, S)` as a read-only memory map; None where files cannot be mapped."""
        try:
            found = self.location.map(path, rows * self.row_bytes)
        except FileNotFoundError:
            raise self._damaged(path, "is missing") from None
        except OSError as error:
            raise self._damaged(path, f"cannot be read ({error.strerror or error})") from error
        if found is None:
            return None
        size, content = found
        self._check_size(path, size, rows)
        return content.view(self.dtype).reshape(rows, self.samples_per_shard)

    def fetch_block(
        self, path: str, rows: int, start: int = 0, stop: int | None = None, *, at_once: int = 1
    ) -> AnyArray:
        """Rows `[start, stop)` of a shard in a bucket, `(stop - start, S)`, maybe read-only.

        Args:
            path: of the shard.
            rows: that it has.
            start: first row.
            stop: after the last; default all.
            at_once: requests, where none is of less than `PART_BYTES`: a server gives more to
                several connections than to one.
        """
        stop = rows if stop is None else stop
        num_bytes = (stop - start) * self.row_bytes
        number = max(1, min(at_once, num_bytes // PART_BYTES))
        if number == 1 and stop - start == rows:
            content = self._fetch_all(path, rows)[:num_bytes]
        else:
            edges = np.linspace(0, num_bytes, number + 1).astype(np.int64) + start * self.row_bytes
            parts = self._fetch(path, edges[:-1], edges[1:])
            content = parts[0] if number == 1 else np.concatenate(parts)
        return content.view(self.dtype).reshape(stop - start, self.samples_per_shard)

    def _fetch_rows(self, path: str, wanted: Offsets, out: npt.NDArray[np.uint8]) -> None:
        """Fill `(len(wanted), bytes)` from a bucket, by as few requests as `WASTE` allows."""
        size, step = out.shape[1], self.row_bytes
        runs = merge_runs(wanted)
        if size < step:  # what lies between rows that are not full is waste too
            runs = [
                part
                for start, stop in runs
                for part in (
                    [(start, stop)]
                    if stop - start > LONG_RUN
                    else [(row, row + 1) for row in range(start, stop)]
                )
            ]
        starts = np.array([start for start, _ in runs], np.int64) * step
        stops = np.array([stop - 1 for _, stop in runs], np.int64) * step + size
        whole = merge_ranges(starts, stops)
        parts = self._fetch(path, *whole)
        holders = (np.searchsorted(whole[0], starts, side="right") - 1).tolist()
        done = 0
        for (start, stop), begin, holder in zip(runs, starts.tolist(), holders, strict=True):
            number, first = stop - start, begin - int(whole[0][holder])
            content = parts[holder][first : first + (number - 1) * step + size]
            if size == step:
                out[done : done + number] = content.reshape(number, step)
            else:
                all_but_last = content[: (number - 1) * step].reshape(number - 1, step)
                out[done : done + number - 1] = all_but_last[:, :size]
                out[done + number - 1] = content[-size:]
            done += number

    def _fetch(self, path: str, starts: Offsets, stops: Offsets) -> list[npt.NDArray[np.uint8]]:
        """Ranges of an object, a request each, all at once."""
        assert self.bucket is not None
        if not len(starts):
            return []
        try:
            found = self.bucket.fetch(path, starts.tolist(), stops.tolist())
        except FileNotFoundError:
            raise self._damaged(path, "is missing") from None
        parts = [np.frombuffer(part, np.uint8) for part in found]
        lengths = np.array([len(part) for part in parts])
        if not np.array_equal(lengths, stops - starts):
            raise self._damaged(path, f"ends before byte {int(stops.max()):,}")
        self._counted(int(lengths.sum()), len(parts))
        return parts

    def _fetch_all(self, path: str, rows: int) -> npt.NDArray[np.uint8]:
        """An object whole, by one request."""
        assert self.bucket is not None
        try:
            content = np.frombuffer(self.bucket.fetch_all(path), np.uint8)
        except FileNotFoundError:
            raise self._damaged(path, "is missing") from None
        self._check_size(path, len(content), rows)
        self._counted(len(content), 1)
        return content

    def _counted(self, num_bytes: int, requests: int) -> None:
        with self._count:
            self.bytes_read += num_bytes
            self.requests += requests

    def _fill(
        self, path: str, rows: int, offsets: list[int], buffers: list[npt.NDArray[np.uint8]]
    ) -> None:
        try:
            size = self.location.read_ranges(path, offsets, buffers)
        except FileNotFoundError:
            raise self._damaged(path, "is missing") from None
        except OSError as error:
            raise self._damaged(path, f"cannot be read ({error.strerror or error})") from error
        self._check_size(path, size, rows)
        self.bytes_read += sum(len(buffer) for buffer in buffers)

    def _check_size(self, path: str, size: int, rows: int) -> None:
        expected = shard_bytes(rows, self.row_bytes)
        if size != expected:
            raise self._damaged(path, f"has {size:,} bytes instead of {expected:,}")
