"""Shares of labels among texts that have several, corrected by the sets in which they come.

    sets = LabelSets.of(probability, targets)           # of rows held out; None: too few share one
    label_shares(new_probability, sets)["em"].value     # a share for each label

Texts *without* a label have others, so that they do not stay as they were when the others' shares
move: no label can be corrected by itself. Texts of one *set* of labels can be as they were. Sets
that enough rows have are classes, the rest is one more; a label's share is the sum of its sets'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import special

from pipeline.measures.confusion import Confusion
from pipeline.measures.prevalence import (
    CORRECTED,
    Shares,
    cannot_tell,
    corrected_shares,
    interval,
    misfit,
)

Array = NDArray[Any]
LEAST_ROWS = 10
"""Of a set that is a class of its own."""
MOST_SETS = 31
LEAST_COVERED = 0.9
"""Of the rows must be of such sets."""
LEAST_PROBABILITY = 1e-5
"""Probabilities of labels are clipped there, so that those of scores (float32) give the same."""


@dataclass(frozen=True)
class LabelSets:
    """Of a classifier of ``l`` labels, on rows held out: their ``k`` sets as classes.

    Attributes:
        members: ``(k, l)`` float64, 1 where a set holds a label; of the rest, which is the last
            if there is one, how many of its rows do.
        num_rest: rows of the rest; 0: there is none.
        confusion: of the sets, decided by the largest probability.
    """

    members: Array
    num_rest: int
    confusion: Confusion

    @classmethod
    def of(
        cls,
        probability: Array,
        targets: Array,
        *,
        groups: Array | None = None,
        seed: int = 0,
    ) -> Self | None:
        """From rows that the model was not fitted on; None where too few share a set.

        Args:
            probability: ``(n, l)``.
            targets: ``(n, l)``, what labels the rows have.
            groups, seed: as of ``Confusion.of``.
        """
        targets = np.asarray(targets, bool)
        sets, number, amounts = np.unique(targets, axis=0, return_inverse=True, return_counts=True)
        often = np.argsort(-amounts, kind="stable")[:MOST_SETS]
        often = np.sort(often[amounts[often] >= LEAST_ROWS])
        num_rest = len(targets) - int(amounts[often].sum())
        if len(often) < 2 or num_rest > (1 - LEAST_COVERED) * len(targets):
            return None
        place = np.full(len(sets), len(often))
        place[often] = np.arange(len(often))
        classes = place[number.reshape(-1)]
        members = sets[often].astype(np.float64)
        if num_rest:
            rest = targets[classes == len(often)].mean(axis=0)
            members = np.concatenate([members, rest[None]])
        own = _of_sets(probability, members, num_rest)
        found = Confusion.of(own, own.argmax(axis=1), classes, groups=groups, seed=seed)
        return cls(members, num_rest, found)

    def probability(self, probability: Array) -> Array:
        """Of each set ``(n, k)``, by those of labels ``(n, l)``."""
        return _of_sets(probability, self.members, self.num_rest)

    def misfit(self, probability: Array) -> float:
        """As the function of that name; ``probability`` ``(n, l)``, of at least one text."""
        own = self.probability(probability)
        return misfit(self.confusion.cells(own, own.argmax(axis=1)), self.confusion)

    def cannot_tell(self) -> Array:
        """Mask ``(l,)`` of the labels that the model does not surely tell."""
        known = self.members.copy()
        known[len(known) - bool(self.num_rest) :] = 0  # the rest is of no label for sure
        cells = self.confusion.confusion
        sides = [np.stack([1 - own, own]) for own in known.T]
        return np.array([cannot_tell(side @ cells @ side.T)[1] for side in sides], bool)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        members = np.round(self.members, 6).tolist()
        return {"members": members, "rest": self.num_rest, **self.confusion.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """From JSON.

        Raises:
            ValueError, KeyError, TypeError: it says something else.
        """
        confusion = Confusion.from_dict(data)
        members = np.asarray(data["members"], np.float64)
        if members.ndim != 2 or len(members) != len(confusion.table):
            raise ValueError(f"members: {members.shape}, not a row for each set")
        if not (members.min(initial=0) >= 0 and members.max(initial=0) <= 1):
            raise ValueError("members: not from 0 to 1")
        return cls(members, int(data["rest"]), confusion)


def _of_sets(probability: Array, members: Array, num_rest: int) -> Array:
    """Probabilities ``(n, k)`` of sets, labels taken for independent: calibration mends that."""
    own = np.asarray(probability, np.float32).astype(np.float64)
    own = own.clip(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    known = members[: len(members) - bool(num_rest)]
    logs = np.log(own) @ known.T + np.log1p(-own) @ (1 - known).T
    if not num_rest:
        return np.asarray(special.softmax(logs, axis=1))
    found = np.exp(logs)
    rest = np.maximum(1 - found.sum(axis=1, keepdims=True), LEAST_PROBABILITY)
    return np.concatenate([found, rest], axis=1)


def label_shares(
    probability: Array, sets: LabelSets, *, num_texts: int | None = None, seed: int = 0
) -> dict[str, Shares]:
    """Corrected shares of ``l`` labels among texts.

    Args:
        probability: ``(n, l)`` of the texts, or of some of them drawn at random.
        sets: of the model that gave it.
        num_texts: how many texts there are; default those given.
        seed: of what is drawn.

    Returns:
        A key of :data:`CORRECTED` -> shares.
    """
    if not len(probability):
        return dict.fromkeys(CORRECTED, Shares(*np.full((3, sets.members.shape[1]), np.nan)))
    draw = np.random.default_rng(seed)
    own, members = sets.probability(probability), sets.members
    counts = np.bincount(own.argmax(axis=1), minlength=len(members))
    number = len(own) if num_texts is None else num_texts
    # Of a label that all rows have, or none has, nobody knows.
    unseen = (members.max(axis=0) == 0) | (members.min(axis=0) == 1)
    shares = {}
    for name, one in corrected_shares(own, counts, sets.confusion, number, draw).items():
        draws = one.draws @ members
        if sets.num_rest:
            hits = sets.num_rest * members[-1]
            rates = draw.beta(hits + 0.5, sets.num_rest - hits + 0.5, (len(draws), len(hits)))
            draws += one.draws[:, -1:] * (rates - members[-1])
        low, high = interval(draws.clip(0, 1))
        bounds = np.where(unseen, 0.0, low), np.where(unseen, 1.0, high)
        shares[name] = Shares((one.value @ members).clip(0, 1), *bounds, one.converged)
    return shares
