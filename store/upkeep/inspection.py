"""What a store holds, and whether it is sound."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from store.activations import ActivationStore
from store.commits import active_plan_id
from store.errors import DamagedShardError, StoreError
from store.layout import Manifest, check_sample_chunk, sample_coordinates, shard_index
from store.reading import ActivationReader
from store.records import read_labels


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds."""

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

    def __str__(self) -> str:
        deleted = self.num_samples - self.num_living
        lines = [
            f"{self.address}, snapshot {self.snapshot}",
            f"  samples      {self.num_living:,} under {self.num_ids:,} ids"
            + (f" ({deleted:,} deleted)" if deleted else ""),
            *(f"  {name:<12} {shape}" for name, shape in self.arrays.items()),
            f"  stored as    {self.dtype}, {self.num_slots:,} slots of "
            f"{self.samples_per_shard:,} samples, {self.payload_bytes / 1e9:.3f} GB",
            f"  labels       {', '.join(self.tasks) or 'none'}",
            f"  fingerprint  {self.fingerprint or 'none'}",
        ]
        if self.plan_under_way:
            lines.append(f"  under way    append {self.plan_under_way}")
        return "\n".join(lines)


def info(store: ActivationStore) -> StoreInfo:
    """Describe a store at its snapshot."""
    schema = store.schema
    root = getattr(store.location, "root", None)
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
        plan_under_way=active_plan_id(root) if root is not None else None,
    )


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
class Damage:
    """One thing that is wrong, with the slot it belongs to (None: the whole store)."""

    slot: int | None
    message: str


@dataclass(frozen=True)
class VerifyReport:
    """The result of reading every byte."""

    num_shards: int
    num_bytes: int
    damage: tuple[Damage, ...]

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
            return head + "all sound"
        slots = ", ".join(map(str, self.damaged_slots)) or "none"
        lines = [head + f"{len(self.damage)} problems; damaged slots: {slots}"]
        return "\n".join([*lines, *(f"  {damage.message}" for damage in self.damage)])


def verify(store: ActivationStore) -> VerifyReport:
    """Read every shard, manifest, coordinate and table of the snapshot and check all checksums."""
    reader = ActivationReader(
        store.location, store.snapshot, np.zeros(store.num_samples, bool), check="always"
    )
    damage: list[Damage] = []
    num_shards = 0
    for slot, record in enumerate(store.snapshot.slots):
        if record.emptied:
            continue
        damage += _check_manifests(store, slot)
        for layout in store.schema.arrays.values():
            for layer in layout.layers:
                num_shards += 1
                try:
                    reader.read_committed(layout.name, layer, slot)
                    _check_index(store, layout.shard_path(layer, slot), layout.rows)
                except StoreError as error:
                    damage.append(Damage(slot, str(error)))
    damage += _check_tables(store)
    return VerifyReport(num_shards, reader.shards.bytes_read, tuple(damage))


def _check_manifests(store: ActivationStore, slot: int) -> Iterator[Damage]:
    for path in store.snapshot.slots[slot].manifests:
        try:
            Manifest(store.location, path).check()
        except StoreError as error:
            yield Damage(slot, str(error))


def _check_index(store: ActivationStore, path: str, rows: int) -> None:
    usual = shard_index(rows, store.schema.samples_per_shard * store.schema.itemsize)
    tail = np.empty(len(usual), np.uint8)
    store.location.read_ranges(path, [store.location.size(path) - len(usual)], [tail])
    if tail.tobytes() != usual:
        raise DamagedShardError(
            f"{store.location.address}/{path}: the shard's index is damaged; restore it from a "
            "backup or extract again"
        )


def _check_tables(store: ActivationStore) -> Iterator[Damage]:
    try:
        rows = store.index.visible_rows(0, store.num_samples)
    except (StoreError, OSError, ValueError) as error:
        yield Damage(None, f"the sample index cannot be read: {error}")
        return
    for task in store.tasks():
        try:
            read_labels(store.location, store.snapshot, task)
        except (StoreError, OSError, ValueError) as error:
            yield Damage(None, f"labels of task {task!r} cannot be read: {error}")
    size = store.schema.samples_per_shard
    for slot, record in enumerate(store.snapshot.slots):
        own = rows.slice(slot * size, record.count)
        for name in sample_coordinates(store.schema):
            path = f"{name}/c/{slot}"
            try:
                content = store.location.read(path)
            except OSError as error:
                yield Damage(slot, f"{path}: {error.strerror or error}")
                continue
            if not check_sample_chunk(content, name, own, size):
                yield Damage(slot, f"{path}: the coordinate differs from the sample index")
