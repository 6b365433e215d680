from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import ElasticNet, LogisticRegression

from pipeline.config import ProbeConfig
from pipeline.linear.design import MemoryDesign
from pipeline.linear.estimators import sparse_path
from pipeline.linear.fitted import Standardiser
from pipeline.probes.fitting import ProbeTask, fit_probes
from pipeline.probes.model import Problem
from tests.builders.probes import fit_probe

CONFIG = ProbeConfig(C=(1e-3, 1e-2, 1e-1), alpha=(1.0, 10.0), tol=1e-5)


@pytest.fixture
def tasks() -> tuple[Any, Any, list[ProbeTask]]:
    """Features, validation features and four tasks that lack different labels."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(400, 20)).astype(np.float32)
    x[:, 5] = x[:, 4] + 0.01 * x[:, 5]
    x_val = draw.normal(size=(100, 20)).astype(np.float32)
    weights = draw.normal(size=(20, 3)).astype(np.float32)
    found = []
    for number, classes in enumerate((2, 3, None)):
        score, score_val = x @ weights + 1, x_val @ weights + 1
        y: Any = score.argmax(1) if classes == 3 else score[:, 0]
        y_val: Any = score_val.argmax(1) if classes == 3 else score_val[:, 0]
        if classes == 2:
            y, y_val = (y > 0).astype(np.int64), (y_val > 0).astype(np.int64)
        labelled = np.flatnonzero(draw.random(400) < 0.8)
        problem = Problem(classes, "pearson" if classes is None else "accuracy")
        folds = draw.permutation(len(labelled)) % 3 if number < 2 else None
        rows = np.arange(100)
        own = labelled, y[labelled], rows, y_val, folds, 0 if folds is None else 3
        found.append(ProbeTask(problem, *own))
    sets, sets_val = ((values @ weights + 1 > 0).astype(np.int8) for values in (x, x_val))
    sets[:, 2] = 0  # a label that no row has
    problem = Problem(3, "macro_f1", multilabel=True)
    every = np.arange(400)
    found.append(ProbeTask(problem, every, sets, np.arange(100), sets_val, every % 3, 3))
    return x, x_val, found


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_tasks_together_are_tasks_alone_and_the_references(
    tasks: tuple[Any, Any, list[ProbeTask]], class_weight: Any
) -> None:
    x, x_val, several = tasks
    config = CONFIG.model_copy(update={"class_weight": class_weight})
    train = MemoryDesign(np.ascontiguousarray(x.T))
    val = MemoryDesign(np.ascontiguousarray(x_val.T), train.standardiser)
    together = fit_probes(train, val, several, config=config)
    sklearn = config.model_copy(update={"solver": "sklearn", "tol": 1e-8})
    reference = fit_probes(train, val, several, config=sklearn)
    for i, task in enumerate(several):
        (alone,) = fit_probes(train, val, [task], config=config)
        for other in (alone, reference[i]):
            assert together[i].penalty == other.penalty
            np.testing.assert_allclose(
                together[i].probe.outputs(x_val), other.probe.outputs(x_val), atol=4e-3
            )
            found, expected = together[i].probe.fold_weights, other.probe.fold_weights
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, atol=4e-3)


def test_sample_weights_count_like_repeated_rows(
    tasks: tuple[Any, Any, list[ProbeTask]],
) -> None:
    x, x_val, (task, *_) = tasks
    train = MemoryDesign(np.ascontiguousarray(x.T))
    val = MemoryDesign(np.ascontiguousarray(x_val.T), train.standardiser)
    weight = np.where(np.arange(len(task.train)) % 3 == 0, 2.0, 1.0)
    weighted = fit_probes(train, val, [replace(task, weight=weight)], config=CONFIG)[0]
    again = np.repeat(np.arange(len(task.train)), weight.astype(int))
    rows = task.train[again]
    repeated = MemoryDesign(np.ascontiguousarray(x[rows].T), train.standardiser)
    simple = ProbeTask(
        task.problem, np.arange(len(rows)), task.y_train[again], task.val, task.y_val
    )
    expected = fit_probes(repeated, val, [simple], config=CONFIG)[0]
    np.testing.assert_allclose(weighted.probe.weights, expected.probe.weights, atol=2e-3)


def test_a_fold_without_training_rows_keeps_its_place(
    tasks: tuple[Any, Any, list[ProbeTask]],
) -> None:
    """As in the order of time, where the validation rows are the last."""
    x, x_val, (_, task, *_) = tasks
    train = MemoryDesign(np.ascontiguousarray(x.T))
    val = MemoryDesign(np.ascontiguousarray(x_val.T), train.standardiser)
    assert task.folds is not None
    plain = fit_probes(train, val, [task], config=CONFIG)[0].probe
    own = np.array([1, 2, 4])[task.folds]
    found = fit_probes(train, val, [replace(task, folds=own, num_folds=6)], config=CONFIG)[0].probe
    assert found.fold_weights.shape == (6, *plain.weights.shape)
    for k, fold in enumerate((1, 2, 4)):
        np.testing.assert_allclose(found.fold_weights[fold], plain.fold_weights[k], atol=4e-3)
    for fold in (0, 3, 5):
        np.testing.assert_allclose(found.fold_weights[fold], plain.weights, atol=4e-3)
        np.testing.assert_allclose(found.fold_bias[fold], plain.bias, atol=4e-3)


@pytest.mark.parametrize("classes", [2, 3, None])
def test_elastic_net_is_scikit_learns(classes: int | None) -> None:
    draw = np.random.default_rng(1)
    raw = draw.normal(size=(200, 8)).astype(np.float32)
    x = Standardiser.fit(raw).apply(raw)
    y: Any = x[:, 0] + 0.5 * x[:, 1] + draw.normal(size=200)
    if classes is not None:
        y = np.digitize(y, [0.0] if classes == 2 else [-0.5, 0.5])
    penalties = [0.05, 0.5] if classes is not None else [20.0, 5.0]
    path = sparse_path(x, y, num_classes=classes, penalties=penalties, l1_ratio=0.7, tol=1e-5)
    # In float32 rounding hides so small a tolerance as the reference's.
    exact = x.astype(np.float64)
    for model, penalty in zip(path, penalties, strict=True):
        assert model.penalty == penalty
        assert model.converged
        if classes is None:
            other = ElasticNet(alpha=penalty / 200, l1_ratio=0.7, tol=1e-9).fit(exact, y)
        else:
            other = LogisticRegression(
                C=penalty, l1_ratio=0.7, solver="saga", tol=1e-9, max_iter=20_000
            ).fit(exact, y)
        np.testing.assert_allclose(model.weights, np.atleast_2d(other.coef_), atol=2e-3)


def test_l1_chooses_few_neurons_and_passes_over_empty_models() -> None:
    draw = np.random.default_rng(2)
    x = draw.normal(size=(300, 30)).astype(np.float32)
    y = x[:, 3] + 0.1 * draw.normal(size=300)
    config = ProbeConfig(penalty="l1", alpha=(10.0, 1e5))
    fit = fit_probe(x[:200], y[:200], x[200:], y[200:], problem=Problem(None, "pearson"),
                    config=config)  # fmt: skip
    assert fit.penalty == 10.0
    assert fit.path[1][1] == 0.0
    assert np.abs(fit.probe.weights[0]).argmax() == 3
    assert (fit.probe.weights == 0).mean() > 0.5
