"""Means over groups of samples: each byte is read once, whatever the number of groups.

A stored array is streamed slot by slot, a MB at a time; what dask or memory holds is summed by the
chunk.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from threadpoolctl import threadpool_limits

from store.disk import in_order
from store.layout import SlotPick, widen
from store.reading.lazy import LazyActivations, each, refuse_too_large, stored_selection
from store.reading.reader import as_slice

AnyArray = npt.NDArray[Any]
Codes = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]
BLOCK_BYTES = 2**20
"""Float32 working set of a sum: in cache."""
FEW_IN_ORDER, FEW_SCATTERED = 4, 32
"""Up to so many groups a matrix product is faster than sums of runs, where those of a group stand
side by side (as days do), and where not."""


def group_means(whole: xr.Variable, codes: Codes, num_groups: int) -> Float:
    """Means over the last axis, by group.

    Args:
        whole: `(..., sample)`, stored, in dask chunks or in memory.
        codes: group of each sample, -1 for none.
        num_groups: how many groups there are.

    Returns:
        float64 `(..., group)`; NaN where a group has no sample.
    """
    stored = stored_selection(whole._data)
    if stored is not None:
        return _streamed_means(*stored, codes, num_groups)
    if 0 in (whole.shape[-1], num_groups):
        sums = np.zeros((*whole.shape[:-1], 2 * num_groups))
    elif whole.chunks is not None:
        sums = _chunked(whole.data, codes, num_groups)
    elif whole.ndim > 1:  # a layer at a time
        sums = np.stack([_block_sums(part.values, codes, num_groups) for part in whole])
    else:
        sums = _block_sums(whole.values, codes, num_groups)
    with np.errstate(invalid="ignore"):
        means: Float = sums[..., :num_groups] / sums[..., num_groups:]
    return means


def _block_sums(block: AnyArray, codes: Codes, num_groups: int) -> Float:
    """Sums of `(..., n)` values by group, then how many of them are not NaN: `(..., 2 * group)`."""
    order = np.argsort(codes, kind="stable")[np.count_nonzero(codes < 0) :]
    groups, starts = np.unique(codes[order], return_index=True)
    out = np.zeros((*block.shape[:-1], 2 * num_groups))
    if len(groups):
        chosen = block[..., order]
        there = ~np.isnan(chosen)
        chosen[~there] = 0
        out[..., groups] = np.add.reduceat(chosen, starts, -1, dtype=np.float64)
        out[..., num_groups + groups] = np.add.reduceat(there, starts, -1, dtype=np.float64)
    return out


def _chunked(data: Any, codes: Codes, num_groups: int) -> Float:
    """`_block_sums` of a dask array, added up chunk by chunk."""
    total, start = 0, 0
    for place, size in enumerate(data.chunks[-1]):
        sums = partial(_block_sums, codes=codes[start : start + size], num_groups=num_groups)
        blocks = data.blocks[..., place]
        shape = (*data.chunks[:-1], (2 * num_groups,))
        total += blocks.map_blocks(sums, chunks=shape, dtype=np.float64, meta=np.empty(()))
        start += size
    summed: Float = total.compute()  # type: ignore[attr-defined]
    return summed


def _streamed_means(
    lazy: LazyActivations, key: tuple[Any, ...], codes: Codes, num_groups: int
) -> Float:
    """The same of a selection of a store, each shard read once.

    Args:
        lazy: the stored array.
        key: an integer, slice or integers for each axis.
        codes: group of each sample of the selection.
        num_groups: how many groups there are.
    """
    layers, poolings, units, samples = (
        np.arange(size)[part] for part, size in zip(key, lazy.shape, strict=True)
    )
    kept = [np.size(part) for part in (layers, poolings, units) if np.ndim(part)]
    asked = lazy.rows(poolings, units)
    numbers, back = np.unique(asked, return_inverse=True)
    layers = np.atleast_1d(layers)
    refuse_too_large(
        lazy,
        len(layers) * len(asked) * num_groups * 8,
        "select fewer layers, or group less finely",
    )
    inside = np.flatnonzero(codes >= 0)
    picks = list(lazy.store.reader.picks(as_slice(lazy.living[np.atleast_1d(samples)[inside]])))
    sums = np.zeros((len(layers), len(numbers), num_groups))
    counts = np.zeros((len(layers), 1, num_groups))

    reader = lazy.store.reader
    at_once = reader.lanes(len(numbers))

    def add(place: int) -> None:
        layer = lazy.layout.layers[layers[place]]

        def of_slot(pick: SlotPick) -> tuple[Codes, npt.NDArray[np.float32], Float]:
            present, groups = np.unique(codes[inside[pick.target]], return_inverse=True)
            return present, *_slot_sums(lazy, layer, pick, as_slice(numbers), groups, len(present))

        for present, found, number in in_order(of_slot, picks, at_once):
            sums[place][:, present] += found
            counts[place][:, present] += number

    with threadpool_limits(1, user_api="blas"):
        if reader.shards.bucket is None:
            each(add, range(len(layers)))
        else:
            for place in range(len(layers)):
                add(place)
    with np.errstate(invalid="ignore"):
        sums /= counts
    return sums[:, back].reshape(*kept, num_groups)


def _slot_sums(
    lazy: LazyActivations,
    layer: int,
    pick: SlotPick,
    rows: slice | Codes,
    groups: Codes,
    num_groups: int,
) -> tuple[npt.NDArray[np.float32], Float]:
    """float32 `(rows, group)` sums of the picked samples of one slot, and how many they are.

    Args:
        lazy: the stored array.
        layer: which layer.
        pick: which slot, which samples of it.
        rows: of the shard, a slice or sorted unique numbers.
        groups: group of each picked sample, each of them of one at least.
        num_groups: how many groups there are among them.
    """
    order = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[order], np.arange(num_groups))

    def work(block: AnyArray) -> tuple[npt.NDArray[np.float32], Float]:
        count = block.shape[1]
        columns = np.arange(count)[pick.columns]
        places = columns[order]
        ordered = bool((np.diff(places) > 0).all())
        idle = np.isnan(block[0])  # deleted and compacted away since
        number = np.add.reduceat(~idle[places], starts, dtype=np.float64)
        if ordered:  # so runs may be summed with what lies between the picked ones, deleted texts
            idle |= ~np.isin(np.arange(count), places)
        multiply = num_groups <= (FEW_IN_ORDER if ordered else FEW_SCATTERED)
        belongs = np.zeros((count, num_groups if multiply else 0), np.float32)
        if multiply:
            np.add.at(belongs, (columns, groups), 1)
        sums = np.empty((len(block), num_groups), np.float32)
        step = max(1, BLOCK_BYTES // (4 * max(1, count)))
        wide = np.empty((step, count), np.float32)
        for start in range(0, len(block), step):
            part = block[start : start + step]
            here, out = wide[: len(part)], sums[start : start + step]
            widen(part, here)
            if idle.any():
                here[:, idle] = 0
            if multiply:
                np.matmul(here, belongs, out=out)
            elif ordered:
                np.add.reduceat(here, places[starts], axis=1, out=out)
            else:
                np.add.reduceat(here[:, places], starts, axis=1, out=out)
        return sums, number

    return lazy.store.reader.with_rows(lazy.layout.name, layer, pick.slot, rows, work)
