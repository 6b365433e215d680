"""A snapshot as the bytes of its record, `.salient/snapshots/NNNNNN.json`, and back.

A record is JSON with a checksum inside. What comes back is checked as strictly as it is written:
members and types, names of files (plain names in the folder they belong to, so that no record
leads elsewhere), and the arithmetic: slots and index parts add up to the samples. Slots and parts
are kept as columns, because there are thousands of them and each opening reads them; the manifests
of a slot are one text, with blanks between. Format 1 kept an object for each slot and part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from store import disk
from store.layout import ARRAYS, StoreSchema, program, refuse_newer
from store.records.snapshots import (
    INDEX,
    LABELS,
    MANIFESTS,
    PLANS,
    TASK_NAME,
    IndexPart,
    LabelRecord,
    PlanRecord,
    SlotRecord,
    Snapshot,
)

JSON = Any
SNAPSHOT_ID = re.compile(r"[0-9]{6,12}", re.ASCII)
_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_LINES = {
    MANIFESTS: re.compile(rf"(?:{re.escape(MANIFESTS)}/{_NAME}\.safetensors[ \n])*", re.ASCII),
    INDEX: re.compile(rf"(?:{re.escape(INDEX)}/{_NAME}\.parquet\n)*", re.ASCII),
    LABELS: re.compile(rf"(?:{re.escape(LABELS)}/{_NAME}\.parquet\n)*", re.ASCII),
}
_TABLE = re.compile(rf"{_NAME}\.arrow", re.ASCII)
_RECORD = {
    "written_by": str,
    "id": str,
    "parent": (str, None),
    "kind": str,
    "created_at": (float, int),
    "num_samples": int,
    "schema": dict,
    "slots": (dict, list),
    "index": (dict, list),
    "labels": dict,
    "finished_plan": (str, None),
    "has_dead": bool,
    "writer": str,
    "plan": (dict, None),
    "oldest": str,
}
_OPTIONAL = ("written_by", "writer", "plan", "oldest")
_PLAN = {
    "id": str,
    "kind": str,
    "digest": str,
    "start": int,
    "stop": int,
    "num_known": int,
    "layers": dict,
    "hidden_size": (int, None),
    "tables": dict,
}
_SLOTS = {"counts": [int], "manifests": [str], "emptied": [int]}
_SLOT = {"count": int, "manifests": [str], "emptied": bool}
_PARTS = {"kinds": [str], "paths": [str], "starts": [int], "stops": [int]}
_PART = {"kind": str, "path": str, "start": int, "stop": int}
_LABELS = {"path": str, "spec": dict}
KINDS = ("rows", "aliases", "deleted")
PLAN_KINDS = ("append", "backfill", "compact")
PLAN_ID = re.compile(r"[0-9a-f]{12}", re.ASCII)
MAX_TIME = 253_402_300_800
"""Seconds of the year 10,000, where calendars end."""


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """The bytes of a snapshot's record."""
    slots = snapshot.slots
    record = {
        "written_by": program(),
        "id": snapshot.id,
        "parent": snapshot.parent,
        "kind": snapshot.kind,
        "created_at": snapshot.created_at,
        "num_samples": snapshot.num_samples,
        "schema": snapshot.schema.to_json(),
        "slots": {
            "counts": [slot.count for slot in slots],
            "manifests": [" ".join(slot.manifests) for slot in slots],
            "emptied": [number for number, slot in enumerate(slots) if slot.emptied],
        },
        "index": {
            "kinds": [part.kind for part in snapshot.index],
            "paths": [part.path for part in snapshot.index],
            "starts": [part.start for part in snapshot.index],
            "stops": [part.stop for part in snapshot.index],
        },
        "labels": {task: record.__dict__ for task, record in snapshot.labels.items()},
        "finished_plan": snapshot.finished_plan,
        "has_dead": snapshot.has_dead,
    }
    if snapshot.on_bucket:
        plan = snapshot.plan
        record |= {
            "writer": snapshot.writer,
            "plan": None if plan is None else plan.to_json(),
            "oldest": snapshot.oldest,
        }
    return disk.encode_json(record, indent=None)


def decode_snapshot(content: bytes, snapshot_id: str, *, where: str, remedy: str) -> Snapshot:
    """The snapshot of a record.

    Args:
        content: the bytes of the file.
        snapshot_id: whose record it must be.
        where: the file, for the error.
        remedy: what to do about a damaged one.

    Raises:
        StoreError: damaged, or written by a later version.
    """
    data = disk.parse_json(content, where=where, remedy=remedy)
    refuse_newer(data, where=where)
    data = disk.take_checksum(data, where, remedy)
    checks = _Checks(where, remedy)
    checks.members(data, _RECORD, "", optional=_OPTIONAL)
    data.pop("written_by", None)
    schema = StoreSchema.from_json(data["schema"], where=where, remedy=remedy)
    snapshot = Snapshot(
        **{
            **data,
            "created_at": float(data["created_at"]),
            "schema": schema,
            "slots": checks.slots(data["slots"]),
            "index": checks.index(data["index"]),
            "labels": checks.labels(data["labels"]),
            "plan": None,
        }
    )
    checks.whole(snapshot, snapshot_id)
    if data.get("plan") is None:
        return snapshot
    checks.members(data["plan"], _PLAN, "plan", optional=("hidden_size", "tables"))
    return replace(snapshot, plan=checks.plan(data["plan"], snapshot))


def decode_plan(data: dict[str, JSON], *, where: str, remedy: str) -> PlanRecord:
    """The plan of its JSON members; StoreError for anything else."""
    checks = _Checks(where, remedy)
    checks.members(data, _PLAN, "", optional=("hidden_size", "tables"))
    return checks.plan(data)


