"""What is kept of a classifier's errors held out."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from pipeline.measures.confusion import NUM_DRAWS, Confusion, Slope
from tests.builders.classes import confusion_of, drawn

Array = np.ndarray[Any, Any]


def test_counts_are_rows_by_true_and_decided_class() -> None:
    probability, targets = drawn(3, 500, 0)
    decided = probability.argmax(axis=1)
    found = Confusion.of(probability, decided, targets)
    expected = np.zeros((3, 3), int)
    for truth, guess in zip(targets, decided, strict=True):
        expected[truth, guess] += 1
    assert (found.confusion == expected).all() and found.num_rows == 500
    assert np.allclose(found.priors[0], np.bincount(targets) / 500, atol=2e-3)
    # The rows' own cells are those of the table.
    assert (found.cells(probability, decided) == found.table.sum(axis=0)).all()


def test_calibrated_probabilities_have_the_frequencies_of_the_classes() -> None:
    """Also where the rows' own were far off: the mean is the frequency, by the first order."""
    probability, targets = drawn(4, 3000, 1)
    off = special.softmax(0.4 * np.log(probability) + [1.0, 0.0, -0.5, 0.2], axis=1)
    found = Confusion.of(off, off.argmax(axis=1), targets)
    mended = special.softmax(found.scales[0] * np.log(off) + found.shifts[0], axis=1)
    assert np.abs(mended.mean(axis=0) - found.priors[0]).max() < 3e-3
    assert np.abs(mended - probability).mean() < 0.03


def test_draws_are_as_wide_as_fits_on_rows_drawn_again() -> None:
    probability, targets = drawn(2, 600, 2)
    decided = probability.argmax(axis=1)
    found = Confusion.of(probability, decided, targets)
    draw, again = np.random.default_rng(0), []
    for _ in range(40):
        rows = draw.integers(600, size=600)
        one = Confusion.of(probability[rows], decided[rows], targets[rows])
        again.append(np.concatenate([one.shifts[0], one.priors[0]]))
    spread = np.concatenate([found.shifts[1:], found.priors[1:]], axis=1).std(axis=0)
    assert len(found.shifts) == NUM_DRAWS + 1
    assert (np.abs(np.log(spread / np.std(again, axis=0))) < 0.5).all()


def test_near_duplicates_are_drawn_together() -> None:
    probability, targets = drawn(2, 100, 3)
    twice = (np.repeat(own, 9, axis=0) for own in (probability, probability.argmax(1), targets))
    rows = tuple(twice)
    alone = Confusion.of(*rows)
    together = Confusion.of(*rows, groups=np.repeat(np.arange(100), 9))
    assert together.priors.std(axis=0)[0] > 2 * alone.priors.std(axis=0)[0]


@given(
    size=st.integers(2, 5),
    rows=st.integers(1, 40),
    seed=st.integers(0, 99),
    one=st.booleans(),
    same=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_any_rows_give_finite_facts_that_survive_json(
    size: int, rows: int, seed: int, one: bool, same: bool
) -> None:
    """One class only, one row, probabilities of 0 and 1, all alike."""
    probability, targets = drawn(size, rows, seed, strength=40.0)
    targets = np.zeros_like(targets) if one else targets
    probability = np.full_like(probability, 1 / size) if same else probability
    found = Confusion.of(probability, probability.argmax(axis=1), targets)
    back = Confusion.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert (back.table == found.table).all()
    for name in ("scales", "shifts", "priors", "edges"):
        assert np.allclose(getattr(back, name), getattr(found, name), rtol=1e-4)
    assert (found.priors > 0).all() and np.isfinite(found.scales).all()


@pytest.mark.parametrize(
    "change",
    [
        {"confusion": [[1, 2], [3, 4]]},
        {"confusion": [[[1.5] * 3] * 2] * 2},
        {"confusion": [[[-1] * 3] * 2] * 2},
        {"scales": [[1.0, 1.0]]},
        {"priors": [[0.0, 1.0]] * (NUM_DRAWS + 1)},
        {"shifts": [[float("nan"), 0.0]] * (NUM_DRAWS + 1)},
        {"levels": [[0.1]] * 2},
    ],
)
def test_damaged_facts_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Confusion.from_dict({**confusion_of(2).to_dict(), **change})


def test_the_line_of_a_regression_is_that_of_least_squares() -> None:
    draw = np.random.default_rng(0)
    truth = draw.normal(size=300)
    values = 0.3 + 0.6 * truth + 0.2 * draw.normal(size=300)
    found = Slope.of(values, truth)
    slope, intercept = np.polyfit(truth, values, 1)
    assert np.allclose([found.slopes[0], found.intercepts[0]], [slope, intercept])
    back = Slope.from_dict(json.loads(json.dumps(found.to_dict())))
    assert np.allclose(back.slopes, found.slopes, rtol=1e-4) and back.num_rows == 300
    constant = Slope.of(values, np.zeros(300))
    assert constant.slopes[0] == 0 and np.isfinite(constant.intercepts).all()
    with pytest.raises(ValueError, match="different lengths"):
        Slope.from_dict({"rows": 1, "intercepts": [1.0, 2.0], "slopes": [1.0]})
    with pytest.raises(ValueError, match="not finite"):
        Slope.from_dict({"rows": 1, "intercepts": [1.0, 2.0], "slopes": [1.0, float("inf")]})
