"""What heads of label sets do otherwise."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import optimize

from pipeline.config import ProbeConfig
from pipeline.heads.attribution import Contributions
from pipeline.heads.choice import as_logits, losses_of
from pipeline.heads.joint import Goal
from pipeline.heads.stack import _slopes
from pipeline.measures.calibration import logit_map
from pipeline.probes.model import Problem, row_weights
from store.layout import ffn

PROBLEM = Problem(3, "macro_f1", multilabel=True)


def drawn(num_rows: int = 40) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    return draw.normal(size=(num_rows, 3)), draw.integers(0, 2, (num_rows, 3)).astype(np.int8)


def test_goals_are_the_labels_indicators() -> None:
    _, y = drawn()
    y[:, 2] = 0
    goal = Goal.of(y, 3, None)
    np.testing.assert_allclose(goal.centred * goal.spread + goal.center, y, atol=1e-6)
    assert not goal.centred[:, 2].any()
    two = Goal.of(y[:, :2], 2, None)
    assert two.centred.shape == (40, 2)


def test_scores_of_several_assignments_become_logits() -> None:
    scores, y = drawn()
    both = np.stack([scores, scores + 0.1])
    outputs, losses, parts = as_logits(PROBLEM, y, both, ())
    scale, shift = logit_map(np.concatenate(both), np.concatenate([y, y]))
    np.testing.assert_allclose(outputs, scores * scale + shift, atol=1e-5)
    assert losses.shape == (40,) and parts == ()


def test_slopes_of_the_stack_are_those_of_the_loss() -> None:
    outputs, y = drawn(5)
    judge: Any = SimpleNamespace(problem=PROBLEM)

    def loss(flat: np.ndarray) -> float:
        return float(losses_of(PROBLEM, y, flat.reshape(outputs.shape)).sum())

    expected = optimize.approx_fprime(outputs.ravel(), loss, 1e-7)
    np.testing.assert_allclose(_slopes(judge, y, outputs).ravel(), expected, atol=1e-5)


def test_reasons_for_a_label_are_its_own() -> None:
    part = np.array([[1.0, 2.0, 6.0]])
    found = Contributions(np.zeros(3), np.zeros(3), {ffn(0): part}, {})
    assert found.towards(1, alone=True)[ffn(0)] == pytest.approx([2.0])
    assert found.towards(1)[ffn(0)] == pytest.approx([-1.0])


def test_rows_of_label_sets_weigh_the_same() -> None:
    _, y = drawn()
    assert row_weights(y, PROBLEM, ProbeConfig(class_weight="balanced")) is None
