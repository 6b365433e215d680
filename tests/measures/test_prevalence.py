"""Shares of classes, corrected for errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special

from pipeline.measures.confusion import LEVELS, Confusion, Slope
from pipeline.measures.prevalence import (
    CORRECTED,
    SHARE_METHODS,
    cannot_tell,
    class_shares,
    em,
    explain,
    is_flat,
    mean_value,
    misfit,
    rates_of,
    wilson,
)
from tests.builders.classes import confusion_of, drawn

Array = np.ndarray[Any, Any]
simplex = st.lists(st.floats(0.01, 1.0), min_size=2, max_size=5).map(
    lambda own: np.array(own) / sum(own)
)


def normal_texts(shares: Array, number: int, seed: int) -> tuple[Array, Array]:
    """Points around one corner for each class ``(n, k)``, and their classes."""
    draw = np.random.default_rng(seed)
    targets = draw.choice(len(shares), size=number, p=shares)
    return 1.5 * np.eye(len(shares))[targets] + draw.normal(size=(number, len(shares))), targets


def posterior(points: Array, shares: Array) -> Array:
    """The right probabilities ``(n, k)`` where classes have these shares."""
    return np.asarray(special.softmax(1.5 * points + np.log(shares), axis=1))


TRAINED = np.array([0.6, 0.3, 0.1])


def trained(rows: int, seed: int) -> Confusion:
    points, targets = normal_texts(TRAINED, rows, seed)
    probability = posterior(points, TRAINED)
    return Confusion.of(probability, probability.argmax(axis=1), targets, seed=seed)


def shares_of(points: Array, confusion: Confusion, seed: int = 0) -> dict[str, Any]:
    probability = posterior(points, TRAINED)
    counts = np.bincount(probability.argmax(axis=1), minlength=3)
    return class_shares(probability, counts, confusion, seed=seed)


def test_corrected_shares_are_right_where_counts_are_not() -> None:
    found = trained(3000, 0)
    truth = np.array([0.1, 0.2, 0.7])
    points, targets = normal_texts(truth, 4000, 1)
    real = np.bincount(targets) / 4000
    shares = shares_of(points, found)
    assert list(shares) == list(SHARE_METHODS)
    errors = {name: np.abs(own.value - real).mean() for name, own in shares.items()}
    assert errors["em"] < 0.02 and errors["adjusted"] < 0.06
    assert min(errors["counted"], errors["mean"]) > 0.08
    for name in CORRECTED:
        assert (shares[name].low <= real).all() and (real <= shares[name].high).all()


def two_sides(shares: Array, number: int, seed: int, apart: float) -> tuple[Array, Array]:
    """The right log odds ``(n,)`` of two classes alike often, and classes of these shares."""
    draw = np.random.default_rng(seed)
    targets = draw.choice(2, size=number, p=shares)
    return apart * (apart * (targets - 0.5) + draw.normal(size=number)), targets


def binary(log_odds: Array) -> Array:
    return np.stack([special.expit(-log_odds), special.expit(log_odds)], axis=1)


@pytest.mark.parametrize(
    ("apart", "shares"), [(2.0, (0.5, 0.5)), (4.0, (0.5, 0.5)), (2.0, (0.95, 0.05))]
)
def test_intervals_hold_the_truth_about_as_often_as_they_say(
    apart: float, shares: tuple[float, float]
) -> None:
    """Of days with a sample of errors and shares of their own: usual, sure, and of a rare class.

    Of 20 that hold it with a chance of .93 fewer than 15 do so once in 500 times."""
    draw, prior = np.random.default_rng(0), np.log(shares[1] / shares[0])
    held = dict.fromkeys(CORRECTED, 0)
    for seed in range(20):
        log_odds, targets = two_sides(np.array(shares), 400, seed, apart)
        probability = binary(log_odds + prior)
        found = Confusion.of(probability, probability.argmax(axis=1), targets, seed=seed)
        log_odds, targets = two_sides(draw.dirichlet([1, 1]), 150, 100 + seed, apart)
        probability = binary(log_odds + prior)
        counts = np.bincount(probability.argmax(axis=1), minlength=2)
        for name, own in class_shares(probability, counts, found, seed=seed).items():
            if name in held:
                held[name] += own.low[1] - 1e-6 <= targets.mean() <= own.high[1] + 1e-6
    assert min(held.values()) >= 15, held


@pytest.mark.parametrize(("rare", "least"), [(0.5, 0.5), (0.02, 0.2)])
def test_other_shares_are_no_misfit(rare: float, least: float) -> None:
    """Also of a class of which a dozen rows are known."""
    draw, prior, flagged = np.random.default_rng(0), np.log(rare / (1 - rare)), 0
    for seed in range(30):
        log_odds, targets = two_sides(np.array([1 - rare, rare]), 600, seed, 2.0)
        probability = binary(log_odds + prior)
        decided = (probability[:, 1] > least).astype(int)
        found = Confusion.of(probability, decided, targets, seed=seed)
        probability = binary(two_sides(draw.dirichlet([1, 1]), 500, 100 + seed, 2.0)[0] + prior)
        decided = (probability[:, 1] > least).astype(int)
        flagged += misfit(found.cells(probability, decided), found) <= 0.01
    assert flagged <= 4


def test_a_model_that_is_a_little_surer_is_no_misfit() -> None:
    """New texts are decided by one model of all rows, rows held out by those of the folds."""
    for seed in range(4):
        log_odds, targets = two_sides(np.array([0.5, 0.5]), 600, seed, 6.0)
        probability = binary(log_odds)
        found = Confusion.of(probability, probability.argmax(axis=1), targets)
        assert (found.edges <= 0.95).all()
        assert (found.cells(probability, probability.argmax(1)) == found.table.sum(axis=0)).all()
        new = binary(1.3 * two_sides(np.array([0.3, 0.7]), 500, 100 + seed, 6.0)[0])
        assert misfit(found.cells(new, new.argmax(axis=1)), found) > 0.01


def test_some_of_many_texts_leave_the_doubt_of_the_draw() -> None:
    """A sure head knows the shares of the texts looked at; of all there are more."""
    log_odds, targets = two_sides(np.array([0.5, 0.5]), 3000, 0, 6.0)
    probability = binary(log_odds)
    found = Confusion.of(probability, probability.argmax(axis=1), targets)
    new = binary(two_sides(np.array([0.6, 0.4]), 1000, 1, 6.0)[0])
    counts = np.bincount(new.argmax(axis=1), minlength=2)
    width = {}
    for number in (1, 100):
        shares = class_shares(new, counts * number, found)
        width[number] = float((shares["em"].high - shares["em"].low)[1])
        low, high = wilson(counts[1:] / counts.sum(), 1000)
    drawn = float((high - low)[0])
    assert width[1] < 0.5 * drawn < 0.8 * drawn < width[100] < 1.5 * drawn


@given(shares=simplex, seed=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_expected_counts_give_their_shares_back(shares: Array, seed: int) -> None:
    """Whatever the confusion, if it tells the classes apart."""
    size = len(shares)
    draw = np.random.default_rng(seed)
    rates = 0.6 * np.eye(size) + 0.4 * draw.dirichlet(np.ones(size), size=size)
    assert np.allclose(explain(shares @ rates, rates), shares, atol=1e-6)


@given(decided=simplex, seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_explaining_is_least_squares_on_the_simplex(decided: Array, seed: int) -> None:
    """Against scipy's general solver, also where no shares explain the counts."""
    size = len(decided)
    rates = np.random.default_rng(seed).dirichlet(np.ones(size), size=size)

    def loss(shares: Array) -> float:
        return float(np.square(decided - shares @ rates).sum())

    found = explain(decided, rates)
    assert (found >= 0).all() and np.isclose(found.sum(), 1)
    other = optimize.minimize(
        loss,
        np.full(size, 1 / size),
        bounds=[(0, 1)] * size,
        constraints={"type": "eq", "fun": lambda own: own.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert loss(found) <= loss(other.x) + 1e-8


def test_of_two_classes_it_is_the_formula_of_forman() -> None:
    """(decided - false alarms) / (hits - false alarms), cut to 0 and 1."""
    rates = np.array([[0.9, 0.1], [0.3, 0.7]])
    for decided in (0.05, 0.1, 0.4, 0.69, 0.9):
        expected = np.clip((decided - 0.1) / 0.6, 0, 1)
        assert np.allclose(explain(np.array([1 - decided, decided]), rates)[1], expected)


@given(start=simplex, seed=st.integers(0, 99), rows=st.integers(1, 60))
@settings(max_examples=10, deadline=None)
def test_em_finds_what_plain_em_does(start: Array, seed: int, rows: int) -> None:
    """The same likelihood as 1,500 plain steps of Saerens et al.; shares on the simplex."""
    size = len(start)
    ratios = np.random.default_rng(seed).gamma(0.5, size=(rows, size)) + 1e-9
    found, _ = em(ratios, start=start[None])
    assert (found >= 0).all() and np.isclose(found.sum(), 1)
    plain = np.full(size, 1 / size)
    for _ in range(1500):
        p = ratios * plain
        plain = (p / p.sum(axis=1, keepdims=True)).mean(axis=0)
    own, other = (np.log(ratios @ shares).mean() for shares in (found[0], plain))
    assert own >= other - 1e-5


@given(seed=st.integers(0, 50))
@settings(max_examples=4, deadline=None)
def test_the_order_of_classes_does_not_matter(seed: int) -> None:
    probability, targets = drawn(3, 200, seed)
    order = np.random.default_rng(seed).permutation(3)
    place = np.argsort(order)
    decided = probability.argmax(axis=1)
    one = class_shares(
        probability,
        np.bincount(decided, minlength=3),
        Confusion.of(probability, decided, targets),
    )
    other = class_shares(
        probability[:, order],
        np.bincount(place[decided], minlength=3),
        Confusion.of(probability[:, order], place[decided], place[targets]),
    )
    for name in SHARE_METHODS:
        assert np.allclose(one[name].value[order], other[name].value, atol=1e-4)


@given(
    size=st.integers(2, 4),
    rows=st.integers(1, 30),
    texts=st.integers(1, 20),
    seed=st.integers(0, 99),
    kind=st.sampled_from(["usual", "one class", "alike", "sure"]),
)
@settings(max_examples=15, deadline=None)
def test_anything_gives_shares_with_an_interval(
    size: int, rows: int, texts: int, seed: int, kind: str
) -> None:
    probability, targets = drawn(size, rows, seed, strength=50.0 if kind == "sure" else 2.0)
    targets = np.zeros_like(targets) if kind == "one class" else targets
    if kind == "alike":
        probability = np.full_like(probability, 1 / size)
    confusion = Confusion.of(probability, probability.argmax(axis=1), targets)
    new, _ = drawn(size, texts, seed + 1)
    new = np.full_like(new, 1 / size) if kind == "alike" else new
    counts = np.bincount(new.argmax(axis=1), minlength=size)
    for share in class_shares(new, counts, confusion).values():
        assert np.isclose(share.value.sum(), 1) and (share.value >= 0).all()
        assert (share.low >= 0).all() and (share.high <= 1).all()
        assert (share.low <= share.high).all()
    assert 0 < misfit(confusion.cells(new, new.argmax(axis=1)), confusion) <= 1


def test_no_text_has_no_shares() -> None:
    found = class_shares(np.zeros((0, 3)), np.zeros(3, int), confusion_of(3))
    assert list(found) == list(SHARE_METHODS) and np.isnan(found["em"].value).all()
    plain = class_shares(np.full((4, 2), 0.5), np.array([4, 0]), None)
    assert list(plain) == ["counted", "mean"] and plain["mean"].value[0] == 0.5


def test_a_head_of_chance_says_little_and_is_told() -> None:
    draw = np.random.default_rng(0)
    probability = special.softmax(0.3 * draw.normal(size=(400, 2)), axis=1)
    decided = probability.argmax(axis=1)
    confusion = Confusion.of(probability, decided, draw.integers(2, size=400))
    assert cannot_tell(confusion.confusion).all()
    new = special.softmax(0.3 * draw.normal(size=(300, 2)), axis=1)
    found = class_shares(new, np.bincount(new.argmax(axis=1), minlength=2), confusion)
    for name in CORRECTED:
        assert (found[name].high - found[name].low > 0.4).all(), name
    assert not cannot_tell(trained(2000, 0).confusion).any()


def test_of_a_class_without_rows_nothing_is_known() -> None:
    probability, targets = drawn(3, 300, 0)
    targets[targets == 2] = 1
    confusion = Confusion.of(probability, probability.argmax(axis=1), targets)
    found = class_shares(probability, np.bincount(probability.argmax(axis=1)), confusion)
    assert cannot_tell(confusion.confusion)[2]
    for name in CORRECTED:
        assert (found[name].low[2], found[name].high[2]) == (0, 1)
    assert (rates_of(confusion.confusion)[2] == 1 / 3).all()


def test_texts_that_no_shares_explain_are_told() -> None:
    """Other texts, which the head is less sure of; not other shares of the same."""
    confusion = trained(2000, 0)
    points, _ = normal_texts(np.array([0.2, 0.2, 0.6]), 1500, 1)
    probability = posterior(points, TRAINED)
    cells = confusion.cells(probability, probability.argmax(axis=1))
    assert cells.shape == (3, LEVELS) and misfit(cells, confusion) > 0.05
    faint = posterior(0.4 * points, TRAINED)
    assert misfit(confusion.cells(faint, faint.argmax(axis=1)), confusion) < 0.01


def test_more_texts_narrow_the_interval_as_far_as_the_errors_are_known() -> None:
    confusion = trained(2000, 0)
    width = {}
    for number in (200, 6000):
        points, _ = normal_texts(TRAINED, number, 2)
        found = shares_of(points, confusion)
        width[number] = {n: float((own.high - own.low).mean()) for n, own in found.items()}
    for name in SHARE_METHODS:
        assert width[6000][name] < width[200][name]
    assert width[6000]["em"] > 0.01  # 2,000 rows tell no more


def test_wilsons_interval_is_that_of_scipy() -> None:
    from scipy import stats

    for count, number in ((0, 10), (3, 10), (250, 500)):
        low, high = wilson(np.array([count / number]), number)
        known = stats.binomtest(count, number).proportion_ci(method="wilson")
        assert np.allclose([low[0], high[0]], [known.low, known.high])
    low, high = wilson(np.array([0.0, 1.0]), 7)
    assert low[0] == 0 and high[1] == 1


def test_a_mean_is_corrected_for_what_is_drawn_to_the_middle() -> None:
    draw = np.random.default_rng(0)

    def predicted(truth: Array) -> Array:
        return 0.2 + 0.5 * truth + 0.1 * draw.normal(size=len(truth))

    old, new = draw.normal(size=800), 1 + draw.normal(size=1000)
    slope, values = Slope.of(predicted(old), old), predicted(new)
    found = mean_value(values.mean(), values.std(), len(values), slope)
    assert abs(found["mean"].value[0] - new.mean()) > 0.2
    assert abs(found["adjusted"].value[0] - new.mean()) < 0.05
    assert found["adjusted"].low[0] < new.mean() < found["adjusted"].high[0]
    assert not is_flat(slope) and is_flat(Slope.of(draw.normal(size=800), old))
    assert list(mean_value(0.5, 0.1, 3, None)) == ["mean"]
    assert np.isnan(mean_value(0.0, 0.0, 0, slope)["adjusted"].value).all()
    flat = mean_value(0.5, 0.1, 9, Slope(3, np.zeros(3), np.zeros(3)))
    assert np.isfinite(flat["adjusted"].high).all()


@pytest.mark.parametrize("number", [1, 2])
def test_one_text_is_no_error(number: int) -> None:
    points, _ = normal_texts(TRAINED, number, 0)
    assert shares_of(points, trained(300, 0))["em"].converged
