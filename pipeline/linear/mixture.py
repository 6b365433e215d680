"""Ridge regression on groups of features, each with a weight that is learnt, in closed form.

The features of a source form a group ``s`` with the kernel ``K_s = X_s X_s^T / F_s``. A model on
all of them with one penalty a group is kernel ridge regression with ``K = sum_s w_s K_s`` and unit
noise: a small ``w_s`` is a strong penalty. One factorisation of ``K + I`` gives the model *and* all
its held-out predictions (``V`` its inverse, ``G`` the rows of a fold)::

    alpha = V y                      y_G - held_out_G = (V_GG)^-1 alpha_G

so that the weights are learnt by descending the held-out error itself, whose gradient costs two
narrow products with every ``K_s``. A normal prior on the logarithms of the weights keeps groups
together where few rows speak.

Sources: leave-fold-out in closed form, Pahikkala et al. 2006 ("Fast n-fold cross-validation for
regularized least-squares"); learning kernels by held-out error, Chapelle et al. 2002.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize
from scipy.linalg import blas, lapack

Array = NDArray[Any]
MAX_ITERATIONS = 15
LEVELS = (0.01, 0.1, 1.0, 10.0)
"""Factors of the weights that are tried to start from."""
LEVEL_ROWS = 500
"""Rows that the factor is chosen on, where there are more."""
FIRST_ROWS = 1000
"""Rows that weights are sought on first, where there are more; an eighth of the work of twice as
many."""
LAST_ITERATIONS = 2
"""Iterations on all rows after that."""
PRECISION = 1e-5
"""Relative gain of the objective at which learning ends."""
SPREAD = 1.0
"""Standard deviation of the prior of a log-weight around the mean of all: a factor of e."""
LEVEL = 4.0
"""The same of their mean around its start."""
LARGEST = np.log(300.0)
"""Bound of a log-weight: beyond it float32 cannot tell ``K + I`` from a singular matrix."""
MAX_OUTPUTS = 8
"""Outputs that weights are learnt on; more are projected to so many."""
TILE = 256
INTERCEPT = 1.0
"""Weight of the constant feature: the targets are centred, so little is left for it."""


@dataclass(frozen=True)
class RidgeFit:
    """A ridge model in dual form, on centred targets.

    Attributes:
        dual: ``(n, outputs)`` float32: the model is ``sum_i dual_i k(x_i, .)``.
        fold_duals: the same fitted without each fold, ``(assignments, folds, n, outputs)``; zero on
            the fold's rows.
        held_out: ``(assignments, n, outputs)`` predictions of each row without its fold.
    """

    dual: Array
    fold_duals: Array
    held_out: Array


class Mixture:
    """The kernels of some groups over the same rows.

    Args:
        kernels: ``(groups, n, n)`` float32, of mean diagonal about 1.
        targets: ``(n, outputs)`` float32, centred.
        folds: assignments of the rows to folds, ``(n,)`` int64 each.
        weight: ``(n,)`` of the rows in the squared error; None for all alike.
        num_folds: how many folds there are, some of which may have no rows here.
    """

    def __init__(
        self,
        kernels: Array | Sequence[Array],
        targets: Array,
        folds: Sequence[Array],
        weight: Array | None = None,
        *,
        num_folds: int,
    ) -> None:
        self.kernels = kernels
        self.targets = np.ascontiguousarray(targets, np.float32)
        self._assignments = tuple(folds)
        self.num_folds = num_folds
        self.folds = [[np.flatnonzero(own == k) for k in range(num_folds)] for own in folds]
        self.weight = np.ones(len(targets), np.float32) if weight is None else weight
        self._noise = (1.0 / self.weight).astype(np.float32)

    def learn(self, start: Array, *, is_near: bool = False) -> Array:
        """Weights ``(groups,)`` float64 of least held-out squared error.

        With more than ``MAX_OUTPUTS`` outputs the error is that of random projections of them.

        Args:
            start: ``(groups,)`` to start from, up to a factor: that of ``LEVELS`` is taken which
                is best. Their level then is where the prior's mean lies.
            is_near: learnt already with some more groups: few iterations do.
        """
        prior = self._best_level(np.minimum(np.log(start), LARGEST))
        theta, iterations = prior, MAX_ITERATIONS
        if len(self.targets) > FIRST_ROWS and is_near:
            iterations = LAST_ITERATIONS
        elif len(self.targets) > FIRST_ROWS:
            few = self._some(FIRST_ROWS)
            theta, iterations = few._descended(prior, prior.mean(), iterations), LAST_ITERATIONS
        return np.asarray(np.exp(self._descended(theta, prior.mean(), iterations)))

    def _best_level(self, theta: Array) -> Array:
        """The start on the right side of the hill: where weights are so large that the model meets
        every target, the held-out error is flat, and no descent leaves there."""
        few = self._some(LEVEL_ROWS) if len(self.targets) > LEVEL_ROWS else self
        starts = [np.minimum(theta + np.log(factor), LARGEST) for factor in LEVELS]
        targets = few._projected()
        return min(starts, key=lambda one: few._objective(one, targets, one.mean())[0])

    def _projected(self) -> Array:
        """Targets that weights are learnt on, ``(n, at most MAX_OUTPUTS)``."""
        size = self.targets.shape[1]
        if size <= MAX_OUTPUTS:
            return self.targets
        draw = np.random.default_rng(0).normal(size=(size, MAX_OUTPUTS))
        return np.asarray(self.targets @ np.linalg.qr(draw)[0], np.float32)

    def _descended(self, theta: Array, level: float, iterations: int) -> Array:
        found = optimize.minimize(
            self._objective,
            theta,
            args=(self._projected(), level),
            jac=True,
            method="L-BFGS-B",
            bounds=[(None, LARGEST)] * len(theta),
            options={"maxiter": iterations, "ftol": PRECISION},
        )
        return np.asarray(found.x)

    def _some(self, number: int) -> Mixture:
        """The problem of a part of the rows."""
        chosen = np.random.default_rng(0).choice(len(self.targets), number, replace=False)
        rows = np.sort(chosen)
        return Mixture(
            [kernel[np.ix_(rows, rows)] for kernel in self.kernels],
            self.targets[rows],
            [folds[rows] for folds in self._assignments],
            self.weight[rows],
            num_folds=self.num_folds,
        )

    def fit(self, weights: Array) -> RidgeFit:
        """The model of all rows, and what it says of rows that it has not seen."""
        inverse = self._inverse(weights)
        dual = inverse @ self.targets
        held_out = np.empty((len(self.folds), *dual.shape), np.float32)
        without = np.empty((len(self.folds), self.num_folds, *dual.shape), np.float32)
        for number, folds in enumerate(self.folds):
            for k, rows in enumerate(folds):
                error = np.linalg.solve(inverse[np.ix_(rows, rows)], dual[rows])
                held_out[number, rows] = self.targets[rows] - error
                without[number, k] = dual - inverse[:, rows] @ error
                without[number, k, rows] = 0.0
        return RidgeFit(dual, without, held_out)

    def _objective(self, theta: Array, targets: Array, level: float) -> tuple[float, Array]:
        """Half the rows times the logarithm of the held-out error, and the prior; its gradient."""
        weights = np.exp(theta)
        inverse = self._inverse(weights)
        dual = inverse @ targets
        error, left, right = 0.0, [], []
        for rows in (rows for folds in self.folds for rows in folds if len(rows)):
            factor = linalg.cho_factor(inverse[np.ix_(rows, rows)], lower=True, check_finite=False)
            missed = linalg.cho_solve(factor, dual[rows], check_finite=False)
            share = self.weight[rows, None] * missed
            error += float((share * missed).sum(dtype=np.float64))
            slope = linalg.cho_solve(factor, 2 * share, check_finite=False)
            columns = inverse[:, rows]
            left.append(columns @ slope)
            right.append(dual - columns @ missed)
        u, q = np.concatenate(left, axis=1), np.concatenate(right, axis=1)
        slopes = np.array([-float(np.vdot(u, kernel @ q)) for kernel in self.kernels]) * weights
        error = max(error, float(np.finfo(np.float32).tiny))
        half = 0.5 * len(targets)
        apart, mean = theta - theta.mean(), theta.mean() - level
        value = half * np.log(error) + 0.5 * apart @ apart / SPREAD**2 + 0.5 * (mean / LEVEL) ** 2
        gradient = half * slopes / error + apart / SPREAD**2 + mean / LEVEL**2 / len(theta)
        return float(value), gradient

    def _inverse(self, weights: Array) -> Array:
        """``(K + noise)^-1``, float32."""
        total = np.full((len(self.targets),) * 2, np.float32(INTERCEPT))
        for weight, kernel in zip(weights, self.kernels, strict=True):
            blas.saxpy(kernel.reshape(-1), total.reshape(-1), a=float(weight))  # no temporary
        return inverse_with_noise(total, self._noise)


def inverse_with_noise(kernel: Array, noise: Array) -> Array:
    """``(kernel + diag(noise))^-1`` ``(n, n)`` float32; spoils the kernel, which is symmetric."""
    kernel[np.diag_indices_from(kernel)] += noise
    matrix = kernel.T  # Fortran order without a copy
    factor, failed = lapack.spotrf(matrix, lower=1, clean=0, overwrite_a=0)
    if failed:  # rounding: float64 tells it from a singular matrix
        factor, _ = lapack.dpotrf(matrix.astype(np.float64), lower=1, clean=0)
        inverse, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
    else:
        inverse, _ = lapack.spotri(factor, lower=1, overwrite_c=1)
    return _whole(np.asarray(inverse, np.float32))


def _whole(lower: Array) -> Array:
    """A symmetric matrix from its lower triangle, in place; tile by tile, as caches like it."""
    for start in range(0, len(lower), TILE):
        here, below = slice(start, start + TILE), slice(start + TILE, None)
        tile = np.tril(lower[here, here])
        lower[here, here] = tile + np.tril(tile, -1).T
        lower[here, below] = lower[below, here].T
    return lower


def solve_positive(matrix: Array, right: Array) -> Array:
    """``matrix^-1 right`` ``(n, k)`` float32, of a symmetric positive ``(n, n)`` float32."""
    _, found, failed = lapack.sposv(matrix.T, right, lower=1, overwrite_a=0)
    if failed:  # rounding: float64 tells it from a singular matrix
        _, found, _ = lapack.dposv(matrix.T.astype(np.float64), right, lower=1)
    return np.asarray(found, np.float32)
