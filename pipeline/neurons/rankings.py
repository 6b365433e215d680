"""Rankings of neurons that need no probe, from the sums of :mod:`pipeline.neurons.sums`.

``RANKINGS`` is the table; adding a ranking is one row::

    RANKINGS["anova_f"].compute(sums)        # (features,), larger is more important

Of two classes the mean difference, F and the correlation are monotone functions of one another and
order the neurons alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.measures import divide
from pipeline.neurons.sums import ROUNDING, Sums
from pipeline.probes import feature_rank

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[Any]


def mean_difference(sums: Sums) -> Array:
    """Largest difference between two groups' means, in standard deviations."""
    deviation = np.sqrt(sums.scatter / max(sums.num_rows, 1.0))
    return divide(np.ptp(sums.group_means, axis=0), deviation)


def probeless(sums: Sums) -> Array:
    """Sum over the pairs of groups of the absolute difference of their means.

    Antverg & Belinkov 2022, "On the pitfalls of analyzing individual neurons in language models".
    In the activations' own units, as published.
    """
    # Of sorted means, the i-th is the larger one in i pairs and the smaller one in the others.
    means = np.sort(sums.group_means, axis=0)
    times = 2 * np.arange(len(means)) - len(means) + 1
    return np.asarray(np.where(sums.scatter > 0, times @ means, 0.0))


def anova_f(sums: Sums) -> Array:
    """F of the one-way analysis of variance (classes), or of the regression on the value.

    It is at most what a residual of 1e-6 of the variance gives: less is rounding noise.
    """
    total = sums.scatter
    if sums.products.size:
        explained, freedom = np.square(_pearson(sums)) * total, 1
    else:
        present = sums.counts[sums.counts > 0]
        explained = present @ np.square(sums.group_means - sums.mean)
        freedom = len(present) - 1
    rest = np.maximum(total - explained, ROUNDING * total)
    scale = (sums.num_rows - freedom - 1) / max(freedom, 1)
    return divide(np.where(total > 0, explained, 0.0) * max(scale, 0.0), rest)


def correlation(sums: Sums) -> Array:
    """|Pearson| with the value; for classes the largest with one class against the rest."""
    if sums.products.size:
        return np.abs(_pearson(sums))
    n, inside = sums.num_rows, sums.counts[:, None]
    covariance = sums.sums - inside * sums.mean
    spread = sums.scatter * (inside * (n - inside) / max(n, 1.0))
    return np.asarray(divide(np.abs(covariance), np.sqrt(spread)).max(axis=0))


def _pearson(sums: Sums) -> Array:
    n = max(sums.num_rows, 1.0)
    covariance = sums.products - sums.mean * sums.value_sum
    spread = sums.value_square - sums.value_sum**2 / n
    scale = np.sqrt(sums.scatter * max(spread, 0.0))
    return np.asarray(np.clip(divide(covariance, scale), -1, 1))


def mutual_information(sums: Sums) -> Array:
    """Mutual information, in nats, of the group and the activation's bin."""
    joint = sums.bins / max(sums.num_rows, 1.0)
    apart = joint.sum(axis=0, keepdims=True) * joint.sum(axis=1, keepdims=True)
    ratio = np.divide(joint, apart, out=np.ones_like(joint), where=joint > 0)
    return np.asarray(np.maximum((joint * np.log(ratio)).sum(axis=(0, 1)), 0.0))


@dataclass(frozen=True)
class Ranking:
    """A way to value neurons; more is more important.

    Attributes:
        compute: values ``(features,)`` from the sums; None for weights of a fitted probe.
        squared: whether a neuron's share of a layer is one of the squared values.
        label: a short name for tables.
    """

    compute: Callable[[Sums], Array] | None
    squared: bool
    label: str


RANKINGS: dict[str, Ranking] = {
    "l2": Ranking(None, squared=True, label="L2"),
    "l1": Ranking(None, squared=True, label="L1"),
    "mean_difference": Ranking(mean_difference, squared=True, label="mean diff"),
    "probeless": Ranking(probeless, squared=True, label="Probeless"),
    "anova_f": Ranking(anova_f, squared=False, label="F"),
    "correlation": Ranking(correlation, squared=True, label="corr"),
    "mutual_information": Ranking(mutual_information, squared=False, label="MI"),
}


def streamed_values(sums: Sums) -> dict[str, Array]:
    """The values ``(features,)`` float64 of every ranking that needs no probe."""
    return {
        name: ranking.compute(sums)
        for name, ranking in RANKINGS.items()
        if ranking.compute is not None
    }


def ranking_table(
    values: Mapping[str, Array], *, task: str, layer: int, poolings: Sequence[str]
) -> pa.Table:
    """The long table of one task and layer.

    Args:
        values: ranking -> ``(poolings * neurons,)``.
        task: the task's name.
        layer: the layer's index.
        poolings: names in storage order.

    Returns:
        A row per (ranking, pooling, neuron): ``task``, ``layer``, ``pooling``, ``neuron``,
        ``ranking``, ``value`` float64, ``rank`` in the layer (0 is first) and ``share`` of the
        layer's total.
    """
    tables = []
    for name, column in values.items():
        num_neurons = len(column) // len(poolings)
        weight = np.square(column) if RANKINGS[name].squared else column
        tables.append(
            pa.table(
                {
                    "task": _constant(task, len(column)),
                    "layer": np.full(len(column), layer, dtype=np.int16),
                    "pooling": pa.DictionaryArray.from_arrays(
                        np.repeat(np.arange(len(poolings), dtype=np.int8), num_neurons),
                        pa.array(poolings, pa.string()),
                    ),
                    "neuron": np.tile(np.arange(num_neurons, dtype=np.int32), len(poolings)),
                    "ranking": _constant(name, len(column)),
                    "value": column.astype(np.float64),
                    "rank": feature_rank(column),
                    "share": weight / max(weight.sum(), np.finfo(float).tiny),
                }
            )
        )
    return pa.concat_tables(tables).unify_dictionaries()


def _constant(name: str, size: int) -> Any:
    return pa.DictionaryArray.from_arrays(np.zeros(size, np.int8), pa.array([name], pa.string()))


def to_xarray(table: pa.Table) -> xr.Dataset:
    """A task's ranking table as arrays.

    Returns:
        ``value``, ``rank`` (float: NaN where a ranking lacks a layer) and ``share``, each
        ``(layer, pooling, neuron, ranking)``.
    """
    import xarray as xr  # late: half a second that only this function needs

    axes = ("layer", "pooling", "neuron", "ranking")
    frame = table.select([*axes, "value", "rank", "share"]).to_pandas()
    frame[["pooling", "ranking"]] = frame[["pooling", "ranking"]].astype(str)
    order = {axis: list(dict.fromkeys(frame[axis])) for axis in axes}
    dataset = xr.Dataset.from_dataframe(frame.set_index(list(axes)))
    return dataset.reindex(order).assign_attrs(task=str(table["task"][0]))
