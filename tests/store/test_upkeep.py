"""Deleting, compacting, verifying, collecting garbage, exporting, backfilling."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr
import zarr

from store import ActivationStore, DamagedShardError, StoreError, StoreSchema, text_hash
from store.commits.plans import drop_plan
from store.disk import durable
from store.disk.location import LocalLocation
from store.disk.locks import process_lock
from store.layout.attributes import store_attributes
from store.layout.manifests import LayerSummary, Manifest, encode_manifest
from store.layout.moments import Moments
from store.upkeep.compaction import compact
from store.upkeep.export import export_archive, export_parquet
from store.upkeep.garbage import gc
from store.upkeep.inspection import describe_snapshots, info, verify
from store.upkeep.removal import DeleteReport, delete_samples
from tests.builders.store_processes import SCHEMA, append_all, make_samples, values_of, write_one


def with_authors(numbers: range) -> pa.Table:
    authors = pa.array([f"author{i % 3}" for i in numbers])
    return make_samples(numbers).append_column("author_id", authors)


@pytest.fixture
def store(tmp_path: Path) -> ActivationStore:
    root = tmp_path / "s"
    ActivationStore.create(root, SCHEMA)
    append_all(root, [with_authors(range(0, 20)), with_authors(range(20, 40))])
    return ActivationStore.open(root)


def want(ids: list[str], array: str = "ffn", layer: int = 0) -> np.ndarray:
    return values_of(SCHEMA, ids)[array][layer].reshape(-1, len(ids)).T


def check_deleted(store: ActivationStore, dead: set[int], total: int = 40) -> None:
    living = [i for i in range(total) if i not in dead]
    ids = [f"id{i}" for i in living]
    assert store.samples()["id"].to_pylist() == ids
    assert store.positions([f"id{i}" for i in sorted(dead)]).tolist() == [-1] * len(dead)
    np.testing.assert_array_equal(store.read_matrix(layer=0, samples=living), want(ids))
    everything = store.read_matrix(layer=0)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(everything[:, 0])), sorted(dead))
    count, mean, m2 = store.moments(layer=0)
    assert count == len(living)
    np.testing.assert_allclose(mean, want(ids).mean(0), rtol=1e-6)
    np.testing.assert_allclose(m2, want(ids).var(0) * count, rtol=1e-5)
    dataset = store.to_xarray()
    assert dataset.sample.values.tolist() == ids
    np.testing.assert_array_equal(dataset.ffn[0].values.reshape(-1, len(ids)).T, want(ids))
    with pytest.raises(StoreError, match="were deleted"):
        store.read_matrix(layer=0, samples=[min(dead)])


def occurrences(root: Path, needle: bytes) -> list[str]:
    return [str(path) for path in root.rglob("*") if path.is_file() and needle in path.read_bytes()]


def test_delete_then_compact(store: ActivationStore) -> None:
    root = store.location.root
    first = ActivationStore.open(root, snapshot="000002")
    store.put_labels(
        "t", pa.table({"id": ["id3", "id4"], "split": ["a", "a"], "label": ["x", "y"]})
    )
    assert store.delete(["id3", "id17", "nobody"]) == 2
    assert store.delete(author_ids=["author1"]) == 13
    dead = {3, 17} | set(range(1, 40, 3))
    check_deleted(store, dead)
    assert store.labels("t")["id"].to_pylist() == []
    with xr.open_zarr(root, chunks=None) as plain:
        assert plain.sample_id.values[3] == ""
    assert verify(store).sound
    old = ActivationStore.open(root, snapshot="000002")
    assert occurrences(root / ".salient", b"id17")

    report = compact(store)
    assert report.num_samples == len(dead)
    assert "15 deleted samples removed" in str(report)
    check_deleted(store, dead)
    assert verify(store).sound, str(verify(store))
    ffn = zarr.open_group(root, mode="r")["ffn"][:]
    assert np.isnan(ffn[..., sorted(dead)]).all()
    assert not np.isnan(np.delete(ffn, sorted(dead), axis=-1)).any()
    for reader in (first, old, ActivationStore.open(root, snapshot="000002")):
        got = reader.read_matrix(layer=1)
        living = [i for i in range(reader.num_samples) if i not in dead]
        expected = want([f"id{i}" for i in living], layer=1)
        np.testing.assert_array_equal(got[living], expected)
    for number in dead:  # the texts are nowhere, not even in compressed tables
        for path in root.rglob("*.parquet"):
            rows = pq.read_table(path).to_pydict()
            assert all(f"id{number}" not in column for column in rows.values())
            assert all(f"text {number}" not in column for column in rows.values())
    assert compact(store).num_samples == 0
    assert compact(store).emptied_slots == ()

    # A deleted text that comes again is new; the tail with holes is completed.
    append_all(root, [make_samples(range(3, 4)), make_samples(range(40, 60))])
    store.refresh()
    assert store.positions(["id3", "id59"]).tolist() == [40, 60]
    ids = store.samples()["id"].to_pylist()
    np.testing.assert_array_equal(
        store.read_matrix(layer=0, samples=store.positions(ids)), want(ids)
    )
    assert store.moments(layer=0)[0] == len(ids)
    np.testing.assert_allclose(store.moments(layer=0)[1], want(ids).mean(0), rtol=1e-6)
    assert verify(store).sound


def test_slots_without_living_samples_lose_their_files(store: ActivationStore) -> None:
    root = store.location.root
    store.delete([f"id{i}" for i in range(16, 40)])
    report = compact(store)
    assert report.emptied_slots == (1, 2)
    assert report.freed_bytes > 0
    assert not (root / "ffn/c/0/0/0/1").exists()
    check_deleted(store, set(range(16, 40)))
    assert verify(store).sound
    append_all(root, [make_samples(range(40, 60))])
    store.refresh()
    assert store.samples()["id"].to_pylist() == [f"id{i}" for i in (*range(16), *range(40, 60))]
    assert verify(store).sound


def test_a_shared_text_survives_under_its_other_id(store: ActivationStore) -> None:
    root = store.location.root
    append_all(root, [pa.table({"id": ["copy"], "text": ["text 5"]})])
    store.refresh()
    store.delete(["id5"])
    for _ in range(2):
        assert store.positions(["id5", "copy"]).tolist() == [-1, 5]
        assert store.samples()["id"].to_pylist()[5] == "copy"
        with xr.open_zarr(root, chunks=None) as plain:
            assert plain.sample_id.values[5] == "copy"
        compact(store)
    assert verify(store).sound
    assert not any(
        "id5" in pq.read_table(path)["id"].to_pylist() for path in root.rglob("rows-*.parquet")
    )


def test_verify_names_damaged_slots_and_reads_refuse_them(store: ActivationStore) -> None:
    root = store.location.root
    assert verify(store).sound
    flipped = root / "ffn/c/1/0/0/1"
    content = bytearray(flipped.read_bytes())
    content[3 * 32 + 4] ^= 1
    flipped.write_bytes(content)
    cut = root / "hidden/c/0/0/0/0"
    cut.write_bytes(cut.read_bytes()[:-7])
    (root / "ffn/c/0/0/0/2").unlink()
    report = verify(store)
    assert report.damaged_slots == (0, 1, 2)
    assert "3 problems; damaged slots: 0, 1, 2" in str(report)
    fresh = ActivationStore.open(root)
    with pytest.raises(DamagedShardError, match=r"ffn/c/1/0/0/1: .*1 of 12 rows.*'mean', unit 3"):
        fresh.read_matrix(layer=1)
    with pytest.raises(DamagedShardError, match="differs from its checksums"):
        fresh.read_features(layer=1, features=[3])
    fresh.read_features(layer=1, features=[4])
    with pytest.raises(DamagedShardError, match="bytes instead of"):
        fresh.read_matrix("hidden", layer=2)
    with pytest.raises(DamagedShardError, match="is missing"):
        fresh.read_matrix(layer=0)
    np.testing.assert_array_equal(
        fresh.read_matrix(layer=0, samples=slice(0, 32)), want([f"id{i}" for i in range(32)])
    )
    index = root / "hidden/c/0/0/0/1"
    content = bytearray(index.read_bytes())
    content[-10] ^= 4
    index.write_bytes(content)
    chunk = root / "n_tokens/c/1"
    chunk.write_bytes(b"\1" + chunk.read_bytes()[1:])
    messages = str(verify(store))
    assert "index is damaged" in messages
    assert "coordinate differs" in messages


def test_gc_removes_only_what_nobody_needs(store: ActivationStore) -> None:
    root = store.location.root
    plan = store.plan_append(make_samples(range(100, 140)))
    write_one(store, plan, 0)
    store.release()
    (root / "zarr.json.tmp").write_text("left over")
    (root / ".salient/plans/dead").mkdir()
    number = len(store.snapshots())
    planned = gc(store, keep=1, dry_run=True)
    assert len(store.snapshots()) == number
    report = gc(store, keep=1)
    assert report.files == planned.files
    assert report.snapshots == tuple(f"{i:06d}" for i in range(number - 1))
    assert "removed" in str(report)
    assert len(store.snapshots()) == 1
    assert not (root / "zarr.json.tmp").exists()
    with pytest.raises(StoreError, match="no snapshot"):
        ActivationStore.open(root, snapshot="000001")
    resumed = ActivationStore.open(root).plan_append(make_samples(range(100, 140)))
    assert len(resumed.blocks) == len(plan.all_blocks) - 1
    assert verify(store).sound
    with pytest.raises(StoreError, match="keep is 0"):
        gc(store, keep=0)


def test_words_in_the_root_are_compared(store: ActivationStore) -> None:
    path = store.location.root / "zarr.json"
    root = json.loads(path.read_text())
    words = store_attributes(store.schema)
    path.write_text(json.dumps({**root, "attributes": {**root["attributes"], "backbone": "other"}}))
    assert "differs from what snapshot" in str(verify(store))
    for name in words:  # as earlier versions wrote it
        del root["attributes"][name]
    path.write_text(json.dumps(root))
    assert verify(store).sound


def test_info_and_snapshots_read_well(store: ActivationStore) -> None:
    store.delete(["id1"])
    text = str(info(store))
    assert "39 under 39 ids (1 deleted)" in text
    assert "2 layers x mean, max x 6 units" in text
    lines = describe_snapshots(store).splitlines()
    assert lines[0].startswith("000000") and "create" in lines[0]
    assert "delete" in lines[-1]


def test_export_archive(store: ActivationStore, tmp_path: Path) -> None:
    store.delete(["id2"])
    report = export_archive(store, tmp_path / "archive")
    assert "MB" in str(report)
    original = zarr.open_group(store.location.root, mode="r")["ffn"][:].astype(np.float64)
    with xr.open_zarr(tmp_path / "archive", chunks=None) as archive:
        got = archive.ffn.values.astype(np.float64)
        assert np.isnan(got[..., 2]).all()
        assert archive.sample_id.values[2] == ""
        keep = np.arange(40) != 2
        np.testing.assert_allclose(got[..., keep], original[..., keep], rtol=2**-6)
    with pytest.raises(StoreError, match="exists already"):
        export_archive(store, tmp_path / "archive")
    with pytest.raises(StoreError, match="keepbits"):
        export_archive(store, tmp_path / "b", keepbits=11)


def test_export_parquet(store: ActivationStore, tmp_path: Path) -> None:
    store.delete(["id2"])
    report = export_parquet(store, tmp_path / "n.parquet", layer=1, units=[5, 0], poolings=["max"])
    assert "x larger than its source" in str(report), "a table says more than these few numbers"
    table = pq.read_table(tmp_path / "n.parquet")
    ids = store.samples()["id"].to_pylist()
    assert table["id"].to_pylist() == ids
    np.testing.assert_array_equal(table["ffn_1_max_5"].to_numpy(), want(ids, layer=1)[:, 6 + 5])
    with pytest.raises(StoreError, match="no neuron 6; valid are 0 to 5"):
        export_parquet(store, tmp_path / "m.parquet", layer=1, units=[6])


def test_backfill_layers_and_hidden_states(tmp_path: Path) -> None:
    schema = StoreSchema(num_layers=4, neuron_size=6, samples_per_shard=16, layers=(2,))
    root = tmp_path / "s"
    store = ActivationStore.create(root, schema)
    append_all(root, [make_samples(range(0, 40))])
    store.refresh()
    old = store.read_matrix(layer=2)
    plan = store.plan_backfill(layers=[0, 2], hidden_layers=[4], hidden_size=3)
    assert plan.record.layers == {"ffn": (0,), "hidden": (4,)}
    for number, block in enumerate(plan.blocks):
        rows = plan.samples(block)
        assert rows["text"][0].as_py() == f"text {block.start}"
        full = StoreSchema(num_layers=4, neuron_size=6, hidden_size=3, layers=(0,))
        store.write_block(plan, block, values_of(full, rows["id"].to_pylist()))
        before = store.num_samples, store.schema
        store.commit()
        if number + 1 < len(plan.blocks):
            assert (store.num_samples, store.schema) == before
    ids = [f"id{i}" for i in range(40)]
    assert store.schema.layers == (2, 0)
    np.testing.assert_array_equal(store.read_matrix(layer=2), old)
    np.testing.assert_array_equal(store.read_matrix(layer=0), want(ids))
    np.testing.assert_array_equal(store.read_matrix("hidden", layer=4), want(ids, "hidden"))
    assert verify(store).sound
    with xr.open_zarr(root, chunks=None) as dataset:
        np.testing.assert_array_equal(dataset.ffn.sel(layer=0).values.reshape(12, 40).T, want(ids))
    append_all(root, [make_samples(range(40, 45))])
    assert verify(ActivationStore.open(root)).sound
    store.refresh()
    assert store.plan_backfill(layers=[0, 2]).blocks == ()
    with pytest.raises(StoreError, match=r"pooling 'min' cannot be added.*second store"):
        store.plan_backfill(layers=[1], poolings=["mean", "min"])
    with pytest.raises(StoreError, match="valid are 0 to 3"):
        store.plan_backfill(layers=[9])
    known = pa.table({"id": ["id99"], "text_hash": [text_hash("somewhere else")]})
    append_all(root, [known])
    store.refresh()
    with pytest.raises(StoreError, match="1 of this store's samples came without a text"):
        store.plan_backfill(layers=[1])


def test_privacy_store_without_texts(tmp_path: Path) -> None:
    schema = StoreSchema(num_layers=2, neuron_size=6, samples_per_shard=16, store_text=False)
    store = ActivationStore.create(tmp_path / "s", schema)
    append_all(tmp_path / "s", [make_samples(range(0, 20))])
    store.refresh()
    assert store.samples()["text"].null_count == 20
    assert not occurrences(tmp_path / "s", b"text 7")
    assert store.plan_append(make_samples(range(0, 20))).num_new == 0
    with xr.open_zarr(tmp_path / "s", chunks=None) as dataset:
        assert "text" not in dataset.variables
    with pytest.raises(StoreError, match="keeps no texts"):
        store.plan_backfill(hidden_layers=[2], hidden_size=3)


def test_a_full_disk_is_explained_and_harms_nothing(
    store: ActivationStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = store.plan_append(make_samples(range(100, 140)))
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable.os, "write", full)
    with pytest.raises(StoreError, match="no space left"):
        write_one(store, plan, 0)
    monkeypatch.setattr(durable.os, "write", write)
    assert verify(store).sound
    append_all(store.location.root, [make_samples(range(100, 140))])
    store.refresh()
    assert store.num_samples == 80


def peak_arrays(schema: StoreSchema, ids: list[str]) -> dict[str, np.ndarray]:
    """Activations, and as peaks the integers -1 to 2047, where float16 still is exact."""
    arrays = dict(values_of(schema, ids))
    seeds = np.array([int(name.removeprefix("id")) for name in ids])
    places = np.arange(arrays["peak"][..., 0].size).reshape(arrays["peak"].shape[:3])
    arrays["peak"] = ((101 * seeds + 397 * places[..., None]) % 2049 - 1).astype(np.float16)
    return arrays


def test_peaks_share_the_care_for_a_store(tmp_path: Path) -> None:
    schema = replace(SCHEMA, layers=(1,), peaks=True)
    store = ActivationStore.create(tmp_path / "s", schema)
    ids = [f"id{i}" for i in range(40)]
    plan = store.plan_append(make_samples(range(0, 40)))
    for block in plan.blocks:
        store.write_block(plan, block, peak_arrays(schema, plan.samples(block)["id"].to_pylist()))
    store.commit()
    values = peak_arrays(schema, ids)["peak"].reshape(6, 40).T
    assert verify(store).sound and verify(store).num_shards == 9
    assert info(store).arrays["peak"] == "1 layers x max x 6 units"
    np.testing.assert_array_equal(store.read_matrix("peak", layer=1), values)

    dead = [2, *range(16, 32)]
    living = np.setdiff1d(np.arange(40), dead)
    store.delete([f"id{i}" for i in dead])
    compact(store)
    assert verify(store).sound
    everything = store.read_matrix("peak", layer=1)
    np.testing.assert_array_equal(everything[living], values[living])
    assert np.isnan(everything[dead]).all()

    export_archive(store, tmp_path / "archive", keepbits=1)
    with xr.open_zarr(tmp_path / "archive", chunks=None) as archive:
        peaks = archive.peak.sel(layer=1, peak_pooling="max").values.T
        np.testing.assert_array_equal(peaks[living], values[living])
    export_parquet(store, tmp_path / "n.parquet", layer=1, units=[3], array="peak")
    table = pq.read_table(tmp_path / "n.parquet")
    np.testing.assert_array_equal(table["peak_1_max_3"].to_numpy(), values[living, 3])

    plan = store.plan_backfill(layers=[0])
    assert plan.record.layers == {"ffn": (0,), "peak": (0,)}
    new = replace(schema, layers=(0,), hidden_size=None, hidden_layers=())
    for block in plan.blocks:
        rows = [f"id{i}" for i in range(block.start, block.stop)]
        store.write_block(plan, block, peak_arrays(new, rows))
    store.commit()
    assert store.schema.layers == (1, 0) and verify(store).sound
    np.testing.assert_array_equal(store.read_matrix("peak", layer=0)[living], values[living])


def test_damage_to_peaks_is_named(tmp_path: Path) -> None:
    schema = StoreSchema(num_layers=1, neuron_size=6, samples_per_shard=16, peaks=True)
    store = ActivationStore.create(tmp_path / "s", schema)
    append_all(tmp_path / "s", [make_samples(range(0, 20))])
    shard = tmp_path / "s" / schema.array("peak").shard_path(0, 0)
    content = bytearray(shard.read_bytes())
    content[0] ^= 1
    shard.write_bytes(content)
    store.refresh()
    with pytest.raises(DamagedShardError, match=r"peak/c/0.*pooling 'max', unit 0"):
        store.read_matrix("peak", layer=0)


def test_a_manifest_accepts_the_old_and_the_new_shard_while_it_is_replaced(tmp_path: Path) -> None:
    def summary(*crcs: int) -> LayerSummary:
        more = [0] * 5  # so that the checksum of one row is read alone
        return LayerSummary(np.array([*crcs, *more], np.uint32), Moments(2, *np.zeros((2, 8))))

    def write(layer: LayerSummary, replacing: Manifest | None = None) -> Manifest:
        content = encode_manifest(2, {("ffn", 0): layer}, replacing=replacing)
        (tmp_path / "m").write_bytes(content)
        return Manifest(LocalLocation(tmp_path), "m")

    def accepted(manifest: Manifest, *crcs: int) -> list[bool]:
        rows = np.arange(3)
        by_one = [
            manifest.accepts("ffn", 0, rows[row : row + 1], np.array(crcs[row : row + 1]))[0]
            for row in rows
        ]
        assert manifest.accepts("ffn", 0, rows, np.array(crcs)).tolist() == by_one
        return by_one

    steady = write(summary(1, 2, 3))
    assert accepted(steady, 1, 2, 4) == [True, True, False]
    replaced = write(summary(5, 2, 7), steady)
    assert accepted(replaced, 1, 2, 4) == [True, True, False]
    assert accepted(replaced, 5, 3, 7) == [True, False, True]
    again = write(summary(9, 2, 7), replaced)  # died here, and more was deleted since
    for crcs in ((1, 2, 3), (5, 2, 7), (9, 2, 7)):
        assert accepted(again, *crcs) == [True] * 3
    assert accepted(write(summary(9, 2, 7)), 1, 2, 7) == [False, True, True]


def small(root: Path, numbers: range = range(40)) -> ActivationStore:
    ActivationStore.create(root, SCHEMA)
    append_all(root, [make_samples(range(start, start + 20)) for start in numbers[::20]])
    process_lock(root / ".salient/append.lock").release()
    return ActivationStore.open(root)


def test_a_delete_that_died_is_forgotten_by_no_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its commit, before it reached the plan; an append that is asked for later brings it."""
    store = small(tmp_path / "s")
    wanted = make_samples(range(10, 60))
    first = store.plan_append(wanted)
    store.release()

    def die(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("store.commits.ondisk.plan_without", die)
        with pytest.raises(KeyboardInterrupt):
            store.delete(["id15"])
    assert ActivationStore.open(tmp_path / "s").delete(["id15"]) == 0
    store = ActivationStore.open(tmp_path / "s")
    plan = store.plan_append(wanted)
    assert plan.id != first.id
    for index in range(len(plan.blocks)):
        write_one(store, plan, index)
    store.commit()
    assert "id15" in store.samples()["id"].to_pylist()


def test_gc_removes_copies_whose_record_is_gone(tmp_path: Path) -> None:
    store = small(tmp_path / "s")
    snapshots = tmp_path / "s/.salient/snapshots"
    (snapshots / "000001.json").unlink()  # where an earlier gc died
    gc(store, keep=1)
    assert sorted(path.name for path in snapshots.iterdir()) == ["000002.json", "000002.zarr.json"]


def test_gc_counts_no_bytes_behind_links(tmp_path: Path) -> None:
    store = small(tmp_path / "s")
    (tmp_path / "large").write_bytes(bytes(10**6))
    (tmp_path / "s/x.tmp").symlink_to("nowhere")
    (tmp_path / "s/y.tmp").mkdir()
    (tmp_path / "s/y.tmp/large").symlink_to(tmp_path / "large")
    report = gc(store, keep=10)
    assert set(report.files) == {"x.tmp", "y.tmp"} and report.num_bytes < 1000
    assert (tmp_path / "large").exists() and not (tmp_path / "s/y.tmp").exists()


def test_a_lease_that_is_a_link_is_refused(tmp_path: Path) -> None:
    store = small(tmp_path / "s")
    (tmp_path / "s/.salient/append.lock").unlink()
    (tmp_path / "s/.salient/append.lock").symlink_to("../zarr.json")
    with pytest.raises(StoreError, match=r"append\.lock: a symbolic link"):
        store.plan_append(make_samples(range(50, 60)))
    assert verify(ActivationStore.open(tmp_path / "s")).sound


def test_a_worker_of_a_finished_plan_is_told_so(tmp_path: Path) -> None:
    store = small(tmp_path / "s")
    plan = store.plan_append(make_samples(range(40, 60)))
    late = ActivationStore.open(tmp_path / "s").open_plan(plan.id)
    for index in range(len(plan.blocks)):
        write_one(store, plan, index)
    store.commit()
    with pytest.raises(StoreError, match=r"no plan .* committed in full or superseded"):
        late.samples(late.blocks[0])


def test_aliases_that_are_lost_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A plan from before the compaction that took its alias's row: put back by hand."""
    store = small(tmp_path / "s")
    folder = tmp_path / "s/.salient"
    plan = store.plan_append(pa.table({"id": ["other3"], "text": ["text 3"]}))
    store.release()
    shutil.copytree(folder / "plans", tmp_path / "plans")
    shutil.copy(folder / "active.json", tmp_path / "active.json")
    drop_plan(tmp_path / "s", plan.id)
    store.delete(["id3"])
    compact(store)
    shutil.copytree(tmp_path / "plans", folder / "plans", dirs_exist_ok=True)
    shutil.copy(tmp_path / "active.json", folder / "active.json")
    store.commit()
    assert "1 ids are left out" in caplog.text and "append them again (other3)" in caplog.text
    append_all(tmp_path / "s", [pa.table({"id": ["id3"], "text": ["text 3"]})])
    assert ActivationStore.open(tmp_path / "s").positions(["id3"]).tolist() == [40]


def test_an_export_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = small(tmp_path / "s")
    before = sorted(path.name for path in tmp_path.iterdir())

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("store.upkeep.export.write_sample_chunks", full)
        with pytest.raises(OSError, match="No space"):
            export_archive(store, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    export_archive(store, tmp_path / "out")
    with pytest.raises(StoreError, match="exists already"):
        export_archive(store, tmp_path / "out")


def test_folders_that_are_closed_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = small(tmp_path / "s")

    def closed(path: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.listdir", closed)
    with pytest.raises(StoreError, match=r"snapshots: what is in it cannot be seen .*allow"):
        store.snapshots()
    monkeypatch.setattr("os.scandir", closed)
    with pytest.raises(StoreError, match=r"not writable"):
        store.delete(["id1"])


def test_each_part_of_the_index_is_read_once_after_a_delete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = small(tmp_path / "s", range(200))
    reads: list[str] = []
    own = LocalLocation.read

    def read(self: LocalLocation, path: str, **options: Any) -> bytes:
        reads.append(path)
        return own(self, path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(LocalLocation, "read", read)
        store.delete([f"id{i}" for i in range(0, 200, 5)])
    rows = Counter(path for path in reads if "/rows-" in path)
    assert max(rows.values()) <= 3  # once for the index before, once after, once for the slots
    assert verify(ActivationStore.open(tmp_path / "s")).sound


def test_authors_and_samples_to_come_are_found_too(tmp_path: Path) -> None:
    ActivationStore.create(tmp_path / "s", SCHEMA)
    append_all(tmp_path / "s", [with_authors(range(0, 20))])
    store = ActivationStore.open(tmp_path / "s")
    store.plan_append(with_authors(range(20, 30)))
    wanted = (["id1", "id25", "nobody"], ["author2", "Anonymous"])
    for dry_run in (True, False):
        report = delete_samples(store, wanted[0], authors=wanted[1], dry_run=dry_run)
        assert report.not_found(["nobody"]) == "id nobody and author Anonymous"
        num, report = report.deleted, replace(report, deleted=0, dry_run=False)
        assert report == DeleteReport(0, (), ("nobody",), ("Anonymous",))
        assert num > 2 and (store.positions(["id1"]) >= 0).all() == dry_run
    again = delete_samples(store, ["id1"], authors=["author2"])
    assert (again.deleted, again.deleted_before, again.not_found()) == (
        0,
        ("id1",),
        "author author2",
    )
    store.release()
