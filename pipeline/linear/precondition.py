"""Approximate inverse Hessians of penalised linear models, shared by many of them.

For a loss whose curvature in the output is at most ``c``, ``c * C * G + I`` bounds the Hessian of
``1/2 ||W||^2 + C * loss`` from above (Boehning & Lindsay 1988; Boehning 1992). With fewer rows
than features the same inverse is applied in the rows (Woodbury's identity).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import linalg
from scipy.linalg import blas

from pipeline.linear.products import factorise

Array = NDArray[Any]
LEVELS_PER_DECADE = 8
"""Resolution of the scales for which factors are made: neighbours share one."""
MIN_FACTORS = 3
"""Factors to keep, however large: models of one solve differ by a C or two at a time."""
KEPT_BYTES = 64 * 2**20
"""Room for more, where they are small."""
MAX_HESSIANS = 4
"""Hessians to keep."""


class Preconditioner(Protocol):
    """Applies an approximate inverse Hessian: that of ``scale * G + I``, and of the bias."""

    def factor(self, scale: float) -> None:
        """Make ready to solve: the part of the work that gains from several BLAS threads."""

    def solve(self, scale: float, right: Array) -> Array:
        """``(columns, features + 1)`` float64 for a right-hand side of that shape and type."""


class Diagonal:
    """The inverse of the Gram's diagonal alone (standardised features: the number of rows)."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows

    def factor(self, scale: float) -> None:
        """See :class:`Preconditioner`."""

    def solve(self, scale: float, right: Array) -> Array:
        """See :class:`Preconditioner`."""
        out = right / (scale * self.num_rows + 1)
        out[:, -1] = right[:, -1] / (scale * self.num_rows)
        return np.asarray(out)


class _Factors:
    """Cholesky factors by scale, the most recent ones kept."""

    def __init__(self, gram: Array, *, dual: bool = False, limit: int | None = None) -> None:
        self._gram = gram
        self._dual = dual
        self._limit = limit or max(MIN_FACTORS, KEPT_BYTES // max(1, gram.nbytes))
        self._kept: dict[int, Array] = {}

    def get(self, scale: float) -> Array:
        """The lower factor for about this scale."""
        level = round(np.log10(scale) * LEVELS_PER_DECADE)
        if level not in self._kept:
            while len(self._kept) >= self._limit:
                self._kept.pop(next(iter(self._kept)))
            self._kept[level] = self._factor(10.0 ** (level / LEVELS_PER_DECADE))
        else:
            self._kept[level] = self._kept.pop(level)
        return self._kept[level]

    def _factor(self, scale: float) -> Array:
        jitter = 0.0
        while True:
            if self._dual:
                matrix = self._gram.copy(order="F")
                diagonal = 1 / scale + jitter
            else:
                matrix = np.multiply(self._gram, np.float32(scale), order="F")
                diagonal = 1 + jitter
            matrix[np.diag_indices_from(matrix)] += np.float32(diagonal)
            try:
                return factorise(matrix)
            except linalg.LinAlgError:
                # It only preconditions: jitter is harmless.
                jitter = 10 * jitter + 1e-7 * float(np.trace(self._gram)) * (
                    1.0 if self._dual else scale
                )


class _Factored:
    """What preconditioners by Cholesky factors have in common."""

    _factors: _Factors

    def factor(self, scale: float) -> None:
        """See :class:`Preconditioner`."""
        self._factors.get(scale)


class Primal(_Factored):
    """By Cholesky factors of ``scale * G + I``.

    Args:
        gram: ``(features, features)`` float32.
        num_rows: rows that it sums up.
    """

    def __init__(self, gram: Array, num_rows: int) -> None:
        self.num_rows = num_rows
        self._factors = _Factors(gram)

    def solve(self, scale: float, right: Array) -> Array:
        """See :class:`Preconditioner`."""
        factor = self._factors.get(scale)
        out = np.empty_like(right)
        out[:, :-1] = _solve(factor, right[:, :-1].T).T
        out[:, -1] = right[:, -1] / (scale * self.num_rows)
        return out


class Dual(_Factored):
    """By Cholesky factors of ``X^T X + I / scale``, for fewer rows than features.

    Args:
        xt: ``(features, rows)`` float32, standardised.
    """

    def __init__(self, xt: Array) -> None:
        self._xt = xt
        self._factors = _Factors(xt.T @ xt, dual=True)

    def solve(self, scale: float, right: Array) -> Array:
        """See :class:`Preconditioner`."""
        factor = self._factors.get(scale)
        features = right[:, :-1].astype(np.float32)
        inner = _solve(factor, (features @ self._xt).T)
        out = np.empty_like(right)
        out[:, :-1] = features - inner.T @ self._xt.T
        out[:, -1] = right[:, -1] / (scale * self._xt.shape[1])
        return out


class Weighted(_Factored):
    """By Cholesky factors of ``scale * H + diag(1, ..., 1, 0)``, ``H`` a Hessian of a loss.

    Args:
        hessian: ``(features + 1, features + 1)`` float32, the bias last.
    """

    def __init__(self, hessian: Array) -> None:
        # The bias is not penalised: against a large enough diagonal the 1 does not count.
        self._unit = np.ones(len(hessian), np.float32)
        self._unit[-1] = np.float32(1e3 / np.sqrt(max(float(hessian[-1, -1]), 1e-20)))
        hessian *= self._unit
        hessian *= self._unit[:, None]
        self._factors = _Factors(hessian, limit=1)

    def solve(self, scale: float, right: Array) -> Array:
        """See :class:`Preconditioner`."""
        factor = self._factors.get(scale)
        return np.asarray(_solve(factor, (right * self._unit).T).T * self._unit)


class Hessians:
    """The Hessians at hand, of descents to which the Gram alone says too little.

    Descents much like each other (the folds of one target at one strength) share a key, and the
    Hessian that the first of them made.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, Weighted] = {}
        self._keys: dict[int, Hashable] = {}

    def get(self, user: int) -> Weighted | None:
        """What a descent goes by, as long as it is kept."""
        return self._kept.get(self._keys[user]) if user in self._keys else None

    def keep(self, user: int, key: Hashable, make: Callable[[], Array]) -> None:
        """Let a descent go by the key's Hessian: the one at hand, or a new one if it did already.

        Args:
            user: the descent.
            key: what it descends.
            make: makes its Hessian, as :class:`Weighted` takes it.
        """
        if key not in self._kept or self._keys.get(user) == key:
            self._kept.pop(key, None)
            while len(self._kept) >= MAX_HESSIANS:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = Weighted(make())
        self._keys[user] = key


def _solve(factor: Array, right: Array) -> Array:
    columns = np.array(right, np.float32, order="F")
    columns = blas.strsm(1.0, factor, columns, lower=1, overwrite_b=1)
    return np.asarray(blas.strsm(1.0, factor, columns, lower=1, trans_a=1, overwrite_b=1))
