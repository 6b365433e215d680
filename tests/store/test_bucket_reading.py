"""Reading of a bucket: the same as of the disk, by few requests, and beside a compaction."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

from store import ActivationStore, DamagedShardError, StoreError, StoreSchema, open_dataset
from store.disk import ObjectLocation, flight, locate
from store.errors import StoreBusy, StoreInputError
from store.layout import ShardReader, merge_ranges, shard_parts
from store.reading import codec
from store.reading.view import StoreView
from store.reading.zarrstore import SnapshotStore
from store.records import load_snapshot
from store.records.samples import text_hash
from store.upkeep.compaction import compact
from tests.builders.bucket_processes import save_mean
from tests.builders.bucket_store import to_bucket
from tests.builders.bucket_verbs import at_request
from tests.builders.buckets import BucketServer, set_environment
from tests.builders.faults import Fault, FaultProxy
from tests.builders.forking import start
from tests.builders.store_dataset import DELETED, SCHEMA, make
from tests.builders.store_processes import values_of


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("reading") / "s")


@pytest.fixture
def url(path: Path, memory_bucket: str) -> str:
    to_bucket(path, memory_bucket)
    return memory_bucket


# -- which ranges are asked for -------------------------------------------------------------------


def fewest(starts: np.ndarray, stops: np.ndarray, waste: float) -> int:
    """How few ranges there can be, by trying all ways to close gaps."""
    gaps, allowed = starts[1:] - stops[:-1], waste * (stops - starts).sum()
    ways = ([n for n in range(len(gaps)) if way >> n & 1] for way in range(1 << len(gaps)))
    return len(starts) - max(len(way) for way in ways if gaps[way].sum() <= allowed)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 90)), max_size=8),
    st.sampled_from([0, 0.05, 0.5]),
)
def test_ranges_are_as_few_as_the_waste_allows(cuts: list[tuple[int, int]], waste: float) -> None:
    edges = np.cumsum(np.array(cuts, np.int64).ravel())
    starts, stops = edges[0::2], edges[1::2]
    begun, ended = merge_ranges(starts, stops, waste=waste)
    needed = int((stops - starts).sum())
    assert (ended - begun).sum() <= (1 + waste) * needed
    inside = np.searchsorted(begun, starts, side="right") - 1
    assert ((begun[inside] <= starts) & (stops <= ended[inside])).all()
    if len(starts):
        assert len(begun) == fewest(starts, stops, waste)


def shards(rows: int, count: int, url: str) -> tuple[ShardReader, np.ndarray]:
    location = locate(url)
    assert isinstance(location, ObjectLocation)
    block = np.arange(rows * 64, dtype=np.uint16).reshape(rows, 64).view(np.float16)
    location.put("a/shard", shard_parts(block))

    def damaged(path: str, what: str) -> DamagedShardError:
        return DamagedShardError(f"{path} {what}")

    reader = ShardReader(location, samples_per_shard=64, dtype="float16", damaged=damaged)
    return reader, block[:, :count]


@pytest.mark.parametrize(
    ("count", "wanted", "requests", "waste"),
    [
        (64, [3, 4, 5, 90], 2, 0),  # neighbours are one
        (64, [*range(0, 30), *range(31, 60)], 1, 1),  # a row between is 1 of 59
        (64, [0, 2, 4], 3, 0),  # … and here one of three
        (10, [3, 4, 90], 3, 0),  # rows of the last slot have gaps
        (63, [3, 4, 5], 1, 0),  # … small ones here
        (10, list(range(40)), 1, None),  # … and a long run is one range nevertheless
        (64, [], 0, 0),
    ],
)
def test_rows_are_fetched_by_few_requests(
    memory_bucket: str, count: int, wanted: list[int], requests: int, waste: int | None
) -> None:
    reader, want = shards(100, count, memory_bucket)
    out = np.empty((len(wanted), count), np.float16)
    reader.read_rows("a/shard", 100, np.array(wanted, np.int64), count, out)
    np.testing.assert_array_equal(out.view(np.uint16), want[wanted].view(np.uint16))
    assert reader.requests == requests
    if waste == 0:
        assert reader.bytes_read <= 1.05 * out.nbytes
    elif waste is not None:
        assert reader.bytes_read == out.nbytes + waste * 128
    with pytest.raises(DamagedShardError, match="ends before byte"):
        reader.fetch_block("a/shard", 100, 90, 200)


def test_a_shard_alone_is_fetched_in_parts(
    memory_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.layout.shards.PART_BYTES", 1000)
    reader, want = shards(100, 64, memory_bucket)
    for at_once, requests in ((1, 1), (4, 4), (99, 12)):
        reader.requests = 0
        block = reader.fetch_block("a/shard", 100, at_once=at_once)
        np.testing.assert_array_equal(block.view(np.uint16), want.view(np.uint16))
        assert reader.requests == requests
    with pytest.raises(DamagedShardError, match=r"has 14,404 bytes instead of 14,548"):
        reader.fetch_block("a/shard", 101)


# -- the same as of the disk ----------------------------------------------------------------------


def test_a_bucket_reads_as_its_disk(path: Path, url: str) -> None:
    """Every way of reading gives the disk's bytes, deleted samples and types included."""
    disk, there = ActivationStore.open(path), ActivationStore.open(url)
    assert there.num_living == disk.num_living and there.tasks() == disk.tasks()
    assert there.samples().equals(disk.samples())
    some = [37 - n for n in range(0, 37, 5) if f"id{37 - n}" not in DELETED]
    for name, layout in SCHEMA.arrays.items():
        for layer in layout.layers:
            for dtype in ("float16", "float32"):
                want = disk.read_matrix(name, layer=layer, dtype=dtype)
                np.testing.assert_array_equal(
                    there.read_matrix(name, layer=layer, dtype=dtype), want
                )
            found = [(at, block.copy()) for at, block in there.iter_blocks(name, layer=layer)]
            assert [at for at, _ in found] == [0, 16, 32]
            np.testing.assert_array_equal(np.concatenate([b for _, b in found]), want)
            buffer = np.empty((layout.rows, 16), "float16")
            for (_, block), (_, again) in zip(
                found, there.iter_blocks(name, layer=layer, out=buffer), strict=True
            ):
                assert np.shares_memory(again, buffer)
                np.testing.assert_array_equal(again, block)
            picked = there.read_features(name, layer=layer, features=[7, 2, 3], samples=some)
            np.testing.assert_array_equal(picked, want[some][:, [7, 2, 3]])
            for ours, theirs in zip(
                there.moments(name, layer=layer), disk.moments(name, layer=layer), strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("chunks", [None, {}, "auto"])
@pytest.mark.parametrize("check", ["rows", "first", "always", "never"])
def test_a_buckets_dataset_is_its_disks(path: Path, url: str, chunks: Any, check: str) -> None:
    disk, there = open_dataset(path), open_dataset(url, chunks=chunks, check=check)
    xr.testing.assert_identical(there.load(), disk.load())
    there = open_dataset(url, chunks=chunks, check=check)
    pairs = [(2, 4), (0, 1), (2, 0)]
    xr.testing.assert_identical(
        there.salient.features(pairs).load(), disk.salient.features(pairs).load()
    )
    for by in (None, "label_mood", "created_at.date"):
        np.testing.assert_allclose(
            there.salient.mean(by=by), disk.salient.mean(by=by), rtol=0 if chunks is None else 1e-6
        )


def test_a_disks_store_copied_to_a_bucket_opens(path: Path, memory_bucket: str) -> None:
    """Slots keep their names there, as in copies made before Salient wrote to buckets."""
    location = locate(memory_bucket)
    assert isinstance(location, ObjectLocation)
    for file in path.rglob("*"):
        if file.is_file():
            location.put(str(file.relative_to(path)), [file.read_bytes()])
    xr.testing.assert_identical(open_dataset(memory_bucket).load(), open_dataset(path).load())
    copied = ActivationStore.open(memory_bucket).zarr_store()
    xr.testing.assert_identical(xr.open_zarr(copied).load(), xr.open_zarr(path).load())


def test_an_open_dataset_goes_to_other_processes(
    path: Path, bucket: str, bucket_server: BucketServer, tmp_path: Path
) -> None:
    """Of a real server: what travels is the address; credentials are looked up there."""
    to_bucket(path, bucket)
    lazy = open_dataset(bucket)
    want = lazy.ffn.sel(layer=1).mean("sample").values
    sent = pickle.dumps(lazy)
    assert b"not-so-secret" not in sent
    process = start(save_mean, sent, bucket_server.environment(), tmp_path / "mean.npy")
    process.join(120)
    np.testing.assert_array_equal(np.load(tmp_path / "mean.npy"), want)
    np.testing.assert_array_equal(want, open_dataset(path).ffn.sel(layer=1).mean("sample").values)


# -- how much is read -----------------------------------------------------------------------------


def wide(path: Path) -> Path:
    """Four full shards of two layers of 300 neurons."""
    schema = StoreSchema(num_layers=2, neuron_size=300, samples_per_shard=64)
    store = ActivationStore.create(path, schema)
    ids = [f"id{n}" for n in range(256)]
    plan = store.plan_append(pa.table({"id": ids, "text": ids}))
    for block in plan.blocks:
        number = len(block)
        store.write_block(
            plan,
            block,
            values_of(schema, plan.samples(block)["id"].to_pylist()),
            n_tokens=np.ones(number, np.int32),
            truncated=np.zeros(number, bool),
        )
    store.commit()
    return path


def test_a_salient_slice_reads_what_it_needs(tmp_path: Path, memory_bucket: str) -> None:
    path = wide(tmp_path / "s")
    to_bucket(path, memory_bucket)
    there = ActivationStore.open(memory_bucket)
    features = [3, 4, 5, 40, 300, 341, 599]
    got = there.read_features(layer=1, features=features)
    want = ActivationStore.open(path).read_features(layer=1, features=features)
    np.testing.assert_array_equal(got, want)
    shards, windows = there.reader.shards, there.reader.windows
    assert there.bytes_read <= 1.05 * len(features) * 256 * 2
    assert shards.requests == 4 * 5  # a request for each run of rows and shard, and no other
    assert windows.requests <= 4 * 2  # a manifest's first bytes, and the layer's checksums
    there.read_features(layer=1, features=features)
    assert windows.requests <= 4 * 2


def test_a_server_is_asked_for_nothing_else(
    tmp_path: Path, bucket: str, bucket_server: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a proxy sees it: one GET a range and no HEAD, also where a server is busy for a moment."""
    path = wide(tmp_path / "s")
    to_bucket(path, bucket)
    with FaultProxy(bucket_server.endpoint) as proxy:
        set_environment(monkeypatch, bucket_server.environment(proxy.endpoint))
        lazy = open_dataset(bucket)
        pairs = [(0, 3), (1, 4), (1, 200)]
        proxy.reset_counts()
        proxy.plan(Fault("answer", key="/ffn/c/", times=2))
        got = lazy.salient.features(pairs)
        shards = [seen for seen in proxy.log if "/ffn/c/" in seen.path and seen.status == 206]
        assert {seen.method for seen in proxy.log} == {"GET"}
        assert len(shards) == 4 * 6 and sum(seen.sent for seen in shards) == got.nbytes // 2
    xr.testing.assert_identical(got, open_dataset(path).salient.features(pairs))


def test_a_scan_holds_few_shards(
    tmp_path: Path, memory_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards are fetched ahead, but no more than the memory given for it."""
    path = wide(tmp_path / "s")
    to_bucket(path, memory_bucket)
    there = ActivationStore.open(memory_bucket)
    monkeypatch.setattr(flight, "AHEAD_BYTES", 3 * 600 * 64 * 2)
    assert there.reader.lanes(600) == 3
    blocks = there.iter_blocks(layer=0)
    next(blocks)
    blocks.close()
    assert there.reader.shards.requests <= 4
    begun = []
    steps = flight.in_order(lambda job: begun.append(job) or job, range(50), 3)
    assert [next(steps) for _ in range(5)] == list(range(5)) and len(begun) <= 8
    steps.close()
    assert len(begun) <= 8


# -- beside a compaction, and damage --------------------------------------------------------------


def test_readers_go_on_when_shards_are_replaced(path: Path, memory_bucket: str) -> None:
    """What was opened before a compaction reads the same after it, of objects that came since."""
    make(memory_bucket)
    before, pinned = (ActivationStore.open(memory_bucket, name) for name in (None, "000005"))
    lazy, zarred = open_dataset(memory_bucket), xr.open_zarr(before.zarr_store())
    want = open_dataset(path).load()
    compact(ActivationStore.open(memory_bucket))
    gone = [record.manifests[0] for record in before.snapshot.slots]
    assert not {meta.path for meta in before.location.list()} & {*gone}
    for store in (before, pinned):
        assert store.samples()["id"].to_pylist() == want["sample"].values.tolist()
        values = ActivationStore.open(path).read_matrix(layer=1)
        np.testing.assert_array_equal(store.read_matrix(layer=1), values)
    assert before.labels("mood").equals(ActivationStore.open(path).labels("mood"))
    np.testing.assert_array_equal(lazy.ffn.values, want.ffn.values)
    assert lazy.text.values.tolist() == want.text.values.tolist()
    alive = [n for n in range(38) if f"id{n}" not in DELETED]
    np.testing.assert_array_equal(zarred.ffn.values[..., alive], want.ffn.values)


USES: dict[str, Callable[[ActivationStore], Any]] = {
    "samples": lambda store: store.samples().to_pylist(),
    "labels": lambda store: store.labels("mood").to_pylist(),
    "hashes": lambda store: store.positions_by_hash([text_hash("text 5 ü")]).tolist(),
    "dataset": lambda store: store.to_xarray()["text"].values.tolist(),
}


def test_an_index_in_memory_outlives_a_compaction(tmp_path: Path, memory_bucket: str) -> None:
    """What it has not read yet comes of the tables that came since: as of a disk, all the same."""
    found = []
    for place in (tmp_path / "s", memory_bucket):
        make(place)
        opened = {use: ActivationStore.open(place) for use in USES}
        for store in opened.values():
            store.positions(["id3"])
        other = ActivationStore.open(place)
        other.delete(["id7"])
        compact(other)
        found.append({use: ask(opened[use]) for use, ask in USES.items()})
    on_disk, in_bucket = found
    assert in_bucket == on_disk
    assert len(in_bucket["samples"]) == 35 and in_bucket["labels"] and in_bucket["hashes"][0] >= 0


def test_damage_is_an_error_and_named(path: Path, url: str) -> None:
    location = locate(url)
    assert isinstance(location, ObjectLocation)
    shards = [meta.path for meta in location.list("ffn/c/1")]
    content = bytearray(location.read(shards[1]))
    content[5] ^= 1
    location.put(shards[1], [bytes(content)])
    with pytest.raises(DamagedShardError, match=r"slot 1\).*verify"):
        ActivationStore.open(url).read_matrix(layer=1)
    location.delete([shards[2]])
    there = ActivationStore.open(url, check="never")
    with pytest.raises(DamagedShardError, match="is missing"):
        there.read_features(layer=1, features=[1])
    with pytest.raises(StoreError, match="is missing"):
        xr.open_zarr(there.zarr_store()).ffn.load()


def test_threads_share_an_index_beside_a_compaction(memory_bucket: str) -> None:
    """One has gone on to the newest tables while another still asks for the ones before."""
    make(memory_bucket)
    index = ActivationStore.open(memory_bucket).index
    other = ActivationStore.open(memory_bucket)
    other.delete(["id7"])
    compact(other)
    with at_request(0, lambda: index.rows(["text"])):
        texts = index.rows(["text"])["text"].to_pylist()
    assert texts[6] == "text 6 ü" and texts[7] is None


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [(503, StoreBusy, "cannot be reached"), (403, StoreInputError, "access refused")],
)
def test_who_may_not_look_at_the_newest_says_no_damage(
    path: Path,
    fault_proxy: FaultProxy,
    bucket: str,
    status: int,
    error: type[StoreError],
    said: str,
) -> None:
    """A shard is missing, and whether a compaction removed it is not known."""
    to_bucket(path, bucket)
    place = ObjectLocation(bucket, {"allow_http": True, "retry_timeout_s": 0.1})
    there = ActivationStore(place, load_snapshot(place), check="never", pinned=False)
    place.delete([there.reader.shard_of("ffn", 1, 1) or ""])
    fault_proxy.plan(Fault("answer", key="list-type", status=status, times=None))
    with pytest.raises(error, match=said):
        there.read_matrix(layer=1)
    with pytest.raises(error, match=said):
        there.reader.shard_after("ffn", 1, 1, "")


# -- for readers of Zarr --------------------------------------------------------------------------


def test_a_snapshot_is_the_disks_zarr(path: Path, url: str) -> None:
    """Documents and coordinates are the disk's byte for byte, and so is what zarr reads."""
    there = ActivationStore.open(url)
    made = there.zarr_store()
    assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301  as dask's workers receive it
    group, disk = zarr.open_group(made, mode="r"), zarr.open_group(str(path), mode="r")
    assert sorted(group.array_keys()) == sorted(disk.array_keys())
    for name, array in disk.arrays():
        np.testing.assert_array_equal(group[name][...], array[...])
    ffn = group["ffn"]
    assert ffn.vindex[[0, 2], [1, 0], [4, 4], [37, 2]].tolist() == (
        disk["ffn"].vindex[[0, 2], [1, 0], [4, 4], [37, 2]].tolist()
    )
    for file in sorted(path.rglob("*")):
        key = str(file.relative_to(path))
        if file.is_file() and not key.startswith(".salient"):
            assert bytes_of(made, key) == file.read_bytes(), key
    listed = set(keys_of(made))
    assert listed == {
        str(file.relative_to(path))
        for file in path.rglob("*")
        if file.is_file() and not str(file.relative_to(path)).startswith(".salient")
    }
    xr.testing.assert_identical(xr.open_zarr(made).load(), xr.open_zarr(path).load())


def bytes_of(store: Any, key: str) -> bytes | None:
    from zarr.core.buffer import default_buffer_prototype
    from zarr.core.sync import sync

    found = sync(store.get(key, default_buffer_prototype()))
    return None if found is None else found.to_bytes()


def keys_of(store: Any) -> list[str]:
    from zarr.core.sync import sync

    async def listed() -> list[str]:
        return [key async for key in store.list()]

    return sync(listed())


def test_a_slot_is_emptied_while_zarr_reads_it(
    memory_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a shard's index and its rows: they are deleted, and nothing is damaged."""
    make(memory_bucket)
    lazy = xr.open_zarr(ActivationStore.open(memory_bucket).zarr_store()).ffn.isel(layer=1)
    parse, slot = codec._parse_index, [f"id{number}" for number in range(16)]

    def empties(*args: Any) -> Any:
        if slot:
            other = ActivationStore.open(memory_bucket)
            other.delete([name for name in slot if name not in DELETED])
            slot.clear()
            compact(other)
        return parse(*args)

    monkeypatch.setattr(codec, "_parse_index", empties)
    values = lazy.values
    assert np.isnan(values[..., :16]).all() and np.isfinite(values[..., 16:20]).all()


@pytest.mark.parametrize("kept", [0, 40, -300])
def test_a_shard_cut_short_below_zarr_is_named(path: Path, bucket: str, kept: int) -> None:
    """As by every other reader, wherever it ends."""
    to_bucket(path, bucket)
    there = ActivationStore.open(bucket)
    shard = there.reader.shard_of("ffn", 1, 1)
    assert shard is not None and isinstance(there.location, ObjectLocation)
    there.location.put(shard, there.location.read(shard)[:kept])
    with pytest.raises(DamagedShardError, match=r"is cut short \(slot 1\).*verify"):
        xr.open_zarr(there.zarr_store()).ffn.isel(layer=1, neuron=[4]).load()


def test_what_fails_below_zarr_is_said_as_elsewhere(
    path: Path, fault_proxy: FaultProxy, bucket: str
) -> None:
    to_bucket(path, bucket)
    place = ObjectLocation(bucket, {"allow_http": True, "retry_timeout_s": 0.2})
    there = StoreView(place, load_snapshot(place), check="never", pinned=True)
    ffn = zarr.open_group(SnapshotStore(there), mode="r")["ffn"]
    fault_proxy.plan(Fault("reset", key="/ffn/c/", times=2))
    assert np.isfinite(ffn[0, 0, :, :2]).all()
    for fault, error in (
        (Fault("reset", times=None), StoreBusy),
        (Fault("answer", status=403, times=None), StoreInputError),
    ):
        fault_proxy.clear()
        fault_proxy.plan(fault)
        with pytest.raises(error, match=f"{bucket}/ffn/c/") as raised:
            ffn[...]
        assert "\n" not in str(raised.value)
