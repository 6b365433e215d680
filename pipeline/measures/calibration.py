"""Calibrated class probabilities and thresholds per class, from outputs on held-out rows.

Logits are scaled by one temperature and shifted by a bias per class (Guo et al. 2017, "On
calibration of modern neural networks", section 4.2): as much of that as lowers the log-loss on rows
that it was not fitted on by more than one standard error. Thresholds are ``prior ** gamma``, of
which gamma promises most: the metric that is expected if the probabilities are right, which knows
no label (Ye et al. 2012, "Optimizing F-measures: a tale of two approaches"). The few labels of a
small task would fit thresholds to themselves; its probabilities are each a mean of many. With a few
hundred rows to fit on, richer families (a scale per class, free thresholds) fit those rows and
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from pipeline.measures import weighted
from pipeline.measures.bootstrap import Resamples
from pipeline.measures.folds import stratified_folds
from pipeline.measures.metrics import decision_outputs, predictions, probabilities

Array = NDArray[Any]
FOLDS = 5
GAMMAS = tuple(i / 10 for i in range(11))
"""Exponents tried: 0 is the plain maximum, 1 weighs all classes alike whatever their number."""
OF_SHARES = {
    "macro_f1": weighted.macro_f1,
    "macro_recall": weighted.macro_recall,
    "f1": weighted.f1,
}
"""Metrics that thresholds may raise, of rows that have every class, as much as is probable."""
MOST_PROBABLE = "most probable"
"""Decisions without thresholds."""
SCORE_LEVEL = 1.5
"""Log-scale of logits over scores of indicators: scores a whole apart are odds of some 90 to 1."""
MIN_ROWS = 50
"""Fewer rows than this are not calibrated on."""
REPLICATES = 100
"""Resamples of the rows, for the standard error of what thresholds gain."""
NUM_BINS = 15


@dataclass(frozen=True)
class Calibration:
    """What makes calibrated logits ``scale * outputs + shift`` and decisions of them.

    Attributes:
        scale: ``(outputs,)`` float64, all alike.
        shift: ``(outputs,)`` float64.
        thresholds: ``(classes,)`` float64; see ``Head.thresholds``. None: plain decisions.
        facts: for the head's card: method, decisions, log-loss and calibration error of ``rows``
            held-out rows, before and after (each row by a calibration fitted without it).
    """

    scale: Array
    shift: Array
    thresholds: Array | None
    facts: dict[str, Any]
    multilabel: bool = False

    def decision_outputs(self, outputs: Array) -> Array:
        """Uncalibrated outputs ``(n, outputs)`` -> outputs whose plain decisions are the head's."""
        calibrated = np.asarray(outputs * self.scale + self.shift)
        return decision_outputs(calibrated, self.thresholds, multilabel=self.multilabel)


def calibrate(
    outputs: Array, targets: Array, *, metric: str, positive: int = -1, seed: int = 0
) -> Calibration:
    """Fit on the outputs of a classifier for rows that it was not fitted on.

    Args:
        outputs: ``(n, outputs)`` logits.
        targets: ``(n,)`` int64 classes.
        metric: what decisions are judged by.
        positive: class index that ``f1`` is about.
        seed: of the folds and of the bootstrap.
    """
    size = outputs.shape[1]
    outputs = np.asarray(outputs, np.float64)
    if len(outputs) < MIN_ROWS:
        facts = {"rows": len(outputs), "method": "none", "decisions": MOST_PROBABLE}
        return Calibration(np.ones(size), np.zeros(size), None, facts)
    fold = stratified_folds(targets, folds=FOLDS, seed=seed)
    method, calibrated = _choose_method(outputs, targets, fold)
    scale, shift = METHODS[method](outputs, targets)
    log_thresholds = _log_thresholds(calibrated, targets, metric, positive, seed)
    thresholds = None if log_thresholds is None else _normalised(log_thresholds)
    facts = {
        "rows": len(targets),
        "method": method,
        "decisions": MOST_PROBABLE if thresholds is None else by_thresholds(metric),
        "log_loss": {
            "before": float(row_losses(outputs, targets).mean()),
            "after": float(row_losses(calibrated, targets).mean()),
        },
        "calibration_error": {
            "before": calibration_error(probabilities(outputs), targets),
            "after": calibration_error(probabilities(calibrated), targets),
        },
    }
    return Calibration(scale, shift, thresholds, facts)


def by_thresholds(metric: str) -> str:
    """How a card says that decisions are by thresholds."""
    return f"best expected {metric}"


def gains_most(gains: Callable[[Array], Array], num_rows: int, seed: int) -> bool:
    """Whether thresholds gain more than one standard error.

    Args:
        gains: ``counts (replicates, n)``, how often each row is taken, -> ``(replicates,)``.
        num_rows: ``n``.
        seed: of the resamples.
    """
    resamples = Resamples(num_rows, replicates=REPLICATES, seed=seed)
    drawn = np.concatenate([gains(counts) for _, counts in resamples.chunks()])
    return bool(gains(np.ones((1, num_rows)))[0] > drawn.std())


def _log_thresholds(
    outputs: Array, targets: Array, metric: str, positive: int, seed: int
) -> Array | None:
    """``gamma * log(prior)`` ``(classes,)`` of the largest expected metric; None: no thresholds."""
    if metric not in OF_SHARES:
        return None
    probability = probabilities(outputs)
    positive %= probability.shape[1]
    prior = np.log(_prior(targets, probability.shape[1]))
    once = np.ones((1, len(outputs)))

    def expected(counts: Array, gamma: float) -> Array:
        shift = _contrast(gamma * prior, outputs.shape[1])
        decided = predictions(outputs - shift, regression=False)
        return OF_SHARES[metric](counts, probability, decided, probability, positive)

    gamma = max(GAMMAS, key=lambda gamma: float(expected(once, gamma)[0]))

    def gains(counts: Array) -> Array:
        return expected(counts, gamma) - expected(counts, 0.0)

    return gamma * prior if gains_most(gains, len(outputs), seed) else None


