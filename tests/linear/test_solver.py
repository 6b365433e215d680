"""Many fits at once against scikit-learn, one by one."""

from __future__ import annotations

from threading import Barrier
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression, Ridge

from pipeline.errors import ProbeError
from pipeline.linear.design import MemoryDesign
from pipeline.linear.fitted import Linear
from pipeline.linear.lockstep import make_preconditioner
from pipeline.linear.solver import Objective, solve_paths
from pipeline.linear.threads import BlockThreads
from tests.builders.probes import design_of

Array = NDArray[Any]


def logistic_value(x: Array, y: Array, model: Any, penalty: float, weight: Array) -> float:
    w, b = (
        (model.weights, model.bias)
        if isinstance(model, Linear)
        else (model.coef_, model.intercept_)
    )
    z = x @ w.T.astype(np.float64) + b
    if len(w) == 1:
        z = np.concatenate([np.zeros_like(z), z], axis=1)
    loss = weight @ (logsumexp(z, axis=1) - z[np.arange(len(y)), y])
    return float(0.5 * np.square(w.astype(np.float64)).sum() + penalty * loss)


def awkward(n: int, features: int, seed: int, spread: float) -> Array:
    """Ill-conditioned raw features, with constant, duplicated and all-zero ones: ``(F, n)``."""
    draw = np.random.default_rng(seed)
    mix = draw.normal(size=(features, features)) * 10 ** draw.uniform(-spread, 0, (features, 1))
    xt = (draw.normal(size=(n, features)) @ mix).T
    return np.concatenate([xt, np.full((1, n), 3), np.zeros((1, n)), xt[:1]]).astype(np.float32)


def standardised(design: MemoryDesign) -> Array:
    return np.concatenate([block.T.copy() for _, block in design.blocks()]).astype(np.float64)


@settings(max_examples=12)
@given(
    n=st.integers(40, 160),
    features=st.integers(2, 60),
    classes=st.integers(2, 4),
    spread=st.sampled_from([0.0, 3.0]),
    method=st.sampled_from(["auto", "plain", "gram"]),
    seed=st.integers(0, 1000),
)
def test_every_fit_of_a_joint_solve_is_scikit_learns(
    n: int, features: int, classes: int, spread: float, method: Any, seed: int
) -> None:
    design = MemoryDesign(awkward(n, features, seed, spread))
    x = standardised(design)
    draw = np.random.default_rng(seed)
    y = (x[:, :1] + draw.gumbel(size=(n, classes)) * 2).argmax(1)
    y[: 2 * classes] = np.arange(2 * classes) % classes
    weight = draw.integers(0, 3, n).astype(float)
    weight[: 2 * classes] = 1
    missing = np.where(np.arange(n) % 5 == 4, -1, y)
    missing[: 2 * classes] = y[: 2 * classes]
    objectives = [
        Objective(y, classes),
        Objective(y, classes, weight),
        Objective(missing, classes),
    ]
    grid = [10.0, 1e-4, 0.1]
    found = solve_paths(design, objectives, grid, method=method)
    used = [np.ones(n), weight, (missing >= 0).astype(float)]
    for path, w in zip(found, used, strict=True):
        for penalty, model in zip(grid, path, strict=True):
            assert model.penalty == penalty and model.converged
            keep = w > 0
            best = LogisticRegression(C=penalty, tol=1e-8, solver="newton-cholesky")
            best.fit(x[keep], y[keep], sample_weight=w[keep])
            reference = logistic_value(x, y, best, penalty, w)
            assert logistic_value(x, y, model, penalty, w) <= reference * (1 + 1e-4)


@settings(max_examples=12)
@given(
    n=st.integers(10, 150),
    features=st.integers(1, 50),
    spread=st.sampled_from([0.0, 3.0]),
    seed=st.integers(0, 1000),
)
def test_ridge_with_folds_and_missing_values(
    n: int, features: int, spread: float, seed: int
) -> None:
    design = MemoryDesign(awkward(n, features, seed, spread))
    x = standardised(design)
    draw = np.random.default_rng(seed)
    y = 3 + x[:, 0] + draw.normal(size=n)
    holes = np.where(np.arange(n) % 4 == 1, np.nan, y)
    weights = [None, (np.arange(n) % 3 != 0).astype(float), draw.uniform(0.1, 2, n), None]
    objectives = [Objective(holes if i == 3 else y, None, w) for i, w in enumerate(weights)]
    grid = [1e-3, 1.0, 1e3]
    for i, path in enumerate(solve_paths(design, objectives, grid)):
        w = np.ones(n) if weights[i] is None else weights[i]
        w = np.where(np.isnan(objectives[i].targets), 0, w)
        for alpha, model in zip(grid, path, strict=True):
            assert model.converged
            best = Ridge(alpha=alpha, solver="svd").fit(x, y, sample_weight=w)

            def value(coef: Array, intercept: float, w: Array = w, alpha: float = alpha) -> float:
                residual = y - x @ coef - intercept
                return float(alpha * coef @ coef + w @ np.square(residual))

            ours = value(model.weights[0].astype(np.float64), float(model.bias[0]))
            assert ours <= value(best.coef_, float(best.intercept_)) * (1 + 1e-5) + 1e-9


