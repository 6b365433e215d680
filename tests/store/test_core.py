"""The core of the store: append, commit, read, and what plain zarr and xarray see."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xarray as xr
import zarr

from store import (
    ActivationStore,
    AppendPlan,
    Block,
    ChangedTextError,
    StoreError,
    StoreInputError,
    StoreSchema,
    open_dataset,
    text_hash,
)
from tests.builders.store_processes import values_of

SCHEMA = StoreSchema(
    num_layers=3, neuron_size=5, hidden_size=4, samples_per_shard=8, fingerprint="f"
)


def dated_samples(start: int, stop: int) -> pa.Table:
    ids = [f"id{i}" for i in range(start, stop)]
    return pa.table(
        {
            "id": ids,
            "text": [f"text {i} ü" for i in range(start, stop)],
            "created_at": pa.array([1_600_000_000 + i for i in range(start, stop)]),
        }
    )


def write_plan(store: ActivationStore, plan: AppendPlan) -> None:
    for block in plan.blocks:
        rows = plan.samples(block)
        ids = rows["id"].to_pylist()
        store.write_block(
            plan,
            block,
            values_of(store.schema, ids),
            n_tokens=np.array([int(i[2:]) for i in ids], np.int32),
            truncated=np.array([int(i[2:]) % 2 == 0 for i in ids]),
        )


def append(store: ActivationStore, samples: pa.Table, **options: Any) -> str:
    plan = store.plan_append(samples, **options)
    write_plan(store, plan)
    return store.commit()


@pytest.fixture
def store(tmp_path: Path) -> ActivationStore:
    return ActivationStore.create(tmp_path / "s", SCHEMA)


def expected(store: ActivationStore, array: str, ids: list[str]) -> np.ndarray:
    """(layer, row, sample)."""
    values = values_of(store.schema, ids)[array]
    return values.reshape(values.shape[0], -1, len(ids))


def test_round_trip_over_several_commits(store: ActivationStore) -> None:
    counts = [0, 3, 8, 9, 30]
    for start, stop in pairwise(counts):
        append(store, dated_samples(start, stop))
        assert store.num_samples == stop
    ids = [f"id{i}" for i in range(30)]
    assert store.samples()["id"].to_pylist() == ids
    np.testing.assert_array_equal(store.positions([*ids, "nobody"]), [*range(30), -1])
    assert store.positions_by_hash([text_hash("text 7 ü")]).tolist() == [7]
    for array, layers in (("ffn", range(3)), ("hidden", [3])):
        want = expected(store, array, ids)
        for index, layer in enumerate(layers):
            got = store.read_matrix(array, layer=layer)
            assert got.dtype == np.float32
            np.testing.assert_array_equal(got, want[index].T)
            picked = np.array([29, 0, 8, 8])
            np.testing.assert_array_equal(
                store.read_matrix(array, layer=layer, samples=picked), want[index].T[picked]
            )
            features = np.array([7, 1, 2, 7])
            np.testing.assert_array_equal(
                store.read_features(array, layer=layer, features=features, samples=slice(2, 20)),
                want[index].T[2:20][:, features],
            )
            count, mean, m2 = store.moments(array, layer=layer)
            assert count == 30
            np.testing.assert_allclose(mean, want[index].mean(1), rtol=1e-6)
            np.testing.assert_allclose(m2, want[index].var(1) * 30, rtol=1e-5)


def test_plain_zarr_and_xarray_read_the_same(store: ActivationStore) -> None:
    append(store, dated_samples(0, 13))
    path = store.location.root
    ids = [f"id{i}" for i in range(13)]
    want = expected(store, "ffn", ids).reshape(3, 2, 5, 13)
    np.testing.assert_array_equal(zarr.open_group(path, mode="r")["ffn"][:], want)
    np.testing.assert_array_equal(zarr.open_array(path / "ffn", mode="r")[:], want)
    with xr.open_zarr(path, chunks=None) as dataset:
        np.testing.assert_array_equal(dataset.ffn.values, want)
        assert dataset.sample_id.values.tolist() == ids
        assert dataset.text.values[12] == "text 12 ü"
        assert dataset.n_tokens.values.tolist() == list(range(13))
        assert dataset.truncated.values.dtype == bool
        assert dataset.created_at.values[1] == np.datetime64(1_600_000_001, "s")
        chosen = dataset.ffn.sel(layer=2, pooling="max", neuron=[1, 4])
        np.testing.assert_array_equal(chosen.values, want[2, 1, [1, 4]])


@pytest.mark.parametrize("chunks", [{}, None])
def test_to_xarray(store: ActivationStore, chunks: dict[str, int] | None) -> None:
    append(store, dated_samples(0, 13))
    labels = pa.table({"id": ["id3", "id99"], "split": ["train", "test"], "label": ["joy", "fear"]})
    store.put_labels("mood", labels, spec={"kind": "class"})
    dataset = store.to_xarray(chunks=chunks)
    want = expected(store, "ffn", [f"id{i}" for i in range(13)]).reshape(3, 2, 5, 13)
    again = pickle.loads(pickle.dumps(dataset))  # noqa: S301  as dask's workers receive it
    np.testing.assert_array_equal(again.ffn.values, want)
    if chunks is not None:
        assert dataset.ffn.chunks == ((1, 1, 1), (2,), (5,), (8, 5))
    xr.testing.assert_identical(dataset, open_dataset(store.location.root, chunks=chunks))
    np.testing.assert_array_equal(dataset.ffn.values, want)
    got = dataset.ffn.sel(layer=1, pooling="max", neuron=[4, 0], sample=["id9", "id2"])
    np.testing.assert_array_equal(got.values, want[1, 1][[4, 0]][:, [9, 2]])
    assert dataset.label_mood.values.tolist()[3] == "joy"
    assert dataset.split_mood.values.tolist()[:2] == ["", ""]


def test_known_ids_and_texts_are_not_computed_twice(store: ActivationStore) -> None:
    append(store, dated_samples(0, 5))
    more = pa.table(
        {
            "id": ["id1", "copy", "new", "new-copy", "new"],
            "text": ["text 1 ü", "text 2 ü", "fresh", "fresh", "fresh"],
        }
    )
    plan = store.plan_append(more)
    assert (plan.num_new, plan.num_known) == (1, 4)
    assert plan.blocks == (Block(0, 5, 6),)
    store.write_block(
        plan,
        plan.blocks[0],
        values_of(SCHEMA, ["id5"]),
        n_tokens=np.array([1], np.int32),
        truncated=np.array([False]),
    )
    store.commit()
    assert store.positions(["copy", "new", "new-copy"]).tolist() == [2, 5, 5]
    assert store.plan_append(more).blocks == ()
    before = store.snapshot_id
    assert store.commit() == before


def test_changed_text_is_an_error_or_a_new_version(store: ActivationStore) -> None:
    append(store, dated_samples(0, 3))
    changed = pa.table({"id": ["id1"], "text": ["other"]})
    with pytest.raises(
        ChangedTextError, match=r"row 0.* delete STORE --id id1`.*changed=\"replace\""
    ):
        store.plan_append(changed)
    append(store, changed, changed="replace")
    assert store.positions(["id1"]).tolist() == [3]
    assert store.samples()["text"].to_pylist() == ["text 0 ü", "text 2 ü", "other"]
    assert np.isnan(store.read_matrix(layer=0)[1]).all()


def test_resume_and_worker_processes_use_the_plan_on_disk(store: ActivationStore) -> None:
    plan = store.plan_append(dated_samples(0, 30))
    assert len(plan.blocks) == 4
    worker = ActivationStore.open(store.location.root)
    theirs = worker.open_plan(plan.id)
    for block in (theirs.blocks[0], theirs.blocks[2]):
        ids = theirs.samples(block)["id"].to_pylist()
        worker.write_block(theirs, block, values_of(SCHEMA, ids))
    store.commit()
    assert store.num_samples == 8
    again = ActivationStore.open(store.location.root)
    resumed = again.plan_append(dated_samples(0, 30))
    assert resumed.id == plan.id
    assert [block.slot for block in resumed.blocks] == [1, 3]
    write_plan(again, resumed)
    again.commit()
    assert again.num_samples == 30
    want = expected(again, "ffn", [f"id{i}" for i in range(30)])
    np.testing.assert_array_equal(again.read_matrix(layer=2), want[2].T)


def test_two_attempts_at_a_block_never_mix(store: ActivationStore) -> None:
    plan = store.plan_append(dated_samples(0, 8))
    block, rows = plan.blocks[0], plan.samples(plan.blocks[0])
    good = values_of(SCHEMA, rows["id"].to_pylist())
    other = {name: array + 1 for name, array in good.items()}
    store.write_block(plan, block, good)
    other["ffn"][2, 0, 0, 0] = np.nan  # the second attempt dies after some of its shards
    with pytest.raises(StoreError, match="NaN"):
        store.write_block(plan, block, other)
    assert len([path for path in plan.directory.iterdir() if path.is_dir()]) == 1
    store.commit()
    fresh = ActivationStore.open(store.location.root, check="always")
    want = expected(store, "ffn", rows["id"].to_pylist())
    for layer in range(3):
        np.testing.assert_array_equal(fresh.read_matrix(layer=layer), want[layer].T)


def test_another_append_keeps_what_a_dead_one_finished(store: ActivationStore) -> None:
    plan = store.plan_append(dated_samples(0, 20))
    block = plan.blocks[0]
    store.write_block(plan, block, values_of(SCHEMA, plan.samples(block)["id"].to_pylist()))
    append(store, dated_samples(100, 103))
    assert store.num_samples == 11
    with pytest.raises(StoreError, match="superseded"):
        store.write_block(plan, plan.blocks[1], values_of(SCHEMA, ["id1"] * 8))


def test_old_snapshots_stay_readable(store: ActivationStore) -> None:
    first = append(store, dated_samples(0, 3))
    append(store, dated_samples(3, 30))
    old = ActivationStore.open(store.location.root, snapshot=first)
    assert old.num_samples == 3
    want = expected(store, "ffn", ["id0", "id1", "id2"])
    np.testing.assert_array_equal(old.read_matrix(layer=1), want[1].T)
    assert old.moments(layer=1)[0] == 3
    with pytest.raises(StoreError, match="read-only"):
        old.commit()
    with pytest.raises(StoreError, match="no snapshot"):
        ActivationStore.open(store.location.root, snapshot="000099")


def test_labels_and_selection(store: ActivationStore) -> None:
    append(store, dated_samples(0, 10))
    table = pa.table(
        {
            "id": ["id1", "id4", "id7"],
            "split": ["train", "train", "test"],
            "label": ["a", "b", "a"],
        }
    )
    store.put_labels("t", table, spec={"kind": "class"})
    assert store.tasks() == ("t",)
    assert store.labels("t").equals(table)
    assert store.label_spec("t") == {"kind": "class"}
    assert store.select(task="t", label="a").tolist() == [1, 7]
    assert store.select(task="t", split="train", since=1_600_000_002).tolist() == [4]
    assert store.select(since=1_600_000_002, until=1_600_000_005).tolist() == [2, 3, 4]
    with pytest.raises(StoreError, match="no labels of task"):
        store.labels("x")


def test_bytes_read_counts_only_what_is_needed(store: ActivationStore) -> None:
    append(store, dated_samples(0, 16))
    store.reset_bytes_read()
    store.read_features(layer=1, features=[1, 2, 9])
    assert store.bytes_read == 3 * 16 * 2


def test_values_that_cannot_be_stored_are_refused(store: ActivationStore) -> None:
    plan = store.plan_append(dated_samples(0, 2))
    arrays = values_of(SCHEMA, ["id0", "id1"])
    arrays["ffn"][1, 0, 2, 0] = 1e6
    with pytest.raises(StoreError, match=r"layer 1: 1 values exceed.*float32"):
        store.write_block(plan, plan.blocks[0], arrays)
    arrays["ffn"][1, 0, 2, 0] = np.nan
    with pytest.raises(StoreError, match="NaN or infinite"):
        store.write_block(plan, plan.blocks[0], arrays)
    with pytest.raises(StoreError, match="needed is floating point"):
        store.write_block(plan, plan.blocks[0], {**arrays, "ffn": arrays["ffn"][:2]})
    with pytest.raises(StoreError, match="needs"):
        store.write_block(plan, plan.blocks[0], {"ffn": arrays["ffn"]})


def test_opening_what_is_not_a_store(tmp_path: Path, store: ActivationStore) -> None:
    with pytest.raises(StoreError, match="nowhere: no such folder"):
        ActivationStore.open(tmp_path / "nowhere")
    with pytest.raises(StoreInputError, match="no activation store here; name a store"):
        ActivationStore.open(tmp_path)
    signs = {"run.json": "a run's folder", "head.json": "a head", "_salient.json": "of scores"}
    for sign, what in signs.items():
        (tmp_path / sign).mkdir()
        (tmp_path / sign / sign).touch()
        with pytest.raises(StoreInputError, match=f"no activation store here: it is .*{what}"):
            ActivationStore.open(tmp_path / sign)
    (tmp_path / "zarr.json").write_text(json.dumps({"zarr_format": 3}))
    with pytest.raises(StoreError, match="not the root of a Salient store"):
        ActivationStore.open(tmp_path)
    assert not ActivationStore.exists(tmp_path)
    assert ActivationStore.exists(store.location.root)
    with pytest.raises(StoreError, match="exists already"):
        ActivationStore.create(store.location.root, SCHEMA)


def test_float32_store(tmp_path: Path) -> None:
    schema = StoreSchema(num_layers=1, neuron_size=3, dtype="float32", samples_per_shard=4)
    store = ActivationStore.create(tmp_path / "s", schema)
    append(store, dated_samples(0, 6))
    want = expected(store, "ffn", [f"id{i}" for i in range(6)])
    np.testing.assert_array_equal(store.read_matrix(layer=0), want[0].T)
    np.testing.assert_array_equal(
        zarr.open_group(tmp_path / "s", mode="r")["ffn"][0, 1, 2], want[0, 5]
    )


def test_of_many_creators_one_makes_the_store(tmp_path: Path) -> None:
    schema = StoreSchema(num_layers=1, neuron_size=2, samples_per_shard=8)

    def make(_: int) -> bool:
        try:
            ActivationStore.create(tmp_path / "s", schema)
        except StoreError as error:
            assert "exists already" in str(error)
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(make, range(8))) == 1
    assert ActivationStore.open(tmp_path / "s").schema == schema
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_whole_blocks_with_values_that_are_not_numbers_are_refused(
    tmp_path: Path, dtype: str, bad: float
) -> None:
    schema = StoreSchema(num_layers=2, neuron_size=3, samples_per_shard=8, dtype=dtype)
    store = ActivationStore.create(tmp_path / "s", schema)
    plan = store.plan_append(dated_samples(0, 8))
    values = np.zeros((2, 2, 3, 8), dtype)
    for place in ((0, 0, 0, 0), (1, 1, 2, 7)):
        wrong = values.copy()
        wrong[place] = bad
        with pytest.raises(StoreError, match="NaN or infinite"):
            store.write_block(plan, plan.blocks[0], {"ffn": wrong})
    largest = np.full_like(values, 65504)
    store.write_block(plan, plan.blocks[0], {"ffn": largest})
    store.commit()
    np.testing.assert_array_equal(store.read_matrix(layer=1), largest[1].reshape(6, 8).T)


def test_old_snapshots_lose_what_was_deleted_since(tmp_path: Path) -> None:
    schema = StoreSchema(num_layers=1, neuron_size=2, hidden_size=3, samples_per_shard=4)
    store = ActivationStore.create(tmp_path / "s", schema)
    append(store, dated_samples(0, 5))
    first = store.snapshot_id
    append(store, dated_samples(5, 9))
    store.put_labels("t", pa.table({"id": ["id1", "id2"], "split": ["a"] * 2, "label": ["x"] * 2}))
    second = store.snapshot_id
    assert store.delete(["id1", "id7"]) == 2
    for snapshot, living in ((first, 4), (second, 7)):
        old = ActivationStore.open(tmp_path / "s", snapshot=snapshot)
        assert (old.snapshot_id, old.num_living) == (snapshot, living)
        assert old.positions(["id1", "id2"]).tolist() == [-1, 2]
        assert "id1" not in old.samples()["id"].to_pylist()
        assert np.isnan(old.read_matrix(layer=0)[1]).all()
    assert old.labels("t")["id"].to_pylist() == ["id2"]


def test_a_schema_without_peaks_is_as_it_was_before_there_were_any() -> None:
    old = SCHEMA.to_json()
    assert "peaks" not in old
    assert StoreSchema.from_json(old) == SCHEMA and not SCHEMA.peaks
    with_peaks = replace(SCHEMA, peaks=True)
    assert StoreSchema.from_json(with_peaks.to_json()) == with_peaks
    assert with_peaks.bytes_per_sample - SCHEMA.bytes_per_sample == 3 * 5 * 2
    with pytest.raises(StoreError, match="need the pooling 'max'"):
        StoreSchema(num_layers=1, neuron_size=2, poolings=("mean",), peaks=True)
    with pytest.raises(StoreError, match="FFN layers"):
        StoreSchema(num_layers=1, neuron_size=2, layers=(), hidden_size=2, peaks=True)


def test_peaks_open_beside_the_activations(tmp_path: Path) -> None:
    store = ActivationStore.create(tmp_path / "s", replace(SCHEMA, peaks=True))
    append(store, dated_samples(0, 5))
    append(store, dated_samples(5, 13))
    want = expected(store, "peak", [f"id{i}" for i in range(13)])
    np.testing.assert_array_equal(store.read_matrix("peak", layer=2), want[2].T)
    with xr.open_zarr(tmp_path / "s", chunks=None) as dataset:
        assert dataset.peak.dims == ("layer", "peak_pooling", "neuron", "sample")
        chosen = dataset.peak.sel(layer=2, peak_pooling="max", neuron=[1, 4])
        np.testing.assert_array_equal(chosen.values, want[2, [1, 4]])
        assert dataset.ffn.sel(pooling="max").dims == ("layer", "neuron", "sample")
    again = store.to_xarray().peak.sel(layer=1, peak_pooling="max")
    np.testing.assert_array_equal(again.values, want[1])
