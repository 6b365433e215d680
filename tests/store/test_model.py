"""Random appends, deletions, compactions and reads against a model in memory."""

from __future__ import annotations

import shutil
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from store import ActivationStore, StoreSchema, text_hash
from store.layout.documents import encode_strings
from store.layout.moments import Moments, all_finite, merge_moments, row_moments, widen
from store.layout.slots import merge_runs, pick_slots, plan_blocks
from store.upkeep.compaction import compact
from store.upkeep.garbage import gc
from store.upkeep.inspection import verify

NUMBERS = st.integers(0, 25)


class StoreModel(RuleBasedStateMachine):
    """A store beside a list of rows; texts are numbered, ids are `<text>` or `<text>/<alias>`."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())

    def teardown(self) -> None:
        shutil.rmtree(self.directory)

    @initialize(
        num_layers=st.integers(1, 2),
        width=st.integers(1, 3),
        poolings=st.sampled_from([("mean",), ("mean", "max")]),
        size=st.sampled_from([1, 3, 8]),
        dtype=st.sampled_from(["float16", "float32"]),
        hidden=st.sampled_from([None, 2]),
    )
    def create(self, num_layers, width, poolings, size, dtype, hidden) -> None:  # type: ignore[no-untyped-def]
        self.schema = StoreSchema(
            num_layers=num_layers,
            neuron_size=width,
            poolings=poolings,
            samples_per_shard=size,
            dtype=dtype,
            hidden_size=hidden,
        )
        self.store = ActivationStore.create(self.directory / "s", self.schema)
        self.rows: list[int] = []  # text number per position
        self.ids: dict[str, int] = {}  # living id -> position
        self.history: dict[str, int] = {}  # snapshot -> number of positions
        self.pending: list[str] = []

    def values(self, texts: list[int], name: str) -> np.ndarray:
        layout = self.schema.arrays[name]
        base = np.arange(len(layout.layers) * layout.rows).reshape(len(layout.layers), -1, 1)
        return (base / 4 + np.array(texts)).astype(np.float32)

    def apply(self, ids: list[str]) -> None:
        """What a committed append of these ids means."""
        for name in ids:
            if name not in self.ids:
                text = int(name.split("/")[0])
                alive = {self.rows[p]: p for p in self.ids.values()}
                if text not in alive:
                    self.rows.append(text)
                    alive[text] = len(self.rows) - 1
                self.ids[name] = alive[text]

    @rule(
        chosen=st.lists(st.tuples(NUMBERS, st.integers(0, 2)), max_size=14),
        fraction=st.floats(0, 1),
        order=st.randoms(),
    )
    def append(self, chosen, fraction, order) -> None:  # type: ignore[no-untyped-def]
        ids = [str(text) if alias == 0 else f"{text}/{alias}" for text, alias in chosen]
        table = pa.table(
            {
                "id": pa.array(ids, pa.string()),
                "text": pa.array([name.split("/")[0] for name in ids], pa.string()),
            }
        )
        plan = self.store.plan_append(table)
        blocks = list(plan.blocks)
        order.shuffle(blocks)
        for number, block in enumerate(blocks):
            texts = [int(text) for text in plan.samples(block)["text"].to_pylist()]
            arrays = {}
            for name, layout in self.schema.arrays.items():
                shape = (len(layout.layers), layout.num_poolings, layout.width, len(block))
                arrays[name] = self.values(texts, name).reshape(shape)
            self.store.write_block(plan, block, arrays)
            if number < fraction * len(blocks) / 2:
                self.store.commit()
        self.store.commit()
        self.apply(ids)
        self.history[self.store.snapshot_id] = len(self.rows)

    @rule(numbers=st.sets(NUMBERS, max_size=4), alias=st.integers(0, 2))
    def delete(self, numbers, alias) -> None:  # type: ignore[no-untyped-def]
        ids = [str(text) if alias == 0 else f"{text}/{alias}" for text in numbers]
        known = [name for name in ids if name in self.ids]
        assert self.store.delete(ids) == len(known)
        for name in known:
            del self.ids[name]

    @rule()
    def compact(self) -> None:
        compact(self.store)

    @rule(keep=st.integers(1, 3))
    def collect_garbage(self, keep: int) -> None:
        gc(self.store, keep=keep)
        kept = {snapshot.id for snapshot in self.store.snapshots()}
        self.history = {name: n for name, n in self.history.items() if name in kept}

    @rule()
    def reopen(self) -> None:
        self.store.release()
        self.store = ActivationStore.open(self.directory / "s", check="always")

    @precondition(lambda self: hasattr(self, "rows"))
    @rule(data=st.data())
    def read(self, data) -> None:  # type: ignore[no-untyped-def]
        store = self.store
        assert store.num_samples == len(self.rows)
        alive = np.zeros(len(self.rows), bool)
        alive[list(self.ids.values())] = True
        assert store.num_living == alive.sum()
        names = [*self.ids, "nobody"]
        assert store.positions(names).tolist() == [self.ids.get(name, -1) for name in names]
        hashes = [text_hash(str(text)) for text in range(26)]
        by_text = {self.rows[p]: p for p in self.ids.values()}
        assert store.positions_by_hash(hashes).tolist() == [by_text.get(t, -1) for t in range(26)]
        array = data.draw(st.sampled_from(sorted(self.schema.arrays)))
        layout = self.schema.arrays[array]
        index = data.draw(st.integers(0, len(layout.layers) - 1))
        layer = layout.layers[index]
        want = self.values(self.rows, array)[index].T
        want[~alive] = np.nan
        np.testing.assert_array_equal(store.read_matrix(array, layer=layer), want)
        part = data.draw(st.slices(len(self.rows)))
        np.testing.assert_array_equal(
            store.read_matrix(array, layer=layer, samples=part, dtype="float64"), want[part]
        )
        features = data.draw(st.lists(st.integers(0, layout.rows - 1), max_size=5))
        living = np.flatnonzero(alive).tolist()
        some = data.draw(st.lists(st.sampled_from(living), max_size=6)) if living else []
        np.testing.assert_array_equal(
            store.read_features(array, layer=layer, features=features, samples=some),
            want[np.array(some, int)][:, np.array(features, int)],
        )
        np.testing.assert_array_equal(
            store.read_matrix(array, layer=layer, samples=some), want[np.array(some, int)]
        )
        count, mean, m2 = store.moments(array, layer=layer)
        assert count == alive.sum()
        if count:
            np.testing.assert_allclose(mean, want[alive].mean(0, dtype=np.float64), rtol=1e-6)
            np.testing.assert_allclose(m2, want[alive].var(0) * count, rtol=1e-4, atol=1e-5)
        assert verify(store).sound
        if self.history:
            name = data.draw(st.sampled_from(sorted(self.history)))
            old = ActivationStore.open(self.directory / "s", snapshot=name, check="always")
            n = self.history[name]
            assert old.num_samples == n
            got = old.read_matrix(array, layer=layer)
            np.testing.assert_array_equal(got[alive[:n]], want[:n][alive[:n]])


StoreModel.TestCase.settings = settings(
    max_examples=8,
    stateful_step_count=12,
    suppress_health_check=list(HealthCheck),
)
TestStoreModel = StoreModel.TestCase


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
