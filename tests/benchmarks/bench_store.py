"""Measure the activation store against raw file I/O, zarr-python, tensorstore and h5py.

    python tests/benchmarks/bench_store.py [--quick] [--json] [--dir DIR]   (Salient installed)

Measurements of one thing are interleaved and medians taken, so that other load on the machine
hits all engines alike; trust the ratios. With --json the last line is one JSON object with the keys
scan_direct, scan_xarray (throughput / raw file read of the same bytes, page cache warm),
amplification_direct, amplification_xarray (bytes read / bytes needed, from /proc/self/io),
durable_write (throughput / raw write + fsync), size_ratio (bytes on disk / payload) and sel_ms.
durable_write is write_block: checked, summarised and safe from a power cut when it returns; one
commit at the end publishes all blocks (durable_write_with_commit spreads its cost over them).

What is compared with what: the direct scan and its raw reference both fill one reused buffer;
xarray has to return new memory, so its raw reference is np.fromfile, which does too (the ratio to
the reused buffer is in the table as well: it is bound by the page faults of new memory, not by
reading). Checksums are verified on the first read of every row, which the table shows by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import tensorstore
import xarray as xr
import zarr

from store import ActivationStore, StoreSchema
from store.reading.codec import ZARRS_OWN, RowShardingCodec

Result = dict[str, float]
NUM_NEURONS = 30
NUM_LAYERS_READ = 4


def timed(call: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleave(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds per call, taking turns."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(timed(call))
    return {name: statistics.median(values) for name, values in times.items()}


def bytes_read_by(call: Callable[[], object]) -> int:
    """Bytes that a call asks the kernel for (all threads)."""

    def rchar() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = rchar()
    overhead = rchar() - before
    before = rchar()
    call()
    return rchar() - before - overhead


def evict(paths: list[Path]) -> None:
    """Drop clean files from the page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


@contextlib.contextmanager
def sharding_codec(name: str) -> Iterator[None]:
    """Choose zarr's sharding codec for a while."""
    with zarr.config.set({"codecs.sharding_indexed": name}):
        yield


def block_values(schema: StoreSchema, slot: int) -> np.ndarray:
    """One block of float16 activations; few distinct ones, many layers."""
    rng = np.random.default_rng(slot)
    shape = (1, len(schema.poolings), schema.neuron_size, schema.samples_per_shard)
    one = np.abs(rng.standard_normal(shape, dtype=np.float32)).astype(np.float16)
    return np.concatenate([one] * schema.num_layers)


