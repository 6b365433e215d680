"""Reading activations of one snapshot: whole shards, rows of neurons, samples; checked once.

Whoever reads a row for the first time through an `ActivationReader` compares its checksum with the
manifest's, so damage is an error and never silent numbers.

A reader needs no lock. Positions stay what they are, so where a compaction has replaced or emptied
a slot, or gc removed an old snapshot's manifests, it goes on with what the last commit says of that
slot. It is damage only if nothing changed while it was read.

Of a bucket it reads several shards at a time, some ahead of who takes them: `flight`. There no
object ever changes, so what is missing or damaged is looked up in the last commit once.
"""

from __future__ import annotations

import shlex
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import google_crc32c
import numpy as np
import numpy.typing as npt

from store.disk import FROM_BACKUP, Location, ObjectLocation, all_done, in_order, lanes, share
from store.errors import DamagedShardError, StoreBusy, StoreError, StoreInputError
from store.layout import (
    ArrayLayout,
    Manifest,
    Moments,
    ShardReader,
    SlotPick,
    merge_moments,
    merge_runs,
    pick_slots,
    row_crcs,
    row_moments,
    widen,
)
from store.reading.windows import Windows
from store.records import Positions, SlotRecord, Snapshot, load_snapshot

T = TypeVar("T")
AnyArray = npt.NDArray[np.generic]
Samples = slice | Sequence[int] | Positions | None
CHECKS = ("first", "rows", "always", "never")
MAX_OPEN_MANIFESTS = 1024
LONG_RUN = 64
"""Columns side by side that are copied faster than as many single ones."""
FEW = 16
"""Up to this part of a shard's samples are a few: cheaper one by one than as whole rows."""


