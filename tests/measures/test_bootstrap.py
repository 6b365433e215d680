from __future__ import annotations

import numpy as np
import pytest
import scipy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from pipeline.measures.bootstrap import (
    FEW_ROWS,
    LEAST_ROWS,
    Resamples,
    difference,
    doubt_of_rows,
    interval,
    intervals,
)
from pipeline.measures.metrics import METRICS, metric_names, predictions, probabilities, score

CLASSES = metric_names("classification")
NUMBERS = metric_names("regression")
SEED = "rng" if tuple(map(int, scipy.__version__.split(".")[:2])) >= (1, 15) else "random_state"
"""SciPy's name for it."""


def of_counts(name: str, counts: np.ndarray, y: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    metric = METRICS[name]
    prediction = predictions(outputs, regression=metric.regression)
    graded = prediction if metric.regression else probabilities(outputs)
    positive = 0 if metric.regression else graded.shape[1] - 1
    return metric.of_counts(counts.astype(float), y, prediction, graded, positive)


@settings(max_examples=60)
@given(st.data())
def test_counts_are_repetitions(data: st.DataObject) -> None:
    """The metric of weighted rows is the metric of the rows repeated, ties and all."""
    n = data.draw(st.integers(2, 25))
    classes = data.draw(st.integers(2, 4))
    columns = 1 if classes == 2 else classes
    grid = st.integers(-3, 3).map(float)
    outputs = data.draw(hnp.arrays(np.float64, (n, columns), elements=grid))
    counts = data.draw(hnp.arrays(np.int64, (3, n), elements=st.integers(0, 3)))
    counts = counts[counts.sum(axis=1) > 1]
    y = data.draw(hnp.arrays(np.int64, n, elements=st.integers(0, classes - 1)))
    values = data.draw(hnp.arrays(np.float64, n, elements=grid))
    for names, targets in ((CLASSES, y), (NUMBERS, values)):
        for name in names:
            found = of_counts(name, counts, targets, outputs)
            for row, value in zip(counts, found, strict=True):
                taken = np.repeat(np.arange(n), row)
                expected = score(name, targets[taken], outputs[taken])
                assert value == pytest.approx(expected, abs=1e-9, nan_ok=True), name


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "auc", "pearson", "spearman", "mae"])
def test_intervals_agree_with_scipy(name: str) -> None:
    draw = np.random.default_rng(3)
    n, regression = 150, METRICS[name].regression
    if regression:
        y = draw.normal(size=n)
        outputs = (y + draw.normal(size=n))[:, None]
    else:
        y = draw.integers(0, 2, n)
        outputs = (y * 1.5 - 0.75 + draw.normal(size=n))[:, None]
    ours = interval(name, y, outputs, resamples=Resamples(n, 4000))
    theirs = stats.bootstrap(
        (np.arange(n),),
        lambda rows: score(name, y[rows], outputs[rows]),
        vectorized=False,
        n_resamples=600,
        method="percentile",
        **{SEED: 1},
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.value == score(name, y, outputs)
    assert ours.low == pytest.approx(theirs.low, abs=0.12 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.12 * width)


def test_accuracy_interval_covers_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    hits = 0
    for seed in range(300):
        y = draw.integers(0, 2, 200)
        outputs = np.where(draw.random(200) < 0.8, y, 1 - y)[:, None] - 0.5
        found = interval("accuracy", y, outputs, resamples=Resamples(200, 400, seed))
        hits += found.low <= 0.8 <= found.high
    assert 0.90 <= hits / 300 <= 0.98


def test_same_seed_same_interval_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    y, outputs = draw.integers(0, 3, 90), draw.normal(size=(90, 3))
    whole = intervals(CLASSES, y, outputs, resamples=Resamples(90, 200, 5))
    monkeypatch.setattr("pipeline.measures.bootstrap.CHUNK_BYTES", 90 * 8 * 7)
    assert intervals(CLASSES, y, outputs, resamples=Resamples(90, 200, 5)) == whole
    assert interval("f1", y, outputs, resamples=Resamples(90, 200, 6)) != whole["f1"]


def test_differences_are_paired() -> None:
    draw = np.random.default_rng(0)
    y = draw.integers(0, 2, 400)
    ours = (y - 0.5 + draw.normal(size=400))[:, None]
    theirs = ours + 0.1 * draw.normal(size=(400, 1))
    resamples = Resamples(400, 500)
    gap = difference("auc", y, ours, theirs, resamples=resamples)
    alone = interval("auc", y, ours, resamples=resamples)
    assert gap.value == pytest.approx(score("auc", y, ours) - score("auc", y, theirs))
    assert gap.high - gap.low < 0.4 * (alone.high - alone.low)
    same = difference("auc", y, ours, ours, resamples=resamples)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("rows", [1, 2, LEAST_ROWS - 1, LEAST_ROWS, FEW_ROWS - 1, FEW_ROWS])
def test_few_rows_have_no_interval_and_more_are_doubted(rows: int) -> None:
    outputs = np.linspace(-1, 1, rows)[:, None]
    found = interval("accuracy", np.arange(rows) % 2, outputs, resamples=Resamples(rows))
    assert 0 <= found.value <= 1
    assert np.isfinite([found.low, found.high]).all() == (rows >= LEAST_ROWS)
    doubt = doubt_of_rows(rows)
    assert (doubt is None) == (rows >= FEW_ROWS)
    assert ("none is given" in (doubt or "")) == (rows < LEAST_ROWS)


def test_an_undefined_metric_has_no_interval() -> None:
    y, outputs = np.zeros(20, dtype=np.int64), np.zeros((20, 1))
    found = interval("auc", y, outputs, resamples=Resamples(20, 50), positive=1)
    assert np.isnan([found.value, found.low, found.high]).all()


def test_resamples_without_a_class_are_left_out() -> None:
    y = np.array([1] + [0] * 29)
    outputs = np.linspace(1, -1, 30)[:, None]
    found = interval("auc", y, outputs, resamples=Resamples(30, 300))
    assert found.low == found.high == 1.0
