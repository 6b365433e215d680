"""Readers while a store changes under them: they go on, with what they saw or without what is gone.

What was deleted and compacted since is NaN; nothing is an error, and nothing another number.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store import ActivationStore, DamagedShardError, StoreError
from store.disk.location import LocalLocation
from store.layout.shards import ShardReader
from store.reading.reader import ActivationReader
from store.upkeep.compaction import compact
from store.upkeep.garbage import gc
from store.upkeep.inspection import verify
from tests.builders import store_changes
from tests.builders.forking import start
from tests.builders.store_changes import append, forty, read_some, texts
from tests.builders.store_processes import SCHEMA, values_of


def want(numbers: list[int], array: str = "ffn") -> np.ndarray:
    rows = SCHEMA.arrays[array].rows
    return values_of(SCHEMA, [f"id{n}" for n in numbers])[array][0].reshape(rows, -1).T


@pytest.fixture
def root(tmp_path: Path) -> Path:
    forty(tmp_path / "s")
    return tmp_path / "s"


def shrink(root: Path, *, keep: int = 1) -> None:
    """Delete some rows and all of slot 2, compact, and forget older snapshots."""
    store = ActivationStore.open(root)
    store.delete([*store_changes.GONE, "copy3"])
    compact(store)
    gc(store, keep=keep)


def check(store: ActivationStore, dead: set[int], num: int = 40) -> None:
    living = [n for n in range(num) if n not in dead]
    for values in (
        store.read_matrix(layer=0)[:num],
        store.read_features(layer=0, features=range(12))[:num],
        np.concatenate([view.copy() for _, view in store.iter_blocks(layer=0)])[:num],
    ):
        np.testing.assert_array_equal(values[living], want(living))
        assert np.isnan(values[sorted(dead)]).all()
    dataset = store.to_xarray()
    ids = [name for name in dataset["sample"].values if name in {f"id{n}" for n in living}]
    assert len(ids) == len(living)
    by_id = dataset.ffn[0].sel(sample=ids).values.reshape(12, -1).T
    np.testing.assert_array_equal(by_id, want([int(name[2:]) for name in ids]))
    count, mean, _ = store.moments(layer=0)
    assert count == len(living)
    np.testing.assert_allclose(mean, want(living).mean(0), rtol=1e-6)


DEAD = {1, 3, 21, 30, *range(32, 40)}


@pytest.mark.parametrize("opened", ["read before", "opened before", "pinned"])
def test_a_slot_is_replaced_or_emptied_under_a_reader(root: Path, opened: str) -> None:
    store = ActivationStore.open(root, snapshot="000003" if opened == "pinned" else None)
    if opened == "read before":
        store.read_matrix(layer=0), store.moments(layer=0)
    shrink(root)
    check(store, DEAD)
    append(root, texts(range(60, 70)))  # the emptied slot is filled on
    gc(ActivationStore.open(root), keep=1)
    check(store, DEAD)
    assert verify(ActivationStore.open(root)).sound


def test_manifests_of_old_snapshots_go(root: Path) -> None:
    store = ActivationStore.open(root)
    store.read_features(layer=0, features=[1])
    append(root, texts(range(60, 70)))  # a longer last slot, with a manifest of its own
    gc(ActivationStore.open(root), keep=1)
    check(store, set())
    compact(ActivationStore.open(root))
    fresh = ActivationStore.open(root)
    fresh.delete(["id33", "id62"])
    compact(fresh)
    check(store, {33})


@pytest.mark.parametrize("moment", range(12))
def test_a_compaction_between_two_reads(
    root: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shard is read before it, the manifest after it, or one part of that and then another."""
    reads, own = 0, LocalLocation.read_ranges

    def read_ranges(self: LocalLocation, *args: Any) -> int:
        nonlocal reads
        size = own(self, *args)
        reads += 1
        if reads == moment + 1:
            shrink(root)
        return size

    store = ActivationStore.open(root, check="always")
    assert store.num_living == 40
    monkeypatch.setattr(LocalLocation, "read_ranges", read_ranges)
    values = store.read_matrix(layer=0)
    alive = [n for n in range(40) if n not in DEAD]
    np.testing.assert_array_equal(values[alive], want(alive))
    rest = values[sorted(DEAD)]
    assert ((rest == want(sorted(DEAD))) | np.isnan(rest)).all()


