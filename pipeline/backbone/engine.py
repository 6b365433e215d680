"""Faster linear layers on the CPU: oneDNN kernels with weights laid out once, at load time.

torch multiplies float32 matrices with MKL, which reaches only a fraction of what oneDNN does on
many processors. ``speed_up`` swaps a model's linear layers (and, where the architecture's row
names it, the activation that follows the FFN's first) for oneDNN ones. ``choose`` says by rule
where that pays off, so that one machine always computes one model alike. The operators are private
to torch, so nothing is taken on trust: every layer is compared with the one it replaces, and what
fails stays as it is.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pipeline import onednn
from pipeline.backbone.sites import FfnSite
from pipeline.errors import BackboneError

Engine = Literal["auto", "torch", "onednn"]

MIN_WEIGHTS = 256 * 256
"""Smallest largest layer, in weights, from which on oneDNN is the faster in float32."""
CHECK_TOKENS = 5
CHECK_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
FUSED_ACTIVATIONS: dict[str, tuple[str, str]] = {
    "GELUActivation": ("gelu", "none"),
    "GELUTanh": ("gelu", "tanh"),
    "NewGELUActivation": ("gelu", "tanh"),
    "FastGELUActivation": ("gelu", "tanh"),
    "BloomGelu": ("gelu", "tanh"),
    "GELU": ("gelu", "none"),
    "ReLU": ("relu", ""),
    "SiLU": ("swish", ""),
    "SiLUActivation": ("swish", ""),
}
"""Class of an activation module -> oneDNN's name for it and its variant."""
NO_ACTIVATION = ("none", "")
FUSED_ON_AVX2 = {("gelu", "tanh"), ("relu", "")}
"""Those that oneDNN computes faster than torch even without AVX-512 (GELU takes twice as long)."""


class KernelError(BackboneError):
    """The fast kernels change what a model computes."""


