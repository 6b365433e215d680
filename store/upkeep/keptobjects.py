"""The objects of a store on a bucket: those that kept snapshots name, and those that nobody knows.

Nothing of it is derived from anything else, so each object is looked at by itself: it is there, has
its length, and each row of a shard has the checksum that its manifest says. Nothing is read through
the store's own reader, which goes on with the newest snapshot where an older one's shard is gone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from store.disk import FROM_BACKUP, ObjectLocation
from store.errors import StoreError
from store.layout import ArrayLayout, Manifest, StoreSchema, row_crcs, shard_bytes, shard_index
from store.records import MANIFESTS, PLANS, SampleIndex, Snapshot, kept_snapshots
from store.upkeep.keptfiles import read_file
from store.upkeep.plainview import Damage, told
from store.upkeep.sweeping import is_ours

NUM_THREADS = 4
"""Shards read at once, each whole in memory."""
AGAIN = f"{FROM_BACKUP}, or extract again"


@dataclass
class ObjectChecks:
    """What was looked at, and what is wrong with it."""

    damage: list[Damage] = field(default_factory=list)
    num_shards: int = 0
    num_bytes: int = 0
    unknown: tuple[str, ...] = ()


def check_objects(location: ObjectLocation) -> ObjectChecks:
    """Check every object of the snapshots that are kept.

    Raises:
        StoreError: the record of one is damaged.
        StoreBusy, StoreInputError: the bucket does not answer, or refuses; nothing is known then.
    """
    snapshots = kept_snapshots(location)[::-1]
    listing = {meta.path: meta.size for meta in location.list()}  # after: all they name is there
    checks = ObjectChecks(unknown=tuple(sorted(path for path in listing if not is_ours(path))))
    head = snapshots[0]
    checks.damage += _check_tables(location, snapshots)
    checks.damage += _check_plan(location, head, listing)
    _check_slots(location, head.schema, snapshots, listing, checks)
    try:
        SampleIndex(location, head)
    except StoreError as error:
        checks.damage.append(
            Damage(None, f"the sample index cannot be read: {told(location, error)}")
        )
    return checks


def _check_tables(location: ObjectLocation, snapshots: Iterable[Snapshot]) -> Iterator[Damage]:
    paths = sorted(set().union(*(snapshot.files() for snapshot in snapshots)))
    for path in paths:
        if not path.startswith((f"{MANIFESTS}/", f"{PLANS}/")):
            try:
                read_file(location, path)
            except StoreError as error:
                yield Damage(None, told(location, error))


def _check_plan(
    location: ObjectLocation, head: Snapshot, listing: Mapping[str, int]
) -> Iterator[Damage]:
    tables = {} if head.plan is None else head.plan.tables
    for path in tables.values():
        if path not in listing:
            yield Damage(
                None,
                f"{location.address}/{path}: it is missing, of the append under way; run the append"
                " again with other samples too, then it is planned anew",
            )


def _check_slots(
    location: ObjectLocation,
    schema: StoreSchema,
    snapshots: Iterable[Snapshot],
    listing: Mapping[str, int],
    checks: ObjectChecks,
) -> None:
    """The manifests of all slots, and the shards of those that are not emptied."""
    manifests: dict[str, Manifest | None] = {}
    shards: dict[str, tuple[int, Manifest, ArrayLayout, int]] = {}
    for snapshot in snapshots:
        for slot, record in enumerate(snapshot.slots):
            for path in record.manifests:
                if path not in manifests:
                    manifests[path] = _manifest(location, slot, path, checks)
            found = [manifests[path] for path in record.manifests]
            if record.emptied or None in found:
                continue
            for layout in snapshot.schema.arrays.values():
                for layer in layout.layers:
                    own = next((m for m in found if m and m.covers(layout.name, layer)), None)
                    if own is None:
                        what = f"no manifest of array {layout.name!r}, layer {layer}; {AGAIN}"
                        checks.damage.append(Damage(slot, f"{location.address}: {what}"))
                        continue
                    path = layout.shard_path(layer, slot, own.path)
                    shards[path] = (slot, own, schema.arrays[layout.name], layer)

    def check(path: str) -> tuple[int, Damage | None]:
        slot, manifest, layout, layer = shards[path]
        what = _wrong_with(location, schema, path, listing.get(path), manifest, layout, layer)
        if not what:
            return listing[path], None
        return 0, Damage(slot, f"{location.address}/{path}: the shard {what}; {AGAIN}")

    with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="verify") as pool:
        for num_bytes, damage in pool.map(check, sorted(shards)):
            checks.num_shards += 1
            checks.num_bytes += num_bytes
            checks.damage += [] if damage is None else [damage]


def _manifest(
    location: ObjectLocation, slot: int, path: str, checks: ObjectChecks
) -> Manifest | None:
    try:
        manifest = Manifest(location, path)
        manifest.check()
    except StoreError as error:
        checks.damage.append(Damage(slot, told(location, error)))
        return None
    return manifest


def _wrong_with(
    location: ObjectLocation,
    schema: StoreSchema,
    path: str,
    size: int | None,
    manifest: Manifest,
    layout: ArrayLayout,
    layer: int,
) -> str:
    """What is wrong with a shard, in words; "" if nothing."""
    row_bytes = schema.samples_per_shard * schema.itemsize
    expected = shard_bytes(layout.rows, row_bytes)
    if size is None:
        return "is missing"
    if size != expected:
        return f"has {size:,} bytes instead of {expected:,}"
    try:
        content = location.read(path)
    except FileNotFoundError:
        return "is missing"
    block = content[: layout.rows * row_bytes]
    if content[len(block) :] != shard_index(layout.rows, row_bytes):
        return "has a damaged index"
    values = np.frombuffer(block, schema.dtype).reshape(layout.rows, -1)[:, : manifest.count]
    try:
        crcs = row_crcs(np.ascontiguousarray(values))
        sound = manifest.accepts(layout.name, layer, np.arange(layout.rows), crcs)
    except StoreError as error:
        return f"cannot be compared ({told(location, error)})"
    if not sound.all():
        return f"differs from its checksums in {int((~sound).sum())} of {layout.rows} rows"
    return ""
