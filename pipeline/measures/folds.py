"""Folds of rows, seeded and stratified by target."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def stratified_folds(targets: Array, *, folds: int, seed: int) -> Array:
    """Fold index ``(n,)`` int64 of each row.

    Args:
        targets: ``(n,)`` class indices or values; in their order rows go to the folds in turn.
        folds: how many.
        seed: of the order among equals.
    """
    order = np.random.default_rng(seed).permutation(len(targets))
    order = order[np.argsort(targets[order], kind="stable")]
    fold = np.empty(len(targets), dtype=np.int64)
    fold[order] = np.arange(len(targets)) % folds
    return fold
