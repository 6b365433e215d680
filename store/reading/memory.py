"""Activations that lie in memory as the Dataset that a store of them would open as."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xarray as xr

from store.layout import StoreSchema, array_attributes, provenance_attribute, store_attributes
from store.reading.dataset import axes, coordinate, ids_and_times
from store.reading.lazy import COLUMNS

AnyArray = npt.NDArray[Any]


def in_memory(
    schema: StoreSchema, rows: pa.Table, arrays: Mapping[str, AnyArray], *, text: bool = True
) -> xr.Dataset:
    """A Dataset with the names, coordinates and attributes of `open_dataset`.

    Args:
        schema: of the store that would hold the arrays.
        rows: `id`, `text`, `text_hash`, `created_at` (seconds), `n_tokens` and `truncated` of each
            sample.
        arrays: name -> `(layer, pooling, unit, sample)` float16 or float32.
        text: whether to include the texts.
    """
    variables = {
        name: (schema.array(name).dims, values, array_attributes(name, schema.dtype, schema.dtype))
        for name, values in arrays.items()
    }
    coords = axes(schema) | ids_and_times(rows)
    for name, (dtype, fill) in COLUMNS.items():
        if name != "text" or text:
            column = pc.fill_null(rows[name], fill).to_numpy(zero_copy_only=False)
            coords[name] = coordinate(name, "sample", np.asarray(column).astype(dtype))
    used = {dim for dims, _, _ in variables.values() for dim in dims}
    shown = {name: one for name, one in coords.items() if one.dims[0] in used}
    attributes = {**store_attributes(schema), **provenance_attribute(schema)}
    return xr.Dataset(variables, shown, attributes)
