"""Products of a few rows with a large block, by the fastest kernel at hand.

BLAS libraries are made for large square matrices: with some ten rows they reach a quarter of what
oneDNN's kernels for linear layers do. The operator is private to torch, so where it is missing or
refuses, torch's own product does the work.
"""

from __future__ import annotations

import torch
from torch import Tensor

FEW_ROWS = 1
"""So few rows are a matrix-vector product, which BLAS does at the memory's speed."""


def _has_linear() -> bool:
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(available) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


_HAS_LINEAR = _has_linear()


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
