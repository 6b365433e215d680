"""Pool only the features that somebody reads.

A head reads a few hundred of a layer's pooled features. ``Picked`` gets them from the layer's token
activations in the cheapest way: it takes the neurons' columns and pools those if they are few, and
pools everything before it takes what is wanted if they are many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.backbone import Backbone, Segments, pool
from pipeline.errors import ExtractError, ExtractInputError

FEW = 1 / 8
"""Share of the neurons up to which taking columns first is faster."""


@dataclass(frozen=True)
class Picked:
    """Some pooled features of a layer."""

    poolings: tuple[str, ...]
    columns: Tensor | None
    """(c,) columns of the token activations that are pooled; None for all."""
    places: Tensor
    """(k,) index of each wanted feature among the pooled ones, ``pooling * c + column``."""

    @classmethod
    def of(
        cls,
        features: NDArray[np.int64],
        backbone: Backbone,
        *,
        layer: int,
        poolings: Sequence[str],
    ) -> Picked:
        """For a layer of a backbone, whose last layer may compute some of its neurons only.

        Args:
            features: (k,) ``pooling * neurons + neuron``, in any order.
            backbone: what computes the activations.
            layer: whose features.
            poolings: the poolings that the features count.

        Raises:
            ExtractError: a feature that there is not, or whose neuron is not computed.
        """
        size = backbone.neuron_size
        if not len(features) or not 0 <= features.min() <= features.max() < len(poolings) * size:
            raise ExtractInputError(
                f"features of layer {layer} must be numbers in 0..{len(poolings) * size - 1}, at"
                " least one"
            )
        pooling, neuron = np.divmod(np.asarray(features, np.int64), size)
        if backbone.last is not None and layer == backbone.num_layers - 1:
            neuron, size = backbone.last.column_of(neuron), len(backbone.last.neurons)
            if (neuron < 0).any():
                raise ExtractError(
                    f"features of layer {layer} need neurons that this backbone does not compute"
                )
        used = np.unique(pooling)
        names = tuple(poolings[p] for p in used)
        pooling = np.searchsorted(used, pooling)
        columns = np.unique(neuron)
        if len(columns) > FEW * size:
            return cls(names, None, _on(backbone, pooling * size + neuron))
        places = pooling * len(columns) + np.searchsorted(columns, neuron)
        return cls(names, _on(backbone, columns), _on(backbone, places))

    @property
    def shape(self) -> tuple[int]:
        """Of the result, for one text."""
        return (len(self.places),)

    def pool(self, tokens: Tensor, segments: Segments, whole: Segments | None = None) -> Tensor:
        """(tokens, neuron) -> (texts, k) float32; segments as of :func:`pool`."""
        if self.columns is not None:
            tokens = tokens.index_select(1, self.columns)
        return (
            pool(tokens, segments, self.poolings, whole=whole)
            .flatten(1)
            .index_select(1, self.places)
        )


def _on(backbone: Backbone, index: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(index).to(backbone.device)
