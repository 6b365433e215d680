"""The activation store: create, append, commit, and read what was committed.

    store = ActivationStore.create(path, StoreSchema(num_layers=12, neuron_size=3072))
    plan = store.plan_append(samples)            # ids, texts -> positions of what is new
    for block in plan.blocks:                    # any process, any order: store.open_plan(plan.id)
        store.write_block(plan, block, arrays, n_tokens=n_tokens, truncated=truncated)
    store.commit()                               # readers see all of it or nothing
    x = store.read_matrix(layer=7)               # (sample, pooling * neuron)

`path` is a directory, or the URL of a folder of a bucket (`s3://bucket/store`); how the two differ
stands in `store.commits`. One append is under way at a time; a second process waits in
`plan_append` until the first has committed or died. Readers need no lock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store import disk
from store.commits import (
    AppendPlan,
    BucketCommits,
    Commits,
    DiskCommits,
    Draft,
    LayerArrays,
    backfill_digest,
    backfill_layers,
    backfilled_schema,
    create_on_bucket,
    create_on_disk,
    draft_append,
    draft_backfill,
    samples_digest,
    select_new,
    write_block,
)
from store.disk import LocalLocation, Location, ObjectLocation, check_writable_file_system
from store.errors import StoreInputError
from store.layout import Block, StoreSchema
from store.reading import StoreView
from store.records import (
    SampleIndex,
    Snapshot,
    WriteTable,
    as_samples,
    write_labels,
    written_folders,
)

if TYPE_CHECKING:
    import datasets
    import xarray
    from zarr.abc.store import Store

AnyArray = npt.NDArray[np.generic]


def _not_written(location: Location) -> StoreInputError:
    return StoreInputError(
        f"{location.address}: stores are written to directories and to buckets (s3://, gs://,"
        " az://); write there and copy the finished store"
    )


def _exists_already(path: str | Path) -> StoreInputError:
    return StoreInputError(
        f"{path}: exists already and is no empty folder; if it is a store, append to it, else"
        " choose another path"
    )


class ActivationStore(StoreView):
    """One store, seen at one snapshot; make one with `create` or `open`."""

    def to_xarray(self, **options: Any) -> xarray.Dataset:
        """The store as a lazy `xarray.Dataset`, as `store.open_dataset` opens it.

        Args:
            **options: `labels`, `text`, `chunks` and `dtype`, as of `store.open_dataset`; snapshot
                and `check` are this object's.
        """
        from store.reading import to_xarray

        return to_xarray(self, **options)

    def zarr_store(self) -> Store:
        """The snapshot that is shown as a Zarr store, for zarr, xarray and what else reads Zarr.

        `xarray.open_zarr(store.zarr_store())` shows what a disk's folder does. In a bucket objects
        have other names than Zarr's; its documents and coordinates are made when asked for.
        """
        from store.reading import SnapshotStore

        return SnapshotStore(self)

    def to_hf_dataset(
        self,
        array: str = "ffn",
        *,
        layers: Sequence[int] | None = None,
        units: Sequence[int] | None = None,
        labels: Sequence[str] | None = None,
        text: bool = True,
    ) -> datasets.IterableDataset:
        """The samples as a lazy `datasets.IterableDataset`: ids, texts, labels, activations.

        Args:
            array: "ffn", "hidden", "peak", "router" or "experts".
            layers: by value; default all.
            units: neurons (units of the array) by number; default all.
            labels: tasks whose labels and splits come along; default all.
            text: whether to include the texts.

        Returns:
            Rows `id`, `text`, `n_tokens`, `created_at`, `label_<task>`, `split_<task>`, and the
            activations under the array's name, float32 `(layer, pooling, unit)`; more is said at
            `store.reading.huggingface.to_hf_dataset`.

        Raises:
            StoreError: `datasets` is not installed; no such array, layer, unit or task.
        """
        from store.reading import to_hf_dataset

        layout = self.schema.array(array)
        dataset = self.to_xarray(labels=labels, text=text)
        if layers is not None:
            places = [layout.axis_index(layer) for layer in layers]
            dataset = dataset.isel({layout.dims[0]: places})
        if units is not None:
            outside = [unit for unit in units if not 0 <= unit < layout.width]
            if outside:
                raise StoreInputError(
                    f"array {array!r} has no unit {outside[0]}; valid are 0 to {layout.width - 1}"
                )
            dataset = dataset.isel({layout.dims[2]: list(units)})
        return to_hf_dataset(dataset, array, labels=labels)

    @classmethod
    def create(cls, path: str | Path, schema: StoreSchema) -> Self:
        """Make an empty store in a new or empty directory, or at a URL where nothing is.

        On a disk it is made beside `path` and renamed, so that of several processes one makes it,
        and one that dies leaves nothing in the way; on a bucket one object makes it.

        Raises:
            StoreError: something is there already, or writing there would not be safe.
        """
        if disk.is_url(path):
            location = disk.locate(str(path))
            if not isinstance(location, ObjectLocation) or "http" in str(path).partition(":")[0]:
                raise _not_written(location)
            if not create_on_bucket(location, schema):
                raise _exists_already(path)
            return cls.open(str(path))
        disk.refuse_address(path)
        target = Path(path).absolute()
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise _exists_already(path)
        disk.make_directories(target.parent)
        check_writable_file_system(target.parent)
        try:
            with disk.made_beside(target) as root:
                create_on_disk(root, schema)
        except FileExistsError:
            raise _exists_already(path) from None
        return cls.open(path)

    def plan_append(self, samples: pa.Table, *, changed: str = "error") -> AppendPlan:
        """Find what is new in `samples` and give it positions.

        Asking again for the same samples after a crash resumes the plan with its finished blocks.
        Another process with an append under way is waited for.

        Args:
            samples: `id` and `text` or `text_hash` (or both); optional `created_at` (int64
                seconds) and `author_id`.
            changed: a known id with another text is an "error", or "replace" stores a new version.

        Raises:
            ChangedTextError: an id comes with another text.
            StoreError: wrong columns, no permission.
        """
        if changed not in ("error", "replace"):
            raise StoreInputError(f'changed is {changed!r}; valid are "error" and "replace"')
        table = as_samples(samples, store_text=self.schema.store_text)
        digest = samples_digest(table, "append", changed)

        def make(snapshot: Snapshot, index: Callable[[], SampleIndex]) -> Draft:
            chosen = select_new(table, index(), replace_changed=changed == "replace")
            return draft_append(snapshot, chosen, digest=digest)

        return self._commits().begin(digest, make)

    def plan_backfill(
        self,
        *,
        layers: Sequence[int] = (),
        hidden_layers: Sequence[int] = (),
        hidden_size: int | None = None,
        poolings: Sequence[str] = (),
    ) -> AppendPlan:
        """Plan the computation of further layers for all stored samples.

        Its blocks take only the new layers; `commit` publishes them once all blocks are written.

        Args:
            layers: FFN layers to add; those stored already are left out.
            hidden_layers: hidden states to add.
            hidden_size: needed where the store has no hidden states yet.
            poolings: poolings that the caller wants; new ones are refused (see the message).

        Raises:
            StoreError: no such layers, no texts to compute them of.
        """

        def missing(schema: StoreSchema) -> dict[str, tuple[int, ...]]:
            return backfill_layers(
                schema,
                layers=layers,
                hidden_layers=hidden_layers,
                hidden_size=hidden_size,
                poolings=poolings,
            )

        def make(snapshot: Snapshot, index: Callable[[], SampleIndex]) -> Draft:
            # Looked up again: another process may have brought some of them meanwhile.
            return draft_backfill(snapshot, index(), missing(snapshot.schema), hidden_size)

        commits = self._commits()
        return commits.begin(backfill_digest(missing(self.schema), hidden_size), make)

    def open_plan(self, plan_id: str) -> AppendPlan:
        """Open a plan made by another process; its `blocks` are those still to be written."""
        return self._commits().open_plan(plan_id, self.snapshot)

    def plan_under_way(self) -> AppendPlan | None:
        """The plan of an append, or of layers, that is not finished in the commit shown here."""
        return self._commits().under_way(self.snapshot)

    def write_block(
        self,
        plan: AppendPlan,
        block: Block,
        activations: Mapping[str, LayerArrays],
        *,
        n_tokens: AnyArray | None = None,
        truncated: AnyArray | None = None,
    ) -> None:
        """Stage one block durably; it becomes visible with a later `commit`.

        Writing a block again, even at the same time elsewhere, is harmless: the last to finish
        counts. Float16 stores refuse values beyond 65504.

        Args:
            plan: from `plan_append`, `plan_backfill` or `open_plan`.
            block: one of its blocks.
            activations: array name -> floating point `(layer, pooling, unit, sample)`; numpy, or
                an object with its shape and dtype that gives one layer at a time.
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
            return self.reader.read_committed(array, layer, slot)[:, :first]

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
        self._commits().commit()
        return self.snapshot_id

    def release(self) -> None:
        """Let other processes append although this one's plan is not finished."""
        self._commits().release()

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

        def change(current: Snapshot, write: WriteTable) -> Snapshot:
            return write_labels(write, current, task, table, spec or {})

        self._commits().amend(change, "labels")
        return self.snapshot_id

    def delete(
        self, ids: Sequence[str] | None = None, *, author_ids: Sequence[str] | None = None
    ) -> int:
        """Hide samples from every read at once; `compact` removes their bytes.

        A text that further ids share stays under those. Unknown ids are ignored. An append under
        way goes on without the ids and texts; one that is planned later brings them again if they
        are among its samples.

        Returns:
            How many ids were deleted; `store.upkeep.delete_samples` says which were unknown.

        Raises:
            StoreInputError: authors, and no sample names its own.
        """
        return len(self._commits().delete(ids, author_ids))

    def writable_root(self) -> Path:
        """The store's directory; StoreError where writing is impossible or would not be safe."""
        if not isinstance(self.location, LocalLocation):
            raise _not_written(self.location)
        self._refuse_pinned()
        check_writable_file_system(self.location.root)
        disk.check_folders(self.location.root, written_folders(self.schema))
        return self.location.root

    def writable_location(self) -> LocalLocation | ObjectLocation:
        """Where the store is; StoreError where writing is impossible or would not be safe."""
        if not isinstance(self.location, ObjectLocation):
            self.writable_root()
            assert isinstance(self.location, LocalLocation)
            return self.location
        self._refuse_pinned()
        if self.snapshot.writer is None:
            raise StoreInputError(
                f"{self.location.address}: the copy of a store of a disk, which is read-only here;"
                " write to the one that it was copied from, or extract into another URL"
            )
        return self.location

    def _refuse_pinned(self) -> None:
        if self._pinned:
            raise StoreInputError(
                f"{self.location.address}: opened at snapshot {self.snapshot_id}, which is "
                "read-only; open the store without a snapshot to write"
            )

    def _commits(self) -> Commits:
        """How this store is written, by where it is."""
        location = self.writable_location()
        if isinstance(location, LocalLocation):
            return DiskCommits(location.root, self._index_of)
        return BucketCommits(location, self.snapshot, self._index_of)

    def _index_of(self, snapshot: Snapshot) -> Callable[[], SampleIndex]:
        """Show a snapshot; what gives its index."""
        if snapshot is not self.snapshot:
            # What is named on a bucket never changes; on a disk a compaction changes it in place.
            same = snapshot.on_bucket and snapshot.index == self.snapshot.index
            index = self.__dict__.get("index") if same else None
            self._show(snapshot)
            if index is not None:
                self.__dict__["index"] = index
        return lambda: self.index
