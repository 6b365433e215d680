from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from pipeline.config.sections import TYPE_METRICS
from pipeline.measures.metrics import (
    METRICS,
    metric_names,
    pareto_front,
    probabilities,
    score,
    utility,
)

pytest.importorskip("holoviews", reason="needs the extra: salient-neurons[report]")


def test_classification_metrics_are_scikit_learns() -> None:
    draw = np.random.default_rng(0)
    y = draw.integers(0, 3, 200)
    logits = draw.normal(size=(200, 3)) + np.eye(3)[y]
    guess = logits.argmax(1)
    assert score("accuracy", y, logits) == sk.accuracy_score(y, guess)
    assert score("macro_f1", y, logits) == sk.f1_score(y, guess, average="macro")
    assert score("macro_recall", y, logits) == sk.recall_score(y, guess, average="macro")
    assert score("f1", y, logits, positive=1) == sk.f1_score(y == 1, guess == 1)
    expected = sk.roc_auc_score(y == 2, probabilities(logits)[:, 2])
    assert score("auc", y, logits) == expected


def test_binary_outputs_have_one_column() -> None:
    y = np.array([0, 1, 1, 0])
    logits = np.array([[-1.0], [2.0], [-0.5], [-3.0]])
    np.testing.assert_allclose(probabilities(logits)[:, 1], 1 / (1 + np.exp(-logits[:, 0])))
    assert score("accuracy", y, logits) == 0.75
    assert score("auc", y, logits) == 1.0


def test_regression_metrics() -> None:
    draw = np.random.default_rng(0)
    y = draw.normal(size=50)
    out = (y + draw.normal(size=50))[:, None]
    assert score("pearson", y, out) == pytest.approx(stats.pearsonr(y, out[:, 0])[0])
    assert score("spearman", y, out) == pytest.approx(stats.spearmanr(y, out[:, 0])[0])
    assert score("r2", y, out) == pytest.approx(sk.r2_score(y, out[:, 0]))
    assert score("mae", y, out) == pytest.approx(np.abs(y - out[:, 0]).mean())
    assert utility("mae", 0.2) > utility("mae", 0.3)
    assert score("pearson", y, np.zeros((50, 1))) == 0.0


def test_a_class_absent_from_the_evaluation_raises_no_warning() -> None:
    y = np.array([0, 0, 1])
    logits = np.eye(3)[[0, 2, 1]] * 5.0
    for name in metric_names("classification"):
        assert np.isfinite(score(name, y, logits, positive=0))
    assert np.isnan(score("auc", y, logits, positive=2))


def test_every_type_of_task_has_the_metrics_of_the_configuration() -> None:
    for type, names in TYPE_METRICS.items():
        assert sorted(metric_names(type)) == sorted(names)
    assert {name for names in TYPE_METRICS.values() for name in names} == METRICS.keys()


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=30))
def test_no_point_beats_the_pareto_front(points: list[tuple[int, int]]) -> None:
    cost, score = zip(*points, strict=True)
    front = pareto_front(cost, score)
    on_front = [points[i] for i in front]
    assert on_front == sorted(on_front)
    for c, s in points:
        assert any(fc <= c and fs >= s for fc, fs in on_front)
        for fc, fs in on_front:
            assert not (c <= fc and s >= fs and (c, s) != (fc, fs))
    lowest = pareto_front(cost, [-s for s in score], higher=False)
    assert [points[i] for i in lowest] == on_front
