"""Against plain refits in float64, row by row and fold by fold, and against scikit-learn."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge

from pipeline.linear.mixture import INTERCEPT, MAX_OUTPUTS, Mixture, solve_positive

Array = NDArray[Any]


def kernels_of(draw: np.random.Generator, rows: int, widths: Sequence[int]) -> list[Array]:
    found = []
    for width in widths:
        x = draw.normal(size=(rows, width)).astype(np.float32)
        found.append(x @ x.T / np.float32(width))
    return found


def problem(
    seed: int,
    *,
    rows: int = 30,
    widths: Sequence[int] = (3, 50, 8),
    outputs: int = 2,
    folds: int = 4,
    assignments: int = 1,
    weighted: bool = False,
) -> Mixture:
    draw = np.random.default_rng(seed)
    kernels = kernels_of(draw, rows, widths)
    targets = draw.normal(size=(rows, outputs)).astype(np.float32)
    targets -= targets.mean(axis=0)
    own = [draw.integers(folds, size=rows) for _ in range(assignments)]
    weight = np.exp(draw.normal(size=rows)).astype(np.float32) if weighted else None
    return Mixture(kernels, targets, own, weight, num_folds=folds)


def refit(mixture: Mixture, weights: Array, without: Array) -> tuple[Array, Array]:
    """Duals, zero on the rows left out, and the scores of all rows."""
    total = np.float64(INTERCEPT) + sum(
        float(w) * np.asarray(kernel, np.float64)
        for w, kernel in zip(weights, mixture.kernels, strict=True)
    )
    seen = np.setdiff1d(np.arange(len(total)), without)
    matrix = total[np.ix_(seen, seen)] + np.diag(1.0 / mixture.weight[seen].astype(np.float64))
    dual = np.zeros(mixture.targets.shape)
    dual[seen] = np.linalg.solve(matrix, mixture.targets[seen].astype(np.float64))
    return dual, total @ dual


def check_against_refits(mixture: Mixture, weights: Array, atol: float = 2e-4) -> None:
    fit = mixture.fit(weights)
    dual, _ = refit(mixture, weights, np.zeros(0, np.int64))
    np.testing.assert_allclose(fit.dual, dual, atol=atol)
    assert fit.held_out.shape == (len(mixture.folds), *mixture.targets.shape)
    for number, folds in enumerate(mixture.folds):
        for k, rows in enumerate(folds):
            dual, scores = refit(mixture, weights, rows)
            np.testing.assert_allclose(fit.held_out[number, rows], scores[rows], atol=atol)
            if number == 0:
                np.testing.assert_allclose(fit.fold_duals[0, k], dual, atol=atol)
                assert not fit.fold_duals[0, k, rows].any()


@settings(max_examples=40)
@given(
    st.integers(0, 10**6),
    st.integers(2, 40),
    st.integers(1, 3),
    st.integers(1, 6),
    st.integers(1, 3),
    st.booleans(),
)
def test_held_out_scores_and_fold_duals_are_those_of_refits(
    seed: int, rows: int, outputs: int, folds: int, assignments: int, weighted: bool
) -> None:
    """Also with fewer rows than folds, and with one fold that has them all."""
    mixture = problem(
        seed,
        rows=rows,
        outputs=outputs,
        folds=folds,
        assignments=assignments,
        weighted=weighted,
    )
    check_against_refits(mixture, np.exp(np.random.default_rng(seed).normal(size=3)))


def test_a_fold_without_rows_changes_nothing() -> None:
    plain = problem(1, folds=3)
    (own,) = (np.where(folds == 2, 4, folds) for folds in plain._assignments)
    more = Mixture(plain.kernels, plain.targets, [own], num_folds=6)
    weights = np.array([0.5, 1.0, 2.0])
    few, many = plain.fit(weights), more.fit(weights)
    np.testing.assert_array_equal(few.held_out, many.held_out)
    assert many.fold_duals.shape[1:] == (6, 30, 2)
    for k in (2, 3, 5):
        np.testing.assert_array_equal(many.fold_duals[0, k], many.dual)
    np.testing.assert_array_equal(many.fold_duals[0, 4], few.fold_duals[0, 2])
    np.testing.assert_allclose(plain.learn(np.ones(3)), more.learn(np.ones(3)), rtol=1e-5)


def test_what_all_rows_of_one_fold_are_predicted_without_them_is_nothing() -> None:
    mixture = problem(2, rows=12)
    alone = Mixture(mixture.kernels, mixture.targets, [np.zeros(12, np.int64)], num_folds=1)
    fit = alone.fit(np.ones(3))
    np.testing.assert_allclose(fit.held_out, 0.0, atol=1e-4)
    assert not fit.fold_duals.any()
    assert np.isfinite(alone.learn(np.ones(3))).all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("assignments", [1, 3])
def test_the_gradient_is_that_of_finite_differences(weighted: bool, assignments: int) -> None:
    mixture = problem(3, rows=40, assignments=assignments, weighted=weighted)
    theta, step = np.array([-0.7, 0.2, 0.9]), 0.02
    _, gradient = mixture._objective(theta, mixture.targets, -0.5)
    for i in range(3):
        values = [
            mixture._objective(theta + sign * step * np.eye(3)[i], mixture.targets, -0.5)[0]
            for sign in (-1, 1)
        ]
        assert gradient[i] == pytest.approx(
            (values[1] - values[0]) / (2 * step), rel=0.02, abs=0.02
        )


def test_the_objective_is_the_logarithm_of_the_held_out_error_and_a_prior() -> None:
    mixture = problem(4, weighted=True, assignments=2)
    theta = np.array([-0.7, 0.2, 0.9])
    missed = mixture.fit(np.exp(theta)).held_out - mixture.targets
    error = float((mixture.weight[:, None] * np.square(missed)).sum())
    apart = theta - theta.mean()
    prior = 0.5 * apart @ apart + 0.5 * ((theta.mean() + 0.5) / 4.0) ** 2
    found, _ = mixture._objective(theta, mixture.targets, -0.5)
    assert found == pytest.approx(15 * np.log(error) + prior, rel=1e-4)


def signal(seed: int, rows: int, outputs: int = 1) -> tuple[Mixture, Array]:
    """The second of five groups says it all; the folds."""
    draw = np.random.default_rng(seed)
    xs = [draw.normal(size=(rows, 40)).astype(np.float32) for _ in range(5)]
    targets = xs[1] @ draw.normal(size=(40, outputs)).astype(np.float32)
    targets += draw.normal(size=targets.shape).astype(np.float32)
    targets = (targets - targets.mean(axis=0)) / targets.std(axis=0)
    folds = np.arange(rows) % 5
    kernels = [x @ x.T / np.float32(40) for x in xs]
    return Mixture(kernels, targets, [folds], num_folds=5), folds


def held_out_error(mixture: Mixture, weights: Array) -> float:
    return float(np.square(mixture.fit(weights).held_out[0] - mixture.targets).mean())


@pytest.mark.parametrize("outputs", [1, 3, MAX_OUTPUTS + 4])
def test_learning_finds_the_group_that_speaks_and_lowers_the_error(outputs: int) -> None:
    mixture, _ = signal(5, 150, outputs)
    start = np.full(5, 0.2)
    learnt = mixture.learn(start)
    assert learnt.shape == (5,) and learnt.dtype == np.float64
    assert learnt.argmax() == 1
    assert learnt[1] > 5 * np.delete(learnt, 1).max()
    assert held_out_error(mixture, learnt) < 0.8 * held_out_error(mixture, start)
    np.testing.assert_array_equal(learnt, mixture.learn(start))


def test_learning_leaves_weights_that_fit_every_target() -> None:
    """Targets of much noise: too large weights all have the same held-out error, a worse one."""
    draw = np.random.default_rng(3)
    x = draw.normal(size=(100, 300))
    y = (x[:, :1] + 2 * draw.normal(size=(100, 1))).astype(np.float32)
    kernel = np.asarray(x @ x.T / 300, np.float32)
    mixture = Mixture([kernel], y - y.mean(), [np.arange(100) % 5], num_folds=5)
    best = min(held_out_error(mixture, np.array([w])) for w in np.logspace(-3, 2, 40))
    for start in (0.1, 1.0, 250.0):
        learnt = mixture.learn(np.array([start]))
        assert held_out_error(mixture, learnt) < 1.01 * best, start


def test_learning_helps_where_nothing_is_to_be_learnt_too() -> None:
    """Of noise no weight is worth anything: they fall, and the error with them."""
    mixture = problem(6, rows=100, outputs=1)
    start = np.ones(3)
    learnt = mixture.learn(start)
    assert held_out_error(mixture, learnt) < held_out_error(mixture, start)
    assert held_out_error(mixture, learnt) < 1.1 * float(np.square(mixture.targets).mean())


def test_many_rows_are_begun_on_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    mixture, _ = signal(7, 160)
    whole = mixture.learn(np.full(5, 0.2))
    monkeypatch.setattr("pipeline.linear.mixture.FIRST_ROWS", 100)
    parted = mixture.learn(np.full(5, 0.2))
    near = mixture.learn(whole, is_near=True)
    for found in (parted, near):
        assert found.argmax() == 1
        assert held_out_error(mixture, found) < 1.1 * held_out_error(mixture, whole)


@pytest.mark.parametrize("weight", [0.01, 1.0, 20.0])
def test_one_group_is_scikit_learns_kernel_ridge(weight: float) -> None:
    draw = np.random.default_rng(8)
    x, y = draw.normal(size=(50, 20)), draw.normal(size=(50, 2))
    y -= y.mean(axis=0)
    kernel = (x @ x.T / 20).astype(np.float32)
    mixture = Mixture([kernel], y.astype(np.float32), [np.arange(50) % 5], num_folds=5)
    dual = mixture.fit(np.array([weight])).dual
    # The intercept is one more feature, of weight INTERCEPT.
    features = np.concatenate([x * np.sqrt(weight / 20), np.full((50, 1), INTERCEPT**0.5)], axis=1)
    theirs = KernelRidge(alpha=1.0, kernel="linear").fit(features, y)
    np.testing.assert_allclose(dual, theirs.dual_coef_, atol=1e-4)
    ridge = Ridge(alpha=1.0, fit_intercept=False).fit(features, y)
    np.testing.assert_allclose(features.T @ dual, ridge.coef_.T, atol=1e-3)
    # On the features as they are, it is the penalty that the weight stands for.
    plain = Ridge(alpha=20 / weight).fit(x, y)
    np.testing.assert_allclose(x.T @ dual * weight / 20, plain.coef_.T, atol=0.02)


def test_the_weights_of_rows_are_scikit_learns() -> None:
    draw = np.random.default_rng(9)
    x, y, weight = draw.normal(size=(40, 5)), draw.normal(size=(40, 1)), draw.exponential(size=40)
    kernel = (x @ x.T / 5).astype(np.float32)
    own = weight.astype(np.float32)
    mixture = Mixture([kernel], y.astype(np.float32), [np.arange(40) % 4], own, num_folds=4)
    dual = mixture.fit(np.array([1.0])).dual
    features = np.concatenate([x / np.sqrt(5), np.full((40, 1), INTERCEPT**0.5)], axis=1)
    theirs = Ridge(alpha=1.0, fit_intercept=False).fit(features, y, sample_weight=weight)
    np.testing.assert_allclose(features.T @ dual, np.atleast_2d(theirs.coef_).T, atol=1e-3)


@pytest.mark.parametrize("rows", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("folds", [1, 2, 5])
def test_a_few_rows_are_enough(rows: int, folds: int) -> None:
    mixture = problem(rows, rows=rows, folds=folds, outputs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        learnt = mixture.learn(np.full(3, 1 / 3))
        assert np.isfinite(learnt).all() and (learnt > 0).all()
        check_against_refits(mixture, learnt)


def repeated(copies: int, rows: int, *, together: bool) -> Mixture:
    """Every text ``copies`` times, in one fold or in several."""
    draw = np.random.default_rng(10)
    kernels = [
        np.repeat(np.repeat(kernel, copies, axis=0), copies, axis=1)
        for kernel in kernels_of(draw, rows, (4, 30, 200))
    ]
    targets = draw.normal(size=(rows * copies, 2)).astype(np.float32)
    targets -= targets.mean(axis=0)
    number = np.arange(rows * copies)
    folds = number // copies % 5 if together else number % 5
    return Mixture(kernels, targets, [folds], num_folds=5)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(("copies", "rows"), [(2, 40), (40, 6), (300, 2)])
@pytest.mark.parametrize("weight", [1.0, 300.0])
def test_texts_that_repeat_make_no_trouble(
    copies: int, rows: int, together: bool, weight: float
) -> None:
    mixture = repeated(copies, rows, together=together)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights = np.full(3, weight)
        fit = mixture.fit(weights)
        learnt = mixture.learn(weights)
    assert np.isfinite(learnt).all()
    for rows_out in mixture.folds[0]:
        _, scores = refit(mixture, weights, rows_out)
        np.testing.assert_allclose(fit.held_out[0, rows_out], scores[rows_out], atol=0.05)


def test_a_constant_kernel_and_constant_targets() -> None:
    mixture = Mixture(
        [np.zeros((20, 20), np.float32), np.ones((20, 20), np.float32)],
        np.zeros((20, 1), np.float32),
        [np.arange(20) % 4],
        num_folds=4,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(mixture.learn(np.ones(2))).all()
        assert not mixture.fit(np.ones(2)).held_out.any()


@given(st.integers(0, 10**6), st.integers(1, 30))
def test_a_positive_system_is_solved(seed: int, size: int) -> None:
    draw = np.random.default_rng(seed)
    half = draw.normal(size=(size, size)).astype(np.float32)
    matrix = half @ half.T + np.eye(size, dtype=np.float32)
    right = draw.normal(size=(size, 2)).astype(np.float32)
    expected = np.linalg.solve(matrix.astype(np.float64), right)
    np.testing.assert_allclose(solve_positive(matrix.copy(), right), expected, atol=1e-3)


def test_a_system_that_rounding_makes_singular_is_solved_in_float64() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(50, 3)).astype(np.float32)
    matrix = np.float32(2.0**21) + x @ x.T + np.eye(50, dtype=np.float32)
    right = draw.normal(size=(50, 1)).astype(np.float32)
    expected = np.linalg.solve(matrix.astype(np.float64), right)
    np.testing.assert_allclose(solve_positive(matrix, right), expected, atol=1e-2)