class OneDnnLinear(nn.Module):
    """A linear layer on pre-packed weights, with an activation if wanted.

    Args:
        weight: (out, in).
        bias: (out,) or None.
        activation: oneDNN's name and variant, as in ``FUSED_ACTIVATIONS``.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, *, activation: tuple[str, str] = NO_ACTIVATION
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.activation = activation
        self.bias = bias
        # Some models ask for the weight's type; its values live in ``packed`` only.
        self.weight = torch.empty_like(weight, device="meta")
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())

    def forward(self, tokens: Tensor) -> Tensor:
        """(…, in) -> (…, out)."""
        name, variant = self.activation
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            tokens, self.packed, self.bias, name, [], variant
        )
        return result


def linear_weight(layer: nn.Module) -> Tensor | None:
    """The weights (out, in) of a linear layer of any kind; None for any other module."""
    if isinstance(layer, OneDnnLinear):
        dense: Tensor = layer.packed.to_dense()
        return dense
    if isinstance(layer, nn.Linear):
        return layer.weight
    if isinstance(layer, Conv1D):
        transposed: Tensor = layer.weight.t()
        return transposed
    return None


def choose(
    largest: int,
    *,
    dtype: torch.dtype,
    capability: str | None = None,
    onednn_works: bool | None = None,
) -> Literal["torch", "onednn"]:
    """The engine that ``"auto"`` stands for: a rule, which the load of the machine cannot turn.

    ======================  =============================  ==========================
    processor               float32                        bfloat16
    ======================  =============================  ==========================
    x86 with AVX-512        onednn from 256 x 256 weights  onednn where torch has it
    x86 with AVX2           onednn from 256 x 256 weights  onednn where torch has it
    others (ARM, …)         torch                          torch
    ======================  =============================  ==========================

    Measured with one thread, time of torch over time of oneDNN for layers of 256 x 1024 to 1024 x
    4096 weights and 64 to 2,048 tokens: 1.04 to 1.34 on an AMD Zen 4 with AVX-512 (there MKL keeps
    to AVX2: 100 GFLOP/s, oneDNN 113), 1.00 to 1.47 on the same with both held to AVX2, 1.03 to
    1.17 in bfloat16, at all sizes. Below 256 x 256 a call of oneDNN costs more than it saves: .74
    to .98 at 64 tokens. On ARM torch's own linear layers call oneDNN where that is faster, and the
    operators used here were made for x86.

    Args:
        largest: weights of the model's largest linear layer.
        dtype: float32 or bfloat16.
        capability: as ``torch.backends.cpu.get_cpu_capability()`` names it; default: this one's.
        onednn_works: whether oneDNN is there for this type; default: asked of torch.
    """
    if capability is None:
        capability = torch.backends.cpu.get_cpu_capability()
    if not (onednn.available(dtype) if onednn_works is None else onednn_works):
        return "torch"
    if not capability.startswith("AVX"):  # AVX2, AVX512; else SVE256, VSX, DEFAULT …
        return "torch"
    return "torch" if dtype == torch.float32 and largest < MIN_WEIGHTS else "onednn"


def speed_up(
    network: nn.Module, site: FfnSite, *, num_layers: int, engine: Engine, dtype: torch.dtype
) -> str:
    """Swap linear layers for oneDNN ones, in place.

    Args:
        network: the part of the model that is run, on the CPU.
        site: its row of ``FFN_SITES``; names the activation that may be fused.
        num_layers: blocks of the model.
        engine: "torch" leaves everything as it is; "onednn" does not ask ``choose``.
        dtype: float32 or bfloat16.

    Returns:
        The engine in use: "torch" or "onednn".
    """
    sizes = {
        name: layer.weight.numel()
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear | Conv1D)
    }
    if engine == "torch" or not sizes or not onednn.available(dtype):
        return "torch"
    if engine == "auto" and choose(max(sizes.values()), dtype=dtype) == "torch":
        return "torch"
    followers = _followers(network, site, num_layers)
    swapped = False
    for name in sizes:  # by name, so that each layer's old weights are freed at once
        follower = network.get_submodule(followers[name]) if name in followers else None
        fast = _pack(network.get_submodule(name), follower)
        if fast is None:
            continue
        network.set_submodule(name, fast)
        if fast.activation != NO_ACTIVATION:
            network.set_submodule(followers[name], nn.Identity())
        swapped = True
    return "onednn" if swapped else "torch"


def _followers(network: nn.Module, site: FfnSite, num_layers: int) -> dict[str, str]:
    """First FFN layer -> the activation module that may be fused into it, by name."""
    if site.activation is None:
        return {}
    pairs = {}
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    for layer in range(num_layers):
        up, activation = (site.inner(path, layer) for path in (site.up[0], site.activation))
        try:
            name = type(network.get_submodule(activation)).__name__
        except AttributeError:
            continue
        fused = FUSED_ACTIVATIONS.get(name)
        if fused in FUSED_ON_AVX2 or (fused and wide):
            pairs[up] = activation
    return pairs


@torch.inference_mode()
def _pack(layer: nn.Module, follower: nn.Module | None) -> OneDnnLinear | None:
    """A faster layer that does the same (with its activation, if that can be had), or None."""
    weight = linear_weight(layer)
    assert weight is not None
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(CHECK_TOKENS, weight.shape[1], generator=generator).to(weight.dtype)
    plain = layer(tokens)
    if not isinstance(plain, Tensor):  # a router that is a linear layer does more
        return None
    attempts = [(NO_ACTIVATION, plain)]
    if follower is not None:
        fused = FUSED_ACTIVATIONS[type(follower).__name__]
        attempts.insert(0, (fused, follower(plain)))
    for activation, expected in attempts:
        try:
            fast = OneDnnLinear(weight, layer.bias, activation=activation)  # type: ignore[arg-type]
            error = (fast(tokens) - expected).abs().max()
        except RuntimeError:  # an operator that this build of torch lacks
            continue
        if error <= CHECK_TOLERANCE[weight.dtype] * plain.abs().max():
            return fast
    return None
