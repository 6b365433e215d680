"""The ranks of neurons in each task: by the probes' importance, and by what `salient rank` wrote.

    tables = RankTables.read(RunFolder(run), store.schema)
    tables.rank("mood", 3, 417)             # layer, feature index
    tables.first("mood", 20)                # the most important features of all layers
    read_ablations(RunFolder(run).ablation) # what `salient ablate` wrote

Features are pooling-major, ``pooling * neurons + neuron``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.config import Ablations, checked, read_columns
from pipeline.errors import ConfigError, HeadError, ProbeError, again
from pipeline.probes import importance_shares, read_importance
from pipeline.runfolder import RunFolder
from store.layout import StoreSchema
from store.tables import read_json

Array = NDArray[Any]
ABLATIONS_VERSION = 1
ABLATE_AGAIN = again("ablate")
RANK_AGAIN = again("rank")
MOST_RANKINGS = 100
PROBE_RANKINGS = ("l2", "l1")
"""Rankings by the probes' own weights, which the importance tables have too."""


@dataclass(frozen=True)
class Rank:
    """A neuron's place in its layer by one task's importance.

    Attributes:
        task: the task's name.
        rank: 1 is the most important feature of the layer.
        num_features: features of the layer.
        share: of the layer's squared importance.
        salient: whether the chosen head reads it; None without a head.
        others: ranking -> the rank by it, where `salient rank` has made those.
    """

    task: str
    rank: int
    num_features: int
    share: float
    others: Mapping[str, int]
    salient: bool | None = None


@dataclass(frozen=True)
class RankTables:
    """The tables of a run.

    Attributes:
        importance: task -> ``(layers, features)`` float64.
        others: task -> ranking -> ``(layers, features)`` int32 ranks from 1, 0 where there is none.
    """

    importance: Mapping[str, Array]
    others: Mapping[str, Mapping[str, Array]]

    @classmethod
    def read(cls, folder: RunFolder, schema: StoreSchema) -> RankTables:
        """Read what a run has.

        Raises:
            ConfigError: it was made from another store.
        """
        importance, others = {}, {}
        for path in sorted(folder.path.glob("importance/*.parquet")):
            cube, poolings = importance_cube(read_importance(folder, path.stem))
            if poolings != schema.poolings or cube.shape[2] != schema.neuron_size:
                raise ConfigError(
                    f"{folder.path}: a run on {cube.shape[2]} neurons in {', '.join(poolings)};"
                    f" the store has {schema.neuron_size} in {', '.join(schema.poolings)}; name"
                    " the run that was made from this store"
                )
            importance[path.stem] = cube.reshape(len(cube), -1)
            rankings = folder.ranking("rankings", path.stem)
            if rankings.is_file():
                others[path.stem] = rank_cubes(read_rankings(rankings), schema, rankings)
        return cls(importance, others)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks with an importance table."""
        return tuple(self.importance)

    def rank(self, task: str, layer: int, feature: int) -> Rank:
        """A feature's place in its layer."""
        row = self.importance[task][layer]
        return Rank(
            task,
            1 + int((row > row[feature]).sum()),
            len(row),
            float(importance_shares(row)[feature]),
            {name: int(r[layer, feature]) for name, r in self.others.get(task, {}).items()},
        )

    def first(self, task: str, count: int) -> Iterator[tuple[int, int, float]]:
        """Layer, feature and share of the layer's squared importance, largest shares first."""
        share = np.stack([importance_shares(layer) for layer in self.importance[task]])
        for place in np.argsort(-share, axis=None, kind="stable")[:count]:
            layer, feature = divmod(int(place), share.shape[1])
            yield layer, feature, float(share[layer, feature])


def read_rankings(path: Path) -> pa.Table:
    """A table of `salient rank`.

    Raises:
        ProbeError, StoreError: none there, or a damaged one.
    """
    columns = {"layer": "whole", "pooling": "text", "neuron": "whole", "ranking": "text"}
    columns |= {"rank": "whole", "share": "number"}
    return read_columns(path, columns, remedy=RANK_AGAIN, error=ProbeError)


def read_overlaps(path: Path) -> pa.Table:
    """A table of how far rankings agree, by `salient rank`.

    Raises:
        ProbeError, StoreError: none there, or a damaged one.
    """
    columns = {"layer": "whole", "ranking": "text", "other": "text", "top": "whole"}
    columns |= {"jaccard": "number", "expected": "number"}
    table = read_columns(path, columns, remedy=RANK_AGAIN, error=ProbeError)
    names = {*table["ranking"].unique().to_pylist(), *table["other"].unique().to_pylist()}
    if len(names) > MOST_RANKINGS:
        raise ProbeError(f"{path}: names {len(names)} rankings; {RANK_AGAIN}")
    return table


def rank_cubes(
    table: pa.Table, schema: StoreSchema, path: Path = Path("rankings")
) -> dict[str, Array]:
    """Ranking -> ``(layers, features)`` int32 ranks from 1, 0 where there is none.

    Args:
        table: of `salient rank`; the rankings by the probes' own weights are left out.
        schema: of the store that it ranks.
        path: where it was read, for the error.

    Raises:
        ProbeError: it ranks another store.
    """
    poolings = pa.array(schema.poolings, pa.string())
    pooling = pc.index_in(table["pooling"].cast(pa.string()), value_set=poolings).to_numpy()
    feature = pooling * schema.neuron_size + table["neuron"].to_numpy()
    layer, rank = table["layer"].to_numpy(), table["rank"].to_numpy()
    sizes = (schema.num_layers, schema.array("ffn").rows)
    for what, values, size in (("layer", layer, sizes[0]), ("feature", feature, sizes[1])):
        if (
            not np.isfinite(values).all()
            or values.min(initial=0) < 0
            or values.max(initial=0) >= size
        ):
            raise ProbeError(f"{path}: a {what} is none of the store's {size}; {RANK_AGAIN}")
    ranking = np.asarray(table["ranking"].cast(pa.string()).to_pylist())
    found = {}
    for name in dict.fromkeys(ranking.tolist()):
        if name in PROBE_RANKINGS:
            continue
        rows = ranking == name
        found[name] = np.zeros(sizes, np.int32)
        found[name][layer[rows], feature[rows]] = rank[rows] + 1
    return found


def importance_cube(table: pa.Table) -> tuple[Array, tuple[str, ...]]:
    """An importance table as ``(layers, poolings, neurons)`` float64, and the poolings' names."""
    poolings = tuple(dict.fromkeys(table["pooling"].to_pylist()))
    layer, neuron = table["layer"].to_numpy(), table["neuron"].to_numpy()
    at = {name: i for i, name in enumerate(poolings)}
    pooling = np.array([at[name] for name in table["pooling"].to_pylist()])
    cube = np.zeros((int(layer.max()) + 1, len(poolings), int(neuron.max()) + 1))
    cube[layer, pooling, neuron] = table["importance"].to_numpy()
    return cube, poolings


def read_ablations(path: Path) -> dict[str, Any]:
    """Task -> report of ``ablation.json``; nothing of another format.

    Raises:
        HeadError, StoreError: a damaged file.
    """
    found = read_json(path, remedy=ABLATE_AGAIN)
    if found.get("format_version") != ABLATIONS_VERSION:
        return {}
    checked(Ablations, found, where=path, remedy=ABLATE_AGAIN, error=HeadError)
    return dict(found["tasks"])
