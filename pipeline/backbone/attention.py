"""Attention over packed batches: texts end to end in one row, none seeing another.

Registered with transformers under the name ``PACKED``. What a text's own mask looks like (causal,
bidirectional, sliding window) is asked of transformers for one text of the longest length; every
shorter text uses its upper left corner. Runs of equally long texts share one attention call.

    model.set_attn_implementation(PACKED)
    with attending_within_segments(Segments.of(starts=..., lengths=...)):
        model(input_ids, attention_mask=ones, position_ids=...)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from pipeline.backbone.packing import Segments

PACKED = "salient_packed"
EXPLICIT_LENGTH = 128
"""Up to this length two products and a softmax beat torch's bfloat16 CPU kernel 1.5-3 times."""

_state = threading.local()


@contextmanager
def attending_within_segments(segments: Segments) -> Iterator[None]:
    """Declare which tokens of the row belong to which text, for the forward pass inside."""
    _state.segments = segments
    try:
        yield
    finally:
        _state.segments = None


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    position_bias: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within each text of a packed row.

    Args:
        module: the attention module.
        query: (1, heads, tokens, head_size).
        key: (1, key_heads, tokens, head_size); heads is a multiple of key_heads.
        value: (1, key_heads, tokens, value_size).
        attention_mask: (1, 1, longest, longest) boolean, or None.
        scaling: factor on the scores; default ``head_size ** -0.5``.
        is_causal: overrides the module's own flag, where there is no mask.
        softcap: cap on the scores, tanh-shaped (Gemma 2).
        position_bias: refused; added scores would need the texts' own positions.

    Returns:
        (1, tokens, heads, value_size) and None in place of the weights.
    """
    segments: Segments | None = getattr(_state, "segments", None)
    if segments is None or position_bias is not None:
        raise NotImplementedError(
            "packed attention without attending_within_segments(), or with a position bias"
        )
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    causal = bool(causal) and attention_mask is None
    if key.shape[1] != query.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    slow_kernel = query.dtype == torch.bfloat16 and query.device.type == "cpu"
    out = query.new_empty(query.shape[2], query.shape[1], value.shape[3])
    for run in segments.runs:
        at = slice(run.start, run.start + run.count * run.length)
        q, k, v = (
            part[0, :, at].view(part.shape[1], run.count, run.length, -1).transpose(0, 1)
            for part in (query, key, value)
        )
        mask = None
        if attention_mask is not None:
            mask = attention_mask[:, :, : run.length, : run.length]
        if softcap is None and not (slow_kernel and run.length <= EXPLICIT_LENGTH):
            result = scaled_dot_product_attention(
                q, k, v, attn_mask=mask, is_causal=causal and run.length > 1, scale=scaling
            )
        else:
            result = _explicit_attention(q, k, v, mask, causal, scaling, softcap)
        out[at].view(result.transpose(1, 2).shape).copy_(result.transpose(1, 2))
    return out[None], None


def _explicit_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    scaling: float | None,
    softcap: float | None,
) -> Tensor:
    """Attention written out, for (texts, heads, tokens, size); softmax in float32."""
    scores = (q * (q.shape[3] ** -0.5 if scaling is None else scaling)) @ k.transpose(2, 3)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if causal:
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return torch.softmax(scores, -1, dtype=torch.float32).to(v.dtype) @ v


def packed_mask(**arguments: Any) -> Tensor | None:
    """The mask of one text of the longest length, as transformers would build it for SDPA."""
    segments: Segments = _state.segments
    longest = max(run.length for run in segments.runs)
    arguments |= {
        "batch_size": 1,
        "q_length": longest,
        "kv_length": longest,
        "attention_mask": None,
    }
    mask: Tensor | None = sdpa_mask(**arguments)
    return mask


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, packed_mask)
