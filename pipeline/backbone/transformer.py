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
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from pipeline.backbone import checkpoint, states
from pipeline.backbone.attention import attending_within_segments
from pipeline.backbone.experts import (
    Mixture,
    RoutedSink,
    capturing_experts,
    capturing_routers,
)
from pipeline.backbone.fingerprint import VERSION, Fingerprint
from pipeline.backbone.hooks import Stop, TokenSink, captured_inputs
from pipeline.backbone.limits import ANY, Limits
from pipeline.backbone.packing import Batch, Segments, pack, pad, plan_batches
from pipeline.backbone.shapes import Axes, slots
from pipeline.backbone.sites import FfnSite
from pipeline.backbone.slicing import LastLayer, cut_blocks, slice_neurons, up_flops
from pipeline.backbone.tokens import NO_FRAME, Frame
from pipeline.errors import BackboneError
from store.layout import Source, own_version

Layout = Literal["packed", "padded", "equal"]
"""How texts share a batch: end to end in one row; a row each, with pads; a row each, and only with
equally long ones, so that there are no pads."""


@dataclass(frozen=True)
class Checked:
    """What the check at load found: texts in a batch against each alone.

    Attributes:
        layout: the one that holds.
        differences: source -> largest difference, relative to its largest value, by torch's
            kernels.
        lengths: tokens of the texts that were compared.
        untried: limits that were too long to try both sides of.
        changes: the model changes itself in a forward pass.
        passed_over: why not another layout, a line each.
    """

    layout: Layout
    differences: Mapping[Source, float]
    lengths: tuple[int, ...]
    untried: tuple[int, ...]
    changes: bool
    passed_over: tuple[str, ...] = ()

    @property
    def largest(self) -> float:
        """The largest difference of all."""
        return max(self.differences.values(), default=0.0)


