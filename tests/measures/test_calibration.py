from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from pipeline.heads.model import Head
from pipeline.measures.calibration import METHODS, calibrate, calibration_error, row_losses
from pipeline.measures.metrics import predictions, probabilities, score

Array = NDArray[Any]


def drawn(
    seed: int, *, n: int = 3000, classes: int = 3, spread: float = 2.0
) -> tuple[Array, Array]:
    """True logits and classes drawn from them."""
    draw = np.random.default_rng(seed)
    logits = spread * draw.normal(size=(n, classes if classes > 2 else 1))
    cumulative = np.cumsum(probabilities(logits), axis=1)
    return logits, (draw.uniform(size=(n, 1)) > cumulative[:, :-1]).sum(axis=1)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_overconfident_and_shifted_logits_are_mended(classes: int) -> None:
    logits, y = drawn(classes, classes=classes)
    shift = np.linspace(-1, 2, logits.shape[1]) if classes > 2 else np.array([1.0])
    found = calibrate(3 * (logits - shift), y, metric="accuracy")
    assert found.facts["method"] == "temperature and bias"
    assert found.scale == pytest.approx(1 / 3, rel=0.1)
    np.testing.assert_allclose(found.shift - found.shift.mean(), shift - shift.mean(), atol=0.25)
    for fact in ("log_loss", "calibration_error"):
        assert found.facts[fact]["after"] < found.facts[fact]["before"]
    assert found.facts["log_loss"]["after"] == pytest.approx(row_losses(logits, y).mean(), rel=0.02)
    mended = probabilities(3 * (logits - shift) * found.scale + found.shift)
    assert calibration_error(mended, y) < 0.03


def test_the_binary_fit_is_platt_scaling() -> None:
    logits, y = drawn(7, classes=2)
    scale, shift = METHODS["temperature and bias"](2.5 * logits + 1, y)
    reference = LogisticRegression(C=np.inf).fit(2.5 * logits + 1, y)
    assert scale[0] == pytest.approx(reference.coef_[0, 0], rel=5e-3)
    assert shift[0] == pytest.approx(reference.intercept_[0], abs=5e-3)


def test_what_is_calibrated_stays_as_it_is() -> None:
    logits, y = drawn(1)
    found = calibrate(logits, y, metric="accuracy")
    assert found.facts["method"] == "none"
    assert found.thresholds is None
    np.testing.assert_array_equal(found.decision_outputs(logits), logits)


def test_accuracy_needs_no_thresholds() -> None:
    logits, y = drawn(7)
    found = calibrate(2 * logits + np.array([2.0, 0.0, -2.0]), y, metric="accuracy")
    assert found.facts["method"] == "temperature and bias"
    assert (found.thresholds, found.facts["decisions"]) == (None, "most probable")


def rare(seed: int, n: int) -> tuple[Array, Array]:
    """Calibrated logits of a class that one row in ten has, and the classes."""
    draw = np.random.default_rng(seed)
    y = (draw.uniform(size=n + 10_000) < 0.1).astype(np.int64)
    x = draw.normal(size=len(y)) + 1.5 * y
    model = LogisticRegression().fit(x[n:, None], y[n:])
    return model.decision_function(x[:n, None])[:, None], y[:n]


def test_thresholds_help_where_classes_are_rare() -> None:
    logits, y = rare(0, 4000)
    found = calibrate(logits[:2000], y[:2000], metric="macro_recall")
    assert found.facts["decisions"] == "best expected macro_recall"
    plain, tuned = (
        score("macro_recall", y[2000:], outputs)
        for outputs in (logits[2000:], found.decision_outputs(logits[2000:]))
    )
    assert tuned > plain + 0.1
    assert found.thresholds is not None
    assert found.thresholds[1] < 0.25


@pytest.mark.parametrize("metric", ["macro_f1", "macro_recall", "f1"])
def test_thresholds_promise_most_over_labels_drawn_from_the_probabilities(metric: str) -> None:
    """The expectation is taken here by drawing, with the metrics of scikit-learn."""
    logits, y = rare(1, 400)
    found = calibrate(logits, y, metric=metric)
    calibrated = logits * found.scale + found.shift
    draws = np.random.default_rng(0).uniform(size=(100, len(y)))
    labels = (draws < probabilities(calibrated)[:, 1]).astype(np.int64)
    prior = np.log((np.bincount(y) + 1) / (len(y) + 2))

    def expected(outputs: Array) -> float:
        return float(np.mean([score(metric, own, outputs) for own in labels]))

    tried = [expected(calibrated - g * (prior[1] - prior[0])) for g in np.linspace(0, 1, 6)]
    assert expected(found.decision_outputs(logits)) > max(tried) - 0.01


def test_thresholds_hold_on_small_samples() -> None:
    """Thresholds fitted to 80 rows do about as well on others as those fitted to thousands."""
    logits, y = rare(2, 12_000)
    best = score("macro_f1", y, calibrate(logits, y, metric="macro_f1").decision_outputs(logits))
    few = []
    for start in range(0, 1600, 80):
        rows = slice(start, start + 80)
        found = calibrate(logits[rows], y[rows], metric="macro_f1")
        few.append(score("macro_f1", y, found.decision_outputs(logits)))
    assert np.mean(few) > best - 0.03


@pytest.mark.parametrize("classes", [2, 4])
def test_a_head_decides_as_its_calibration(classes: int) -> None:
    logits, y = drawn(9, classes=classes, spread=1.0)
    uneven = np.where(y == 0, np.arange(len(y)) % 5 == 0, True)
    logits, y = 2 * logits[uneven] + 0.5, y[uneven]
    found = calibrate(logits, y, metric="macro_f1")
    card: Any = SimpleNamespace(type="classification")
    head = Head(card, (), found.thresholds)
    outputs = logits * found.scale + found.shift
    expected = predictions(found.decision_outputs(logits), regression=False)
    np.testing.assert_array_equal(head.decide(head.probabilities(outputs)), expected)
    again = predictions(head.decision_outputs(outputs), regression=False)
    np.testing.assert_array_equal(again, expected)


def test_few_rows_and_missing_classes() -> None:
    logits, y = drawn(4, n=30)
    assert calibrate(logits, y, metric="macro_f1").facts["method"] == "none"
    logits, _ = drawn(5, n=200)
    found = calibrate(logits, np.zeros(200, np.int64), metric="macro_f1")
    assert np.isfinite(found.scale).all() and np.isfinite(found.shift).all()


def test_calibration_error_of_a_coin() -> None:
    probability = np.tile([0.9, 0.1], (1000, 1))
    y = (np.arange(1000) % 2).astype(np.int64)
    assert calibration_error(probability, y) == pytest.approx(0.4)
