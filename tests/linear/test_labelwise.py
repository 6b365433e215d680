from __future__ import annotations

import numpy as np
import pytest

from pipeline.linear.estimators import sklearn_path
from pipeline.linear.fitted import ABSENT_LOGIT, Linear
from pipeline.linear.labelwise import Objective, solve_by_label
from pipeline.linear.solver import solve_paths
from tests.builders.probes import design_of

PENALTIES = (1e-2, 1e-1)


def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Standardised features and label sets; two labels are equal, one no row has."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(200, 12)).astype(np.float32)
    y = (x[:, :4] + draw.normal(size=(200, 4)) > 0).astype(np.int8)
    y[:, 2], y[:, 3] = y[:, 1], 0
    y[:20] = -1  # no label set
    return x, y


def test_label_sets_are_binary_fits_side_by_side() -> None:
    x, y = drawn()
    design, weight = design_of(x), np.random.default_rng(1).uniform(0, 2, len(x))
    other = Objective(np.arange(len(x)) % 3, 3)
    objectives = [Objective(y, 4, weight), other]
    found, plain = solve_paths(design, objectives, PENALTIES, tol=1e-6)
    for model, classes in zip(found, plain, strict=True):
        assert model.weights.shape == (4, 12) and model.bias.shape == (4,)
        assert model.converged and classes.weights.shape == (3, 12)
        np.testing.assert_allclose(model.weights[1], model.weights[2], atol=1e-5)
        assert not model.weights[3].any() and model.bias[3] == -ABSENT_LOGIT
        (alone,) = sklearn_path(
            x[20:],
            y[20:, 0],
            num_classes=2,
            penalties=[model.penalty],
            sample_weight=weight[20:],
            tol=1e-8,
        )
        np.testing.assert_allclose(model.weights[:1], alone.weights, atol=1e-3)
    (again,) = solve_paths(design, objectives[:1], PENALTIES[:1], tol=1e-6, starts=[found[0]])
    np.testing.assert_allclose(again[0].weights, found[0].weights, atol=1e-4)
    assert again[0].num_iterations <= found[0].num_iterations


def test_starts_go_with_their_labels() -> None:
    _, y = drawn()
    start = Linear(np.arange(8, dtype=np.float32).reshape(4, 2), np.arange(4.0), 1.0)
    seen: list[Linear | None] = []

    def solve(each, starts):
        seen.extend(starts)
        return [[Linear(np.zeros((1, 2)), np.zeros(1), 1.0, i != 1, i)] for i in range(len(each))]

    objectives = [Objective(np.zeros(200), None), Objective(y, 4)]
    one, several = solve_by_label(objectives, [None, start], solve)
    assert seen[0] is None
    assert [float(model.bias[0]) for model in seen[1:] if model is not None] == [0, 1, 2, 3]
    assert one[0].weights.shape == (1, 2) and several[0].weights.shape == (4, 2)
    assert several[0].num_iterations == 4 and not several[0].converged
    assert several[0].penalty == pytest.approx(1.0)
