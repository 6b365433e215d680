"""Plans on a bucket: a part of the last commit's record, and tables beside it.

    .salient/plans/PLAN/samples-BASE-WRITER.arrow     named by the record, as are the others
    ARRAY/c/LAYER/0/0/SLOT.PLAN-ATTEMPT               shards, written to their place at once
    .salient/manifests/SLOT-COUNT-PLAN-ATTEMPT.safetensors

A block is finished when a manifest of it is there, which is the last that its writer puts. Of
several any counts: whoever commits names one of them, and its shards by its name. Nobody sees a
block before a snapshot names it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from itertools import takewhile

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store import disk
from store.commits.batches import BatchFile
from store.commits.naming import manifest_path, parse_manifest
from store.commits.planning import PLAN_TABLES, AppendPlan, no_plan
from store.disk import ObjectLocation
from store.errors import StoreError
from store.layout import ArrayLayout, Block, shard_parts
from store.records import MANIFESTS, PlanRecord, Snapshot, load_snapshot

AnyArray = npt.NDArray[np.generic]
AGAIN = "run the append again: what is committed stays, the rest is computed again"


class BucketPlan(AppendPlan):
    """A plan of the last commit; see `AppendPlan`."""

    remedy = AGAIN

    def __init__(
        self, location: ObjectLocation, record: PlanRecord, head: Snapshot, *, looks: bool = True
    ) -> None:
        self.location = location
        self.where = f"{location.address}, plan {record.id}"
        self._head = head
        self._looks = looks  # a new plan has nothing finished
        super().__init__(record, samples_per_shard=head.schema.samples_per_shard)
        self._looks = True

    @classmethod
    def of(cls, location: ObjectLocation, head: Snapshot, plan_id: str | None = None) -> BucketPlan:
        """The plan that is under way in the last commit.

        Args:
            location: of the store.
            head: the last commit.
            plan_id: which one it must be.

        Raises:
            StoreError: it is finished or superseded.
        """
        if head.plan is None or plan_id not in (None, head.plan.id):
            raise no_plan(location.address, str(plan_id))
        return cls(location, head.plan, head)

    def is_under_way(self) -> bool:
        """See `AppendPlan.is_under_way`."""
        self._head = load_snapshot(self.location, known=self._head)
        now = self._head.plan
        if now is None or now.id != self.id:
            return False
        if now.tables != self.record.tables:  # something of it was deleted
            self._files.clear()
        self.record = now
        return True

    # -- its samples ------------------------------------------------------------------------

    def rows(self, block: Block) -> pa.Table:
        """See `AppendPlan.rows`."""
        with contextlib.suppress(FileNotFoundError):
            return super().rows(block)
        self._look_again("samples")
        return super().rows(block)

    def table(self, name: str) -> pa.Table:
        """See `AppendPlan.table`."""
        with contextlib.suppress(FileNotFoundError):
            return super().table(name)
        self._look_again(name)
        return super().table(name)

    def _file(self, name: str) -> BatchFile:
        if name not in self._files:
            path = self.record.tables[name]
            remedy = self.remedy
            self._files[name] = BatchFile(self.location, path, PLAN_TABLES[name], remedy=remedy)
        return self._files[name]

    def _look_again(self, name: str) -> None:
        """Take the tables as they are now, after one was gone."""
        before = self.record.tables[name]
        if not self.is_under_way():
            raise no_plan(self.location.address, self.id)
        if self.record.tables[name] == before:
            where = f"{self.location.address}/{before}"
            raise disk.damaged(where, "it is missing", self.remedy)

    # -- its blocks -------------------------------------------------------------------------

    def manifests(self) -> dict[int, str]:
        """The manifests of finished blocks, by slot; one of each."""
        found: dict[int, str] = {}
        if not self.all_blocks or not self._looks:
            return found
        counts = {block.slot: self.count(block) for block in self.all_blocks}
        start = f"{MANIFESTS}/{self.all_blocks[0].slot:08d}"
        for meta in self.location.list(MANIFESTS, after=start):
            named = parse_manifest(meta.path)
            if named and named.plan == self.id and counts.get(named.slot) == named.num_samples:
                found.setdefault(named.slot, meta.path)
        return found

    def finished(self) -> set[int]:
        """See `AppendPlan.finished`."""
        return set(self.manifests())

    def finished_first(self, blocks: Sequence[Block]) -> list[Block]:
        """See `AppendPlan.finished_first`; one request tells of all."""
        there = self.manifests() if blocks else {}
        return list(takewhile(lambda block: block.slot in there, blocks))

    def is_finished(self, block: Block) -> bool:
        """See `AppendPlan.is_finished`."""
        start = manifest_path(block.slot, self.count(block), self.id, "").partition(".saf")[0]
        first = next(iter(self.location.list(MANIFESTS, after=start)), None)
        return first is not None and first.path.startswith(start)

    # -- writing ----------------------------------------------------------------------------

    def check_space(self, num_bytes: int) -> None:
        """See `AppendPlan.check_space`: a bucket has no end."""

    def attempt(self, block: Block, name: str) -> BucketAttempt:
        """See `AppendPlan.attempt`."""
        path = manifest_path(block.slot, self.count(block), self.id, name)
        return BucketAttempt(self.location, block.slot, path)


class BucketAttempt:
    """Shards at their place, under names of their own; see `Attempt`."""

    def __init__(self, location: ObjectLocation, slot: int, manifest: str) -> None:
        self._location, self._slot, self._manifest = location, slot, manifest
        self._written: list[str] = []

    def write(self, layout: ArrayLayout, layer: int, shard: AnyArray) -> None:
        """See `Attempt.write`."""
        path = layout.shard_path(layer, self._slot, self._manifest)
        self._written.append(path)
        self._location.put(path, shard_parts(shard))

    def settle(self) -> None:
        """See `Attempt.settle`: each was there when its request was answered."""

    def finish(self, manifest: bytes) -> None:
        """See `Attempt.finish`."""
        self._location.put(self._manifest, manifest)

    def abandon(self) -> None:
        """See `Attempt.abandon`."""
        with contextlib.suppress(StoreError):
            self._location.delete(self._written)
