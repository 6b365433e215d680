"""Fits on a real encoder's activations of real tweets have scikit-learn's optimum and decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from pipeline.backbone.loading import load_backbone
from pipeline.extraction.extractor import Extractor
from pipeline.linear.design import MemoryDesign
from pipeline.linear.fitted import Linear
from pipeline.linear.solver import Objective, solve_paths
from pipeline.probes.fitting import matrix

Array = NDArray[Any]
GRID = (1e-4, 1e-2, 1.0, 10.0)
NUM_TRAIN = 300
NUM_TEST = 500


@dataclass(frozen=True)
class Tweets:
    """Raw activations of one layer, ``(features, n)`` float16, and emotions ``(n,)``."""

    train: Array
    test: Array
    labels: Array


@pytest.fixture(scope="module")
def tweets(minilm: str, shared_data: Path) -> Tweets:
    folder = shared_data / "tweeteval" / "emotion"
    texts, labels = [], []
    for split, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        lines = (folder / f"{split}_text.txt").read_text(encoding="utf-8").split("\n")
        texts += lines[:count]
        labels += (folder / f"{split}_labels.txt").read_text().split()[:count]
    extractor = Extractor(load_backbone(minilm), layers=[2], hidden="none")
    ffn = extractor(texts).ffn[0, :, ::4].reshape(-1, len(texts)).astype(np.float16)
    codes = np.array(labels, np.int64)[:NUM_TRAIN]
    return Tweets(ffn[:, :NUM_TRAIN].copy(), ffn[:, NUM_TRAIN:].copy(), codes)


class Judge:
    """Compares fits on one design with scikit-learn's."""

    def __init__(self, train: Array, test: Array) -> None:
        self.design = MemoryDesign(train)
        self.x = matrix(self.design).astype(np.float64)
        self.x_test = matrix(MemoryDesign(test, self.design.standardiser)).astype(np.float64)
        # Optimal weights lie in the span of the rows: in an orthonormal basis of it the penalised
        # problem is the same one, and small enough to solve to 1e-8.
        self._basis = np.linalg.svd(self.x, full_matrices=False)[2].T
        self._rows = self.x @ self._basis

    def check(
        self,
        path: Sequence[Linear],
        penalties: Sequence[float],
        y: Array,
        keep: Array | None = None,
    ) -> None:
        """Relative gap of the objective at most 1e-4, equal decisions on 99.9 % of test rows."""
        kept = np.arange(len(y)) if keep is None else keep
        differing = 0
        for penalty, model in zip(penalties, path, strict=True):
            best = LogisticRegression(C=penalty, tol=1e-8, max_iter=20_000, solver="newton-cg")
            best.fit(self._rows[kept], y[kept])
            coef = best.coef_ @ self._basis.T
            lowest = self._value(coef, best.intercept_, y, kept, penalty)
            ours = model.weights.astype(np.float64), model.bias.astype(np.float64)
            assert model.converged
            assert abs(self._value(*ours, y, kept, penalty) / lowest - 1) <= 1e-4
            expected = self._decide(coef, best.intercept_)
            differing += int((self._decide(*ours) != expected).sum())
        assert differing <= 1e-3 * len(self.x_test) * len(penalties)

    def _value(self, w: Array, b: Array, y: Array, kept: Array, penalty: float) -> float:
        z = self.x[kept] @ w.T + b
        if len(w) == 1:
            z = np.concatenate([np.zeros_like(z), z], axis=1)
        loss = (logsumexp(z, axis=1) - z[np.arange(len(z)), y[kept]]).sum()
        return float(0.5 * np.square(w).sum() + penalty * loss)

    def _decide(self, w: Array, b: Array) -> Array:
        z = self.x_test @ w.T + b
        return np.asarray(z[:, 0] > 0 if len(w) == 1 else z.argmax(axis=1))


@pytest.fixture(scope="module")
def judge(tweets: Tweets) -> Judge:
    return Judge(tweets.train, tweets.test)


def awkward(x: Array) -> Array:
    """With constant, all-zero, repeated, nearly repeated and tiny features added."""
    x = x.astype(np.float32)
    nearly = x[:1] + 1e-3 * x[1:60]
    extra = [np.full((1, x.shape[1]), 3.0), np.zeros((2, x.shape[1])), x[:20], nearly, 1e-6 * x[:5]]
    return np.concatenate([x, *extra]).astype(np.float32)


def test_emotions(tweets: Tweets, judge: Judge) -> None:
    y = tweets.labels
    (path,) = solve_paths(judge.design, [Objective(y, 4)], GRID)
    judge.check(path, GRID, y)


@pytest.mark.parametrize("method", ["plain", "gram"])
def test_two_classes_beside_awkward_features(tweets: Tweets, method: Any) -> None:
    judge = Judge(awkward(tweets.train), awkward(tweets.test))
    y = (tweets.labels == 0).astype(np.int64)
    (path,) = solve_paths(judge.design, [Objective(y, 2)], GRID, method=method)
    judge.check(path, GRID, y)


def test_twenty_classes(tweets: Tweets, judge: Judge) -> None:
    draw = np.random.default_rng(0)
    directions = judge.x @ draw.normal(size=(judge.x.shape[1], 20))
    y = (directions / directions.std() + 0.5 * draw.gumbel(size=directions.shape)).argmax(axis=1)
    y[:20] = np.arange(20)
    grid = (1e-3, 0.1)
    (path,) = solve_paths(judge.design, [Objective(y, 20)], grid)
    judge.check(path, grid, y)


def test_tasks_with_missing_labels_fit_together_as_alone(tweets: Tweets, judge: Judge) -> None:
    draw = np.random.default_rng(0)
    tasks = [
        (tweets.labels, 4),
        ((tweets.labels == 1).astype(np.int64), 2),
        (np.where(judge.x[:, 5] > 0, 1, 0), 2),
    ]
    known = [np.sort(draw.permutation(NUM_TRAIN)[:count]) for count in (200, NUM_TRAIN, 120)]
    objectives = []
    for (y, classes), rows in zip(tasks, known, strict=True):
        partly = np.full(NUM_TRAIN, -1)
        partly[rows] = y[rows]
        objectives.append(Objective(partly, classes))
    grid = (1e-3, 1.0)
    together = solve_paths(judge.design, objectives, grid)
    for path, objective, (y, _), rows in zip(together, objectives, tasks, known, strict=True):
        judge.check(path, grid, y, rows)
        for model, penalty in zip(path, grid, strict=True):
            ((alone,),) = solve_paths(judge.design, [objective], [penalty])
            z, other = (m.outputs(judge.x_test.astype(np.float32)) for m in (model, alone))
            assert np.abs(z - other).max() <= 1e-2 * np.abs(z).max()
