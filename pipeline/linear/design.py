"""The standardised training rows of one layer, streamed in blocks that fit the cache.

A design hands out ``(features, rows)`` blocks: the store's own orientation, so that the products
``W @ block`` and ``R @ block.T`` need no transposition. Raw values stay float16; each block is
widened, centred and scaled in one small buffer. :class:`MemoryDesign` holds the raw values,
:class:`StoreDesign` keeps as many shards as a memory limit allows and reads the others on every
pass. ``Standardiser`` moments come from one pass, merged in float64 (Chan, Golub & LeVeque 1983).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.linear.fitted import Standardiser
from pipeline.linear.threads import BlockThreads
from store import ActivationStore
from store.layout import Moments, Source, merge_moments

Array = NDArray[Any]
Scratch = Callable[[int], torch.Tensor]
"""Gives a float32 buffer of at least so many values."""
BLOCK_BYTES = 4 * 1024 * 1024
"""Working set of a block in float32: in cache, yet long enough for matrix products."""
SPAN_ROWS = 2048
"""Rows whose gradient is summed in float32."""
CPU = torch.device("cpu")


class Span(Protocol):
    """Some thousand rows of a design: the work of one thread at a time."""

    @property
    def rows(self) -> slice:
        """Which rows."""

    def blocks(self, scratch: Scratch) -> Iterator[tuple[slice, Array]]:
        """``(rows, block)`` as from :meth:`Design.blocks`, in buffers that ``scratch`` gives."""


class Design(Protocol):
    """Standardised training rows of one layer, streamed."""

    @property
    def num_rows(self) -> int:
        """Rows."""

    @property
    def num_features(self) -> int:
        """Features."""

    @property
    def standardiser(self) -> Standardiser:
        """Mean and scale of the features."""

    @property
    def device(self) -> torch.device:
        """Where Gram matrices of the rows are made; blocks are on the CPU whatever it is."""

    def spans(self, every: int = 1) -> Iterator[Span]:
        """One pass over the rows, or each ``every``-th of them, in independent parts."""

    def blocks(self, every: int = 1) -> Iterator[tuple[slice, Array]]:
        """One pass over the rows.

        Args:
            every: hand out only each ``every``-th row.

        Yields:
            ``(rows, block)``: the rows' slice and their values ``(features, rows)`` float32,
            standardised, valid until the next step.
        """


def block_rows(num_features: int) -> int:
    """Rows of a block."""
    return min(SPAN_ROWS, max(64, BLOCK_BYTES // (4 * max(1, num_features)) // 32 * 32))


@dataclass(frozen=True)
class _RawSpan:
    parts: list[tuple[slice, torch.Tensor]]
    shift: torch.Tensor
    factor: torch.Tensor
    bound: float | None

    @property
    def rows(self) -> slice:
        first, last = self.parts[0][0], self.parts[-1][0]
        return slice(first.start, last.stop, first.step)

    def blocks(self, scratch: Scratch) -> Iterator[tuple[slice, Array]]:
        for rows, raw in self.parts:
            block = scratch(raw.numel())[: raw.numel()].view(raw.shape)
            # Centred before it is scaled: exact however far from zero a feature lies.
            block.copy_(raw)
            block.sub_(self.shift).mul_(self.factor)
            if self.bound is not None:
                block.clamp_(-self.bound, self.bound)
            yield rows, block.numpy()


class _RawDesign:
    """A design over blocks ``(features, rows)`` of raw values."""

    device = CPU

    def __init__(self, num_features: int, num_rows: int, standardiser: Standardiser | None) -> None:
        self.num_features = num_features
        self.num_rows = num_rows
        self._bound = None if standardiser is None else standardiser.bound
        self.standardiser = self._fit() if standardiser is None else standardiser
        self._shift = torch.from_numpy(self.standardiser.mean)[:, None]
        self._factor = 1.0 / torch.from_numpy(self.standardiser.scale)[:, None]

    def _pieces(self) -> Iterator[list[tuple[int, torch.Tensor]]]:
        """Lists of ``(first row, raw block (features, rows))``, one after the other."""
        raise NotImplementedError

    def _parts(self, every: int) -> Iterator[list[tuple[slice, torch.Tensor]]]:
        """What one span each consists of."""
        count = max(1, SPAN_ROWS // block_rows(self.num_features))
        for piece in self._pieces():
            for begin in range(0, len(piece), count):
                parts = []
                for low, raw in piece[begin : begin + count]:
                    first = -low % every
                    part = raw[:, first::every]
                    if width := part.shape[1]:
                        low += first
                        parts.append((slice(low, low + (width - 1) * every + 1, every), part))
                if parts:
                    yield parts

    def _fit(self) -> Standardiser:
        empty = Moments(0, np.zeros(self.num_features), np.zeros(self.num_features))
        with BlockThreads() as threads:

            def moments(parts: list[tuple[slice, torch.Tensor]]) -> Moments:
                total = empty
                for _, raw in parts:
                    block = threads.scratch(raw.numel())[: raw.numel()].view(raw.shape).copy_(raw)
                    total = merge_moments(total, block_moments(block))
                return total

            total = empty
            for part in threads.ordered(moments, self._parts(1)):
                total = merge_moments(total, part)
        return Standardiser.from_moments(total.count, total.mean, total.m2)

    def spans(self, every: int = 1) -> Iterator[Span]:
        """See :meth:`Design.spans`."""
        for parts in self._parts(every):
            yield _RawSpan(parts, self._shift, self._factor, self._bound)

    def blocks(self, every: int = 1) -> Iterator[tuple[slice, Array]]:
        """See :meth:`Design.blocks`."""
        yield from _serial_blocks(self.spans(every))


def _blocks_of(first: int, raw: torch.Tensor) -> list[tuple[int, torch.Tensor]]:
    """``(first row, block)`` of raw values ``(features, rows)``: views."""
    size = block_rows(len(raw))
    return [(first + i, raw[:, i : i + size]) for i in range(0, raw.shape[1], size)]


def _serial_blocks(spans: Iterator[Span]) -> Iterator[tuple[slice, Array]]:
    buffer = torch.empty(0)

    def scratch(size: int) -> torch.Tensor:
        nonlocal buffer
        if len(buffer) < size:
            buffer = torch.empty(size)
        return buffer

    for span in spans:
        yield from span.blocks(scratch)


def block_moments(block: torch.Tensor) -> Moments:
    """Moments of each row of ``(features, rows)`` float32; the block is centred in place."""
    count = block.shape[1]
    centre = block.mean(dim=1)
    block.sub_(centre[:, None])
    # Deviations from a float32 estimate of the mean are small, so float32 sums of them are
    # accurate; the second term removes what the estimate missed.
    rest = block.sum(dim=1).double().numpy() / count
    squares = torch.linalg.vecdot(block, block).double().numpy()
    m2 = np.maximum(squares - count * rest * rest, 0.0)
    return Moments(count, centre.double().numpy() + rest, m2)


class MemoryDesign(_RawDesign):
    """A design over raw values in memory.

    Args:
        xt: ``(features, n)`` float16 or float32, raw; best C-contiguous.
        standardiser: of other rows (values are clipped to its bound); default: of these.
    """

    def __init__(self, xt: Array, standardiser: Standardiser | None = None) -> None:
        self._raw = torch.from_numpy(xt)
        super().__init__(xt.shape[0], xt.shape[1], standardiser)

    def _pieces(self) -> Iterator[list[tuple[int, torch.Tensor]]]:
        yield _blocks_of(0, self._raw)


class StoreDesign(_RawDesign):
    """A design over rows of a store.

    Row ``i`` is the sample at ``positions[order[i]]``: rows follow the store's order, so callers
    permute their targets by ``order`` once.

    Args:
        store: an opened store.
        source: a stored source.
        positions: ``(n,)`` int64, any order, repeats allowed.
        standardiser: of other rows; default: of these.
        memory_bytes: limit for raw values kept in memory; None keeps all.
        device: where Gram matrices are made.

    Attributes:
        order: ``(n,)`` int64.
    """

    def __init__(
        self,
        store: ActivationStore,
        source: Source,
        positions: Array,
        standardiser: Standardiser | None = None,
        memory_bytes: int | None = None,
        device: torch.device = CPU,
    ) -> None:
        self.device = device
        self._store = store
        layout = store.schema.array(source.site)
        self._source = source
        positions = np.asarray(positions, np.int64)
        self.order = np.argsort(positions, kind="stable")
        self._positions = positions[self.order]
        size = store.schema.samples_per_shard
        cuts = np.flatnonzero(np.diff(self._positions // size)) + 1
        self._bounds = [0, *cuts.tolist(), len(positions)] if len(positions) else [0]
        self._kept: dict[int, list[tuple[int, torch.Tensor]]] = {}
        self._room = np.inf if memory_bytes is None else float(memory_bytes)
        super().__init__(layout.rows, len(positions), standardiser)

    def _pieces(self) -> Iterator[list[tuple[int, torch.Tensor]]]:
        for start, stop in zip(self._bounds, self._bounds[1:], strict=False):
            blocks = self._kept.get(start)
            if blocks is None:
                raw = self._read(start, stop)
                blocks = _blocks_of(start, raw)
                size = raw.numel() * raw.element_size()
                if size <= self._room:
                    # Contiguous blocks are widened three times as fast.
                    blocks = [(low, block.contiguous()) for low, block in blocks]
                    self._kept[start] = blocks
                    self._room -= size
            yield blocks

    def _read(self, start: int, stop: int) -> torch.Tensor:
        wanted = self._positions[start:stop]
        samples: slice | Array = wanted
        if wanted[-1] - wanted[0] == stop - start - 1 and (np.diff(wanted) == 1).all():
            samples = slice(int(wanted[0]), int(wanted[-1]) + 1)
        matrix = self._store.read_matrix(
            self._source.site,
            layer=self._source.layer,
            samples=samples,
            dtype=self._store.schema.dtype,
        )
        return torch.from_numpy(matrix.T)
