"""Extraction: texts in, pooled activations out, in the texts' order.

    extractor = Extractor(Backbone.load("models/roberta-base"))
    activations = extractor(["first text", "second text"])
    activations.ffn                                   # (layer, pooling, neuron, sample) float32
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.backbone import Backbone
from pipeline.errors import ExtractError
from pipeline.packing import Batch, plan_batches
from pipeline.pooling import Segments, check_poolings, pool
from pipeline.tokens import Encoded, encode

BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}


@dataclass(frozen=True)
class Activations:
    """Pooled activations of ``n`` texts."""

    ffn: NDArray[Any]
    """(layer, pooling, neuron, n)."""
    hidden: NDArray[Any] | None
    """(hidden layer, pooling, hidden, n), None if not asked for."""
    n_tokens: NDArray[np.int32]
    """(n,) tokens of each text, special ones included."""
    truncated: NDArray[np.bool_]
    """(n,) whether the text was cut to the context."""


class Extractor:
    """Turns texts into pooled activations; the same result whatever the batch, order or padding.

    Args:
        backbone: the model.
        poolings: names from ``POOLINGS``.
        special_tokens: pool [CLS], [SEP], <s> … too, as in the paper. They always take part in
            the forward pass.
        layers: layers to pool; default all that the backbone runs.
        hidden: which hidden states to pool as well.
        batch_tokens: token slots per batch; default by device.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        poolings: Sequence[str] = ("mean", "max"),
        special_tokens: bool = True,
        layers: Sequence[int] | None = None,
        hidden: Literal["final", "all", "none"] = "final",
        batch_tokens: int | None = None,
    ) -> None:
        self.backbone = backbone
        self.poolings = check_poolings(poolings)
        self.special_tokens = special_tokens
        self.layers = tuple(range(backbone.num_layers) if layers is None else layers)
        self.hidden = hidden
        self.hidden_layers: tuple[int, ...] = backbone.hidden_indices(hidden)
        self.batch_tokens = batch_tokens or BATCH_TOKENS.get(backbone.device.type, 2048)

    def fingerprint(self, *, normalisation: Mapping[str, Any] | None = None) -> str:
        """Digest of all that shapes the stored numbers; the store's schema carries it."""
        settings = {
            "backbone": self.backbone.fingerprint,
            "poolings": self.poolings,
            "special_tokens": self.special_tokens,
            "normalisation": dict(normalisation or {}),
        }
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def __call__(self, texts: Sequence[str]) -> Activations:
        """Extract texts; identical ones are computed once.

        Returns:
            float32 activations, sample ``i`` belonging to ``texts[i]``.
        """
        unique = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        rows = np.array([unique[text] for text in texts], np.int64)
        encoded = encode(self.backbone.tokenizer, list(unique), max_length=self.backbone.max_length)
        ffn, hidden = self.compute(encoded)
        return Activations(
            ffn=_sample_last(ffn, rows),
            hidden=_sample_last(hidden, rows) if self.hidden_layers else None,
            n_tokens=encoded.lengths[rows].astype(np.int32),
            truncated=encoded.truncated[rows],
        )

    def compute(self, encoded: Encoded, *, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Run encoded texts.

        Returns:
            ffn (layer, n, pooling, neuron) and hidden (hidden layer, n, pooling, hidden), on the CPU.
        """
        backbone, n = self.backbone, len(encoded)
        shape = (n, len(self.poolings))
        ffn = torch.zeros(len(self.layers), *shape, backbone.neuron_size, dtype=dtype)
        hidden = torch.zeros(len(self.hidden_layers), *shape, backbone.hidden_size, dtype=dtype)
        for indices in plan_batches(
            encoded.lengths, max_tokens=self.batch_tokens, packed=backbone.packs
        ):
            self._run(backbone.batch(encoded.ids(indices), indices), encoded, ffn, hidden)
        return ffn, hidden

    def _run(self, batch: Batch, encoded: Encoded, ffn: Tensor, hidden: Tensor) -> None:
        rows = torch.from_numpy(batch.indices)
        starts, lengths = batch.starts, batch.lengths
        if not self.special_tokens:
            lead, trail = encoded.leading[batch.indices], encoded.trailing[batch.indices]
            starts, lengths = starts + lead, lengths - lead - trail
        segments = Segments.of(starts=starts, lengths=lengths)

        def keep(target: Tensor, index: int, tokens: Tensor) -> None:
            pooled = pool(tokens, segments, self.poolings)
            target[index].index_copy_(0, rows, pooled.to(target.dtype).cpu())

        self.backbone.run(
            batch,
            on_ffn=lambda layer, tokens: keep(ffn, self.layers.index(layer), tokens),
            layers=self.layers,
            on_hidden=lambda index, tokens: keep(hidden, self.hidden_layers.index(index), tokens),
            hidden_layers=self.hidden_layers,
        )


def _sample_last(values: Tensor, rows: NDArray[np.int64] | None = None) -> NDArray[Any]:
    """(layer, n, pooling, feature) -> (layer, pooling, feature, n), rows repeated where asked."""
    if rows is not None and not np.array_equal(rows, np.arange(values.shape[1])):
        values = values[:, torch.from_numpy(rows)]
    return values.permute(0, 2, 3, 1).contiguous().numpy()


__all__ = ["Activations", "ExtractError", "Extractor"]
