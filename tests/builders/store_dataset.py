"""A small store with deleted texts, times, and labels of two tasks, and what its Dataset shows."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from store import ActivationStore, StoreSchema
from tests.builders.store_processes import values_of

P = TypeVar("P", Path, str)
SCHEMA = StoreSchema(
    num_layers=3,
    neuron_size=5,
    hidden_size=4,
    samples_per_shard=16,
    fingerprint="f00d",
    provenance={"backbone": {"model": "some/model", "revision": "abc"}},
)
DAY = 86_400
DELETED = ("id3", "id20", "id37")


def append(path: Path | str, numbers: range) -> None:
    store = ActivationStore.open(path)
    times = [None if n % 5 == 0 else 1_700_000_000 + n * DAY // 8 for n in numbers]
    samples = pa.table(
        {
            "id": [f"id{n}" for n in numbers],
            "text": [f"text {n} ü" for n in numbers],
            "created_at": pa.array(times, pa.int64()),
        }
    )
    plan = store.plan_append(samples)
    for block in plan.blocks:
        ids = plan.samples(block)["id"].to_pylist()
        tokens = np.array([int(name[2:]) for name in ids], np.int32)
        values = values_of(store.schema, ids)
        store.write_block(plan, block, values, n_tokens=tokens, truncated=tokens % 2 == 1)
    store.commit()


def make(path: P, schema: StoreSchema = SCHEMA) -> P:
    """38 texts in two shards and a part of a third, with labels, three of them deleted."""
    ActivationStore.create(path, schema)
    append(path, range(0, 13))
    append(path, range(13, 38))
    store = ActivationStore.open(path)
    mood = {
        "id": [f"id{n}" for n in range(30)],
        "split": ["train"] * 20 + ["test"] * 10,
        "label": [("joy", "fear", "anger")[n % 3] for n in range(30)],
    }
    store.put_labels("mood", pa.table(mood))
    heat = {"id": ["id1", "id2"], "split": ["train", "train"], "label": [0.25, 4.0]}
    store.put_labels("heat", pa.table(heat))
    store.delete(list(DELETED))
    return path


def make_even(
    path: Path,
    *,
    texts: int,
    size: int = 16,
    value: float = 1,
    times: list[int | None] | None = None,
) -> Path:
    """A store of one layer of two neurons, of which every value is the same."""
    schema = StoreSchema(num_layers=1, neuron_size=2, samples_per_shard=size)
    store = ActivationStore.create(path, schema)
    ids = [f"id{n}" for n in range(texts)]
    created = pa.array(times or [None] * texts, pa.int64())
    plan = store.plan_append(pa.table({"id": ids, "text": ids, "created_at": created}))
    for block in plan.blocks:
        count = len(block)
        store.write_block(
            plan,
            block,
            {"ffn": np.full((1, 2, 2, count), value, np.float32)},
            n_tokens=np.ones(count, np.int32),
            truncated=np.zeros(count, bool),
        )
    store.commit()
    return path


def flip(root: Path, *, slot: int, row: int, sample: int, layer: int = 0) -> None:
    """Damage one value of the FFN's activations."""
    schema = ActivationStore.open(root).schema
    shard = root / schema.arrays["ffn"].shard_path(layer, slot)
    content = bytearray(shard.read_bytes())
    content[schema.itemsize * (row * schema.samples_per_shard + sample)] ^= 1
    shard.write_bytes(content)


LIVING = [n for n in range(38) if f"id{n}" not in DELETED]
FULL = values_of(SCHEMA, [f"id{n}" for n in LIVING])["ffn"].astype(np.float32)
