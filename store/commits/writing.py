"""Writing one block: validate, checksum, and stage its shards; the manifest comes last."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from store import disk
from store.commits.planning import AppendPlan
from store.errors import StoreError
from store.layout import (
    ArrayLayout,
    Block,
    LayerKey,
    LayerSummary,
    StoreSchema,
    all_finite,
    encode_manifest,
    prove_finite,
    row_crcs,
    row_moments,
    shard_bytes,
)

AnyArray = npt.NDArray[np.generic]
NUM_THREADS = 3  # shards in work at once: one waits for the disk, others are checksummed
# (array name, layer, slot) -> the samples (rows, count) already committed in that slot
ReadPrefix = Callable[[str, int, int], AnyArray]


class LayerArrays(Protocol):
    """What is written of an array: a numpy array `(layer, pooling, unit, sample)`, or what makes
    one layer of it when asked (by several threads at a time)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As of the array."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """As of the array."""

    def __getitem__(self, layer: int, /) -> AnyArray:
        """One layer."""


def write_block(
    plan: AppendPlan,
    block: Block,
    schema: StoreSchema,
    activations: Mapping[str, LayerArrays],
    *,
    n_tokens: AnyArray | None,
    truncated: AnyArray | None,
    read_prefix: ReadPrefix,
) -> None:
    """Stage one block durably; see `ActivationStore.write_block`.

    A few threads convert, checksum and write one shard each.
    """
    layers = plan.record.layers
    _check_block(plan, block)
    _check_arrays(schema, layers, activations, block)
    extra = _sample_results(plan, block, n_tokens, truncated)
    plan.check_space(_block_bytes(schema, layers))
    name = uuid.uuid4().hex[:8]
    attempt = plan.attempt(block, name)
    count = plan.count(block)
    buffers: list[AnyArray] = []  # shard-sized memory that a finished shard lends to a later one

    def stage(shard_of: tuple[ArrayLayout, int, int]) -> tuple[LayerKey, LayerSummary]:
        layout, index, layer = shard_of
        values = activations[layout.name][index].reshape(layout.rows, len(block))
        borrowed = len(block) == schema.samples_per_shard and _is_stored_form(values, schema)
        if borrowed:
            shard = values
        else:
            spare = buffers.pop() if buffers else None
            shard = _assemble(schema, layout, layer, block, values, read_prefix, spare)
        writing = writers.submit(attempt.write, layout, layer, shard)
        if borrowed:
            # All samples are new; the moments nearly always prove them finite without a pass.
            with np.errstate(over="ignore", invalid="ignore"):
                moments = row_moments(shard)
            if not prove_finite(moments):
                _refuse_unstorable(layout, layer, shard, values)
            summary = LayerSummary(row_crcs(shard), moments)
        else:
            summary = summarise(shard[:, :count])
        writing.result()
        if not borrowed:
            buffers.append(shard)
        return (layout.name, layer), summary

    try:
        with (
            ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="shard-writer") as writers,
            ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="shard") as pool,
        ):
            summaries = dict(pool.map(stage, _shards(schema, layers)))
        attempt.settle()
    except BaseException:  # leave no useless gigabytes, least of all on a full disk
        attempt.abandon()
        raise
    attempt.finish(encode_manifest(count, summaries, extra, attempt=name))


def summarise(committed: AnyArray) -> LayerSummary:
    """Checksums of the committed samples `(rows, count)`, moments of those not compacted away."""
    living = ~np.isnan(committed[0])
    values = committed if living.all() else np.ascontiguousarray(committed[:, living])
    return LayerSummary(row_crcs(committed), row_moments(values))


def _shards(
    schema: StoreSchema, layers: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[ArrayLayout, int, int]]:
    for name, wanted in layers.items():
        for index, layer in enumerate(wanted):
            yield schema.array(name), index, layer


def _assemble(
    schema: StoreSchema,
    layout: ArrayLayout,
    layer: int,
    block: Block,
    values: AnyArray,
    read_prefix: ReadPrefix,
    spare: AnyArray | None,
) -> AnyArray:
    """The whole shard `(rows, S)`: committed prefix, new samples, NaN padding."""
    shape = (layout.rows, schema.samples_per_shard)
    if spare is not None and spare.shape == shape:
        shard = spare
    else:
        shard = disk.page_aligned(shape, schema.dtype)
    first = block.start - block.slot * schema.samples_per_shard
    last = first + len(block)
    with np.errstate(over="ignore", invalid="ignore"):
        shard[:, first:last] = values
    _refuse_unstorable(layout, layer, shard[:, first:last], values)
    if first:
        shard[:, :first] = read_prefix(layout.name, layer, block.slot)
    shard[:, last:] = np.nan
    return shard


def _is_stored_form(values: AnyArray, schema: StoreSchema) -> bool:
    return values.dtype == schema.dtype and values.flags.c_contiguous


def _refuse_unstorable(layout: ArrayLayout, layer: int, stored: AnyArray, given: AnyArray) -> None:
    if all_finite(stored):
        return
    where = f"array {layout.name!r}, layer {layer}"
    wrong = int(np.count_nonzero(~np.isfinite(given)))
    if wrong:
        raise StoreError(
            f"{where}: {wrong} values are NaN or infinite; NaN marks missing samples in the "
            "store, so look for the cause in the extraction"
        )
    beyond = int(np.count_nonzero(~np.isfinite(stored)))
    raise StoreError(
        f"{where}: {beyond} values exceed float16's largest, 65504; create the store with "
        'dtype="float32"'
    )


def _check_block(plan: AppendPlan, block: Block) -> None:
    if block not in plan.all_blocks:
        raise StoreError(f"{block} is not one of plan {plan.id}'s blocks; take them from the plan")
    if not plan.is_under_way():
        raise StoreError(
            f"plan {plan.id} was committed in full or superseded by another append; run the append "
            "again for what is still missing"
        )


def _check_arrays(
    schema: StoreSchema,
    layers: Mapping[str, tuple[int, ...]],
    activations: Mapping[str, LayerArrays],
    block: Block,
) -> None:
    if set(activations) != set(layers):
        raise StoreError(
            f"write_block got the arrays {sorted(activations)}; this plan needs {sorted(layers)}"
        )
    for name, wanted in layers.items():
        layout = schema.array(name)
        shape = (len(wanted), layout.num_poolings, layout.width, len(block))
        array = activations[name]
        if array.shape != shape or array.dtype.kind != "f":
            raise StoreError(
                f"array {name!r} is {array.dtype} {array.shape}; needed is floating point {shape} "
                "(layer, pooling, unit, sample)"
            )


def _sample_results(
    plan: AppendPlan, block: Block, n_tokens: AnyArray | None, truncated: AnyArray | None
) -> dict[str, AnyArray]:
    if plan.record.kind != "append":
        return {}
    results: dict[str, AnyArray] = {}
    for name, values, dtype in (
        ("n_tokens", n_tokens, np.int32),
        ("truncated", truncated, np.bool_),
    ):
        array = np.zeros(len(block), dtype) if values is None else np.asarray(values, dtype)
        if array.shape != (len(block),):
            raise StoreError(f"{name} has the shape {array.shape}; needed is ({len(block)},)")
        results[name] = array
    return results


def _block_bytes(schema: StoreSchema, layers: Mapping[str, tuple[int, ...]]) -> int:
    """Bytes of the shards of one block."""
    row_bytes = schema.samples_per_shard * schema.itemsize
    return sum(
        len(wanted) * shard_bytes(schema.array(name).rows, row_bytes)
        for name, wanted in layers.items()
    )
