"""Folds of rows: stratified by target, in the order of time, or by whole labels.

``stratified_folds`` keeps groups of rows together where it is told them; ``ordered_folds`` and
``label_folds`` test on times and on authors or sources that the other folds have not seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RunInputError
from pipeline.measures.labelsets import rarest_label

Array = NDArray[Any]
_NUM_BINS = 10


def stratified_folds(
    targets: Array, *, folds: int, seed: int, groups: Array | None = None
) -> Array:
    """Fold index ``(n,)`` int64 of each row.

    Args:
        targets: ``(n,)`` class indices or values; in their order rows go to the folds in turn. Of
            label sets ``(n, labels)`` the rarest label of each row counts, or that it has none.
        folds: how many.
        seed: of the order among equals.
        groups: ``(n,)`` the group of each row; rows of one are in one fold. From the largest down,
            each goes to the fold that has the least of its classes (of its deciles, for values).
    """
    if targets.ndim == 2:
        targets = rarest_label(targets)
    order = np.random.default_rng(seed).permutation(len(targets))
    order = order[np.argsort(targets[order], kind="stable")]
    fold = np.empty(len(targets), dtype=np.int64)
    group = np.arange(len(targets))
    if groups is not None:
        group = np.unique(groups, return_inverse=True)[1]
    alone = np.bincount(group)[group] == 1
    if alone.all():
        fold[order] = np.arange(len(targets)) % folds
        return fold
    strata = _strata(targets)
    counts = np.zeros((folds, strata.max() + 1), np.int64)
    _place_groups(fold, counts, group, strata, np.flatnonzero(~alone), seed)
    for stratum in range(counts.shape[1]):
        rows = order[alone[order] & (strata[order] == stratum)]
        fold[rows] = _fill(counts, stratum, len(rows))
    return fold


def _strata(targets: Array) -> Array:
    """Class or decile ``(n,)`` int64 of each row."""
    if targets.dtype.kind == "f":
        edges = np.sort(targets)[np.arange(1, _NUM_BINS) * len(targets) // _NUM_BINS]
        return np.searchsorted(np.unique(edges), targets, side="right")
    return np.asarray(np.unique(targets, return_inverse=True)[1])


def _place_groups(
    fold: Array, counts: Array, group: Array, strata: Array, rows: Array, seed: int
) -> None:
    """Set the fold of the groups that have these rows, and count ``(fold, stratum)`` rows."""
    rows = rows[np.argsort(group[rows], kind="stable")]
    parts = np.split(rows, np.flatnonzero(np.diff(group[rows])) + 1)
    shuffled = np.random.default_rng(seed).permutation(len(parts))
    # Whole numbers, so that no rounding decides between folds.
    weight = (1 << 32) // np.maximum(1, np.bincount(strata, minlength=counts.shape[1]))
    for place in sorted(shuffled, key=lambda place: -len(parts[place])):
        part = parts[place]
        found, number = np.unique(strata[part], return_counts=True)
        crowd = (counts[:, found] * (weight[found] * number)).sum(axis=1)
        best = np.lexsort((counts.sum(axis=1), crowd))[0]
        counts[best, found] += number
        fold[part] = best


def _fill(counts: Array, stratum: int, num_rows: int) -> Array:
    """Folds ``(num_rows,)`` for single rows of a stratum: the emptiest first, then in turn."""
    folds = len(counts)
    preferred = np.argsort(counts.sum(axis=1), kind="stable")
    filled = counts[preferred, stratum]
    room = num_rows // folds + np.ptp(filled) + 1
    level = filled[:, None] + np.arange(room)
    turns = np.argsort(level, axis=None, kind="stable")[:num_rows]
    chosen = preferred[turns // room]
    counts[:, stratum] += np.bincount(chosen, minlength=folds)
    return np.asarray(chosen)


def ordered_folds(values: Array, folds: int) -> Array:
    """Fold index ``(n,)`` int64 of each row: blocks of time, as even as equal times allow.

    Fold 0 is the earliest; rows of one time are in one fold.

    Args:
        values: ``(n,)`` times, as numbers.
        folds: how many.

    Raises:
        RunInputError: there are fewer different times than folds.
    """
    times, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    _check_enough(len(times), folds, "times")
    ends = np.cumsum(counts)
    cut, cuts = 0, []
    for number in range(1, folds):
        # At least one time for this fold and for each of those after it.
        first, last = cut + 1, len(times) - (folds - number)
        distance = np.abs(ends[first - 1 : last] * folds - number * len(values))
        cut = first + int(np.argmin(distance))
        cuts.append(cut)
    return np.searchsorted(np.array(cuts, np.int64), np.arange(len(times)), side="right")[place]


def label_folds(values: Sequence[Hashable], folds: int, *, what: str = "labels") -> Array:
    """Fold index ``(n,)`` int64 of each row: all rows of one label (author, source) together.

    The largest label comes first, each goes to the fold with the fewest rows; equal sizes in the
    order of the labels as text.

    Args:
        values: ``(n,)`` the label of each row.
        folds: how many.
        what: the labels are, for the error.

    Raises:
        RunInputError: there are fewer different labels than folds.
    """
    sizes = Counter(values)
    _check_enough(len(sizes), folds, what)
    filled = [0] * folds
    found: dict[Hashable, int] = {}
    for label in sorted(sizes, key=lambda label: (-sizes[label], str(label))):
        found[label] = filled.index(min(filled))
        filled[found[label]] += sizes[label]
    return np.array([found[value] for value in values], np.int64)


def _check_enough(found: int, folds: int, what: str) -> None:
    if found < folds:
        raise RunInputError(
            f"{folds} folds, but the rows have only {found} different {what}; ask for fewer folds"
            " (head.folds) or make them in another way (head.folds_by)"
        )
