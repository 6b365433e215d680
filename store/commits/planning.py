"""An append's plan: which samples are new, where they go, what is finished.

The states that a plan goes through stand in :mod:`store.commits`. What is said here holds wherever
the store lies; `plans` keeps plans in folders of a disk, `bucketplans` in objects.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from store.commits.batches import BatchFile, encode_batches
from store.commits.selection import Selection
from store.errors import StoreError
from store.layout import ArrayLayout, Block, StoreSchema, plan_blocks
from store.records import ALIAS_SCHEMA, DELETED_SCHEMA, SAMPLE_SCHEMA, PlanRecord, Snapshot

AnyArray = npt.NDArray[np.generic]
PLAN_TABLES = {"samples": SAMPLE_SCHEMA, "aliases": ALIAS_SCHEMA, "replaced": DELETED_SCHEMA}


@dataclass(frozen=True)
class Draft:
    """A plan before it is kept anywhere; without tables there is nothing to do."""

    record: PlanRecord
    tables: Mapping[str, pa.Table]


class Attempt(Protocol):
    """The shards of one writer's attempt at a block."""

    def write(self, layout: ArrayLayout, layer: int, shard: AnyArray) -> None:
        """Write a shard `(rows, S)` durably; by several threads at a time."""

    def settle(self) -> None:
        """See that all shards that were written stay."""

    def finish(self, manifest: bytes) -> None:
        """Say that all shards are there: the block is finished."""

    def abandon(self) -> None:
        """Leave no useless gigabytes."""


class AppendPlan(ABC):
    """A plan as workers see it: blocks to do, and the samples of each.

    Attributes:
        id: pass it to `ActivationStore.open_plan` in other processes.
        record: what was planned.
        where: the plan's folder, for errors.
        blocks: blocks not finished when the plan was opened, in order.
        num_new: samples that need work.
        num_known: samples whose id or text was known.
    """

    where: str
    remedy: str

    def __init__(self, record: PlanRecord, *, samples_per_shard: int) -> None:
        self.record = record
        self.id = record.id
        self.num_new = record.stop - record.start
        self.num_known = record.num_known
        self.all_blocks = plan_blocks(
            record.start, record.stop, samples_per_shard=samples_per_shard
        )
        self._samples_per_shard = samples_per_shard
        self._files: dict[str, BatchFile] = {}
        finished = self.finished()
        self.blocks = tuple(block for block in self.all_blocks if block.slot not in finished)

    # -- its samples ------------------------------------------------------------------------

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

    @abstractmethod
    def _file(self, name: str) -> BatchFile:
        """The file of one of its tables."""

    def encode_table(self, name: str, table: pa.Table) -> pa.Buffer:
        """The bytes of one of its tables."""
        sizes = [len(block) for block in self.all_blocks] if name == "samples" else [len(table)]
        return encode_batches(table.cast(PLAN_TABLES[name]), [size for size in sizes if size])

    # -- its blocks -------------------------------------------------------------------------

    def count(self, block: Block) -> int:
        """How many samples the block's slot holds once it is committed."""
        return block.stop - block.slot * self._samples_per_shard

    @abstractmethod
    def finished(self) -> set[int]:
        """Slots of the blocks that are written."""

    @abstractmethod
    def is_finished(self, block: Block) -> bool:
        """Whether a block is written."""

    def waiting(self, snapshot: Snapshot) -> tuple[list[Block], list[Block]]:
        """The blocks that can be published after a snapshot, in order, and those that cannot."""
        waiting = list(self.all_blocks)
        if self.record.kind == "append":
            waiting = [block for block in waiting if block.start >= snapshot.num_samples]
        ready = self.finished_first(waiting)
        return ready, waiting[len(ready) :]

    def finished_first(self, blocks: Sequence[Block]) -> list[Block]:
        """Those at the beginning that are written, up to the first that is not."""
        return list(takewhile(self.is_finished, blocks))

    # -- writing ----------------------------------------------------------------------------

    @abstractmethod
    def is_under_way(self) -> bool:
        """Whether nothing has taken its place."""

    @abstractmethod
    def check_space(self, num_bytes: int) -> None:
        """Refuse before the first byte what cannot fit."""

    @abstractmethod
    def attempt(self, block: Block, name: str) -> Attempt:
        """Begin to write a block.

        Each attempt has shards of its own, so two workers at the same block never mix theirs.
        """


def new_plan_id() -> str:
    """A name that no other plan has."""
    return uuid.uuid4().hex[:12]


def draft_append(snapshot: Snapshot, selection: Selection, *, digest: str) -> Draft:
    """The plan of what `select_new` chose, upon a snapshot."""
    record = PlanRecord(
        id=new_plan_id(),
        kind="append",
        digest=digest,
        start=snapshot.num_samples,
        stop=snapshot.num_samples + len(selection.new),
        num_known=selection.num_known,
        layers={name: layout.layers for name, layout in snapshot.schema.arrays.items()},
    )
    if not (len(selection.new) or len(selection.aliases) or len(selection.replaced)):
        return Draft(record, {})
    return Draft(
        record,
        {
            "samples": selection.new,
            "aliases": selection.aliases,
            "replaced": selection.replaced,
        },
    )


def no_plan(where: str, plan_id: str) -> StoreError:
    """The error for a plan that is not under way."""
    return StoreError(
        f"{where}: no plan {plan_id!r}; it was committed in full or superseded by another append, "
        "so there is nothing left to write for it"
    )


def backfilled_schema(schema: StoreSchema, plan: AppendPlan) -> StoreSchema:
    """The schema once the plan's layers are there; they are there if a dead process committed."""
    layers = plan.record.layers
    return schema.with_layers(
        layers=tuple(i for i in layers.get("ffn", ()) if i not in (schema.layers or ())),
        hidden_layers=tuple(i for i in layers.get("hidden", ()) if i not in schema.hidden_layers),
        hidden_size=plan.record.hidden_size,
    )
