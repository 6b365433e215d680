"""Confident learning: the paper's counts, written out plainly, and noise put in that is found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from pipeline.measures.confident import NONE, doubted_labels, doubted_values

Array = NDArray[Any]


def drawn(seed: int, n: int, classes: int) -> tuple[Array, Array]:
    """Labels, and probabilities that know something of them."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(classes, size=n)
    scores = draw.gamma(0.7, size=(n, classes)) + 1e-6
    scores[np.arange(n), labels] += draw.gamma(1.0, size=n)
    return labels, scores / scores.sum(axis=1, keepdims=True)


def plain(labels: Array, probability: Array) -> tuple[list[float], list[list[int]], list[int]]:
    """Equations (2) and (1), and the off-diagonal, with loops."""
    num_classes = probability.shape[1]
    thresholds = []
    for j in range(num_classes):
        own = [p[j] for p, label in zip(probability, labels, strict=True) if label == j]
        thresholds.append(sum(own) / len(own) if own else float("inf"))
    joint = [[0] * num_classes for _ in range(num_classes)]
    doubted = []
    for row, (p, label) in enumerate(zip(probability, labels, strict=True)):
        reached = [j for j in range(num_classes) if p[j] >= thresholds[j] - 1e-9]
        if reached:
            likely = max(reached, key=lambda j: p[j])
            joint[label][likely] += 1
            if likely != label and p[label] < max(p):
                doubted.append(row)
    return thresholds, joint, sorted(doubted, key=lambda row: probability[row][labels[row]])


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 5))
def test_counts_are_those_of_the_paper(seed: int, n: int, classes: int) -> None:
    labels, probability = drawn(seed, n, classes)
    found = doubted_labels(labels, probability)
    thresholds, joint, doubted = plain(labels, probability)
    assert np.allclose(found.thresholds, thresholds)
    assert found.joint.tolist() == joint
    assert found.rows.tolist() == doubted
    assert (found.likely[found.rows] != labels[found.rows]).all()
    # Equation (3): the calibrated joint has as many rows of each given class as there are.
    assert np.allclose(found.wrong_by_class.sum(axis=1), found.counts)


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_counts_are_those_of_cleanlab(classes: int) -> None:
    pytest.importorskip("cleanlab", reason="needs cleanlab, to compare with only")
    from cleanlab.count import compute_confident_joint, num_label_issues
    from cleanlab.filter import find_label_issues

    labels, probability = drawn(classes, 800, classes)
    found = doubted_labels(labels, probability)
    joint = compute_confident_joint(labels, probability, calibrate=False)
    assert np.array_equal(found.joint, joint)
    how: dict[str, Any] = {"filter_by": "confident_learning", "n_jobs": 1}
    ranked = find_label_issues(
        labels, probability, return_indices_ranked_by="self_confidence", **how
    )
    assert np.array_equal(found.rows, ranked)
    assert len(found.rows) == num_label_issues(labels, probability)


def noisy_blobs(
    seed: int, *, n: int = 1200, classes: int = 4, apart: float = 3.0
) -> tuple[Array, Array, Array]:
    """Out-of-fold probabilities, labels with a tenth of them drawn from the other classes, and
    which those are."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(classes, size=n)
    centres = apart * np.eye(classes, 8)
    x = centres[truth] + draw.normal(size=(n, 8))
    wrong = np.zeros(n, bool)
    wrong[draw.permutation(n)[: n // 10]] = True
    labels = np.where(wrong, (truth + draw.integers(1, classes, size=n)) % classes, truth)
    model = LogisticRegression(C=1.0)
    return cross_val_predict(model, x, labels, cv=5, method="predict_proba"), labels, wrong


@pytest.mark.parametrize("seed", range(3))
def test_noise_put_in_is_found(seed: int) -> None:
    """120 of 1,200 labels wrong, and a model that is right of 19 in 20 rows."""
    probability, labels, wrong = noisy_blobs(seed)
    found = doubted_labels(labels, probability)
    num_wrong = int(wrong.sum())
    assert wrong[found.rows].mean() > 0.85
    assert wrong[found.rows].sum() > 0.6 * num_wrong
    assert wrong[found.rows[:40]].mean() > 0.95
    assert 0.8 * num_wrong < found.num_wrong < 1.4 * num_wrong


def test_clean_labels_that_are_told_apart_are_not_doubted() -> None:
    truth = np.arange(30) % 3
    found = doubted_labels(truth, 0.9 * np.eye(3)[truth] + 0.1 / 3)
    assert len(found.rows) == 0 and found.num_wrong == 0
    assert found.joint.tolist() == np.diag([10, 10, 10]).tolist()


def test_equal_probabilities_reach_their_mean() -> None:
    labels = np.array([0, 0, 0, 1])
    probability = np.array([[0.1 + 0.2, 0.7]] * 3 + [[0.6, 0.4]])
    found = doubted_labels(labels, probability)
    # The first three reach both thresholds, and their other class is the more probable one.
    assert found.likely.tolist() == [1, 1, 1, 0]
    assert found.rows.tolist() == [0, 1, 2, 3]


def test_a_class_without_rows_is_never_likely() -> None:
    labels = np.array([0, 1, 0, 1])
    probability = np.array([[0.1, 0.1, 0.8]] * 4)
    found = doubted_labels(labels, probability)
    assert np.isinf(found.thresholds[2]) and not found.joint[:, 2].any()
    assert set(found.likely.tolist()) <= {0, 1}
    empty = doubted_labels(np.empty(0, np.int64), np.empty((0, 2)))
    assert len(empty.rows) == 0 and empty.num_wrong == 0


def test_a_row_of_which_nothing_is_confident_is_not_counted() -> None:
    labels = np.array([0, 0, 1, 1])
    probability = np.array([[0.9, 0.1], [0.45, 0.55], [0.1, 0.9], [0.1, 0.9]])
    found = doubted_labels(labels, probability)
    assert found.likely.tolist() == [0, NONE, 1, 1]
    assert found.joint.sum() == 3 and found.wrong_by_class.sum() == 4


def test_values_far_from_what_is_said_of_them_are_doubted() -> None:
    draw = np.random.default_rng(0)
    predicted = draw.uniform(size=400)
    values = predicted + 0.3 + draw.normal(size=400) * 0.05  # an offset is no outlier
    values[[7, 90]] += [0.6, -0.9]
    found = doubted_values(values, predicted)
    assert found.rows[:2].tolist() == [90, 7] and len(found.rows) < 8
    assert found.deviation[7] > 3 and found.deviation[90] < -3
    assert 0.04 < found.scale < 0.06
    mostly = np.zeros(100)
    mostly[[3, 30, 60, 80, 99]] = 1000
    far = doubted_values(mostly, np.zeros(100))
    assert far.rows.tolist() == [3, 30, 60, 80, 99] and 62 < far.scale < 63
    same = doubted_values(np.ones(5), np.zeros(5))
    assert len(same.rows) == 0 and same.scale == 0
    assert len(doubted_values(np.empty(0), np.empty(0)).rows) == 0
