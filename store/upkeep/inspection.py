"""What a store holds, and whether it is sound."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from store.activations import ActivationStore
from store.commits import active_plan_id
from store.disk import FROM_BACKUP, LocalLocation, Location, ObjectLocation
from store.errors import DamagedShardError, StoreError
from store.layout import ArrayLayout, Manifest, ShardReader, row_crcs, shard_index
from store.reading import ActivationReader
from store.records import load_snapshot, read_labels
from store.upkeep.keptfiles import check_history, unknown_files
from store.upkeep.keptobjects import check_objects
from store.upkeep.plainview import (
    Damage,
    check_array_documents,
    check_axes,
    check_root,
    check_samples,
    told,
)

MAX_SHOWN = 10
LISTED_AT_ONCE = 1000
"""Objects that a server names in one answer."""


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds.

    Attributes:
        payload_bytes: of the activations of all samples.
        num_files: files, or objects of a bucket: of all snapshots, and what else lies there. None
            where counting them would take a request each.
        stored_bytes: of those.
        list_requests: what it took to list a bucket's objects; None of a disk.
    """

    address: str
    snapshot: str
    num_samples: int
    num_living: int
    num_ids: int
    arrays: dict[str, str]
    dtype: str
    samples_per_shard: int
    num_slots: int
    payload_bytes: int
    tasks: tuple[str, ...]
    fingerprint: str
    plan_under_way: str | None
    plan_kind: str = "append"
    num_files: int | None = None
    stored_bytes: int | None = None
    list_requests: int | None = None

    def __str__(self) -> str:
        deleted = self.num_samples - self.num_living
        lines = [
            f"{self.address}, snapshot {self.snapshot}",
            f"  samples      {self.num_living:,} under {self.num_ids:,} ids"
            + (f" ({deleted:,} deleted)" if deleted else ""),
            *(f"  {name:<12} {shape}" for name, shape in self.arrays.items()),
            f"  stored as    {self.dtype}, {self.num_slots:,} slots of "
            f"{self.samples_per_shard:,} samples, {self.payload_bytes / 1e9:.3f} GB",
            *([] if self.num_files is None else [self._stored()]),
            f"  labels       {', '.join(self.tasks) or 'none'}",
            f"  fingerprint  {self.fingerprint or 'none'}",
        ]
        if self.plan_under_way:
            lines.append(f"  under way    {self.plan_kind} {self.plan_under_way}")
        return "\n".join(lines)

    def _stored(self) -> str:
        size = f"{self.num_files or 0:,} {{}}, {(self.stored_bytes or 0) / 1e9:.3f} GB"
        if self.list_requests is None:
            return "  on disk      " + size.format("files")
        asked = f"{self.list_requests:,} request{'s' * (self.list_requests != 1)} to list them"
        return "  in bucket    " + size.format("objects") + f" ({asked})"


def info(store: ActivationStore) -> StoreInfo:
    """Describe a store at its snapshot."""
    schema = store.schema
    plan = load_snapshot(store.location).plan if store.snapshot.on_bucket else None
    root = getattr(store.location, "root", None)
    active = active_plan_id(root) if root is not None else None
    num_files, stored_bytes, list_requests = _stored(store.location)
    return StoreInfo(
        address=store.location.address,
        snapshot=store.snapshot_id,
        num_samples=store.num_samples,
        num_living=store.num_living,
        num_ids=len(store.index.records),
        arrays={
            name: f"{len(a.layers)} layers x {', '.join(a.poolings)} x {a.width} units"
            for name, a in schema.arrays.items()
        },
        dtype=schema.dtype,
        samples_per_shard=schema.samples_per_shard,
        num_slots=len(store.snapshot.slots),
        payload_bytes=store.num_samples * schema.bytes_per_sample,
        tasks=store.tasks(),
        fingerprint=schema.fingerprint,
        plan_under_way=active if plan is None else plan.id,
        plan_kind="append" if plan is None else plan.kind,
        num_files=num_files,
        stored_bytes=stored_bytes,
        list_requests=list_requests,
    )