def raw_write(directory: Path, values: np.ndarray, slot: int) -> None:
    """The least a durable writer must do: write and fsync each file, fsync the directory."""
    for layer, shard in enumerate(values):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        descriptor = os.open(directory / f"{layer}.{slot}", flags)
        view = memoryview(shard).cast("B")
        while len(view):
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
        os.close(descriptor)
    descriptor = os.open(directory, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def bench_write(root: Path, schema: StoreSchema, num_slots: int) -> tuple[ActivationStore, Result]:
    """Write a store block by block, then commit, taking turns with raw files."""
    count = num_slots * schema.samples_per_shard
    store = ActivationStore.create(root / "store", schema)
    names = [str(i) for i in range(count)]
    plan = store.plan_append(pa.table({"id": names, "text": names}))
    raw_directory = root / "raw"
    raw_directory.mkdir()
    ratios: dict[str, list[float]] = {"ours": [], "wide": []}
    raw_s, ours_s = [], []
    number = 0
    for block in plan.blocks:
        values = block_values(schema, block.slot)
        given = {"ours": values, "wide": values.astype(np.float32)}
        # A first write, not counted, uses up what a rested disk grants as a burst. Then pairs: what
        # is compared is written back to back, each first in turn, as the disk's speed drifts.
        raw_write(raw_directory, values, number := number + 1)
        for turn, what in enumerate(("ours", "ours", "wide", "wide")):
            number += 1
            calls = {
                "raw": partial(raw_write, raw_directory, values, number),
                what: partial(store.write_block, plan, block, {"ffn": given[what]}),
            }
            order = list(calls) if turn % 2 else list(calls)[::-1]
            seconds = {name: timed(calls[name]) for name in order}
            ratios[what].append(seconds["raw"] / seconds[what])
            if what == "ours":
                raw_s.append(seconds["raw"])
                ours_s.append(seconds["ours"])
        # All attempts but the last are this benchmark's own doing; removing them is no commit.
        attempts = sorted(plan.directory.glob(f"{block.slot:08d}-*"), key=os.path.getmtime)
        for attempt in attempts[:-1]:
            shutil.rmtree(attempt)
    commit_s = timed(store.commit)
    share = commit_s / num_slots
    with_commit = [raw / (ours + share) for raw, ours in zip(raw_s, ours_s, strict=True)]
    size = sum(p.stat().st_size for p in (root / "store").rglob("*") if p.is_file())
    payload = count * schema.bytes_per_sample
    shutil.rmtree(raw_directory)
    return store, {
        "durable_write": statistics.median(ratios["ours"]),
        "durable_write_from_float32": statistics.median(ratios["wide"]),
        "durable_write_with_commit": statistics.median(with_commit),
        "commit_ms": commit_s * 1e3,
        "raw_write_gb_s": payload / num_slots / statistics.median(raw_s) / 1e9,
        "size_ratio": size / payload,
    }


def bench_scan(store: ActivationStore, rounds: int) -> Result:
    """Read whole layers."""
    schema = store.schema
    root = store.location.root
    shape = (len(schema.poolings) * schema.neuron_size, schema.samples_per_shard)
    buffer = np.empty(shape, schema.dtype)
    slots = range(len(store.snapshot.slots))
    paths = {
        layer: [root / schema.arrays["ffn"].shard_path(layer, slot) for slot in slots]
        for layer in range(schema.num_layers)
    }
    layer = min(1, schema.num_layers - 1)

    def raw(layer: int = layer) -> None:
        for path in paths[layer]:
            descriptor = os.open(path, os.O_RDONLY)
            os.preadv(descriptor, [buffer], 0)
            os.close(descriptor)

    def raw_new() -> list[np.ndarray]:
        return [np.fromfile(path, schema.dtype) for path in paths[layer]]

    def direct(reader: ActivationStore = store, layer: int = layer) -> None:
        for _ in reader.iter_blocks(layer=layer, out=buffer):
            pass

    dataset = xr.open_zarr(root, chunks=None)
    lazy = store.to_xarray(text=False, dtype=None)
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(root / "ffn")},
        "recheck_cached_data": False,
    }
    opened = tensorstore.open(spec, read=True).result()
    always = ActivationStore.open(root, check="always")
    median = interleave(
        {
            "raw": raw,
            "direct": direct,
            "raw_new": raw_new,
            "xarray": lambda: dataset.ffn[layer].values,
            "to_xarray": lambda: lazy.ffn[layer].values,
            "checked": lambda: direct(always),
        },
        rounds,
    )
    slow = interleave({"raw": raw_new, "tensorstore": lambda: opened[layer].read().result()}, 1)
    with sharding_codec(ZARRS_OWN):
        own = xr.open_zarr(root, chunks=None)
        slow["zarr"] = timed(lambda: own.ffn[layer].values)
    np.testing.assert_array_equal(own.ffn[layer, 1, 5].values, dataset.ffn[layer, 1, 5].values)
    np.testing.assert_array_equal(opened[layer, 1, 5].read().result(), lazy.ffn[layer, 1, 5].values)
    cold_raw, cold_direct = [], []
    for number in range(schema.num_layers):
        evict(paths[number])
        cold_raw.append(timed(lambda number=number: raw(number)))
        evict(paths[number])
        fresh = ActivationStore.open(root)
        cold_direct.append(timed(lambda number=number, fresh=fresh: direct(fresh, number)))
    gigabytes = sum(path.stat().st_size for path in paths[layer]) / 1e9
    return {
        "scan_direct": median["raw"] / median["direct"],
        "scan_direct_with_checksums": median["raw"] / median["checked"],
        "scan_direct_cold_with_checksums": statistics.median(
            [a / b for a, b in zip(cold_raw, cold_direct, strict=True)]
        ),
        "scan_xarray": median["raw_new"] / median["xarray"],
        "scan_xarray_to_reused_buffer": median["raw"] / median["xarray"],
        "scan_to_xarray": median["raw_new"] / median["to_xarray"],
        "scan_tensorstore": slow["raw"] / slow["tensorstore"],
        "scan_zarr": slow["raw"] / slow["zarr"],
        "raw_read_gb_s": gigabytes / median["raw"],
        "raw_read_new_gb_s": gigabytes / median["raw_new"],
        "raw_read_cold_gb_s": gigabytes / statistics.median(cold_raw),
    }


