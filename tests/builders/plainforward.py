"""Hugging Face's own forward pass over the part of a model that reads text, one text at a time.

    plain = PlainForward(path)
    seen = plain.run(plain.ids("the cat"), sites=["layers.0.mlp.down_proj"])
    seen.sites[0]                                   # (tokens, neuron)

Nothing of the pipeline is used. Every text gets a copy of the model as it was loaded, so that no
text can change what the next one finds.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

SIDE = re.compile(r"vision|visual|audio|speech|image|video|qformer|vq|codec|encodec|mimi|dac|vit")
"""Names of parts, and of nested configs, that do not read text."""


class Unreadable(Exception):
    """A model that does not read token ids alone."""


@dataclass
class Seen:
    """What one text leaves in a model."""

    sites: list[NDArray[Any]] = field(default_factory=list)
    """(tokens, feature) inputs of the modules asked for, in the order of their calls."""
    states: list[NDArray[Any] | None] = field(default_factory=list)
    """(tokens, hidden) hidden states; None for one that is not a vector for each token."""
    final: NDArray[Any] = field(default_factory=lambda: np.zeros((0, 0)))
    """(tokens, hidden)."""
    logits: list[NDArray[Any]] = field(default_factory=list)
    """(tokens, expert) outputs of the routers asked for."""
    experts: list[NDArray[Any]] = field(default_factory=list)
    """(tokens, expert * neuron) weighted activations of the experts asked for."""


class PlainForward:
    """A folder's model as a user would load it.

    Attributes:
        whole: the model.
        part: what of it reads the text: an encoder-decoder's encoder, a mixed model's language
            model, without a head.
    """

    def __init__(self, path: Path) -> None:
        with quiet():
            model = plain_class(path).from_pretrained(path, dtype=torch.float32)
        self.whole = model.eval().requires_grad_(False)
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.part = text_part(self.whole)

    def ids(self, text: str, max_length: int | None = None) -> list[int]:
        """Token ids of a text, (tokens,)."""
        options = {} if max_length is None else {"truncation": True, "max_length": max_length}
        return list(self.tokenizer(text, **options)["input_ids"])

    def run(
        self,
        ids: Sequence[int],
        *,
        sites: Sequence[str] = (),
        routers: Sequence[str] = (),
        experts: Sequence[str] = (),
        output: int = 0,
    ) -> Seen:
        """One pass over a text.

        Args:
            ids: (tokens,).
            sites: paths, within the part, of modules whose inputs are wanted; of a module the
                first calls, as many as its path is named.
            routers: of routers.
            experts: of modules that hold the experts of a layer.
            output: which of a router's outputs its logits are.
        """
        part, seen = copy.deepcopy(self.part), Seen()
        chosen: list[tuple[nn.Module, tuple[Any, ...]]] = []

        left = Counter(part.get_submodule(name) for name in sites)

        def keep_input(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if left[module]:  # Pegasus-X runs its global tokens through the module afterwards
                left[module] -= 1
                seen.sites.append(_rows(args[0] if args else next(iter(kwargs.values()))))

        def keep_logits(_: Any, args: Any, made: Any) -> None:
            seen.logits.append(_rows(made[output] if isinstance(made, tuple) else made))

        def keep_choice(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            chosen.append((module, (*args, *kwargs.values())))

        for module in left:
            module.register_forward_pre_hook(keep_input, with_kwargs=True)
        for name in routers:
            part.get_submodule(name).register_forward_hook(keep_logits)
        for name in experts:
            part.get_submodule(name).register_forward_pre_hook(keep_choice, with_kwargs=True)
        accepted = inspect.signature(part.forward).parameters
        options = {"use_cache": False} if "use_cache" in accepted else {}
        with torch.no_grad(), quiet():
            found = part(input_ids=torch.tensor([list(ids)]), output_hidden_states=True, **options)
            seen.experts = [weighted_activations(module, *given) for module, given in chosen]
        seen.final = getattr(found, "last_hidden_state", found[0])[0].numpy()
        seen.states = [
            state[0].numpy()
            if isinstance(state, Tensor) and state.ndim == 3 and len(state) == 1
            else None
            for state in getattr(found, "hidden_states", None) or ()
        ]
        return seen


def _rows(values: Tensor) -> NDArray[Any]:
    return values.detach().reshape(-1, values.shape[-1]).float().numpy().copy()


def weighted_activations(
    module: Any, hidden: Tensor, index: Tensor, weights: Tensor, *_: Any
) -> NDArray[Any]:
    """The input of the experts' down projections side by side, each times its expert's weight.

    The module computes them itself: with the identity for a down projection, its output is them.

    Args:
        module: the experts of a layer.
        hidden: (tokens, hidden) what goes into it.
        index: (tokens, k) the experts chosen.
        weights: (tokens, k) the weight of each.

    Returns:
        (tokens, expert * neuron), zero where an expert was not chosen.
    """
    probe = copy.deepcopy(module)
    for hooks in (probe._forward_pre_hooks, probe._forward_hooks):
        hooks.clear()
    down, size = probe.down_proj, hidden.shape[-1]
    if down.shape[1] != size:
        down = down.transpose(1, 2)
    for name, weight in probe.named_parameters():
        if name.startswith("down_proj"):
            weight.zero_()
    hidden, index = hidden.reshape(-1, size), index.reshape(-1, index.shape[-1])
    weights = weights.reshape(index.shape)
    made = []
    for expert in range(len(down)):
        weight = (weights * (index == expert)).sum(-1, keepdim=True)
        number = torch.full((len(hidden), 1), expert)
        for first in range(0, down.shape[2], size):  # as many neurons as the output has room for
            part = slice(first, min(first + size, down.shape[2]))
            down.zero_()
            down[:, : part.stop - first, part] = torch.eye(part.stop - first)
            made.append(probe(hidden, number, weight)[:, : part.stop - first])
    return torch.cat(made, 1).numpy()


def plain_class(path: Path) -> Any:
    """The class that a user would load a folder with."""
    config = json.loads((path / "config.json").read_text("utf-8"))
    name = (config.get("architectures") or [""])[0]
    return getattr(transformers, name) if name.endswith("EncoderModel") else AutoModel


def text_config(config: Any) -> Any:
    """The part of a config that is of texts."""
    for name in ("text_config", "thinker_config", "language_config", "llm_config"):
        inner = getattr(config, name, None)
        if inner is not None and not isinstance(inner, dict):
            return text_config(inner)
    return config


def text_part(model: nn.Module) -> nn.Module:
    """The encoder of an encoder-decoder, the language model of a mixed one, or all of it.

    Raises:
        Unreadable: nothing in there reads token ids.
    """
    config: Any = model.config
    if getattr(config, "is_encoder_decoder", False) and model.get_encoder() is not model:
        return _reading(model.get_encoder())
    if text_config(config) is not config:
        for name, module in model.named_modules():
            known = name and SIDE.search(name) is None and hasattr(module, "config")
            if known and _reads_ids(module):
                return text_part(module)
        raise Unreadable("no part that reads token ids")
    body = getattr(model, "base_model", model)  # without a head
    return body if _reads_ids(body) else _reading(model)


def _reads_ids(module: nn.Module) -> bool:
    return "input_ids" in inspect.signature(module.forward).parameters


def _reading(module: nn.Module) -> nn.Module:
    if not _reads_ids(module):
        raise Unreadable("not a model of texts: its forward takes no token ids")
    return module


@contextmanager
def quiet() -> Iterator[None]:
    """Neither reports nor bars nor warnings of Hugging Face."""
    report = transformers.utils.logging
    level, bars = report.get_verbosity(), report.is_progress_bar_enabled()
    report.set_verbosity(50)
    report.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        report.set_verbosity(level)
        if bars:
            report.enable_progress_bar()
