"""Gram matrices that are kept: extended by what is new, put together from parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.linear.design import StoreDesign
from pipeline.linear.gram import design_gram
from pipeline.probes.keptgrams import layer_gram, part_path, write_part
from store import ActivationStore, StoreSchema
from store.layout import ffn


def write_store(path: Path, x: Any) -> ActivationStore:
    width = x.shape[1] // 2
    store = ActivationStore.create(
        path, StoreSchema(num_layers=1, neuron_size=width, samples_per_shard=64)
    )
    append(store, x)
    return ActivationStore.open(path)


def append(store: ActivationStore, x: Any) -> None:
    ids = [str(i) for i in range(len(x))]
    plan = store.plan_append(pa.table({"id": ids, "text": ids}))
    for block in plan.blocks:
        values = np.ascontiguousarray(x[block.start : block.stop].T)
        store.write_block(plan, block, {"ffn": values.reshape(1, 2, -1, len(block))})
    store.commit()


def test_the_gram_is_kept_extended_and_put_together_from_parts(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    x = (draw.normal(size=(300, 6)) * 3 + 10).astype(np.float32)
    store = write_store(tmp_path / "store", x[:200])

    def check(path: Path, store: ActivationStore, rows: Any, rtol: float) -> None:
        design = StoreDesign(store, ffn(0), rows)
        found = layer_gram(path, store, ffn(0), rows, design)
        np.testing.assert_allclose(found, design_gram(design), rtol=0, atol=rtol * len(rows))

    path = tmp_path / "gram.safetensors"
    few = np.arange(20)
    check(path, store, few, 1e-5)
    before = path.stat().st_mtime_ns
    check(path, store, few, 1e-5)
    assert path.stat().st_mtime_ns == before
    append(ActivationStore.open(tmp_path / "store"), x)
    store = ActivationStore.open(tmp_path / "store")
    more = np.concatenate([few, np.arange(220, 250)])
    check(path, store, more, 1e-4)
    assert path.stat().st_mtime_ns != before
    # Of many rows a sample serves.
    check(path, store, np.arange(300), 0.5)
    shares = tmp_path / "shares.safetensors"
    for part in range(3):
        write_part(shares, store, ffn(0), more, part, 3)
    assert part_path(shares, 2).is_file()
    check(shares, store, more, 0.1)
    assert [p.name for p in tmp_path.glob("shares*")] == ["shares.safetensors"]