class Backbone:
    """A loaded transformer, its tokenizer and its capture sites, from ``load_backbone``.

    Attributes:
        model_type: Hugging Face's name of the architecture.
        num_layers: blocks that can be run.
        neuron_size: FFN width, as found by a dry run.
        hidden_size: width of the final hidden state, as found by a dry run.
        max_length: tokens per text, special tokens included; limited_by: what says so, in words.
        site: the architecture's row of ``FFN_SITES``.
        fingerprint: sha256 of all that shapes activations; truncation does not change it, and the
            frame is not in it.
        older_fingerprint: gives what earlier versions took for it; None if they had none.
        frame: words around every text.
        layout: how texts share a batch: "packed", "padded", or "equal" (equally long ones only).
        limits: lengths at which the model computes otherwise; no batch has texts on both sides.
        changes: whether the model changes itself in a forward pass; then each batch runs on a copy.
        accepts: names of the network's inputs.
        axes: the order of the axes of what is captured, by site and layer, as found by a dry run.
        checked: what the check at load found.
        engine: kernels in use, "torch" or "onednn".
        last: the neurons computed in the last layer, None for all.
        whole: ``truncate`` keeps all blocks and only stops early.
        linear_flops: operations a token in linear layers, up to each layer's site and in all.
        mixture: the blocks that are mixtures of experts; None if there are none.
        said: what the user was told of it, once; twins share it.
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
        fingerprint: Fingerprint,
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
        self.limited_by = ""
        self.dtype = dtype
        self.device = device
        self.fingerprint = fingerprint.present
        self.older_fingerprint: Callable[[], str] | None = fingerprint.older
        self.frame = NO_FRAME
        self.source = source
        self.layout: Layout = "padded"
        self.limits = ANY
        self.changes = True  # until the opposite is found
        self.axes: dict[Source, Axes] = {}
        self.checked: Checked | None = None
        self.engine = "torch"
        self.truncated = truncated
        self.whole = False
        self.neuron_size = 0
        self.hidden_size = 0
        self.last: LastLayer | None = None
        self.linear_flops: list[float] = []
        self.mixture: Mixture | None = None
        self.said: set[str] = set()
        self.accepts: set[str] = set(inspect.signature(network.forward).parameters)

    @property
    def packs(self) -> bool:
        """Whether batches are packed."""
        return self.layout == "packed"

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
        if not self.whole:
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

    def framed(self, *, prefix: str | None = None, template: str | None = None) -> Backbone:
        """A backbone that reads words around every text; weights are shared with this one.

        Args:
            prefix: words before the text, as ``"query: "``.
            template: instead, words around ``{text}``.

        Raises:
            BackboneError: both are given, a template without ``{text}``, or no room for texts.
        """
        other = copy.copy(self)
        other.frame = Frame(prefix, template)
        try:
            other.frame.check_room(self.tokenizer, self.max_length)
        except BackboneError as error:
            raise BackboneError(f"{self.source}: {error}") from None
        return other

    def twin(self) -> Backbone:
        """A backbone on the same weights that another thread may run at the same time."""
        other = copy.copy(self)
        other.network = states.twin(self.network)
        return other

    def fresh(self) -> Backbone:
        """A twin with buffers of its own, to be changed by what it runs."""
        other = copy.copy(self)
        other.network = states.fresh(self.network)
        other.changes = False
        return other

    @property
    def num_parameters(self) -> int:
        """Values in the weights and buffers of the part that is run."""
        return states.num_values(self.network)

    def describe(self) -> dict[str, Any]:
        """What a store's provenance should say about this backbone (JSON-ready)."""
        return {
            "source": self.source,
            "model_type": self.model_type,
            "num_layers": self.num_layers,
            "neuron_size": self.neuron_size,
            "hidden_size": self.hidden_size,
            "max_length": self.max_length,
            "prefix": self.frame.prefix,
            "template": self.frame.template,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "ffn_site": self.site.down,
            "attention": self.layout,
            "engine": self.engine,
            "fingerprint": self.fingerprint,
            "fingerprint_version": VERSION,
            **({} if self.mixture is None else {"num_experts": self.mixture.num_experts}),
        }

    def circumstances(self, **more: Any) -> str:
        """All that decides what this backbone computes: a key for what is found out about it.

        Args:
            **more: what else that depends on (JSON-ready).
        """
        cuda = self.device.type == "cuda"
        parts = {
            "backbone": self.fingerprint,
            "site": repr(self.site),
            "engine": self.engine,
            "device": torch.cuda.get_device_name(self.device) if cuda else self.device.type,
            "processor": torch.backends.cpu.get_cpu_capability(),
            "versions": [own_version(), *(version(name) for name in ("torch", "transformers"))],
        }
        return json.dumps(parts | more, sort_keys=True)

    def hidden_indices(self, which: Literal["final", "all", "none"]) -> tuple[int, ...]:
        """Indices into Hugging Face's ``hidden_states`` that this backbone can give.

        Raises:
            BackboneError: the final state of a truncated backbone, or states that this model's
                blocks do not give.
        """
        check_choice("hidden", which, ("final", "all", "none"))
        if which == "none":
            return ()
        if which == "all":
            indices = self.site_layers("hidden")
            self._refuse_unreadable(indices)
            return indices
        if self.truncated:
            raise BackboneError(
                f"{self.source}: truncated after block {self.num_layers - 1}, so there is no final "
                "hidden state; use hidden = 'none'"
            )
        return (self.num_layers,)

    @property
    def ffn_layers(self) -> tuple[int, ...]:
        """The blocks that have an FFN; its activations are ``neuron_size`` wide."""
        if not self.site.down:
            return ()
        blocks = range(self.num_layers)
        return tuple(i for i in blocks if self.site.layers is None or i in self.site.layers)

    def site_layers(self, site: str) -> tuple[int, ...]:
        """The layers of a site that this backbone can give.

        Args:
            site: "ffn", "hidden", "router" or "experts".
        """
        if site == "ffn":
            return self.ffn_layers
        if site == "hidden":
            return tuple(range(self.num_layers + (not self.truncated)))
        layers = () if self.mixture is None else self.mixture.layers(site)
        return tuple(layer for layer in layers if layer < self.num_layers)

    def width(self, site: str) -> int:
        """Numbers a token at a site: neurons, hidden units, experts, or all experts' neurons."""
        if site in ("ffn", "hidden"):
            return self.neuron_size if site == "ffn" else self.hidden_size
        return 0 if self.mixture is None else self.mixture.width(site)

    def check_sites(self, sites: Iterable[str]) -> None:
        """Refuse sites that this model does not have.

        Raises:
            BackboneError: naming the first, why, and those that it has.
        """
        for site in sites:
            if self.site_layers(site):
                continue
            reason = f"this {self.model_type!r} model has none"
            if site == "ffn" and self.site.unknown:
                reason = self.site.unknown
            elif self.mixture is not None:
                reason = self.mixture.refused.get(site, reason)
            valid = [s for s in ("ffn", "hidden", "router", "experts") if self.site_layers(s)]
            raise BackboneError(
                f"{self.source}: no site {site!r}: {reason}; it has {', '.join(valid)}"
            )

    # ------------------------------------------------------------------ running

    def plan(
        self, lengths: ArrayLike, *, max_tokens: int, lanes: int = 1
    ) -> Iterator[NDArray[np.int64]]:
        """Which texts run together: ``plan_batches`` for this backbone's layout and limits.

        Args:
            lengths: (texts,) number of tokens.
            max_tokens: slots per batch.
            lanes: how many batches run at a time.

        Yields:
            (n,) numbers of each batch's texts.
        """
        return plan_batches(
            lengths, max_tokens=max_tokens, packed=self.packs, lanes=lanes, limits=self._together
        )

    @property
    def _together(self) -> Limits:
        return replace(self.limits, equal_above=0) if self.layout == "equal" else self.limits

    def batch(
        self,
        ids: Sequence[NDArray[np.int64]],
        indices: NDArray[np.int64] | None = None,
        *,
        packed: bool | None = None,
    ) -> Batch:
        """Lay texts out for ``run``: packed if the backbone packs, else a row each.

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
        on_router: TokenSink | None = None,
        router_layers: Collection[int] = (),
        on_experts: RoutedSink | None = None,
        experts_layers: Collection[int] = (),
    ) -> None:
        """Run one batch and hand out what was asked for, layer by layer, as it appears.

        Args:
            batch: from ``batch``.
            on_ffn: called with (layer, FFN activations (slots, neuron)); slots count pads.
            layers: the layers wanted; default all that have an FFN. The pass ends with the last
                thing wanted.
            on_hidden: called with (index, hidden states (slots, hidden)).
            hidden_layers: as in Hugging Face's ``hidden_states``: 0 is the embeddings, ``i`` the
                output of block ``i - 1``, the last one after the final norm.
            on_router: called with (layer, probabilities of the experts (slots, expert) float32).
            router_layers: the layers wanted of it.
            on_experts: called with (layer, what the experts chosen for each slot have made).
            experts_layers: the layers wanted of it.

        Raises:
            BackboneError: something wanted is not there, or texts may not share a batch.
        """
        asked: dict[str, tuple[Any, Collection[int]]] = {
            "ffn": (on_ffn, self.ffn_layers if layers is None else layers),
            "hidden": (on_hidden, hidden_layers),
            "router": (on_router, router_layers),
            "experts": (on_experts, experts_layers),
        }
        wanted = {site: set(own) for site, (sink, own) in asked.items() if sink is not None and own}
        self._refuse_unreachable(wanted, batch)
        left = {(site, layer) for site, own in wanted.items() for layer in own}

        def at(site: str) -> Any:
            sink = asked[site][0]

            def take(layer: int, values: Any) -> None:
                if (site, layer) not in left:  # a further call, of something else than the tokens
                    return
                left.discard((site, layer))
                if site in ("ffn", "hidden"):
                    values = self._slots(Source(site, layer), values, batch)
                if site == "ffn" and self.last is not None and layer == self.num_layers - 1:
                    values = self.last.take(values)
                sink(layer, values)

            return take

        runner = self.fresh() if self.changes else self
        runner.watch(batch, {site: (at(site), own) for site, own in wanted.items()})

    def watch(self, batch: Batch, sites: Mapping[str, tuple[Any, Collection[int]]]) -> None:
        """Run one batch and hand out each tensor as the model has it, in whatever shape.

        Args:
            batch: from ``batch``.
            sites: "ffn", "hidden", "router" or "experts" -> a sink, called with a layer's number
                and what is there, at every call; and the layers wanted. The pass ends when all of
                them were there.
        """
        pending = {(site, layer) for site, (_, layers) in sites.items() for layer in layers}

        def until_done(site: str) -> Any:
            sink = sites[site][0]

            def reached(layer: int, values: Any) -> None:
                sink(layer, values)
                pending.discard((site, layer))
                if not pending:
                    raise Stop

            return reached

        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            for site, (_, layers) in sites.items():
                stack.enter_context(self._capture(site, until_done(site), layers))
            if batch.packed:
                segments = Segments.of(starts=batch.starts, lengths=batch.lengths)
                stack.enter_context(attending_within_segments(segments))
            try:
                output = self.network(**self.inputs(batch))
                if ("hidden", self.num_layers) in pending:
                    sites["hidden"][0](self.num_layers, output[0])
            except Stop:
                return

    def _capture(
        self, site: str, sink: Any, layers: Collection[int]
    ) -> AbstractContextManager[None]:
        """Capture what is at some layers of a site."""
        if site == "router" and self.mixture is not None:
            return capturing_routers(
                self._modules(self.mixture.routers, layers), self.mixture, sink
            )
        if site == "experts" and self.mixture is not None:
            return capturing_experts(self._modules(self.mixture.experts, layers), sink)
        path = self.site.down if site == "ffn" else self.site.block
        blocks = self.ffn_layers if site == "ffn" else range(self.num_layers)
        paths = {layer: self.site.inner(path, layer) for layer in blocks}
        return captured_inputs(self._modules(paths, blocks), sink, layers)

    def _modules(self, paths: Mapping[int, str], layers: Collection[int]) -> dict[int, nn.Module]:
        return {layer: self.network.get_submodule(paths[layer]) for layer in layers}

    def _refuse_unreachable(self, wanted: Mapping[str, set[int]], batch: Batch) -> None:
        for site, layers in wanted.items():
            has = self.site_layers(site)
            if missing := sorted(layers - set(has)):
                raise BackboneError(
                    f"{self.source}: no {site} {missing[0]}: this backbone runs {self.num_layers}"
                    f" blocks{', truncated before the final hidden state' * self.truncated};"
                    f" of this site it has {', '.join(map(str, has)) or 'none'}"
                )
        self._refuse_unreadable(wanted.get("hidden", ()))
        if not self._together.allow(batch.lengths):
            raise BackboneError(
                f"texts of {batch.lengths.min()} to {batch.lengths.max()} tokens may not share a"
                f" batch of this {self.model_type!r} model; group them with Backbone.plan"
            )

    @property
    def readable_states(self) -> tuple[int, ...]:
        """The hidden states that are one vector for each token, and those that the model lists."""
        return tuple(i for i in self.site_layers("hidden") if ("hidden", i) in self.axes)

    def _refuse_unreadable(self, hidden: Collection[int]) -> None:
        if unknown := sorted(set(hidden) - set(self.readable_states)):
            raise BackboneError(
                f"{self.source}: hidden states {unknown} of this {self.model_type!r} model are not"
                " one vector for each token, or not those that the model itself lists; "
                + (
                    "leave them out: sites = [\"ffn\"], from Python hidden = 'final'"
                    if self.ffn_layers
                    else "it has no FFN either, so choose another model"
                )
            )

    def _slots(self, place: Source, values: Tensor, batch: Batch) -> Tensor:
        """(slots, feature), row of the batch by row."""
        rows, width = batch.input_ids.shape
        try:
            return slots(values, self.axes[place], texts=rows, length=width)
        except ValueError as error:
            site, layer = place
            raise BackboneError(
                f"{self.source}: {site} of layer {layer} came in {error}; this"
                f" {self.model_type!r} model does not handle each token alike, choose another"
            ) from None

    def flops(
        self, batch: Batch, *, layers: Collection[int] = (), hidden: Collection[int] = ()
    ) -> float:
        """Floating point operations that ``run`` spends on a batch: linear layers, attention.

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
        if self.mixture is not None:
            linear += sum(own for block, own in self.mixture.flops.items() if block < blocks)
        return linear * batch.num_slots + 4.0 * self.hidden_size * blocks * pairs

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """What the network is called with."""
        inputs = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "position_ids": batch.position_ids,
            "use_cache": False,
        }
        return {
            key: value for key, value in inputs.items() if value is not None and key in self.accepts
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
