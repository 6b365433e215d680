"""An append's plan: which samples are new, where they go, what is finished.

The states that a plan goes through stand in :mod:`store.commits`.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from store import disk
from store.commits.batches import BatchFile, encode_batches
from store.disk import LocalLocation
from store.errors import ChangedTextError, StoreError
from store.layout import ARRAYS, Block, plan_blocks
from store.records import (
    ACTIVE_PLAN,
    ALIAS_SCHEMA,
    DELETED_SCHEMA,
    MANIFESTS,
    PLANS,
    SAMPLE_SCHEMA,
    Positions,
    SampleIndex,
    Snapshot,
)

KINDS = ("append", "backfill")
PLAN_ID = re.compile(r"[0-9a-f]{12}")
ATTEMPT_NAME = re.compile(r"[0-9a-f]{8}")
_MEMBERS = {
    "id": str,
    "kind": str,
    "digest": str,
    "start": int,
    "stop": int,
    "num_known": int,
    "layers": dict,
    "hidden_size": (int, None),
}
PLAN_TABLES = {"samples": SAMPLE_SCHEMA, "aliases": ALIAS_SCHEMA, "replaced": DELETED_SCHEMA}


@dataclass(frozen=True)
class PlanRecord:
    """The part of a plan that is saved as `plan.json`.

    Attributes:
        id: name of the plan's directory.
        kind: "append" or "backfill".
        digest: what was asked for; asking again for the same resumes the plan. Empty once
            something was deleted that may have been among it.
        start: first new position.
        stop: position after the last.
        num_known: samples that needed no work.
        layers: array name -> layers that each block brings.
        hidden_size: width of hidden states that a backfill adds to a store without any.
    """

    id: str
    kind: str
    digest: str
    start: int
    stop: int
    num_known: int
    layers: Mapping[str, tuple[int, ...]]
    hidden_size: int | None = None


class AppendPlan:
    """A plan as workers see it: blocks to do, and the samples of each.

    Attributes:
        id: pass it to `ActivationStore.open_plan` in other processes.
        blocks: blocks not finished when the plan was opened, in order.
        num_new: samples that need work.
        num_known: samples whose id or text was known.
    """

    def __init__(self, root: Path, record: PlanRecord, *, samples_per_shard: int) -> None:
        self.record = record
        self.id = record.id
        self.root = root
        self.directory = root / PLANS / record.id
        self.num_new = record.stop - record.start
        self.num_known = record.num_known
        self.all_blocks = plan_blocks(
            record.start, record.stop, samples_per_shard=samples_per_shard
        )
        self._samples_per_shard = samples_per_shard
        self._files: dict[str, BatchFile] = {}
        self.blocks = tuple(block for block in self.all_blocks if not self.is_finished(block))

    @classmethod
    def load(cls, root: Path, plan_id: str, *, samples_per_shard: int) -> AppendPlan:
        """Open a plan by id.

        Raises:
            StoreError: it is finished or superseded, or damaged.
        """
        location, folder = LocalLocation(root), f"{PLANS}/{plan_id}"
        path = f"{folder}/plan.json"
        where, remedy = f"{root}/{path}", remove_plan(root / folder)
        try:
            if not PLAN_ID.fullmatch(plan_id):
                raise FileNotFoundError
            content = location.read(path, max_bytes=disk.MAX_JSON_BYTES, remedy=remedy)
        except (FileNotFoundError, NotADirectoryError):
            raise _no_plan(root, plan_id) from None
        except OSError as error:
            raise disk.unreadable(where, error, remedy) from None
        data = disk.decode_json(content, where=where, remedy=remedy)
        try:
            most_rows = location.size(f"{folder}/samples.arrow")
        except OSError:
            most_rows = 0
        record = _as_record(data, plan_id, where=where, remedy=remedy, most_rows=most_rows)
        return cls(root, record, samples_per_shard=samples_per_shard)

    @property
    def remedy(self) -> str:
        """What to do where something of it is damaged."""
        return remove_plan(self.directory)

    def samples(self, block: Block) -> pa.Table:
        """The rows of one block in order: id, text, text_hash, created_at, author_id.

        What was deleted since the plan was made is the empty text under the empty id.
        """
        rows = self.rows(block)
        gone = pc.is_null(rows["id"])
        for name in ("id", "text", "text_hash"):
            filled = pc.if_else(gone, pa.scalar("", pa.string()), rows[name])
            rows = rows.set_column(rows.column_names.index(name), name, filled)
        return rows

    def rows(self, block: Block) -> pa.Table:
        """The rows of one block as they are planned: without id where deleted."""
        start = block.start - self.record.start
        return self._file("samples").read(self.all_blocks.index(block), start, len(block))

    def table(self, name: str) -> pa.Table:
        """All of "samples" (as planned), "aliases" or "replaced"."""
        return self._file(name).read_all()

    def aliases(self) -> pa.Table:
        """Further ids of known or planned rows."""
        return self.table("aliases")

    def replaced(self) -> pa.Table:
        """Records (id, position) whose text this plan replaces."""
        return self.table("replaced")

    def _file(self, name: str) -> BatchFile:
        if name not in self._files:
            path = f"{PLANS}/{self.id}/{name}.arrow"
            try:
                self._files[name] = BatchFile(
                    LocalLocation(self.root), path, PLAN_TABLES[name], remedy=self.remedy
                )
            except FileNotFoundError:
                if not self.directory.exists():
                    raise _no_plan(self.root, self.id) from None
                raise disk.damaged(f"{self.root}/{path}", "it is missing", self.remedy) from None
        return self._files[name]

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write one of the plan's tables durably, in place of what it was."""
        sizes = [len(block) for block in self.all_blocks] if name == "samples" else [len(table)]
        content = encode_batches(table.cast(PLAN_TABLES[name]), [size for size in sizes if size])
        disk.write_file(self.directory / f"{name}.arrow", [content])
        self._files.pop(name, None)

    def forget_request(self) -> None:
        """No longer be what anybody resumes by asking for the same samples."""
        self.record = replace(self.record, digest="")
        self.save()

    def save(self) -> None:
        """Write `plan.json`."""
        disk.write_file(self.directory / "plan.json", [disk.encode_json(asdict(self.record))])

    def attempt_directory(self, block: Block, attempt: str) -> Path:
        """Where the shards of one attempt at a block wait for their commit.

        Each attempt has its own, so two workers at the same block never mix their shards: the
        block's manifest, which appears in one rename, names the attempt that counts.
        """
        return self.directory / f"{block.slot:08d}-{attempt}"

    def staged_manifest(self, block: Block) -> Path:
        """The manifest whose existence says that the block is finished."""
        return self.directory / f"block-{block.slot:08d}.safetensors"

    def manifest_path(self, block: Block) -> str:
        """Where the block's manifest lives once committed."""
        return f"{MANIFESTS}/{block.slot:08d}-{self.count(block):06d}-{self.id}.safetensors"

    def count(self, block: Block) -> int:
        """How many samples the block's slot holds once it is committed."""
        return block.stop - block.slot * self._samples_per_shard

    def is_finished(self, block: Block) -> bool:
        """Whether the block is written (staged or already moved to its place)."""
        return (
            self.staged_manifest(block).exists() or (self.root / self.manifest_path(block)).exists()
        )


