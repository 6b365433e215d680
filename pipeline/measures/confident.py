"""Which labels a model's out-of-fold outputs most doubt: confident learning.

    found = doubted_labels(given, probability)
    found.rows                              # of the doubted labels, the most doubted first
    found.likely[found.rows]                # what is confidently likely there instead

Source: Northcutt, Jiang and Chuang, *Confident learning: Estimating uncertainty in dataset labels*,
JAIR 70 (2021), section 3. It supposes that noise depends on the class alone, not on the text, and
that the probabilities of a row come from a model that has not seen it. A threshold for each class
takes the place of calibration: a model that is unsure of a whole class doubts no more of its labels
for that.

Values have no classes to be confused with: :func:`doubted_values` takes the rows whose residuals
are outliers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
NONE = -1
"""Instead of a class: none of them is confidently likely."""
OUTLIER = 3.0
"""Robust deviations from the usual residual, beyond which a value is doubted: 3 in 1,000 of a
normal distribution are."""
ROUNDING = 1e-9
"""What a mean of equal probabilities may exceed them by."""
OF_MEDIAN = 1.4826
OF_MEAN = 1.2533
"""Standard deviation over the median and the mean absolute deviation, of a normal distribution."""


@dataclass(frozen=True)
class DoubtedLabels:
    """What confident learning says of some labels.

    Attributes:
        thresholds: ``(classes,)`` float64; inf for a class that no row has.
        counts: ``(classes,)`` int64, rows that are given each class.
        joint: ``(classes, classes)`` int64, the confident joint: rows that are given a class and
            confidently likely of another; the given ones in rows.
        likely: ``(n,)`` int64, the class that is confidently likely; ``NONE`` where none is.
        confidence: ``(n,)`` float64, the self-confidence: the probability of the given class.
        rows: ``(doubted,)`` int64, by rising self-confidence.
    """

    thresholds: Array
    counts: Array
    joint: Array
    likely: Array
    confidence: Array
    rows: Array

    @property
    def wrong_by_class(self) -> Array:
        """``(classes, classes)`` float64: how many labels are estimated to be given a class and to
        be another's, ``n Q`` with the calibrated joint ``Q`` of equation (3).

        The counts of each given class are scaled up to all its rows, for those of which nothing is
        confidently likely are as wrong as the others. No class with rows is without a confident
        one: that of its highest probability reaches their mean.
        """
        confident = self.joint.sum(axis=1)
        return np.asarray(self.joint * (self.counts / np.maximum(confident, 1))[:, None])

    @property
    def num_wrong(self) -> float:
        """Labels that are estimated to be wrong: the off-diagonal of :attr:`wrong_by_class`."""
        wrong = self.wrong_by_class
        return float(wrong.sum() - np.trace(wrong))


def doubted_labels(given: Array, probability: Array) -> DoubtedLabels:
    """Labels in the off-diagonal of the confident joint, ranked by their self-confidence.

    Equation (2), the threshold of a class: the mean probability of it over the rows that are given
    it. Equation (1), the confident joint: a row counts for the most probable of the classes that
    reach their thresholds. Section 3.2, method 2: doubted are those off the diagonal; a row whose
    given class is its most probable one all the same is not. They are ranked as method 3 ranks: of
    real sets with noise put in, the margin between two classes found less of it among the first.

    Args:
        given: ``(n,)`` int64 classes.
        probability: ``(n, classes)`` float64, of a model that has not seen the row.
    """
    probability = np.asarray(probability, np.float64)
    n, num_classes = probability.shape
    own = probability[np.arange(n), given]
    counts = np.bincount(given, minlength=num_classes)
    sums = np.bincount(given, own, minlength=num_classes)
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    confident = np.where(probability >= thresholds - ROUNDING, probability, -np.inf)
    likely = np.where(np.isfinite(confident).any(axis=1), confident.argmax(axis=1), NONE)
    counted = likely != NONE
    joint = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(joint, (given[counted], likely[counted]), 1)
    rows = np.flatnonzero(counted & (likely != given) & (own < probability.max(axis=1, initial=0)))
    rows = rows[np.argsort(own[rows], kind="stable")]
    return DoubtedLabels(thresholds, counts, joint, likely, own, rows)


@dataclass(frozen=True)
class DoubtedValues:
    """Values whose residuals are outliers.

    Attributes:
        deviation: ``(n,)`` float64, the residual less its median, in robust deviations.
        scale: a robust deviation: 1.4826 times the median absolute deviation; where that is 0, as
            more than half of the residuals are equal, 1.2533 times the mean one.
        rows: ``(doubted,)`` int64, by falling absolute deviation.
    """

    deviation: Array
    scale: float
    rows: Array


def doubted_values(given: Array, predicted: Array) -> DoubtedValues:
    """Values that lie more than ``OUTLIER`` robust deviations from what a model says of them.

    No count of wrong ones follows from that: some of any distribution's rows lie so far out.

    Args:
        given: ``(n,)`` float64.
        predicted: ``(n,)`` float64, by a model that has not seen the row.
    """
    residual = np.asarray(given, np.float64) - np.asarray(predicted, np.float64)
    if not len(residual):
        return DoubtedValues(residual, 0.0, np.empty(0, np.int64))
    apart = residual - np.median(residual)
    scale = float(OF_MEDIAN * np.median(np.abs(apart)) or OF_MEAN * np.abs(apart).mean())
    deviation = apart / scale if scale > 0 else np.zeros(len(apart))
    rows = np.flatnonzero(np.abs(deviation) > OUTLIER)
    rows = rows[np.argsort(-np.abs(deviation[rows]), kind="stable")]
    return DoubtedValues(deviation, scale, rows)
