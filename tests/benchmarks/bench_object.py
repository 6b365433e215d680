"""Measure reads of a store in a bucket: what they ask a server for, and how long they take.

    python tests/benchmarks/bench_object.py [--quick] [--json] [--dir DIR]   (Salient installed)
                                            [--texts N] [--layers L]

RoBERTa's shape (3,072 neurons, two poolings, float16, shards of 4,096 texts and 50 MB), simulated
numbers, in moto's S3 server, which is a process of its own on this machine: it is the slowest part,
so trust the ratios. Requests and bytes are counted by a proxy between both, times are taken without
it. The sides take turns, medians are taken. The last line of --json is one object, with the keys

    salient_bytes         bytes of shards read over those needed, of 30 neurons of several layers
    salient_requests      requests for shards over runs of neighbouring rows
    salient_metadata_bytes, salient_metadata_requests   the same of manifests (checksums), the first
                          time; `..._again`: the second time
    salient_latency       waits one after the other: what it takes longer where every answer takes
                          50 ms more, over 50 ms
    scan                  plain parallel GETs of the same objects: seconds over ours, layer by layer
    scan_matrix, scan_mean, scan_dask   the same of `read_matrix`, `ds.salient.mean()`, and dask's
                          mean with chunks={}
    scan_mb_s, plain_mb_s megabytes a second
    memory_mb             memory at its peak beyond what there was, of scans of a quarter, a half
                          and all of a layer, each in a process of its own
    open_requests         requests to open the store and its Dataset

Plain GETs take whole objects, as many at a time as ours, and do nothing with them; ours compares
checksums too, `scan_unchecked` does not.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from machine import describe_machine, machine_line

sys.path.insert(0, str(Path(__file__).parents[2]))
from store import ActivationStore, StoreSchema, open_dataset
from store.disk import ObjectLocation
from store.layout import merge_runs
from tests.builders.bucket_store import to_bucket
from tests.builders.buckets import BucketServer, serve_buckets
from tests.builders.faults import Fault, FaultProxy

NUM_NEURONS = 30
LATENCY_S = 0.05
Call = Callable[[], object]


def write(path: Path, width: int, size: int, layers: int, texts: int) -> None:
    """A store of simulated activations: the same numbers in every shard."""
    schema = StoreSchema(num_layers=layers, neuron_size=width, samples_per_shard=size)
    store = ActivationStore.create(path, schema)
    rng = np.random.default_rng(0)
    one = np.abs(rng.standard_normal((1, 2, width, size), np.float32)).astype(np.float16)
    ids = [str(10**18 + number) for number in range(texts)]
    plan = store.plan_append(pa.table({"id": ids, "text": [f"text {name}" for name in ids]}))
    for block in plan.blocks:
        values = np.broadcast_to(one, (layers, 2, width, size))[..., : len(block)]
        tokens = np.full(len(block), 20, np.int32)
        store.write_block(
            plan, block, {"ffn": values}, n_tokens=tokens, truncated=np.zeros(len(block), bool)
        )
    store.commit()


def timed(call: Call) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


# -- what is asked for ----------------------------------------------------------------------------


def salient_pairs(layers: int, width: int) -> list[tuple[int, int]]:
    """30 neurons of all layers, scattered, of which some are neighbours."""
    rng = np.random.default_rng(1)
    some = rng.choice(width - 1, NUM_NEURONS // 2, replace=False)
    units = [unit for one in some.tolist() for unit in (one, one + 1 if one % 5 == 0 else one // 2)]
    return sorted({(number % layers, unit) for number, unit in enumerate(units)})


def count_requests(server: BucketServer, url: str) -> dict[str, float]:
    """Rows about requests and bytes, as a proxy sees them."""
    with FaultProxy(server.endpoint) as proxy:
        os.environ.update(server.environment(proxy.endpoint))
        store = ActivationStore.open(url)
        dataset = store.to_xarray()
        result = {"open_requests": float(sum(proxy.requests.values()))}
        schema = store.schema
        pairs = salient_pairs(schema.num_layers, schema.neuron_size)
        rows = [
            np.unique(
                [p * schema.neuron_size + u for at, u in pairs if at == layer for p in (0, 1)]
            )
            for layer in range(schema.num_layers)
        ]
        needed = sum(map(len, rows)) * store.num_samples * schema.itemsize
        runs = sum(len(merge_runs(some)) for some in rows) * len(store.snapshot.slots)
        for ending in ("", "_again"):
            proxy.reset_counts()
            dataset.salient.features(pairs)
            shards = [seen for seen in proxy.log if "/ffn/c/" in seen.path]
            others = [seen for seen in proxy.log if "/ffn/c/" not in seen.path]
            assert {seen.method for seen in proxy.log} == {"GET"}
            result |= {
                f"salient_metadata_requests{ending}": len(others) / runs,
                f"salient_metadata_bytes{ending}": sum(seen.sent for seen in others) / needed,
            }
        result["salient_bytes"] = sum(seen.sent for seen in shards) / needed
        result["salient_requests"] = len(shards) / runs
        result["salient_requests_number"] = float(len(shards))
        quick = timed(lambda: dataset.salient.features(pairs))
        proxy.plan(Fault("delay", times=None, seconds=LATENCY_S))
        slow = timed(lambda: dataset.salient.features(pairs))
        result["salient_latency"] = (slow - quick) / LATENCY_S
    os.environ.update(server.environment())
    return result


# -- how long it takes ----------------------------------------------------------------------------


def plain_gets(store: ActivationStore, layer: int, at_once: int) -> Call:
    """GETs of a layer's objects, so many at a time."""
    import obstore

    assert isinstance(store.location, ObjectLocation)
    objects = store.location.objects
    slots = range(len(store.snapshot.slots))
    keys = [store.location.key(str(store.reader.shard_of("ffn", layer, slot))) for slot in slots]

    def get(key: str) -> int:
        return len(obstore.get(objects, key).bytes())

    def all_of_them() -> None:
        with ThreadPoolExecutor(at_once) as pool:
            assert min(pool.map(get, keys)) > 0

    return all_of_them


