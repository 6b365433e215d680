from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from pipeline.linear.estimators import sklearn_path
from pipeline.linear.fitted import Linear, Standardiser
from pipeline.linear.labelwise import Objective
from pipeline.linear.solver import solve_paths
from tests.builders.probes import design_of

Array = NDArray[Any]


def fit_path(
    x: Array,
    y: Array,
    *,
    num_classes: int | None,
    penalties: Sequence[float],
    solver: str = "lbfgs",
    sample_weight: Array | None = None,
    tol: float = 1e-4,
) -> list[Linear]:
    """A model per penalty, in the order given."""
    if solver == "sklearn":
        options: dict[str, Any] = {"sample_weight": sample_weight, "tol": tol}
        return sklearn_path(x, y, num_classes=num_classes, penalties=penalties, **options)
    objective = Objective(np.asarray(y), num_classes, sample_weight)
    return solve_paths(design_of(x), [objective], penalties, tol=tol)[0]


def make(
    n: int, features: int, classes: int, seed: int, *, spread: float = 0.0
) -> tuple[Array, Array]:
    """Correlated features over ``10 ** spread`` orders of size, and labels that depend on them."""
    draw = np.random.default_rng(seed)
    mix = draw.normal(size=(features, features)) * 10 ** draw.uniform(-spread, 0, (features, 1))
    x = (draw.normal(size=(n, features)) @ mix).astype(np.float32)
    logits = x @ draw.normal(size=(features, classes)) / np.sqrt(features)
    y = (logits + draw.gumbel(size=logits.shape)).argmax(1)
    y[:classes] = np.arange(classes)
    return Standardiser.fit(x).apply(x), y


def objective(x: Array, y: Array, w: Array, b: Array, penalty: float) -> float:
    z = x.astype(np.float64) @ w.T.astype(np.float64) + b
    if len(w) == 1:
        z = np.concatenate([np.zeros_like(z), z], axis=1)
    loss = (logsumexp(z, axis=1) - z[np.arange(len(y)), y]).sum()
    return float(0.5 * np.square(w.astype(np.float64)).sum() + penalty * loss)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("spread", [0.0, 4.0])
def test_logistic_path_reaches_scikit_learns_optimum(classes: int, spread: float) -> None:
    x, y = make(600, 60, classes, 1, spread=spread)
    grid = (1e-3, 1e-1, 10.0)
    path = fit_path(x, y, num_classes=classes, penalties=grid, tol=1e-6)
    assert [model.penalty for model in path] == list(grid)
    for model in path:
        reference = LogisticRegression(C=model.penalty, tol=1e-8, max_iter=20_000)
        reference.fit(x.astype(np.float64), y)
        best = objective(x, y, reference.coef_, reference.intercept_, model.penalty)
        ours = objective(x, y, model.weights, model.bias, model.penalty)
        assert ours <= best * (1 + 1e-4)
        guess = model.outputs(x)
        guess = (guess[:, 0] > 0) if classes == 2 else guess.argmax(1)
        assert np.mean(guess == reference.predict(x)) >= 0.999


@settings(max_examples=15)
@given(
    n=st.integers(12, 60),
    features=st.integers(1, 80),
    classes=st.integers(2, 4),
    seed=st.integers(0, 1000),
)
def test_constant_duplicate_and_zero_features(
    n: int, features: int, classes: int, seed: int
) -> None:
    x, y = make(n, features, classes, seed)
    awkward = [np.full((n, 1), 3.0), np.zeros((n, 1)), x[:, :1]]
    raw = np.concatenate([x, *awkward], axis=1).astype(np.float32)
    z = Standardiser.fit(raw).apply(raw)
    assert np.isfinite(z).all()
    (model,) = fit_path(z, y, num_classes=classes, penalties=[0.3], tol=1e-6)
    reference = LogisticRegression(C=0.3, tol=1e-8, max_iter=20_000).fit(z.astype(np.float64), y)
    best = objective(z, y, reference.coef_, reference.intercept_, 0.3)
    assert objective(z, y, model.weights, model.bias, 0.3) <= best * (1 + 1e-4)
    np.testing.assert_array_equal(model.weights[:, features : features + 2], 0)


