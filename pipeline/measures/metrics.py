"""Metrics by name, for classes and for numbers.

``score("macro_f1", targets, outputs)`` takes what a linear model or head puts out: for
classification the logits ``(n, classes)``, or ``(n, 1)`` of a binary task, for regression
``(n, 1)``. ``METRICS`` is the table; adding a metric is one row: the metric itself, and the same
for many weightings of the rows at once, which is what the bootstrap needs. Macro averages are over
the classes that the targets have.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as sk

from pipeline.measures import weighted

Array = NDArray[Any]


@dataclass(frozen=True)
class Metric:
    """How a metric is computed and in which direction it is good."""

    compute: Callable[[Array, Array, Array, int], float]
    """(targets, predictions, probabilities or values, positive class) -> value."""
    of_counts: Callable[[Array, Array, Array, Array, int], Array]
    """(counts, and the arguments of ``compute``) -> values, as in `weighted`."""
    regression: bool
    higher_is_better: bool = True


def _correlation(function: Callable[[Array, Array], Any]) -> Callable[..., float]:
    def compute(y: Array, prediction: Array, _: Array, __: int) -> float:
        if len(y) < 2 or np.ptp(prediction) == 0 or np.ptp(y) == 0:
            return 0.0  # A constant explains nothing; the quotient itself is 0 / 0.
        return float(function(y, prediction)[0])

    return compute


def _auc(y: Array, _: Array, probability: Array, positive: int) -> float:
    truth = y == positive
    if truth.all() or not truth.any():
        return float("nan")
    return float(sk.roc_auc_score(truth, probability[:, positive]))


def _f1(y: Array, prediction: Array, _: Array, positive: int) -> float:
    return float(sk.f1_score(y == positive, prediction == positive, zero_division=0.0))


METRICS: dict[str, Metric] = {
    "accuracy": Metric(
        lambda y, p, _, __: float(np.mean(y == p)), weighted.accuracy, regression=False
    ),
    "macro_f1": Metric(
        lambda y, p, _, __: float(
            sk.f1_score(y, p, average="macro", labels=np.unique(y), zero_division=0.0)
        ),
        weighted.macro_f1,
        regression=False,
    ),
    "macro_recall": Metric(
        lambda y, p, _, __: float(
            sk.recall_score(y, p, average="macro", labels=np.unique(y), zero_division=0.0)
        ),
        weighted.macro_recall,
        regression=False,
    ),
    "f1": Metric(_f1, weighted.f1, regression=False),
    "auc": Metric(_auc, weighted.auc, regression=False),
    "pearson": Metric(_correlation(stats.pearsonr), weighted.pearson, regression=True),
    "spearman": Metric(_correlation(stats.spearmanr), weighted.spearman, regression=True),
    "mae": Metric(
        lambda y, p, _, __: float(np.mean(np.abs(y - p))),
        weighted.mae,
        regression=True,
        higher_is_better=False,
    ),
    "r2": Metric(lambda y, p, _, __: float(sk.r2_score(y, p)), weighted.r2, regression=True),
}


def probabilities(outputs: Array) -> Array:
    """Class probabilities ``(n, classes)`` from logits ``(n, 1)`` (binary) or ``(n, classes)``."""
    logits = np.asarray(outputs, dtype=np.float64)
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    logits = logits - logits.max(axis=1, keepdims=True)
    exponents = np.exp(logits)
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def predictions(outputs: Array, *, regression: bool) -> Array:
    """Predicted class indices ``(n,)`` int64, or values ``(n,)`` float64."""
    if regression:
        return np.asarray(outputs, dtype=np.float64)[:, 0]
    if outputs.shape[1] == 1:
        return (outputs[:, 0] > 0).astype(np.int64)
    return np.asarray(outputs.argmax(axis=1))


def score(name: str, targets: Array, outputs: Array, *, positive: int = -1) -> float:
    """Value of one metric.

    Args:
        name: a key of ``METRICS``.
        targets: ``(n,)`` class indices or values.
        outputs: ``(n, outputs)`` logits or values.
        positive: class index that ``f1`` and ``auc`` are about; -1 is the last class.

    Returns:
        The metric in its usual orientation (``mae`` is lower for better models).
    """
    metric = METRICS[name]
    y = np.asarray(targets)
    prediction = predictions(outputs, regression=metric.regression)
    if metric.regression:
        return metric.compute(y, prediction, prediction, positive)
    probability = probabilities(outputs)
    with warnings.catch_warnings():
        # scikit-learn warns where a class is never predicted; such a class counts as 0.
        warnings.simplefilter("ignore", category=UserWarning)
        return metric.compute(y, prediction, probability, positive % probability.shape[1])


def utility(name: str, value: float) -> float:
    """The metric's value with the sign turned so that higher is better."""
    return value if METRICS[name].higher_is_better else -value


def metric_names(*, regression: bool) -> tuple[str, ...]:
    """The metrics that fit a kind of task."""
    return tuple(name for name, metric in METRICS.items() if metric.regression == regression)


def pareto_front(cost: Sequence[float], score: Sequence[float], *, higher: bool = True) -> Array:
    """Indices ``(k,)`` of the points that no cheaper or equally cheap one beats, by rising cost."""
    costs = np.asarray(cost, np.float64)
    gains = np.asarray(score, np.float64) * (1 if higher else -1)
    front: list[int] = []
    for i in np.lexsort((-gains, costs)):
        if not front or gains[i] > gains[front[-1]]:
            front.append(int(i))
    return np.array(front, np.int64)


def finite(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return float(value) if np.isfinite(value) else None
