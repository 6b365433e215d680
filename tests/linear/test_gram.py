"""Gram matrices against float64 products."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.linear import gram as module
from pipeline.linear.gram import _DeviceSum, design_gram, group_grams, hessian_gram
from pipeline.linear.ridge import solve_shifted, weighted_grams
from tests.builders.probes import design_of

Array = NDArray[Any]
X = np.random.default_rng(0).normal(size=(900, 17)).astype(np.float32)
EXACT = X.astype(np.float64)


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PRODUCT_ROWS", 700)


def test_whole_and_sampled() -> None:
    design = design_of(X)
    np.testing.assert_allclose(design_gram(design), EXACT.T @ EXACT, rtol=1e-4, atol=1e-2)
    part = EXACT[::4]
    np.testing.assert_allclose(design_gram(design, 4), 4 * part.T @ part, rtol=1e-4, atol=1e-2)


def test_sum_on_a_device() -> None:
    gram = np.zeros((17, 17), order="F")
    total = _DeviceSum(gram, torch.device("cpu"))
    for start in range(0, 900, 300):
        total.add(X[start : start + 300].T)
    total.finish()
    np.testing.assert_allclose(gram, EXACT.T @ EXACT, rtol=1e-4, atol=1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gram_matrices_of_a_gpu_are_those_of_the_cpu() -> None:
    design, there = design_of(X), design_of(X)
    there.device = torch.device("cuda")
    np.testing.assert_allclose(design_gram(there), design_gram(design), rtol=1e-4, atol=1e-2)
    groups = np.arange(900) % 3
    for gram, expected in zip(
        group_grams(there, groups, 3)[0], group_grams(design, groups, 3)[0], strict=True
    ):
        np.testing.assert_allclose(gram, expected, rtol=1e-4, atol=1e-2)


def test_hessian_is_weighted_and_has_the_bias() -> None:
    weight = np.random.default_rng(1).uniform(size=900)
    full = np.concatenate([EXACT, np.ones((900, 1))], axis=1)
    made = hessian_gram(design_of(X), lambda rows, block: weight[rows])
    np.testing.assert_allclose(made, full.T @ (weight[:, None] * full), rtol=1e-4, atol=1e-2)


def test_groups_sum_to_any_fold() -> None:
    groups = np.arange(900) % 4 - 1
    _check_groups(groups)


def test_groups_of_exactly_a_products_rows() -> None:
    groups = np.full(900, -1)
    groups[:512], groups[600:856] = 0, 1
    _check_groups(groups)


def _check_groups(groups: Array) -> None:
    grams, sums = group_grams(design_of(X), groups, 3)
    for group in range(3):
        rows = EXACT[groups == group]
        np.testing.assert_allclose(grams[group], rows.T @ rows, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(sums[group], rows.sum(0), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("folds", [True, False])
def test_weighted_grams(folds: bool) -> None:
    draw = np.random.default_rng(2)
    weights = [
        (np.arange(900) % 3 != k) * 2.0 if folds else draw.uniform(size=900) for k in range(3)
    ]
    for weight, (gram, sums) in zip(weights, weighted_grams(design_of(X), weights), strict=True):
        np.testing.assert_allclose(gram, EXACT.T @ (EXACT * weight[:, None]), rtol=1e-4, atol=1e-2)
        np.testing.assert_allclose(sums, weight @ EXACT, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("alpha", [1e-6, 1.0, 1e4])
def test_shifted_systems_are_solved_in_float64(alpha: float) -> None:
    basis, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(30, 30)))
    gram = (basis * np.logspace(-3, 6, 30)) @ basis.T
    right = np.random.default_rng(4).normal(size=(30, 2))
    exact = np.linalg.solve(gram + alpha * np.eye(30), right)
    found = solve_shifted(gram, alpha, right)
    assert np.abs(found - exact).max() <= 1e-5 * np.abs(exact).max()