@pytest.mark.parametrize(("n", "features"), [(50, 200), (200, 50)])
def test_ridge_is_scikit_learns(n: int, features: int) -> None:
    draw = np.random.default_rng(0)
    x = Standardiser.fit(raw := draw.normal(size=(n, features)).astype(np.float32)).apply(raw)
    y = x @ draw.normal(size=features) + draw.normal(size=n)
    weight = draw.integers(0, 3, n).astype(float)
    path = fit_path(x, y, num_classes=None, penalties=(1.0, 100.0), sample_weight=weight)
    assert len(path) == 2
    for model in path:
        reference = Ridge(alpha=model.penalty).fit(x, y, sample_weight=weight)
        np.testing.assert_allclose(model.weights[0], reference.coef_, atol=2e-4)
        np.testing.assert_allclose(model.bias[0], reference.intercept_, atol=2e-4)


@pytest.mark.parametrize("classes", [2, 3, None])
def test_rows_of_weight_zero_are_left_out(classes: int | None) -> None:
    x, y = make(120, 20, classes or 2, 3)
    target = y if classes else y + x[:, 0]
    keep = np.arange(120) % 4 != 1
    (all_rows,) = fit_path(
        x, target, num_classes=classes, penalties=[0.5], sample_weight=keep, tol=1e-6
    )
    (kept,) = fit_path(x[keep], target[keep], num_classes=classes, penalties=[0.5], tol=1e-6)
    np.testing.assert_allclose(all_rows.weights, kept.weights, atol=1e-3)
    np.testing.assert_allclose(all_rows.bias, kept.bias, atol=1e-3)


def test_solvers_agree_and_paths_keep_the_callers_order() -> None:
    x, y = make(200, 30, 3, 5)
    grid = (1.0, 0.01)
    ours = fit_path(x, y, num_classes=3, penalties=grid, tol=1e-6)
    reference = fit_path(x, y, num_classes=3, penalties=grid, solver="sklearn", tol=1e-8)
    for a, b in zip(ours, reference, strict=True):
        assert a.penalty == b.penalty
        assert a.converged
        np.testing.assert_allclose(a.outputs(x), b.outputs(x), atol=5e-3)
    assert [model.penalty for model in ours] == [1.0, 0.01]


def test_standardiser_is_scikit_learns_and_clips_what_no_training_row_can_be() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(3, 5, size=(400, 7)).astype(np.float32)
    x[:, 3] = 2.5
    x[:, 4] = np.where(np.arange(400) == 0, 1e-6, 0)
    fitted = Standardiser.fit(x)
    np.testing.assert_allclose(fitted.apply(x), StandardScaler().fit_transform(x), atol=2e-4)
    woken = x[:1].copy()
    woken[0, 4] = 2.0
    assert np.abs(fitted.apply(woken)).max() == fitted.bound == 20.0


@pytest.mark.parametrize("solver", ["lbfgs", "sklearn"])
@pytest.mark.parametrize("present", [(0,), (1,), (0, 2), (0, 1, 3)])
def test_classes_without_rows_are_never_predicted(solver: str, present: tuple[int, ...]) -> None:
    draw = np.random.default_rng(0)
    y = np.array(present)[np.arange(90) % len(present)]
    x = (draw.normal(size=(90, 5)) + np.eye(5)[y] * 3).astype(np.float32)
    x = Standardiser.fit(x).apply(x)
    (model,) = fit_path(x, y, num_classes=4, penalties=[1.0], solver=solver, tol=1e-6)
    assert model.weights.shape == (4, 5)
    assert np.mean(model.outputs(x).argmax(1) == y) > 0.9
    if len(present) == 1 and present[0] < 2:
        (model,) = fit_path(x, y, num_classes=2, penalties=[1.0], solver=solver)
        assert ((model.outputs(x)[:, 0] > 0) == present[0]).all()
