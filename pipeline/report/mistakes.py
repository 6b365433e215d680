"""What the chosen head says of the test split: how often it is right, class by class.

predictions.confusion()             # (classes, classes) counts, labels in rows
class_rows(predictions)             # precision, recall and F1 of each class
find_mistakes(predictions, texts)   # the rows on which it errs most surely
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.report.digits import four
from pipeline.texts import StoredTexts

Array = NDArray[Any]
RELIABILITY_BINS = 10
MIN_BIN_ROWS = 20
CHANCE_DRAWS = 2000
"""Made-up sets of rows that say what chance makes of right probabilities."""
MISTAKES_SHOWN = 12


@dataclass(frozen=True)
class Predictions:
    """What the chosen head says of the test split.

    Attributes:
        classes: names in index order; empty for regression.
        targets: ``(n,)`` class indices int64, or values float64, or label sets ``(n, labels)``.
        decided: of the same shape: decided class indices, predicted values or label sets.
        probability: ``(n, classes)`` float64; None for regression.
        positions: ``(n,)`` of the rows in the store.
    """

    classes: tuple[str, ...]
    targets: Array
    decided: Array
    probability: Array | None
    positions: Array | None = None

    @property
    def multilabel(self) -> bool:
        """Whether a text has a set of labels."""
        return self.targets.ndim == 2

    def confusion(self) -> Array:
        """``(classes, classes)`` int64 counts: labels in rows, decisions in columns."""
        counts = np.zeros((len(self.classes), len(self.classes)), np.int64)
        np.add.at(counts, (self.targets, self.decided), 1)
        return counts

    def reliability(self, num_bins: int | None = None) -> Reliability:
        """How often the most probable class is the right one, by its probability.

        Args:
            num_bins: default ``RELIABILITY_BINS``, or fewer of ``MIN_BIN_ROWS`` rows each.
        """
        assert self.probability is not None
        num_bins = num_bins or min(RELIABILITY_BINS, max(1, len(self.targets) // MIN_BIN_ROWS))
        confidence = self.probability.max(axis=1)
        right = self.probability.argmax(axis=1) == self.targets
        order = np.argsort(confidence, kind="stable")
        bins = [part for part in np.array_split(order, num_bins) if len(part)]
        count = np.array([len(part) for part in bins])
        mean = np.array([confidence[part].mean() for part in bins])
        share = np.array([right[part].mean() for part in bins])
        error = float(np.abs(mean - share) @ count / max(count.sum(), 1))
        variance = np.array([(confidence[part] * (1 - confidence[part])).sum() for part in bins])
        return Reliability(mean, share, count, error, *_by_chance(variance, count))


@dataclass(frozen=True)
class Reliability:
    """Bins of equally many rows, by the probability of the most probable class.

    Attributes:
        confidence: ``(bins,)`` mean probability.
        accuracy: ``(bins,)`` share of rows where that class is right.
        count: ``(bins,)`` rows.
        error: expected calibration error: mean absolute difference of the two, over the rows.
        chance: what it is on average, of so many rows, where every probability is right.
        most_by_chance: what it exceeds then in 5 of 100 cases.
    """

    confidence: Array
    accuracy: Array
    count: Array
    error: float
    chance: float
    most_by_chance: float

    @property
    def shown(self) -> bool:
        """Whether the rows show that probabilities are wrong."""
        return self.error > self.most_by_chance


def _by_chance(variance: Array, count: Array) -> tuple[float, float]:
    """Mean and 95th percentile of the calibration error of right probabilities.

    Args:
        variance: ``(bins,)`` of the number of rows in each that are right.
        count: ``(bins,)`` rows.
    """
    draws = np.random.default_rng(0).normal(size=(CHANCE_DRAWS, len(count)))
    errors = np.abs(draws) @ np.sqrt(variance) / max(count.sum(), 1)
    return float(errors.mean()), float(np.quantile(errors, 0.95))


@dataclass(frozen=True)
class ClassRow:
    """How well a class is found; a share is None where it is one of no rows.

    Attributes:
        name: the class's or label's.
        rows, decided: test rows that have it, and that the head gives it.
        precision, recall, f1: shares.
    """

    name: str
    rows: int
    decided: int
    precision: float | None
    recall: float | None
    f1: float | None


def class_rows(found: Predictions) -> Iterator[ClassRow]:
    """A row for each class, or each label of label sets; none for regression."""
    for number, name in enumerate(found.classes):
        truth, guess = (
            (values[:, number] > 0) if found.multilabel else values == number
            for values in (found.targets, found.decided)
        )
        hits, rows, decided = (int(part.sum()) for part in (truth & guess, truth, guess))
        yield ClassRow(
            name,
            rows,
            decided,
            hits / decided if decided else None,
            hits / rows if rows else None,
            2 * hits / (rows + decided) if rows + decided else None,
        )


@dataclass(frozen=True)
class Confusion:
    """Rows of one label that were taken for another."""

    label: str
    decided: str
    count: int
    rows: int


def worst_confusion(found: Predictions) -> Confusion | None:
    """The most frequent mistake between two classes; None without one, or without classes."""
    if not found.classes or found.multilabel:
        return None
    counts = found.confusion()
    rows = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    label, decided = np.unravel_index(int(counts.argmax()), counts.shape)
    if not counts[label, decided]:
        return None
    names = found.classes
    return Confusion(names[label], names[decided], int(counts[label, decided]), int(rows[label]))


@dataclass(frozen=True)
class Mistake:
    """A test row that the head gets wrong.

    Attributes:
        id: the sample's.
        label, decided: what it has and what the head says.
        sure: the probability of what the head says; of values the distance.
        text: None where the store keeps none.
    """

    id: str
    label: str
    decided: str
    sure: float
    text: str | None


def find_mistakes(
    found: Predictions, texts: StoredTexts, limit: int = MISTAKES_SHOWN
) -> tuple[Mistake, ...]:
    """The mistakes that the head is most sure of, or the values that it misses furthest.

    Args:
        found: with ``positions``.
        texts: of the store.
        limit: at most so many.
    """
    assert found.positions is not None
    rows, names, sure = _wrong(found)
    order = np.argsort(-sure, kind="stable")[:limit]
    at = found.positions[rows[order]]
    shown = zip(order.tolist(), texts.ids(at), texts.at(at), strict=True)
    return tuple(
        Mistake(id, label, decided, float(sure[i]), text)
        for i, id, text in shown
        for label, decided in [names(i)]
    )


def _wrong(found: Predictions) -> tuple[Array, Any, Array]:
    """Rows ``(k,)``, what gives label and decision of the i-th, and how sure each is ``(k,)``."""
    targets, decided, probability = found.targets, found.decided, found.probability
    if probability is None:
        rows = np.arange(len(targets))
        return (
            rows,
            lambda i: (four(float(targets[i])), four(float(decided[i]))),
            np.abs(targets - decided),
        )
    if found.multilabel:
        rows, labels = np.nonzero(targets != decided)
        given = decided[rows, labels] > 0
        said = probability[rows, labels]

        def sides(i: int) -> tuple[str, str]:
            name = found.classes[labels[i]]
            return (f"not {name}", name) if given[i] else (name, f"not {name}")

        return rows, sides, np.where(given, said, 1 - said)
    rows = np.flatnonzero(targets != decided)
    return (
        rows,
        lambda i: (found.classes[targets[rows[i]]], found.classes[decided[rows[i]]]),
        probability[rows, decided[rows]],
    )
