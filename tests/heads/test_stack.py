from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.heads import stack
from pipeline.heads.choice import Candidate, Judge, losses_of
from pipeline.heads.model import Edges, Part
from pipeline.heads.stack import stacked
from pipeline.linear.fitted import Standardiser
from pipeline.probes.model import Problem
from store.layout import ffn

Array = NDArray[Any]


def member(judge: Judge, layer: int, outputs: Array) -> Candidate:
    """A head that reads its outputs, as the activations of a layer."""
    size = outputs.shape[1]
    plain = Standardiser(np.zeros(size, np.float32), np.ones(size, np.float32), np.inf)
    edges = Edges(
        ffn(layer),
        np.arange(size),
        plain,
        np.eye(size, dtype=np.float32),
        np.zeros(size, np.float32),
    )
    return judge.candidate(
        f"kind {layer}", [Part((edges,))], outputs[None], selection="all", are_logits=True
    )


def problem(classes: int | None, noises: tuple[float, ...]) -> tuple[Judge, Array, list[Candidate]]:
    """Heads that see the truth through noise of their own."""
    draw = np.random.default_rng(0)
    truth = draw.normal(size=(300, classes if classes and classes > 2 else 1))
    if classes is None:
        targets = truth[:, 0]
    else:
        targets = truth.argmax(axis=1) if classes > 2 else (truth[:, 0] > 0).astype(np.int64)
    metric = "pearson" if classes is None else "accuracy"
    judge = Judge(Problem(classes, metric), targets, np.arange(300), np.arange(300) > 200)
    outputs = [truth + noise * draw.normal(size=truth.shape) for noise in noises]
    members = [member(judge, i, own.astype(np.float32)) for i, own in enumerate(outputs)]
    return judge, np.arange(300) % 5, members


@pytest.mark.parametrize("classes", [2, 3, None])
def test_a_stack_is_the_weighted_sum_that_its_parts_put_out(classes: int | None) -> None:
    judge, folds, members = problem(classes, (0.3, 3.0, 1.0))
    found = stacked(judge, folds, members)
    assert (found.kind, found.depth, found.size) == ("stack", 2, None)
    assert found.loss < min(head.loss for head in members)
    mean = np.mean([head.outputs for head in members], axis=0)
    assert found.loss < float(losses_of(judge.problem, judge.targets, mean).mean())
    raw = {ffn(i): head.outputs for i, head in enumerate(members)}
    own = np.mean([part.outputs(raw) for part in found.parts], axis=0)
    # The judged rows' outputs are those of weights learnt without their folds: nearly the same.
    np.testing.assert_allclose(own, found.outputs, rtol=0.3, atol=0.3)


@pytest.mark.parametrize("classes", [2, 3, None])
def test_weights_are_of_least_loss_and_not_negative(classes: int | None) -> None:
    judge, _, members = problem(classes, (0.3, 3.0))
    outputs = np.stack([head.outputs for head in members]).astype(np.float64)
    rows = np.arange(300) < 250
    weights = stack._weights(judge, outputs, rows, 0.03)
    assert (weights >= 0).all() and weights[0] > 3 * weights[1]

    def objective(own: Array) -> float:
        total = np.tensordot(own, outputs[:, rows], axes=1)
        scale = np.var(judge.targets[rows]) if classes is None else 1.0
        loss = losses_of(judge.problem, judge.targets[rows], total).mean() / scale
        return float(loss + 0.015 * np.square(own - 0.5).sum())

    for step in (0.02 * np.eye(2)).tolist():
        for sign in (-1, 1):
            moved = np.maximum(weights + sign * np.array(step), 0)
            assert objective(weights) <= objective(moved) + 1e-6


def test_what_is_said_of_a_row_does_not_depend_on_its_folds_labels() -> None:
    judge, folds, members = problem(2, (0.3, 3.0))
    outputs = np.stack([head.outputs for head in members]).astype(np.float64)
    before = stack._held_out(judge, outputs, folds, 0.03)
    targets = judge.targets.copy()
    targets[folds == 1] ^= 1
    flipped = Judge(judge.problem, targets, judge.groups, judge.val)
    after = stack._held_out(flipped, outputs, folds, 0.03)
    np.testing.assert_array_equal(before[folds == 1], after[folds == 1])
    assert not np.allclose(before[folds == 0], after[folds == 0])


def test_of_rows_in_one_fold_the_stack_is_the_mean() -> None:
    judge, _, members = problem(2, (0.3, 3.0))
    found = stacked(judge, np.zeros(300, np.int64), members)
    np.testing.assert_allclose(
        found.outputs, np.mean([head.outputs for head in members], axis=0), rtol=1e-5, atol=1e-6
    )
