"""Gram matrices of a layer: sums over blocks of rows, so that they merge, extend and subtract.

:func:`design_gram` gives the Gram matrix of standardised rows, if wished of a sample of them;
:func:`hessian_gram` that of rows weighted by a loss's curvature; :func:`group_grams` one for each
group of rows: any fold's Gram is a sum of those. Products are float32, sums over blocks float64
where the result is more than a preconditioner. They are made on the design's device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.linear.design import Design, block_rows
from pipeline.linear.products import times

Array = NDArray[Any]
PRODUCT_ROWS = 4096
"""Rows of one float32 product: few enough that its rounding stays at 1e-6."""
TILE = 256
"""Rows of the Gram made by one product; larger ones waste more above the diagonal."""
GPU_SHARE = 0.5
"""Share of a GPU's free memory that a sum may take: other layers' may come."""
SAMPLE_ROWS_PER_FEATURE = 5
"""Rows of a sample whose Gram preconditions as well as that of all rows."""


def sample_step(num_rows: int, num_features: int) -> int:
    """Every how many rows a Gram matrix that only preconditions needs one."""
    return max(1, num_rows // (SAMPLE_ROWS_PER_FEATURE * num_features))


def design_gram(design: Design, every: int = 1) -> Array:
    """``(features, features)`` float32 Gram of the standardised rows, Fortran order.

    Args:
        design: the rows.
        every: use each ``every``-th row and scale the result up: a preconditioner needs no more
            than about five rows a feature.
    """
    size = design.num_features
    gram = np.zeros((size, size), np.float32, order="F")
    total = _sum_into(gram, design.device)
    for block in _wide_blocks(design, every):
        total.add(block)
    total.finish()
    if every > 1:
        gram *= np.float32(design.num_rows / len(range(0, design.num_rows, every)))
    return gram


def hessian_gram(
    design: Design, row_weight: Callable[[slice, Array], Array], every: int = 1
) -> Array:
    """``sum_i d_i (x_i, 1)(x_i, 1)^T``, ``(features + 1, features + 1)`` float32, Fortran order.

    Args:
        design: the rows.
        row_weight: gives ``d`` ``(rows,)`` for a slice of rows and their ``(features, rows)``.
        every: use each ``every``-th row and scale the result up.
    """
    size = design.num_features + 1
    gram = np.zeros((size, size), np.float32, order="F")
    total = _sum_into(gram, design.device)
    room = max(PRODUCT_ROWS, block_rows(design.num_features))
    wide = np.empty((size, room), np.float32)
    filled = 0
    for rows, block in design.blocks(every):
        if filled + block.shape[1] > room:
            total.add(wide[:, :filled])
            filled = 0
        root = np.sqrt(row_weight(rows, block)).astype(np.float32)
        target = wide[:, filled : filled + block.shape[1]]
        np.multiply(block, root, out=target[:-1])
        target[-1] = root
        filled += block.shape[1]
    total.add(wide[:, :filled])
    total.finish()
    if every > 1:
        gram *= np.float32(design.num_rows / len(range(0, design.num_rows, every)))
    return gram


def group_grams(
    design: Design, groups: Array, num_groups: int, factor: Array | None = None
) -> tuple[Array, Array]:
    """Gram and sum of the standardised rows of each group.

    Args:
        design: the rows.
        groups: ``(n,)`` group of each row; -1 leaves it out.
        num_groups: how many.
        factor: ``(n,)``: rows enter the Grams times it, the sums times its square.

    Returns:
        ``(groups, features, features)`` float64 and ``(groups, features)`` float64.
    """
    size = design.num_features
    grams = np.zeros((num_groups, size, size))
    totals = [_sum_into(gram.T, design.device) for gram in grams]
    sums = np.zeros((num_groups, size))
    room = max(256, PRODUCT_ROWS // num_groups)
    wide = np.empty((num_groups, size, room), np.float32)
    filled = np.zeros(num_groups, np.int64)

    def flush(group: int) -> None:
        if filled[group]:  # oneDNN refuses empty products
            totals[group].add(wide[group, :, : filled[group]])
        filled[group] = 0

    for rows, block in design.blocks():
        here = groups[rows]
        for group in range(num_groups):
            columns = np.flatnonzero(here == group)
            if not len(columns):
                continue
            values = block if len(columns) == len(here) else np.take(block, columns, axis=1)
            if factor is None:
                sums[group] += values.sum(axis=1, dtype=np.float64)
            else:
                scale = factor[rows][columns]
                sums[group] += values @ np.square(scale).astype(np.float32)
                values = values * scale.astype(np.float32)
            done = 0
            while done < len(columns):
                take = min(len(columns) - done, room - int(filled[group]))
                at = int(filled[group])
                wide[group, :, at : at + take] = values[:, done : done + take]
                filled[group] += take
                done += take
                if filled[group] == room:
                    flush(group)
    for group in range(num_groups):
        flush(group)
        totals[group].finish()
    return grams, sums


def _wide_blocks(design: Design, every: int) -> Iterator[Array]:
    """Blocks of ``PRODUCT_ROWS`` rows, C-contiguous ``(features, rows)``."""
    wide = np.empty((design.num_features, PRODUCT_ROWS), np.float32)
    filled = 0
    for _, block in design.blocks(every):
        done = 0
        while done < block.shape[1]:
            take = min(block.shape[1] - done, PRODUCT_ROWS - filled)
            wide[:, filled : filled + take] = block[:, done : done + take]
            filled += take
            done += take
            if filled == PRODUCT_ROWS:
                yield wide
                filled = 0
    if filled:
        yield np.ascontiguousarray(wide[:, :filled])


class _Sum(Protocol):
    """A sum of ``block @ block.T`` over blocks ``(features, rows)`` float32."""

    def add(self, block: Array) -> None:
        """Add a block's product; the block may change afterwards."""

    def finish(self) -> None:
        """Leave the sum where it was asked for."""


