"""Activations as a Hugging Face `datasets.IterableDataset`, read while it is gone through.

    rows = store.open_dataset("activations").sel(layer=[3, 7]).to_hf_dataset(labels=["mood"])
    next(iter(rows))            # {"id": ..., "text": ..., "label_mood": ..., "ffn": ...}

Needs `datasets` (the extra `hub`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from store.errors import StoreError, missing_extra
from store.reading.lazy import as_list, stored_selection

if TYPE_CHECKING:
    import datasets

SAMPLES_AT_ONCE = 256
"""Read together: few enough to be picked out of a shard once its rows have been checked."""
BYTES_AT_ONCE = 2**29
"""Of a bucket, where a text's numbers come with those of all texts of its slot."""
COLUMNS = ("text", "n_tokens", "created_at")


def to_hf_dataset(
    dataset: xr.Dataset, array: str = "ffn", *, labels: Sequence[str] | None = None
) -> datasets.IterableDataset:
    """A row for each sample of a Dataset of activations, in its order.

    Args:
        dataset: what `open_dataset` gave, or any selection of it.
        array: which activations: "ffn", "hidden", "peak", "router" or "experts".
        labels: tasks whose labels and splits come along; default all that the Dataset has.

    Returns:
        Rows `id` (string), where there `text`, `n_tokens` and `created_at` (ISO 8601, "" if
        unknown), `label_<task>`, `split_<task>`, and the activations under the array's name,
        float32 `(layer, pooling, unit)` less the axes that one value was selected of; with
        `.with_format("numpy")` or `"torch"` as arrays.

    Raises:
        MissingExtra: `datasets` is not installed.
        StoreError: no such array or task.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise missing_extra(error.name, "hub", "to_hf_dataset") from None
    along_samples(dataset, array)
    names = _columns(dataset, labels)
    whole = dataset[[array]].reset_coords(drop=True)
    whole = whole.assign_coords({name: dataset[name] for name in ("sample", *names)})
    whole = whole.transpose("sample", ..., missing_dims="ignore")
    features: dict[str, Any] = {"id": datasets.Value("string")}
    for name in names:
        kind = {"f": "float64", "i": "int32"}.get(dataset[name].dtype.kind, "string")
        features[name] = datasets.Value(kind)
    number = whole.sizes["sample"]
    if number == 0:
        raise StoreError("the selection holds no samples; there are no rows to give")
    features[array] = _array_feature(datasets, whole[array].shape[1:])
    step = _samples_at_once(dataset[array])
    edges = [(start, min(start + step, number)) for start in range(0, number, step)]
    return datasets.IterableDataset.from_generator(
        _rows,
        features=datasets.Features(features),
        gen_kwargs={"dataset": whole, "array": array, "names": tuple(names), "ranges": edges},
    )


def _samples_at_once(whole: xr.DataArray) -> int:
    """How many texts are read together: of a bucket a slot's, if memory is there for them."""
    stored = stored_selection(whole.variable._data)
    if stored is None or stored[0].store.reader.shards.bucket is None:
        return SAMPLES_AT_ONCE
    fit = BYTES_AT_ONCE * whole.sizes["sample"] // max(1, whole.nbytes)
    return max(SAMPLES_AT_ONCE, min(fit, stored[0].store.schema.samples_per_shard))


def along_samples(dataset: xr.Dataset, array: str) -> xr.DataArray:
    """An array of the Dataset; StoreError if there is none, or it has no `sample` axis."""
    if array not in dataset:
        raise StoreError(f"no array {array!r} here; there are {', '.join(map(str, dataset))}")
    found = dataset[array]
    if "sample" not in found.dims:
        raise StoreError(
            f"array {array!r} has no axis `sample` here, but {', '.join(map(str, found.dims))}; "
            'keep the axis as it is called: one text is ds.sel(sample=["id"]), a list'
        )
    return found


def _array_feature(datasets: Any, shape: tuple[int, ...]) -> Any:
    """The feature of float32 arrays of a known shape."""
    if len(shape) > 1:
        return getattr(datasets, f"Array{len(shape)}D")(shape=shape, dtype="float32")
    if not shape:
        return datasets.Value("float32")
    return datasets.Sequence(datasets.Value("float32"), length=shape[0])


def _columns(dataset: xr.Dataset, labels: Sequence[str] | None) -> list[str]:
    if labels is None:
        found = [str(name) for name in dataset.coords if str(name).startswith(("label_", "split_"))]
    else:
        found = [f"{kind}_{task}" for task in as_list(labels) for kind in ("label", "split")]
    for name in found:
        if name not in dataset.coords:
            tasks = [str(n)[6:] for n in dataset.coords if str(n).startswith("label_")]
            raise StoreError(
                f"no labels of task {name[6:]!r} here; there are {', '.join(tasks) or 'none'}"
            )
    return [*(name for name in COLUMNS if name in dataset.coords), *found]


def _rows(
    dataset: xr.Dataset, array: str, names: Sequence[str], ranges: Sequence[tuple[int, int]]
) -> Iterator[dict[str, Any]]:
    """The rows of some ranges of samples (a worker gets some of the ranges)."""
    for start, stop in ranges:
        part = dataset.isel(sample=slice(start, stop)).load()
        columns = {name: _plain(part[name].values) for name in names}
        ids = part["sample"].values.tolist()
        values = np.asarray(part[array].values, np.float32)
        for place, name in enumerate(ids):
            row = {key: column[place] for key, column in columns.items()}
            yield {"id": str(name), **row, array: values[place]}


def _plain(values: Any) -> list[Any]:
    if values.dtype.kind == "M":
        texts = np.datetime_as_string(values, unit="s")
        return ["" if text == "NaT" else f"{text}Z" for text in texts.tolist()]
    return list(values.tolist())
