"""Reading a store: its facts, its samples and labels, and the activations of one snapshot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from store.disk import Location, ObjectLocation, locate
from store.errors import NoStoreError, StoreBusy, StoreError, StoreInputError
from store.layout import StoreSchema
from store.reading.reader import ActivationReader, Samples
from store.records import (
    Positions,
    SampleIndex,
    Snapshot,
    after_compaction,
    kept_snapshots,
    load_snapshot,
    matching,
    read_labels,
    with_later_deletions,
)

AnyArray = npt.NDArray[np.generic]


class StoreView:
    """What can be read of a store at one snapshot; see `ActivationStore.open`."""

    def __init__(self, location: Location, snapshot: Snapshot, *, check: str, pinned: bool) -> None:
        self.location = location
        self.check = check
        self._pinned = pinned
        self._bytes_read = 0
        self._show(snapshot)

    def _show(self, snapshot: Snapshot) -> None:
        self._retire_reader()
        self.snapshot = snapshot
        self.__dict__.pop("index", None)
        self.__dict__.pop("reader", None)

    @cached_property
    def index(self) -> SampleIndex:
        """The sample index of this snapshot."""
        shown = self.snapshot
        while True:
            try:
                return SampleIndex(self.location, shown).first(self.num_samples)
            except StoreError as error:
                shown = after_compaction(self.location, shown, error)

    @cached_property
    def reader(self) -> ActivationReader:
        """Reads this snapshot's activations."""
        # With deletions the index is asked first, which compares the snapshot's length with rows.
        # An index that is there already may know of later ones, where a compaction took them out.
        known = self.snapshot.has_dead or "index" in self.__dict__
        dead = self.index.dead if known else np.zeros(self.num_samples, bool)
        return ActivationReader(self.location, self.snapshot, dead, check=self.check)

    def __getstate__(self) -> dict[str, Any]:
        """What travels to another process; caches are built anew there."""
        return {k: v for k, v in self.__dict__.items() if k not in ("index", "reader")}

    def __dask_tokenize__(self) -> tuple[str, ...]:
        """What names the numbers that dask gets of this store."""
        return self.location.address, self.snapshot_id, self.check

    def __repr__(self) -> str:
        return (
            f"<ActivationStore {self.location.address}: {self.num_samples:,} samples, "
            f"{', '.join(self.schema.arrays)}, snapshot {self.snapshot_id}>"
        )

    # -- opening ----------------------------------------------------------------------------

    @classmethod
    def open(cls, path: str | Path, snapshot: str | None = None, *, check: str = "first") -> Self:
        """Open the last commit, or an older one for reading.

        An older one shows what it held then, less what has been deleted since.

        Args:
            path: a directory, or an fsspec address ("s3://...") for reading.
            snapshot: id of an older commit.
            check: compare checksums on the "first" read of a row, "always", "never", or of "rows"
                once more than a few samples of them were read (see `open_dataset`).

        Raises:
            StoreError: no store, no such snapshot.
        """
        location = locate(path)
        shown = load_snapshot(location)
        if snapshot is not None:
            shown = with_later_deletions(load_snapshot(location, snapshot), shown)
        return cls(location, shown, check=check, pinned=snapshot is not None)

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether a store has been created at `path`.

        Raises:
            StoreInputError: a bucket is not there, or refuses to be looked at.
        """
        location = locate(path)
        try:
            load_snapshot(location)
        except NoStoreError:
            return False
        except StoreBusy:
            raise
        except StoreError as error:
            if isinstance(location, ObjectLocation) and isinstance(error, StoreInputError):
                raise
            return False
        return True

    def refresh(self) -> None:
        """Look at the last commit (an opened snapshot stays as it is).

        Raises:
            StoreInputError: of a bucket, where the store was removed, or another made in its place.
        """
        if not self._pinned:
            current = load_snapshot(self.location, known=self.snapshot)
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
        return self.num_samples - int(self.reader.dead.sum())

    @property
    def snapshot_id(self) -> str:
        """Id of the commit that this object shows; `open(path, snapshot=id)` returns to it."""
        return self.snapshot.id

    def snapshots(self) -> list[Snapshot]:
        """The snapshots that are still kept (gc removes old ones), oldest first.

        Raises:
            StoreError: the record of one is damaged.
        """
        return kept_snapshots(self.location)

    # -- samples and labels -----------------------------------------------------------------

    def positions(self, ids: Sequence[str] | pa.Array) -> Positions:
        """int64 position of each id, `(n,)`, through aliases; -1 where unknown or deleted."""
        return self.index.positions(ids)

    def positions_by_hash(self, hashes: Sequence[str] | pa.Array) -> Positions:
        """int64 position of each hash (`text_hash`), `(n,)`; -1 where unknown or deleted."""
        return self.index.positions_by_hash(hashes)

    def samples(self) -> pa.Table:
        """Living samples in position order.

        Columns: id, text, text_hash, created_at, author_id, n_tokens, truncated, position.
        """
        return self.index.living()

    def labels(self, task: str) -> pa.Table:
        """A task's label rows: id, split, label; rows of deleted samples are left out."""
        table = self._label_table(task)
        if not self.snapshot.deletions:
            return table
        return table.filter(pa.array(~self.index.was_deleted(table["id"])))

    def label_spec(self, task: str) -> Mapping[str, Any]:
        """What `put_labels` was told about a task."""
        self._label_table(task)
        return self.snapshot.labels[task].spec

    def _label_table(self, task: str) -> pa.Table:
        """A task's table; the last commit's if gc removed the one that this snapshot had."""
        shown = self.snapshot
        while True:
            try:
                return read_labels(self.location, shown, task)
            except StoreError as error:
                shown = self._labels_after(shown, task, error)

    def _labels_after(self, shown: Snapshot, task: str, error: StoreError) -> Snapshot:
        """The snapshot to look into for labels that cannot be read in `shown`; or the error."""
        newest = load_snapshot(self.location, known=shown)
        if newest.id == shown.id or self._has_labels(shown, task):
            raise error
        if self._pinned:
            raise StoreError(
                f"{self.location.address}: gc has removed snapshot {self.snapshot_id} and its "
                f"labels of task {task!r}; open a newer one (`salient store snapshots`)"
            ) from None
        return newest

    def _has_labels(self, snapshot: Snapshot, task: str) -> bool:
        """Whether a snapshot has no labels of a task, or has them and the file is there."""
        try:
            return task not in snapshot.labels or (
                self.location.size(snapshot.labels[task].path) >= 0
            )
        except OSError:
            return False

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
            raise StoreInputError("select by split or label needs task=...")
        return np.flatnonzero(keep).astype(np.int64)

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
            array: "ffn", "hidden" or "peak".
            layer: which layer.
            samples: positions (slice or integers, any order); default all. Deleted samples are
                NaN rows in slices and an error among integers.
            dtype: element type of the result.

        Raises:
            DamagedShardError: a shard is missing, cut short or differs from its checksums.
            StoreError: no such array, layer or position.
        """
        return self.reader.read_matrix(array, layer, samples, dtype)

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
        return self.reader.read_features(array, layer, features, samples, dtype)

    def iter_blocks(
        self, array: str = "ffn", *, layer: int, out: AnyArray | None = None
    ) -> Iterator[tuple[int, AnyArray]]:
        """Stream one layer: `(first position, (sample, feature) view)` shard by shard.

        The view is of one buffer (`out` or an own one; without `out` of a bucket it is read-only),
        valid until the next step: the fastest way through a layer, one read per shard and no copy.
        """
        return self.reader.iter_blocks(array, layer, out)

    def moments(self, array: str = "ffn", *, layer: int) -> tuple[int, AnyArray, AnyArray]:
        """Count, mean and M2 (float64 `(feature,)`) over all living samples, without a scan."""
        moments = self.reader.moments(array, layer)
        return moments.count, moments.mean, moments.m2

    @property
    def bytes_read(self) -> int:
        """Payload bytes read from shards through this object."""
        reader = self.__dict__.get("reader")
        return self._bytes_read + (reader.shards.bytes_read if reader else 0)

    def reset_bytes_read(self) -> None:
        """Set `bytes_read` to zero."""
        self._retire_reader()
        self._bytes_read = 0

    def _retire_reader(self) -> None:
        reader = self.__dict__.get("reader")
        if reader:
            self._bytes_read += reader.shards.bytes_read
            reader.shards.bytes_read = 0
