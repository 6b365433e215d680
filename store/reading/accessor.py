"""What a Dataset of activations can do beyond xarray: `ds.salient`, and `ds.to_hf_dataset()`.

    ds = store.open_dataset("activations")
    ds.salient.features([(3, 17), (7, 5)])      # (feature, pooling, sample) of salient neurons
    ds.salient.mean(by="label_sentiment")       # (layer, pooling, neuron, label_sentiment)
    ds.salient.mean(by="created_at.date")       # a column a day

`mean` reads each byte of the selection once, a MB at a time (with dask a chunk at a time), where a
plain `groupby` reads them once a group or holds all of them. It takes what xarray makes of the
Dataset by selection: `ds.sel(layer=[3, 7], pooling="max").salient.mean()` reads two layers' maxima.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from store.disk import all_done
from store.errors import StoreError
from store.layout import DIMS
from store.reading.groups import group_means
from store.reading.huggingface import along_samples, to_hf_dataset
from store.reading.lazy import stored_selection

AnyArray = npt.NDArray[Any]


@xr.register_dataset_accessor("salient")  # type: ignore[no-untyped-call]
class SalientAccessor:
    """Reads of activations that xarray alone makes slow; `ds.salient`."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    def features(self, pairs: Iterable[tuple[int, int]], *, array: str = "ffn") -> xr.DataArray:
        """The salient slice: a few (layer, neuron) pairs, each row read once, in their order.

        Args:
            pairs: layer and neuron (or the array's other units) by value.
            array: "ffn", "hidden", "peak", "router" or "experts".

        Returns:
            `(feature, pooling, sample)`, with the layer and the unit as coordinates of `feature`.
        """
        whole = self._array(array)
        axes = [
            (layer, unit) for layer, _, unit, _ in DIMS.values() if {layer, unit} <= {*whole.dims}
        ]
        if not axes:
            raise StoreError(
                f"array {array!r} has the axes {', '.join(map(str, whole.dims))} here; features "
                "are picked from a layer and a unit axis: select them of the whole Dataset"
            )
        layer_axis, unit_axis = axes[0]
        wanted = np.array(list(pairs), np.int64).reshape(-1, 2)
        layers, units = wanted.T
        rest = tuple(dim for dim in whole.dims if dim not in (layer_axis, unit_axis))
        values = np.empty((len(wanted), *(whole.sizes[dim] for dim in rest)), whole.dtype)

        def read(layer: int) -> None:
            places = np.flatnonzero(layers == layer)
            part = self._select(whole, {layer_axis: layer, unit_axis: units[places]})
            values[places] = part.variable.transpose(unit_axis, ...).values

        stored = stored_selection(whole.variable._data)
        at_once = 1 if stored is None else stored[0].store.reader.lanes(len(wanted))
        all_done(read, np.unique(layers).tolist(), at_once)
        kept = {k: v for k, v in whole.coords.items() if not {layer_axis, unit_axis} & {*v.dims}}
        labels = {layer_axis: ("feature", layers), unit_axis: ("feature", units)}
        return xr.DataArray(values, {**kept, **labels}, ("feature", *rest), array, whole.attrs)

    def mean(self, array: str = "ffn", *, by: str | xr.DataArray | None = None) -> xr.DataArray:
        """Mean over the texts, or over those of each group, in one pass and flat memory.

        Args:
            array: "ffn", "hidden", "peak", "router" or "experts".
            by: a coordinate of the samples ("label_mood", "created_at.date"), or a DataArray of
                the same samples; those without a group (NaN, NaT) are left out, as `groupby` does.
                A missing label is "" and so a group: select the labelled samples first.

        Returns:
            float64 `(layer, pooling, unit)`, and the groups, sorted, as last axis if there are any.

        Raises:
            StoreError: no such array or coordinate; `by` is of other samples.
        """
        whole = self._array(array)
        codes, groups, name = self._groups(by, whole)
        values = group_means(whole.variable, codes, len(groups))
        kept = {k: v for k, v in whole.coords.items() if "sample" not in v.dims}
        attributes = {**whole.attrs, "cell_methods": "sample: mean"}
        if by is None:
            return xr.DataArray(values[..., 0], kept, whole.dims[:-1], array, attributes)
        dims = (*whole.dims[:-1], name)
        return xr.DataArray(values, {**kept, name: groups}, dims, array, attributes)

    def _array(self, name: str) -> xr.DataArray:
        return along_samples(self._dataset, name).transpose(..., "sample")

    @staticmethod
    def _select(whole: xr.DataArray, wanted: dict[Any, Any]) -> xr.DataArray:
        try:
            return whole.sel(wanted)
        except (KeyError, IndexError) as error:
            layers, units = (whole[axis].values for axis in wanted)
            raise StoreError(
                f"array {whole.name!r} has not all of {wanted}: {error}; it has "
                f"{next(iter(wanted))} {layers.tolist()} and {len(units)} of "
                f"{[*wanted][1]} {units.min(initial=0)} to {units.max(initial=0)}"
            ) from None

    def _groups(
        self, by: str | xr.DataArray | None, whole: xr.DataArray
    ) -> tuple[npt.NDArray[np.int64], AnyArray, str]:
        """Group of each sample (-1: none), the groups' values, what they are called."""
        number = whole.sizes["sample"]
        if by is None:
            return np.zeros(number, np.int64), np.zeros(1), ""
        try:
            column = self._dataset[by] if isinstance(by, str) else by
        except KeyError:
            known = [str(n) for n, v in self._dataset.coords.items() if v.dims == ("sample",)]
            raise StoreError(f"by is {by!r}; there are {', '.join(known)}") from None
        if column.dims != ("sample",) or len(column) != number:
            raise StoreError(f"by has the shape {dict(column.sizes)}; needed is sample: {number}")
        try:
            xr.align(whole, column, join="exact", copy=False)
        except ValueError:
            raise StoreError(
                "by has other ids along `sample`, or in another order; give "
                'by.sel(sample=ds["sample"]), or a coordinate of the Dataset by its name'
            ) from None
        name = str(column.name or "group")
        if name in whole.dims[:-1]:
            raise StoreError(f"by is called {name!r}, as an axis is; rename it: by.rename(...)")
        codes, groups = pd.factorize(column.values, sort=True)
        return codes.astype(np.int64), np.asarray(groups), name


@xr.register_dataset_accessor("to_hf_dataset")  # type: ignore[no-untyped-call]
class _ToHuggingFace:
    """`ds.to_hf_dataset()`: see `store.reading.huggingface.to_hf_dataset`."""

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    def __call__(self, array: str = "ffn", **options: Any) -> Any:
        return to_hf_dataset(self._dataset, array, **options)
