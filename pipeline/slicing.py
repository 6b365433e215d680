"""Cut a network down without touching the original: fewer blocks, fewer neurons in the last one.

Only the modules on the way to a change are copied, and only as shells; all weights that stay are
shared with the original, which may be used as before or dropped to free the rest.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.engine import OneDnnLinear, linear_weight
from pipeline.sites import FfnSite


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