def scan_layer(store: ActivationStore, layer: int = 0, slots: int | None = None) -> None:
    """Go through a layer, or its first slots."""
    for number, _ in enumerate(store.iter_blocks(layer=layer), 1):
        if number == slots:
            break


def time_scans(url: str, rounds: int) -> dict[str, float]:
    """Rows about the time of whole layers; each way takes its turn with plain GETs."""
    store, unchecked = ActivationStore.open(url), ActivationStore.open(url, check="never")
    always = ActivationStore.open(url, check="always")
    dataset = open_dataset(url, check="always").sel(layer=[0])
    chunked = open_dataset(url, check="always", chunks={}).sel(layer=0)
    layout = store.schema.array("ffn")
    plain = plain_gets(store, 0, store.reader.lanes(layout.rows))
    ways: dict[str, Call] = {
        "scan": lambda: scan_layer(always),
        "scan_unchecked": lambda: scan_layer(unchecked),
        "scan_matrix": lambda: always.read_matrix(layer=0, dtype="float16"),
        "scan_mean": lambda: dataset.salient.mean(),
        "scan_dask": lambda: chunked.ffn.mean("sample", skipna=False).compute(),
    }
    result = {}
    size = len(store.snapshot.slots) * layout.rows * store.reader.shards.row_bytes / 1e6
    for name, call in ways.items():
        timed(plain), timed(call)
        pairs = [(timed(plain), timed(call)) for _ in range(rounds)]
        theirs, ours = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
        result[name] = theirs / ours
        print(f"  {name:<18}{result[name]:>6.2f} {size / ours:>8.0f} MB/s", flush=True)
        if name == "scan":
            result |= {"scan_mb_s": size / ours, "plain_mb_s": size / theirs}
    return result


# -- memory ---------------------------------------------------------------------------------------


def memory_mb(what: str) -> float:
    """A figure of Linux's about this process: VmRSS, VmHWM (the peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{what}:"))) / 1024


def peak_mb(url: str, slots: int, answer: Any) -> None:
    """Send the memory that a scan takes at its peak; run in a process of its own."""
    store = ActivationStore.open(url)
    scan_layer(store, 1, slots=1)
    before = memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    scan_layer(store, 0, slots=slots)
    answer.put(memory_mb("VmHWM") - before)


def measure_memory(url: str) -> list[float]:
    """Of scans of a quarter, a half and all of a layer."""
    number, context = len(ActivationStore.open(url).snapshot.slots), multiprocessing
    peaks = []
    for slots in (number // 4, number // 2, number):
        answer = context.get_context("spawn").Queue()
        process = context.get_context("spawn").Process(target=peak_mb, args=(url, slots, answer))
        process.start()
        peaks.append(answer.get(timeout=600))
        process.join()
    return peaks


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="shards of 6 MB, 24 a layer")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    parser.add_argument("--dir", type=Path, help="where to write (default: temporary)")
    parser.add_argument("--texts", type=int, help="how many texts")
    parser.add_argument("--layers", type=int, default=2, help="how many layers")
    options = parser.parse_args()
    width, size = (768, 2048) if options.quick else (3072, 4096)
    texts = options.texts or (24 if options.quick else 16) * size - size // 3
    folder = Path(tempfile.mkdtemp(prefix="bench-object-", dir=options.dir))
    try:
        write(folder / "store", width, size, options.layers, texts)
        with serve_buckets() as server:
            os.environ.update(server.environment())
            url = server.new_bucket()
            to_bucket(folder / "store", url)
            machine = describe_machine()
            print(machine_line(machine))
            print(f"{texts:,} texts, {options.layers} layers, {4e-6 * width * size:.1f} MB a shard")
            result: dict[str, Any] = count_requests(server, url)
            for name, value in result.items():
                print(f"  {name:<34}{value:>8.3f}")
            print("plain GETs' seconds over ours")
            result |= time_scans(url, 5 if options.quick else 3)
            result["memory_mb"] = measure_memory(url)
            print("  peak MB, a quarter, a half, all: ", *map(round, result["memory_mb"]))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps({"texts": texts, "layers": options.layers, **result, "machine": machine}))


if __name__ == "__main__":
    main()
