"""The manifest of one slot: checksum and moments of every row of its shards.

Inner chunks of the shards carry no checksums of their own, so a file beside them does, written
once a slot's shards are durable. Checksums cover the first `count` samples of a row: a shard that
later appends complete keeps every earlier manifest true.

A shard is in one of two states:

    steady           its manifests hold one checksum a row
    being replaced   they hold those of the old shard and of the new one, and accept either

Compaction takes a slot through it: manifests say "being replaced", the new shards are renamed into
place, manifests say "steady" again. So whatever a reader finds together, before, between or after
a crash, is accepted; running the compaction again ends the state. Only this module knows how the
checksums are kept: others ask `Manifest.accepts`.

The format is safetensors, whose plain layout lets a reader fetch the checksums of a few rows only.
Its metadata hold a crc32c of every member, and one of the header itself. (`store.disk` keeps arrays
in safetensors files too, with one checksum of all: those are read whole.) A reader opens a manifest
for each slot, so opening compares the header with its checksum and no more; a member's type and
shape are looked at when it is asked for, all of them by `Manifest.check`.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import google_crc32c
import numpy as np
import numpy.typing as npt
import safetensors.numpy

from store import disk
from store.errors import StoreError
from store.layout.moments import Moments
from store.layout.shards import Crcs

AnyArray = npt.NDArray[np.generic]
LayerKey = tuple[str, int]  # (array name, layer)
DTYPES = {"U32": "<u4", "F64": "<f8", "I64": "<i8", "I32": "<i4", "BOOL": "?"}
PREFIX_BYTES = 8
ATTEMPT = "attempt"
HEADER = "header"
"""Key of the metadata: the checksum of the header's own bytes, with `BLANK` for its value."""
BLANK = "crc32c:00000000"
MAX_HEADER_BYTES = 100_000_000
_LAYER = re.compile(r"[a-z_]+/[0-9]{1,6}", re.ASCII)
_LAYER_MEMBERS = {"crc32c": ("U32", 2), "count": ("I64", 0), "mean": ("F64", 1), "m2": ("F64", 1)}
_RESULT = re.compile(r"[a-z_]+", re.ASCII)


@dataclass(frozen=True)
class LayerSummary:
    """Checksums and moments of one shard.

    Attributes:
        crcs: `(rows,)` uint32.
        moments: per row, over the slot's samples.
    """

    crcs: Crcs
    moments: Moments


def encode_manifest(
    count: int,
    layers: Mapping[LayerKey, LayerSummary],
    sample_results: Mapping[str, AnyArray] | None = None,
    *,
    attempt: str = "",
    replacing: Manifest | None = None,
) -> bytes:
    """The bytes of a manifest file.

    Args:
        count: samples of the slot that it covers.
        layers: what to record of each shard.
        sample_results: per-sample arrays (tokens, truncated) that travel along to the commit.
        attempt: names the staged shards that belong to it.
        replacing: the manifest so far, of shards that are being replaced: its checksums are
            accepted too.
    """
    members: dict[str, AnyArray] = {"count": np.array(count, np.int64)}
    for (name, layer), summary in layers.items():
        before = [] if replacing is None else [replacing.accepted(name, layer)]
        members[f"{name}/{layer}/crc32c"] = np.concatenate([*before, summary.crcs[None]])
        members[f"{name}/{layer}/count"] = np.array(summary.moments.count, np.int64)
        members[f"{name}/{layer}/mean"] = summary.moments.mean
        members[f"{name}/{layer}/m2"] = summary.moments.m2
    members.update(sample_results or {})
    members = {name: np.array(array, order="C") for name, array in members.items()}
    metadata = {name: str(google_crc32c.value(a.tobytes())) for name, a in members.items()}
    metadata[ATTEMPT] = attempt
    metadata[HEADER] = BLANK
    content = safetensors.numpy.save(members, metadata=metadata)
    stop = PREFIX_BYTES + struct.unpack("<Q", content[:PREFIX_BYTES])[0]
    header = content[PREFIX_BYTES:stop]
    stated = header.replace(_header_entry(BLANK), _header_entry(disk.checksum(header)), 1)
    return content[:PREFIX_BYTES] + stated + content[stop:]


def _header_entry(value: str) -> bytes:
    return f'"{HEADER}":"{value}"'.encode()


