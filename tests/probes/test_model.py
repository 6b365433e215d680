from __future__ import annotations

import numpy as np
import pytest

from pipeline.config import ProbeConfig
from pipeline.linear.fitted import Standardiser
from pipeline.probes.importance import feature_importance, importance_table
from pipeline.probes.model import Probe, Problem
from tests.builders.probes import fit_probe


def test_importance_table() -> None:
    weights = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    table = importance_table(weights, layer=5, poolings=("mean", "max"), classes=("a", "b", "c"))
    rows = table.to_pylist()
    assert len(rows) == 8
    norm = np.linalg.norm(weights, axis=0)
    for j, row in enumerate(rows):
        assert (row["layer"], row["pooling"], row["neuron"]) == (5, ("mean", "max")[j // 4], j % 4)
        assert row["importance"] == pytest.approx(norm[j], rel=1e-6)
        assert row["importance_b"] == pytest.approx(abs(weights[1, j]), rel=1e-6)
        both = np.hypot(norm[j % 4], norm[j % 4 + 4])
        assert row["neuron_importance"] == pytest.approx(both, rel=1e-6)
    assert sum(row["share"] for row in rows) == pytest.approx(1, abs=1e-6)
    best = min(rows, key=lambda row: row["rank"])
    assert best["importance"] == pytest.approx(norm.max(), rel=1e-6)


def test_probe_learns_and_survives_its_file_form() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(300, 12)).astype(np.float32)
    y = (x[:, 3] - x[:, 7] > 0).astype(np.int64)
    train, val = slice(0, 200), slice(200, 300)
    fit = fit_probe(
        x[train].copy(),
        y[train],
        x[val].copy(),
        y[val],
        problem=Problem(2, "accuracy"),
        config=ProbeConfig(C=(1e-4, 1e-1)),
        folds=np.arange(200) % 4,
    )
    assert fit.penalty == 0.1
    assert fit.val_score >= 0.9
    assert set(np.argsort(-feature_importance(fit.probe.weights))[:2]) == {3, 7}
    assert fit.probe.fold_weights.shape == (4, 1, 12)
    again = Probe.from_arrays(fit.probe.arrays())
    np.testing.assert_array_equal(again.outputs(x), fit.probe.outputs(x))
    # The fold models differ from the whole one, as each lacks a quarter of the rows.
    assert np.abs(fit.probe.fold_weights - fit.probe.weights).max() > 1e-3


def test_balanced_classes_lift_the_rare_one() -> None:
    draw = np.random.default_rng(0)
    y = (np.arange(400) % 20 == 0).astype(np.int64)
    x = (draw.normal(size=(400, 3)) + y[:, None] * 0.7).astype(np.float32)
    found = {}
    for weighting in (None, "balanced"):
        fit = fit_probe(
            x.copy(),
            y,
            x.copy(),
            y,
            problem=Problem(2, "macro_f1"),
            config=ProbeConfig(C=(1.0,), class_weight=weighting),
        )
        found[weighting] = int((fit.probe.outputs(x)[:, 0] > 0).sum())
    assert found["balanced"] > found[None]


def test_probe_without_folds() -> None:
    probe = Probe(
        np.ones((1, 2), np.float32),
        np.zeros(1, np.float32),
        Standardiser(np.zeros(2, np.float32), np.ones(2, np.float32), 10.0),
        np.empty((0, 1, 2), np.float32),
        np.empty((0, 1), np.float32),
    )
    assert Probe.from_arrays(probe.arrays()).fold_weights.shape == (0, 1, 2)
