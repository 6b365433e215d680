"""Reads the salient slices of a task from the store, and counts what that takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.cluster import free_memory
from pipeline.config import HeadConfig, RunConfig
from pipeline.errors import HeadError
from pipeline.heads.modes import Mode
from pipeline.heads.salient import SalientLayer, features_read
from pipeline.probes import Probe, feature_importance, importance_shares, load_probe
from pipeline.runfolder import RunFolder
from pipeline.texts import Rows, Target
from store import ActivationStore
from store.tables import read_table

Array = NDArray[Any]
SIZES = {"share": "eta", "top_k": "top_k", "budget": "budget"}
"""Rule of selection -> key of its sizes."""


@dataclass(frozen=True)
class Reading:
    """What consolidation reads of the store.

    Attributes:
        bytes_read: payload bytes that were read.
        slice_bytes: size of the salient slices ``ffn[layer, pooling, neuron, :]`` that any
            candidate needs, over all samples of the store.
        row_bytes: what of them belongs to the task's training and validation rows. A slice lies on
            disk sample by sample, and is read and checked whole in every shard that has such a row.
    """

    bytes_read: int
    slice_bytes: int
    row_bytes: int

    @property
    def ratio(self) -> float:
        """Bytes read to bytes of the slices; below 1 where shards have no row of the task."""
        return self.bytes_read / max(self.slice_bytes, 1)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"ratio": self.ratio}


def deepest_layer(num_layers: int, max_depth: float) -> int:
    """Index of the deepest layer that a head may use: not beyond the share, but at least 0."""
    return max(1, int(num_layers * max_depth + 1e-9)) - 1


def sweep_bytes(num_features: int, num_rows: int, head: HeadConfig) -> int:
    """Memory of the slices and of the largest fit: a matrix for each model, and a Gram."""
    copies = 2 + Mode.of(head).num_judge_folds
    widest = min(num_features, head.max_features)
    return 4 * (num_rows * (num_features + copies * widest) + 3 * min(widest, num_rows) ** 2)


def read_slices(
    config: RunConfig, store: ActivationStore, target: Target, train: Rows, val: Rows
) -> tuple[list[SalientLayer], Reading]:
    """The salient slices of the layers that heads may use; nothing else of the layers is read.

    Raises:
        HeadError: they do not fit into memory, or the ranking is not there.
    """
    folder, head, name = RunFolder(Path(config.run_dir)), config.head, target.task.name
    num_layers = deepest_layer(store.schema.num_layers, head.max_depth) + 1
    mode = Mode.of(head)
    probes = [mode.probe(load_probe(folder, name, layer)) for layer in range(num_layers)]
    shares = [importance_shares(feature_importance(probe.weights)) for probe in probes]
    fold_shares = [
        tuple(
            importance_shares(feature_importance(weights))
            for weights in probe.fold_weights[: mode.num_judge_folds]
        )
        for probe in probes
    ]
    if head.ranking != "weight":
        shares = ranked_shares(folder, name, head.ranking, probes, store.schema.poolings)
        fold_shares = [(own,) * len(folds) for own, folds in zip(shares, fold_shares, strict=True)]
    read = features_read(shares, fold_shares, head)
    rows = np.concatenate([train.positions, val.positions])
    need, free = sweep_bytes(sum(map(len, read)), len(rows), head), free_memory()
    if need > free:
        raise HeadError(
            f"task {name!r}: the salient slices of {num_layers} layers and the fits on them take"
            f" {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; lower head.{SIZES[head.select]}"
            " or head.max_depth"
        )
    store.reset_bytes_read()
    layers = []
    for layer, (probe, features) in enumerate(zip(probes, read, strict=True)):
        values = store.read_features(layer=layer, features=features, samples=rows)
        raw = np.ascontiguousarray(values)
        standardise = probe.standardiser.take(features)
        layers.append(
            SalientLayer(
                layer,
                probe,
                features,
                standardise.apply(raw[: len(train)]),
                raw[len(train) :].copy(),
                shares[layer],
                fold_shares[layer],
            )
        )
    size = sum(map(len, read)) * store.schema.itemsize
    reading = Reading(store.bytes_read, size * store.num_samples, size * len(np.unique(rows)))
    return layers, reading


def ranked_shares(
    folder: RunFolder, task: str, ranking: str, probes: Sequence[Probe], poolings: Sequence[str]
) -> list[Array]:
    """Each feature's share of its layer's importance, by a ranking of ``salient rank``.

    Args:
        folder: the run's.
        task: the task's name.
        ranking: its name in the table.
        probes: of layers 0, 1, …
        poolings: names in storage order.

    Raises:
        HeadError: no rankings there, none of that name, or of other layers.
    """
    path = folder.ranking("rankings", task)
    if not path.is_file():
        raise HeadError(
            f"{path}: no rankings of task {task!r}, but head.ranking = {ranking!r}; run"
            " `salient rank` first, or use head.ranking = 'weight'"
        )
    table = read_table(path)
    names = table["ranking"].cast(pa.string())
    known = sorted(set(names.unique().to_pylist()))
    if ranking not in known:
        raise HeadError(
            f"head.ranking {ranking!r} is not in {path}; it has {', '.join(known)}; choose one of"
            " them or 'weight'"
        )
    table = table.filter(pc.equal(names, ranking))
    found = []
    for layer, probe in enumerate(probes):
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
