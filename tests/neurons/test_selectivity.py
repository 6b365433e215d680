from __future__ import annotations

import numpy as np
import pytest

from pipeline.linear.design import MemoryDesign
from pipeline.linear.fitted import Linear
from pipeline.linear.solver import Objective, solve_paths
from pipeline.neurons.selectivity import Selectivity, selectivity, shuffled
from pipeline.probes.model import Problem
from pipeline.texts.targets import Rows

NUM_TRAIN, NUM_VAL = 400, 200


def measure(num_features: int, problem: Problem, penalty: float) -> Selectivity:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(NUM_TRAIN + NUM_VAL, num_features)).astype(np.float32)
    y = x[:, 0] + x[:, 1] + 0.3 * draw.normal(size=len(x))
    if problem.num_classes is not None:
        y = np.digitize(y, [-0.7, 0.7][: problem.num_classes - 1])
    design = MemoryDesign(np.ascontiguousarray(x[:NUM_TRAIN].T))
    objective = Objective(y[:NUM_TRAIN], problem.num_classes)
    model: Linear = solve_paths(design, [objective], [penalty])[0][0]
    return selectivity(
        model,
        design,
        Rows(np.arange(NUM_TRAIN), y[:NUM_TRAIN]),
        design.standardiser.apply(x[NUM_TRAIN:]),
        Rows(np.arange(NUM_TRAIN, len(x)), y[NUM_TRAIN:]),
        problem=problem,
        shuffles=5,
    )


@pytest.mark.parametrize(
    ("problem", "penalty", "chance"),
    [(Problem(3, "macro_recall"), 1.0, 1 / 3), (Problem(2, "auc"), 1.0, 0.5)],
)
def test_shuffled_labels_score_by_chance(problem: Problem, penalty: float, chance: float) -> None:
    few, many = measure(10, problem, penalty), measure(300, problem, penalty)
    for found in (few, many):
        assert found.val > chance + 0.15
        assert found.val_control == pytest.approx(chance, abs=0.08)
        assert found.selectivity == pytest.approx(found.val - found.val_control)
    # A probe with as many features as rows fits anything.
    assert many.train_control > 0.95
    assert few.train_control < many.train_control - 0.2


@pytest.mark.parametrize("metric", ["pearson", "mae"])
def test_regression(metric: str) -> None:
    found = measure(10, Problem(None, metric), 10.0)
    assert found.selectivity > 0.4
    if metric == "pearson":
        assert found.val_control == pytest.approx(0, abs=0.1)


def test_rows_of_one_text_share_a_shuffled_label() -> None:
    positions = np.array([3, 1, 3, 2, 1, 7])
    rows = Rows(positions, np.array([0, 1, 0, 2, 1, 3]))
    seen = set()
    for seed in range(20):
        labels = shuffled(rows, np.random.default_rng(seed))
        assert labels[0] == labels[2] and labels[1] == labels[4]
        assert sorted(labels[[0, 1, 3, 5]]) == [0, 1, 2, 3]
        seen.add(tuple(labels))
    assert len(seen) > 5
