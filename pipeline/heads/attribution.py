"""Why a head decided so: what each salient activation of one text adds to each output.

    found = contributions(head, {layer: x[layer] for layer in head.features})
    found.base + sum(part.sum(axis=0) for part in found.parts.values())     # the outputs

The base is the output for the average training text. In a linear head a feature adds its weight
times its standardised activation. Through the dense network of a frozen head it is the integrated
gradient on the straight way from the average text to this one (Sundararajan et al. 2017, arXiv
1703.01365), exact here: along a line, tanh's mean slope is its rise over the line's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.heads.model import Dense, Head, Part

Array = NDArray[Any]


@dataclass(frozen=True)
class Contributions:
    """What adds up to the outputs of a head for one text.

    Attributes:
        outputs: ``(m,)`` float64 calibrated logits (one for two classes) or the value.
        base: ``(m,)`` the outputs for the average training text.
        parts: layer -> ``(k, m)`` float64, rows as in ``head.features[layer]``.
        standardised: layer -> ``(k,)`` standardised activations, the mean over the head's parts.
    """

    outputs: Array
    base: Array
    parts: dict[int, Array]
    standardised: dict[int, Array]

    def towards(self, decided: int | None) -> dict[int, Array]:
        """Layer -> ``(k,)``: what speaks for a class against the average of all classes.

        Args:
            decided: its index; None for regression: what raises the value.
        """
        if len(self.outputs) > 1:
            return {i: part[:, decided] - part.mean(axis=1) for i, part in self.parts.items()}
        # Of two classes there is one logit, the second's.
        sign = -1 if decided == 0 else 1
        return {i: sign * part[:, 0] for i, part in self.parts.items()}


def contributions(head: Head, activations: Mapping[int, Array]) -> Contributions:
    """Explain the outputs for one text.

    Args:
        head: the head.
        activations: layer -> ``(k,)`` raw activations of ``head.features[layer]``, in order.
    """
    features = head.features
    rows = {layer: np.asarray(activations[layer])[None] for layer in features}
    outputs = head.outputs(rows)[0].astype(np.float64)
    num_parts = len(head.parts)
    sums = {layer: np.zeros((len(index), len(outputs))) for layer, index in features.items()}
    scaled = {layer: np.zeros(len(index)) for layer, index in features.items()}
    readers = {layer: np.zeros(len(index)) for layer, index in features.items()}
    for part in head.parts:
        standardised = [
            edges.standardiser.apply(
                rows[edges.layer][:, np.searchsorted(features[edges.layer], edges.features)]
            )[0].astype(np.float64)
            for edges in part.layers
        ]
        for edges, x, weights in zip(
            part.layers, standardised, _effective(part, standardised), strict=True
        ):
            at = np.searchsorted(features[edges.layer], edges.features)
            sums[edges.layer][at] += weights.T * x[:, None] / num_parts
            scaled[edges.layer][at] += x
            readers[edges.layer][at] += 1
    base = outputs - sum(part.sum(axis=0) for part in sums.values())
    scaled = {layer: x / np.maximum(readers[layer], 1) for layer, x in scaled.items()}
    return Contributions(outputs, base, sums, scaled)


def _effective(part: Part, standardised: list[Array]) -> list[Array]:
    """Per layer ``(m, k)``: outputs by standardised activation, on average along the way."""
    weights = [edges.weights.astype(np.float64) for edges in part.layers]
    if part.dense is None:
        return weights
    moves = [w @ x for w, x in zip(weights, standardised, strict=True)]
    start = np.concatenate([edges.bias for edges in part.layers]).astype(np.float64)
    slopes = _mean_slopes(part.dense, start, np.concatenate(moves))
    ends = np.cumsum([len(move) for move in moves])[:-1]
    columns = np.split(slopes, ends, axis=1)
    return [by_layer @ w for by_layer, w in zip(columns, weights, strict=True)]


def _mean_slopes(dense: Dense, start: Array, move: Array) -> Array:
    """``(outputs, inputs)`` mean gradient of a dense network from ``start`` to ``start + move``."""
    if not dense.hidden_weights.size:
        return dense.weights.astype(np.float64)
    inner = dense.hidden_weights.astype(np.float64)
    low = inner @ start + dense.hidden_bias
    rise = inner @ move
    flat = np.abs(rise) < 1e-6
    steep = np.tanh(low + rise) - np.tanh(low)
    slope = np.where(flat, 1 - np.tanh(low) ** 2, steep / np.where(flat, 1.0, rise))
    return np.asarray(dense.weights.astype(np.float64) @ (slope[:, None] * inner))
