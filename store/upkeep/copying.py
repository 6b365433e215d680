"""Copies of a store: from a disk to a bucket, back, or to another of the same kind.

    print(copy_store(store, "s3://bucket/activations"))

A copy shows what its source shows, as one snapshot of the same number: texts, labels, activations,
each read once and compared with its checksums. What is deleted does not come along; positions stay
what they are. A copy is there when all of it is. On a disk it is made beside its place and renamed,
so a copy that dies leaves nothing there; in a bucket its record is created last, and the same copy
again goes on with the slots that lack.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from store import disk
from store.activations import ActivationStore
from store.commits import manifest_path, refuse_private
from store.disk import LocalLocation, ObjectLocation, check_conditions, check_writable_file_system
from store.errors import StoreBusy, StoreError, StoreInputError
from store.layout import (
    ArrayLayout,
    LayerKey,
    LayerSummary,
    encode_manifest,
    write_axis_coordinates,
    write_sample_chunks,
    write_shard,
)
from store.records import (
    INDEX,
    LABELS,
    MANIFESTS,
    PLANS,
    PRIVATE,
    SNAPSHOTS,
    IndexPart,
    SampleIndex,
    SlotRecord,
    Snapshot,
    kept_ids,
    publish,
    publish_next,
    snapshot_path,
)
from store.upkeep.cleaning import (
    NUM_THREADS,
    CleanShard,
    clean_index,
    clean_labels,
    clean_shard,
    empty_slots,
    layers_of,
    put_shard,
    sound_reader,
)
from store.upkeep.sweeping import is_ours, is_probe, record_id

ATTEMPT = "0" * 8
"""Ends the names of a copy's shards: each is written by one source in one way."""


@dataclass(frozen=True)
class CopyReport:
    """What a copy wrote; what was there already of an earlier attempt is not counted."""

    address: str
    snapshot: str
    num_samples: int
    num_files: int
    num_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.address}: snapshot {self.snapshot}, {self.num_samples:,} samples; "
            f"{self.num_files:,} files written, {self.num_bytes / 1e6:.3f} MB"
        )


def copy_store(store: ActivationStore, target: str | Path) -> CopyReport:
    """Copy what a store shows into a new folder, or into a bucket where nothing is yet.

    Args:
        store: the source, at any snapshot.
        target: a folder, or an address such as ``s3://bucket/activations``.

    Raises:
        StoreError: something is at the target already, or writing there would not be safe; the
            source is damaged.
    """
    location = disk.locate(target)
    if isinstance(location, ObjectLocation):
        return _Copy(store, str(target)).to_bucket(location)
    if isinstance(location, LocalLocation):
        return _Copy(store, str(target)).to_disk(location.root.absolute())
    raise StoreInputError(
        f"{target}: only folders and buckets (s3://, gs://, az://) are written; choose one"
    )


class Tables(NamedTuple):
    """The parts of the index of a copy, and its labels by task."""

    parts: list[IndexPart]
    labels: dict[str, Any]


