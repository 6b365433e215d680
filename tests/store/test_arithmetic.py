"""The pure parts of the store: blocks, runs, picks, moments, widening, chunks of strings."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from store.layout.documents import encode_strings
from store.layout.moments import Moments, all_finite, merge_moments, row_moments, widen
from store.layout.slots import merge_runs, pick_slots, plan_blocks


@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 9))
def test_blocks_tile_the_positions(start: int, length: int, size: int) -> None:
    blocks = plan_blocks(start, start + length, samples_per_shard=size)
    covered = [p for block in blocks for p in range(block.start, block.stop)]
    assert covered == list(range(start, start + length))
    for block in blocks:
        assert block.slot * size <= block.start < block.stop <= (block.slot + 1) * size


@given(st.sets(st.integers(0, 60)))
def test_runs_cover_the_rows(rows: set[int]) -> None:
    runs = merge_runs(np.array(sorted(rows), np.int64))
    assert [row for start, stop in runs for row in range(start, stop)] == sorted(rows)
    assert all(a[1] < b[0] for a, b in pairwise(runs))


@given(st.lists(st.integers(0, 39)), st.integers(1, 9))
def test_every_wanted_sample_is_picked_once(samples: list[int], size: int) -> None:
    wanted = np.array(samples, np.int64)
    got = np.full(len(samples), -1)
    slots = []
    for pick in pick_slots(wanted, num_samples=40, samples_per_shard=size):
        got[pick.target] = pick.slot * size + pick.columns
        slots.append(pick.slot)
    assert got.tolist() == samples
    assert slots == sorted(set(slots))


@given(st.lists(st.lists(st.floats(-60000, 60000, width=16), min_size=3, max_size=3), min_size=1))
def test_moments_of_parts_make_the_whole(rows: list[list[float]]) -> None:
    values = np.array(rows, np.float16).T.copy()
    exact = values.astype(np.float64)
    cut = values.shape[1] // 2
    parts = [row_moments(np.ascontiguousarray(v)) for v in (values[:, :cut], values[:, cut:])]
    whole = merge_moments(*parts)
    count, mean, m2 = whole.count, whole.mean, whole.m2
    scale = np.abs(exact).max() + 1e-6
    assert count == values.shape[1]
    np.testing.assert_allclose(mean, exact.mean(1), atol=1e-6 * scale)
    np.testing.assert_allclose(m2, exact.var(1) * count, atol=1e-5 * count * scale**2)
    empty = Moments(0, np.zeros(3), np.zeros(3))
    assert merge_moments(empty, parts[1]) is parts[1]


def test_widening_is_exact_for_every_finite_float16() -> None:
    values = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(256, 256)
    wide = np.empty(values.shape, np.float32)
    widen(values, wide)
    finite = np.isfinite(values)
    np.testing.assert_array_equal(wide[finite], values[finite].astype(np.float32))
    for bad in values[~finite]:
        block = np.zeros((3, 5), np.float16)
        assert all_finite(block)
        block[2, 4] = bad
        assert not all_finite(block)
        assert not all_finite(block.astype(np.float32))


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))), st.integers(0, 3))
def test_strings_are_numcodecs_vlen_chunks(values: list[str], extra: int) -> None:
    from numcodecs import VLenUTF8

    decoded = VLenUTF8().decode(encode_strings(values, len(values) + extra))
    assert decoded.tolist() == values + [""] * extra