def remove_plan(directory: Path) -> str:
    """What to do about a damaged plan."""
    return (
        f"remove the plan (`rm -r {shlex.quote(str(directory))}`) and run the append again: what "
        "is committed stays, the rest is computed again"
    )


def _no_plan(root: Path, plan_id: str) -> StoreError:
    return StoreError(
        f"{root}: no plan {plan_id!r}; it was committed in full or superseded by another append, "
        "so there is nothing left to write for it"
    )


def _as_record(
    data: dict[str, Any], plan_id: str, *, where: str, remedy: str, most_rows: int
) -> PlanRecord:
    """The record that `plan.json` holds, of a plan that can be; StoreError otherwise."""
    disk.check_members(data, _MEMBERS, where=where, remedy=remedy, optional=("hidden_size",))
    arrays = {name: [int] for name in ARRAYS}
    disk.check_members(
        data["layers"], arrays, where=where, remedy=remedy, of="layers", optional=ARRAYS
    )
    layers = {name: tuple(numbers) for name, numbers in data["layers"].items()}
    record = PlanRecord(**{**data, "layers": layers})
    sound = (
        record.id == plan_id
        and record.kind in KINDS
        and 0 <= record.start <= record.stop <= record.start + most_rows
        and record.num_known >= 0
        and (record.hidden_size is None or record.hidden_size > 0)
    )
    if not sound:
        raise disk.damaged(where, "it is not the plan of an append", remedy)
    return record


def active_plan_id(root: Path) -> str | None:
    """Id of the plan under way, if any."""
    path = root / ACTIVE_PLAN
    place = shlex.quote(str(path))
    remedy = f"remove it (`rm {place}`) and run the append again: what is committed stays"
    location = LocalLocation(root)
    try:
        content = location.read(ACTIVE_PLAN, max_bytes=disk.MAX_JSON_BYTES, remedy=remedy)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise disk.unreadable(str(path), error, remedy) from None
    plan_id = disk.decode_json(content, where=str(path), remedy=remedy).get("plan")
    if not isinstance(plan_id, str) or not PLAN_ID.fullmatch(plan_id):
        raise StoreError(f"{path}: names no plan; {remedy}")
    # A crash may have left the name and taken the folder.
    return plan_id if (root / PLANS / plan_id / "plan.json").exists() else None


def drop_plan(root: Path, plan_id: str) -> None:
    """Forget a plan and remove its directory."""
    if active_plan_id(root) in (plan_id, None):
        disk.remove(root / ACTIVE_PLAN)
    disk.remove(root / PLANS / plan_id)


def shard_name(array: str, layer: int) -> str:
    """File name of a staged shard in its attempt's directory."""
    return f"{array}.{layer}"


