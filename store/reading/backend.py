"""Opening a store as a Dataset: `open_dataset`, or `xr.open_dataset(path, engine="salient")`.

xarray finds `SalientBackend` through its entry point in the group `xarray.backends`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.backends import BackendEntrypoint

from store.disk import locate
from store.errors import StoreError
from store.layout import StoreSchema
from store.reading.dataset import lazy_dataset
from store.reading.view import StoreView
from store.records import read_root

Chunks = int | str | Mapping[Any, Any] | None
EAGER = ("created_at", "label_", "split_")
"""Small, and what one groups by: dask could not say beforehand what groups there are."""


def open_dataset(
    path: str | Path,
    *,
    snapshot: str | None = None,
    labels: Sequence[str] | None = None,
    text: bool = True,
    chunks: Chunks = None,
    dtype: str | None = "float32",
    check: str = "rows",
) -> xr.Dataset:
    """Open a store's committed, living samples as a lazy Dataset, labelled by value.

    `xr.open_dataset(path, engine="salient", ...)` gives the same with `chunks=None`. With chunks it
    leaves labels and times to dask, which then does not know what groups there are, and cannot
    tell how large "auto" chunks of strings are: open with this function instead.

    Identical texts are one sample, under the id and time that came first: `.sel(sample=...)` knows
    that id only, and groups by time count the text once. `ActivationStore.positions` finds each
    id, and tells which are unknown or deleted; here those are a KeyError.

    Args:
        path: the store's directory, or an fsspec address.
        snapshot: id of an older commit.
        labels: tasks whose labels and splits become coordinates `label_<task>`, `split_<task>`;
            default all. Missing labels are "", missing values NaN.
        text: whether to include the texts, which are read when asked for.
        chunks: None reads just what is selected, at once. `{}` makes dask chunks as large as a
            shard, "auto" of several layers: for what is larger than memory. `to_zarr` takes
            equal chunks only: of a part of the samples `ds.isel(...).chunk(sample=4096)`.
        dtype: of the activations: "float32", or None for the stored one.
        check: compare checksums of the "rows" (neurons) that are read for the first time, once
            more than a sixteenth of a shard's texts have been; "first" at the first text already,
            for which it reads whole shards, "always" every time, "never" compares nothing.

    Returns:
        Variables `ffn (layer, pooling, neuron, sample)` and, where stored, `hidden`,
        `peak (layer, peak_pooling, neuron, sample)`, `router` and `experts`, whose units are
        labelled `expert` and `expert_neuron`; the sample axis is indexed by id (string), with
        `text`, `text_hash`, `n_tokens`, `truncated`, `created_at` (datetime64, NaT if unknown).
        Files made of it that hold times beyond 1678 to 2262 are opened with
        `decode_times=xr.coders.CFDatetimeCoder(time_unit="s")`.

    Raises:
        StoreError: no store, no such snapshot, task, element type or check.
    """
    store = StoreView.open(path, snapshot, check=check)
    return to_xarray(store, labels=labels, text=text, chunks=chunks, dtype=dtype)


def to_xarray(
    store: StoreView,
    *,
    labels: Sequence[str] | None = None,
    text: bool = True,
    chunks: Chunks = None,
    dtype: str | None = "float32",
) -> xr.Dataset:
    """What `open_dataset` gives, of a store that is open: its snapshot, with its `check`."""
    if chunks == "auto":  # dask could not tell how large a chunk of strings is
        chunks = _layers_at_once(store.schema, dtype)
    dataset = xr.open_dataset(
        store,  # type: ignore[arg-type]  # handed on to our engine
        engine=SalientBackend,
        chunks=chunks,
        labels=labels,
        text=text,
        dtype=dtype,
    )
    eager = [name for name in dataset.coords if str(name).startswith(EAGER)]
    return dataset.assign_coords({name: dataset[name].load() for name in eager})


def _layers_at_once(schema: StoreSchema, dtype: str | None) -> dict[str, int]:
    """Layers whose shards of one slot make a chunk of dask's usual size, by the layers' axis."""
    from dask import config, utils

    target = utils.parse_bytes(config.get("array.chunk-size"))
    itemsize = np.dtype(dtype or schema.dtype).itemsize
    return {
        layout.dims[0]: int(max(1, target // (layout.rows * schema.samples_per_shard * itemsize)))
        for layout in schema.arrays.values()
    }


class SalientBackend(BackendEntrypoint):
    """Opens activation stores; what its options mean is said at `store.open_dataset`."""

    description = "Activation stores of Salient"
    open_dataset_parameters = (
        *("filename_or_obj", "drop_variables"),
        *("snapshot", "labels", "text", "dtype", "check"),
    )

    def open_dataset(  # type: ignore[override]
        self,
        filename_or_obj: str | os.PathLike[Any] | StoreView,
        *,
        drop_variables: str | Iterable[str] | None = None,
        snapshot: str | None = None,
        labels: Sequence[str] | None = None,
        text: bool = True,
        dtype: str | None = "float32",
        check: str = "rows",
    ) -> xr.Dataset:
        """The Dataset without dask; xarray chunks it."""
        store = filename_or_obj
        if not isinstance(store, StoreView):
            store = StoreView.open(os.fspath(store), snapshot, check=check)
        drop = [drop_variables] if isinstance(drop_variables, str) else drop_variables or ()
        return lazy_dataset(store, labels=labels, text=text, dtype=dtype, drop=drop)

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether this is a folder on this machine that bears a store's mark."""
        if not isinstance(filename_or_obj, str | os.PathLike) or "://" in str(filename_or_obj):
            return False
        try:
            return bool(read_root(locate(os.fspath(filename_or_obj))).snapshot_id)
        except (StoreError, OSError):
            return False
