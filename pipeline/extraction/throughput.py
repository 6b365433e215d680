"""How fast an extraction ran, and how near that is to what the machine can do."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline.backbone import OneDnnLinear
from pipeline.extraction.footprint import Footprint

PEAK_SECONDS = 0.5
PEAK_SHAPE = (2048, 1024, 4096)


@dataclass
class Meter:
    """Counts kept while extracting."""

    num_texts: int = 0
    num_tokens: int = 0
    num_slots: int = 0
    num_truncated: int = 0
    flops: float = 0.0
    stage_s: dict[str, float] = field(
        default_factory=lambda: {"tokenise": 0.0, "compute": 0.0, "write": 0.0}
    )
    memory: Footprint = field(default_factory=Footprint)
    """The most of all blocks."""


@dataclass(frozen=True, kw_only=True)
class ExtractReport:
    """What an extraction did; stages overlap, so their times may add up to more than elapsed."""

    num_new: int
    """Texts computed and stored."""
    num_known: int
    """Texts that the store had already, or that occur twice."""
    num_truncated: int
    num_tokens: int
    num_slots: int
    """Token slots run, pads included."""
    elapsed_s: float
    stage_s: dict[str, float]
    """Seconds spent to tokenise, compute and write."""
    flops: float
    """Floating point operations of the linear layers and attention products, pads included."""
    peak_flops_per_s: float | None = None
    """Rate of a plain matrix product, measured at the end of runs that are long enough."""
    snapshot_id: str = ""
    whole: bool = False
    """Whether heads must load the whole model, whatever blocks they run."""
    engine: str = ""
    """Kernels that ran: "torch", "onednn", or both where workers differ."""
    estimated_bytes: int = 0
    """Most memory that a process was expected to take for a block; 0 if there was none to do."""
    peak_bytes: int = 0
    """Most memory that a process had in its life, at the end of a block."""

    @property
    def texts_per_s(self) -> float:
        """New texts over the whole time, writing included."""
        return self.num_new / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Tokens over the whole time, writing included."""
        return self.num_tokens / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def padding_share(self) -> float:
        """Share of the slots that held no token."""
        return 1 - self.num_tokens / self.num_slots if self.num_slots else 0.0

    @property
    def flops_per_s(self) -> float:
        """Rate while computing."""
        return self.flops / self.stage_s["compute"] if self.stage_s["compute"] else 0.0

    @property
    def peak_share(self) -> float | None:
        """Achieved rate over the matrix product's."""
        return self.flops_per_s / self.peak_flops_per_s if self.peak_flops_per_s else None

    def to_dict(self) -> dict[str, Any]:
        """All figures, JSON-ready."""
        return {
            **{name: getattr(self, name) for name in self.__dataclass_fields__},
            "texts_per_s": self.texts_per_s,
            "tokens_per_s": self.tokens_per_s,
            "padding_share": self.padding_share,
            "flops_per_s": self.flops_per_s,
            "peak_share": self.peak_share,
        }

    def __str__(self) -> str:
        stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.stage_s.items())
        share = "" if self.peak_share is None else f" ({self.peak_share:.0%} of the GEMM peak)"
        return (
            f"{self.num_new:,} texts extracted, {self.num_known:,} known already, "
            f"{self.num_truncated:,} cut to the context; {self.elapsed_s:.1f} s: "
            f"{self.texts_per_s:,.0f} texts/s, {self.tokens_per_s:,.0f} tokens/s, "
            f"{self.padding_share:.1%} padding, {self.flops_per_s / 1e9:,.0f} GFLOP/s{share}; "
            f"{stages}"
        )


@torch.inference_mode()
def gemm_peak(*, dtype: torch.dtype, device: torch.device, engine: str) -> float:
    """FLOP/s of one large matrix product with the kernels in use, measured for half a second."""
    rows, inner, columns = PEAK_SHAPE
    tokens = torch.randn(rows, inner, device=device).to(dtype)
    weight = torch.randn(columns, inner, device=device).to(dtype)
    layer: Any = OneDnnLinear(weight, None) if engine == "onednn" else None
    best = float("inf")
    end = time.perf_counter() + PEAK_SECONDS
    while (start := time.perf_counter()) < end:
        if layer is None:
            torch.nn.functional.linear(tokens, weight)
        else:
            layer(tokens)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * rows * inner * columns / best
