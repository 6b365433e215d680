"""The store as an `xarray.Dataset`: lazy, labelled, with dask chunks of whole shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from store.layout import AXIS_OF, NAMED_AXES, NO_TIME, ArrayLayout, axis_coordinates
from store.reading.view import StoreView

AnyArray = npt.NDArray[np.generic]


def to_xarray(
    store: StoreView,
    *,
    chunks: str | None = "shards",
    labels: Sequence[str] | None = None,
    text: bool = True,
) -> xr.Dataset:
    """Open the committed, living samples as a Dataset.

    Select by value: `.sel(layer=7, pooling="max", neuron=[3, 9])`, `.sel(sample=ids)`.

    Args:
        store: the store; later commits do not change the result.
        chunks: "shards" for dask chunks of whole shards; None for plain lazy arrays, which read
            just the neurons and samples that are selected (the fastest for small selections).
        labels: tasks whose labels and splits become coordinates `label_<task>`, `split_<task>`;
            default all.
        text: whether to include the texts.

    Returns:
        Variables `ffn (layer, pooling, neuron, sample)` and, where stored, `hidden`,
        `peak (layer, peak_pooling, neuron, sample)`, `router` and `experts`, whose units are
        labelled `expert` and `expert_neuron`; the sample axis is indexed by id.
    """
    # A view of its own: the store object may move on to later commits.
    frozen = StoreView(store.location, store.snapshot, check=store.check, pinned=True)
    coords = _coordinates(frozen, text=text)
    for task in store.tasks() if labels is None else labels:
        table = store.labels(task)
        for name in ("label", "split"):
            coords[f"{name}_{task}"] = ("sample", _label_column(frozen, table, name))
    variables = {}
    for name, layout in store.schema.arrays.items():
        lazy = indexing.LazilyIndexedArray(_LazyActivations(frozen, layout))
        variable = xr.Variable(layout.dims, lazy)
        if chunks is not None:
            sizes = (1, layout.num_poolings, layout.width, store.schema.samples_per_shard)
            variable = variable.chunk(dict(zip(layout.dims, sizes, strict=True)))
        variables[name] = variable
    dataset = xr.Dataset(variables, coords, attrs={"snapshot": store.snapshot_id})
    dead = frozen.index.dead  # the coordinates' own, whatever was compacted since
    if dead.any():
        dataset = dataset.isel(sample=np.flatnonzero(~dead))
    return dataset


def _coordinates(store: StoreView, *, text: bool) -> dict[str, Any]:
    rows = store.index.visible_rows(0, store.num_samples)
    coords: dict[str, Any] = {
        name: (
            AXIS_OF.get(name, name),
            _objects(values) if name in NAMED_AXES else np.asarray(values),
        )
        for name, (values, _) in axis_coordinates(store.schema).items()
    }
    coords["sample"] = ("sample", _strings(rows["id"]))
    for name in ("text_hash", *(("text",) if text and store.schema.store_text else ())):
        coords[name] = ("sample", _strings(rows[name]))
    coords["n_tokens"] = ("sample", rows["n_tokens"].fill_null(0).to_numpy())
    coords["truncated"] = ("sample", rows["truncated"].fill_null(False).to_numpy())
    seconds = rows["created_at"].fill_null(NO_TIME).to_numpy()
    times = np.full(len(seconds), np.datetime64("NaT", "s"))
    times[seconds != NO_TIME] = seconds[seconds != NO_TIME].astype("datetime64[s]")
    coords["created_at"] = ("sample", times)
    return coords


def _label_column(store: StoreView, table: pa.Table, name: str) -> AnyArray:
    """A label column by position; the first row of a sample counts, others are missing."""
    positions = store.positions(table["id"])
    known = np.flatnonzero(positions >= 0)[::-1]
    column = table[name]
    if pa.types.is_floating(column.type):
        values: AnyArray = np.full(store.num_samples, np.nan)
        values[positions[known]] = column.to_numpy()[known]
        return values
    texts = np.full(store.num_samples, "", object)
    texts[positions[known]] = column.to_numpy(zero_copy_only=False)[known]
    return texts


def _strings(column: pa.ChunkedArray) -> AnyArray:
    values: AnyArray = pc.fill_null(column, "").to_numpy(zero_copy_only=False)
    return values


def _objects(values: Sequence[Any]) -> AnyArray:
    return np.array(list(values), dtype=object)


class _LazyActivations(BackendArray):
    """One array of a store behind xarray's lazy indexing (orthogonal keys)."""

    def __init__(self, store: StoreView, layout: ArrayLayout) -> None:
        self.store = store
        self.layout = layout
        self.dtype = np.dtype(store.schema.dtype)
        self.shape = (
            len(layout.layers),
            layout.num_poolings,
            layout.width,
            store.num_samples,
        )

    def __getitem__(self, key: indexing.ExplicitIndexer) -> AnyArray:
        return indexing.explicit_indexing_adapter(  # type: ignore[no-any-return]
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> AnyArray:
        layers, poolings, units, samples = (
            np.arange(size)[part] for part, size in zip(key, self.shape, strict=True)
        )
        rows = (np.atleast_1d(poolings)[:, None] * self.layout.width + np.atleast_1d(units)).ravel()
        wanted = key[3] if isinstance(key[3], slice) else np.atleast_1d(samples)
        shape = [np.size(part) for part in (layers, poolings, units, samples) if np.ndim(part)]
        if 0 in shape:
            return np.empty(shape, self.dtype)
        parts = [self._layer(layer, rows, wanted) for layer in np.atleast_1d(layers)]
        return (parts[0] if len(parts) == 1 else np.stack(parts)).reshape(shape)

    def _layer(self, index: int, rows: AnyArray, samples: Any) -> AnyArray:
        layer = self.layout.layers[index]
        if len(rows) == self.layout.rows:
            out = self.store.read_matrix(
                self.layout.name, layer=layer, samples=samples, dtype=self.dtype
            )
        else:
            out = self.store.read_features(
                self.layout.name, layer=layer, features=rows, samples=samples, dtype=self.dtype
            )
        return out.T