def save_plan(
    root: Path, record: PlanRecord, tables: Mapping[str, pa.Table], *, samples_per_shard: int
) -> AppendPlan:
    """Write a new plan durably and make it the active one."""
    plan = AppendPlan(root, record, samples_per_shard=samples_per_shard)
    disk.make_directories(plan.directory)
    for name, table in tables.items():
        plan.write_table(name, table)
    plan.save()
    disk.write_file(root / ACTIVE_PLAN, [disk.encode_json({"plan": record.id})])
    return plan


@dataclass(frozen=True)
class Selection:
    """What of the given samples is new: the pure result of `select_new`."""

    new: pa.Table
    aliases: pa.Table
    replaced: pa.Table
    num_known: int


def select_new(samples: pa.Table, index: SampleIndex, *, replace_changed: bool) -> Selection:
    """Split samples into new rows, further ids of known texts, and known ones.

    Args:
        samples: `SAMPLE_SCHEMA`.
        index: what the store knows.
        replace_changed: a known id with another text becomes a new version instead of an error.

    Raises:
        ChangedTextError: an id comes with two texts.
    """
    ids = disk.one_array(samples["id"])
    hashes = disk.one_array(samples["text_hash"])
    first_of_id = _first_occurrence(ids)
    clash = np.flatnonzero(
        pc.not_equal(hashes, hashes.take(pa.array(first_of_id))).to_numpy(zero_copy_only=False)
    )
    if len(clash):
        raise ChangedTextError(
            f"samples: id {ids[clash[0]].as_py()!r} comes twice with different texts "
            f"(rows {first_of_id[clash[0]]} and {clash[0]}); keep one of them"
        )
    once = first_of_id == np.arange(len(ids))

    known = index.positions(ids)
    changed = np.zeros(len(ids), bool)
    at = np.flatnonzero(known >= 0)
    stored = index.hashes_at(known[at])
    changed[at] = pc.not_equal(stored, hashes.take(pa.array(at))).to_numpy(zero_copy_only=False)
    if changed.any() and not replace_changed:
        row = int(np.flatnonzero(changed)[0])
        raise ChangedTextError(
            f"samples: {int(changed.sum())} known ids come with another text, the first is "
            f"{ids[row].as_py()!r} (row {row}); give the text a new id, or delete the stored one "
            f"(`salient store delete STORE --id {ids[row].as_py()}`, --ids-file for many); from "
            'Python changed="replace" stores a new version'
        )
    candidate = once & ((known < 0) | changed)
    by_hash = index.positions_by_hash(hashes)
    rows = np.flatnonzero(candidate)
    fresh = rows[by_hash[rows] < 0]
    leader = fresh[_first_occurrence(hashes.take(pa.array(fresh)))]
    is_new = leader == fresh
    new_rows = fresh[is_new]

    positions = by_hash.copy()
    number = np.full(len(ids), -1, np.int64)
    number[new_rows] = index.num_rows + np.arange(len(new_rows))
    positions[fresh] = number[leader]
    alias_rows = np.sort(np.concatenate([rows[by_hash[rows] >= 0], fresh[~is_new]]))
    aliases = samples.take(pa.array(alias_rows)).append_column(
        "position", pa.array(positions[alias_rows])
    )
    replaced = np.flatnonzero(once & changed)
    return Selection(
        new=samples.take(pa.array(new_rows)),
        aliases=aliases.select(ALIAS_SCHEMA.names),
        replaced=pa.table(
            {"id": ids.take(pa.array(replaced)), "position": known[replaced]},
            schema=DELETED_SCHEMA,
        ),
        num_known=len(ids) - len(new_rows),
    )


def _first_occurrence(values: pa.Array) -> Positions:
    """For each value, the index at which it first occurs."""
    codes = values.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    if len(codes) == 0:
        return np.zeros(0, np.int64)
    _, first = np.unique(codes, return_index=True)
    return np.asarray(first[codes], np.int64)


def samples_digest(samples: pa.Table, *options: str) -> str:
    """Fingerprint of an append request: the ids and texts, in order."""
    digest = hashlib.blake2b("\0".join(options).encode(), digest_size=16)
    for name in ("id", "text_hash"):
        digest.update("\0".join(samples[name].to_pylist()).encode() + b"\1")
    return digest.hexdigest()


def new_plan_id() -> str:
    """A name that no other plan has."""
    return uuid.uuid4().hex[:12]


def plan_append(root: Path, snapshot: Snapshot, selection: Selection, *, digest: str) -> AppendPlan:
    """Turn a selection into a saved, active plan (or an empty one that is not saved)."""
    schema = snapshot.schema
    record = PlanRecord(
        id=new_plan_id(),
        kind="append",
        digest=digest,
        start=snapshot.num_samples,
        stop=snapshot.num_samples + len(selection.new),
        num_known=selection.num_known,
        layers={name: layout.layers for name, layout in schema.arrays.items()},
    )
    if not (len(selection.new) or len(selection.aliases) or len(selection.replaced)):
        return AppendPlan(root, record, samples_per_shard=schema.samples_per_shard)
    tables = {
        "samples": selection.new,
        "aliases": selection.aliases,
        "replaced": selection.replaced,
    }
    return save_plan(root, record, tables, samples_per_shard=schema.samples_per_shard)
