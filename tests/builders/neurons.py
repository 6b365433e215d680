"""A small store whose every number is known, for tests of what is said of neurons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from store import ActivationStore, StoreSchema

NASTY = "<script>document.title = 'broken'</script> & <b>bold</b>"


def write_store(
    path: Path, *, num_samples: int = 150, seed: int = 0, store_text: bool = True
) -> np.ndarray:
    """A store of two layers with random activations; returns them (layer, pooling, unit, n)."""
    schema = StoreSchema(num_layers=2, neuron_size=5, samples_per_shard=64, store_text=store_text)
    store = ActivationStore.create(path, schema)
    draw = np.random.default_rng(seed)
    data = draw.normal(size=(2, 2, 5, num_samples)).astype(np.float16)
    data[1, 0, 3] = -data[0, 1, 2] + 0.1 * draw.normal(size=num_samples)
    texts = [NASTY if i == 7 else f"text number {i}" for i in range(num_samples)]
    ids = [f"id{i}" for i in range(num_samples)]
    plan = store.plan_append(pa.table({"id": ids, "text": texts}))
    for block in plan.blocks:
        part = data[..., block.start : block.stop]
        counts = np.ones(len(block), np.int32)
        store.write_block(plan, block, {"ffn": part}, n_tokens=counts, truncated=counts == 0)
    store.commit()
    splits = ["train", "val", "test"]
    mood = {
        "id": ids,
        "split": [splits[i % 3] for i in range(num_samples)],
        "label": [f"<i>{'ab'[i % 2]}</i>" for i in range(num_samples)],
    }
    spec = {"classes": ["<i>a</i>", "<i>b</i>"]}
    store.put_labels("mood", pa.table(mood), spec=spec)
    store.put_labels("level", pa.table({**mood, "label": data[0, 0, 0].astype(np.float64)}))
    return data
