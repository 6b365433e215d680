"""What the chosen head says of the test split: how often it is right, class by class.

predictions.confusion()             # (classes, classes) counts, labels in rows
predictions.missed()                # of label sets: what was given instead
class_rows(predictions)             # precision, recall and F1 of each class
find_mistakes(predictions, texts)   # the rows on which it errs most surely
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.measures import wilson
from pipeline.report.digits import four
from pipeline.texts import StoredTexts

Array = NDArray[Any]
RELIABILITY_BINS = 10
MIN_BIN_ROWS = 20
CHANCE_DRAWS = 2000
"""Made-up sets of rows that say what chance makes of right probabilities."""
MISTAKES_SHOWN = 12
NO_LABEL = "no label"
"""What an empty label set is called."""


def set_words(labels: str | Sequence[str]) -> str:
    """A class, or a set of labels, as people read it."""
    return labels if isinstance(labels, str) else ", ".join(labels) or NO_LABEL


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

    @property
    def right(self) -> float:
        """Share of the rows that are decided rightly: whole sets of labels."""
        same = self.targets == self.decided
        return float((same.all(axis=1) if self.multilabel else same).mean())

    def confusion(self) -> Array:
        """``(classes, classes)`` int64 counts: labels in rows, decisions in columns."""
        counts = np.zeros((len(self.classes), len(self.classes)), np.int64)
        np.add.at(counts, (self.targets, self.decided), 1)
        return counts

    def missed(self) -> Array:
        """Of label sets ``(labels, labels)`` int64: texts that have the row's label and were not
        given it, but wrongly the column's; on the diagonal those wrongly given no label."""
        missing, added = ((self.targets > self.decided), (self.decided > self.targets))
        counts = missing.T.astype(np.int64) @ added.astype(np.int64)
        alone = missing & ~added.any(axis=1, keepdims=True)
        return np.asarray(counts + np.diag(alone.sum(axis=0, dtype=np.int64)))

    def names(self, row: int) -> tuple[str | tuple[str, ...], str | tuple[str, ...]]:
        """What a row has and what the head says of it; tuples of label sets."""
        if not self.multilabel:
            return self.classes[self.targets[row]], self.classes[self.decided[row]]
        has, said = (
            tuple(np.array(self.classes)[own[row] > 0]) for own in (self.targets, self.decided)
        )
        return has, said

    def reliability(self, num_bins: int | None = None) -> Reliability:
        """How often the most probable class is the right one, by its probability; of label sets
        how often a text has a label, by the label's.

        Args:
            num_bins: default ``RELIABILITY_BINS``, or fewer of ``MIN_BIN_ROWS`` rows each. Those of
                label sets are equally wide, as most probabilities are near 0.
        """
        assert self.probability is not None
        if self.multilabel:
            confidence, right = self.probability.ravel(), self.targets.ravel() > 0
            num_bins = num_bins or RELIABILITY_BINS
            at = np.minimum((confidence * num_bins).astype(np.int64), num_bins - 1)
            bins = [np.flatnonzero(at == i) for i in range(num_bins)]
        else:
            num_bins = num_bins or min(RELIABILITY_BINS, max(1, len(self.targets) // MIN_BIN_ROWS))
            confidence = self.probability.max(axis=1)
            right = self.probability.argmax(axis=1) == self.targets
            order = np.argsort(confidence, kind="stable")
            bins = np.array_split(order, num_bins)
        bins = [part for part in bins if len(part)]
        count = np.array([len(part) for part in bins])
        mean = np.array([confidence[part].mean() for part in bins])
        share = np.array([right[part].mean() for part in bins])
        error = float(np.abs(mean - share) @ count / max(count.sum(), 1))
        variance = np.array([(confidence[part] * (1 - confidence[part])).sum() for part in bins])
        return Reliability(mean, share, count, error, *_by_chance(variance, count))


@dataclass(frozen=True)
class Reliability:
    """Bins of equally many rows, by the probability of the most probable class; of label sets
    equally wide ones of texts and labels, by the label's.

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

    def interval(self) -> tuple[Array, Array]:
        """Ends ``(bins,)`` of Wilson's 95 % interval of the shares."""
        return wilson(self.accuracy, self.count)

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
        chance: the F1 of whoever gives it to every row.
    """

    name: str
    rows: int
    decided: int
    precision: float | None
    recall: float | None
    f1: float | None
    chance: float | None


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
            2 * rows / (rows + len(truth)) if rows else None,
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
        label, decided: what it has and what the head says; tuples of label sets.
        sure: the probability of what the head says; of values the distance.
        text: None where the store keeps none.
        wrong: of label sets what the head wrongly says and is surest of: ``happy``, ``not happy``.
    """

    id: str
    label: str | tuple[str, ...]
    decided: str | tuple[str, ...]
    sure: float
    text: str | None
    wrong: str | None = None


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
    sure = _sureness(found)
    rows = np.flatnonzero(sure >= 0)
    rows = rows[np.argsort(-sure[rows], kind="stable")[:limit]]
    at = found.positions[rows]
    shown = zip(rows.tolist(), texts.ids(at), texts.at(at), strict=True)
    if not found.classes:
        return tuple(
            Mistake(id, four(found.targets[i]), four(found.decided[i]), float(sure[i]), text)
            for i, id, text in shown
        )
    return tuple(
        Mistake(id, *found.names(i), float(sure[i]), text, _surest(found, i) or None)
        for i, id, text in shown
    )


def _sureness(found: Predictions) -> Array:
    """How sure the head is of its mistake in each row ``(n,)``, -1 where it is right; of values how
    far it is off."""
    targets, decided, probability = found.targets, found.decided, found.probability
    if probability is None:
        return np.asarray(np.abs(targets - decided))
    if found.multilabel:
        return np.asarray(_doubted(found).max(axis=1, initial=-1.0))
    own = probability[np.arange(len(decided)), decided]
    return np.where(targets != decided, own, -1.0)


def _doubted(found: Predictions, rows: slice = slice(None)) -> Array:
    """``(n, labels)`` probability of what is wrongly said of a label, -1 where it is right."""
    assert found.probability is not None
    targets, decided, own = (a[rows] for a in (found.targets, found.decided, found.probability))
    return np.where(targets != decided, np.where(decided > 0, own, 1 - own), -1.0)


def _surest(found: Predictions, row: int) -> str:
    """The wrong label of a row that the head is surest of; empty of classes."""
    if not found.multilabel:
        return ""
    label = int(_doubted(found, slice(row, row + 1))[0].argmax())
    return f"{'' if found.decided[row, label] > 0 else 'not '}{found.classes[label]}"