def bench_salient(store: ActivationStore, rounds: int) -> Result:
    """Read scattered neurons of a few layers, and select some of one layer."""
    schema = store.schema
    root = store.location.root
    layers = range(min(NUM_LAYERS_READ, schema.num_layers))
    neurons = np.sort(np.random.default_rng(0).choice(schema.neuron_size, NUM_NEURONS, False))
    features = np.concatenate([neurons + p * schema.neuron_size for p in range(2)])
    needed = len(layers) * len(features) * store.num_samples * schema.itemsize

    def direct(reader: ActivationStore) -> None:
        for layer in layers:
            reader.read_features(layer=layer, features=features, dtype=schema.dtype)

    def through(dataset: xr.Dataset) -> None:
        for layer in layers:
            _ = dataset.ffn.sel(layer=layer, neuron=neurons).values

    fresh = ActivationStore.open(root)
    first = bytes_read_by(lambda: direct(fresh))
    again = bytes_read_by(lambda: direct(fresh))
    dataset = xr.open_zarr(root, chunks=None)
    dataset.ffn[0, 0, 0, :1].values  # noqa: B018  imports and codec set-up are not reading
    xarray_bytes = bytes_read_by(lambda: through(dataset))
    with sharding_codec(ZARRS_OWN):
        own = xr.open_zarr(root, chunks=None)
        own_s = timed(lambda: through(own))
    lazy = store.to_xarray(text=False, dtype=None)
    chunked = store.to_xarray(chunks={}, text=False, dtype=None)

    def select(source: xr.Dataset) -> Callable[[], object]:
        return lambda: source.ffn.sel(layer=1, neuron=neurons).values

    median = interleave(
        {
            "direct": lambda: direct(fresh),
            "xarray": lambda: through(dataset),
            "sel": select(dataset),
            "sel_to_xarray": select(lazy),
            "sel_dask": select(chunked),
        },
        rounds,
    )
    return {
        "amplification_direct": first / needed,
        "amplification_direct_again": again / needed,
        "amplification_xarray": xarray_bytes / needed,
        "salient_direct_ms": median["direct"] * 1e3,
        "salient_xarray_ms": median["xarray"] * 1e3,
        "salient_zarr_ms": own_s * 1e3,
        "sel_ms": median["sel"] * 1e3,
        "sel_to_xarray_ms": median["sel_to_xarray"] * 1e3,
        "sel_dask_ms": median["sel_dask"] * 1e3,
    }


def bench_h5py(root: Path, schema: StoreSchema) -> Result:
    """One slot of one layer in HDF5, sample-major, as others store activations."""
    values = block_values(schema, 0)[0].reshape(-1, schema.samples_per_shard)
    samples = np.ascontiguousarray(values.T)
    path = root / "samples.h5"
    neurons = np.sort(np.random.default_rng(0).choice(samples.shape[1], 2 * NUM_NEURONS, False))

    def write() -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=samples)
            file.flush()
            os.fsync(file.id.get_vfd_handle())

    def raw() -> None:
        raw_write(root, values[None], 0)

    writes = interleave({"raw": raw, "h5py": write}, 1)
    with h5py.File(path) as file:
        reads = interleave(
            {
                "raw": lambda: np.fromfile(root / "0.0", np.float16),
                "h5py": lambda: file["x"][:],
            },
            3,
        )
        salient = timed(lambda: file["x"][:, neurons])
    slots = 2 * NUM_LAYERS_READ
    return {
        "write_h5py": writes["raw"] / writes["h5py"],
        "scan_h5py": reads["raw"] / reads["h5py"],
        "salient_h5py_ms_estimate": salient * slots * 1e3,
    }


