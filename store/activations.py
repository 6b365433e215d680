"""The activation store: create, append, commit, and read what was committed.

    store = ActivationStore.create(path, StoreSchema(num_layers=12, neuron_size=3072))
    plan = store.plan_append(samples)            # ids, texts -> positions of what is new
    for block in plan.blocks:                    # any process, any order: store.open_plan(plan.id)
        store.write_block(plan, block, arrays, n_tokens=n_tokens, truncated=truncated)
    store.commit()                               # readers see all of it or nothing
    x = store.read_matrix(layer=7)               # (sample, pooling * neuron)

One append is under way at a time; a second process waits in `plan_append` until the first has
committed or died. Readers need no lock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store import durable
from store.backfill import backfill_digest, backfill_layers, plan_backfill
from store.blocks import Block
from store.commit import backfilled_schema, commit_finished, successor
from store.coordinates import write_axis_coordinates
from store.deletion import add_tombstones, doomed_records, hide_in_coordinates
from store.errors import StoreError
from store.labels import matching, read_labels, write_labels
from store.location import LocalLocation, Location, locate
from store.locks import check_writable_file_system, locked, process_lock
from store.plans import (
    AppendPlan,
    active_plan_id,
    drop_plan,
    plan_append,
    samples_digest,
    select_new,
)
from store.reading import ActivationReader, Samples
from store.samples import Positions, SampleIndex, as_samples
from store.schema import StoreSchema
from store.snapshots import (
    APPEND_LOCK,
    COMMIT_LOCK,
    INDEX,
    LABELS,
    MANIFESTS,
    PLANS,
    PRIVATE,
    SNAPSHOTS,
    Snapshot,
    load_snapshot,
    publish,
    write_array_documents,
)
from store.writing import write_block

if TYPE_CHECKING:
    import xarray

AnyArray = npt.NDArray[np.generic]


class ActivationStore:
    """One store, seen at one snapshot; make one with `create` or `open`."""

    def __init__(self, location: Location, snapshot: Snapshot, *, check: str, pinned: bool) -> None:
        self.location = location
        self._check = check
        self._pinned = pinned
        self._bytes_read = 0
        self._show(snapshot)

    def _show(self, snapshot: Snapshot) -> None:
        self._retire_reader()
        self.snapshot = snapshot
        self.__dict__.pop("index", None)
        self.__dict__.pop("_reader", None)

    @cached_property
    def index(self) -> SampleIndex:
        """The sample index of this snapshot."""
        return SampleIndex(self.location, self.snapshot)

    @cached_property
    def _reader(self) -> ActivationReader:
        dead = np.zeros(self.num_samples, bool)
        if self.snapshot.has_dead:
            dead = self.index.dead
        return ActivationReader(self.location, self.snapshot, dead, check=self._check)

    def __repr__(self) -> str:
        return (
            f"<ActivationStore {self.location.address}: {self.num_samples:,} samples, "
            f"{', '.join(self.schema.arrays)}, snapshot {self.snapshot_id}>"
        )

    # -- opening ----------------------------------------------------------------------------

    @classmethod
    def create(cls, path: str | Path, schema: StoreSchema) -> ActivationStore:
        """Make an empty store in a new or empty directory.

        Raises:
            StoreError: something is there already, or writing there would not be safe.
        """
        root = Path(path)
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise StoreError(
                f"{root}: exists already; open it with ActivationStore.open, or choose another path"
            )
        durable.make_directories(root)
        check_writable_file_system(root)
        for directory in (PRIVATE, SNAPSHOTS, MANIFESTS, INDEX, LABELS, PLANS):
            durable.make_directories(root / directory)
        write_axis_coordinates(root, schema)
        empty = Snapshot(
            id="000000",
            parent=None,
            kind="create",
            created_at=time.time(),
            num_samples=0,
            schema=schema,
        )
        publish(root, empty)
        return cls.open(root)

    @classmethod
    def open(
        cls, path: str | Path, snapshot: str | None = None, *, check: str = "first"
    ) -> ActivationStore:
        """Open the last commit, or an older one for reading.

        Args:
            path: a directory, or an fsspec address ("s3://...") for reading.
            snapshot: id of an older commit.
            check: compare checksums on the "first" read of a row, "always" or "never".

        Raises:
            StoreError: no store, no such snapshot.
        """
        location = locate(path)
        return cls(
            location, load_snapshot(location, snapshot), check=check, pinned=snapshot is not None
        )

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether a store has been created at `path`."""
        try:
            load_snapshot(locate(path))
        except StoreError:
            return False
        return True

    def refresh(self) -> None:
        """Look at the last commit (an opened snapshot stays as it is)."""
        if not self._pinned:
            current = load_snapshot(self.location)
            if current.id != self.snapshot.id:
                self._show(current)

    # -- facts ------------------------------------------------------------------------------

    @property
    def schema(self) -> StoreSchema:
        """Axes, element type and origin."""
        return self.snapshot.schema

    @property
    def num_samples(self) -> int:
        """Committed positions, deleted ones included."""
        return self.snapshot.num_samples

    @property
    def num_living(self) -> int:
        """Committed samples less the deleted ones."""
        return self.num_samples - int(self._reader.dead.sum())

    @property
    def snapshot_id(self) -> str:
        """Id of the commit that this object shows; `open(path, snapshot=id)` returns to it."""
        return self.snapshot.id

    def snapshots(self) -> list[Snapshot]:
        """The snapshots that are still kept, oldest first."""
        last = int(load_snapshot(self.location).id)
        found = []
        for number in range(last + 1):
            try:
                found.append(load_snapshot(self.location, f"{number:06d}"))
            except StoreError:
                continue  # removed by gc
        return found

    # -- appending --------------------------------------------------------------------------

    def plan_append(
        self, samples: pa.Table, *, changed: str = "error", timeout_s: float | None = None
    ) -> AppendPlan:
        """Find what is new in `samples` and give it positions.

        Asking again for the same samples after a crash resumes the plan with its finished blocks.
        Another process with an append under way is waited for.

        Args:
            samples: `id` and `text` or `text_hash` (or both); optional `created_at` (int64
                seconds) and `author_id`.
            changed: a known id with another text is an "error", or "replace" stores a new version.
            timeout_s: how long to wait for another append; None for ever.

        Raises:
            ChangedTextError: an id comes with another text.
            StoreError: wrong columns, no permission, another append in the way for too long.
        """
        if changed not in ("error", "replace"):
            raise StoreError(f'changed is {changed!r}; valid are "error" and "replace"')
        table = as_samples(samples, store_text=self.schema.store_text)
        digest = samples_digest(table, "append", changed)

        def make(root: Path) -> AppendPlan:
            chosen = select_new(table, self.index, replace_changed=changed == "replace")
            return plan_append(root, self.snapshot, chosen, digest=digest)

        return self._plan(digest, make, timeout_s)

    def plan_backfill(
        self,
        *,
        layers: Sequence[int] = (),
        hidden_layers: Sequence[int] = (),
        hidden_size: int | None = None,
        poolings: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> AppendPlan:
        """Plan the computation of further layers for all stored samples.

        Its blocks take only the new layers; `commit` publishes them once all blocks are written.

        Args:
            layers: FFN layers to add; those stored already are left out.
            hidden_layers: hidden states to add.
            hidden_size: needed where the store has no hidden states yet.
            poolings: poolings that the caller wants; new ones are refused (see the message).
            timeout_s: how long to wait for another append; None for ever.
        """
        wanted = backfill_layers(
            self.schema,
            layers=layers,
            hidden_layers=hidden_layers,
            hidden_size=hidden_size,
            poolings=poolings,
        )

        def make(root: Path) -> AppendPlan:
            return plan_backfill(root, self.snapshot, self.index, wanted, hidden_size)

        return self._plan(backfill_digest(wanted, hidden_size), make, timeout_s)

    def _plan(
        self, digest: str, make: Callable[[Path], AppendPlan], timeout_s: float | None
    ) -> AppendPlan:
        root = self._writable_root()
        lease = process_lock(root / APPEND_LOCK)
        lease.acquire(timeout_s=timeout_s)
        try:
            with locked(root / COMMIT_LOCK):
                # What a dead process finished is kept, whether or not its plan is resumed.
                self._show(commit_finished(root))
                write_array_documents(root, self.snapshot)
                active = active_plan_id(root)
                if active is not None:
                    plan = self.open_plan(active)
                    if plan.record.digest == digest:
                        return plan
                    drop_plan(root, active)
                plan = make(root)
        except BaseException:
            lease.release()
            raise
        if not plan.directory.exists():  # nothing to do, so nobody needs to wait
            lease.release()
        return plan

    def open_plan(self, plan_id: str) -> AppendPlan:
        """Open a plan made by another process; its `blocks` are those still to be written."""
        root = self._writable_root()
        return AppendPlan.load(root, plan_id, samples_per_shard=self.schema.samples_per_shard)

    def write_block(
        self,
        plan: AppendPlan,
        block: Block,
        activations: Mapping[str, AnyArray],
        *,
        n_tokens: AnyArray | None = None,
        truncated: AnyArray | None = None,
    ) -> None:
        """Stage one block durably; it becomes visible with a later `commit`.

        Writing a block again is harmless. Float16 stores refuse values beyond 65504.

        Args:
            plan: from `plan_append`, `plan_backfill` or `open_plan`.
            block: one of its blocks.
            activations: array name -> floating point `(layer, pooling, unit, sample)`.
            n_tokens: int32 `(sample,)`.
            truncated: bool `(sample,)`.

        Raises:
            StoreError: wrong shapes, values that cannot be stored, no space, a superseded plan.
        """
        schema = self.schema
        if plan.record.kind == "backfill":
            schema = backfilled_schema(schema, plan)
        elif self.num_samples < plan.record.start:
            self.refresh()

        def read_prefix(array: str, layer: int, slot: int) -> AnyArray:
            first = block.start - slot * schema.samples_per_shard
            return self._reader.read_committed(array, layer, slot)[:, :first]

        write_block(
            plan,
            block,
            schema,
            activations,
            n_tokens=n_tokens,
            truncated=truncated,
            read_prefix=read_prefix,
        )

    def commit(self) -> str:
        """Publish the finished blocks that follow on from what is committed; returns its id.

        Durable when it returns. With nothing new to publish it returns the last commit's id.
        """
        root = self._writable_root()
        with locked(root / COMMIT_LOCK):
            self._show(commit_finished(root))
            if active_plan_id(root) is None:
                self.release()
        return self.snapshot_id

    def release(self) -> None:
        """Let other processes append although this one's plan is not finished."""
        process_lock(self._writable_root() / APPEND_LOCK).release()

    def _writable_root(self) -> Path:
        if not isinstance(self.location, LocalLocation):
            raise StoreError(
                f"{self.location.address}: only local and mounted POSIX directories can be "
                "written; write there and copy the finished store"
            )
        if self._pinned:
            raise StoreError(
                f"{self.location.address}: opened at snapshot {self.snapshot_id}, which is "
                "read-only; open the store without a snapshot to write"
            )
        check_writable_file_system(self.location.root)
        return self.location.root

    def _amend(self, change: Callable[[Path, Snapshot], Snapshot], kind: str) -> str:
        root = self._writable_root()
        with locked(root / COMMIT_LOCK):
            current = load_snapshot(self.location)
            changed = change(root, current)
            if changed is not current:
                current = successor(changed, kind)
                publish(root, current)
            self._show(current)
        return self.snapshot_id

    # -- samples and labels -----------------------------------------------------------------

    def positions(self, ids: Sequence[str] | pa.Array) -> Positions:
        """int64 position of each id, through aliases; -1 where unknown or deleted."""
        return self.index.positions(ids)

    def positions_by_hash(self, hashes: Sequence[str] | pa.Array) -> Positions:
        """int64 position of each content hash (`text_hash`); -1 where unknown or deleted."""
        return self.index.positions_by_hash(hashes)

    def samples(self) -> pa.Table:
        """Living samples in position order.

        Columns: id, text, text_hash, created_at, author_id, n_tokens, truncated, position.
        """
        return self.index.living()

    def put_labels(
        self, task: str, table: pa.Table, *, spec: Mapping[str, Any] | None = None
    ) -> str:
        """Store a task's labels, replacing earlier ones; returns the new snapshot's id.

        Args:
            task: name of the task.
            table: id (string), split (string), label (string or float64); ids may come before
                their samples do.
            spec: any JSON about the task (kind, classes ...).
        """
        return self._amend(
            lambda root, current: write_labels(root, current, task, table, spec or {}), "labels"
        )

    def labels(self, task: str) -> pa.Table:
        """A task's label rows: id, split, label; rows of deleted samples are left out."""
        table = read_labels(self.location, self.snapshot, task)
        if not self.snapshot.deletions:
            return table
        return table.filter(pa.array(~self.index.was_deleted(table["id"])))

    def label_spec(self, task: str) -> Mapping[str, Any]:
        """What `put_labels` was told about a task."""
        read_labels(self.location, self.snapshot, task)
        return self.snapshot.labels[task].spec

    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that have labels."""
        return tuple(self.snapshot.labels)

    def select(
        self,
        *,
        since: int | None = None,
        until: int | None = None,
        task: str | None = None,
        split: str | None = None,
        label: str | float | None = None,
    ) -> Positions:
        """Sorted positions of living samples that meet every condition.

        Args:
            since: earliest `created_at` (seconds since 1970), inclusive.
            until: latest `created_at`, exclusive.
            task: samples with a label of this task.
            split: ... in this split.
            label: ... with this label.
        """
        keep = self.index.in_period(since, until)
        if task is not None:
            table = self.labels(task)
            found = self.positions(table["id"])[matching(table, split=split, label=label)]
            chosen = np.zeros(self.num_samples, bool)
            chosen[found[found >= 0]] = True
            keep &= chosen
        elif split is not None or label is not None:
            raise StoreError("select by split or label needs task=...")
        return np.flatnonzero(keep).astype(np.int64)

    def delete(
        self, ids: Sequence[str] | None = None, *, author_ids: Sequence[str] | None = None
    ) -> int:
        """Hide samples from every read at once; `compact` removes their bytes.

        A text that further ids share stays under those. Unknown ids are ignored.

        Returns:
            How many ids were deleted.
        """
        removed = 0

        def change(root: Path, current: Snapshot) -> Snapshot:
            nonlocal removed
            doomed = doomed_records(SampleIndex(self.location, current), ids, author_ids)
            removed = len(doomed)
            if not removed:
                return current
            following = add_tombstones(root, current, doomed)
            hide_in_coordinates(root, following, SampleIndex(self.location, following), doomed)
            return following

        self._amend(change, "delete")
        return removed

    # -- activations ------------------------------------------------------------------------

    def read_matrix(
        self,
        array: str = "ffn",
        *,
        layer: int,
        samples: Samples = None,
        dtype: npt.DTypeLike = "float32",
    ) -> AnyArray:
        """One layer as `(sample, pooling * width)`, feature `p * width + j` (a transposed view).

        Args:
            array: "ffn" or "hidden".
            layer: which layer.
            samples: positions (slice or integers, any order); default all. Deleted samples are
                NaN rows in slices and an error among integers.
            dtype: element type of the result.

        Raises:
            DamagedShardError: a shard is missing, cut short or differs from its checksums.
            StoreError: no such array, layer or position.
        """
        return self._reader.read_matrix(array, layer, samples, dtype)

    def read_features(
        self,
        array: str = "ffn",
        *,
        layer: int,
        features: Sequence[int] | AnyArray,
        samples: Samples = None,
        dtype: npt.DTypeLike = "float32",
    ) -> AnyArray:
        """Some features `p * width + j` of one layer as `(sample, feature)`.

        Reads only those rows from disk. Arguments and errors as for `read_matrix`.
        """
        return self._reader.read_features(array, layer, features, samples, dtype)

    def iter_blocks(
        self, array: str = "ffn", *, layer: int, out: AnyArray | None = None
    ) -> Iterator[tuple[int, AnyArray]]:
        """Stream one layer: `(first position, (sample, feature) view)` shard by shard.

        The view is of one buffer (`out` or an own one), valid until the next step: the fastest
        way through a layer, one read per shard and no copy.
        """
        return self._reader.iter_blocks(array, layer, out)

    def moments(self, array: str = "ffn", *, layer: int) -> tuple[int, AnyArray, AnyArray]:
        """Count, mean and M2 (float64 `(feature,)`) over all living samples, without a scan."""
        moments = self._reader.moments(array, layer)
        return moments.count, moments.mean, moments.m2

    @property
    def bytes_read(self) -> int:
        """Payload bytes read from shards through this object."""
        reader = self.__dict__.get("_reader")
        return self._bytes_read + (reader.shards.bytes_read if reader else 0)

    def reset_bytes_read(self) -> None:
        """Set `bytes_read` to zero."""
        self._retire_reader()
        self._bytes_read = 0

    def _retire_reader(self) -> None:
        reader = self.__dict__.get("_reader")
        if reader:
            self._bytes_read += reader.shards.bytes_read
            reader.shards.bytes_read = 0

    def to_xarray(self, **options: Any) -> xarray.Dataset:
        """The store as a lazy `xarray.Dataset`; see `store.xarray_view.to_xarray`."""
        from store.xarray_view import to_xarray

        return to_xarray(self, **options)
