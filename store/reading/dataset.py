"""The store as an `xarray.Dataset`: lazy, labelled, with dask chunks as large as shards.

    ds = open_dataset("activations", labels=["sentiment"])
    ds.ffn.sel(layer=7, pooling="max", sample="1234")       # (neuron,), read from a few pages
    ds.ffn.sel(sample=ds.label_sentiment == "positive")     # reads those samples only
    open_dataset("activations", chunks={}).ffn.mean("sample").compute()     # shard by shard

Activations are float32, whatever is stored: sums of float16 overflow, and netCDF has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xarray as xr
from xarray.core import indexing

from store.errors import StoreError
from store.layout import (
    AXIS_OF,
    NAMED_AXES,
    NO_TIME,
    StoreSchema,
    array_attributes,
    axis_coordinates,
    coordinate_attributes,
    provenance_attribute,
    store_attributes,
)
from store.reading import accessor  # noqa: F401  `ds.salient` and `ds.to_hf_dataset`
from store.reading.lazy import COLUMNS, STRING, LazyActivations, LazyColumn, as_list
from store.reading.view import StoreView
from store.records import Positions

AnyArray = npt.NDArray[np.generic]
CREATED_AT = {
    "units": "seconds since 1970-01-01",
    "calendar": "proleptic_gregorian",
    "dtype": "int64",
    "_FillValue": NO_TIME,
}
"""How times are written to files: whole seconds, and none is none."""


def lazy_dataset(
    store: StoreView,
    *,
    labels: Sequence[str] | None,
    text: bool,
    dtype: str | None,
    drop: Iterable[str] = (),
) -> xr.Dataset:
    """The Dataset without dask; `drop` names variables that are left out."""
    if dtype not in (None, store.schema.dtype, "float32"):
        raise StoreError(f'dtype is {dtype!r}; valid are "float32" and None, the stored one')
    shown = str(dtype or store.schema.dtype)
    # A view of its own: the store object may move on to later commits.
    frozen = StoreView(store.location, store.snapshot, check=store.check, pinned=True)
    living = np.flatnonzero(~frozen.index.dead).astype(np.int64)
    coords = axes(frozen.schema) | _samples(frozen, living, text=text)
    for task in store.tasks() if labels is None else as_list(labels):
        table = store.labels(task)
        for name in ("label", "split"):
            column = _label_column(frozen, table, name)[living]
            coords[f"{name}_{task}"] = coordinate(f"{name}_{task}", "sample", column)
    variables = {}
    for name, layout in frozen.schema.arrays.items():
        # All alike, as Zarr needs them: where texts were deleted they lie across two shards.
        whole = (1, layout.num_poolings, layout.width, frozen.schema.samples_per_shard)
        variables[name] = xr.Variable(
            layout.dims,
            indexing.LazilyIndexedArray(LazyActivations(frozen, layout, living, shown)),
            array_attributes(name, frozen.schema.dtype, shown),
            {"preferred_chunks": dict(zip(layout.dims, whole, strict=True))},
        )
    attributes = {
        **store_attributes(frozen.schema),
        "snapshot": frozen.snapshot_id,
        **provenance_attribute(frozen.schema),
    }
    return xr.Dataset(variables, coords, attributes).drop_vars(list(drop))


def axes(schema: StoreSchema) -> dict[str, xr.Variable]:
    """The coordinates of layers, poolings and units."""
    return {
        name: coordinate(
            name,
            AXIS_OF.get(name, name),
            np.array(list(values), object if name in NAMED_AXES else np.int64),
        )
        for name, (values, _) in axis_coordinates(schema).items()
    }


def _samples(store: StoreView, living: Positions, *, text: bool) -> dict[str, xr.Variable]:
    """Ids and times, which the index holds in memory anyhow; the other columns lazily."""
    rows = store.index.visible_rows(0, store.num_samples, ["id", "created_at"]).take(living)
    found = ids_and_times(rows)
    for name in COLUMNS:
        if name != "text" or (text and store.schema.store_text):
            column = indexing.LazilyIndexedArray(LazyColumn(store, living, name))
            whole = {"preferred_chunks": {"sample": max(1, len(living))}}
            found[name] = coordinate(name, "sample", column, whole)
    return found


def ids_and_times(rows: pa.Table) -> dict[str, xr.Variable]:
    """The coordinates `sample` and `created_at` of rows with `id` and `created_at` (seconds)."""
    ids = pc.fill_null(rows["id"], "").to_numpy(zero_copy_only=False).astype(object)
    seconds = rows["created_at"].fill_null(NO_TIME).to_numpy()
    times = np.full(len(seconds), np.datetime64("NaT", "s"))
    times[seconds != NO_TIME] = seconds[seconds != NO_TIME].astype("datetime64[s]")
    return {
        "sample": coordinate("sample", "sample", ids),
        "created_at": coordinate("created_at", "sample", times, CREATED_AT),
    }


def coordinate(
    name: str, axis: str, values: Any, encoding: Mapping[str, Any] | None = None
) -> xr.Variable:
    """A coordinate of one axis, `(n,)`, with what it is in words."""
    return xr.Variable((axis,), values, coordinate_attributes(name), encoding)


def _label_column(store: StoreView, table: pa.Table, name: str) -> AnyArray:
    """A label column by position; the first row of a sample counts, others are missing."""
    positions = store.positions(table["id"])
    known = np.flatnonzero(positions >= 0)[::-1]
    column = table[name]
    if pa.types.is_floating(column.type):
        values: AnyArray = np.full(store.num_samples, np.nan)
        values[positions[known]] = column.to_numpy()[known]
        return values
    texts = np.full(store.num_samples, "", STRING)
    texts[positions[known]] = column.to_numpy(zero_copy_only=False)[known]
    return texts
