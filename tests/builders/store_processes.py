"""What the store's tests run in processes of their own: appenders and writers.

The activations of a sample depend on its id only, so whoever computes them gets the same numbers.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from store import ActivationStore, AppendPlan, StoreError, StoreSchema
from store.commits.plans import active_plan_id

SCHEMA = StoreSchema(
    num_layers=2, neuron_size=6, hidden_size=3, samples_per_shard=16, fingerprint="f"
)


def make_samples(numbers: range, *, repeats: int = 0) -> pa.Table:
    """Samples `id<n>`; the first `repeats` texts come a second time under other ids."""
    ids = [f"id{i}" for i in numbers] + [f"copy{i}" for i in numbers[:repeats]]
    texts = [f"text {i}" for i in numbers] + [f"text {i}" for i in numbers[:repeats]]
    return pa.table({"id": ids, "text": texts})


def values_of(schema: StoreSchema, ids: list[str]) -> dict[str, np.ndarray]:
    """Activations (layer, pooling, unit, sample) that depend on the ids only."""
    seeds = np.array([int(name.removeprefix("id")) % 1000 for name in ids], np.float32)
    arrays = {}
    for name, layout in schema.arrays.items():
        shape = (len(layout.layers), layout.num_poolings, layout.width, 1)
        base = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        arrays[name] = np.broadcast_to(base, (*shape[:3], len(ids))) / 8 + seeds
    return arrays


def write_one(store: ActivationStore, plan: AppendPlan, index: int) -> None:
    """Compute and stage one of the plan's pending blocks."""
    block = plan.blocks[index]
    ids = plan.samples(block)["id"].to_pylist()
    tokens = np.array([int(name.removeprefix("id")) % 7 for name in ids], np.int32)
    store.write_block(
        plan, block, values_of(store.schema, ids), n_tokens=tokens, truncated=tokens == 0
    )


def append_all(root: Path, batches: list[pa.Table], acknowledged: Path | None = None) -> None:
    """Append batch after batch in one process."""
    store = ActivationStore.open(root)
    for batch in batches:
        plan = store.plan_append(batch)
        for index in range(len(plan.blocks)):
            write_one(store, plan, index)
            if index % 2:
                acknowledge(acknowledged, store.commit(), store.num_samples)
        acknowledge(acknowledged, store.commit(), store.num_samples)


def drive(root: Path, batches: list[pa.Table], acknowledged: Path) -> None:
    """Plan and commit; other processes write the blocks."""
    store = ActivationStore.open(root)
    for batch in batches:
        plan = store.plan_append(batch)
        while not all(plan.is_finished(block) for block in plan.all_blocks):
            time.sleep(0.002)
            if random.random() < 0.2:
                acknowledge(acknowledged, store.commit(), store.num_samples)
        acknowledge(acknowledged, store.commit(), store.num_samples)


def work(root: Path, share: int, workers: int, seed: int) -> None:
    """Write this worker's share of the blocks of whatever plan is active, for ever."""
    rng = random.Random(seed)
    while True:
        time.sleep(0.002)
        plan_id = active_plan_id(root)
        if plan_id is None:
            continue
        try:
            store = ActivationStore.open(root)
            plan = store.open_plan(plan_id)
            mine = [i for i, block in enumerate(plan.blocks) if block.slot % workers == share]
            if mine:
                write_one(store, plan, rng.choice(mine))
        except StoreError:
            continue  # the plan was finished under our feet


def acknowledge(path: Path | None, snapshot_id: str, num_samples: int) -> None:
    """Note a commit that has been confirmed to its caller."""
    if path is not None:
        with path.open("a") as file:
            file.write(f"{snapshot_id} {num_samples}\n")


def append_forever_until(root: Path, numbers: range, barrier: Path) -> None:
    """Wait for a signal file, then append some samples at the same time as others do."""
    batch = make_samples(numbers)
    while not barrier.exists():
        time.sleep(0.001)
    append_all(root, [batch.slice(start, 10) for start in range(0, len(batch), 10)])
