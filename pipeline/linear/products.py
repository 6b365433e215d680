"""Products of a few rows with a large block, and Cholesky factors, by the fastest kernel at hand.

BLAS libraries are made for large square matrices: with some ten rows they reach a quarter of what
oneDNN's kernels for linear layers do. The operator is private to torch, so where it is missing,
torch's own product does the work.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, lapack
from torch import Tensor

from pipeline import onednn

FEW_ROWS = 1
"""So few rows are a matrix-vector product, which BLAS does at the memory's speed."""
_HAS_LINEAR = onednn.available()


def times(rows: Tensor, block: Tensor) -> Tensor:
    """``rows @ block``.

    Args:
        rows: ``(k, m)``.
        block: ``(m, n)``, of the same type; contiguous, or the transpose of such.
    """
    if len(rows) <= FEW_ROWS:
        return torch.from_numpy(rows.numpy() @ block.numpy())
    if rows.dtype == torch.float32 and _HAS_LINEAR:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, block.t(), None, "none", [], "")
        return product
    return rows @ block


def factorise(matrix: NDArray[Any]) -> NDArray[Any]:
    """Lower Cholesky factor of a symmetric matrix, in its place.

    Args:
        matrix: ``(m, m)`` float32, Fortran order; only its lower triangle is read and written:
            wiping the upper one, as ``scipy.linalg.cholesky`` does, doubles the time.

    Raises:
        LinAlgError: not positive definite; the matrix is spoilt.
    """
    factor, info = lapack.spotrf(matrix, lower=1, clean=0, overwrite_a=1)
    if info:
        raise LinAlgError(f"the leading minor of order {info} is not positive")
    return np.asarray(factor)
