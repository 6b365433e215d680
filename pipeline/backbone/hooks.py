"""Hooks on modules: capture what goes in, or replace it.

    with captured_inputs(modules, sink):
        model(...)                          # sink(0, input), sink(1, input), …

A sink that has seen enough raises ``Stop``, which the caller of the model catches. Hooks that
capture live only inside the context manager.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor, nn

TokenSink = Callable[[int, Tensor], None]
"""Takes a layer (or hidden-state index) and its activations, (token slots, feature)."""
InputSink = Callable[[int, Tensor], None]
"""Takes a layer and what went into its module, in the model's own shape."""


class Stop(Exception):
    """Raised by a sink to end the forward pass once it has all it wants."""


def input_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor | None:
    """What a module is called with: the first tensor of real numbers, by position or keyword."""
    for value in (*args, kwargs.get("hidden_states"), *kwargs.values()):
        if isinstance(value, Tensor) and value.is_floating_point():
            return value
    return None


@contextmanager
def captured_inputs(
    modules: Mapping[int, nn.Module], sink: InputSink, layers: Collection[int] | None = None
) -> Iterator[None]:
    """Call ``sink(layer, input)`` with the input of every call of the modules of some layers.

    A module that serves several layers is called for them in turn; calls beyond these are taken as
    further ones for the last of them.

    Args:
        modules: layer -> its module, of all layers that a forward pass reaches: calls are counted.
        sink: gets the tensors as they are.
        layers: those to hand on; None for all.
    """

    def hook_for(turns: Iterator[int]) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if (found := input_of(args, kwargs)) is not None:
                layer = next(turns)
                if layer in wanted:
                    sink(layer, found)

        return hook

    wanted = set(modules if layers is None else layers)
    served: dict[nn.Module, list[int]] = {}
    for layer, module in sorted(modules.items(), key=lambda item: item[0]):
        served.setdefault(module, []).append(layer)
    handles = []
    try:
        for module, own in served.items():
            if wanted.intersection(own):
                hook = hook_for(chain(own, repeat(own[-1])))
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def replacement(mask: Tensor, fill: Tensor) -> Callable[..., Any]:
    """A forward pre-hook that keeps a module's inputs where a mask is set, and fills in elsewhere.

    It has no state, so that further twins may share it.
    """

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = input_of(args, kwargs)
        if found is None:
            return args, kwargs
        quiet = torch.where(mask, fill, found)
        return (
            tuple(quiet if value is found else value for value in args),
            {key: quiet if value is found else value for key, value in kwargs.items()},
        )

    return hook
