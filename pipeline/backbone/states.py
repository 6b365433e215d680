"""Models that change themselves in a forward pass, and copies of them that did not run yet.

Rotary embeddings may keep the longest text seen, BigBird exchanges its attention for good. Such a
model is found by comparison, and each of its batches runs on a copy, so that every run is as the
first one. Weights that a first pass rescales (RWKV's) are found by ``weight_versions``.

    copy = fresh(network)                   # the same weights, buffers of its own
    copy(...)
    changed(network, copy)                  # the name of what differs now, or None
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def twin(network: nn.Module) -> nn.Module:
    """A copy on the same tensors, all of them."""
    return copy.deepcopy(network, {id(tensor): tensor for tensor in _tensors(network)})


def fresh(network: nn.Module) -> nn.Module:
    """A copy on the same weights, with buffers of its own."""
    shared = {
        id(tensor): tensor
        for tensor in _tensors(network)
        if isinstance(tensor, nn.Parameter) or not _is_plain(tensor)
    }
    return copy.deepcopy(network, shared)


def changed(before: nn.Module, after: nn.Module) -> str | None:
    """What differs between a network and a ``fresh`` copy of it that ran; None if nothing does.

    Compared are the modules' classes, their buffers and all plain attributes.
    """
    seen: set[int] = set()
    modules, others = dict(before.named_modules()), dict(after.named_modules())
    for name in modules.keys() | others.keys():
        module, other = modules.get(name), others.get(name)
        if module is None or other is None or type(module) is not type(other):
            return str(name)
        then, now = _attributes(module), _attributes(other)
        for key in then.keys() | now.keys():
            if key not in then or key not in now or not _same(then[key], now[key], seen):
                return f"{name}.{key}".lstrip(".")
    return None


def weight_versions(network: nn.Module) -> list[int]:
    """How often each weight was written to in place; unlike buffers, copies share the weights."""
    return [0 if weight.is_inference() else weight._version for weight in network.parameters()]


def say_once(network: nn.Module) -> None:
    """Have the module that a network comes from log each of its messages once for it, not each run.

    Another network that comes to it is told of again.
    """
    name = type(network).__module__
    _ONCE.said[name] = set()
    logging.getLogger(name).addFilter(_ONCE)


def num_values(network: nn.Module) -> int:
    """Values in a network's weights and buffers."""
    found = {id(tensor): tensor for tensor in _tensors(network)}
    return sum(tensor.numel() for tensor in found.values() if not tensor.is_meta)


class _Once(logging.Filter):
    def __init__(self) -> None:
        super().__init__()
        self.said: dict[str, set[int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        said = self.said[record.name]
        first = record.lineno not in said
        said.add(record.lineno)
        return first


_ONCE = _Once()
_OWN = frozenset(nn.Module().__dict__)
"""What every module has of torch: hooks and tables of contents."""


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    """All that a network holds, wherever its modules keep it."""
    for module in network.modules():
        for values in (module._parameters, module._buffers, module.__dict__):
            yield from (value for value in values.values() if isinstance(value, Tensor))


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor's values can be read and copied; packed weights' cannot."""
    return tensor.layout is torch.strided and not tensor.is_meta


def _attributes(module: nn.Module) -> dict[str, Any]:
    own = {key: value for key, value in module.__dict__.items() if key not in _OWN}
    return {**own, **module._buffers}


def _same(one: Any, other: Any, seen: set[int]) -> bool:
    if one is other or id(one) in seen:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return not _is_plain(one) or (one.dtype == other.dtype and torch.equal(one, other))
    if isinstance(one, int | float | complex | str | bytes | set | frozenset):
        return bool(one == other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    seen.add(id(one))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(one[k], other[k], seen) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(lambda a, b: _same(a, b, seen), one, other))
    if isinstance(one, nn.Module) or not hasattr(one, "__dict__"):
        return True
    return _same(vars(one), vars(other), seen)
