"""Snapshots: what each commit contains, and where its files are.

A snapshot is an immutable JSON record, `.salient/snapshots/NNNNNN.json`; on a disk beside a copy of
its root metadata. Commit `k` stays readable as the first `num_samples` positions. `encoding` makes
a record's bytes; `history` finds snapshots, and publishes them on a disk, `numbered` on a bucket.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from store.layout import ARRAYS, StoreSchema, axis_coordinates, sample_coordinates

JSON = Any
PRIVATE = ".salient"
SNAPSHOTS = f"{PRIVATE}/snapshots"
MANIFESTS = f"{PRIVATE}/manifests"
INDEX = f"{PRIVATE}/index"
LABELS = f"{PRIVATE}/labels"
PLANS = f"{PRIVATE}/plans"
ACTIVE_PLAN = f"{PRIVATE}/active.json"
CHANGING = f"{PRIVATE}/changing.json"
COMMIT_LOCK = f"{PRIVATE}/commit.lock"
APPEND_LOCK = f"{PRIVATE}/append.lock"
_RECORD = re.compile(rf"{re.escape(SNAPSHOTS)}/([0-9]{{6,12}})(\.zarr)?\.json", re.ASCII)
TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)


class SlotRecord(NamedTuple):
    """Committed state of one shard slot; a plain tuple, for a store has thousands.

    Attributes:
        count: samples in it.
        manifests: the manifest files that together cover its layers.
        emptied: every sample was deleted and compacted away; there are no shard files.
    """

    count: int  # type: ignore[assignment]  # a tuple's method of that name is of no use here
    manifests: tuple[str, ...]
    emptied: bool = False


@dataclass(frozen=True)
class IndexPart:
    """One Parquet file of the sample index; parts are replayed in order.

    Attributes:
        kind: "rows" (new positions), "aliases" (further ids of known rows) or "deleted".
        path: the file.
        start: first position, for rows.
        stop: position after the last, for rows.
    """

    kind: str
    path: str
    start: int = 0
    stop: int = 0


@dataclass(frozen=True)
class LabelRecord:
    """One task's label table and its specification."""

    path: str
    spec: Mapping[str, JSON]


@dataclass(frozen=True)
class PlanRecord:
    """A change that takes longer than a commit: an append, added layers, a compaction.

    On a disk it is the plan's `plan.json`; on a bucket a part of the snapshot's record, so that
    planning is a commit too and who commits anything knows what is under way.

    Attributes:
        id: name of the plan's folder.
        kind: "append", "backfill" or "compact".
        digest: what was asked for; asking again for the same resumes the plan. Empty once
            something was deleted that may have been among it.
        start: first new position.
        stop: position after the last.
        num_known: samples that needed no work.
        layers: array name -> layers that each block brings.
        hidden_size: width of hidden states that a backfill adds to a store without any.
        tables: name of a table -> its object, on a bucket.
    """

    id: str
    kind: str
    digest: str
    start: int
    stop: int
    num_known: int
    layers: Mapping[str, tuple[int, ...]]
    hidden_size: int | None = None
    tables: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, JSON]:
        """A JSON object of it; without tables, as on a disk, it has no such member."""
        said = dict(self.__dict__)
        if not self.tables:
            del said["tables"]
        return said


@dataclass(frozen=True)
class Snapshot:
    """The committed state of a store; see the module's docstring.

    Attributes:
        writer: on a bucket, who wrote the record; None on a disk.
        plan: on a bucket, what is under way.
        oldest: on a bucket, id of the oldest snapshot that may still be opened.
        has_dead: some positions are deleted, so that readers must consult the index.
        etag: on a bucket, of the record as it was read; empty of one just written.
    """

    id: str
    parent: str | None
    kind: str
    created_at: float
    num_samples: int
    schema: StoreSchema
    slots: tuple[SlotRecord, ...] = ()
    index: tuple[IndexPart, ...] = ()
    labels: Mapping[str, LabelRecord] = field(default_factory=dict)
    finished_plan: str | None = None
    has_dead: bool = False
    writer: str | None = None
    plan: PlanRecord | None = None
    oldest: str = "000000"
    etag: str = field(default="", compare=False)

    @property
    def on_bucket(self) -> bool:
        """Whether it is a bucket's own, whose shards have names by their manifests."""
        return self.writer is not None

    @property
    def next_id(self) -> str:
        """Id of the snapshot that may follow this one."""
        return f"{int(self.id) + 1:06d}"

    @property
    def deletions(self) -> tuple[IndexPart, ...]:
        """The index parts that delete something."""
        return tuple(part for part in self.index if part.kind == "deleted")

    def files(self) -> set[str]:
        """Every private file this snapshot needs."""
        return {
            *(path for slot in self.slots for path in slot.manifests),
            *(part.path for part in self.index),
            *(record.path for record in self.labels.values()),
        }


def written_folders(schema: StoreSchema) -> dict[str, int]:
    """The folders that a change of a store writes to: see `store.disk.check_folders`."""
    coordinates = (*axis_coordinates(schema), *sample_coordinates(schema))
    return {
        **dict.fromkeys(coordinates, 1),
        **dict.fromkeys(ARRAYS, 4),  # <array>/c/<layer>/0/0
        PRIVATE: 1,
        PLANS: 2,
    }


def snapshot_path(snapshot_id: str) -> str:
    """Path of a snapshot's record."""
    return f"{SNAPSHOTS}/{snapshot_id}.json"


class RecordName(NamedTuple):
    """What the name of a record says, or of the copy of the root beside it."""

    id: str
    is_copy: bool


def parse_record(path: str) -> RecordName | None:
    """What the name of a snapshot's record, or of its copy of the root, says; None of others."""
    found = _RECORD.fullmatch(path)
    return RecordName(found[1], bool(found[2])) if found else None


def root_copy_path(snapshot_id: str) -> str:
    """Path of the copy of a snapshot's root metadata."""
    return f"{SNAPSHOTS}/{snapshot_id}.zarr.json"


def with_later_deletions(snapshot: Snapshot, current: Snapshot) -> Snapshot:
    """An older snapshot as it may still be read: less what was deleted up to `current`."""
    later = tuple(part for part in current.deletions if part not in snapshot.index)
    if not later:
        return snapshot
    return replace(snapshot, index=(*snapshot.index, *later), has_dead=True)
