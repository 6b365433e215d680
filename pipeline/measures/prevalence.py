"""Shares of classes among texts, corrected for the errors of the model that decides them.

    shares = class_shares(probability, decided, confusion)      # method -> Shares
    shares["em"].value, shares["em"].low, shares["em"].high

What is assumed: texts of a class are as texts of that class were in training; only the classes'
shares differ ("prior shift"). :data:`SHARE_METHODS` says how each share comes
about. The corrected ones' intervals are of the shares among these very texts, and hold three
doubts: which class each text has, the errors' own sample (the confusion's cells, the calibration,
the frequencies), and what the texts happen to be like (where only some were looked at: which ones).
The plain ones' hold the last alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from pipeline.measures.confusion import Confusion, Slope, log_probabilities

Array = NDArray[Any]
SHARE_METHODS = {
    "counted": "texts by decided class",
    "mean": "mean probabilities",
    "adjusted": "decided classes, corrected by the confusion held out",
    "em": "probabilities, adapted to the shares by EM",
}
"""Method -> what it is. "adjusted": Forman 2008, of several classes by least squares on the simplex
(Firat 2016; Bunse 2022). "em": Saerens, Latinne & Decaestecker 2002, on recalibrated probabilities
(Alexandari et al. 2020)."""
CORRECTED = ("adjusted", "em")
LEVELS = (2.5, 97.5)
REPLICATES = 256
SAMPLED = 2000
"""Of more texts so many make the interval, which is scaled to the number of all."""
TOLERANCE = 1e-8
MAX_STEPS = 2000
LONGEST_LEAP = 1e4
LEAST_LEFT = 0.1
LEAST_SHARE = 1e-15
TINY = 1e-300
FLAT = 1e-6
UNSURE = 2.0
"""Standard errors by which the share of a class that is decided right must exceed that of other
texts decided for it, or the model cannot tell the class."""


@dataclass(frozen=True)
class Shares:
    """Shares of classes by one method.

    Attributes:
        value, low, high: ``(k,)`` float64 from 0 to 1; the 95 % interval. NaN without any text.
        converged: whether the optimum was found.
    """

    value: Array
    low: Array
    high: Array
    converged: bool = True


@dataclass(frozen=True)
class Drawn:
    """Corrected shares of classes before an interval is made of them.

    Attributes:
        value: ``(k,)`` float64.
        draws: ``(REPLICATES, k)`` float64, what they may be as well.
        converged: whether the optimum was found.
    """

    value: Array
    draws: Array
    converged: bool = True


def class_shares(
    probability: Array,
    counts: Array,
    confusion: Confusion | None,
    *,
    mean: Array | None = None,
    seed: int = 0,
) -> dict[str, Shares]:
    """Shares of ``k`` classes among texts.

    Args:
        probability: ``(n, k)`` of the texts, or of some of them drawn at random.
        counts: ``(k,)`` texts by decided class.
        confusion: of the model that gave both; None: the plain shares alone.
        mean: ``(k,)`` mean probability of all texts; default of those given.
        seed: of what is drawn.

    Returns:
        A key of :data:`SHARE_METHODS` -> shares.
    """
    size = probability.shape[1]
    methods = [one for one in SHARE_METHODS if confusion is not None or one not in CORRECTED]
    if not len(probability) or not counts.sum():
        return dict.fromkeys(methods, Shares(*np.full((3, size), np.nan)))
    draw = np.random.default_rng(seed)
    probability = np.asarray(probability, np.float64)
    value = probability.mean(axis=0) if mean is None else mean
    number = int(counts.sum())
    share = counts / number
    found = {
        "counted": Shares(share, *wilson(share, number)),
        "mean": _mean(probability, value, number, draw),
    }
    if confusion is not None:
        unseen = confusion.table.sum(axis=(1, 2)) == 0
        for name, one in corrected_shares(probability, counts, confusion, number, draw).items():
            # How texts of a class are decided that no row held out has, nobody knows.
            low, high = interval(one.draws)
            bounds = np.where(unseen, 0.0, low), np.where(unseen, 1.0, high)
            found[name] = Shares(one.value, *bounds, one.converged)
    return found


def corrected_shares(
    probability: Array,
    counts: Array,
    confusion: Confusion,
    num_texts: int,
    draw: np.random.Generator,
) -> dict[str, Drawn]:
    """Shares by each of :data:`CORRECTED`.

    Args:
        probability: ``(n, k)`` of the texts, or of some of them; at least one.
        counts: ``(k,)`` by decided class, of all texts or of those.
        confusion: of the model.
        num_texts: how many texts there are in all.
        draw: of the draws.
    """
    found = {
        "adjusted": (adjusted_shares(counts, confusion, draw), int(counts.sum())),
        "em": (em_shares(probability, confusion, draw), len(probability)),
    }
    return {name: _of_all(one, some, num_texts, draw) for name, (one, some) in found.items()}


def _of_all(found: Drawn, some: int, num_texts: int, draw: np.random.Generator) -> Drawn:
    """Shares of all texts, where those of some, drawn from them, are known."""
    if num_texts <= some:
        return found
    value = found.value / found.value.sum()
    around = draw.multinomial(some, value, size=len(found.draws)) / some - value
    around *= np.sqrt(1 - some / num_texts)
    return Drawn(found.value, np.clip(found.draws + around, 0, 1), found.converged)


def interval(draws: Array) -> tuple[Array, Array]:
    """The 95 % interval ``(k,)`` of draws ``(r, k)``."""
    low, high = np.percentile(draws, LEVELS, axis=0)
    return np.asarray(low), np.asarray(high)


def wilson(share: Array, num_texts: int | Array) -> tuple[Array, Array]:
    """The 95 % interval ``(k,)`` of a share among texts that were drawn at random (Wilson 1927)."""
    z = special.ndtri(LEVELS[1] / 100)
    middle = (share + z * z / (2 * num_texts)) / (1 + z * z / num_texts)
    spread = share * (1 - share) / num_texts + z * z / (4 * num_texts**2)
    half = z * np.sqrt(spread) / (1 + z * z / num_texts)
    low = np.where(share <= 0, 0.0, np.maximum(middle - half, 0.0))
    return low, np.where(share >= 1, 1.0, np.minimum(middle + half, 1.0))


def _mean(probability: Array, value: Array, number: int, draw: np.random.Generator) -> Shares:
    taken = probability[_some(len(probability), draw)]
    weights = draw.multinomial(len(taken), np.full(len(taken), 1 / len(taken)), size=REPLICATES)
    around = (weights @ taken / len(taken) - taken.mean(axis=0)) * np.sqrt(len(taken) / number)
    return Shares(value, *interval(np.clip(value + around, 0, 1)))


def _some(number: int, draw: np.random.Generator) -> Array:
    """Rows that stand for all ``number``."""
    if number <= SAMPLED:
        return np.arange(number)
    return np.sort(draw.choice(number, SAMPLED, replace=False))


# -- adjusted counts -------------------------------------------------------------------------------


def adjusted_shares(counts: Array, confusion: Confusion, draw: np.random.Generator) -> Drawn:
    """Shares ``(k,)`` that explain the decided classes best.

    Args:
        counts: ``(k,)`` texts by decided class; at least one.
        confusion: of the model.
        draw: of the draws.
    """
    number = int(counts.sum())
    rates = rates_of(confusion.confusion)
    value = explain(counts / number, rates)
    # Cells as they might have been; a class without rows might be decided in any way.
    cells = confusion.confusion + 1 / len(counts)
    drawn = np.stack([draw.dirichlet(row, size=REPLICATES) for row in cells], axis=1)
    texts = _whole(value * number).tolist()
    draws = [explain(_seen(texts, rates, draw) / number, own) for own in drawn]
    return Drawn(value, np.array(draws))


def rates_of(confusion: Array) -> Array:
    """Of each class ``(k, c)`` float64 the shares of its cells; of one without rows all alike."""
    totals, cells = confusion.sum(axis=1, keepdims=True), confusion.shape[1]
    return np.asarray(np.where(totals, confusion / np.maximum(totals, 1), 1 / cells))


def explain(decided: Array, rates: Array, weights: Array | None = None) -> Array:
    """Shares ``(k,)``, from 0 and of sum 1, whose decided classes are nearest to those seen.

    Least squares on the simplex, as the point of least norm of a polytope, which is a problem of
    weights not below 0 (Lawson & Hanson 1974, chapter 23).

    Args:
        decided: ``(c,)`` shares of the decided classes, or of finer cells.
        rates: ``(k, c)`` of each true class.
        weights: ``(c,)`` of the differences; default all alike.
    """
    around = (rates - decided) * (1.0 if weights is None else weights)
    problem = np.concatenate([around, np.ones((len(rates), 1))], axis=1).T
    found, _ = optimize.nnls(problem, np.append(np.zeros(len(decided)), 1.0))
    return np.asarray(found / found.sum())


def misfit(cells: Array, confusion: Confusion, *, seed: int = 0) -> float:
    """How often chance leaves texts as far from any shares' as these are: a p-value.

    Near 0 it speaks against the assumption: no mixture of texts as they were in training is decided
    like these, and so surely.

    Args:
        cells: ``(k, levels)`` of ``confusion.cells``; at least one text.
        confusion: of the model.
        seed: of what is drawn.
    """
    size = len(cells)
    own = confusion.possible.reshape(-1)
    counts = cells.reshape(-1)[own]
    table = confusion.table.reshape(size, -1)[:, own]
    number, rates = int(counts.sum()), rates_of(table)
    draw = np.random.default_rng(seed)
    apart, value = _apart(counts, rates)
    texts, beyond = _whole(value * number).tolist(), 0
    # One row more in each cell: what no row of a rare class did, another may do.
    possible = table + 1.0
    for _ in range(REPLICATES):
        seen = _seen(texts, [draw.dirichlet(row) for row in possible], draw)
        beyond += _apart(seen, rates)[0] >= apart
    return (beyond + 1) / (REPLICATES + 1)


def _apart(counts: Array, rates: Array) -> tuple[float, Array]:
    """Chi-squared of counts ``(cells,)`` from the nearest shares', and these ``(k,)``."""
    number = counts.sum()
    # One count more in each cell, as all classes alike would have it: none is divided by 0.
    spread = np.maximum(counts + rates.mean(axis=0), 0.5) / number
    value = explain(counts / number, rates, 1 / np.sqrt(spread))
    fitted = number * (value @ rates)
    return float((np.square(counts - fitted) / np.maximum(fitted, 1.0)).sum()), value


