"""Faster linear layers on the CPU: oneDNN kernels with weights laid out once, at load time.

torch multiplies float32 matrices with MKL, which reaches only a fraction of what oneDNN does on
many processors. ``speed_up`` swaps a model's linear layers (and, where the architecture's row
names it, the activation that follows the FFN's first) for oneDNN ones. The operators are private
to torch, so nothing is taken on trust: a short race decides whether they pay off, every layer is
compared with the one it replaces, and what fails stays as it is.
"""

from __future__ import annotations

import time
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from pipeline import onednn
from pipeline.backbone.sites import FfnSite

Engine = Literal["auto", "torch", "onednn"]

RACE_TOKENS = 256
RACE_ROUNDS = 5
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


def speed_up(
    network: nn.Module, site: FfnSite, *, num_layers: int, engine: Engine, dtype: torch.dtype
) -> str:
    """Swap linear layers for oneDNN ones, in place.

    Args:
        network: the part of the model that is run, on the CPU.
        site: its row of ``FFN_SITES``; names the activation that may be fused.
        num_layers: blocks of the model.
        engine: "torch" leaves everything as it is; "onednn" skips the race.
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
    if engine == "auto" and not _wins_race(
        network.get_submodule(max(sizes, key=lambda name: sizes[name]))
    ):
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
    for layer in range(num_layers):
        up, activation = (site.inner(path, layer) for path in (site.up[0], site.activation))
        try:
            name = type(network.get_submodule(activation)).__name__
        except AttributeError:
            continue
        if name in FUSED_ACTIVATIONS:
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


@torch.inference_mode()
def _wins_race(layer: nn.Module) -> bool:
    """Whether oneDNN beats torch on this layer, best of a few rounds each."""
    fast = _pack(layer, None)
    if fast is None:
        return False
    tokens = torch.randn(RACE_TOKENS, fast.in_features).to(fast.packed.dtype)
    best = {}
    for runner in (layer, fast):
        rounds = []
        for _ in range(RACE_ROUNDS):
            start = time.perf_counter()
            runner(tokens)
            rounds.append(time.perf_counter() - start)
        best[runner] = min(rounds)
    return best[fast] < best[layer]
