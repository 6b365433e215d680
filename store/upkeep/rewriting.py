"""Removing the bytes of deleted samples from a bucket.

    planned      a commit names the compaction as the plan under way, so that no append is
    rewritten    slots, one by one: shards without the dead, then a manifest of all of them
    committed    one commit: new shards, index and labels; it keeps no older snapshot
    swept        what only older snapshots named is deleted, then their records are emptied

Whoever dies in between leaves a plan or objects that nobody names: the same command goes on with
the slots that lack and sweeps the rest, and an append in its place begins anew. Deletes and labels
are committed meanwhile; what they bring stays as it came, for the next compaction.

Readers of older snapshots go on with the newest: positions stay what they are.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from store import disk
from store.commits import manifest_path, parse_manifest, successor
from store.disk import ObjectLocation
from store.errors import StoreBusy, StoreError
from store.layout import ArrayLayout, LayerKey, LayerSummary, encode_manifest
from store.records import (
    INDEX,
    LABELS,
    MANIFESTS,
    IndexPart,
    PlanRecord,
    SampleIndex,
    Snapshot,
    load_snapshot,
    publish_next,
)
from store.upkeep.cleaning import (
    NUM_THREADS,
    clean_index,
    clean_labels,
    clean_shard,
    empty_slots,
    layers_of,
    put_shard,
    sound_reader,
)
from store.upkeep.sweeping import Sweep, shard_slot

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Work:
    """What is to be removed of a snapshot.

    Attributes:
        base: the snapshot, as far as the compaction goes.
        index: its samples.
        todo: `(samples,)` bool: deleted, with something left of it.
        slots: those with such samples.
        emptied: those whose samples are all deleted.
    """

    base: Snapshot
    index: SampleIndex
    todo: Mask
    slots: tuple[int, ...]
    emptied: tuple[int, ...]

    @property
    def is_needed(self) -> bool:
        """Whether anything is left of what was deleted."""
        return bool(self.todo.any() or self.base.deletions or self.rewritten)

    @property
    def rewritten(self) -> tuple[int, ...]:
        """The slots that get another manifest, and shards unless they are empty."""
        records = self.base.slots
        again = {n for n in self.emptied if not _is_empty(records[n].manifests, records[n].emptied)}
        return tuple(sorted(again | set(self.slots) - set(self.emptied)))


def _is_empty(manifests: Sequence[str], emptied: bool) -> bool:
    """Whether a slot has been emptied, and no layer was added to it since."""
    return emptied and len(manifests) == 1


def look(location: ObjectLocation, base: Snapshot) -> Work:
    """What is to be removed of a snapshot."""
    index = SampleIndex(location, base)
    has_text = pc.is_valid(index.rows(["text_hash"])["text_hash"]).to_numpy(zero_copy_only=False)
    todo = index.dead & has_text  # a row without hash was removed by an earlier compaction
    size = base.schema.samples_per_shard
    slots = tuple(np.unique(np.flatnonzero(todo) // size).tolist())
    return Work(base, index, todo, slots, tuple(sorted(empty_slots(base, index.dead))))


def look_at_last(location: ObjectLocation) -> tuple[Snapshot, Work]:
    """The last commit, and what is to be removed of it."""
    head = load_snapshot(location)
    while True:
        try:
            return head, look(location, head)
        except StoreBusy:
            raise
        except StoreError:  # a compaction that ended meanwhile removes the tables of older ones
            before, head = head, load_snapshot(location, known=head)
            if head.id == before.id:
                raise


def base_of(head: Snapshot) -> Snapshot:
    """What the compaction that is under way removes: not what was deleted since it was planned."""
    stop = len(head.index) if head.plan is None else head.plan.stop
    return replace(head, index=head.index[:stop])


def rewrite(location: ObjectLocation, plan: PlanRecord, work: Work) -> dict[int, str]:
    """Write the slots without what is deleted; returns slot -> manifest.

    Slots that are written already, by whoever died, are taken as they are.
    """
    found = ((meta.path, parse_manifest(meta.path)) for meta in location.list(MANIFESTS))
    done = {name.slot: path for path, name in found if name and name.plan == plan.id}
    reader = sound_reader(location, work.base)
    with ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="compact") as pool:
        for slot in work.rewritten:
            if slot in done:
                continue
            count, attempt = work.base.slots[slot].count, uuid.uuid4().hex[:8]
            path = manifest_path(slot, count, plan.id, attempt)

            def shard(
                of: tuple[ArrayLayout, int], slot: int = slot, path: str = path
            ) -> tuple[LayerKey, LayerSummary]:
                clean = clean_shard(reader, *of, slot, work.index.dead)
                target = clean.layout.shard_path(clean.layer, slot, path)
                put_shard(location, target, clean.values)
                return (clean.layout.name, clean.layer), clean.summary

            layers = [] if slot in work.emptied else layers_of(work.base)
            summaries = dict(pool.map(shard, layers))
            location.put(path, encode_manifest(count, summaries, attempt=attempt))
            done[slot] = path
    return {slot: done[slot] for slot in work.rewritten}


def head_with(location: ObjectLocation, plan: PlanRecord) -> Snapshot:
    """The last commit, under which a compaction is under way.

    Raises:
        StoreError: another took its place.
    """
    head = load_snapshot(location)
    if head.plan is None or head.plan.id != plan.id:
        raise StoreError(
            f"{location.address}: compaction {plan.id} was finished or superseded by another"
            " process while it ran; run it again if something is left"
        )
    return head


class Cleaned:
    """The tables without what is deleted, written once however often the commit is tried."""

    def __init__(self, location: ObjectLocation, plan: PlanRecord, work: Work) -> None:
        self._location, self._work = location, work
        self._name = f"{plan.id}-{uuid.uuid4().hex[:8]}"
        self._labels: dict[str, str] = {}
        self.index = tuple(
            part if part.path else self._written(part, table)
            for part, table in clean_index(work.index, work.base)
        )

    def _written(self, part: IndexPart, table: Any) -> IndexPart:
        path = f"{INDEX}/{part.kind}-{part.start}-{part.stop}-{self._name}.parquet"
        self._location.put(path, disk.encode_parquet(table))
        return replace(part, path=path)

    def labels(self, task: str, path: str) -> str:
        """The path of a task's table without deleted ids: as it is, if it has none."""
        if path not in self._labels:
            table, changed = clean_labels(self._location, path, self._work.index)
            clean = f"{LABELS}/{task}-{self._name}-{len(self._labels)}.parquet"
            if changed:
                self._location.put(clean, disk.encode_parquet(table))
            self._labels[path] = clean if changed else path
        return self._labels[path]


def commit(
    location: ObjectLocation, plan: PlanRecord, work: Work, manifests: dict[int, str]
) -> Snapshot:
    """Commit the compaction, with what was deleted and labelled since it was planned.

    Raises:
        StoreError: another took its place.
    """
    cleaned = Cleaned(location, plan, work)
    while True:
        head = head_with(location, plan)
        slots = list(head.slots)
        for slot, path in manifests.items():
            slots[slot] = slots[slot]._replace(manifests=(path,), emptied=slot in work.emptied)
        labels = {
            task: replace(record, path=cleaned.labels(task, record.path))
            for task, record in head.labels.items()
        }
        following = replace(
            successor(head, "compact"),
            slots=tuple(slots),
            index=(*cleaned.index, *head.index[plan.stop :]),
            labels=labels,
            finished_plan=plan.id,
            plan=None,
            oldest=head.next_id,
        )
        published = publish_next(location, following)
        if published is not None:
            return published


def freed_bytes(found: Sweep, emptied: Sequence[int]) -> int:
    """Bytes of the shards of emptied slots that a sweep removed."""
    gone = set(emptied)
    return sum(meta.size for meta in found.objects if shard_slot(meta.path) in gone)