def _seen(texts: Sequence[int], rates: Sequence[Array] | Array, draw: np.random.Generator) -> Array:
    """Texts ``(c,)`` by cell, drawn: so many of each class, which has these rates."""
    each = [draw.multinomial(count, row) for count, row in zip(texts, rates, strict=True)]
    return np.asarray(np.sum(each, axis=0))


def _whole(amounts: Array) -> Array:
    """Whole numbers ``(k,)`` near some amounts, of the same sum."""
    found = np.floor(amounts + 1e-9).astype(np.int64)
    rest = round(float(amounts.sum())) - int(found.sum())
    found[np.argsort(found - amounts, kind="stable")[: max(rest, 0)]] += 1
    return found


def cannot_tell(cells: Array) -> Array:
    """Mask ``(k,)`` of the classes that the model does not surely tell from the others.

    Args:
        cells: ``(k, k)`` rows held out by true and by decided class.
    """
    totals = cells.sum(axis=1)
    right, taken = np.diag(cells), cells.sum(axis=0)
    others, wrong = totals.sum() - totals, taken - right
    hit, miss = (right + 1) / (totals + 2), (wrong + 1) / (others + 2)
    error = np.sqrt(hit * (1 - hit) / (totals + 2) + miss * (1 - miss) / (others + 2))
    return np.asarray(hit - miss <= UNSURE * error)


