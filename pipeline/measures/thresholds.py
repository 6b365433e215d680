"""Thresholds per label of label sets, from outputs on held-out rows.

Logits of label sets come calibrated, label by label (``logit_map``). What is left to choose is from
which probability on a label is decided for: one half is the right threshold for accuracy, a lower
one for the F1 of a rare label. A label gets the threshold of the best F1 that is expected if the
probabilities are right, as classes do (:mod:`pipeline.measures.calibration`); for ``micro_f1`` all
have the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.measures.calibration import (
    MIN_ROWS,
    MOST_PROBABLE,
    Calibration,
    by_thresholds,
    gains_most,
    row_losses,
)
from pipeline.measures.labelsets import label_f1
from pipeline.measures.metrics import METRICS, label_probabilities

Array = NDArray[Any]
PLAIN = 0.5
GRID = tuple(i / 20 for i in range(1, 20))
"""Thresholds tried; of equally good ones the nearest to one half wins."""


def calibrate_labels(outputs: Array, targets: Array, *, metric: str, seed: int = 0) -> Calibration:
    """Choose a threshold for each label on rows that the model was not fitted on.

    Args:
        outputs: ``(n, labels)`` logits.
        targets: ``(n, labels)`` 0 or 1.
        metric: what decisions are judged by; ``macro_f1`` if that is about probabilities.
        seed: of the bootstrap.
    """
    outputs = np.asarray(outputs, np.float64)
    facts: dict[str, Any] = {"rows": len(outputs), "method": "none", "decisions": MOST_PROBABLE}
    thresholds = None
    if len(outputs) >= MIN_ROWS:
        loss = float(row_losses(outputs, targets).mean())
        facts["log_loss"] = {"before": loss, "after": loss}
        judge = metric if METRICS[metric].of_decisions else "macro_f1"
        thresholds = _thresholds(label_probabilities(outputs), judge, seed)
        if thresholds is not None:
            facts["decisions"] = by_thresholds(judge)
    size = outputs.shape[1]
    return Calibration(np.ones(size), np.zeros(size), thresholds, facts, multilabel=True)


def _thresholds(probability: Array, metric: str, seed: int) -> Array | None:
    """The threshold of each label's best expected F1 ``(labels,)``; None if one half is as good."""
    grid = sorted(GRID, key=lambda one: abs(one - PLAIN))
    once = np.ones((1, len(probability)))

    def expected(counts: Array, thresholds: Array | float) -> Array:
        decided = probability > thresholds
        return METRICS[metric].of_counts(counts, probability, decided, probability, 0)

    if metric == "micro_f1":
        common = max(grid, key=lambda one: float(expected(once, one)[0]))
        found = np.full(probability.shape[1], common)
    else:
        each = [label_f1(once, probability, probability > one)[0] for one in grid]
        found = np.array(grid)[np.nan_to_num(np.stack(each)).argmax(axis=0)]

    def gains(counts: Array) -> Array:
        return expected(counts, found) - expected(counts, PLAIN)

    return np.asarray(found) if gains_most(gains, len(probability), seed) else None