def _sum_into(gram: Array, device: torch.device) -> _Sum:
    """Sum into a Fortran-ordered Gram that holds zeros, on the CPU if the device has no room."""
    if device.type == "cpu":
        return _TriangleSum(gram)
    free, _ = torch.cuda.mem_get_info(device)
    needed = gram.nbytes + 4 * gram.size + 4 * len(gram) * PRODUCT_ROWS
    return _DeviceSum(gram, device) if needed <= GPU_SHARE * free else _TriangleSum(gram)


class _TriangleSum:
    """Adds up the lower triangle, as LAPACK's Cholesky wants it: little over half the work."""

    def __init__(self, gram: Array) -> None:
        self._gram = gram

    def add(self, block: Array) -> None:
        """See :class:`_Sum`."""
        upper = torch.from_numpy(self._gram.T)
        rows = torch.from_numpy(np.ascontiguousarray(block))
        for start in range(0, len(rows), TILE):
            tile = slice(start, start + TILE)
            upper[tile, start:] += times(rows[tile], rows[start:].t())

    def finish(self) -> None:
        """See :class:`_Sum`."""
        _mirror(self._gram)


class _DeviceSum:
    """Adds up on a GPU, whose memory holds the sum, a product and a block."""

    def __init__(self, gram: Array, device: torch.device) -> None:
        self._gram = gram
        self._total = torch.from_numpy(gram).to(device)

    def add(self, block: Array) -> None:
        """See :class:`_Sum`."""
        rows = torch.from_numpy(np.ascontiguousarray(block)).to(self._total.device)
        self._total += rows @ rows.t()

    def finish(self) -> None:
        """See :class:`_Sum`."""
        self._gram[...] = self._total.cpu().numpy()


def _mirror(gram: Array) -> None:
    """Copy the lower triangle to the upper, in place."""
    size = 512
    for start in range(0, len(gram), size):
        stop = start + size
        square = gram[start:stop, start:stop]
        square[...] = np.tril(square) + np.tril(square, -1).T
        gram[start:stop, stop:] = gram[stop:, start:stop].T
