"""Importance of features and neurons: the L2 norm of a probe's weights over its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.config import read_columns
from pipeline.errors import ProbeError
from pipeline.probes.model import PROBE_AGAIN, load_probe
from pipeline.runfolder import RunFolder
from store import StoreSchema
from store.layout import Source
from store.tables import write_table

Array = NDArray[Any]
MOST_LAYERS = 2**12


def feature_importance(weights: Array) -> Array:
    """L2 norm of each feature's weights: ``(outputs, features)`` -> ``(features,)`` float64."""
    return np.asarray(np.sqrt(np.square(weights.astype(np.float64)).sum(axis=0)))


def importance_shares(importance: Array) -> Array:
    """Share of each feature in the layer's squared importance, float64 ``(features,)``."""
    squared = np.square(np.asarray(importance, np.float64))
    return np.asarray(squared / max(squared.sum(), np.finfo(float).tiny))


def feature_rank(values: Array) -> Array:
    """Rank of each feature ``(features,)``, 0 for the largest value; equals in order; int32."""
    rank = np.empty(len(values), dtype=np.int32)
    rank[np.argsort(-values, kind="stable")] = np.arange(len(values))
    return rank


def importance_table(
    weights: Array, *, layer: int, poolings: Sequence[str], classes: Sequence[str]
) -> pa.Table:
    """Importance of every neuron of a layer, in each pooling.

    Args:
        weights: ``(outputs, poolings * neurons)`` probe weights, pooling-major.
        layer: the layer's index.
        poolings: names in storage order.
        classes: class names, or nothing for regression.

    Returns:
        A row per (pooling, neuron): ``layer``, ``pooling``, ``neuron``, ``importance`` (L2 norm
        over the outputs), ``neuron_importance`` (over the poolings: root of the sum of squares),
        ``rank`` (0 is the layer's most important feature), ``share`` of the layer's squared
        importance and, for more than one output, a column ``importance_CLASS`` each.
    """
    importance = feature_importance(weights)
    num_neurons = len(importance) // len(poolings)
    both = np.sqrt(np.square(importance).reshape(len(poolings), num_neurons).sum(axis=0))
    columns: dict[str, Any] = {
        "layer": np.full(len(importance), layer, dtype=np.int16),
        "pooling": np.repeat(np.array(poolings, dtype=object), num_neurons),
        "neuron": np.tile(np.arange(num_neurons, dtype=np.int32), len(poolings)),
        "importance": importance.astype(np.float32),
        "neuron_importance": np.tile(both, len(poolings)).astype(np.float32),
        "rank": feature_rank(importance),
        "share": importance_shares(importance).astype(np.float32),
    }
    if len(weights) > 1:
        for name, row in zip(classes, weights, strict=True):
            columns[f"importance_{name}"] = np.abs(row).astype(np.float32)
    return pa.table(columns)


def write_importance(
    folder: RunFolder, task: str, schema: StoreSchema, *, classes: Sequence[str]
) -> None:
    """Write the importance tables of a task, all layers in one Parquet file.

    That of the experts' neurons has a further column, ``expert``; a neuron's number is that within
    its expert. What the store does not hold has no table.
    """
    for site in ("ffn", "experts"):
        if site not in schema.arrays:
            continue
        tables = [
            importance_table(
                load_probe(folder, task, Source(site, layer), schema).weights,
                layer=layer,
                poolings=schema.poolings,
                classes=classes,
            )
            for layer in schema.array(site).layers
        ]
        table = pa.concat_tables(tables)
        if site == "experts":
            table = _by_expert(table, schema)
        write_table(folder.importance(task, site), table)


def read_importance(folder: RunFolder, task: str) -> pa.Table:
    """The importance table of the FFN's neurons: each of a layer's, in each pooling.

    Raises:
        ProbeError, StoreError: none there, or a damaged one.
    """
    path = folder.importance(task)
    columns = {"layer": "whole", "pooling": "text", "neuron": "whole", "importance": "number"}
    columns |= {"neuron_importance": "number", "rank": "whole", "share": "number"}
    table = read_columns(path, columns, remedy=PROBE_AGAIN, error=ProbeError)
    layer, neuron = table["layer"].to_numpy(), table["neuron"].to_numpy()
    names, pooling = np.unique(table["pooling"].to_pylist(), return_inverse=True)
    layers, at = np.unique(layer, return_inverse=True)
    size = int(neuron.max(initial=-1)) + 1
    # By arithmetic: what is made of it has a place for each row, and none beside.
    good = len(table) == len(layers) * len(names) * size > 0
    good = good and neuron.min() >= 0 and layers[0] >= 0 and layers[-1] < MOST_LAYERS
    if not good or len(np.unique((at * len(names) + pooling) * size + neuron)) < len(table):
        raise ProbeError(
            f"{path}: its {len(table)} rows are not one for each neuron of {len(layers)} layers and"
            f" {len(names)} poolings; {PROBE_AGAIN}"
        )
    return table


def _by_expert(table: pa.Table, schema: StoreSchema) -> pa.Table:
    """Units of a layer's experts as numbers of the expert and of its neuron."""
    number, neuron = np.divmod(table["neuron"].to_numpy(), schema.expert_size or 1)
    place = table.column_names.index("neuron")
    table = table.set_column(place, "neuron", pa.array(neuron.astype(np.int32)))
    expert = np.asarray(schema.experts, np.int32)[number]
    return table.add_column(place, "expert", pa.array(expert))
