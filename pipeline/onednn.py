"""oneDNN's kernels for linear layers, which torch has but keeps private."""

from __future__ import annotations

import torch


def available(dtype: torch.dtype = torch.float32) -> bool:
    """Whether this build of torch has them, and the processor can run them in float32 or bfloat16.

    Versions of torch may lack an operator all the same, or refuse a shape: callers must be able to
    do without.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