def _choose_method(outputs: Array, targets: Array, fold: Array) -> tuple[str, Array]:
    """The richest worthwhile of ``METHODS``, and held-out outputs calibrated by it."""
    best = "none"
    held_out = {name: _held_out(fit, outputs, targets, fold) for name, fit in METHODS.items()}
    for name in METHODS:
        gains = row_losses(held_out[best], targets) - row_losses(held_out[name], targets)
        if gains.mean() > gains.std() / np.sqrt(len(gains)):
            best = name
    return best, held_out[best]


def calibration_error(probability: Array, targets: Array) -> float:
    """Expected calibration error of the most probable class, equal-width bins (Guo et al. 2017).

    Args:
        probability: ``(n, classes)``.
        targets: ``(n,)`` classes.
    """
    confidence = probability.max(axis=1)
    right = probability.argmax(axis=1) == targets
    bins = np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    gaps = np.bincount(bins, weights=right - confidence, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(targets))


def row_losses(outputs: Array, targets: Array) -> Array:
    """Cross-entropy of each row, ``(n,)`` nats; of label sets the mean over the labels."""
    if targets.ndim == 2:
        signed = np.where(targets > 0, outputs, -np.asarray(outputs, np.float64))
        return np.asarray(np.logaddexp(0, -signed).mean(axis=1))
    right = probabilities(outputs)[np.arange(len(targets)), targets]
    return np.asarray(-np.log(np.maximum(right, 1e-300)))


def _identity(outputs: Array, targets: Array) -> tuple[Array, Array]:
    return np.ones(outputs.shape[1]), np.zeros(outputs.shape[1])


def _temperature(outputs: Array, targets: Array) -> tuple[Array, Array]:
    return _fit(outputs, targets, with_bias=False)


def _temperature_and_bias(outputs: Array, targets: Array) -> tuple[Array, Array]:
    return _fit(outputs, targets, with_bias=True)


METHODS: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {
    "none": _identity,
    "temperature": _temperature,
    "temperature and bias": _temperature_and_bias,
}
"""Name -> (outputs, targets) -> (scale, shift); from the plainest to the richest."""


def logit_map(scores: Array, targets: Array) -> tuple[Array, Array]:
    """Scale and biases ``(outputs,)`` that turn scores of one-hot targets into logits.

    Least log-loss, with a prior of one row's weight.

    Args:
        scores: ``(n, outputs)`` regressions on the classes' indicators, held out.
        targets: ``(n,)`` classes, or label sets ``(n, labels)``: each label by itself.
    """
    if targets.ndim == 2:
        pairs = zip(scores.T, targets.T, strict=True)
        each = [logit_map(own[:, None], truth.astype(np.int64)) for own, truth in pairs]
        scale, shift = (np.concatenate(found) for found in zip(*each, strict=True))
        return scale, shift
    return _fit(np.asarray(scores, np.float64), targets, with_bias=True, level=SCORE_LEVEL)


def _fit(
    outputs: Array, targets: Array, *, with_bias: bool, level: float = 0.0
) -> tuple[Array, Array]:
    """Least log-loss; a weight of one row pulls the log-scale to a level and the biases to 0."""
    size = outputs.shape[1]
    truth = np.eye(max(size, 2))[targets][:, -size:]

    def objective(theta: Array) -> tuple[float, Array]:
        scale, shift = np.exp(theta[0]), theta[1:] if with_bias else np.zeros(size)
        z = scale * outputs + shift
        error = probabilities(z)[:, -size:] - truth
        gradient = np.concatenate([[scale * float((error * outputs).sum())], error.sum(0)])
        apart = theta - start
        loss = float(row_losses(z, targets).sum()) + 0.5 * float(apart @ apart)
        return loss, gradient[: len(theta)] + apart

    start = np.zeros(1 + size * with_bias)
    start[0] = level
    theta = optimize.minimize(objective, start, jac=True, method="L-BFGS-B").x
    shift = theta[1:] if with_bias else np.zeros(size)
    return np.full(size, np.exp(theta[0])), np.asarray(shift - (shift.mean() if size > 1 else 0.0))


def _held_out(
    fit: Callable[[Array, Array], tuple[Array, Array]], outputs: Array, targets: Array, fold: Array
) -> Array:
    """Calibrated outputs, each row by a fit on the other folds."""
    out = np.empty_like(outputs)
    for k in range(FOLDS):
        held = fold == k
        scale, shift = fit(outputs[~held], targets[~held])
        out[held] = outputs[held] * scale + shift
    return out


def _prior(targets: Array, num_classes: int) -> Array:
    """Share of each class, none of them 0."""
    counts = np.bincount(targets, minlength=num_classes) + 1.0
    return np.asarray(counts / counts.sum())


def _contrast(log_thresholds: Array, num_outputs: int) -> Array:
    """What to take off the logits; of two classes with one logit, their difference."""
    return log_thresholds if num_outputs > 1 else log_thresholds[1:] - log_thresholds[:1]


def _normalised(log_thresholds: Array) -> Array:
    """Thresholds that sum to 1."""
    values = np.exp(log_thresholds - log_thresholds.max())
    return np.asarray(values / values.sum())
