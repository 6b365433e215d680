"""Pool token activations into one vector per text.

Tokens of a batch arrive as one matrix ``(tokens, neuron)``, whatever the batch looked like
(packed end to end, or padded on either side); ``Segments`` says which rows belong to which text.
Pads belong to none, so they cannot leak into a result. Where words frame the texts, some poolings
are over the text's own tokens and others over the whole sequence: two ``Segments`` of one batch.

    segments = Segments.of(starts=[0, 3], lengths=[3, 2])
    pool(tokens, segments, ("mean", "max"))     # (2 texts, 2 poolings, neuron), float32

Of what experts made, a matrix (tokens, experts * neurons) is never laid out: ``pool_routed`` pools
expert by expert, so that memory grows with texts.

Another pooling is another row of ``POOLINGS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.backbone.experts import Routed
from pipeline.backbone.fused import fuses, mean_and_max
from pipeline.backbone.packing import Segments
from pipeline.errors import ExtractInputError

Reduction = Callable[[Tensor, Tensor], object]


class Pooling(NamedTuple):
    """How tokens become one vector, and which tokens."""

    reduce: Reduction
    """Of ``(texts, tokens, feature)``, float32, over the tokens, into ``(texts, feature)``."""
    over: Literal["text", "whole"]
    """Within a frame of words: the text's own tokens, or the whole sequence's."""


POOLINGS: dict[str, Pooling] = {
    "mean": Pooling(lambda run, out: torch.mean(run, 1, out=out), "text"),
    "max": Pooling(lambda run, out: torch.amax(run, 1, out=out), "text"),
    "first": Pooling(lambda run, out: out.copy_(run[:, 0]), "whole"),
    "last": Pooling(lambda run, out: out.copy_(run[:, -1]), "whole"),
}
"""Pooling name -> what it does."""
FUSED = ("mean", "max")
"""What a GPU pools in one kernel; others are pooled one after another."""


def check_poolings(poolings: Sequence[str]) -> tuple[str, ...]:
    """The poolings as a tuple, if all are known and none comes twice.

    Raises:
        ExtractError: naming the bad one and the valid ones.
    """
    for name in poolings:
        if name not in POOLINGS:
            raise ExtractInputError(f"unknown pooling {name!r}; valid: {', '.join(POOLINGS)}")
    if not poolings or len(set(poolings)) != len(poolings):
        raise ExtractInputError(f"poolings must be at least one, each once, not {list(poolings)}")
    return tuple(poolings)


def pool(
    tokens: Tensor,
    segments: Segments,
    poolings: Sequence[str],
    *,
    whole: Segments | None = None,
) -> Tensor:
    """Pool every text of a batch.

    Args:
        tokens: (tokens, feature), float of any width.
        segments: which rows are whose.
        poolings: names from ``POOLINGS``.
        whole: which rows are those of the whole sequences, where words frame the texts.

    Returns:
        (texts, poolings, feature) float32; zeros for texts without tokens.
    """
    if whole is not None:
        return _pool_parts(tokens, {"text": segments, "whole": whole}, poolings)
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
            POOLINGS[name].reduce(values, out[texts, p])
    return out


def _pool_parts(tokens: Tensor, parts: Mapping[str, Segments], poolings: Sequence[str]) -> Tensor:
    """Each pooling over the tokens that its row names."""
    found: dict[str, Tensor] = {}
    for part, segments in parts.items():
        if names := [name for name in poolings if POOLINGS[name].over == part]:
            found.update(zip(names, pool(tokens, segments, names).unbind(1), strict=True))
    return torch.stack([found[name] for name in poolings], 1)


def pool_routed(
    routed: Routed,
    segments: Segments,
    poolings: Sequence[str],
    *,
    experts: Sequence[int],
    whole: Segments | None = None,
) -> Tensor:
    """Pool every text of a batch, expert by expert; tokens that passed one by count as zeros.

    Args:
        routed: what the experts made.
        segments: which slots are whose.
        poolings: names from ``POOLINGS``.
        experts: those to keep, ascending.
        whole: which slots are those of the whole sequences, where words frame the texts.

    Returns:
        (texts, poolings, len(experts) * neuron) float32; zeros for texts without tokens.
    """
    device, width = routed.values.device, routed.values.shape[1]
    text_of = np.full(routed.num_slots, -1)
    for row, (start, length) in enumerate(zip(segments.starts, segments.lengths, strict=True)):
        text_of[start : start + length] = row
    column_of = torch.full((int(routed.experts.max()) + 1 if len(routed.experts) else 1,), -1)
    kept = [expert for expert in experts if expert < len(column_of)]
    column_of[kept] = torch.arange(len(kept))
    text = torch.from_numpy(text_of).to(device)[routed.tokens]
    column = column_of.to(device)[routed.experts]
    inside = (text >= 0) & (column >= 0)
    place = (text * len(experts) + column)[inside]
    values = routed.values[inside].float()
    shape = (segments.num_texts * len(experts), width)
    lengths = torch.from_numpy(segments.lengths).to(device).repeat_interleave(len(experts))
    out = torch.zeros((segments.num_texts, len(poolings), len(experts), width), device=device)
    for number, name in enumerate(poolings):
        if name == "mean":
            pooled = torch.zeros(shape, device=device).index_add_(0, place, values)
            pooled /= lengths.clamp(min=1)[:, None]
        elif name == "max":
            everywhere = torch.bincount(place, minlength=shape[0]) >= lengths.clamp(min=1)
            pooled = torch.zeros(shape, device=device).masked_fill_(everywhere[:, None], -torch.inf)
            pooled.scatter_reduce_(0, place[:, None].expand_as(values), values, "amax")
        else:
            pooled = _pool_dense(routed, segments, name, experts, whole)
        out[:, number] = pooled.view(segments.num_texts, len(experts), width)
    return out.flatten(2)


def _pool_dense(
    routed: Routed,
    segments: Segments,
    name: str,
    experts: Sequence[int],
    whole: Segments | None,
) -> Tensor:
    """Any pooling, an expert's tokens at a time: (texts * len(experts), neuron)."""
    pooled = []
    for expert in experts:
        own = routed.experts == expert
        tokens = routed.values.new_zeros(routed.num_slots, routed.values.shape[1])
        tokens[routed.tokens[own]] = routed.values[own]
        pooled.append(pool(tokens, segments, (name,), whole=whole)[:, 0])
    return torch.stack(pooled, 1).flatten(0, 1)


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
