from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegression

from pipeline.linear.design import MemoryDesign
from pipeline.linear.fitted import Linear
from pipeline.neurons.stability import (
    bootstrap_counts,
    default_top,
    overlap_table,
    random_jaccard,
    rank_correlation,
    refit_importance,
    stability,
)


def test_equal_replicates_are_stable_and_random_ones_are_not() -> None:
    draw = np.random.default_rng(0)
    values = draw.random(2000)
    same = stability(values, np.stack([values] * 4), top=100)
    assert (same.overlap, same.jaccard, same.stability, same.spearman) == (1, 1, 1, 1)
    apart = stability(values, draw.random((30, 2000)), top=100)
    assert apart.overlap == pytest.approx(0.05, abs=0.02)
    assert apart.jaccard == pytest.approx(random_jaccard(2000, 100), abs=0.01)
    assert apart.stability == pytest.approx(0, abs=0.02)
    assert apart.spearman == pytest.approx(0, abs=0.02)


def test_stability_by_hand() -> None:
    values = np.array([4.0, 3.0, 2.0, 1.0])
    replicates = np.array([[4.0, 3.0, 2.0, 1.0], [4.0, 1.0, 3.0, 2.0]])
    found = stability(values, replicates, top=2)
    assert found.overlap == pytest.approx((1 + 0.5) / 2)
    assert found.jaccard == pytest.approx(1 / 3)
    # Two of four features are chosen in one replicate of two: variances 0, 1/2, 1/2, 0.
    assert found.stability == pytest.approx(1 - 0.25 / 0.25)
    assert found.spearman == pytest.approx((1 + stats.spearmanr([1, 2, 3, 4], [1, 4, 2, 3])[0]) / 2)


def test_rank_correlation_is_spearmans() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.permutation(50), draw.permutation(50)
    assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b)[0])


def test_overlaps_of_every_pair() -> None:
    values = {"l2": np.arange(10.0), "l1": np.arange(10.0), "probeless": -np.arange(10.0)}
    table = overlap_table(values, task="t", layer=1, top=default_top(100)).to_pylist()
    pairs = {(row["ranking"], row["other"]): row for row in table}
    assert len(pairs) == 3
    assert pairs["l2", "l1"]["jaccard"] == pairs["l2", "l1"]["spearman"] == 1.0
    assert pairs["l1", "probeless"]["jaccard"] == 0.0
    assert pairs["l1", "probeless"]["spearman"] == -1.0


def test_draws_are_seeded() -> None:
    counts = bootstrap_counts(40, replicates=3, seed=1)
    assert counts.shape == (3, 40)
    assert (counts.sum(axis=1) == 40).all()
    np.testing.assert_array_equal(counts, bootstrap_counts(40, replicates=3, seed=1))
    assert (counts != bootstrap_counts(40, replicates=3, seed=2)).any()


def test_refits_are_scikit_learns() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(300, 12)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] + draw.normal(size=300) > 0).astype(np.int64)
    design = MemoryDesign(np.ascontiguousarray(x.T))
    counts = bootstrap_counts(300, replicates=3, seed=0)
    start = Linear(np.zeros((1, 12), np.float32), np.zeros(1, np.float32), 0.1)
    found = refit_importance(design, y, num_classes=2, weights=list(counts), start=start, tol=1e-6)
    scaled = design.standardiser.apply(x)
    for weight, importance in zip(counts, found, strict=True):
        model = LogisticRegression(C=0.1, tol=1e-10, max_iter=1000)
        model.fit(scaled.astype(np.float64), y, sample_weight=weight)
        np.testing.assert_allclose(importance, np.abs(model.coef_[0]), atol=1e-4)
