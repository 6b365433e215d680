"""Plan batches and build them: which texts run together, and how their tokens are laid out.

Planning is pure arithmetic on lengths; ``Limits`` says which may not go together. A batch is either
*packed* (all texts end to end in one row, no pads) or *padded* (one row per text, texts of similar
length together); ``Batch`` hides the difference from what comes after by saying where each text's
tokens lie in the flat order. ``Segments`` says the same of a matrix of tokens, for attention and
pooling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pipeline.backbone.limits import ANY, Limits

PositionRule = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""Token ids of one text -> its position ids."""
SMALL_BATCH = 512
"""Tokens below which a batch is too small to run well."""
_PIECE_VALUES = 2**19
"""Float32 values pooled at a time on the CPU: few enough to stay in a core's cache between two
poolings, enough to be worth the calls (twice or half of it takes 1.1 times as long)."""


@dataclass(frozen=True)
class Batch:
    """Some texts, ready to run. ``n`` texts, ``rows x width`` token slots, row by row."""

    indices: NDArray[np.int64]
    """(n,) number of each text in the caller's list."""
    starts: NDArray[np.int64]
    """(n,) slot of each text's first token."""
    lengths: NDArray[np.int64]
    """(n,) number of its tokens."""
    input_ids: Tensor
    """(rows, width) int64."""
    attention_mask: Tensor
    """(rows, width) int64, 1 for tokens and 0 for pads."""
    position_ids: Tensor | None
    """(rows, width) int64, or None if the model counts by itself."""
    packed: bool

    @property
    def num_tokens(self) -> int:
        """Real tokens."""
        return int(self.lengths.sum())

    @property
    def num_slots(self) -> int:
        """Tokens and pads."""
        return self.input_ids.numel()


def plan_batches(
    lengths: ArrayLike,
    *,
    max_tokens: int,
    packed: bool,
    lanes: int = 1,
    limits: Limits = ANY,
) -> Iterator[NDArray[np.int64]]:
    """Group texts by length under a budget of token slots.

    Longest first: if memory runs out, it does so at once. A text longer than the budget is a
    batch of its own; texts without tokens are in no batch. With several lanes, batches shrink
    towards the end, so that all lanes end together (guided self-scheduling, Polychronopoulos &
    Kuck 1987).

    Args:
        lengths: (texts,) number of tokens.
        max_tokens: slots per batch; padded batches count their pads.
        packed: whether the batches will be packed.
        lanes: how many batches run at a time.
        limits: which texts may not share a batch.

    Yields:
        (n,) numbers of the batch's texts, in descending order of length.
    """
    length = np.asarray(lengths, np.int64)
    order = np.argsort(-length, kind="stable")
    order = order[: int(np.count_nonzero(length))]
    descending = length[order]
    before = np.concatenate([[0], np.cumsum(descending)])
    ends = np.append(limits.breaks(descending), len(order))
    first = 0
    while first < len(order):
        budget = max_tokens
        if lanes > 1:
            share = int(before[-1] - before[first]) // lanes
            budget = min(budget, max(share, SMALL_BATCH))
        if packed:
            count = int(np.searchsorted(before, before[first] + budget, "right")) - 1 - first
        else:
            count = budget // int(descending[first])
        end = int(ends[np.searchsorted(ends, first, "right")])
        count = min(max(count, 1), end - first)
        yield order[first : first + count]
        first += count


def pack(
    ids: Sequence[NDArray[np.int64]],
    indices: NDArray[np.int64],
    *,
    positions: PositionRule | None,
    device: torch.device | str = "cpu",
) -> Batch:
    """Lay texts end to end in one row.

    Args:
        ids: token ids of each text of the batch, none empty.
        indices: (n,) number of each text in the caller's list.
        positions: the model's position ids, from a text's token ids.
        device: where the tensors go.
    """
    lengths = np.array([len(text) for text in ids], np.int64)
    flat = np.concatenate(ids)[None]
    places = None if positions is None else np.concatenate([positions(text) for text in ids])[None]
    return Batch(
        indices=indices,
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        input_ids=_tensor(flat, device),
        attention_mask=_tensor(np.ones_like(flat), device),
        position_ids=None if places is None else _tensor(places, device),
        packed=True,
    )


def pad(
    ids: Sequence[NDArray[np.int64]],
    indices: NDArray[np.int64],
    *,
    pad_id: int,
    positions: PositionRule | None,
    device: torch.device | str = "cpu",
) -> Batch:
    """Lay each text in a row of its own, padded to the longest; arguments as in ``pack``."""
    lengths = np.array([len(text) for text in ids], np.int64)
    width = int(lengths.max())
    shape = (len(ids), width)
    tokens, mask = np.full(shape, pad_id, np.int64), np.zeros(shape, np.int64)
    places = np.zeros(shape, np.int64)
    for row, text in enumerate(ids):
        tokens[row, : len(text)], mask[row, : len(text)] = text, 1
        if positions is not None:
            places[row, : len(text)] = positions(text)
    return Batch(
        indices=indices,
        starts=np.arange(len(ids)) * width,
        lengths=lengths,
        input_ids=_tensor(tokens, device),
        attention_mask=_tensor(mask, device),
        position_ids=None if positions is None else _tensor(places, device),
        packed=False,
    )


def _tensor(array: NDArray[np.int64], device: torch.device | str) -> Tensor:
    return torch.from_numpy(array).to(device)


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