@pytest.mark.parametrize("moment", range(8))
def test_a_compaction_while_the_index_is_read(
    root: Path, moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_changes.append(root, texts([5], ids=["copy5"], authors=["b"]))
    ActivationStore.open(root).delete(["copy5"])
    store_changes.append(root, texts([5], ids=["copy5"], authors=["c"]))
    ActivationStore.open(root).delete(["id5", "id3", "id34"])
    reads, own = 0, LocalLocation.read

    def read(self: LocalLocation, path: str, **options: Any) -> bytes:
        nonlocal reads
        content = own(self, path, **options)
        if path.endswith(".parquet"):
            reads += 1
            if reads == moment + 1:
                compact(ActivationStore.open(root))
        return content

    store = ActivationStore.open(root)
    monkeypatch.setattr(LocalLocation, "read", read)
    asked = ["copy5", "copy3", "copy17", "id5", "id3", "id34", "id33"]
    assert store.positions(asked).tolist() == [5, 3, 17, -1, -1, -1, 33]
    read_some(store, random.Random(0))


def test_verify_beside_a_compaction_that_empties_a_slot(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read the shard, and looks at its index next."""
    own, done = ActivationReader.read_committed, False

    def read_committed(self: ActivationReader, array: str, layer: int, slot: int) -> Any:
        nonlocal done
        values = own(self, array, layer, slot)
        if slot == 2 and not done:
            done = True
            shrink(root)
        return values

    store = ActivationStore.open(root)
    monkeypatch.setattr(ActivationReader, "read_committed", read_committed)
    report = verify(store)
    assert done and report.sound, report


def test_open_while_gc_removes_the_snapshot(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, busy = LocalLocation.read, False

    def read(self: LocalLocation, path: str, **options: Any) -> bytes:
        nonlocal busy
        if path.endswith(".json") and "snapshots/" in path and not busy:
            busy = True
            append(root, texts(range(80, 82)))
            gc(ActivationStore.open(root), keep=1)
        return own(self, path, **options)

    monkeypatch.setattr(LocalLocation, "read", read)
    assert ActivationStore.open(root).positions(["id80"]).tolist() == [40]


def test_labels_that_were_replaced_and_collected(root: Path) -> None:
    store = ActivationStore.open(root)
    pinned = ActivationStore.open(root, snapshot=store.snapshot_id)
    store_changes.label(root, shift=1)
    gc(ActivationStore.open(root), keep=1)
    assert store.labels("task")["label"][0].as_py() == 1.0
    assert store.to_xarray().label_task.values[0] == 1.0
    assert store.label_spec("task") == {"shift": 0}
    with pytest.raises(StoreError, match=r"gc has removed snapshot .* open a newer one"):
        pinned.labels("task")


def test_snapshots_while_gc_removes_them(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, reads = LocalLocation.read, 0

    def read(self: LocalLocation, path: str, **options: Any) -> bytes:
        nonlocal reads
        reads += 1
        if reads == 6:
            gc(ActivationStore.open(root), keep=1)
        return own(self, path, **options)

    store = ActivationStore.open(root)
    monkeypatch.setattr(LocalLocation, "read", read)
    assert store.snapshots()[-1].id == store.snapshot_id


def test_damage_is_an_error_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, own = 0, ShardReader.read_block

    def read_block(self: ShardReader, *args: Any) -> None:
        nonlocal reads
        reads += 1
        own(self, *args)

    monkeypatch.setattr(ShardReader, "read_block", read_block)
    shard = root / "ffn/c/0/0/0/1"
    content = bytearray(shard.read_bytes())
    content[5] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DamagedShardError, match="differs from its checksums"):
        ActivationStore.open(root).read_matrix(layer=0)
    assert reads <= 4


def change_for_a_while(root: Path, rounds: int) -> None:
    for number in range(rounds):
        first = 100 + 20 * number
        append(root, texts(range(first, first + 20)))
        append(root, texts([first], ids=[f"other{first}"], authors=["b"]))
        store = ActivationStore.open(root)
        ids = store.samples()["id"].to_pylist()
        store.delete([f"id{first}", *ids[: len(ids) // 3], *ids[-3:]])
        store_changes.label(root, shift=number)
        compact(store)
        gc(store, keep=1 + number % 2)
        assert verify(ActivationStore.open(root)).sound


def read_beside(root: Path, tmp_path: Path, change: Callable[[], None], *, readers: int) -> None:
    stop = tmp_path / "stop"
    processes = [start(store_changes.read_until, root, stop, seed) for seed in range(readers)]
    change()
    stop.touch()
    for process in processes:
        process.join()
        assert process.exitcode == 0


def test_readers_beside_compactions(root: Path, tmp_path: Path) -> None:
    read_beside(root, tmp_path, lambda: change_for_a_while(root, 6), readers=2)


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_readers_beside_many_compactions(root: Path, tmp_path: Path) -> None:
    read_beside(root, tmp_path, lambda: change_for_a_while(root, 60), readers=4)