# -- EM --------------------------------------------------------------------------------------------


def em_shares(probability: Array, confusion: Confusion, draw: np.random.Generator) -> Drawn:
    """Shares ``(k,)`` of the largest likelihood.

    Args:
        probability: ``(n, k)`` of the texts; at least one.
        confusion: of the model.
        draw: of the draws.
    """
    logs = log_probabilities(probability)
    number = len(logs)
    ratios = _ratios(logs, confusion, 0)
    found, converged = em(ratios, start=confusion.priors[:1])
    value = found[0]
    some = _some(number, draw)
    own = ratios[some]
    center, _ = em(own, start=found)
    weights = draw.multinomial(len(some), np.full(len(some), 1 / len(some)), size=REPLICATES)
    drawn, _ = em(own, weights, start=center)
    around = _of_these(own, drawn, draw) - center
    around *= np.sqrt(len(some) / number)
    others = [
        em(_ratios(logs[some], confusion, i), start=center)[0][0] - center[0]
        for i in range(1, len(confusion.scales))
    ]
    around += np.array(others)[np.arange(REPLICATES) % len(others)]
    return Drawn(value, np.clip(value + around, 0, 1), bool(converged[0]))


def _ratios(logs: Array, confusion: Confusion, i: int) -> Array:
    """Likelihoods ``(n, k)`` of the texts by class, by one draw, up to a factor a text."""
    found = confusion.scales[i] * logs + confusion.shifts[i] - np.log(confusion.priors[i])
    return np.asarray(np.exp(found - found.max(axis=1, keepdims=True)))


def _of_these(ratios: Array, shares: Array, draw: np.random.Generator) -> Array:
    """Shares ``(r, k)`` that the texts themselves may have, where texts like them have these.

    What is known of each text counts: where all are told surely, the shares are what they are.
    """
    number = len(ratios)
    out = np.empty_like(shares)
    for row, share in enumerate(shares):
        p = ratios * share
        p /= np.maximum(p.sum(axis=1, keepdims=True), TINY)
        spread = (np.diag(p.sum(axis=0)) - p.T @ p) / number**2
        noise = draw.multivariate_normal(np.zeros(len(share)), spread, method="eigh")
        out[row] = p.mean(axis=0) + noise
    return out