def _stored(location: Location) -> tuple[int | None, int | None, int | None]:
    """How many files or objects there are, their bytes, and how many requests it took to know."""
    if isinstance(location, ObjectLocation):
        sizes = [meta.size for meta in location.list()]
        return len(sizes), sum(sizes), max(1, -(-len(sizes) // LISTED_AT_ONCE))
    if isinstance(location, LocalLocation):
        sizes = [size for path in location.files() if (size := _size(location, path)) is not None]
        return len(sizes), sum(sizes), None
    return None, None, None


def _size(location: LocalLocation, path: str) -> int | None:
    """Bytes of a file; None if it went meanwhile."""
    try:
        return os.lstat(location.root / path).st_size
    except OSError:
        return None


def describe_snapshots(store: ActivationStore) -> str:
    """One line per kept snapshot."""
    lines = []
    for snapshot in store.snapshots():
        when = datetime.datetime.fromtimestamp(snapshot.created_at, datetime.UTC)
        lines.append(
            f"{snapshot.id}  {when:%Y-%m-%d %H:%M:%S}Z  {snapshot.kind:<8}  "
            f"{snapshot.num_samples:,} samples"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class VerifyReport:
    """The result of reading every byte; unknown files are no damage, for nobody reads them."""

    num_shards: int
    num_bytes: int
    damage: tuple[Damage, ...]
    unknown_files: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.damage

    @property
    def damaged_slots(self) -> tuple[int, ...]:
        """Numbers of the slots with damage."""
        return tuple(sorted({d.slot for d in self.damage if d.slot is not None}))

    def __str__(self) -> str:
        head = f"{self.num_shards:,} shards, {self.num_bytes / 1e9:.3f} GB read: "
        if self.sound:
            lines = [head + "all sound"]
        else:
            slots = ", ".join(map(str, self.damaged_slots)) or "none"
            lines = [head + f"{len(self.damage)} problems; damaged slots: {slots}"]
        lines += [f"  {damage.message}" for damage in self.damage]
        if self.unknown_files:
            shown = ", ".join(self.unknown_files[:MAX_SHOWN])
            more = len(self.unknown_files) - MAX_SHOWN
            lines.append(f"  not of the store: {shown}" + (f" and {more} more" * (more > 0)))
        return "\n".join(lines)


def verify(store: ActivationStore) -> VerifyReport:
    """Read every file that is the store's and check all checksums.

    That is: shards, manifests, coordinates, tables and Zarr documents of the snapshot, and records
    and files of every snapshot that is kept; of a bucket every object that one of them names. What
    changes while it is read is read again.

    Raises:
        StoreBusy, StoreInputError: a bucket does not answer, or refuses to be read.
    """
    while True:
        report = _verify(store)
        if report.sound:
            return report
        before = store.snapshot_id
        store.refresh()
        if store.snapshot_id == before:
            return report


def _verify(store: ActivationStore) -> VerifyReport:
    if isinstance(store.location, ObjectLocation) and store.snapshot.on_bucket:
        try:
            found = check_objects(store.location)
        except StoreError as error:
            return VerifyReport(0, 0, (Damage(None, told(store.location, error)),))
        damage = tuple(dict.fromkeys(found.damage))
        return VerifyReport(found.num_shards, found.num_bytes, damage, found.unknown)
    return _verify_files(store)


def _verify_files(store: ActivationStore) -> VerifyReport:
    nobody = np.broadcast_to(np.False_, store.num_samples)  # no memory, whatever the length
    reader = ActivationReader(store.location, store.snapshot, nobody, check="always")
    damage: list[Damage] = []
    num_shards = 0
    for slot, record in enumerate(store.snapshot.slots):
        damage += _check_manifests(store, slot)
        for layout in store.schema.arrays.values():
            for layer in layout.layers:
                try:
                    if record.emptied:
                        if not _check_emptied(store, layout, layer, slot):
                            continue
                    else:
                        reader.read_committed(layout.name, layer, slot)
                    num_shards += 1
                    _check_index(store, layout.shard_path(layer, slot), layout.rows)
                except StoreError as error:
                    damage.append(Damage(slot, told(store.location, error)))
    damage += _check_tables(store)
    damage += _check_surroundings(store)
    # Once each: the history names the snapshot's own files again.
    unique = tuple(dict.fromkeys(damage))
    return VerifyReport(num_shards, reader.shards.bytes_read, unique, _unknown(store))


def _unknown(store: ActivationStore) -> tuple[str, ...]:
    try:
        return tuple(sorted(unknown_files(store.location, store.schema)))
    except (StoreError, OSError):
        return ()


def _check_surroundings(store: ActivationStore) -> Iterator[Damage]:
    """What is of the last commit, whichever the store shows, and of all that are kept."""
    location = store.location
    try:
        current = load_snapshot(location)
    except StoreError as error:
        yield Damage(None, told(location, error))
        return
    for check in (check_root, check_array_documents, check_axes, check_history):
        try:
            yield from check(location, current)
        except StoreError as error:
            yield Damage(None, told(location, error))


def _check_emptied(store: ActivationStore, layout: ArrayLayout, layer: int, slot: int) -> bool:
    """Whether an emptied slot has a shard, as a backfill makes one; plain Zarr readers see it.

    Raises:
        StoreError: it has, and it is damaged.
    """
    path = layout.shard_path(layer, slot)
    where = f"{store.location.address}/{path}"

    def damaged(_: str, what: str) -> DamagedShardError:
        return DamagedShardError(
            f"{where}: the shard of an emptied slot {what}; remove it, nothing needs it"
        )

    try:
        store.location.size(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise damaged(path, f"cannot be read ({error.strerror or error})") from error
    size = store.schema.samples_per_shard
    shards = ShardReader(
        store.location, samples_per_shard=size, dtype=store.schema.dtype, damaged=damaged
    )
    values = np.empty((layout.rows, size), store.schema.dtype)
    shards.read_block(path, layout.rows, values)
    for name in store.snapshot.slots[slot].manifests:
        manifest = Manifest(store.location, name)
        if manifest.covers(layout.name, layer):
            crcs = row_crcs(values[:, : manifest.count])
            if not manifest.accepts(layout.name, layer, np.arange(layout.rows), crcs).all():
                raise damaged(path, "differs from its checksums")
    return True


def _check_manifests(store: ActivationStore, slot: int) -> Iterator[Damage]:
    for path in store.snapshot.slots[slot].manifests:
        try:
            Manifest(store.location, path).check()
        except StoreError as error:
            yield Damage(slot, told(store.location, error))


def _check_index(store: ActivationStore, path: str, rows: int) -> None:
    usual = shard_index(rows, store.schema.samples_per_shard * store.schema.itemsize)
    tail = np.empty(len(usual), np.uint8)
    where = f"{store.location.address}/{path}"
    try:
        start = max(0, store.location.size(path) - len(usual))
        store.location.read_ranges(path, [start], [tail])
    except OSError as error:  # a compaction may have emptied the slot: then `verify` looks again
        raise DamagedShardError(
            f"{where}: the shard cannot be read ({error.strerror or error}); {FROM_BACKUP} or "
            "extract again"
        ) from error
    if tail.tobytes() != usual:
        raise DamagedShardError(
            f"{where}: the shard's index is damaged; {FROM_BACKUP} or extract again"
        )


def _check_tables(store: ActivationStore) -> Iterator[Damage]:
    for task in store.tasks():
        try:
            read_labels(store.location, store.snapshot, task)
        except StoreError as error:
            what = told(store.location, error)
            yield Damage(None, f"labels of task {task!r} cannot be read: {what}")
    try:
        yield from check_samples(store.location, store.snapshot, store.index)
    except StoreError as error:
        what = told(store.location, error)
        yield Damage(None, f"the sample index cannot be read: {what}")
