"""A frozen transformer and the FFN activations inside it.

    backbone = load_backbone("models/roberta-base")
    half = backbone.truncate(5)                       # runs blocks 0..5, shares the weights

    def keep(layer, tokens):                          # tokens: (token slots, neuron)
        ...
    half.run(batch, on_ffn=keep)

Hooks live only inside ``run``; nothing is left on the model.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.backbone import checkpoint
from pipeline.backbone.attention import attending_within_segments
from pipeline.backbone.hooks import Stop, TokenSink, captured_inputs
from pipeline.backbone.packing import Batch, Segments, pack, pad
from pipeline.backbone.sites import FfnSite
from pipeline.backbone.slicing import LastLayer, cut_blocks, slice_neurons, up_flops
from pipeline.errors import BackboneError


class Backbone:
    """A loaded transformer, its tokenizer and its capture sites, from ``load_backbone``.

    Attributes:
        model_type: Hugging Face's name of the architecture.
        num_layers: blocks that can be run.
        neuron_size: FFN width, as found by a dry run.
        hidden_size: width of the final hidden state, as found by a dry run.
        max_length: tokens per text, special tokens included.
        site: the architecture's row of ``FFN_SITES``.
        fingerprint: sha256 of all that shapes activations; truncation does not change it.
        packs: whether batches are packed (rather than padded).
        engine: kernels in use, "torch" or "onednn".
        last: the neurons computed in the last layer, None for all.
        linear_flops: operations a token in linear layers, up to each layer's site and in all.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        config: Any,
        tokenizer: Any,
        site: FfnSite,
        num_layers: int,
        max_length: int,
        dtype: torch.dtype,
        device: torch.device,
        fingerprint: str,
        source: str,
        truncated: bool,
    ) -> None:
        self.network = network
        self.config = config
        self.tokenizer = tokenizer
        self.site = site
        self.model_type: str = config.model_type
        self.num_layers = num_layers
        self.max_length = max_length
        self.dtype = dtype
        self.device = device
        self.fingerprint = fingerprint
        self.source = source
        self.packs = False
        self.engine = "torch"
        self.truncated = truncated
        self.neuron_size = 0
        self.hidden_size = 0
        self.last: LastLayer | None = None
        self.linear_flops: list[float] = []
        self._accepted = set(inspect.signature(network.forward).parameters)

    def truncate(self, last_layer: int, *, neurons: Sequence[int] | None = None) -> Backbone:
        """A backbone that runs blocks 0..last_layer only and stops before the last down projection.

        Weights are shared with this one; the final hidden state is out of reach.

        Args:
            last_layer: last block to run.
            neurons: compute only these neurons of that block; ``run`` hands them out in this
                order (``Extractor`` puts them in their places and fills the others with NaN).

        Raises:
            BackboneError: no such layer or neuron.
        """
        short = copy.copy(self)
        short.num_layers = check_layer(self.num_layers, last_layer) + 1
        short.truncated = True
        short.network = cut_blocks(self.network, self.site, short.num_layers)
        if last_layer < self.num_layers - 1:
            short.last = None
        if neurons is not None:
            if short.last is not None:
                raise BackboneError(
                    "this backbone's neurons were cut before; truncate the full one"
                )
            short.last = LastLayer.of(neurons, self.neuron_size)
            sliced = slice_neurons(short.network, self.site, last_layer, short.last.neurons)
            if sliced is None:
                short.last = replace(short.last, late=True)
            else:
                saved = up_flops(short.network, self.site, last_layer)
                saved -= up_flops(sliced, self.site, last_layer)
                short.network = sliced
                short.linear_flops = list(self.linear_flops)
                short.linear_flops[last_layer] -= saved
        return short

    def twin(self) -> Backbone:
        """A backbone on the same weights that another thread may run at the same time."""
        memory = {id(tensor): tensor for tensor in _tensors(self.network)}
        other = copy.copy(self)
        other.network = copy.deepcopy(self.network, memory)
        return other

    def describe(self) -> dict[str, Any]:
        """What a store's provenance should say about this backbone (JSON-ready)."""
        return {
            "source": self.source,
            "model_type": self.model_type,
            "num_layers": self.num_layers,
            "neuron_size": self.neuron_size,
            "hidden_size": self.hidden_size,
            "max_length": self.max_length,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "ffn_site": self.site.down,
            "attention": "packed" if self.packs else "padded",
            "engine": self.engine,
            "fingerprint": self.fingerprint,
        }

    def hidden_indices(self, which: Literal["final", "all", "none"]) -> tuple[int, ...]:
        """Indices into Hugging Face's ``hidden_states`` that this backbone can give.

        Raises:
            BackboneError: the final state of a truncated backbone.
        """
        check_choice("hidden", which, ("final", "all", "none"))
        if which == "none":
            return ()
        if which == "all":
            return tuple(range(self.num_layers + (not self.truncated)))
        if self.truncated:
            raise BackboneError(
                f"{self.source}: truncated after block {self.num_layers - 1}, so there is no final "
                "hidden state; use hidden = 'none'"
            )
        return (self.num_layers,)

    # ------------------------------------------------------------------ running

    def batch(
        self,
        ids: Sequence[NDArray[np.int64]],
        indices: NDArray[np.int64] | None = None,
        *,
        packed: bool | None = None,
    ) -> Batch:
        """Lay texts out for ``run``: packed if the backbone packs, else padded.

        Args:
            ids: token ids of each text, ``(tokens,)``, none empty.
            indices: ``(texts,)`` number of each text in the caller's list.
            packed: override the backbone's choice.
        """
        if indices is None:
            indices = np.arange(len(ids))
        positions = None if self.site.positions == "internal" else self._positions
        if self.packs if packed is None else packed:
            return pack(ids, indices, positions=positions, device=self.device)
        return pad(
            ids,
            indices,
            pad_id=checkpoint.pad_id(self.config),
            positions=positions,
            device=self.device,
        )

    def run(
        self,
        batch: Batch,
        *,
        on_ffn: TokenSink | None = None,
        layers: Collection[int] | None = None,
        on_hidden: TokenSink | None = None,
        hidden_layers: Collection[int] = (),
    ) -> None:
        """Run one batch and hand out what was asked for, layer by layer, as it appears.

        Args:
            batch: from ``batch``.
            on_ffn: called with (layer, FFN activations (slots, neuron)); slots count pads.
            layers: the layers wanted; default all. The pass ends with the last one, unless a
                later hidden state is wanted.
            on_hidden: called with (index, hidden states (slots, hidden)).
            hidden_layers: as in Hugging Face's ``hidden_states``: 0 is the embeddings, ``i`` the
                output of block ``i - 1``, the last one after the final norm.
        """
        wanted = (
            set() if on_ffn is None else set(range(self.num_layers) if layers is None else layers)
        )
        states = set() if on_hidden is None else set(hidden_layers)
        final = self.num_layers if not self.truncated else None
        last_site = max(wanted, default=-1)
        last_state = max(states, default=-1)
        unreachable = {state for state in states if state >= self.num_layers and state != final}
        if last_site >= self.num_layers or unreachable:
            raise BackboneError(
                f"layers {sorted(wanted)} and hidden states {sorted(states)} do not all exist: "
                f"this backbone runs {self.num_layers} blocks"
                + (", truncated before the final hidden state" if self.truncated else "")
            )

        def at_site(layer: int, tokens: Tensor) -> None:
            if layer in wanted and on_ffn is not None:
                if self.last is not None and layer == self.num_layers - 1:
                    tokens = self.last.take(tokens)
                on_ffn(layer, tokens)
            if layer == last_site and last_state <= layer:
                raise Stop

        def at_block(layer: int, tokens: Tensor) -> None:
            if layer in states and on_hidden is not None:
                on_hidden(layer, tokens)
            if layer == last_state and last_site < layer:
                raise Stop

        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if wanted:
                stack.enter_context(self._capture(self.site.down, at_site))
            if states - {final}:
                stack.enter_context(self._capture(self.site.block, at_block))
            if batch.packed:
                segments = Segments.of(starts=batch.starts, lengths=batch.lengths)
                stack.enter_context(attending_within_segments(segments))
            try:
                output = self.network(**self._inputs(batch))
            except Stop:
                return
            if final in states and on_hidden is not None:
                on_hidden(self.num_layers, output[0].flatten(0, 1))

    def _capture(self, path: str, sink: TokenSink) -> AbstractContextManager[None]:
        """Capture the inputs of each block's module at a path of the site."""
        num_modules = 1 if self.site.shared else self.num_layers
        names = [self.site.inner(path, layer) for layer in range(num_modules)]
        try:
            modules = [self.network.get_submodule(name) for name in names]
        except AttributeError as error:
            raise BackboneError(
                f"{self.source}: {error} ({names[0]!r} is not in this {self.model_type!r} model); "
                "set ffn_site to the path of the FFN's down projection, {i} standing for the block"
            ) from None
        return captured_inputs(modules, sink, time_first=self.site.time_first)

    def flops(
        self, batch: Batch, *, layers: Collection[int] = (), hidden: Collection[int] = ()
    ) -> float:
        """Floating point operations that ``run`` spends on a batch: linear layers and attention.

        Attention's two products count all slots of a row of a padded batch, and each text alone
        in a packed one; the rest (norms, activations) does not count.
        """
        blocks = max((*(layer + 1 for layer in layers), *hidden), default=0)
        if not self.truncated and self.num_layers in hidden:
            linear = self.linear_flops[-1]
        else:
            linear = self.linear_flops[blocks - 1] if blocks else 0.0
            if blocks and blocks in hidden:  # behind the last site the down projection
                linear += 2.0 * self.neuron_size * self.hidden_size
        pairs = (
            float((batch.lengths**2).sum())
            if batch.packed
            else float(batch.input_ids.shape[1] * batch.num_slots)
        )
        return linear * batch.num_slots + 4.0 * self.hidden_size * blocks * pairs

    def _inputs(self, batch: Batch) -> dict[str, Any]:
        inputs = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "position_ids": batch.position_ids,
            "use_cache": False,
        }
        return {
            key: value
            for key, value in inputs.items()
            if value is not None and key in self._accepted
        }

    def _positions(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Position ids of one text, as the model would count them."""
        if self.site.positions == "zero":
            return np.arange(len(ids))
        # RoBERTa counts only what is not the padding token, even inside a text.
        padding = checkpoint.pad_id(self.config)
        real = ids != padding
        counted: NDArray[np.int64] = np.cumsum(real) * real + padding
        return counted


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    """All that a network holds, wherever its modules keep it."""
    for module in network.modules():
        for values in (module._parameters, module._buffers, module.__dict__):
            yield from (value for value in values.values() if isinstance(value, Tensor))


def check_choice(option: str, value: str, valid: Collection[str]) -> None:
    """Refuse a value of an option in one line that lists the valid ones."""
    if value not in valid:
        raise BackboneError(f"{option} {value!r} is not one of {', '.join(valid)}")


def check_layer(num_layers: int, last_layer: int | None) -> int:
    """The last layer to run, by default that of the model; refused if there is no such one."""
    if last_layer is None:
        return num_layers - 1
    if not 0 <= last_layer < num_layers:
        raise BackboneError(f"last_layer {last_layer} is not in 0..{num_layers - 1}")
    return last_layer
