"""Arrays that xarray indexes first and reads then: activations, and columns of the samples.

Both count living samples only, so a Dataset has none of the deleted ones from the start.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from xarray.backends import BackendArray
from xarray.core import indexing

from store.disk import all_done, one_array
from store.errors import StoreError
from store.layout import ArrayLayout, SlotPick
from store.reading.reader import as_slice
from store.reading.view import StoreView
from store.records import Positions

T = TypeVar("T")
AnyArray = npt.NDArray[Any]
MAX_THREADS = 4
THREADED_BYTES = 2**24
UNASKED_BYTES = 2**30
"""What is read without a look at the memory that is left."""
STRING = np.dtype("O", metadata={"element_type": str})
"""As xarray marks objects that are strings: it can fill gaps among them, and write them unread."""
COLUMNS: dict[str, tuple[Any, Any]] = {
    "text": (STRING, ""),
    "text_hash": (STRING, ""),
    "n_tokens": (np.dtype("int32"), 0),
    "truncated": (np.dtype("bool"), False),
}
"""Columns of the samples that are read when asked for: element type, and what stands for null."""


def _read_by(
    key: indexing.ExplicitIndexer, shape: tuple[int, ...], read: Callable[..., AnyArray]
) -> AnyArray:
    """Axis by axis as it is asked (xarray's adapter trips over empty slices), points by xarray."""
    if not isinstance(key, indexing.VectorizedIndexer):
        return read(key.tuple)
    adapted: AnyArray = indexing.explicit_indexing_adapter(
        key, shape, indexing.IndexingSupport.OUTER, read
    )
    return adapted


class LazyColumn(BackendArray):
    """A column of the sample index, `(living samples,)`; reads the parts of it that it needs."""

    def __init__(self, store: StoreView, living: Positions, name: str) -> None:
        self.store = store
        self.living = living
        self.name = name
        self.dtype, self.fill = COLUMNS[name]
        self.shape = living.shape

    def __getitem__(self, key: indexing.ExplicitIndexer) -> AnyArray:
        return _read_by(key, self.shape, self._read)

    def _read(self, key: tuple[Any, ...]) -> AnyArray:
        wanted = self.living[key[0]]
        places = np.atleast_1d(wanted)
        if not len(places):
            return np.empty(wanted.shape, self.dtype)
        start, stop = int(places.min()), int(places.max()) + 1
        column = self.store.index.visible_rows(start, stop, [self.name])[self.name]
        found = pc.fill_null(one_array(column).take(places - start), self.fill)
        values: AnyArray = found.to_numpy(zero_copy_only=False).astype(self.dtype)
        return values.reshape(wanted.shape)


class LazyActivations(BackendArray):
    """One array of a store, `(layer, pooling, unit, living sample)`.

    Args:
        store: a view of one snapshot.
        layout: which array.
        living: int64 positions of the samples that are shown, increasing.
        dtype: element type that readers get.
    """

    def __init__(
        self, store: StoreView, layout: ArrayLayout, living: Positions, dtype: npt.DTypeLike
    ) -> None:
        self.store = store
        self.layout = layout
        self.living = living
        self.dtype = np.dtype(dtype)
        self.shape = (len(layout.layers), layout.num_poolings, layout.width, len(living))

    def __getitem__(self, key: indexing.ExplicitIndexer) -> AnyArray:
        return _read_by(key, self.shape, self._read)

    def _read(self, key: tuple[Any, ...]) -> AnyArray:
        layers, poolings, units, samples = (
            np.arange(size)[part] for part, size in zip(key, self.shape, strict=True)
        )
        shape = [np.size(part) for part in (layers, poolings, units, samples) if np.ndim(part)]
        layers, samples = np.atleast_1d(layers), np.atleast_1d(samples)
        asked = self.rows(poolings, units)
        if 0 in shape:
            return np.empty(shape, self.dtype)
        refuse_too_large(
            self,
            len(layers) * len(asked) * len(samples) * self.dtype.itemsize,
            "select layers, neurons or samples first, or open with chunks={} and reduce",
        )
        rows, back = asked, None
        if not (np.diff(asked) > 0).all():
            rows, back = np.unique(asked, return_inverse=True)
        out = np.empty((len(layers), len(rows), len(samples)), self.dtype)
        self._fill(layers, as_slice(rows), as_slice(self.living[samples]), out)
        return (out if back is None else out[:, back]).reshape(shape)

    def rows(self, poolings: AnyArray, units: AnyArray) -> Positions:
        """Numbers in a shard of the rows of these poolings and units, pooling by pooling."""
        numbers: Positions = np.atleast_1d(poolings)[:, None] * self.layout.width + units
        return numbers.ravel()

    def _fill(
        self, layers: Positions, rows: slice | Positions, samples: slice | Positions, out: AnyArray
    ) -> None:
        """Fill `out` `(layer, row, sample)`, some rows at a time if there is much to read.

        Threads share the rows, not the slots: each then fills memory that is its own.
        """
        reader, schema, name = self.store.reader, self.store.schema, self.layout.name
        picks = list(reader.picks(samples))
        number = out.shape[1]
        if reader.shards.bucket is not None:  # every shard by itself

            def fetch(job: tuple[int, SlotPick]) -> None:
                layer = self.layout.layers[layers[job[0]]]
                reader.read_part(name, layer, job[1], rows, out[job[0]])

            shards = list(itertools.product(range(len(layers)), picks))
            all_done(fetch, shards, reader.lanes(number))
            return
        step = max(1, -(-number // (2 * MAX_THREADS))) if isinstance(rows, slice) else number
        if out.nbytes < THREADED_BYTES:
            step = number
        jobs = [(place, at) for place in range(len(layers)) for at in range(0, number, step)]

        def read(job: tuple[int, int]) -> None:
            place, at = job
            stop = min(at + step, number)
            if isinstance(rows, slice):
                part: slice | Positions = slice(rows.start + at, rows.start + stop)
            else:
                part = rows[at:stop]
            scratch = np.empty((stop - at, schema.samples_per_shard), schema.dtype)
            layer = self.layout.layers[layers[place]]
            for pick in picks:
                reader.read_part(name, layer, pick, part, out[place, at:stop], scratch)

        each(read, jobs, threaded=out.nbytes >= THREADED_BYTES)


def each(work: Callable[[T], None], jobs: Sequence[T], *, threaded: bool = True) -> None:
    """Do each of some jobs, several at a time."""
    threads = min(MAX_THREADS, len(os.sched_getaffinity(0)), len(jobs))
    if threads > 1 and threaded:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, jobs))
    else:
        for job in jobs:
            work(job)


def refuse_too_large(lazy: LazyActivations, num_bytes: int, remedy: str) -> None:
    """Raise StoreError rather than ask for more memory than there is."""
    if num_bytes > UNASKED_BYTES and num_bytes > (free := available_bytes()):
        raise StoreError(
            f"{lazy.store.location.address}: {num_bytes / 1e9:,.1f} GB of array "
            f"{lazy.layout.name!r} do not fit into the {free / 1e9:,.1f} GB of memory that are "
            f"left; {remedy}"
        )


def as_list(names: Sequence[str]) -> Sequence[str]:
    """Names, of which one may come alone."""
    return [names] if isinstance(names, str) else names


def available_bytes() -> int:
    """Memory that is left on this machine; no limit where Linux does not tell."""
    table = Path("/proc/meminfo")
    lines = table.read_text().splitlines() if table.is_file() else []
    told = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(told[0]) * 1024 if told else 2**63


def stored_selection(data: Any) -> tuple[LazyActivations, tuple[Any, ...]] | None:
    """The stored array behind a variable's data, and which part of it; None for other data."""
    while isinstance(data, indexing.MemoryCachedArray | indexing.CopyOnWriteArray):
        data = data.array
    if isinstance(data, indexing.LazilyIndexedArray) and isinstance(data.array, LazyActivations):
        return data.array, data.key.tuple
    return None
