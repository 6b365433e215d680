from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import ElasticNet, LogisticRegression

from pipeline.cluster.machine import free_memory
from pipeline.config import ProbeConfig
from pipeline.errors import ProbeError
from pipeline.linear import lockstep, ridge
from pipeline.linear.design import MemoryDesign, StoreDesign
from pipeline.linear.estimators import sparse_path
from pipeline.linear.fitted import Standardiser
from pipeline.linear.gram import design_gram
from pipeline.probes.fitting import ProbeTask, fit_probes
from pipeline.probes.grouping import group_by_rows, shared_rows
from pipeline.probes.keptgrams import layer_gram, part_path, write_part
from pipeline.probes.memory import LayerNeed, layer_need, plan_memory
from pipeline.probes.model import Problem
from store import ActivationStore, StoreSchema
from tests.builders.probes import fit_probe

CONFIG = ProbeConfig(C=(1e-3, 1e-2, 1e-1), alpha=(1.0, 10.0), tol=1e-5)
positions = st.lists(st.integers(0, 12), max_size=30).map(lambda x: np.array(x, np.int64))


@given(st.lists(positions, min_size=1, max_size=4))
def test_every_tasks_rows_are_in_the_union(parts: list[Any]) -> None:
    union, rows = shared_rows(parts)
    assert (np.diff(union) >= 0).all()
    for part, places in zip(parts, rows, strict=True):
        np.testing.assert_array_equal(union[places], part)
        assert len(set(places.tolist())) == len(part)
    for value in range(13):
        most = max(int((part == value).sum()) for part in parts)
        assert int((union == value).sum()) == most
    assert sorted(i for group in group_by_rows(parts) for i in group) == list(range(len(parts)))


def test_only_overlapping_tasks_share() -> None:
    texts = np.arange(100)
    assert group_by_rows([texts, texts + 100, texts[::2], texts + 5]) == [[0, 2, 3], [1]]


