"""One shard = one file = one layer of one slot: a C-order block `(rows, S)`, then a constant index.

Byte for byte a Zarr v3 shard (`sharding_indexed`, uncompressed inner chunks `(1, 1, 1, S)`, index
at the end with crc32c). So writing is one write, reading a layer is one read into the caller's
buffer, and one neuron's samples are one contiguous range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

import google_crc32c
import numpy as np
import numpy.typing as npt

from store import disk
from store.disk import Location
from store.errors import DamagedShardError
from store.layout.slots import merge_runs

AnyArray = npt.NDArray[np.generic]
Crcs = npt.NDArray[np.uint32]
INDEX_ENTRY_BYTES = 16
CRC_BYTES = 4


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
        self.dtype = np.dtype(dtype)
        self.row_bytes = samples_per_shard * self.dtype.itemsize
        self.samples_per_shard = samples_per_shard
        self.bytes_read = 0
        self._damaged = damaged

    def read_block(self, path: str, rows: int, out: AnyArray) -> None:
        """Fill C-contiguous `out` `(rows, S)` with one read."""
        self._fill(path, rows, [0], [out.reshape(-1).view(np.uint8)])

    def read_rows(
        self, path: str, rows: int, wanted: npt.NDArray[np.int64], count: int, out: AnyArray
    ) -> None:
        """Fill C-contiguous `out` `(len(wanted), count)` with the first `count` samples of rows.

        Adjacent rows of a full shard are one read; `wanted` is sorted and unique.
        """
        flat = out.reshape(-1).view(np.uint8)
        size = count * self.dtype.itemsize
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
