"""Measure a store's Dataset against raw reads of the same bytes.

    python tests/benchmarks/bench_xarray.py [--quick] [--json] [--dir DIR]     (Salient installed)
                                            [--texts N] [--layers L] [--keep]

RoBERTa's shape (3,072 neurons, two poolings, float16, shards of 4,096 texts), simulated numbers; by
default 100,000 texts of 12 layers, 14.7 GB. The sides take turns, medians are taken; trust the
ratios. The last line of --json is one object. Seconds over the raw read's of the same run, keys:

    one_text_s            one text, all layers and neurons (raw: those values through a memory map)
    one_neuron_s          one neuron over all texts (raw: its rows through a memory map)
    layer_s               one layer whole, float32 (raw: np.fromfile of its shards)
    layer_stored_s        the same as stored, dtype=None
    salient_s             30 neurons of several layers, `ds.salient.features` (raw: their rows)
    mean_all_layers_s     `ds.salient.mean()` (raw, here and below: np.fromfile, shard by shard)
    groupby_label_s       `ds.salient.mean(by="label_mood")`
    groupby_day_s         `ds.salient.mean(by="created_at.date")`
    groupby_plain_s       `ds.ffn.sel(layer=1).groupby("label_mood").mean()` (raw: as layer_s)
    mean_all_layers_dask_s   `.mean("sample", skipna=False)` with chunks={}

`…_ms` are the milliseconds themselves, `…_within` says whether twice the raw read plus 50 ms held.
`…_cpu` are the same ratios in seconds of processor time, which other load on the machine troubles
less. `…_tasks` are dask's before it optimises, `…_peak_mb` the memory at its peak beyond what there
was before (a process of its own for each; the result is in it).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from machine import describe_machine, machine_line

from store import ActivationStore, StoreSchema, open_dataset

WIDTH = 3072
SIZE = 4096
NUM_NEURONS = 30
NUM_DAYS = 30
TEXT, NEURON, LAYER = 5, 777, 1
MOODS = np.array(["joy", "fear", "none"], object)
Call = Callable[[], object]


def write(path: Path, layers: int, texts: int) -> None:
    """A store of simulated activations: the same numbers in every shard."""
    schema = StoreSchema(num_layers=layers, neuron_size=WIDTH, samples_per_shard=SIZE)
    store = ActivationStore.create(path, schema)
    rng = np.random.default_rng(0)
    one = np.abs(rng.standard_normal((1, 2, WIDTH, SIZE), dtype=np.float32)).astype(np.float16)
    ids = [str(10**18 + number) for number in range(texts)]
    samples = {
        "id": ids,
        "text": [f"text {number} of a simulated dump of tweets" for number in range(texts)],
        "created_at": 1_760_000_000 + np.arange(texts) * NUM_DAYS * 86_400 // texts,
    }
    plan = store.plan_append(pa.table(samples))
    for block in plan.blocks:
        values = np.broadcast_to(one, (layers, 2, WIDTH, SIZE))[..., : len(block)]
        tokens = np.full(len(block), 20, np.int32)
        store.write_block(
            plan, block, {"ffn": values}, n_tokens=tokens, truncated=np.zeros(len(block), bool)
        )
    store.commit()
    labels = MOODS[rng.integers(0, len(MOODS), texts)]
    store.put_labels("mood", pa.table({"id": ids, "split": ["train"] * texts, "label": labels}))


class Rows:
    """The calls of each row, ours and raw, over one store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        store = ActivationStore.open(path)
        self.layers = store.schema.num_layers
        self.counts = [slot.count for slot in store.snapshot.slots]
        self.pairs = [(n % self.layers, 37 * n + 5) for n in range(NUM_NEURONS)]
        self.lazy = open_dataset(path)
        self.stored = open_dataset(path, dtype=None)

    def shard(self, layer: int, slot: int) -> Path:
        return self.path / "ffn" / "c" / str(layer) / "0" / "0" / str(slot)

    def mapped(self, layer: int, slot: int) -> np.memmap:
        shape = (2 * WIDTH, SIZE)
        return np.memmap(self.shard(layer, slot), np.float16, "r", shape=shape)

    def whole(self, layer: int, slot: int) -> np.ndarray:
        return np.fromfile(self.shard(layer, slot), np.float16, 2 * WIDTH * SIZE)

    def raw(self) -> dict[str, Call]:
        slots = range(len(self.counts))
        layers = range(self.layers)

        def all_shards() -> None:
            for layer in layers:
                for slot in slots:
                    self.whole(layer, slot)

        return {
            "one_text": lambda: [np.array(self.mapped(layer, 0)[:, TEXT]) for layer in layers],
            "one_neuron": lambda: [np.array(self.mapped(LAYER, slot)[NEURON]) for slot in slots],
            "layer": lambda: [self.whole(LAYER, slot) for slot in slots],
            "salient": lambda: [
                np.array(self.mapped(layer, slot)[[neuron, WIDTH + neuron]])
                for layer, neuron in self.pairs
                for slot in slots
            ],
            "all": all_shards,
        }

    def ours(self) -> dict[str, tuple[str, Call]]:
        """Row -> (which raw read it is held against, the call)."""
        name = str(10**18 + TEXT)
        ds, chunked = self.lazy, open_dataset(self.path, chunks={})
        one = {"layer": LAYER, "pooling": "mean", "neuron": NEURON}
        return {
            "one_text": ("one_text", lambda: ds.ffn.sel(sample=name).values),
            "one_neuron": ("one_neuron", lambda: ds.ffn.sel(one).values),
            "layer": ("layer", lambda: ds.ffn.sel(layer=LAYER).values),
            "layer_stored": ("layer", lambda: self.stored.ffn.sel(layer=LAYER).values),
            "salient": ("salient", lambda: ds.salient.features(self.pairs)),
            "mean_all_layers": ("all", lambda: ds.salient.mean()),
            "groupby_label": ("all", lambda: ds.salient.mean(by="label_mood")),
            "groupby_day": ("all", lambda: ds.salient.mean(by="created_at.date")),
            "groupby_plain": (
                "layer",
                lambda: ds.ffn.sel(layer=LAYER).groupby("label_mood").mean(skipna=False),
            ),
            "mean_all_layers_dask": (
                "all",
                lambda: chunked.ffn.mean("sample", skipna=False).compute(),
            ),
        }

    def tasks(self) -> dict[str, int]:
        """Dask's tasks: none where the Dataset is opened without chunks."""
        chunked = open_dataset(self.path, chunks={}).ffn
        mean = chunked.mean("sample", skipna=False)
        label = chunked.sel(layer=LAYER).groupby("label_mood").mean()
        return {
            "mean_all_layers_tasks": 0,
            "mean_all_layers_dask_tasks": len(mean.__dask_graph__()),
            "one_text_dask_tasks": len(chunked.isel(sample=TEXT).__dask_graph__()),
            "groupby_label_one_layer_dask_tasks": len(label.__dask_graph__()),
        }


