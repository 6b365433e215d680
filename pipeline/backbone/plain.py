"""The model's own plain forward pass: the yardstick for all that is done to make it fast.

    plain = PlainModel(backbone, locate(model))
    found = plain.tokens(ids)       # of one text: site -> layer -> (tokens, feature)

The folder is loaded a second time by transformers alone, as anybody would load it: its default
attention, one text at a time, no pads, no other kernels. Only where to look, and which part of the
model runs, is the backbone's.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModel

from pipeline.backbone import states
from pipeline.backbone.checkpoint import quiet
from pipeline.backbone.experts import capturing_routers
from pipeline.backbone.hooks import captured_inputs
from pipeline.backbone.transformer import Backbone
from pipeline.errors import BackboneError, first_line, lacks_memory

NO_CHECK = "leave out check = 'full' (or --full)"


class PlainModel:
    """A model as transformers loads it, beside the backbone that was made of the same folder.

    Args:
        backbone: the whole one: says which part of the model runs, and where its sites are.
        path: the model's folder.
        trust_remote_code: run code that comes with the model.

    Raises:
        BackboneError: transformers alone cannot load the folder.
    """

    def __init__(self, backbone: Backbone, path: Path, *, trust_remote_code: bool = False) -> None:
        self.source = backbone.source
        self._mixture = backbone.mixture
        self._routers = backbone.site_layers("router")
        self.num_layers = backbone.num_layers
        options: dict[str, Any] = {
            "dtype": backbone.dtype,
            "local_files_only": True,
            "use_safetensors": True,
            "trust_remote_code": trust_remote_code,
        }
        try:
            with quiet():
                model = AutoModel.from_pretrained(path, **options)
        except Exception as error:
            if lacks_memory(error):
                raise
            raise BackboneError(
                f"{path}: transformers alone cannot load this {backbone.model_type!r} folder, so"
                f" there is nothing to compare with ({first_line(error)}); {NO_CHECK}"
            ) from error
        self._layers = backbone.ffn_layers
        site = backbone.site
        self._sites = {layer: site.inner(site.down, layer) for layer in self._layers}
        one = site.shared or self.num_layers == 1
        self._second = {} if one else {1: site.inner(site.block, 1)}
        part = _part(model, backbone, [*self._sites.values()])
        self._part = part.eval().requires_grad_(False).to(backbone.device)
        self._device = backbone.device

    @torch.inference_mode()
    def tokens(self, ids: NDArray[Any]) -> dict[str, dict[int, Tensor]]:
        """Run one text, on a copy of the model: some change themselves by what they have read.

        Args:
            ids: ``(tokens,)`` int64, special tokens included.

        Returns:
            "ffn": the inputs of the down projections, layer -> ``(tokens, neuron)``; "hidden":
            Hugging Face's ``hidden_states``, number -> ``(tokens, hidden)``, with the model's
            output as the last, that alone where the model does not list one for each block;
            "router": layer -> ``(tokens, expert)`` probabilities; float32.

        Raises:
            BackboneError: the site is not reached in every layer.
        """
        part = states.fresh(self._part)
        weights = states.weight_versions(part)
        ffn: dict[int, Tensor] = {}

        def keep(layer: int, tokens: Tensor) -> None:
            if layer not in ffn:  # Pegasus-X runs its global tokens through the module afterwards
                # Models that work in windows pad the text at its end.
                ffn[layer] = tokens.reshape(-1, tokens.shape[-1])[: len(ids)].float().clone()

        second: list[Tensor] = []

        def keep_second(_: int, entering: Tensor) -> None:
            second.append(entering.clone())

        def modules(paths: dict[int, str]) -> dict[int, nn.Module]:
            return {layer: part.get_submodule(path) for layer, path in paths.items()}

        tokens = torch.from_numpy(ids)[None].to(self._device)
        inputs: dict[str, Any] = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
        inputs |= {"use_cache": False, "output_hidden_states": True, "return_dict": True}
        accepted = inspect.signature(part.forward).parameters
        if not any(one.kind is one.VAR_KEYWORD for one in accepted.values()):
            inputs = {name: value for name, value in inputs.items() if name in accepted}
        routers: dict[int, Tensor] = {}
        try:
            with (
                captured_inputs(modules(self._sites), keep),
                captured_inputs(modules(self._second), keep_second),
                self._routing(part, routers),
            ):
                output = part(**inputs)
        except Exception as error:
            if lacks_memory(error):
                raise
            raise BackboneError(
                f"{self.source}: its own forward pass fails on {len(ids)} tokens alone"
                f" ({first_line(error)}); {NO_CHECK}"
            ) from error
        if states.weight_versions(part) != weights:
            self._part = part  # which knows that its first pass has rescaled the weights
        if tuple(ffn) != self._layers:
            raise BackboneError(
                f"{self.source}: the plain forward pass reached {self._sites[self._layers[0]]} and"
                f" its like in layers {[*ffn]}, not in {[*self._layers]}, one after another; set"
                " ffn_site to the path of the FFN's down projection"
            )
        listed: Sequence[Tensor] = getattr(output, "hidden_states", None) or ()
        whole = len(listed) == self.num_layers + 1
        # Mamba and its kin begin their list after the first block.
        late = int(whole and len(second) > 0 and torch.equal(listed[0], second[0]))
        inner = enumerate(listed[: -1 - late], late) if whole else ()
        # The last one listed is not that of the model's output everywhere: a norm lies between.
        states_found = {**dict(inner), self.num_layers: output[0]}
        return {
            "ffn": ffn,
            "hidden": {index: state[0].float() for index, state in states_found.items()},
            "router": {layer: values[: len(ids)] for layer, values in routers.items()},
        }

    def _routing(self, part: nn.Module, found: dict[int, Tensor]) -> AbstractContextManager[object]:
        """Keep what the routers of a part give."""
        if self._mixture is None:
            return nullcontext()
        modules = {i: part.get_submodule(self._mixture.routers[i]) for i in self._routers}
        return capturing_routers(modules, self._mixture, found.__setitem__)


def _part(model: nn.Module, backbone: Backbone, sites: list[str]) -> nn.Module:
    """The part of a whole model that a backbone runs: of the same class, with the same sites."""
    root = backbone.site.root
    names = [name for name, module in model.named_modules() if _alike(module, backbone.network)]
    for name in sorted(names, key=lambda name: name != root):  # else as the model lists them
        part = model.get_submodule(name)
        try:
            for site in sites:
                part.get_submodule(site)
        except AttributeError:
            continue
        return part
    raise BackboneError(
        f"{backbone.source}: its {type(backbone.network).__name__} is not in the"
        f" {type(model).__name__} that transformers loads, so there is nothing to compare with;"
        f" {NO_CHECK}"
    )


def _alike(module: nn.Module, other: nn.Module) -> bool:
    return type(module).__name__ == type(other).__name__