class ActivationReader:
    """Reads the arrays of one snapshot.

    Args:
        location: where the store is.
        snapshot: what to read.
        dead: bool per position, deleted samples.
        check: compare checksums on the "first" read of a row, "always", "never", or of "rows":
            on the first, but not while `read_part` takes a few samples of them.
    """

    def __init__(
        self, location: Location, snapshot: Snapshot, dead: npt.NDArray[np.bool_], *, check: str
    ) -> None:
        if check not in CHECKS:
            raise StoreInputError(f"check {check!r} is not one of {', '.join(CHECKS)}")
        self.location = location
        self.snapshot = snapshot
        self.schema = snapshot.schema
        self.dead = dead
        self._on_bucket = snapshot.on_bucket
        """Whether files have names of their own, that of a shard following from its manifest's."""
        self.check = check
        self.shards = ShardReader(
            location,
            samples_per_shard=self.schema.samples_per_shard,
            dtype=self.schema.dtype,
            damaged=self.damaged,
        )
        bucket = self.shards.bucket
        self.windows = None if bucket is None else Windows(bucket)
        self._manifests: OrderedDict[str, Future[Manifest]] = OrderedDict()
        self._manifests_lock = threading.Lock()
        self._newer: dict[int, SlotRecord] = {}
        self._sound: dict[tuple[str, int, int], npt.NDArray[np.bool_]] = {}
        self._taken: dict[tuple[str, int, int], Positions] = {}

    # -- whole matrices ---------------------------------------------------------------------

    def read_matrix(
        self, array: str, layer: int, samples: Samples, dtype: npt.DTypeLike
    ) -> AnyArray:
        """`(sample, row)` values of one layer, as a transposed view of `(row, sample)` memory."""
        layout = self.schema.array(array)
        wanted = self._positions(samples)
        out = np.empty((layout.rows, len_of(wanted)), dtype)
        if self.shards.bucket is not None:

            def fetch(pick: SlotPick) -> None:
                block = self._fetch_slot(layout, layer, pick.slot)
                _scatter(block, pick, out)

            all_done(fetch, list(self.picks(wanted)), self.lanes(layout.rows))
            return self._hide_dead(out, wanted)
        scratch: AnyArray | None = None
        for pick in self.picks(wanted):
            direct = self._is_direct(pick, out)
            if direct:
                self._read_slot(layout, layer, pick.slot, out)
                continue
            if scratch is None:
                scratch = np.empty((layout.rows, self.schema.samples_per_shard), self.schema.dtype)
            self._read_slot(layout, layer, pick.slot, scratch)
            _scatter(scratch, pick, out)
        return self._hide_dead(out, wanted)

    def iter_blocks(
        self, array: str, layer: int, out: AnyArray | None = None
    ) -> Iterator[tuple[int, AnyArray]]:
        """`(first position, (sample, row) view)` shard by shard, valid until the next.

        Args:
            array: "ffn", "hidden" or "peak".
            layer: which layer.
            out: the caller's C-contiguous buffer `(rows, S)` of the stored dtype, which is used
                again for each. Default is an own one; of a bucket what came, read-only.
        """
        layout = self.schema.array(array)
        size = self.schema.samples_per_shard
        if out is not None and (out.shape != (layout.rows, size) or out.dtype != self.schema.dtype):
            raise StoreError(
                f"buffer is {out.dtype} {out.shape}; needed is {self.schema.dtype} "
                f"({layout.rows}, {size})"
            )
        for slot, block in enumerate(self._blocks(layout, layer, out)):
            record = self.snapshot.slots[slot]
            start = slot * size
            view = block[:, : record.count]
            hidden = self.dead[start : start + record.count]
            if hidden.any():
                if not view.flags.writeable:
                    view = view.copy()
                view[:, hidden] = np.nan
            yield start, view.T

    def _blocks(self, layout: ArrayLayout, layer: int, out: AnyArray | None) -> Iterator[AnyArray]:
        """`(rows, S)` of one slot after the other: in `out`; of a bucket read ahead, read-only."""
        slots = range(len(self.snapshot.slots))
        if self.shards.bucket is None:
            buffer = out
            if buffer is None:
                buffer = np.empty((layout.rows, self.schema.samples_per_shard), self.schema.dtype)
            for slot in slots:
                self._read_slot(layout, layer, slot, buffer)
                yield buffer
            return

        def fetch(slot: int) -> AnyArray:
            return self._fetch_slot(layout, layer, slot)

        for block in in_order(fetch, slots, self.lanes(layout.rows)):
            if out is None:
                yield block
            else:
                out[...] = block
                yield out

    def lanes(self, rows: int) -> int:
        """How many reads of so many rows of a shard are made at a time."""
        return lanes(self.location, rows * self.shards.row_bytes)

    # -- rows of neurons --------------------------------------------------------------------

    def read_features(
        self, array: str, layer: int, features: Any, samples: Samples, dtype: npt.DTypeLike
    ) -> AnyArray:
        """`(sample, feature)` values of some rows; reads only those rows from disk."""
        layout = self.schema.array(array)
        asked = np.asarray(features, dtype=np.int64).ravel()
        if len(asked) and not (asked.min() >= 0 and asked.max() < layout.rows):
            raise StoreInputError(
                f"array {array!r}: feature {int(asked.min() if asked.min() < 0 else asked.max())} "
                f"does not exist; valid are 0 to {layout.rows - 1} (pooling * width + unit)"
            )
        rows, inverse = np.unique(asked, return_inverse=True)
        wanted = self._positions(samples)
        out = np.empty((len(rows), len_of(wanted)), dtype)

        def read(pick: SlotPick) -> None:
            count = self.snapshot.slots[pick.slot].count
            values = np.empty((len(rows), count), self.schema.dtype)
            self._read_rows(layout, layer, pick.slot, rows, values)
            _scatter(values, pick, out)

        all_done(read, list(self.picks(wanted)), self.lanes(len(rows)))
        self._hide_dead(out, wanted)
        if len(rows) != len(asked) or (inverse != np.arange(len(asked))).any():
            out = out[inverse]
        return out.T

    # -- part of a slot, into a part of the result ------------------------------------------

    def read_part(
        self,
        array: str,
        layer: int,
        pick: SlotPick,
        rows: slice | Positions,
        out: AnyArray,
        scratch: AnyArray | None = None,
    ) -> None:
        """Fill `out[:, pick.target]` with the picked samples of one slot.

        Adjacent rows come from a memory map where the store is on this machine. A few samples are
        a read of one page a row: by then rows have been compared with their checksums, or `check`
        says that they need not be.

        Args:
            array: "ffn", "hidden" or "peak".
            layer: which layer.
            pick: which slot, which columns of it, where they go.
            rows: of the shard, a slice or sorted unique numbers.
            out: `(rows, n)` of the stored dtype or float32.
            scratch: `(rows, S)` of the stored dtype; memory that is used again is much faster than
                new one.
        """
        layout = self.schema.array(array)
        columns, target = as_slice(pick.columns), as_slice(pick.target)
        numbers = np.arange(layout.rows)[rows] if isinstance(rows, slice) else rows
        few = len_of(columns)

        def read(record: SlotRecord) -> None:
            if record.emptied:
                out[:, target] = np.nan
                return
            path = self._path(layout, layer, pick.slot, record)
            # In a bucket a request for a value takes no less time than one for its row.
            direct = (
                FEW * few <= record.count
                and self.shards.bucket is None
                and self._need_not_check(layout, layer, pick.slot, numbers, few, record.count)
            )
            if direct and (mapped := self.shards.map_block(path, layout.rows)) is not None:
                put_columns(_crossing(mapped, rows, columns), target, out)
                return
            block = self.shards.rows_of(path, layout.rows, rows, record.count, at_once=share())
            if block is None:
                shape, dtype = (len(numbers), record.count), self.schema.dtype
                whole = np.empty(shape, dtype) if scratch is None else scratch.reshape(-1)
                block = whole.reshape(-1)[: shape[0] * shape[1]].reshape(shape)
                self.shards.read_rows(path, layout.rows, numbers, record.count, block)
            self._check(layout, layer, pick.slot, record, numbers, block)
            for part, place in _runs(columns, target):
                put_columns(block[:, part], place, out)

        self._persist(read, layout, layer, pick.slot)

    def with_rows(
        self,
        array: str,
        layer: int,
        slot: int,
        rows: slice | Positions,
        work: Callable[[AnyArray], T],
    ) -> T:
        """What `work` makes of rows of one slot, checked, without a copy where they are adjacent.

        Args:
            array: "ffn", "hidden" or "peak".
            layer: which layer.
            slot: which slot.
            rows: of the shard, a slice or sorted unique numbers.
            work: called with `(rows, count)` of the stored dtype; a sample that was compacted away
                since this snapshot is NaN.
        """
        layout = self.schema.array(array)
        numbers = np.arange(layout.rows)[rows] if isinstance(rows, slice) else rows

        def read(record: SlotRecord) -> T:
            if record.emptied:
                gone = np.array(np.nan, self.schema.dtype)
                return work(np.broadcast_to(gone, (len(numbers), record.count)))
            path = self._path(layout, layer, slot, record)
            block = self.shards.rows_of(path, layout.rows, rows, record.count, at_once=share())
            if block is None:
                block = np.empty((len(numbers), record.count), self.schema.dtype)
                self.shards.read_rows(path, layout.rows, numbers, record.count, block)
            self._check(layout, layer, slot, record, numbers, block)
            return work(block)

        return self._persist(read, layout, layer, slot)

    def _need_not_check(
        self, layout: ArrayLayout, layer: int, slot: int, rows: Positions, few: int, count: int
    ) -> bool:
        """Whether a `few` of a slot's `count` samples may be read of rows not compared before."""
        if self.check in ("never", "always"):
            return self.check == "never"
        key = (layout.name, layer, slot)
        sound = self._sound.get(key)
        if sound is not None and sound[rows].all():
            return True
        if self.check == "first":
            return False
        taken = self._taken.setdefault(key, np.zeros(layout.rows, np.int64))
        taken[rows] += few
        return FEW * int(taken[rows].max(initial=0)) <= count

    # -- moments ----------------------------------------------------------------------------

    def moments(self, array: str, layer: int) -> Moments:
        """Count, mean and M2 of every row over all living samples, from the manifests.

        Only slots with deleted samples that are not compacted away are read again.
        """
        layout = self.schema.array(array)
        total = Moments(0, np.zeros(layout.rows), np.zeros(layout.rows))
        size = self.schema.samples_per_shard

        def of_slot(slot: int) -> Moments | None:
            record = self.snapshot.slots[slot]
            hidden = self.dead[slot * size : slot * size + record.count]
            if record.emptied or hidden.all():
                return None
            count, part = self._stored_moments(slot, array, layer)
            if count != record.count or part.count != record.count - int(hidden.sum()):
                # Deleted and not yet compacted, or the store has moved on.
                values = self.read_committed(array, layer, slot)
                living = ~hidden & ~np.isnan(values[0])
                if not living.any():
                    return None
                part = row_moments(np.ascontiguousarray(values[:, living]))
            return part

        slots = range(len(self.snapshot.slots))
        for part in in_order(of_slot, slots, self.lanes(layout.rows)):
            if part is not None:
                total = merge_moments(total, part)
        return total

    # -- one slot ---------------------------------------------------------------------------

    def read_committed(self, array: str, layer: int, slot: int) -> AnyArray:
        """The committed samples `(row, count)` of one slot, deleted ones as they are stored."""
        layout = self.schema.array(array)
        shard = np.empty((layout.rows, self.schema.samples_per_shard), self.schema.dtype)
        self._read_slot(layout, layer, slot, shard)
        return shard[:, : self.snapshot.slots[slot].count]

    def _read_slot(self, layout: ArrayLayout, layer: int, slot: int, out: AnyArray) -> None:
        """Fill `out` `(rows, S)`."""

        def read(record: SlotRecord) -> None:
            if record.emptied:
                out[...] = np.nan
                return
            path = self._path(layout, layer, slot, record)
            self.shards.read_block(path, layout.rows, out)
            rows = np.arange(layout.rows)
            self._check(layout, layer, slot, record, rows, out[:, : record.count])

        self._persist(read, layout, layer, slot)

    def _fetch_slot(self, layout: ArrayLayout, layer: int, slot: int) -> AnyArray:
        """`(rows, S)` of a slot in a bucket, read-only."""

        def read(record: SlotRecord) -> AnyArray:
            if record.emptied:
                gone = np.array(np.nan, self.schema.dtype)
                return np.broadcast_to(gone, (layout.rows, self.schema.samples_per_shard))
            path = self._path(layout, layer, slot, record)
            block = self.shards.fetch_block(path, layout.rows, at_once=share())
            rows = np.arange(layout.rows)
            self._check(layout, layer, slot, record, rows, block[:, : record.count])
            return block

        return self._persist(read, layout, layer, slot)

    def shard_of(self, array: str, layer: int, slot: int) -> str | None:
        """Path of a shard; None if all its samples were deleted and compacted away."""
        record = self._newer.get(slot, self.snapshot.slots[slot])
        if record.emptied:
            return None
        return self._path(self.schema.array(array), layer, slot, record)

    def shard_after(self, array: str, layer: int, slot: int, missing: str) -> str | None:
        """`shard_of` in the last commit, in place of one that is not there any more.

        Raises:
            DamagedShardError: it is the same one.
        """
        self._look(self.schema.array(array), layer, slot)
        path = self.shard_of(array, layer, slot)
        if path == missing:
            raise self.damaged(path, "is missing")
        return path

    def _path(self, layout: ArrayLayout, layer: int, slot: int, record: SlotRecord) -> str:
        """Where the shard of a slot is, as its record says it."""
        if not self._on_bucket:
            return layout.shard_path(layer, slot)
        covering = record.manifests[0]
        if len(record.manifests) > 1:
            covering = self._manifest(record, slot, layout.name, layer).path
        return layout.shard_path(layer, slot, covering)

    def _read_rows(
        self, layout: ArrayLayout, layer: int, slot: int, rows: Positions, out: AnyArray
    ) -> None:
        """Fill `out` `(len(rows), count)`."""

        def read(record: SlotRecord) -> None:
            if record.emptied:
                out[...] = np.nan
                return
            count = out.shape[1]
            values = out
            if record.count > count:  # checksums are of all that the slot holds now
                values = np.empty((len(rows), record.count), out.dtype)
            path = self._path(layout, layer, slot, record)
            self.shards.read_rows(path, layout.rows, rows, values.shape[1], values)
            self._check(layout, layer, slot, record, rows, values)
            if values is not out:
                out[...] = values[:, :count]

        self._persist(read, layout, layer, slot)

    def _persist(
        self, read: Callable[[SlotRecord], T], layout: ArrayLayout, layer: int, slot: int
    ) -> T:
        """Read something of a slot as long as it is being changed; the error if it is not."""
        record = self._newer.get(slot, self.snapshot.slots[slot])
        before: tuple[object, ...] | None = (record, ()) if self._on_bucket else None
        while True:
            record = self._newer.get(slot, self.snapshot.slots[slot])
            try:
                return read(record)
            except StoreBusy:
                raise
            except StoreError:
                with self._manifests_lock:
                    self._manifests.clear()
                now = self._look(layout, layer, slot)
                if now == before:  # so nothing changed from the look before the attempt to this
                    raise
                before = now

    def _look(self, layout: ArrayLayout, layer: int, slot: int) -> tuple[object, ...]:
        """What the last commit says of a slot, and checksums of the files that hold it."""
        try:
            self._newer[slot] = load_snapshot(self.location, known=self.snapshot).slots[slot]
        except (StoreError, IndexError) as error:
            # Who was not let look knows nothing of damage.
            unknown = isinstance(error, (StoreBusy, StoreInputError))
            if unknown and isinstance(self.location, ObjectLocation):
                raise
        record = self._newer.get(slot, self.snapshot.slots[slot])
        if self._on_bucket:  # what has a name never changes
            return record, ()
        paths = (*record.manifests, layout.shard_path(layer, slot))
        return record, tuple(self._fingerprint(path) for path in paths)

    def _fingerprint(self, path: str) -> int | None:
        try:
            return int(google_crc32c.value(self.location.read(path)))
        except OSError:
            return None

    def _check(
        self,
        layout: ArrayLayout,
        layer: int,
        slot: int,
        record: SlotRecord,
        rows: Positions,
        values: AnyArray,
    ) -> None:
        """Compare values `(len(rows), record.count)` with the manifest."""
        if self.check == "never":
            return
        key = (layout.name, layer, slot)
        sound = self._sound.setdefault(key, np.zeros(layout.rows, bool))
        if self.check != "always" and sound[rows].all():
            return
        manifest = self._manifest(record, slot, layout.name, layer)
        good = manifest.accepts(layout.name, layer, rows, row_crcs(values))
        if good.all():
            sound[rows] = True
            return
        bad = rows[~good]
        pooling, unit = divmod(int(bad[0]), layout.width)
        raise self.damaged(
            self._path(layout, layer, slot, record),
            f"differs from its checksums in {len(bad)} of {len(rows)} rows read, first "
            f"pooling {layout.poolings[pooling]!r}, unit {unit}",
        )

    def _manifest(self, record: SlotRecord, slot: int, name: str, layer: int) -> Manifest:
        for path in record.manifests:
            manifest = self._opened(path)
            if manifest.covers(name, layer, rows=self.schema.array(name).rows):
                return manifest
        raise StoreError(
            f"{self.location.address}: no manifest of slot {slot} covers array {name!r}, layer "
            f"{layer}; {FROM_BACKUP}"
        )

    def _opened(self, path: str) -> Manifest:
        """A manifest; of several threads one opens it, while the others wait."""
        with self._manifests_lock:
            known = self._manifests.get(path)
            opened = known or Future()
            self._manifests[path] = opened
            self._manifests.move_to_end(path)
            if len(self._manifests) > MAX_OPEN_MANIFESTS:
                self._manifests.popitem(last=False)
        if known is None:
            try:
                opened.set_result(Manifest(self.windows or self.location, path))
            except BaseException as error:
                with self._manifests_lock:
                    self._manifests.pop(path, None)
                opened.set_exception(error)
        return opened.result()

    def _stored_moments(self, slot: int, array: str, layer: int) -> tuple[int, Moments]:
        """How many samples the slot's manifest covers, and the moments of the living of them."""

        def read(record: SlotRecord) -> tuple[int, Moments]:
            if record.emptied:
                return -1, Moments(0, np.zeros(0), np.zeros(0))
            manifest = self._manifest(record, slot, array, layer)
            return manifest.count, manifest.moments(array, layer)

        return self._persist(read, self.schema.array(array), layer, slot)

    def damaged(self, path: str, what: str) -> DamagedShardError:
        """The error that says what is wrong with a shard, and what to do."""
        slot = path.rsplit("/", 1)[-1].partition(".")[0]
        return DamagedShardError(
            f"{self.location.address}/{path}: the shard {what} (slot {slot}); {FROM_BACKUP}, or "
            f"remove the store and extract again (`salient store verify "
            f"{shlex.quote(self.location.address)}` lists all damage)"
        )

    # -- positions --------------------------------------------------------------------------

    def _positions(self, samples: Samples) -> slice | Positions:
        total = self.snapshot.num_samples
        if samples is None:
            return slice(0, total)
        if isinstance(samples, slice):
            start, stop, step = samples.indices(total)
            if step == 1:
                return slice(start, max(start, stop))
            return np.arange(start, stop, step, dtype=np.int64)
        positions = np.asarray(samples)
        if positions.dtype.kind not in "iu" and positions.size:
            raise StoreError(f"samples are {positions.dtype}; needed are integer positions")
        positions = positions.astype(np.int64).ravel()
        if len(positions) and not (positions.min() >= 0 and positions.max() < total):
            bad = int(positions.min() if positions.min() < 0 else positions.max())
            raise StoreInputError(
                f"sample position {bad} does not exist; valid are 0 to {total - 1} (positions() "
                "gives -1 for unknown ids: drop those first)"
            )
        deleted = int(np.count_nonzero(self.dead[positions]))
        if deleted:
            raise StoreError(
                f"{deleted} of the positions asked for were deleted; ask positions() again for "
                "the ids, it gives -1 for deleted ones"
            )
        return positions

    def picks(self, wanted: slice | Positions) -> Iterator[SlotPick]:
        """What `wanted` takes of each slot."""
        return pick_slots(
            wanted,
            num_samples=self.snapshot.num_samples,
            samples_per_shard=self.schema.samples_per_shard,
        )

    def _is_direct(self, pick: SlotPick, out: AnyArray) -> bool:
        size = self.schema.samples_per_shard
        whole = isinstance(pick.columns, slice) and pick.columns == slice(0, size)
        return whole and out.shape[1] == size and out.dtype == self.schema.dtype

    def _hide_dead(self, out: AnyArray, wanted: slice | Positions) -> AnyArray:
        hidden = self.dead[wanted]
        if hidden.any():
            out[:, hidden] = np.nan
        return out.T


