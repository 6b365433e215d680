"""The slow, plain way to compute pooled activations, to compare the engine with.

One text at a time, no padding, Hugging Face's own forward pass and its default attention, a hook
that keeps the input of the down projection, and numpy for the pooling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer
from transformers import logging as transformers_logging

from pipeline.backbone.sites import FFN_SITES

POOL = {
    "mean": lambda tokens: tokens.mean(0, dtype=np.float64),
    "max": lambda tokens: tokens.max(0),
    "first": lambda tokens: tokens[0],
    "last": lambda tokens: tokens[-1],
}


class Reference:
    """A Hugging Face model as a user would load it."""

    def __init__(self, path: Path) -> None:
        transformers_logging.disable_progress_bar()
        self.model = AutoModel.from_pretrained(path, dtype=torch.float32).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.site = FFN_SITES[self.model.config.model_type]
        self.part = self.model.get_submodule(self.site.root)

    def tokens(
        self, text: str, *, max_length: int
    ) -> tuple[list[NDArray[Any]], list[NDArray[Any]], list[int]]:
        """FFN activations and hidden states per layer (tokens, feature), and the token ids."""
        ids = self.tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
        return (*self.forward(ids), ids) if ids else ([], [], [])

    def forward(self, ids: Sequence[int]) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
        """FFN activations and hidden states per layer (tokens, feature) of some token ids."""
        num_layers = self.model.config.num_hidden_layers
        kept: list[NDArray[Any]] = []

        def keep(_: Any, args: tuple[torch.Tensor]) -> None:
            kept.append(args[0].detach().reshape(-1, args[0].shape[-1]).numpy().copy())

        names = [self.site.down.replace("{i}", str(layer)) for layer in range(num_layers)]
        handles = [
            self.model.get_submodule(name).register_forward_pre_hook(keep)
            for name in dict.fromkeys(names)
        ]
        with torch.no_grad():
            output = self.part(input_ids=torch.tensor([list(ids)]), output_hidden_states=True)
        for handle in handles:
            handle.remove()
        assert len(kept) == num_layers
        states = [state[0].numpy() for state in output.hidden_states]
        return kept, states

    def pooled(
        self, texts: Sequence[str], *, poolings: Sequence[str] = ("mean", "max"), max_length: int
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """(layer, pooling, neuron, text) and (layer + 1, pooling, hidden, text)."""
        ffn, hidden = [], []
        for text in texts:
            kept, states, _ = self.tokens(text, max_length=max_length)
            ffn.append([[POOL[name](layer) for name in poolings] for layer in kept])
            hidden.append([[POOL[name](state) for name in poolings] for state in states])
        return _stack(ffn), _stack(hidden)


def _stack(texts: list[Any]) -> NDArray[Any]:
    shape = np.shape(next(text for text in texts if text))
    return np.stack([np.array(text) if text else np.zeros(shape) for text in texts], axis=-1)


def relative_error(values: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest difference in a layer, relative to the layer's largest value; the worst layer."""
    axes = tuple(range(1, expected.ndim))
    scale = np.abs(expected).max(axes)
    return float((np.abs(values - expected).max(axes) / scale).max())


@contextmanager
def hooked(
    reference: Reference, neurons: Mapping[int, Any], values: Mapping[int, Any]
) -> Iterator[None]:
    """Silence neurons of a Hugging Face model by hand."""

    def hook_for(chosen: Any, value: Any) -> Callable[..., Any]:
        def hook(_: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            tokens = args[0].clone()
            for neuron, one in zip(chosen, np.broadcast_to(value, len(chosen)), strict=True):
                tokens[..., int(neuron)] = float(one)
            return (tokens, *args[1:])

        return hook

    handles = [
        reference.model.get_submodule(
            reference.site.down.replace("{i}", str(layer))
        ).register_forward_pre_hook(hook_for(chosen, values[layer]))
        for layer, chosen in neurons.items()
    ]
    yield
    for handle in handles:
        handle.remove()