class _Checks:
    """What must hold of the parts of one record."""

    def __init__(self, where: str, remedy: str) -> None:
        self.where = where
        self.remedy = remedy

    def members(
        self, data: JSON, kinds: Mapping[str, Any], of: str, optional: tuple[str, ...] = ()
    ) -> None:
        disk.check_members(
            data, kinds, where=self.where, remedy=self.remedy, of=of, optional=optional
        )

    def hold(self, sound: bool, what: str) -> None:
        if not sound:
            raise disk.damaged(self.where, what, self.remedy)

    def files(self, names: list[str], folder: str) -> list[str]:
        """Names of files of a folder; of the manifests of a slot, all in one text."""
        lines = "".join(f"{name}\n" for name in names)  # there are thousands
        if lines.count("\n") != len(names) or not _LINES[folder].fullmatch(lines):
            for name in names:
                what = f"{name!a} names no file of {folder}, where it must be"
                self.hold("\n" not in name and bool(_LINES[folder].fullmatch(f"{name}\n")), what)
        return names

    def slots(self, data: JSON) -> tuple[SlotRecord, ...]:
        if isinstance(data, list):  # format 1
            for slot in data:
                self.members(slot, _SLOT, "slots")
            data = {
                "counts": [slot["count"] for slot in data],
                "manifests": [" ".join(slot["manifests"]) for slot in data],
                "emptied": [number for number, slot in enumerate(data) if slot["emptied"]],
            }
        self.members(data, _SLOTS, "slots")
        counts, manifests = data["counts"], self.files(data["manifests"], MANIFESTS)
        self.hold(len(counts) == len(manifests), "slots: columns of different lengths")
        gone = [False] * len(counts)
        for number in data["emptied"]:
            self.hold(0 <= number < len(counts), f"slots: there is no slot {number}")
            gone[number] = True
        paths = [tuple(names.split(" ")) for names in manifests]
        return tuple(map(SlotRecord, counts, paths, gone))

    def index(self, data: JSON) -> tuple[IndexPart, ...]:
        if isinstance(data, list):  # format 1
            for part in data:
                self.members(part, _PART, "index")
            data = {f"{name}s": [part[name] for part in data] for name in _PART}
        self.members(data, _PARTS, "index")
        columns = [data[name] for name in _PARTS]
        self.hold(len(set(map(len, columns))) == 1, "index: columns of different lengths")
        self.hold(set(data["kinds"]) <= set(KINDS), f"index: kinds are not of {KINDS}")
        self.files(data["paths"], INDEX)
        return tuple(map(IndexPart, *columns))

    def labels(self, data: JSON) -> dict[str, LabelRecord]:
        for task, record in data.items():
            self.hold(TASK_NAME.fullmatch(task) is not None, f"labels: {task!a} is no task")
            self.members(record, _LABELS, f"labels of {task}")
            self.files([record["path"]], LABELS)
        return {task: LabelRecord(**record) for task, record in data.items()}

    def plan(self, data: JSON, snapshot: Snapshot | None = None) -> PlanRecord:
        """A plan that can be; of a snapshot's, its place too."""
        arrays = {name: [int] for name in ARRAYS}
        self.members(data["layers"], arrays, "layers", optional=ARRAYS)
        layers = {name: tuple(numbers) for name, numbers in data["layers"].items()}
        record = PlanRecord(**{**data, "layers": layers})
        sound = (
            PLAN_ID.fullmatch(record.id) is not None
            and record.kind in PLAN_KINDS
            and 0 <= record.start <= record.stop
            and record.num_known >= 0
            and (record.hidden_size is None or record.hidden_size > 0)
        )
        self.hold(sound, "it is not the plan of an append")
        if snapshot is not None:
            self.hold(record.start <= snapshot.num_samples, "the plan leaves positions out")
        folder = f"{PLANS}/{record.id}/"
        for path in record.tables.values():
            inside = isinstance(path, str) and path.startswith(folder)
            self.hold(
                inside and _TABLE.fullmatch(path.removeprefix(folder)) is not None,
                f"{path!a} names no table of {folder}",
            )
        return record

    def whole(self, snapshot: Snapshot, snapshot_id: str) -> None:
        """What the parts say of each other."""
        self.hold(
            snapshot.id == snapshot_id and SNAPSHOT_ID.fullmatch(snapshot.id) is not None,
            f"it is the record of snapshot {snapshot.id!a}",
        )
        oldest = SNAPSHOT_ID.fullmatch(snapshot.oldest)
        self.hold(
            oldest is not None and int(snapshot.oldest) <= int(snapshot.id),
            f"the oldest snapshot is {snapshot.oldest!a}",
        )
        self.hold(0 <= snapshot.created_at < MAX_TIME, f"time {snapshot.created_at}")
        total, size = snapshot.num_samples, snapshot.schema.samples_per_shard
        counts = [slot.count for slot in snapshot.slots]
        full = len(counts) - 1
        self.hold(
            (counts[:full] == [size] * full and 0 < counts[-1] <= size) if counts else True,
            f"slots: all but the last hold {size:,} samples, the last at least 1",
        )
        self.hold(sum(counts) == total, f"its slots hold {sum(counts):,} samples, not {total:,}")
        stop = 0
        for part in snapshot.index:
            if part.kind == "rows":
                self.hold(part.start == stop < part.stop, f"index: rows do not follow on at {stop}")
                stop = part.stop
        # What is empty has its length from nothing but the index, which readers open for the dead.
        emptied = any(slot.emptied for slot in snapshot.slots)
        self.hold(snapshot.has_dead or not emptied, "slots: some are emptied, and nothing is dead")
        self.hold(stop == total, f"its index holds {stop:,} samples, not {total:,}")
