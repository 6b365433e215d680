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
Its metadata hold a crc32c of every member.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import safetensors.numpy

from store.disk import Location
from store.errors import StoreError
from store.layout.moments import Moments
from store.layout.shards import Crcs

AnyArray = npt.NDArray[np.generic]
LayerKey = tuple[str, int]  # (array name, layer)
DTYPES = {"U32": "<u4", "F64": "<f8", "I64": "<i8", "I32": "<i4", "BOOL": "?"}
PREFIX_BYTES = 8
ATTEMPT = "attempt"
MAX_HEADER_BYTES = 100_000_000


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
    checksums = {name: str(google_crc32c.value(a.tobytes())) for name, a in members.items()}
    return safetensors.numpy.save(members, metadata={ATTEMPT: attempt, **checksums})


class Manifest:
    """A manifest on disk; members are read when asked for.

    Args:
        location: where the store is.
        path: of the manifest.

    Raises:
        StoreError: missing or damaged.
    """

    def __init__(self, location: Location, path: str) -> None:
        self.path = path
        self._location = location
        length = struct.unpack("<Q", self._read(0, PREFIX_BYTES))[0]
        if length > MAX_HEADER_BYTES:
            raise self._damaged()
        try:
            header: dict[str, Any] = json.loads(self._read(PREFIX_BYTES, length))
            self._checksums: dict[str, str] = header.pop("__metadata__")
        except (ValueError, KeyError) as error:
            raise self._damaged() from error
        self._members = header
        self.attempt: str = self._checksums.get(ATTEMPT, "")
        self._data = PREFIX_BYTES + length
        self.count = int(self["count"])

    @property
    def layers(self) -> list[LayerKey]:
        """The (array, layer) pairs this manifest covers."""
        keys = [name.split("/") for name in self._members if name.endswith("/crc32c")]
        return sorted((key[0], int(key[1])) for key in keys)

    def covers(self, name: str, layer: int) -> bool:
        """Whether this manifest has the shards of one layer."""
        return f"{name}/{layer}/crc32c" in self._members

    def moments(self, name: str, layer: int) -> Moments:
        """Moments of one shard's rows."""
        mean, m2 = self[f"{name}/{layer}/mean"], self[f"{name}/{layer}/m2"]
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
        alternatives, total = self._members[member]["shape"]
        if 4 * len(rows) > total:
            return self.accepted(name, layer)[:, rows]
        start = self._data + self._members[member]["data_offsets"][0]
        out = np.empty((alternatives, len(rows)), "<u4")
        flat = out.reshape(-1)
        entries = (np.arange(alternatives)[:, None] * total + rows).ravel()
        self._location.read_ranges(
            self.path,
            (start + 4 * entries).tolist(),
            [flat[i : i + 1].view(np.uint8) for i in range(len(flat))],
        )
        return out

    def sample_results(self) -> dict[str, AnyArray]:
        """The per-sample arrays that travelled along."""
        names = (name for name in self._members if "/" not in name and name != "count")
        return {name: self[name] for name in names}

    def check(self) -> None:
        """Read every member; StoreError if one differs from its checksum."""
        for name in self._members:
            self[name]

    def __getitem__(self, member: str) -> AnyArray:
        entry = self._members.get(member)
        if entry is None:
            raise self._damaged()
        start, stop = entry["data_offsets"]
        content = self._read(self._data + start, stop - start)
        if str(google_crc32c.value(content)) != self._checksums.get(member):
            raise self._damaged()
        return np.frombuffer(content, DTYPES[entry["dtype"]]).reshape(entry["shape"])

    def _read(self, offset: int, length: int) -> bytes:
        buffer = np.zeros(length, np.uint8)
        try:
            size = self._location.read_ranges(self.path, [offset], [buffer])
        except FileNotFoundError:
            raise StoreError(
                f"{self._location.address}/{self.path}: the manifest is missing; restore it from "
                "a backup (if gc has removed an old snapshot, open the store again)"
            ) from None
        if size < offset + length:
            raise self._damaged()
        return buffer.tobytes()

    def _damaged(self) -> StoreError:
        return StoreError(
            f"{self._location.address}/{self.path}: the manifest is damaged; restore it from a "
            "backup"
        )
