"""How far rounding may move a head's outputs.

allowed = output_rounding(head, activations, dtype="float32", stored="float16")
np.abs(outputs - recorded) <= allowed
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.extraction import allowance
from pipeline.heads.model import Edges, Head, Part
from store.layout import Source

Array = NDArray[Any]


def output_rounding(
    head: Head, activations: Mapping[Source, Array], *, dtype: str, stored: str
) -> Array:
    """The largest difference of outputs that rounding explains, to first order.

    A value ``x_j`` that is off by ``d_j`` is stored another step ``h_j`` away with probability
    ``d_j / h_j`` (:func:`pipeline.extraction.allowance`), which has the variance ``d_j h_j``. With
    the slopes ``g_j = d output / d x_j`` of the standardiser, weights and network::

        allowed = sqrt(sum_j g_j^2 (d_j^2 + d_j h_j)) + max_j |g_j| (d_j + h_j)

    ``d`` is eight deviations; the second term is for heads of few features, where one step is no
    small deviation. Parts read the same features: they are averaged as if they erred together.

    Args:
        head: the head.
        activations: source -> ``(n, k)`` of ``head.features``, as for :meth:`Head.outputs`; what
            comes from the texts themselves is exact.
        dtype: of the forward pass, "float32" or "bfloat16".
        stored: type of the stored activations, "float16" or "float32".

    Returns:
        ``(n, outputs)`` float64; 0 where nothing that moves is read.
    """
    allowed = []
    for part in head.parts:
        own = {edges.source: _read(head, edges, activations) for edges in part.edges}
        slopes_of = _slopes(part, own)
        variance = step = np.zeros(slopes_of[0].shape[:2])
        for edges, slope in zip(part.edges, slopes_of, strict=True):
            if edges.source.array is None:
                continue
            x, known = own[edges.source], edges.standardiser
            usual = np.hypot(known.mean, known.scale)
            d, h = allowance(x, usual, edges.source, dtype=dtype, stored=stored)
            moves = np.abs(x - known.mean) < known.bound * known.scale + d + h  # others are clipped
            d, h = moves * d / known.scale, moves * h / known.scale
            slopes = np.abs(slope @ edges.weights)  # (n, outputs, k)
            variance = variance + (np.square(slopes) * (d * d + d * h)[:, None]).sum(axis=2)
            step = np.maximum(step, (slopes * (d + h)[:, None]).max(axis=2, initial=0))
        allowed.append(np.sqrt(variance) + step)
    return np.asarray(sum(allowed) / len(allowed), np.float64)


def _read(head: Head, edges: Edges, activations: Mapping[Source, Array]) -> Array:
    x, features = activations[edges.source], head.features[edges.source]
    if len(features) == len(edges.features):
        return x
    return x[:, np.searchsorted(features, edges.features)]


def _slopes(part: Part, own: Mapping[Source, Array]) -> list[Array]:
    """``d output / d z`` of each source, ``(n, outputs, m)``."""
    sizes = [len(edges.bias) for edges in part.edges]
    projected = [edges.project(own[edges.source]) for edges in part.edges]
    if part.dense is None:
        return [
            np.broadcast_to(np.eye(m), (len(z), m, m))
            for m, z in zip(sizes, projected, strict=True)
        ]
    dense = part.dense
    z = np.concatenate(projected, axis=1)
    slope = np.broadcast_to(dense.weights, (len(z), *dense.weights.shape))
    if dense.hidden_weights.size:
        bend = 1 - np.square(np.tanh(z @ dense.hidden_weights.T + dense.hidden_bias))
        slope = np.einsum("noh,nh,hm->nom", slope, bend, dense.hidden_weights)
    return np.split(slope, np.cumsum(sizes)[:-1], axis=2)
