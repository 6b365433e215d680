"""Snapshots: what each commit contains, how one is published, and how old ones are found.

A snapshot is an immutable JSON record, `.salient/snapshots/NNNNNN.json`, beside a copy of its root
metadata. Publishing writes the record, then swaps the root `zarr.json` with one rename: a reader
sees the old state or the new one. Commit `k` stays readable as the first `num_samples` positions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from store import disk
from store.disk import Location
from store.errors import StoreError
from store.layout import ROOT_DOCUMENT, StoreSchema, array_documents, encode_document, root_document

JSON = Any
PRIVATE = ".salient"
SNAPSHOTS = f"{PRIVATE}/snapshots"
MANIFESTS = f"{PRIVATE}/manifests"
INDEX = f"{PRIVATE}/index"
LABELS = f"{PRIVATE}/labels"
PLANS = f"{PRIVATE}/plans"
ACTIVE_PLAN = f"{PRIVATE}/active.json"
COMMIT_LOCK = f"{PRIVATE}/commit.lock"
APPEND_LOCK = f"{PRIVATE}/append.lock"


@dataclass(frozen=True)
class SlotRecord:
    """Committed state of one shard slot.

    Attributes:
        count: samples in it.
        manifests: the manifest files that together cover its layers.
        emptied: every sample was deleted and compacted away; there are no shard files.
    """

    count: int
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
class Snapshot:
    """The committed state of a store; see the module's docstring."""

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
    has_dead: bool = False  # some positions are deleted: readers must consult the index

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

    def to_json(self) -> JSON:
        """A JSON object that `from_json` reads back."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        data["schema"] = self.schema.to_json()
        data["slots"] = [asdict(slot) for slot in self.slots]
        data["index"] = [asdict(part) for part in self.index]
        data["labels"] = {task: asdict(record) for task, record in self.labels.items()}
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, JSON]) -> Snapshot:
        """Rebuild a snapshot from its record."""
        fields = dict(data)
        fields["schema"] = StoreSchema.from_json(data["schema"])
        fields["slots"] = tuple(
            SlotRecord(slot["count"], tuple(slot["manifests"]), slot["emptied"])
            for slot in data["slots"]
        )
        fields["index"] = tuple(IndexPart(**part) for part in data["index"])
        fields["labels"] = {task: LabelRecord(**r) for task, r in data["labels"].items()}
        return cls(**fields)


def snapshot_path(snapshot_id: str) -> str:
    """Path of a snapshot's record."""
    return f"{SNAPSHOTS}/{snapshot_id}.json"


def root_copy_path(snapshot_id: str) -> str:
    """Path of the copy of a snapshot's root metadata."""
    return f"{SNAPSHOTS}/{snapshot_id}.zarr.json"


def current_snapshot_id(location: Location) -> str:
    """Id of the last commit; StoreError if this is not a Salient store."""
    try:
        root = json.loads(location.read(ROOT_DOCUMENT))
        return str(root["attributes"]["salient"]["snapshot"])
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(
            f"{location.address}: no activation store here; create one with "
            "ActivationStore.create or `salient extract`, or check the path"
        ) from None
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(
            f"{location.address}/zarr.json: not the root of a Salient store; check the path"
        ) from error
    except OSError as error:
        raise StoreError(f"{location.address}: cannot be read ({error.strerror})") from error


def load_snapshot(location: Location, snapshot_id: str | None = None) -> Snapshot:
    """Read a snapshot's record; by default the last commit's."""
    wanted = snapshot_id or current_snapshot_id(location)
    if snapshot_id is not None and (
        not snapshot_id.isdigit() or int(snapshot_id) > int(current_snapshot_id(location))
    ):
        raise _no_such_snapshot(location, snapshot_id)
    try:
        data = json.loads(location.read(snapshot_path(wanted)))
    except FileNotFoundError:
        raise _no_such_snapshot(location, wanted) from None
    except ValueError as error:
        raise StoreError(
            f"{location.address}/{snapshot_path(wanted)}: damaged; restore it from a backup"
        ) from error
    return Snapshot.from_json(data)


def _no_such_snapshot(location: Location, snapshot_id: str) -> StoreError:
    return StoreError(
        f"{location.address}: no snapshot {snapshot_id!r}; list them with `salient store "
        "snapshots` (gc removes old ones)"
    )


def publish(root: Path, snapshot: Snapshot) -> None:
    """Make `snapshot` the last commit. The caller holds the commit lock; all it names is durable.

    Raises:
        StoreError: the disk refused; the previous commit stands.
    """
    document = encode_document(root_document(snapshot.schema, snapshot.num_samples, snapshot.id))
    record = encode_document(snapshot.to_json())
    disk.write_files(
        {
            root / snapshot_path(snapshot.id): [record],
            root / root_copy_path(snapshot.id): [document],
        }
    )
    disk.write_file(root / ROOT_DOCUMENT, [document])
    write_array_documents(root, snapshot)


def write_array_documents(root: Path, snapshot: Snapshot) -> None:
    """Bring each array's own `zarr.json` up to the published root (readers of a single array).

    They come after the root, so they never promise more than is committed; a commit that died here
    is made good before the next append.
    """
    changed = {}
    for name, document in array_documents(snapshot.schema, snapshot.num_samples).items():
        path = root / name / ROOT_DOCUMENT
        content = encode_document(document)
        if not path.exists() or path.read_bytes() != content:
            changed[path] = [content]
    disk.write_files(changed)


def with_later_deletions(snapshot: Snapshot, current: Snapshot) -> Snapshot:
    """An older snapshot as it may still be read: less what was deleted up to `current`."""
    later = tuple(part for part in current.deletions if part not in snapshot.index)
    if not later:
        return snapshot
    return replace(snapshot, index=(*snapshot.index, *later), has_dead=True)
