"""Made-up classifiers: probabilities that are right, and what they get wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from pipeline.measures.confusion import Confusion

Array = np.ndarray[Any, Any]


def drawn(size: int, rows: int, seed: int, *, strength: float = 2.0) -> tuple[Array, Array]:
    """Calibrated probabilities ``(n, k)`` and classes ``(n,)`` drawn by them."""
    draw = np.random.default_rng(seed)
    probability = special.softmax(strength * draw.normal(size=(rows, size)), axis=1)
    targets = (probability.cumsum(axis=1) < draw.random((rows, 1))).sum(axis=1)
    return probability, np.minimum(targets, size - 1)


def confusion_of(size: int = 3, rows: int = 400, seed: int = 0, **options: Any) -> Confusion:
    probability, targets = drawn(size, rows, seed, **options)
    return Confusion.of(probability, probability.argmax(axis=1), targets)
