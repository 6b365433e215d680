"""A store of a bucket made of one on a disk: the same bytes under a bucket's names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from store.disk import LocalLocation, ObjectLocation, locate
from store.layout import Manifest
from store.records import MANIFESTS, Snapshot, load_snapshot
from store.records.numbered import publish_next

PLAN = "0123456789ab"


def to_bucket(root: Path, url: str, *, attempt: int = 0) -> ObjectLocation:
    """Upload what the last commit of a disk's store shows, and publish it under its number.

    Args:
        root: the store's folder.
        url: of the store to be.
        attempt: ends the names of manifests and shards, so that others come to be beside them.
    """
    source, target = LocalLocation(root), locate(url)
    assert isinstance(target, ObjectLocation)
    snapshot = load_snapshot(source)
    slots = []
    for slot, record in enumerate(snapshot.slots):
        names = []
        for number, path in enumerate(record.manifests):
            name = f"{slot:08d}-{record.count:06d}-{PLAN}-{16 * attempt + number:08x}"
            names.append(f"{MANIFESTS}/{name}.safetensors")
            target.put(names[-1], [source.read(path)])
            if not record.emptied:
                _put_shards(source, target, snapshot, slot, path, names[-1])
        slots.append(record._replace(manifests=tuple(names)))
    for part in (*snapshot.index, *snapshot.labels.values()):
        target.put(part.path, [source.read(part.path)])
    there = replace(snapshot, slots=tuple(slots))
    assert publish_next(target, there) is not None
    return target


def _put_shards(
    source: LocalLocation,
    target: ObjectLocation,
    snapshot: Snapshot,
    slot: int,
    path: str,
    name: str,
) -> None:
    manifest = Manifest(source, path)
    for layout in snapshot.schema.arrays.values():
        for layer in layout.layers:
            if manifest.covers(layout.name, layer):
                content = source.read(layout.shard_path(layer, slot))
                target.put(layout.shard_path(layer, slot, name), [content])
