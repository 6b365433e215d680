"""Texts in, pooled activations out, in the texts' order.

    extractor = Extractor(load_backbone("models/roberta-base"))
    activations = extractor(["first text", "second text"])
    activations.ffn                                   # (layer, pooling, neuron, sample) float32

Texts are tokenised, sorted by length, run in batches under a token budget and pooled where they
are captured; only one vector a text, layer and pooling leaves the device.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.backbone import (
    Backbone,
    Batch,
    Encoded,
    LastLayer,
    Routed,
    Segments,
    TokenSink,
    argmax_tokens,
    check_poolings,
    encode,
    pool,
    pool_routed,
)
from pipeline.errors import ExtractError, lacks_memory
from pipeline.extraction.lanes import num_lanes, side_by_side
from pipeline.extraction.picking import Picked
from pipeline.extraction.routed import NONE_ROUTED, PickedExperts, RoutedLayers, check_kept
from pipeline.extraction.throughput import Meter
from store.disk import page_aligned
from store.layout import Source

BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}
"""Token slots of a batch, for each core that works on it."""

STORED = {"float16": torch.float16, "float32": torch.float32}
"""Names of the types that a store has."""

OLDER = (
    "%s: what was made with it is of an older version: samples of each tensor were compared, not"
    " every byte"
)
logger = logging.getLogger(__name__)
_tokenising = threading.Lock()
"""A tokenizer, which twins of a backbone share, is told of truncation before each call."""


@dataclass(frozen=True)
class Activations:
    """Pooled activations of ``n`` texts."""

    ffn: NDArray[Any]
    """(layer, pooling, neuron, n)."""
    hidden: NDArray[Any] | None
    """(hidden layer, pooling, hidden, n), None if not asked for."""
    n_tokens: NDArray[np.int32]
    """(n,) tokens of each text, special ones and those of the words around it included."""
    truncated: NDArray[np.bool_]
    """(n,) whether the text was cut to the context."""
    router: NDArray[Any] | None = None
    """(layer, pooling, expert, n) probabilities of the experts, None if not asked for."""
    experts: NDArray[Any] | None = None
    """(layer, pooling, expert * neuron, n) weighted activations, None if not asked for."""
    peaks: NDArray[np.int32] | None = None
    """(layer, neuron, n) the token on which each neuron peaked, counted within the pooled part of
    the text; -1 without tokens. None if not asked for."""

    @property
    def in_order(self) -> list[NDArray[Any]]:
        """Each layer's (pooling, unit, n), a source after the other."""
        arrays = (self.ffn, self.hidden, self.router, self.experts)
        return [layer for values in arrays if values is not None for layer in values]


