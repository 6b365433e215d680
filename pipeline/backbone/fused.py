"""Mean and max of every text in one read of its tokens: a Triton kernel for CUDA devices.

    if fuses(tokens.device, tokens.dtype):
        out = mean_and_max(tokens, starts, lengths)     # (texts, 2, feature) float32

Triton comes with torch's CUDA builds. Nothing is taken on trust: before its first use on a device
the kernel is compared with plain torch there, and where it fails or differs it is not used.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

FEATURES = 256
"""Features of one program: a row of them is one coalesced read."""
CHECK_LENGTHS = (5, 0, 1, 40)
CHECK_TOLERANCE = 1e-5

logger = logging.getLogger(__name__)

if triton is not None:

    @triton.jit  # type: ignore[untyped-decorator]
    def _mean_and_max(  # type: ignore[no-untyped-def]
        tokens, starts, lengths, out, width, FEATURES: tl.constexpr
    ) -> None:
        text = tl.program_id(0)
        feature = tl.program_id(1) * FEATURES + tl.arange(0, FEATURES)
        inside = feature < width
        length = tl.load(lengths + text)
        row = tokens + tl.load(starts + text) * width + feature
        total = tl.zeros([FEATURES], tl.float32)
        largest = tl.full([FEATURES], float("-inf"), tl.float32)
        for _ in range(length):
            values = tl.load(row, mask=inside, other=0.0).to(tl.float32)
            total += values
            largest = tl.maximum(largest, values, propagate_nan=tl.PropagateNan.ALL)
            row += width
        mean = total / tl.maximum(length, 1).to(tl.float32)
        place = out + text.to(tl.int64) * 2 * width + feature
        tl.store(place, mean, mask=inside)
        tl.store(place + width, tl.where(length > 0, largest, 0.0), mask=inside)


def mean_and_max(tokens: Tensor, starts: Any, lengths: Any) -> Tensor:
    """Pool every text of a batch.

    Args:
        tokens: (tokens, feature), contiguous, on a device that Triton compiles for.
        starts: (texts,) row of each text's first token.
        lengths: (texts,) number of its tokens.

    Returns:
        (texts, 2, feature) float32, mean then max; zeros for texts without tokens.
    """
    count, width = len(lengths), tokens.shape[1]
    out = torch.empty((count, 2, width), dtype=torch.float32, device=tokens.device)
    if count:
        first, number = (
            torch.as_tensor(np.asarray(values, np.int64), device=tokens.device)
            for values in (starts, lengths)
        )
        grid = (count, triton.cdiv(width, FEATURES))
        _mean_and_max[grid](tokens, first, number, out, width, FEATURES=FEATURES)
    return out


@lru_cache
def fuses(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel is there and right on a device, for tokens of a type."""
    if triton is None or device.type != "cuda":
        return False
    try:
        error = largest_error(device, dtype)
    except Exception as problem:  # whatever a compiler or driver may raise
        logger.warning("pooling on %s by plain torch: the fused kernel failed: %s", device, problem)
        return False
    if error > CHECK_TOLERANCE:
        logger.warning("pooling on %s by plain torch: the fused kernel is off by %g", device, error)
    return error <= CHECK_TOLERANCE


def largest_error(device: torch.device, dtype: torch.dtype) -> float:
    """The kernel's largest difference from plain torch, on random tokens of some texts."""
    lengths = np.array(CHECK_LENGTHS)
    starts = np.cumsum(lengths) - lengths
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(int(lengths.sum()), FEATURES + 3, generator=generator).to(device, dtype)
    found = mean_and_max(tokens, starts, lengths)
    expected = torch.zeros_like(found)
    for text, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        if length:
            own = tokens[start : start + length].float()
            expected[text] = torch.stack([own.mean(0), own.amax(0)])
    return float((found - expected).abs().max())
