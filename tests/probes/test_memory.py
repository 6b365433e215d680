"""Memory of a layer's fits: what is planned, and that they keep to it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cluster.machine import free_memory
from pipeline.errors import ProbeError
from pipeline.linear.lockstep import descent_bytes
from pipeline.linear.ridge import ridge_bytes
from pipeline.probes.memory import LayerNeed, layer_need, plan_memory


@settings(max_examples=50)
@given(st.integers(1, 10**12), st.integers(0, 10**11), st.integers(0, 10**11), st.integers(1, 64))
def test_plans_keep_to_the_memory(free: int, raw: int, rest: int, workers: int) -> None:
    try:
        plan = plan_memory(LayerNeed(raw, rest + 1), free=free, workers=workers)
    except ProbeError as error:
        assert rest + 1 > 0.79 * free
        assert "GB" in str(error)
        return
    assert 1 <= plan.at_a_time <= workers
    assert plan.at_a_time * (plan.raw_bytes + rest + 1) <= free
    assert plan.streams == (plan.raw_bytes < raw)


PEAK = """
import sys
from pathlib import Path
import numpy as np
from pipeline.config import ProbeConfig
from pipeline.linear.design import MemoryDesign
from pipeline.probes.fitting import ProbeTask, fit_probes
from pipeline.linear.threads import BlockThreads
from pipeline.probes.model import Problem

def peak():
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

draw = np.random.default_rng(0)
xt = draw.normal(size=(2048, 4096)).astype(np.float16)
rows = np.arange(4096)
values = xt[0] + draw.normal(size=4096)
classes = sys.argv[1] == "classes"
y = (values > 0).astype(np.int64) if classes else values
problem = Problem(2, "accuracy", 1) if classes else Problem(None, "pearson", None)
before = peak()
train = MemoryDesign(xt)
val = MemoryDesign(xt[:, :100].copy(), train.standardiser)
tasks = [
    ProbeTask(problem, rows, y, np.arange(100), y[:100], draw.integers(0, 4, 4096), 4)
    for _ in range(2)
]
fit_probes(train, val, tasks, config=ProbeConfig(C=(1e-3, 1e-2, 0.1, 10.0)))
print(peak() - before, BlockThreads().num_threads)
"""


@pytest.mark.parametrize("kind", ["classes", "values"])
def test_fits_take_no_more_memory_than_estimated(kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PEAK, kind], check=True, capture_output=True, text=True
    )
    shape = 4096, 2048
    matrices = descent_bytes(*shape) if kind == "classes" else ridge_bytes(*shape, 4, 2)
    taken, threads = map(int, done.stdout.split())
    buffers = 2**25 * max(2, threads)  # of blocks, in every thread, and of products
    assert taken <= matrices + buffers


@settings(max_examples=50)
@given(st.integers(1, 10**5), st.integers(1, 30_000), st.integers(1, 10), st.integers(1, 5))
def test_few_rows_need_little(rows: int, features: int, folds: int, targets: int) -> None:
    most = max(descent_bytes(rows, features), ridge_bytes(rows, features, folds, targets))
    assert most <= 4 * 26 * features**2 + 4
    if 2 * rows < features:
        assert most <= 4 * 10 * rows**2 + 16 * rows * features


def test_memory_of_a_roberta_layer() -> None:
    need = layer_need(
        num_rows=100_000,
        num_features=6144,
        itemsize=2,
        num_columns=15,
        num_fits=15,
        matrix_bytes=descent_bytes(100_000, 6144),
        samples_per_shard=4096,
    )
    assert need.raw == 2 * 6144 * 100_000
    assert 1.8e9 < need.rest < 2.2e9
    assert 0 < free_memory() < 1 << 62
