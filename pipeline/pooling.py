"""Pool token activations into one vector per text.

Tokens of a batch arrive as one matrix ``(tokens, neuron)``, whatever the batch looked like
(packed end to end, or padded on either side); ``Segments`` says which rows belong to which text.
Pads belong to none, so they cannot leak into a result.

    segments = Segments.of(starts=[0, 3], lengths=[3, 2])
    pool(tokens, segments, ("mean", "max"))     # (2 texts, 2 poolings, neuron), float32

Another pooling is another row of ``POOLINGS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pipeline.errors import ExtractError
from pipeline.segmentpool import fuses, mean_and_max

_PIECE_VALUES = 2**19
"""Float32 values pooled at a time on the CPU: few enough to stay in a core's cache between two
poolings, enough to be worth the calls (twice or half of it takes 1.1 times as long)."""


@dataclass(frozen=True, slots=True)
class Run:
    """Texts ``first .. first + count`` of equal length, whose first tokens lie ``stride`` apart."""

    first: int
    count: int
    start: int
    stride: int
    length: int


@dataclass(frozen=True)
class Segments:
    """Which rows of a token matrix belong to which text: contiguous, in any order, maybe none."""

    num_texts: int
    runs: tuple[Run, ...]
    starts: NDArray[np.int64]
    """(texts,) row of each text's first token."""
    lengths: NDArray[np.int64]
    """(texts,) number of its tokens."""

    @classmethod
    def of(cls, *, starts: ArrayLike, lengths: ArrayLike) -> Segments:
        """Group texts that can be reduced together.

        Args:
            starts: (texts,) row of each text's first token.
            lengths: (texts,) number of its tokens; 0 pools to zeros.
        """
        start, length = np.asarray(starts, np.int64), np.asarray(lengths, np.int64)
        runs: list[Run] = []
        for i in range(len(start)):
            if runs and runs[-1].length == length[i]:
                last = runs[-1]
                stride = int(start[i]) - (last.start + (last.count - 1) * last.stride)
                if stride == last.stride or (last.count == 1 and stride > 0):
                    runs[-1] = replace(last, count=last.count + 1, stride=stride)
                    continue
            runs.append(Run(i, 1, int(start[i]), int(length[i]), int(length[i])))
        return cls(len(start), tuple(runs), start, length)

    def views(self, tokens: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """The runs of a token matrix, cut into pieces that fit a cache; empty texts left out.

        Args:
            tokens: (tokens, feature).

        Yields:
            Which texts, and their tokens as a view (texts, length, feature).
        """
        tokens = tokens.contiguous()
        width = tokens.shape[1]
        piece = _PIECE_VALUES if tokens.device.type == "cpu" else tokens.numel()
        for run in self.runs:
            if not run.length:
                continue
            step = max(1, piece // (run.length * width))
            for first in range(0, run.count, step):
                count = min(step, run.count - first)
                view = tokens.as_strided(
                    (count, run.length, width),
                    (run.stride * width, width, 1),
                    tokens.storage_offset() + (run.start + first * run.stride) * width,
                )
                yield slice(run.first + first, run.first + first + count), view


Reduction = Callable[[Tensor, Tensor], object]

POOLINGS: dict[str, Reduction] = {
    "mean": lambda run, out: torch.mean(run, 1, out=out),
    "max": lambda run, out: torch.amax(run, 1, out=out),
    "first": lambda run, out: out.copy_(run[:, 0]),
    "last": lambda run, out: out.copy_(run[:, -1]),
}
"""Pooling name -> reduction of ``(texts, tokens, feature)``, float32, over the tokens, into
``(texts, feature)``."""
FUSED = ("mean", "max")
"""What a GPU pools in one kernel; others are pooled one after another."""


def check_poolings(poolings: Sequence[str]) -> tuple[str, ...]:
    """The poolings as a tuple, if all are known and none comes twice.

    Raises:
        ExtractError: naming the bad one and the valid ones.
    """
    for name in poolings:
        if name not in POOLINGS:
            raise ExtractError(f"unknown pooling {name!r}; valid: {', '.join(POOLINGS)}")
    if not poolings or len(set(poolings)) != len(poolings):
        raise ExtractError(f"poolings must be at least one, each once, not {list(poolings)}")
    return tuple(poolings)


def pool(tokens: Tensor, segments: Segments, poolings: Sequence[str]) -> Tensor:
    """Pool every text of a batch.

    Args:
        tokens: (tokens, feature), float of any width.
        segments: which rows are whose.
        poolings: names from ``POOLINGS``.

    Returns:
        (texts, poolings, feature) float32; zeros for texts without tokens.
    """
    if tuple(poolings) == FUSED and fuses(tokens.device, tokens.dtype):
        return mean_and_max(tokens.contiguous(), segments.starts, segments.lengths)
    shape = (segments.num_texts, len(poolings), tokens.shape[1])
    make = torch.zeros if any(not run.length for run in segments.runs) else torch.empty
    out = make(shape, dtype=torch.float32, device=tokens.device)
    scratch: Tensor | None = None
    # All poolings of a piece before the next piece: its tokens are still in the cache.
    for texts, view in segments.views(tokens):
        if view.dtype == torch.float32:
            values = view
        else:  # memory that pieces share stays in the cache, too
            if scratch is None or scratch.numel() < view.numel():
                scratch = torch.empty(view.numel(), dtype=torch.float32, device=view.device)
            values = scratch[: view.numel()].view(view.shape).copy_(view)
        for p, name in enumerate(poolings):
            POOLINGS[name](values, out[texts, p])
    return out


def argmax_tokens(tokens: Tensor, segments: Segments) -> Tensor:
    """Which token each neuron peaked on.

    Returns:
        (texts, feature) int32, position within the pooled part of the text; -1 without tokens.
    """
    out = torch.full(
        (segments.num_texts, tokens.shape[1]), -1, dtype=torch.int32, device=tokens.device
    )
    for texts, view in segments.views(tokens):
        out[texts] = view.argmax(1).to(torch.int32)
    return out
