"""Thresholds per label of label sets, from outputs on held-out rows.

Logits of label sets come calibrated, label by label (``logit_map``). What is left to choose is from
which probability on a label is decided for: one half is the right threshold for accuracy, a lower
one for the F1 of a rare label. Every label gets the threshold of its best F1, and all are kept only
if decisions by thresholds that did not see the row gain more than one standard error.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.measures.bootstrap import Resamples, difference
from pipeline.measures.calibration import FOLDS, MIN_ROWS, ONE_SIGMA, Calibration, row_losses
from pipeline.measures.folds import stratified_folds
from pipeline.measures.labelsets import label_f1
from pipeline.measures.metrics import METRICS, decision_outputs, label_probabilities

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
        seed: of the folds and of the bootstrap.
    """
    outputs = np.asarray(outputs, np.float64)
    facts: dict[str, Any] = {"rows": len(outputs), "method": "none", "decisions": "as fitted"}
    thresholds = None
    if len(outputs) >= MIN_ROWS:
        loss = float(row_losses(outputs, targets).mean())
        facts["log_loss"] = {"before": loss, "after": loss}
        if _gain(outputs, targets, metric, seed) > 0:
            thresholds, facts["decisions"] = best_thresholds(outputs, targets), "tuned"
    size = outputs.shape[1]
    return Calibration(np.ones(size), np.zeros(size), thresholds, facts, multilabel=True)


def best_thresholds(outputs: Array, targets: Array) -> Array:
    """The threshold of each label's best F1 ``(labels,)``; shapes as above."""
    probability, once = label_probabilities(outputs), np.ones((1, len(outputs)))
    grid = sorted(GRID, key=lambda one: abs(one - PLAIN))
    found = [label_f1(once, targets, probability > one)[0] for one in grid]
    return np.asarray(np.array(grid)[np.nan_to_num(np.stack(found)).argmax(axis=0)])


def _gain(outputs: Array, targets: Array, metric: str, seed: int) -> float:
    """One standard error below what thresholds chosen without a row gain on it."""
    fold = stratified_folds(targets, folds=FOLDS, seed=seed)
    tuned = outputs.copy()
    for k in range(FOLDS):
        held = fold == k
        chosen = best_thresholds(outputs[~held], targets[~held])
        tuned[held] = decision_outputs(outputs[held], chosen, multilabel=True)
    judge = metric if METRICS[metric].of_decisions else "macro_f1"
    resamples = Resamples(len(targets), replicates=400, seed=seed)
    return difference(judge, targets, tuned, outputs, resamples=resamples, level=ONE_SIGMA).low
