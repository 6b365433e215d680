"""Hooks on modules: capture what goes in, or replace it.

    with captured_inputs(modules, sink):
        model(...)                          # sink(0, tokens), sink(1, tokens), …

A sink that has seen enough raises ``Stop``, which the caller of the model catches. Hooks that
capture live only inside the context manager.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

TokenSink = Callable[[int, Tensor], None]
"""Takes a layer (or hidden-state index) and its activations, (token slots, feature)."""


class Stop(Exception):
    """Raised by a sink to end the forward pass once it has all it wants."""


@contextmanager
def captured_inputs(
    modules: Sequence[nn.Module], sink: TokenSink, *, time_first: bool = False
) -> Iterator[None]:
    """Call ``sink(layer, tokens)`` with the input of every call of the modules.

    Args:
        modules: one for each layer, or a single one that serves all: its calls are counted.
        sink: gets the tokens in flat order, (slots, feature), row of the batch by row.
        time_first: inputs are (token, batch, feature) rather than (batch, token, feature).
    """

    def hook_for(numbers: Iterator[int]) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            tokens: Tensor = args[0] if args else kwargs["hidden_states"]
            if time_first:
                tokens = tokens.transpose(0, 1)
            sink(next(numbers), tokens.reshape(-1, tokens.shape[-1]))

        return hook

    handles = []
    try:
        for layer, module in enumerate(modules):
            # A layer's own module is called once a pass, so counting from its number serves both.
            hook = hook_for(count(layer))
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
        if args:
            return (torch.where(mask, fill, args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": torch.where(mask, fill, kwargs["hidden_states"])}

    return hook