@pytest.fixture
def tasks() -> tuple[Any, Any, list[ProbeTask]]:
    """Features, validation features and three tasks that lack different labels."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(400, 20)).astype(np.float32)
    x[:, 5] = x[:, 4] + 0.01 * x[:, 5]
    x_val = draw.normal(size=(100, 20)).astype(np.float32)
    weights = draw.normal(size=(20, 3)).astype(np.float32)
    found = []
    for number, classes in enumerate((2, 3, None)):
        score, score_val = x @ weights + 1, x_val @ weights + 1
        y: Any = score.argmax(1) if classes == 3 else score[:, 0]
        y_val: Any = score_val.argmax(1) if classes == 3 else score_val[:, 0]
        if classes == 2:
            y, y_val = (y > 0).astype(np.int64), (y_val > 0).astype(np.int64)
        labelled = np.flatnonzero(draw.random(400) < 0.8)
        problem = Problem(classes, "pearson" if classes is None else "accuracy")
        folds = draw.permutation(len(labelled)) % 3 if number < 2 else None
        rows = np.arange(100)
        found.append(ProbeTask(problem, labelled, y[labelled], rows, y_val, folds))
    return x, x_val, found


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_tasks_together_are_tasks_alone_and_the_references(
    tasks: tuple[Any, Any, list[ProbeTask]], class_weight: Any
) -> None:
    x, x_val, several = tasks
    config = CONFIG.model_copy(update={"class_weight": class_weight})
    train = MemoryDesign(np.ascontiguousarray(x.T))
    val = MemoryDesign(np.ascontiguousarray(x_val.T), train.standardiser)
    together = fit_probes(train, val, several, config=config)
    sklearn = config.model_copy(update={"solver": "sklearn", "tol": 1e-8})
    reference = fit_probes(train, val, several, config=sklearn)
    for i, task in enumerate(several):
        (alone,) = fit_probes(train, val, [task], config=config)
        for other in (alone, reference[i]):
            assert together[i].penalty == other.penalty
            np.testing.assert_allclose(
                together[i].probe.outputs(x_val), other.probe.outputs(x_val), atol=4e-3
            )
            found, expected = together[i].probe.fold_weights, other.probe.fold_weights
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, atol=4e-3)


def test_sample_weights_count_like_repeated_rows(
    tasks: tuple[Any, Any, list[ProbeTask]],
) -> None:
    x, x_val, (task, *_) = tasks
    train = MemoryDesign(np.ascontiguousarray(x.T))
    val = MemoryDesign(np.ascontiguousarray(x_val.T), train.standardiser)
    weight = np.where(np.arange(len(task.train)) % 3 == 0, 2.0, 1.0)
    weighted = fit_probes(train, val, [replace(task, weight=weight)], config=CONFIG)[0]
    again = np.repeat(np.arange(len(task.train)), weight.astype(int))
    rows = task.train[again]
    repeated = MemoryDesign(np.ascontiguousarray(x[rows].T), train.standardiser)
    simple = ProbeTask(
        task.problem, np.arange(len(rows)), task.y_train[again], task.val, task.y_val
    )
    expected = fit_probes(repeated, val, [simple], config=CONFIG)[0]
    np.testing.assert_allclose(weighted.probe.weights, expected.probe.weights, atol=2e-3)


@pytest.mark.parametrize("classes", [2, 3, None])
def test_elastic_net_is_scikit_learns(classes: int | None) -> None:
    draw = np.random.default_rng(1)
    raw = draw.normal(size=(200, 8)).astype(np.float32)
    x = Standardiser.fit(raw).apply(raw)
    y: Any = x[:, 0] + 0.5 * x[:, 1] + draw.normal(size=200)
    if classes is not None:
        y = np.digitize(y, [0.0] if classes == 2 else [-0.5, 0.5])
    penalties = [0.05, 0.5] if classes is not None else [20.0, 5.0]
    path = sparse_path(x, y, num_classes=classes, penalties=penalties, l1_ratio=0.7, tol=1e-5)
    # In float32 rounding hides so small a tolerance as the reference's.
    exact = x.astype(np.float64)
    for model, penalty in zip(path, penalties, strict=True):
        assert model.penalty == penalty
        assert model.converged
        if classes is None:
            other = ElasticNet(alpha=penalty / 200, l1_ratio=0.7, tol=1e-9).fit(exact, y)
        else:
            other = LogisticRegression(
                C=penalty, l1_ratio=0.7, solver="saga", tol=1e-9, max_iter=20_000
            ).fit(exact, y)
        np.testing.assert_allclose(model.weights, np.atleast_2d(other.coef_), atol=2e-3)


def test_l1_chooses_few_neurons_and_passes_over_empty_models() -> None:
    draw = np.random.default_rng(2)
    x = draw.normal(size=(300, 30)).astype(np.float32)
    y = x[:, 3] + 0.1 * draw.normal(size=300)
    config = ProbeConfig(penalty="l1", alpha=(10.0, 1e5))
    fit = fit_probe(x[:200], y[:200], x[200:], y[200:], problem=Problem(None, "pearson"),
                    config=config)  # fmt: skip
    assert fit.penalty == 10.0
    assert fit.path[1][1] == 0.0
    assert np.abs(fit.probe.weights[0]).argmax() == 3
    assert (fit.probe.weights == 0).mean() > 0.5


def write_store(path: Path, x: Any) -> ActivationStore:
    width = x.shape[1] // 2
    store = ActivationStore.create(
        path, StoreSchema(num_layers=1, neuron_size=width, samples_per_shard=64)
    )
    append(store, x)
    return ActivationStore.open(path)


def append(store: ActivationStore, x: Any) -> None:
    ids = [str(i) for i in range(len(x))]
    plan = store.plan_append(pa.table({"id": ids, "text": ids}))
    for block in plan.blocks:
        values = np.ascontiguousarray(x[block.start : block.stop].T)
        store.write_block(plan, block, {"ffn": values.reshape(1, 2, -1, len(block))})
    store.commit()


def test_the_gram_is_kept_extended_and_put_together_from_parts(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    x = (draw.normal(size=(300, 6)) * 3 + 10).astype(np.float32)
    store = write_store(tmp_path / "store", x[:200])

    def check(path: Path, store: ActivationStore, rows: Any, rtol: float) -> None:
        design = StoreDesign(store, 0, rows)
        found = layer_gram(path, store, 0, rows, design)
        np.testing.assert_allclose(found, design_gram(design), rtol=0, atol=rtol * len(rows))

    path = tmp_path / "gram.safetensors"
    few = np.arange(20)
    check(path, store, few, 1e-5)
    before = path.stat().st_mtime_ns
    check(path, store, few, 1e-5)
    assert path.stat().st_mtime_ns == before
    append(ActivationStore.open(tmp_path / "store"), x)
    store = ActivationStore.open(tmp_path / "store")
    more = np.concatenate([few, np.arange(220, 250)])
    check(path, store, more, 1e-4)
    assert path.stat().st_mtime_ns != before
    # Of many rows a sample serves.
    check(path, store, np.arange(300), 0.5)
    shares = tmp_path / "shares.safetensors"
    for part in range(3):
        write_part(shares, store, 0, more, part, 3)
    assert part_path(shares, 2).is_file()
    check(shares, store, more, 0.1)
    assert [p.name for p in tmp_path.glob("shares*")] == ["shares.safetensors"]


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
    ProbeTask(problem, rows, y, np.arange(100), y[:100], draw.integers(0, 4, 4096))
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
    matrices = (
        lockstep.descent_bytes(*shape) if kind == "classes" else ridge.ridge_bytes(*shape, 4, 2)
    )
    taken, threads = map(int, done.stdout.split())
    buffers = 2**25 * max(2, threads)  # of blocks, in every thread, and of products
    assert taken <= matrices + buffers


@settings(max_examples=50)
@given(st.integers(1, 10**5), st.integers(1, 30_000), st.integers(1, 10), st.integers(1, 5))
def test_few_rows_need_little(rows: int, features: int, folds: int, targets: int) -> None:
    most = max(
        lockstep.descent_bytes(rows, features), ridge.ridge_bytes(rows, features, folds, targets)
    )
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
        matrix_bytes=lockstep.descent_bytes(100_000, 6144),
        samples_per_shard=4096,
    )
    assert need.raw == 2 * 6144 * 100_000
    assert 1.8e9 < need.rest < 2.2e9
    assert 0 < free_memory() < 1 << 62