class _Copy:
    """One copy under way."""

    def __init__(self, store: ActivationStore, target: str) -> None:
        self.store, self.target = store, target
        self.schema = store.schema
        self.reader = sound_reader(store.location, store.snapshot)
        self.empty = empty_slots(store.snapshot, store.index.dead)
        shown = store.snapshot
        labels = [record.path for record in shown.labels.values()]
        said = [store.location.address, shown.id, *(part.path for part in shown.index), *labels]
        # Of the same source it is the same name, by which a copy that died is known.
        self.name = hashlib.blake2b("\n".join(said).encode(), digest_size=6).hexdigest()
        self.num_files, self.num_bytes = 0, 0

    def report(self, snapshot: Snapshot) -> CopyReport:
        return CopyReport(
            self.target, snapshot.id, snapshot.num_samples, self.num_files, self.num_bytes
        )

    def slot(self, slot: int, write: Callable[[CleanShard], int]) -> bytes:
        """Write the shards of a slot; returns its manifest."""

        def shard(of: tuple[ArrayLayout, int]) -> tuple[LayerKey, LayerSummary, int]:
            clean = clean_shard(self.reader, *of, slot, self.store.index.dead)
            if np.isnan(clean.values[0, : record.count][~dead]).any():
                raise _changed_meanwhile(self.store, self.target)
            return (clean.layout.name, clean.layer), clean.summary, write(clean)

        size, record = self.schema.samples_per_shard, self.store.snapshot.slots[slot]
        dead = self.store.index.dead[slot * size : slot * size + record.count]
        summaries: dict[LayerKey, LayerSummary] = {}
        if slot not in self.empty:
            with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="copy") as pool:
                for key, summary, num_bytes in pool.map(shard, layers_of(self.store.snapshot)):
                    summaries[key] = summary
                    self.count(num_bytes)
        return encode_manifest(record.count, summaries)

    def count(self, num_bytes: int) -> None:
        self.num_files += 1
        self.num_bytes += num_bytes

    def tables(self) -> Iterator[tuple[str, pa.Table, IndexPart | str]]:
        """Each table of the copy: its path, what it holds, and the part or task that it is."""
        for part, table in clean_index(self.store.index, self.store.snapshot):
            path = f"{INDEX}/{part.kind}-{part.start}-{part.stop}-{self.name}.parquet"
            yield path, table, replace(part, path=path)
        for task, record in self.store.snapshot.labels.items():
            table, _ = clean_labels(self.store.location, record.path, self.store.index)
            yield f"{LABELS}/{task}-{self.name}.parquet", table, task

    def written(self, write: Callable[[str, bytes], object]) -> Tables:
        """Write the tables: first, for a compaction of the source takes them away, not the shards.

        Raises:
            StoreError: one did.
        """
        tables = Tables([], {})
        try:
            for path, table, what in self.tables():
                content = disk.encode_parquet(table)
                write(path, content)
                self.count(len(content))
                if isinstance(what, IndexPart):
                    tables.parts.append(what)
                else:
                    record = self.store.snapshot.labels[what]
                    tables.labels[what] = replace(record, path=path)
        except StoreBusy:
            raise
        except StoreError:
            if self.store.snapshot_id in kept_ids(self.store.location):
                raise
            raise _changed_meanwhile(self.store, self.target) from None
        return tables

    def snapshot(self, manifests: list[str], tables: Tables) -> Snapshot:
        """What is to be committed."""
        shown = self.store.snapshot
        slots = tuple(
            SlotRecord(record.count, (path,), slot in self.empty)
            for slot, (record, path) in enumerate(zip(shown.slots, manifests, strict=True))
        )
        return Snapshot(
            id=shown.id,
            parent=None,
            kind="copy",
            created_at=time.time(),
            num_samples=shown.num_samples,
            schema=self.schema,
            slots=slots,
            index=tuple(tables.parts),
            labels=tables.labels,
            has_dead=bool(self.store.index.dead.any()),
        )

    # -- to a disk --------------------------------------------------------------------------

    def to_disk(self, target: Path) -> CopyReport:
        """Make the folder beside its place, and rename it."""
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise _exists_already(self.target)
        disk.make_directories(target.parent)
        check_writable_file_system(target.parent)
        try:
            with disk.made_beside(target) as root:
                snapshot = self._fill(root)
        except FileExistsError:
            raise _exists_already(self.target) from None
        return self.report(snapshot)

    def _fill(self, root: Path) -> Snapshot:
        for directory in (PRIVATE, SNAPSHOTS, MANIFESTS, INDEX, LABELS, PLANS):
            disk.make_directories(root / directory)
        write_axis_coordinates(root, self.schema)
        folders = {root / layout.shard_path(layer, 0) for layout, layer in self.layers()}
        for folder in {path.parent for path in folders}:
            disk.make_directories(folder)
        tables = self.written(lambda path, content: disk.write_file(root / path, [content]))
        manifests = []
        for slot, record in enumerate(self.store.snapshot.slots):
            content = self.slot(slot, partial(_write_file, root, slot))
            manifests.append(f"{MANIFESTS}/{slot:08d}-{record.count:06d}-{self.name}.safetensors")
            disk.write_file(root / manifests[-1], [content], sync_name=False)
            self.count(len(content))
        disk.sync_directories({path.parent for path in folders} | {root / MANIFESTS})
        snapshot = self.snapshot(manifests, tables)
        index = SampleIndex(LocalLocation(root), snapshot)  # the source's may have moved on
        write_sample_chunks(root, self.schema, index.visible_slots(range(len(snapshot.slots))))
        publish(root, snapshot)
        return snapshot

    def layers(self) -> list[tuple[ArrayLayout, int]]:
        return layers_of(self.store.snapshot)

    # -- to a bucket ------------------------------------------------------------------------

    def to_bucket(self, location: ObjectLocation) -> CopyReport:
        """Write all objects that lack, then the record."""
        refuse_private(location)
        there = self._left_by_another_try(location)
        check_conditions(location)
        tables = self.written(location.put)
        manifests = []
        for slot, record in enumerate(self.store.snapshot.slots):
            manifests.append(manifest_path(slot, record.count, self.name, ATTEMPT))
            if manifests[-1] not in there:
                write = partial(_put, location, slot, manifests[-1])
                content = self.slot(slot, write)
                location.put(manifests[-1], content)  # last: it says that the slot is there
                self.count(len(content))
        snapshot = self.snapshot(manifests, tables)
        first = snapshot_path("000000")
        claimed = snapshot_path(snapshot.id) == first or location.create(first, b"")
        if not claimed or publish_next(location, replace(snapshot, oldest=snapshot.id)) is None:
            raise _exists_already(self.target)
        return self.report(snapshot)

    def _left_by_another_try(self, location: ObjectLocation) -> set[str]:
        """The objects of this same copy that died before; StoreInputError if there are others."""
        there = set()
        for meta in location.list():
            first = record_id(meta.path) == "000000" and not meta.size
            own = is_ours(meta.path) and self.name in meta.path
            if not (own or first or is_probe(meta.path)):
                raise _exists_already(self.target)
            there.add(meta.path)
        return there


def _write_file(root: Path, slot: int, clean: CleanShard) -> int:
    path = root / clean.layout.shard_path(clean.layer, slot)
    write_shard(path, clean.values)
    return path.stat().st_size


def _put(location: ObjectLocation, slot: int, manifest: str, clean: CleanShard) -> int:
    return put_shard(location, clean.layout.shard_path(clean.layer, slot, manifest), clean.values)


def _changed_meanwhile(store: ActivationStore, target: str) -> StoreError:
    where = store.location.address
    return StoreError(
        f"{where}: snapshot {store.snapshot_id} was compacted, or removed by gc, while it was"
        f" copied; remove what {target} has of it, if anything, and run it again"
    )


def _exists_already(target: str) -> StoreInputError:
    return StoreInputError(
        f"{target}: something is there already (a store, or an unfinished copy of another"
        " snapshot); name a place where nothing is, or remove it first"
    )
