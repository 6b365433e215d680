"""The manifest of one slot: checksum and moments of every row of its shards.

Inner chunks of the shards carry no checksums of their own, so a `.npz` beside them does, written
once a slot's shards are durable. Checksums cover the first `count` samples of a row: a shard that
later appends complete keeps every earlier manifest true.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from store.errors import StoreError
from store.location import Location
from store.moments import Moments
from store.shards import Crcs

LayerKey = tuple[str, int]  # (array name, layer)


@dataclass(frozen=True)
class LayerSummary:
    """Checksums and moments of one shard.

    Attributes:
        crcs: `(alternatives, rows)` uint32; a row is sound if it matches any alternative. There is
            one, but for a shard that is being compacted.
        moments: per row, over the slot's samples.
    """

    crcs: Crcs
    moments: Moments


def encode_manifest(
    count: int,
    layers: Mapping[LayerKey, LayerSummary],
    extra: Mapping[str, npt.NDArray[np.generic]] | None = None,
) -> bytes:
    """The bytes of a manifest file; `extra` arrays (per-sample results) travel along."""
    members: dict[str, npt.NDArray[np.generic]] = {"count": np.array(count)}
    for (name, layer), summary in layers.items():
        members[f"{name}/{layer}/crc32c"] = summary.crcs
        members[f"{name}/{layer}/moment_count"] = np.array(summary.moments.count)
        members[f"{name}/{layer}/mean"] = summary.moments.mean
        members[f"{name}/{layer}/m2"] = summary.moments.m2
    members.update(extra or {})
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **members)
    return buffer.getvalue()


class Manifest:
    """A manifest read back; members are decoded when asked for."""

    def __init__(self, content: bytes, path: str) -> None:
        self.path = path
        try:
            self._members = np.load(io.BytesIO(content), allow_pickle=False)
            self.count = int(self._members["count"])
        except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise _damaged(path) from error

    @classmethod
    def load(cls, location: Location, path: str) -> Manifest:
        """Read a manifest file."""
        try:
            return cls(location.read(path), path)
        except FileNotFoundError:
            raise StoreError(
                f"{location.address}/{path}: the manifest is missing; restore it from a backup, or "
                "restore the store"
            ) from None

    @property
    def layers(self) -> list[LayerKey]:
        """The (array, layer) pairs this manifest covers."""
        keys = [name.split("/") for name in self._members.files if name.endswith("/crc32c")]
        return [(key[0], int(key[1])) for key in keys]

    def summary(self, name: str, layer: int) -> LayerSummary:
        """Checksums and moments of one shard."""
        prefix = f"{name}/{layer}"
        return LayerSummary(self[f"{prefix}/crc32c"], self.moments(name, layer))

    def moments(self, name: str, layer: int) -> Moments:
        """Moments of one shard's rows."""
        prefix = f"{name}/{layer}"
        return Moments(
            int(self[f"{prefix}/moment_count"]), self[f"{prefix}/mean"], self[f"{prefix}/m2"]
        )

    def sample_results(self) -> dict[str, npt.NDArray[np.generic]]:
        """The per-sample arrays that travelled along."""
        names = (name for name in self._members.files if "/" not in name and name != "count")
        return {name: self[name] for name in names}

    def __getitem__(self, member: str) -> npt.NDArray[np.generic]:
        try:
            return self._members[member]  # type: ignore[no-any-return]
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise _damaged(self.path) from error


def _damaged(path: str) -> StoreError:
    return StoreError(f"{path}: the manifest is damaged; restore it from a backup")
