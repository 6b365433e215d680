"""Which features are salient: rules over the shares of a layer's importance.

    shares = [importance_shares(feature_importance(probe.weights)) for probe in probes]
    RULES["share"](shares, 0.25)          # layer by layer its features, increasing

A feature is a neuron in one pooling. A rule takes the shares of layers ``0..d`` and a size, and
gives the features of each; adding a rule is one row of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.probe import importance_shares

Array = NDArray[Any]


def salient_features(importance: Array, eta: float) -> Array:
    """The smallest set with a share ``eta`` of the layer's squared importance (SPIN's rule).

    Args:
        importance: ``(features,)``.
        eta: share in (0, 1].

    Returns:
        Feature indices in increasing order, int64; at least one.
    """
    return _holding(importance_shares(importance), eta)


def _holding(shares: Array, eta: float) -> Array:
    order = np.argsort(-shares, kind="stable")
    cumulative = np.cumsum(shares[order])
    if cumulative[-1] == 0:
        return np.zeros(1, dtype=np.int64)
    size = int(np.searchsorted(cumulative, eta * cumulative[-1] * (1 - 1e-12))) + 1
    return np.sort(order[: min(size, len(order))])


def by_share(shares: Sequence[Array], size: float) -> list[Array]:
    """Of each layer the smallest set that holds the share ``size``."""
    return [_holding(layer, size) for layer in shares]


def by_top_k(shares: Sequence[Array], size: float) -> list[Array]:
    """Of each layer the ``size`` features with the largest shares."""
    return [np.sort(np.argsort(-layer, kind="stable")[: int(size)]) for layer in shares]


def by_budget(shares: Sequence[Array], size: float) -> list[Array]:
    """The ``size`` features with the largest shares over all layers; a layer may have none.

    Shares make layers comparable whose probes were fitted with different penalties.
    """
    ends = np.cumsum([0, *(len(layer) for layer in shares)])
    chosen = np.sort(np.argsort(-np.concatenate(list(shares)), kind="stable")[: int(size)])
    places = np.searchsorted(chosen, ends)
    return [
        chosen[start:stop] - first
        for start, stop, first in zip(places[:-1], places[1:], ends[:-1], strict=True)
    ]


RULES: dict[str, Callable[[Sequence[Array], float], list[Array]]] = {
    "share": by_share,
    "top_k": by_top_k,
    "budget": by_budget,
}
