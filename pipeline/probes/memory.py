"""How much memory a layer's fits need, and how many layers fit at a time. Pure but for the look.

A layer task holds its raw values if they fit; else they are read shard by shard on every pass. The
rest (Gram, factor, directions, buffers) it needs in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.cluster import task_memory
from pipeline.config import RunConfig
from pipeline.errors import ProbeError
from pipeline.linear import descent_bytes, ridge_bytes
from pipeline.probes.grouping import Group, group_tasks
from pipeline.progress import Say
from pipeline.texts import Target
from store import ActivationStore

USABLE = 0.8
"""Share of the free memory that is planned with."""
VECTORS_PER_COLUMN = 30
"""Float64 vectors that a column of a lock-step solve keeps: directions, gradients, optima."""
BUFFER_BYTES = 128 * 1024 * 1024
"""Block buffers, small factors and BLAS's own."""


@dataclass(frozen=True)
class LayerNeed:
    """Bytes that fitting one layer takes.

    Attributes:
        raw: the stored values of all training and validation rows.
        rest: all else.
    """

    raw: int
    rest: int


@dataclass(frozen=True)
class MemoryPlan:
    """How layers are spread.

    Attributes:
        at_a_time: layers fitted at the same time.
        raw_bytes: bytes of raw values that each may hold.
        streams: whether that is less than a layer has.
    """

    at_a_time: int
    raw_bytes: int
    streams: bool


def layer_need(
    *,
    num_rows: int,
    num_features: int,
    itemsize: int,
    num_columns: int,
    num_fits: int,
    matrix_bytes: int,
    samples_per_shard: int,
    num_shards: int = 2,
) -> LayerNeed:
    """What one layer takes.

    Args:
        num_rows: training and validation rows together.
        num_features: features of the layer.
        itemsize: bytes of a stored value.
        num_columns: outputs over all targets and folds, solved together.
        num_fits: targets and folds.
        matrix_bytes: of Gram matrices, their factors and the like.
        samples_per_shard: rows that are read at once.
        num_shards: that are in memory at a time.
    """
    columns = VECTORS_PER_COLUMN * 8 * num_columns * (num_features + 1)
    labels = 16 * num_fits * num_rows
    shards = num_shards * itemsize * num_features * samples_per_shard
    return LayerNeed(
        itemsize * num_rows * num_features,
        matrix_bytes + columns + labels + shards + BUFFER_BYTES,
    )


def plan_memory(need: LayerNeed, *, free: int, workers: int) -> MemoryPlan:
    """As many layers at a time as fit, at most ``workers``; one that streams if none fits whole.

    Raises:
        ProbeError: not even a streamed layer fits.
    """
    usable = int(USABLE * free)
    at_a_time = min(workers, usable // (need.raw + need.rest))
    if at_a_time >= 1:
        return MemoryPlan(at_a_time, need.raw, streams=False)
    if need.rest > usable:
        raise ProbeError(
            f"a layer's fits need {need.rest / 1e9:.1f} GB beside its activations, and"
            f" {free / 1e9:.1f} GB of memory are free; use a machine with more memory, or fewer"
            " poolings"
        )
    return MemoryPlan(1, usable - need.rest, streams=True)


def layer_needs(config: RunConfig, store: ActivationStore, targets: Sequence[Target]) -> LayerNeed:
    """What the largest layer task takes: that of the widest layers' largest group."""
    folds = max(1, config.head.num_folds)
    needs = []
    for group in group_tasks(targets):
        sizes = [target.num_classes or 1 for target in group.targets]
        labels = [target.multilabel for target in group.targets]
        columns = sum(
            1 if size == 2 and not several else size
            for size, several in zip(sizes, labels, strict=True)
        )
        fits = sum(size if several else 1 for size, several in zip(sizes, labels, strict=True))
        arrays = store.schema.arrays
        widest = [arrays[name] for name in ("ffn", "experts") if name in arrays]
        num_features = max(layout.rows for layout in widest or arrays.values())
        in_memory = config.probe.solver == "sklearn" or config.probe.penalty != "l2"
        needs.append(
            layer_need(
                num_rows=len(group.positions),
                num_features=num_features,
                # In memory scikit-learn holds float32 and works on a copy, at times float64.
                itemsize=store.schema.itemsize + (16 if in_memory else 0),
                num_columns=columns * folds,
                num_fits=fits * folds,
                matrix_bytes=0 if in_memory else _matrix_bytes(group, num_features, folds),
                samples_per_shard=store.schema.samples_per_shard,
                num_shards=1 + store.reader.lanes(num_features),  # of a bucket some are read ahead
            )
        )
    return max(needs, key=lambda need: need.raw + need.rest)


def _matrix_bytes(group: Group, num_features: int, num_folds: int) -> int:
    """Of the kind of target that takes more; classes leave their Gram to the other."""
    shape = len(group.positions), num_features
    num_values = sum(target.num_classes is None for target in group.targets)
    classes = descent_bytes(*shape) if num_values < len(group.targets) else 0
    values = ridge_bytes(*shape, num_folds, num_values) if num_values else 0
    kept = 4 * min(shape) ** 2 if classes and values else 0
    return max(classes, values + kept)


def plan_layers(
    config: RunConfig,
    store: ActivationStore,
    targets: Sequence[Target],
    num_tasks: int,
    say: Say,
) -> MemoryPlan:
    """How many layers are fitted at a time, and what of each is held in memory."""
    need = layer_needs(config, store, targets)
    slots, free = task_memory(config.cluster, num_tasks)
    plan = plan_memory(need, free=free, workers=slots)
    size = need.raw + need.rest
    if plan.streams:
        say(
            f"probes: a layer's activations and fits take {size / 1e9:.2f} GB, {free / 1e9:.2f} GB"
            " are free: one layer at a time, its shards read again on every pass"
        )
    elif plan.at_a_time < slots:
        say(
            f"probes: a layer takes {size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free:"
            f" {plan.at_a_time} at a time instead of {slots}"
        )
    return plan
