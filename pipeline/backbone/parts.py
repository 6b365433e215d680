"""The part of a checkpoint's model that is run, cut out of it.

Of an encoder-decoder that is the encoder, of a vision-language model the language model, and of
either only the first blocks if no more are asked for. The config is left alone: other things than
the number of blocks are derived from it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from pipeline.backbone.sites import FfnSite
from pipeline.errors import BackboneError


def reading_part(model: nn.Module) -> str:
    """Path of the part of a model that reads the text; "" if it is the whole.

    Raises:
        BackboneError: no part reads token ids.
    """
    part = model
    for _ in range(3):  # the encoder of a vision-language encoder-decoder, say
        inner = _one_step_in(part)
        if inner is part:
            break
        part = inner
    if not _reads_ids(part):
        inputs = inspect.signature(part.forward).parameters
        kind = getattr(model.config, "model_type", type(model).__name__)
        raise BackboneError(
            f"model type {kind!r} has no part that reads text: it takes "
            f"{', '.join([*inputs][:3])}, no token ids; choose a language model"
        )
    return next((name for name, module in model.named_modules() if module is part), "")


def _one_step_in(model: nn.Module) -> nn.Module:
    """The text's part of a composite model, without a head; any other model itself."""
    if not isinstance(model, PreTrainedModel):
        return model
    config = model.config
    part: Any = model
    both = hasattr(model, "decoder") and _reads_ids(getattr(model, "encoder", None))
    if both or getattr(config, "is_encoder_decoder", False):  # encoders saved alone say False
        part = model.get_encoder()
    elif _text_config(config) is not config:
        part = model.get_decoder()
        part = model.get_encoder() if part is model else part
    inner: nn.Module = getattr(part, "base_model", part)
    return inner


def _reads_ids(module: nn.Module | None) -> bool:
    return module is not None and "input_ids" in inspect.signature(module.forward).parameters


def _text_config(config: Any) -> Any:
    try:
        return config.get_text_config()
    except (AttributeError, ValueError):  # several texts' configs: none is the one
        return config


def cut_out(model: Any, site: FfnSite, num_layers: int) -> None:
    """Drop from a model, in place, what does not lead to the first blocks of the part that is run.

    What else holds no blocks stays: embeddings may be tied to the part's.
    """
    names = site.root.split(".") if site.root else []
    module = model
    for name in names:
        for other, child in list(module.named_children()):
            if other != name and any(isinstance(m, nn.ModuleList) for m in child.modules()):
                setattr(module, other, None)
        module = module.get_submodule(name)
    if not site.shared:
        path, _, _ = site.inner(site.block, 0).rpartition(".")
        blocks = module.get_submodule(path)
        if isinstance(blocks, nn.ModuleList) and num_layers < len(blocks):
            module.set_submodule(path, blocks[:num_layers])
    tied = getattr(model, "all_tied_weights_keys", None)
    if tied:
        left = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        model.all_tied_weights_keys = {
            target: source for target, source in tied.items() if {target, source} <= left
        }


def cutting(cls: type[Any], cut: Callable[[Any], None]) -> type[Any]:
    """A class whose models are cut as soon as they are built, before any weight is read."""

    def __init__(self: Any, config: Any, *args: Any, **options: Any) -> None:
        cls.__init__(self, config, *args, **options)
        cut(self)

    body = {"__init__": __init__, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return type(cls.__name__, (cls,), body)