def bench_zarr_write(root: Path, schema: StoreSchema) -> Result:
    """One shard written by zarr-python and by tensorstore in the same format."""
    values = block_values(schema, 0)[:1]
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(root / "tensorstore")},
        "metadata": json.loads(
            (root / "store" / "ffn" / "zarr.json").read_text().replace("storage_trans", "x")
        ),
    }
    spec["metadata"] = {
        key: spec["metadata"][key]
        for key in ("shape", "data_type", "chunk_grid", "codecs", "fill_value")
    }
    spec["metadata"]["shape"] = list(values.shape)

    def by_tensorstore() -> None:
        array = tensorstore.open(spec, create=True, delete_existing=True).result()
        array[...].write(values).result()

    def by_zarr() -> None:
        array = zarr.create_array(
            root / "zarr",
            shape=values.shape,
            shards=values.shape,
            chunks=(1, 1, 1, values.shape[-1]),
            dtype=values.dtype,
            compressors=None,
            overwrite=True,
        )
        array[...] = values

    raw_s = timed(lambda: raw_write(root, values, 0))
    result = {"write_tensorstore": raw_s / timed(by_tensorstore)}
    with sharding_codec(ZARRS_OWN):
        result["write_zarr"] = raw_s / timed(by_zarr)
    return result


def run(root: Path, *, quick: bool) -> tuple[Result, Result]:
    """All measurements: RoBERTa-shaped, and (unless quick) GPT2-XL-shaped."""
    layers = 4 if quick else 12
    roberta = StoreSchema(num_layers=layers, neuron_size=3072, samples_per_shard=4096)
    result: Result = {}
    (root / "roberta").mkdir()
    store, written = bench_write(root / "roberta", roberta, 2)
    rounds = 9 if quick else 15
    result |= written | bench_scan(store, rounds) | bench_salient(store, rounds)
    result |= bench_h5py(root / "roberta", roberta)
    result |= bench_zarr_write(root / "roberta", roberta)
    shutil.rmtree(root / "roberta")
    large: Result = {}
    if not quick:
        gpt2_xl = StoreSchema(num_layers=4, neuron_size=6400, samples_per_shard=2048)
        (root / "gpt2").mkdir()
        store, written = bench_write(root / "gpt2", gpt2_xl, 4)
        large = written | bench_scan(store, rounds) | bench_salient(store, rounds)
    return result, large


TABLE = (
    ("engine", "write+fsync", "layer scan", "salient ms", "read/needed"),
    ("direct", "durable_write", "scan_direct", "salient_direct_ms", "amplification_direct"),
    ("xr.open_zarr + codec", "", "scan_xarray", "salient_xarray_ms", "amplification_xarray"),
    ("store.to_xarray(None)", "", "scan_to_xarray", "", ""),
    ("zarr-python alone", "write_zarr", "scan_zarr", "salient_zarr_ms", ""),
    ("tensorstore", "write_tensorstore", "scan_tensorstore", "", ""),
    ("h5py, sample-major", "write_h5py", "scan_h5py", "salient_h5py_ms_estimate", ""),
)


def print_table(title: str, result: Result) -> None:
    """The comparison (ratios to raw file I/O), then every figure."""
    print(f"\n{title}: throughput relative to raw file I/O; salient = 30 neurons x 4 layers")
    print("".join(f"{name:<24}" for name in TABLE[0]))
    for name, *keys in TABLE[1:]:
        cells = [f"{result[key]:.3g}" if key in result else "-" for key in keys]
        print(f"{name:<24}" + "".join(f"{cell:<24}" for cell in cells))
    for key, value in result.items():
        print(f"  {key:<34} {value:.4g}")


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="smaller sizes, under 45 s")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    parser.add_argument(
        "--dir", type=Path, default=None, help="where to write (default: temporary)"
    )
    options = parser.parse_args()
    assert zarr.config.get("codecs.sharding_indexed").endswith(RowShardingCodec.__name__)
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="bench-store-") as directory:
        result, large = run(Path(directory), quick=options.quick)
    print_table("RoBERTa-shaped", result)
    if large:
        print_table("GPT2-XL-shaped", large)
    if options.json:
        print(json.dumps(result | {f"gpt2_xl_{key}": value for key, value in large.items()}))


if __name__ == "__main__":
    main()
