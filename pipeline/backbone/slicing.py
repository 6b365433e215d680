"""Cut a network down without touching the original: fewer blocks, fewer neurons in the last one.

Only the modules on the way to a change are copied, and only as shells; all weights that stay are
shared with the original, which may be used as before or dropped to free the rest.
``LastLayer`` says which neurons are left, and where they belong.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.backbone.engine import OneDnnLinear, linear_weight
from pipeline.backbone.sites import FfnSite
from pipeline.errors import BackboneError


@dataclass(frozen=True, eq=False)
class LastLayer:
    """The neurons that a backbone's last block is wanted for, in the order they come in.

    Attributes:
        neurons: ``(k,)`` int64, each in ``0..size - 1`` and there once.
        size: neurons of the whole block.
        late: the block computes all of them, for the architecture cannot be sliced.
    """

    neurons: NDArray[np.int64]
    size: int
    late: bool = False

    @classmethod
    def of(cls, neurons: Sequence[int], size: int) -> LastLayer:
        """Neurons that a caller names.

        Raises:
            BackboneError: none, twice the same, or no such neuron.
        """
        chosen = np.ascontiguousarray(neurons, np.int64)
        if (
            not len(chosen)
            or len(np.unique(chosen)) < len(chosen)
            or not 0 <= chosen.min() <= chosen.max() < size
        ):
            raise BackboneError(f"neurons must be different numbers in 0..{size - 1}, at least one")
        return cls(chosen, size)

    def take(self, tokens: Tensor) -> Tensor:
        """What the block hands out, as ``(slots, k)``."""
        return tokens[:, torch.from_numpy(self.neurons)] if self.late else tokens

    def column_of(self, neurons: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where among the ``k`` each neuron is; -1 for those that are not wanted."""
        columns = np.full(self.size, -1)
        columns[self.neurons] = np.arange(len(self.neurons))
        return columns[neurons]

    def widen(self, values: Tensor) -> Tensor:
        """``(…, k)`` to ``(…, size)``: each in its place, NaN (-1 in integers) in the others."""
        unknown = torch.nan if values.is_floating_point() else -1
        wide = values.new_full((*values.shape[:-1], self.size), unknown)
        wide[..., torch.from_numpy(self.neurons)] = values
        return wide


def cut_blocks(network: nn.Module, site: FfnSite, num_layers: int) -> nn.Module:
    """A network with the first blocks only (all of them, where blocks share one module)."""
    if site.shared:
        return network
    path, _, _ = site.inner(site.block, 0).rpartition(".")
    blocks = network.get_submodule(path)
    if not isinstance(blocks, nn.ModuleList):
        return network
    return _with_module(network, path, blocks[:num_layers])


def slice_neurons(
    network: nn.Module, site: FfnSite, layer: int, neurons: NDArray[np.int64]
) -> nn.Module | None:
    """A network whose block ``layer`` computes some neurons only, in the given order.

    Returns:
        None if the architecture's row does not say how the neurons are made.
    """
    if not site.up or site.shared:
        return None
    rows = torch.from_numpy(neurons)
    for path in site.up:
        name = site.inner(path, layer)
        up = network.get_submodule(name)
        weight = linear_weight(up)
        if weight is None:
            return None
        wanted = torch.cat([rows, rows + weight.shape[0] // 2]) if site.fused_gate else rows
        network = _with_module(network, name, _take_rows(up, weight, wanted))
    return network


def up_flops(network: nn.Module, site: FfnSite, layer: int) -> float:
    """Operations a token in the projections that make a block's neurons."""
    weights = (linear_weight(network.get_submodule(site.inner(path, layer))) for path in site.up)
    return sum(2.0 * weight.numel() for weight in weights if weight is not None)


def _take_rows(layer: nn.Module, weight: torch.Tensor, rows: torch.Tensor) -> nn.Module:
    rows = rows.to(weight.device)
    bias = None if layer.bias is None else layer.bias[rows].detach().clone()  # type: ignore[index]
    if isinstance(layer, OneDnnLinear):
        return OneDnnLinear(weight[rows], bias, activation=layer.activation)
    with torch.device("meta"):
        short = nn.Linear(weight.shape[1], len(rows), bias=bias is not None)
    short.weight = nn.Parameter(weight[rows].detach().clone(), requires_grad=False)
    if bias is not None:
        short.bias = nn.Parameter(bias, requires_grad=False)
    return short


def _with_module(root: nn.Module, path: str, module: nn.Module) -> nn.Module:
    """``root`` with one submodule exchanged; copies the shells on the way."""
    name, _, rest = path.partition(".")
    shell = copy.copy(root)
    children = dict(root._modules)
    child = children[name]
    assert child is not None, path
    children[name] = _with_module(child, rest, module) if rest else module
    shell.__dict__["_modules"] = children
    return shell
