"""Metrics by name, for classes, label sets and numbers.

``score("macro_f1", targets, outputs)`` takes what a linear model or head puts out: for
classification the logits ``(n, classes)``, or ``(n, 1)`` of a binary task, for label sets the
logits ``(n, labels)``, for regression ``(n, 1)``. ``METRICS`` is the table; adding a metric is one
row: the metric itself, and the same for many weightings of the rows at once, which is what the
bootstrap needs. Macro averages are over the classes that the targets have. Label sets are told by
their targets, which are ``(n, labels)`` (:mod:`pipeline.measures.labelsets`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats
from sklearn import metrics as sk

from pipeline.measures import labelsets, weighted

Array = NDArray[Any]


@dataclass(frozen=True)
class Metric:
    """How a metric is computed and in which direction it is good."""

    compute: Callable[[Array, Array, Array, int], float]
    """(targets, predictions, probabilities or values, positive class) -> value."""
    of_counts: Callable[[Array, Array, Array, Array, int], Array]
    """(counts, and the arguments of ``compute``) -> values, as in `weighted`."""
    types: tuple[str, ...] = ("classification",)
    """Types of tasks that it fits."""
    higher_is_better: bool = True
    of_decisions: bool = True
    """False for a metric of probabilities, which thresholds must not shift."""

    @property
    def regression(self) -> bool:
        """Whether it is about values."""
        return "regression" in self.types


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


def _macro(function: Callable[..., Any]) -> Callable[..., float]:
    def compute(y: Array, prediction: Array, _: Array, __: int) -> float:
        options: dict[str, Any] = {"labels": np.unique(y), "zero_division": 0.0}
        return float(function(y, prediction, average="macro", **options))

    return compute


def _of_sets(function: Callable[..., Array]) -> Callable[..., float]:
    """A metric of label sets, where every row counts once."""

    def compute(y: Array, prediction: Array, logits: Array, positive: int) -> float:
        return float(function(np.ones((1, len(y))), y, prediction, logits, positive)[0])

    return compute


def _macro_f1(y: Array, prediction: Array, graded: Array, positive: int) -> float:
    if y.ndim == 2:
        return _of_sets(labelsets.macro_f1)(y, prediction, graded, positive)
    return _macro(sk.f1_score)(y, prediction, graded, positive)


def _macro_f1_of_counts(
    counts: Array, y: Array, prediction: Array, graded: Array, positive: int
) -> Array:
    own = labelsets.macro_f1 if y.ndim == 2 else weighted.macro_f1
    return own(counts, y, prediction, graded, positive)


METRICS: dict[str, Metric] = {
    "accuracy": Metric(lambda y, p, _, __: float(np.mean(y == p)), weighted.accuracy),
    "macro_f1": Metric(_macro_f1, _macro_f1_of_counts, ("classification", "multilabel")),
    "macro_recall": Metric(_macro(sk.recall_score), weighted.macro_recall),
    "f1": Metric(_f1, weighted.f1),
    "auc": Metric(_auc, weighted.auc, of_decisions=False),
    "micro_f1": Metric(_of_sets(labelsets.micro_f1), labelsets.micro_f1, ("multilabel",)),
    "lrap": Metric(_of_sets(labelsets.lrap), labelsets.lrap, ("multilabel",), of_decisions=False),
    "pearson": Metric(_correlation(stats.pearsonr), weighted.pearson, ("regression",)),
    "spearman": Metric(_correlation(stats.spearmanr), weighted.spearman, ("regression",)),
    "mae": Metric(
        lambda y, p, _, __: float(np.mean(np.abs(y - p))),
        weighted.mae,
        ("regression",),
        higher_is_better=False,
    ),
    "r2": Metric(lambda y, p, _, __: float(sk.r2_score(y, p)), weighted.r2, ("regression",)),
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


def label_probabilities(outputs: Array) -> Array:
    """Probability of each label ``(n, labels)`` from logits ``(n, labels)``, float64."""
    return np.asarray(special.expit(np.asarray(outputs, dtype=np.float64)))


def decision_outputs(outputs: Array, thresholds: Array | None, *, multilabel: bool) -> Array:
    """Logits ``(n, outputs)`` shifted so that their plain decisions are those by thresholds.

    Of classes the largest quotient of probability and threshold is decided for, ``(classes,)``; of
    label sets every label whose probability is above its threshold, ``(labels,)``.
    """
    if thresholds is None:
        return outputs
    if multilabel:
        return np.asarray(outputs - special.logit(thresholds))
    shift = np.log(thresholds)
    return np.asarray(outputs - (shift if outputs.shape[1] > 1 else shift[1:] - shift[:1]))


def as_judged(
    metric: Metric, targets: Array, outputs: Array, positive: int
) -> tuple[Array, Array, int]:
    """What a metric computes from, beside the targets.

    Args:
        metric: a value of ``METRICS``.
        targets: ``(n,)`` class indices or values, or label sets ``(n, labels)``.
        outputs: ``(n, outputs)`` logits or values.
        positive: class index, -1 is the last class.

    Returns:
        Predictions ``(n,)``, or ``(n, labels)``; probabilities ``(n, classes)``, the logits of
        label sets, or values ``(n,)``; the class index, from 0.
    """
    if metric.regression:
        values = predictions(outputs, regression=True)
        return values, values, positive
    if targets.ndim == 2:
        logits = np.asarray(outputs, dtype=np.float64)
        return (logits > 0).astype(np.int8), logits, positive
    probability = probabilities(outputs)
    guess = predictions(outputs, regression=False)
    return guess, probability, positive % probability.shape[1]


def score(name: str, targets: Array, outputs: Array, *, positive: int = -1) -> float:
    """Value of one metric.

    Args:
        name: a key of ``METRICS``.
        targets: ``(n,)`` class indices or values, or label sets ``(n, labels)``.
        outputs: ``(n, outputs)`` logits or values.
        positive: class index that ``f1`` and ``auc`` are about; -1 is the last class.

    Returns:
        The metric in its usual orientation (``mae`` is lower for better models).
    """
    metric = METRICS[name]
    y = np.asarray(targets)
    judged = as_judged(metric, y, outputs, positive)
    with warnings.catch_warnings():
        # scikit-learn warns where a class is never predicted; such a class counts as 0.
        warnings.simplefilter("ignore", category=UserWarning)
        return metric.compute(y, *judged)


def utility(name: str, value: float) -> float:
    """The metric's value with the sign turned so that higher is better."""
    return value if METRICS[name].higher_is_better else -value


def metric_names(type: str) -> tuple[str, ...]:
    """The metrics that fit a type of task."""
    return tuple(name for name, metric in METRICS.items() if type in metric.types)


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