class _Entry(NamedTuple):
    """What the header says of a member."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def _is_of_kind(name: str, entry: _Entry) -> bool:
    """Whether a member of this name may have this type and so many axes."""
    found = (entry.dtype, len(entry.shape))
    layer, _, kind = name.rpartition("/")
    if layer:
        return _LAYER.fullmatch(layer) is not None and _LAYER_MEMBERS.get(kind) == found
    if name == "count":
        return found == ("I64", 0)
    return _RESULT.fullmatch(name) is not None and len(entry.shape) == 1


class ReadsRanges(Protocol):
    """What a manifest is read from: a location, or its bytes."""

    address: str

    def read_ranges(
        self, path: str, offsets: list[int], buffers: list[npt.NDArray[np.uint8]]
    ) -> int:
        """Fill flat buffers `(num_bytes,)`; see `Location.read_ranges`."""


class Manifest:
    """A manifest that is kept; members are read when asked for.

    Args:
        location: where the store is.
        path: of the manifest.

    Raises:
        StoreError: missing or damaged.
    """

    def __init__(self, location: ReadsRanges, path: str) -> None:
        self.path = path
        self._location = location
        prefix = np.zeros(PREFIX_BYTES, np.uint8)
        size = self._fill([0], [prefix])
        length = struct.unpack("<Q", prefix.tobytes())[0]
        if length > min(size - PREFIX_BYTES, MAX_HEADER_BYTES):
            raise self._damaged(f"a header of {length:,} bytes in a file of {size:,}")
        self._data = PREFIX_BYTES + length
        self._num_bytes = size - self._data
        try:
            content = self._read(PREFIX_BYTES, length)
            header: dict[str, Any] = json.loads(content)
            self._checksums: dict[str, Any] = header.pop("__metadata__")
            self._members = header
            self._check_header(content)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._damaged(f"its header: {error}") from error
        self.attempt = str(self._checksums.get(ATTEMPT, ""))
        self.count = int(self["count"])

    def _check_header(self, content: bytes) -> None:
        if self._checksums.keys() - {ATTEMPT, HEADER} != self._members.keys():
            raise ValueError("its members are not those that have a checksum")
        stated = self._checksums.get(HEADER)
        if stated is not None:
            blank = content.replace(_header_entry(stated), _header_entry(BLANK), 1)
            if stated != disk.checksum(blank):
                raise ValueError("differs from its checksum")

    def _entry(self, name: str) -> _Entry:
        """Where a member is, once its type, shape and bytes are found to fit each other."""
        if name not in self._members:
            raise self._damaged(f"no member {name!r}")
        try:
            said = self._members[name]
            entry = _Entry(said["dtype"], tuple(said["shape"]), *said["data_offsets"])
            numbers = (*entry.shape, entry.start, entry.stop)
            sound = all(type(n) is int and 0 <= n <= self._num_bytes for n in numbers)
            itemsize = np.dtype(DTYPES[entry.dtype]).itemsize
            sound = sound and entry.stop - entry.start == math.prod(entry.shape) * itemsize
            sound = sound and _is_of_kind(name, entry)
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(f"member {name!r}: {error}") from error
        if not sound:
            raise self._damaged(
                f"a member {name!r} of type {entry.dtype} and shape {list(entry.shape)}, bytes "
                f"{entry.start} to {entry.stop}"
            )
        return entry

    def covers(self, name: str, layer: int, *, rows: int | None = None) -> bool:
        """Whether this manifest has the shard of one layer; StoreError if not of so many rows."""
        member = f"{name}/{layer}/crc32c"
        if member not in self._members:
            return False
        alternatives, found = self._entry(member).shape
        if alternatives < 1 or rows not in (None, found):
            raise self._damaged(f"{name}/{layer} has {found:,} rows, the store {rows or 0:,}")
        return True

    def moments(self, name: str, layer: int) -> Moments:
        """Moments of one shard's rows."""
        mean, m2 = self[f"{name}/{layer}/mean"], self[f"{name}/{layer}/m2"]
        rows = self._entry(f"{name}/{layer}/crc32c").shape[1:]
        if not mean.shape == m2.shape == rows:
            raise self._damaged(f"{name}/{layer}: moments and checksums of different rows")
        count = int(self[f"{name}/{layer}/count"])
        return Moments(count, mean.astype(np.float64), m2.astype(np.float64))

    def accepts(
        self, name: str, layer: int, rows: npt.NDArray[np.int64], crcs: Crcs
    ) -> npt.NDArray[np.bool_]:
        """Which rows of a shard are as they should be: `(len(rows),)` bool.

        Args:
            name: of the array.
            layer: whose shard.
            rows: numbers of the rows; only their bytes of the manifest are read.
            crcs: `(len(rows),)` checksums found.
        """
        sound: npt.NDArray[np.bool_] = (self._accepted_of(name, layer, rows) == crcs).any(axis=0)
        return sound

    def accepted(self, name: str, layer: int) -> Crcs:
        """`(1, rows)` checksums of one shard; more than one of each row if it is being replaced."""
        return self[f"{name}/{layer}/crc32c"].astype(np.uint32, copy=False)

    def _accepted_of(self, name: str, layer: int, rows: npt.NDArray[np.int64]) -> Crcs:
        """`accepted` of some rows, reading only those bytes."""
        member = f"{name}/{layer}/crc32c"
        entry = self._entry(member)
        alternatives, total = entry.shape
        if len(rows) and int(rows.max()) >= total:
            raise self._damaged(f"{member} has {total:,} rows")
        if 4 * len(rows) > total:
            return self.accepted(name, layer)[:, rows]
        start = self._data + entry.start
        out = np.empty((alternatives, len(rows)), "<u4")
        flat = out.reshape(-1)
        entries = (np.arange(alternatives)[:, None] * total + rows).ravel()
        self._fill(
            (start + 4 * entries).tolist(),
            [flat[i : i + 1].view(np.uint8) for i in range(len(flat))],
        )
        return out

    def result(self, name: str, num_samples: int) -> AnyArray:
        """One of the per-sample arrays, `(num_samples,)`; StoreError for another length."""
        values = self[name]
        if values.shape != (num_samples,):
            raise self._damaged(f"{name} has the shape {values.shape}, not ({num_samples},)")
        return values

    def sample_results(self) -> dict[str, AnyArray]:
        """The per-sample arrays that travelled along."""
        names = (name for name in self._members if "/" not in name and name != "count")
        return {name: self[name] for name in names}

    def check(self) -> None:
        """Read every member; StoreError if one differs from its checksum, or they overlap."""
        for name in self._members:
            self[name]
        for name in self._members:
            layer, _, kind = name.rpartition("/")
            if kind == "crc32c":
                array, _, number = layer.rpartition("/")
                self.moments(array, int(number))
        spans = sorted((entry.start, entry.stop) for entry in map(self._entry, self._members))
        ends = [0, *(stop for _, stop in spans)]
        if [start for start, _ in spans] != ends[:-1] or ends[-1] != self._num_bytes:
            raise self._damaged("its members do not follow each other to the end of the file")

    def __getitem__(self, member: str) -> AnyArray:
        entry = self._entry(member)
        content = self._read(self._data + entry.start, entry.stop - entry.start)
        if str(google_crc32c.value(content)) != self._checksums[member]:
            raise self._damaged(f"{member} differs from its checksum")
        return np.frombuffer(content, DTYPES[entry.dtype]).reshape(entry.shape)

    def _read(self, offset: int, length: int) -> bytes:
        buffer = np.zeros(length, np.uint8)
        if self._fill([offset], [buffer]) < offset + length:
            raise self._damaged("cut short")
        return buffer.tobytes()

    def _fill(self, offsets: list[int], buffers: list[npt.NDArray[np.uint8]]) -> int:
        """Read ranges of the file; returns its size."""
        try:
            return self._location.read_ranges(self.path, offsets, buffers)
        except FileNotFoundError:
            raise StoreError(
                f"{self._location.address}/{self.path}: the manifest is missing; "
                f"{disk.FROM_BACKUP} (if gc has removed an old snapshot, open the store again)"
            ) from None
        except OSError as error:
            raise self._damaged(f"cannot be read: {error.strerror or error}") from error

    def _damaged(self, what: str) -> StoreError:
        where = f"{self._location.address}/{self.path}"
        return StoreError(f"{where}: the manifest is damaged ({what}); {disk.FROM_BACKUP}")
