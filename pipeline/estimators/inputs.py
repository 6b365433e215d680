"""What a user gives as ``X`` and ``sample_weight``: lists, arrays, Series, columns of tables.

read_texts(frame["text"])        # list[str]; anything else is an InputError that names the row
"""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError, CorpusError
from pipeline.texts import given_texts

Array = NDArray[Any]


class InputError(CorpusError, ValueError):
    """Texts, labels or weights that cannot be used; a ``ValueError``, as scikit-learn has it."""


class SettingError(ConfigError, ValueError):
    """A parameter that cannot be used; a ``ValueError``, as scikit-learn has it."""


def read_texts(X: Any) -> list[str]:
    """The texts of a list, array, Series, Arrow or polars column, or a table of one column.

    Raises:
        InputError: no texts, or a row that is none.
        TypeError: a sparse matrix.
    """
    if hasattr(X, "toarray"):
        raise TypeError("X is a sparse matrix of numbers; give a list of texts")
    if hasattr(X, "__array__") and not hasattr(X, "__iter__"):
        X = np.asarray(X)
    shape: Any = getattr(X, "shape", ())
    if len(shape) == 2 and shape[1] == 1:
        X = X.iloc[:, 0] if hasattr(X, "iloc") else np.asarray(X)[:, 0]
    elif len(shape) > 1 and not hasattr(X, "columns"):
        raise InputError(f"X has shape {tuple(shape)}: texts are a list or one column; name it")
    try:
        texts = given_texts(X)
    except CorpusError as error:
        raise InputError(f"X: {error}") from None
    if not texts:
        raise InputError(
            "Found array with 0 sample(s) while a minimum of 1 is required: give texts"
        )
    return texts


def check_same_length(X: Sized, other: Any, name: str) -> None:
    """Refuse labels or weights of another number than the texts.

    Raises:
        InputError: naming both numbers.
    """
    if len(other) != len(X):
        raise InputError(
            f"Found input variables with inconsistent numbers of samples: X has {len(X)}, {name}"
            f" has {len(other)}"
        )


def read_weights(sample_weight: Any, texts: Sized) -> Array | None:
    """``(n,)`` float64 weights; None where none are given.

    Raises:
        InputError: not a number of at least 0 for each text, or nothing above 0.
    """
    if sample_weight is None:
        return None
    if np.isscalar(sample_weight):
        sample_weight = [sample_weight] * len(texts)
    try:
        weights = np.asarray(sample_weight, np.float64)
    except (TypeError, ValueError):
        raise InputError("sample_weight holds something else than numbers") from None
    if weights.ndim != 1:
        raise InputError(f"Sample weights must be 1D array or scalar, not of shape {weights.shape}")
    check_same_length(texts, weights, "sample_weight")
    if not np.isfinite(weights).all() or (weights < 0).any():
        row = int(np.flatnonzero(~(weights >= 0) | ~np.isfinite(weights))[0])
        raise InputError(
            f"sample_weight: row {row} is {weights[row]}; give finite numbers of at least 0"
        )
    if not weights.any():
        raise InputError("Sample weights must contain at least one non-zero number")
    return weights
