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


def test_biases_that_gain_little_do_not_change_decisions() -> None:
    logits, y = drawn(7)
    shifted = 2 * logits + np.array([0.3, 0.0, -0.3])
    found = calibrate(shifted, y, metric="macro_recall")
    assert (found.facts["method"], found.facts["decisions"]) == (
        "temperature and bias",
        "as fitted",
    )
    plain = predictions(shifted, regression=False)
    np.testing.assert_array_equal(
        predictions(found.decision_outputs(shifted), regression=False), plain
    )
    # The biases alone would: thresholds undo them.
    assert (predictions(shifted * found.scale + found.shift, regression=False) != plain).any()


def test_biases_that_gain_much_change_decisions() -> None:
    logits, y = drawn(7)
    shifted = 2 * logits + np.array([2.0, 0.0, -2.0])
    found = calibrate(shifted, y, metric="macro_recall")
    assert found.facts["decisions"] != "as fitted"
    after = score("macro_recall", y, found.decision_outputs(shifted))
    assert after > score("macro_recall", y, shifted) + 0.01


def test_thresholds_help_where_classes_are_rare() -> None:
    draw = np.random.default_rng(0)
    y = (draw.uniform(size=4000) < 0.1).astype(np.int64)
    x = draw.normal(size=4000) + 1.5 * y
    logits = LogisticRegression().fit(x[:, None], y).decision_function(x[:, None])[:, None]
    found = calibrate(logits[:2000], y[:2000], metric="macro_recall")
    assert found.facts["decisions"] == "tuned"
    plain, tuned = (
        score("macro_recall", y[2000:], outputs)
        for outputs in (logits[2000:], found.decision_outputs(logits[2000:]))
    )
    assert tuned > plain + 0.1
    assert found.thresholds is not None
    assert found.thresholds[1] < 0.25


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