def _scatter(values: AnyArray, pick: SlotPick, out: AnyArray) -> None:
    """Put the picked columns of one slot where they belong, converting the type."""
    put_columns(values[:, pick.columns], pick.target, out)


def put_columns(chosen: AnyArray, target: slice | Positions, out: AnyArray) -> None:
    """`out[:, target] = chosen`, both 2-D, converting the type; NaN stays NaN."""
    if out.dtype != np.float32:
        out[:, target] = chosen
        return
    wide = out[:, target] if isinstance(target, slice) else np.empty(chosen.shape, np.float32)
    widen(chosen, wide)
    if len(chosen) and (gone := np.isnan(chosen[0])).any():  # widened, it were a number
        wide[:, gone] = np.nan  # compacted away, whether or not this reader knew it
    if not isinstance(target, slice):
        out[:, target] = wide


def _crossing(block: AnyArray, rows: slice | Positions, columns: slice | Positions) -> AnyArray:
    """A copy of where rows and columns cross, touching nothing else of a memory map."""
    if isinstance(rows, slice) or isinstance(columns, slice):
        return np.array(block[rows, columns])
    return np.asarray(block[np.ix_(rows, columns)])


def _runs(
    columns: slice | Positions, target: slice | Positions
) -> list[tuple[slice | Positions, slice | Positions]]:
    """Columns and where they go, as slices if they are long runs: all but a few deleted ones."""
    if isinstance(columns, slice) or not isinstance(target, slice):
        return [(columns, target)]
    runs, place = merge_runs(columns), target.start
    if LONG_RUN * len(runs) > len(columns):
        return [(columns, target)]
    found: list[tuple[slice | Positions, slice | Positions]] = []
    for start, stop in runs:
        found.append((slice(start, stop), slice(place, place + stop - start)))
        place += stop - start
    return found


def as_slice(numbers: slice | Positions) -> slice | Positions:
    """Numbers that count up by one as a slice, which is much faster to index with."""
    if isinstance(numbers, slice) or not len(numbers):
        return numbers
    first, last = int(numbers[0]), int(numbers[-1])
    if last - first + 1 == len(numbers) and (np.diff(numbers) == 1).all():
        return slice(first, last + 1)
    return numbers


def len_of(numbers: slice | Positions) -> int:
    """How many numbers a slice of positive bounds, or an array, holds."""
    return numbers.stop - numbers.start if isinstance(numbers, slice) else len(numbers)
