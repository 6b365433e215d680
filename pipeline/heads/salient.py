"""Which features are salient: rules over the shares of a layer's importance.

    shares = [importance_shares(feature_importance(probe.weights)) for probe in probes]
    RULES["share"](shares, 0.25)          # layer by layer its features, increasing

A feature is a neuron in one pooling. A rule takes the shares of some layers and a size, and gives
the features of each; adding a rule is one row of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import HeadConfig
from pipeline.probes import importance_shares
from store.layout import Source

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
    flat = np.concatenate(list(shares))
    return _apart(np.sort(np.argsort(-flat, kind="stable")[: int(size)]), shares)


def _apart(chosen: Array, shares: Sequence[Array]) -> list[Array]:
    """Increasing places in the layers side by side, layer by layer."""
    ends = np.cumsum([0, *(len(layer) for layer in shares)])
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


def joint_sets(
    importance: Mapping[Source, Array], size: float, config: HeadConfig
) -> dict[Source, Array]:
    """The salient features of a model on many sources, by the configured rule.

    Its weights compare across sources, so that ``share`` is one of all sources together: a source
    of little weight has few salient features or none.

    Args:
        importance: source -> ``(features,)`` norms of its weights.
        size: in the unit of ``config.select``.
        config: the rule.

    Returns:
        Source -> ``(k,)`` int64 increasing, of the sources that have any.
    """
    squares = [np.square(own) for own in importance.values()]
    total = max(float(sum(own.sum() for own in squares)), np.finfo(float).tiny)
    shares = [own / total for own in squares]
    if config.select == "share":
        found = _apart(_holding(np.concatenate(shares), size), shares)
    else:
        found = RULES[config.select](shares, size)
    return {source: own for source, own in zip(importance, found, strict=True) if len(own)}
