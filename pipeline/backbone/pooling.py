"""Pool token activations into one vector per text.

Tokens of a batch arrive as one matrix ``(tokens, neuron)``, whatever the batch looked like
(packed end to end, or padded on either side); ``Segments`` says which rows belong to which text.
Pads belong to none, so they cannot leak into a result.

    segments = Segments.of(starts=[0, 3], lengths=[3, 2])
    pool(tokens, segments, ("mean", "max"))     # (2 texts, 2 poolings, neuron), float32

Another pooling is another row of ``POOLINGS``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipeline.backbone.fused import fuses, mean_and_max
from pipeline.backbone.packing import Segments
from pipeline.errors import ExtractError

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
