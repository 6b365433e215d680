"""Why a head decided so: what each feature of one text adds to each output.

    found = contributions(head, {source: x[source] for source in head.features})
    found.base + sum(part.sum(axis=0) for part in found.parts.values())     # the outputs

The base is the output for the average training text; of n-grams, which are not centred, for a text
without any. In a linear head a feature adds its weight
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
from store.layout import Source

Array = NDArray[Any]


@dataclass(frozen=True)
class Contributions:
    """What adds up to the outputs of a head for one text.

    Attributes:
        outputs: ``(m,)`` float64 calibrated logits (one for two classes) or the value.
        base: ``(m,)`` the outputs for the average training text, without n-grams.
        parts: source -> ``(k, m)`` float64, rows as in ``head.features[source]``.
        standardised: source -> ``(k,)`` standardised activations, the mean over the head's parts.
    """

    outputs: Array
    base: Array
    parts: dict[Source, Array]
    standardised: dict[Source, Array]

    def towards(self, decided: int | None, *, alone: bool = False) -> dict[Source, Array]:
        """Source -> ``(k,)``: what speaks for a class against the average of all classes.

        Args:
            decided: its index; None for regression: what raises the value.
            alone: it is a label, decided for by itself: what raises its own output.
        """
        if len(self.outputs) > 1:
            return {
                i: part[:, decided] - (0 if alone else part.mean(axis=1))
                for i, part in self.parts.items()
            }
        # Of two classes there is one logit, the second's.
        sign = -1 if decided == 0 else 1
        return {i: sign * part[:, 0] for i, part in self.parts.items()}


def contributions(head: Head, activations: Mapping[Source, Array]) -> Contributions:
    """Explain the outputs for one text.

    Args:
        head: the head.
        activations: source -> ``(k,)`` raw activations of ``head.features[source]``, in order.
    """
    features = head.features
    rows = {source: np.asarray(activations[source])[None] for source in features}
    outputs = head.outputs(rows)[0].astype(np.float64)
    num_parts = len(head.parts)
    sums = {source: np.zeros((len(index), len(outputs))) for source, index in features.items()}
    scaled = {source: np.zeros(len(index)) for source, index in features.items()}
    readers = {source: np.zeros(len(index)) for source, index in features.items()}
    for part in head.parts:
        standardised = [
            edges.standardiser.apply(
                rows[edges.source][:, np.searchsorted(features[edges.source], edges.features)]
            )[0].astype(np.float64)
            for edges in part.edges
        ]
        for edges, x, weights in zip(
            part.edges, standardised, _effective(part, standardised), strict=True
        ):
            at = np.searchsorted(features[edges.source], edges.features)
            sums[edges.source][at] += weights.T * x[:, None] / num_parts
            scaled[edges.source][at] += x
            readers[edges.source][at] += 1
    base = outputs - sum(part.sum(axis=0) for part in sums.values())
    scaled = {source: x / np.maximum(readers[source], 1) for source, x in scaled.items()}
    return Contributions(outputs, base, sums, scaled)


def _effective(part: Part, standardised: list[Array]) -> list[Array]:
    """Per source ``(m, k)``: outputs by standardised activation, on average along the way."""
    weights = [edges.weights.astype(np.float64) for edges in part.edges]
    if part.dense is None:
        return weights
    moves = [w @ x for w, x in zip(weights, standardised, strict=True)]
    start = np.concatenate([edges.bias for edges in part.edges]).astype(np.float64)
    slopes = _mean_slopes(part.dense, start, np.concatenate(moves))
    ends = np.cumsum([len(move) for move in moves])[:-1]
    columns = np.split(slopes, ends, axis=1)
    return [slope @ w for slope, w in zip(columns, weights, strict=True)]


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