def em(ratios: Array, weights: Array | None = None, *, start: Array) -> tuple[Array, Array]:
    """The shares of the largest likelihood, for several weightings of the texts at once.

    Steps of EM, two of which tell how far to go on (SQUAREM: Varadhan & Roland 2008).

    Args:
        ratios: ``(n, k)`` likelihood of each text by class, up to a factor a text.
        weights: ``(r, n)`` of the texts; default once, all alike.
        start: ``(r, k)`` or ``(1, k)`` shares, none of which is 0 for good.

    Returns:
        ``(r, k)`` shares, ``(r,)`` bool whether they were found.
    """
    if weights is None:
        weights = np.ones((1, len(ratios)))
    weights = np.asarray(weights, np.float64)
    weights = weights / weights.sum(axis=1, keepdims=True)
    size = ratios.shape[1]
    x = np.repeat(start, len(weights) // len(start), axis=0)
    x = (x + 1e-4) / (1 + 1e-4 * size)  # away from the edge, where EM stands still
    done = np.zeros(len(x), bool)
    for _ in range(MAX_STEPS):
        live = np.flatnonzero(~done)
        here, own = x[live], weights[live]
        one, _ = _step(ratios, own, here)
        two, known = _step(ratios, own, one)
        first, second = one - here, two - one
        bend = np.linalg.norm(second - first, axis=1)
        length = np.linalg.norm(first, axis=1) / np.maximum(bend, TINY)
        length = np.clip(length, 1.0, LONGEST_LEAP)[:, None]
        leap = here + 2 * length * first + np.square(length) * (second - first)
        # What has come near 0 by mistake is slow to grow.
        leap = np.maximum(leap, LEAST_LEFT * here)
        leap /= leap.sum(axis=1, keepdims=True)
        after, reached = _step(ratios, own, leap)
        x[live] = np.where((reached >= known)[:, None], after, two)
        # By the likelihood's concavity no shares are better by more than this, a text.
        done[live] = (one / here).max(axis=1) - 1 < TOLERANCE
        if done.all():
            break
    return x, done


def _step(ratios: Array, weights: Array, shares: Array) -> tuple[Array, Array]:
    """A step of EM ``(r, k)``, and the log likelihood ``(r,)`` before it."""
    mixed = np.maximum(shares @ ratios.T, TINY)
    found = np.maximum(shares * ((weights / mixed) @ ratios), LEAST_SHARE)
    return found / found.sum(axis=1, keepdims=True), (weights * np.log(mixed)).sum(axis=1)


# -- values ----------------------------------------------------------------------------------------


def mean_value(
    mean: float, spread: float, num_values: int, slope: Slope | None, *, seed: int = 0
) -> dict[str, Shares]:
    """The mean of a regression's values, plain and corrected for what the model draws to the mean.

    The corrected one assumes that predictions of texts of a value are as they were in training
    (the line from true to predicted values holds); it is to means what "adjusted" is to shares.
    Unlike those of shares, both intervals are of the mean of texts like these, which is the wider.

    Args:
        mean, spread: of the predicted values; their standard deviation.
        num_values: how many.
        slope: of the model; None: the plain mean alone.
        seed: of what is drawn.

    Returns:
        "mean", and "adjusted" where the line is known, with arrays ``(1,)``.
    """
    if not num_values:
        nothing = Shares(*np.full((3, 1), np.nan))
        return {"mean": nothing} | ({} if slope is None else {"adjusted": nothing})
    draw = np.random.default_rng(seed)
    drawn = mean + spread / np.sqrt(num_values) * draw.standard_normal(REPLICATES)
    found = {"mean": Shares(np.array([mean]), *interval(drawn[:, None]))}
    if slope is not None:
        which = 1 + np.arange(REPLICATES) % (len(slope.slopes) - 1)
        lines = (drawn - slope.intercepts[which]) / _not_0(slope.slopes[which])
        value = (mean - slope.intercepts[:1]) / _not_0(slope.slopes[:1])
        found["adjusted"] = Shares(value, *interval(lines[:, None]))
    return found


def _not_0(slopes: Array) -> Array:
    return np.where(np.abs(slopes) < FLAT, FLAT, slopes)


def is_flat(slope: Slope) -> bool:
    """Whether predictions hardly follow the true values, so that no mean can be corrected."""
    return bool(slope.slopes[0] <= UNSURE * slope.slopes[1:].std())