def test_ridge_whose_penalty_drowns_in_the_grams_rounding() -> None:
    design = MemoryDesign(awkward(500, 20, 4, 3.0))
    x = standardised(design)
    y = 3 + x[:, 0] + np.random.default_rng(1).normal(size=500)
    ((model,),) = solve_paths(design, [Objective(y, None)], [1e-6])
    best = Ridge(alpha=1e-6, solver="svd").fit(x, y)
    assert model.converged
    residuals = [y - model.outputs(x)[:, 0], y - best.predict(x)]
    ours, theirs = (float(np.square(each).sum()) for each in residuals)
    assert ours <= theirs * (1 + 1e-5)


def test_separable_classes_at_a_weak_penalty() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(300, 200)).astype(np.float32)
    y = (x[:, :4] + 0.3 * draw.gumbel(size=(300, 4))).argmax(1)
    ((model,),) = solve_paths(design_of(x), [Objective(y, 4)], [1000.0], method="gram")
    best = LogisticRegression(C=1000.0, tol=1e-8, max_iter=20_000).fit(x.astype(np.float64), y)
    one = np.ones(300)
    x64 = x.astype(np.float64)
    assert model.converged
    assert (
        logistic_value(x64, y, model, 1e3, one) <= logistic_value(x64, y, best, 1e3, one) * 1.0001
    )


@pytest.mark.parametrize(("spread", "penalty", "hard"), [(0.0, 1e-5, False), (3.0, 10.0, True)])
def test_only_a_hard_lone_fit_pays_for_a_gram_matrix(
    monkeypatch: pytest.MonkeyPatch, spread: float, penalty: float, hard: bool
) -> None:
    # A Gram costs as much as 27 passes: the easy fit takes 3 without, the hard one hundreds.
    made = []

    def spy(*args: Any) -> Any:
        made.append(args)
        return make_preconditioner(*args)

    monkeypatch.setattr("pipeline.linear.lockstep.make_preconditioner", spy)
    design = MemoryDesign(awkward(2500, 1200, 0, spread))
    x = standardised(design)
    y = (x[:, 0] + np.random.default_rng(0).normal(size=len(x)) > 0).astype(np.int64)
    ((model,),) = solve_paths(design, [Objective(y, 2)], [penalty])
    assert len(made) == hard
    ((other,),) = solve_paths(design, [Objective(y, 2)], [penalty], method="gram")
    ours, theirs = (logistic_value(x, y, m, penalty, np.ones(len(x))) for m in (model, other))
    assert model.converged and ours == pytest.approx(theirs, rel=1e-6)


def test_result_does_not_depend_on_threads() -> None:
    from threadpoolctl import threadpool_limits

    draw = np.random.default_rng(0)
    design = MemoryDesign(draw.normal(size=(40, 6000)).astype(np.float16))
    objective = Objective((draw.uniform(size=6000) < 0.5).astype(np.int64), 2)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            found.append(solve_paths(design, [objective], [1e-3, 1.0], method="plain")[0])
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one.weights, two.weights)


def test_blas_has_one_thread_inside_whichever_thread_asks() -> None:
    from concurrent.futures import ThreadPoolExecutor

    from threadpoolctl import ThreadpoolController, threadpool_limits

    blas = ThreadpoolController().select(user_api="blas")

    def numbers() -> set[int]:
        return {library.num_threads for library in blas.lib_controllers}

    def inside(barrier: Barrier) -> tuple[int, set[int], set[int]]:
        with BlockThreads() as threads:
            barrier.wait()
            with threads.single_threaded_blas():
                here = numbers()
                barrier.wait()
                later = BlockThreads().num_threads
                barrier.wait()
            barrier.wait()
        return later, here, numbers()

    with threadpool_limits(2, user_api="blas"), ThreadPoolExecutor(2) as pool:
        if numbers() != {2}:
            pytest.skip("this BLAS cannot have two threads")
        barrier = Barrier(2)
        found = [pool.submit(inside, barrier) for _ in range(2)]
        assert [each.result(timeout=30) for each in found] == [(2, {1}, {2})] * 2
        assert numbers() == {2}


def test_mistakes_are_named() -> None:
    design = MemoryDesign(np.ones((2, 5), np.float32))
    objective = Objective(np.zeros(4), None)
    with pytest.raises(ProbeError, match="objective 0: targets has shape"):
        solve_paths(design, [objective], [1.0])
    with pytest.raises(ProbeError, match="must be a positive number"):
        solve_paths(design, [], [0.0])
    with pytest.raises(ProbeError, match="newton"):
        solve_paths(design, [], [1.0], method="newton")  # type: ignore[arg-type]
