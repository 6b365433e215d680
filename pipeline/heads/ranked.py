"""Shares of importance by another ranking than the probes' weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.config import read_columns
from pipeline.errors import HeadError, HeadInputError
from pipeline.probes import Probe
from pipeline.runfolder import RunFolder

Array = NDArray[Any]


def ranked_shares(
    folder: RunFolder,
    task: str,
    ranking: str,
    probes: Mapping[int, Probe],
    poolings: Sequence[str],
) -> list[Array]:
    """Each feature's share of its layer's importance, by a ranking of ``salient rank``.

    Args:
        folder: the run's.
        task: the task's name.
        ranking: its name in the table.
        probes: layer -> its probe, ascending.
        poolings: names in storage order.

    Raises:
        HeadError: no rankings there, none of that name, or of other layers.
    """
    path = folder.ranking("rankings", task)
    if not path.is_file():
        raise HeadInputError(
            f"{path}: no rankings of task {task!r}, but head.ranking = {ranking!r}; run"
            " `salient rank` first, or use head.ranking = 'weight'"
        )
    columns = {"layer": "whole", "pooling": "text", "neuron": "whole", "ranking": "text"}
    remedy = "delete it and run `salient rank` again"
    table = read_columns(path, columns | {"share": "number"}, remedy=remedy, error=HeadError)
    names = table["ranking"].cast(pa.string())
    known = sorted(set(names.unique().to_pylist()))
    if ranking not in known:
        raise HeadInputError(
            f"head.ranking {ranking!r} is not in {path}; it has {', '.join(known)}; choose one of"
            " them or 'weight'"
        )
    table = table.filter(pc.equal(names, ranking))
    found = []
    for layer, probe in probes.items():
        own = table.filter(pc.equal(table["layer"], layer))
        num_features = probe.weights.shape[1]
        width = num_features // len(poolings)
        place = pc.index_in(own["pooling"].cast(pa.string()), value_set=pa.array(list(poolings)))
        index = place.to_numpy() * width + own["neuron"].to_numpy()
        if len(own) != num_features or not np.array_equal(np.sort(index), np.arange(num_features)):
            raise HeadError(
                f"{path}: layer {layer} has {len(own)} features, the probes {num_features}; run"
                " `salient rank` again"
            )
        shares = np.empty(num_features)
        shares[index] = own["share"].to_numpy()
        found.append(shares)
    return found
