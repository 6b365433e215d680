"""The streamed design: the same rows and moments however they are kept and cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from pipeline.linear import design as module
from pipeline.linear.design import Design, MemoryDesign, StoreDesign
from pipeline.linear.fitted import Standardiser
from store import ActivationStore, StoreSchema
from store.layout import ffn

Array = NDArray[Any]


def gather(design: Design, every: int = 1) -> tuple[Array, Array]:
    """Row numbers and rows ``(n, features)`` of one pass."""
    numbers, rows = [], []
    for where, block in design.blocks(every):
        numbers.append(np.arange(where.start, where.stop, where.step))
        rows.append(block.T.copy())
    return np.concatenate(numbers), np.concatenate(rows)


@settings(max_examples=20)
@given(
    n=st.integers(2, 300),
    features=st.integers(1, 9),
    every=st.integers(1, 7),
    half=st.booleans(),
    seed=st.integers(0, 99),
)
def test_blocks_are_scikit_learns_standardised_rows(
    n: int, features: int, every: int, half: bool, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    xt = (draw.normal(size=(features, n)) * 3 + draw.normal(size=(features, 1)) * 20).astype(
        np.float16 if half else np.float32
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_BYTES", 1)
        patch.setattr(module, "SPAN_ROWS", 128)
        numbers, rows = gather(MemoryDesign(xt), every)
    expected = StandardScaler().fit_transform(xt.T.astype(np.float64))
    np.testing.assert_array_equal(numbers, np.arange(0, n, every))
    np.testing.assert_allclose(rows, expected[::every], atol=5e-4, rtol=1e-4)


def test_moments_are_exact_far_from_zero() -> None:
    draw = np.random.default_rng(0)
    xt = (1000 + draw.integers(-2, 3, size=(3, 20_000))).astype(np.float32)
    fitted = MemoryDesign(xt).standardiser
    np.testing.assert_allclose(fitted.mean, xt.mean(1, dtype=np.float64), rtol=1e-7)
    np.testing.assert_allclose(fitted.scale, xt.std(1, dtype=np.float64), rtol=1e-6)


def test_given_standardiser_clips() -> None:
    one = Standardiser(np.zeros(2, np.float32), np.full(2, 1e-6, np.float32), 5.0)
    _, rows = gather(MemoryDesign(np.ones((2, 4), np.float16), one))
    np.testing.assert_array_equal(rows, 5.0)


@pytest.fixture
def store(tmp_path: Path) -> ActivationStore:
    schema = StoreSchema(num_layers=2, neuron_size=5, samples_per_shard=2048)
    made = ActivationStore.create(tmp_path / "store", schema)
    texts = [f"text {i}" for i in range(5000)]
    plan = made.plan_append(pa.table({"id": [str(i) for i in range(5000)], "text": texts}))
    draw = np.random.default_rng(0)
    for block in plan.blocks:
        shape = (2, 2, 5, block.stop - block.start)
        made.write_block(plan, block, {"ffn": draw.normal(1, 2, shape).astype(np.float16)})
    made.commit()
    return made


@pytest.mark.parametrize("memory_bytes", [None, 0, 50_000])
def test_store_rows_in_any_order_and_memory(
    store: ActivationStore, memory_bytes: int | None
) -> None:
    positions = np.random.default_rng(1).integers(0, 5000, 3000)
    design = StoreDesign(store, ffn(1), positions, memory_bytes=memory_bytes)
    raw = store.read_matrix(layer=1, samples=positions[design.order])
    expected = StandardScaler().fit_transform(raw.astype(np.float64))
    for _ in range(2):
        np.testing.assert_allclose(gather(design)[1], expected, atol=1e-3)
    np.testing.assert_allclose(gather(design, 5)[1], expected[::5], atol=1e-3)
