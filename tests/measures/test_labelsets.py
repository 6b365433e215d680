"""Metrics, folds, calibration and thresholds of label sets, against scikit-learn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn import metrics as sk

from pipeline.heads.model import Head
from pipeline.measures.bootstrap import Resamples, interval
from pipeline.measures.calibration import logit_map, row_losses
from pipeline.measures.folds import stratified_folds
from pipeline.measures.labelsets import rarest_label
from pipeline.measures.metrics import METRICS, as_judged, metric_names, score
from pipeline.measures.thresholds import calibrate_labels

Array = NDArray[Any]
NAMES = metric_names("multilabel")


def drawn(num_rows: int = 300, num_labels: int = 4, *, seed: int = 0) -> tuple[Array, Array]:
    """Logits, and label sets drawn from them; later labels are rarer."""
    draw = np.random.default_rng(seed)
    logits = 2 * draw.normal(size=(num_rows, num_labels)) - np.arange(num_labels)
    truth = draw.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits))
    return logits, truth.astype(np.int8)


def sklearns(name: str, y: Array, logits: Array) -> float:
    if name == "lrap":
        return float(sk.label_ranking_average_precision_score(y, logits))
    average = name.removesuffix("_f1")
    return float(sk.f1_score(y, logits > 0, average=average, zero_division=np.nan))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@settings(max_examples=60)
@given(st.data())
def test_metrics_are_scikit_learns_however_often_rows_come(data: st.DataObject) -> None:
    shape = data.draw(st.integers(2, 20)), data.draw(st.integers(2, 4))
    grid = st.integers(-3, 3).map(float)
    logits = data.draw(hnp.arrays(np.float64, shape, elements=grid))
    y = data.draw(hnp.arrays(np.int8, shape, elements=st.integers(0, 1)))
    counts = data.draw(hnp.arrays(np.int64, (3, shape[0]), elements=st.integers(0, 3)))
    counts = counts[counts.sum(axis=1) > 0]
    for name in NAMES:
        expected = sklearns(name, y, logits)
        assert score(name, y, logits) == pytest.approx(expected, nan_ok=True)
        judged = as_judged(METRICS[name], y, logits, -1)
        found = METRICS[name].of_counts(counts.astype(float), y, *judged)
        for row, value in zip(counts, found, strict=True):
            taken = np.repeat(np.arange(len(y)), row)
            expected = sklearns(name, y[taken], logits[taken])
            assert value == pytest.approx(expected, abs=1e-9, nan_ok=True), name


def test_of_labels_that_all_have_rows_macro_f1_is_the_usual_one() -> None:
    logits, y = drawn()
    usual = sk.f1_score(y, logits > 0, average="macro")
    assert score("macro_f1", y, logits) == pytest.approx(usual)
    found = interval("macro_f1", y, logits, resamples=Resamples(len(y)))
    assert found.low < usual < found.high


def test_losses_are_the_mean_binary_log_loss() -> None:
    logits, y = drawn()
    each = [sk.log_loss(y[:, i], 1 / (1 + np.exp(-logits[:, i]))) for i in range(y.shape[1])]
    assert row_losses(logits, y).mean() == pytest.approx(np.mean(each))


def test_labels_are_mapped_to_logits_one_by_one() -> None:
    logits, y = drawn(2000)
    y[:, 3] = 0  # a label without a row
    scores = logits / np.array([2.0, 4.0, 8.0, 8.0]) + np.array([1.0, 0.0, -1.0, 0.0])
    scale, shift = logit_map(scores, y)
    assert np.isfinite(scale).all() and np.isfinite(shift).all()
    np.testing.assert_allclose((scores * scale + shift)[:, :3], logits[:, :3], atol=2)
    assert (scores * scale + shift)[:, 3].max() < 0
    alone = logit_map(scores[:, [1]], y[:, 1].astype(np.int64))
    np.testing.assert_allclose((scale[1], shift[1]), np.ravel(alone))


def test_rare_labels_are_in_every_fold() -> None:
    _, y = drawn(600)
    assert rarest_label(np.array([[1, 1], [1, 0], [0, 0]], np.int8)).tolist() == [1, 0, 2]
    rare = (y[:, 3] == 1).sum()
    for groups in (None, np.arange(600) // 2):
        fold = stratified_folds(y, folds=3, seed=0, groups=groups)
        counts = np.bincount(fold[y[:, 3] == 1], minlength=3)
        assert counts.min() >= rare // 3 - 2
        assert fold.dtype == np.int64 and np.ptp(np.bincount(fold)) <= 4


def test_thresholds_of_rare_labels_gain_where_they_help() -> None:
    logits, y = drawn(4000)
    shifted = logits - 1.5  # all too unsure
    found = calibrate_labels(shifted[:2000], y[:2000], metric="macro_f1")
    assert found.thresholds is not None and (found.thresholds < 0.5).all()
    assert found.facts["decisions"] == "best expected macro_f1"
    plain, tuned = shifted[2000:], found.decision_outputs(shifted[2000:])
    assert score("macro_f1", y[2000:], tuned) > score("macro_f1", y[2000:], plain) + 0.05
    card: Any = SimpleNamespace(type="multilabel")
    head = Head(card, (), found.thresholds)
    decided = head.decide(head.probabilities(plain))
    np.testing.assert_array_equal(decided, tuned > 0)
    np.testing.assert_array_equal(decided, head.decision_outputs(plain) > 0)


def test_thresholds_stay_where_nothing_is_gained() -> None:
    logits, y = drawn(400, 3)
    certain = np.where(y == 1, 2.0, -2.0)
    for metric in NAMES:
        assert calibrate_labels(certain, y, metric=metric).thresholds is None
    assert (
        calibrate_labels(logits[:20], y[:20], metric="lrap").facts["decisions"] == "most probable"
    )
    y[:] = 0
    assert calibrate_labels(certain, y, metric="macro_f1").thresholds is None