class Extractor:
    """Turns texts into pooled activations; the same result whatever the batch, order or padding.

    Args:
        backbone: the model.
        poolings: names from ``POOLINGS``.
        special_tokens: pool ``[CLS]``, ``<s>`` … too, as in the paper. They always take part in
            the forward pass. Where the backbone frames texts, the poolings over the whole sequence
            alone go by it (``POOLINGS``).
        layers: layers whose FFN to pool; default all that the backbone runs.
        hidden: which hidden states to pool as well, by name or by index as in ``Backbone.run``.
        batch_tokens: token slots per batch; default by device. Halved, once, if memory runs out.
            On the CPU as many batches run at a time as there are cores (eight at most).
        peaks: also find the token on which each neuron peaked.
        features: layer -> ``(k,)`` int64 pooled features (``pooling * neurons + neuron``). Only
            these are pooled, of these layers, and ``compute`` gives ``(n, k)`` for each.
        routed: what to pool of a mixture of experts; default nothing.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        poolings: Sequence[str] = ("mean", "max"),
        special_tokens: bool = True,
        layers: Sequence[int] | None = None,
        hidden: Literal["final", "all", "none"] | Sequence[int] = "final",
        batch_tokens: int | None = None,
        peaks: bool = False,
        features: Mapping[int, NDArray[np.int64]] | None = None,
        routed: RoutedLayers = NONE_ROUTED,
    ) -> None:
        self.backbone = backbone
        self.router_layers = tuple(routed.router)
        self.experts_layers = tuple(sorted(routed.features) or routed.experts)
        self.kept_experts = check_kept(backbone, routed.kept)
        self.poolings = check_poolings(poolings)
        self.special_tokens = special_tokens
        if features is not None:
            layers = sorted(features)
        self.layers = tuple(backbone.ffn_layers if layers is None else layers)
        self.hidden_layers: tuple[int, ...] = (
            backbone.hidden_indices(hidden) if isinstance(hidden, str) else tuple(hidden)
        )
        self.num_lanes = num_lanes(backbone.device)
        self.cores = torch.get_num_threads()
        self.cores_each = self.cores // self.num_lanes
        self._twins: list[Backbone] = []
        default = BATCH_TOKENS.get(backbone.device.type, 2048)
        if backbone.device.type == "cpu":
            default *= self.cores_each
        self.batch_tokens = batch_tokens or default
        self.peaks = peaks
        self._picked = {
            layer: Picked.of(wanted, backbone, layer=layer, poolings=self.poolings)
            for layer, wanted in (features or {}).items()
        }
        self._picked_experts = {
            layer: PickedExperts.of(
                wanted,
                kept=self.experts,
                expert_size=0 if backbone.mixture is None else backbone.mixture.expert_size,
                num_poolings=len(self.poolings),
            )
            for layer, wanted in routed.features.items()
        }
        self.meter = Meter()
        self._halved = False
        self._computing = threading.Lock()

    def fingerprint(self, *, normalisation: Mapping[str, Any] | None = None) -> str:
        """Digest of all that shapes the stored numbers; the store's schema carries it."""
        return self._digest(self.backbone.fingerprint, normalisation)

    def compared(
        self, recorded: str, *, normalisation: Mapping[str, Any] | None = None
    ) -> Literal["every byte", "samples"] | None:
        """What of the weights is known to be that of a recorded extraction; None: it is another.

        Whatever is made with an extractor and held against what was made before asks here. Where
        an earlier version recorded it, samples of each tensor are all that can be compared; that
        is logged, once.

        Args:
            recorded: the fingerprint that a store, a head or another record carries.
            normalisation: how its texts were normalised.
        """
        if recorded == self.fingerprint(normalisation=normalisation):
            return "every byte"
        older = self.backbone.older_fingerprint
        if older is None or recorded != self._digest(older(), normalisation):
            return None
        if OLDER not in self.backbone.said:
            self.backbone.said.add(OLDER)
            logger.warning(OLDER, self.backbone.source)
        return "samples"

    def _digest(self, backbone: str, normalisation: Mapping[str, Any] | None) -> str:
        settings = {
            "backbone": backbone,
            "poolings": self.poolings,
            "special_tokens": self.special_tokens,
            "normalisation": dict(normalisation or {}),
            **self.backbone.frame.settings,  # nothing without one, as before there were any
        }
        if self.kept_experts is not None:
            settings["experts"] = self.kept_experts
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def __call__(self, texts: Sequence[str]) -> Activations:
        """Extract texts; identical ones are computed once.

        Returns:
            float32 activations, sample ``i`` belonging to ``texts[i]``.
        """
        unique = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        rows = np.array([unique[text] for text in texts], np.int64)
        return self.compute(self.encode(list(unique))).take(rows).finish()

    @property
    def sources(self) -> tuple[Source, ...]:
        """What it pools, in the order of what it gives."""
        return tuple(
            Source(site, layer) for site, layers in self.by_site.items() for layer in layers
        )

    @property
    def by_site(self) -> dict[str, tuple[int, ...]]:
        """Site -> the layers that it pools."""
        return {
            "ffn": self.layers,
            "hidden": self.hidden_layers,
            "router": self.router_layers,
            "experts": self.experts_layers,
        }

    @property
    def experts(self) -> tuple[int, ...]:
        """Numbers of the experts that are kept."""
        mixture = self.backbone.mixture
        count = 0 if mixture is None else mixture.num_experts
        return tuple(range(count)) if self.kept_experts is None else self.kept_experts

    def width(self, site: str) -> int:
        """Numbers a pooling, text and layer of a site."""
        mixture = self.backbone.mixture
        if site == "experts" and mixture is not None:
            return len(self.experts) * mixture.expert_size
        return self.backbone.width(site)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Tokenise texts for ``compute``; safe to call from another thread."""
        backbone = self.backbone
        with _tokenising:
            start = time.perf_counter()
            encoded = encode(
                backbone.tokenizer, texts, max_length=backbone.max_length, frame=backbone.frame
            )
            self.meter.stage_s["tokenise"] += time.perf_counter() - start
        return encoded

    def compute(
        self,
        encoded: Encoded,
        *,
        dtype: torch.dtype = torch.float32,
        on_batch: Callable[[int], None] | None = None,
    ) -> Pooled:
        """Run encoded texts; threads that call at the same time take turns.

        Args:
            encoded: from ``encode``.
            dtype: what to keep the results in; pooling itself is in float32.
            on_batch: called after each batch with the number of texts run so far.

        Raises:
            ExtractError: out of memory twice.
        """
        with self._computing:  # the model holds what it captures of one batch at a time
            return self._compute(encoded, dtype, on_batch)

    def _compute(
        self, encoded: Encoded, dtype: torch.dtype, on_batch: Callable[[int], None] | None
    ) -> Pooled:
        start = time.perf_counter()
        pooled = self._empty(encoded, dtype)
        remaining = encoded.lengths.copy()
        done = 0

        def work(lane: Backbone, indices: NDArray[np.int64]) -> Batch:
            batch = lane.batch(encoded.ids(indices), indices)
            self._run(lane, batch, encoded, pooled)
            return batch

        while remaining.any():
            batches = list(
                self.backbone.plan(remaining, max_tokens=self.batch_tokens, lanes=self.num_lanes)
            )
            try:
                for batch in side_by_side(
                    self._lanes(len(batches)), batches, work, cores_each=self.cores_each
                ):
                    remaining[batch.indices] = 0
                    done += len(batch.indices)
                    self._count(batch)
                    if on_batch is not None:
                        on_batch(done)
            except (MemoryError, RuntimeError) as error:
                self._halve(error)
        self.meter.num_texts += len(encoded)
        self.meter.num_truncated += int(encoded.truncated.sum())
        self.meter.stage_s["compute"] += time.perf_counter() - start
        return pooled

    def _lanes(self, num_batches: int) -> list[Backbone]:
        """A backbone for each lane, as many as have a batch to run."""
        count = min(self.num_lanes, num_batches)
        while len(self._twins) < count - 1:
            self._twins.append(self.backbone.twin())
        return [self.backbone, *self._twins[: count - 1]]

    def _empty(self, encoded: Encoded, dtype: torch.dtype) -> Pooled:
        """Room for the results; texts without tokens have theirs: zeros, and no peaks."""
        backbone, n, poolings = self.backbone, len(encoded), len(self.poolings)
        untouched = torch.from_numpy(np.flatnonzero(encoded.lengths == 0))

        def room(*shape: int, dtype: torch.dtype, fill: float) -> Tensor:
            # Filled only where nothing will come: the rest is first touched by the lanes.
            return torch.empty(n, *shape, dtype=dtype).index_fill_(0, untouched, fill)

        whole = (poolings, backbone.neuron_size)
        place_dtype = torch.int16 if backbone.max_length < 2**15 else torch.int32
        shapes = [
            self._picked[layer].shape if layer in self._picked else whole for layer in self.layers
        ]

        def rooms(site: str) -> list[Tensor]:
            shape = (poolings, self.width(site))
            return [room(*shape, dtype=dtype, fill=0) for _ in self.by_site[site]]

        pooled = Pooled(
            [room(*shape, dtype=dtype, fill=0) for shape in shapes],
            rooms("hidden"),
            [
                room(backbone.neuron_size, dtype=place_dtype, fill=-1)
                for _ in (self.layers if self.peaks else ())
            ],
            encoded.lengths.astype(np.int32),
            encoded.truncated,
            rooms("router"),
            rooms("experts")
            if not self._picked_experts
            else [
                room(len(self._picked_experts[layer].places), dtype=dtype, fill=0)
                for layer in self.experts_layers
            ],
        )
        deepest = backbone.num_layers - 1
        if backbone.last is not None and deepest in self.layers and not self._picked:
            known = torch.zeros(n, poolings, len(backbone.last.neurons), dtype=dtype)
            pooled.ffn[self.layers.index(deepest)] = backbone.last.widen(known)
        return pooled

    def _run(self, backbone: Backbone, batch: Batch, encoded: Encoded, pooled: Pooled) -> None:
        rows = torch.from_numpy(batch.indices)

        def segments_of(skip: NDArray[np.int64], count: NDArray[np.int64]) -> Segments:
            return Segments.of(starts=batch.starts + skip, lengths=count)

        special = self.special_tokens
        segments = segments_of(*encoded.own(batch.indices, special_tokens=special))
        whole = None
        if backbone.frame:
            whole = segments_of(*encoded.whole(batch.indices, special_tokens=special))

        def place(target: Tensor, values: Tensor, last: LastLayer | None = None) -> None:
            values = values.to(target.dtype).cpu()
            target.index_copy_(0, rows, values if last is None else last.widen(values))

        def on_ffn(layer: int, tokens: Tensor) -> None:
            at = self.layers.index(layer)
            last = backbone.last if layer == backbone.num_layers - 1 else None
            if self._picked:
                place(pooled.ffn[at], self._picked[layer].pool(tokens, segments, whole))
            else:
                place(pooled.ffn[at], pool(tokens, segments, self.poolings, whole=whole), last)
            if self.peaks:
                place(pooled.peaks[at], argmax_tokens(tokens, segments), last)

        def into(targets: list[Tensor], layers: Sequence[int]) -> TokenSink:
            def sink(layer: int, tokens: Tensor) -> None:
                place(
                    targets[layers.index(layer)], pool(tokens, segments, self.poolings, whole=whole)
                )

            return sink

        def on_experts(layer: int, routed: Routed) -> None:
            if self._picked_experts:
                values = self._picked_experts[layer].pool(
                    routed, segments, self.poolings, whole=whole
                )
            else:
                values = pool_routed(
                    routed, segments, self.poolings, experts=self.experts, whole=whole
                )
            place(pooled.experts[self.experts_layers.index(layer)], values)

        backbone.run(
            batch,
            on_ffn=on_ffn,
            layers=self.layers,
            on_hidden=into(pooled.hidden, self.hidden_layers),
            hidden_layers=self.hidden_layers,
            on_router=into(pooled.router, self.router_layers),
            router_layers=self.router_layers,
            on_experts=on_experts,
            experts_layers=self.experts_layers,
        )

    def _count(self, batch: Batch) -> None:
        self.meter.num_tokens += batch.num_tokens
        self.meter.num_slots += batch.num_slots
        self.meter.flops += self.flops(batch)

    def flops(self, batch: Batch) -> float:
        """Floating point operations that a batch takes."""
        layers = (*self.layers, *self.router_layers, *self.experts_layers)
        return self.backbone.flops(batch, layers=layers, hidden=self.hidden_layers)

    def _halve(self, error: Exception) -> None:
        """After running out of memory: halve the batches, but only once."""
        if not lacks_memory(error):
            raise error
        if self._halved:
            raise ExtractError(
                f"out of memory, even with batches of {self.batch_tokens} tokens; set a smaller "
                "max_length or batch_tokens, or use a machine with more memory"
            ) from error
        self._halved = True
        self.batch_tokens = max(1, self.batch_tokens // 2)
        logger.warning("out of memory; going on with batches of %d tokens", self.batch_tokens)


@dataclass(frozen=True)
class Pooled:
    """Pooled activations of ``n`` texts, one tensor per layer, text by text."""

    ffn: list[Tensor]
    """Per layer (n, pooling, neuron), or (n, k) of chosen features."""
    hidden: list[Tensor]
    """Per hidden layer (n, pooling, hidden)."""
    peaks: list[Tensor]
    """Per layer (n, neuron) integers, if asked for."""
    n_tokens: NDArray[np.int32]
    truncated: NDArray[np.bool_]
    router: list[Tensor]
    """Per layer (n, pooling, expert)."""
    experts: list[Tensor]
    """Per layer (n, pooling, expert * neuron)."""

    def take(self, rows: NDArray[np.int64]) -> Pooled:
        """Some texts ``(n,)``, in the given order."""
        if np.array_equal(rows, np.arange(len(self.n_tokens))):
            return self
        index = torch.from_numpy(rows)
        return Pooled(
            [values[index] for values in self.ffn],
            [values[index] for values in self.hidden],
            [values[index] for values in self.peaks],
            self.n_tokens[rows],
            self.truncated[rows],
            [values[index] for values in self.router],
            [values[index] for values in self.experts],
        )

    @property
    def rows(self) -> list[Tensor]:
        """Each ``(n, features)``: a source after the other, as in ``Extractor.sources``."""
        return [values.flatten(1) for layers in self.by_site.values() for values in layers]

    @property
    def by_site(self) -> dict[str, list[Tensor]]:
        """Site -> a tensor for each layer, (n, pooling, feature) or (n, k) of chosen features."""
        return {
            "ffn": self.ffn,
            "hidden": self.hidden,
            "router": self.router,
            "experts": self.experts,
        }

    def finish(self) -> Activations:
        """Turn to (layer, pooling, feature, n)."""
        return Activations(
            ffn=np.stack(Turned(self.ffn, "ffn")) if self.ffn else np.zeros((0, 0, 0, 0), "f4"),
            hidden=np.stack(Turned(self.hidden, "hidden")) if self.hidden else None,
            router=np.stack(Turned(self.router, "router")) if self.router else None,
            experts=np.stack(Turned(self.experts, "experts")) if self.experts else None,
            n_tokens=self.n_tokens,
            truncated=self.truncated,
            peaks=np.stack(Turned(self.peaks, "peaks", torch.int32)) if self.peaks else None,
        )


class Turned(Sequence[NDArray[Any]]):
    """Layers (n, …) as (…, n), each turned when it is asked for, which threads may do at a time.

    Stands in for an array (layer, …, n), of which no whole copy is made.

    Args:
        layers: equal in shape.
        name: of what they hold, for errors.
        dtype: to convert to; default what they are.
    """

    def __init__(
        self, layers: Sequence[Tensor], name: str, dtype: torch.dtype | None = None
    ) -> None:
        self._layers = layers
        self._name = name
        first = layers[0]
        self.shape = (len(layers), *first.shape[1:], first.shape[0])
        self.dtype = torch.empty(0, dtype=dtype or first.dtype).numpy().dtype

    def __len__(self) -> int:
        return len(self._layers)

    def __getitem__(self, layer: Any) -> Any:
        values = self._layers[layer]
        if values.dtype == torch.float16 and any(
            bound.isinf() for bound in (values.aminmax() if values.numel() else ())
        ):
            raise ExtractError(
                f"{int(values.isinf().sum())} {self._name} activations of layer {layer} exceed "
                '65504, the largest of float16; store them with dtype = "float32"'
            )
        out = page_aligned(self.shape[1:], self.dtype)
        # As two-dimensional matrices: torch turns those ten times faster.
        torch.from_numpy(out).flatten(0, -2).copy_(values.flatten(1).t())
        return out