def timed(call: Call) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
    clock, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - clock, time.process_time() - cpu


def memory_mb(what: str) -> float:
    """A figure of Linux's about this process: VmRSS, VmHWM (the peak)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{what}:"))) / 1024


def peak_mb(path: Path, row: str, answer: Any) -> None:
    """Send the memory that a row takes at its peak; run in a process of its own."""
    rows = Rows(path)
    call = rows.ours()[row][1]
    before = memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    call()
    answer.put(memory_mb("VmHWM") - before)


def measure(path: Path, rounds: int) -> dict[str, Any]:
    """Every row against its raw read, taking turns."""
    rows = Rows(path)
    raw, result = rows.raw(), dict[str, Any](rows.tasks())
    opening = timed(lambda: open_dataset(path))[0]
    result["open_ms"] = 1e3 * opening
    for row, (name, call) in rows.ours().items():
        timed(raw[name])
        first = timed(call)[0]  # imports, checksums
        pairs = [(timed(raw[name]), timed(call)) for _ in range(rounds)]
        theirs, ours = (
            tuple(statistics.median(pair[side][kind] for pair in pairs) for kind in range(2))
            for side in range(2)
        )
        result |= {
            f"{row}_s": ours[0] / theirs[0],
            f"{row}_cpu": ours[1] / max(theirs[1], 1e-9),
            f"{row}_ms": 1e3 * ours[0],
            f"{row}_first_ms": 1e3 * first,
            f"{row}_raw_ms": 1e3 * theirs[0],
            f"{row}_within": bool(ours[0] <= 2 * theirs[0] + 0.05),
        }
        print_row(row, result)
    context = multiprocessing.get_context("spawn")
    for row in rows.ours():
        answer = context.Queue()
        process = context.Process(target=peak_mb, args=(path, row, answer))
        process.start()
        result[f"{row}_peak_mb"] = answer.get(timeout=600)
        process.join()
    return result


def print_row(row: str, result: dict[str, Any]) -> None:
    print(
        f"{row:<22}{result[f'{row}_s']:>8.2f}{result[f'{row}_cpu']:>8.2f}"
        f"{result[f'{row}_ms']:>11.1f}{result[f'{row}_raw_ms']:>11.1f}"
        f"{result[f'{row}_first_ms']:>11.1f}  {'yes' if result[f'{row}_within'] else 'no'}",
        flush=True,
    )


def main() -> None:
    """Parse the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="12,000 texts of 4 layers")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    parser.add_argument("--dir", type=Path, help="where to write (default: temporary)")
    parser.add_argument("--texts", type=int, help="how many texts")
    parser.add_argument("--layers", type=int, help="how many layers")
    parser.add_argument("--keep", action="store_true", help="use the store there, and leave it")
    options = parser.parse_args()
    layers = options.layers or (4 if options.quick else 12)
    texts = options.texts or (12_000 if options.quick else 100_000)
    folder = options.dir or Path(tempfile.mkdtemp(prefix="bench-xarray-"))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "store"
    free = shutil.disk_usage(folder).free
    needed = layers * 2 * WIDTH * 2 * -(-texts // SIZE) * SIZE
    if not path.exists() and free < 1.1 * needed:
        raise SystemExit(f"{folder}: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB are free")
    try:
        if not path.exists():
            write(path, layers, texts)
        machine = describe_machine()
        print(machine_line(machine))
        print(f"{texts:,} texts, {layers} layers: times of the raw read of the same bytes")
        print(
            f"{'':<22}{'x clock':>8}{'x cpu':>8}{'ms':>11}{'raw ms':>11}{'first ms':>11}  <=2x+50"
        )
        result = measure(path, 5 if options.quick else 3)
        for name in sorted(name for name in result if name.endswith(("_tasks", "_peak_mb"))):
            print(f"  {name:<40}{result[name]:>10.0f}")
    finally:
        if not options.keep:
            shutil.rmtree(path, ignore_errors=True)
    if options.json:
        print(json.dumps({"texts": texts, "layers": layers, **result, "machine": machine}))


if __name__ == "__main__":
    main()
