"""Which features are salient: rules over the shares of a layer's importance.

    shares = [importance_shares(feature_importance(probe.weights)) for probe in probes]
    RULES["share"](shares, 0.25)          # layer by layer its features, increasing

A feature is a neuron in one pooling. A rule takes the shares of layers ``0..d`` and a size, and
gives the features of each; adding a rule is one row of the table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import HeadConfig
from pipeline.probes import Probe, importance_shares

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


@dataclass(frozen=True)
class SalientLayer:
    """The salient slices of one layer, for the rows of one task.

    Attributes:
        layer: the layer's index.
        probe: the Phase-1 probe that heads build on.
        features: ``(k,)`` int64 increasing: all that any candidate reads.
        train: ``(n, k)`` float32 standardised activations.
        val: ``(m, k)`` float32 raw activations.
        shares: ``(poolings * neurons,)`` each feature's share of the layer's importance.
        fold_shares: the same by the probe fitted without each fold; empty unless heads are judged
            by cross-validation.
    """

    layer: int
    probe: Probe
    features: Array
    train: Array
    val: Array
    shares: Array
    fold_shares: tuple[Array, ...] = ()

    def standardised(self, features: Array) -> Array:
        """Training rows of some features, ``(n, k)`` float32, standardised as in Phase 1."""
        return np.asarray(self.train[:, np.searchsorted(self.features, features)])

    def probe_outputs(self, features: Array) -> Array:
        """The probe's outputs ``(n, outputs)`` for the training rows from some features alone."""
        weights = self.probe.weights[:, features]
        return np.asarray(self.standardised(features) @ weights.T + self.probe.bias)

    def fold_outputs(self, features: Sequence[Array], folds: Array) -> Array:
        """The same, of each row by the probe fitted without its fold.

        Args:
            features: fold -> ``(k,)`` what its probe reads.
            folds: ``(n,)`` fold of each training row.
        """
        probe = self.probe
        out = np.empty((len(folds), len(probe.bias)), np.float32)
        for k, (weights, bias) in enumerate(zip(probe.fold_weights, probe.fold_bias, strict=True)):
            rows, own = folds == k, features[k]
            out[rows] = self.standardised(own)[rows] @ weights[:, own].T + bias
        return out

    def raw_val(self, features: Array) -> Array:
        """Validation rows of some features, ``(m, k)`` float32, raw."""
        return np.asarray(self.val[:, np.searchsorted(self.features, features)])


@dataclass(frozen=True)
class SalientSets:
    """The salient features of layers ``0..d`` for one size; layers without any are left out.

    Attributes:
        layers: the layers' slices.
        whole: per layer ``(k,)`` int64 feature indices.
        folds: the same by the probes fitted without each fold; empty if not asked for.
    """

    layers: tuple[SalientLayer, ...]
    whole: tuple[Array, ...]
    folds: tuple[tuple[Array, ...], ...]

    def pairs(self, fold: int | None = None) -> Iterator[tuple[SalientLayer, Array]]:
        """(layer, features) of the whole probe, or of one fitted without a fold."""
        return zip(self.layers, self.whole if fold is None else self.folds[fold], strict=True)

    def standardised(self, fold: int | None = None) -> Array:
        """Training rows of all layers side by side, ``(n, features)`` float32."""
        pairs = list(self.pairs(fold))
        num_rows = len(self.layers[0].train)
        out = np.empty((num_rows, sum(len(own) for _, own in pairs)), np.float32)
        start = 0
        for layer, own in pairs:
            columns = np.searchsorted(layer.features, own)
            np.take(layer.train, columns, axis=1, out=out[:, start : start + len(own)])
            start += len(own)
        return out

    def standardised_val(self) -> Array:
        """Validation rows of all layers side by side, ``(m, features)`` float32."""
        parts = [
            layer.probe.standardiser.take(own).apply(layer.raw_val(own), in_place=True)
            for layer, own in self.pairs()
        ]
        return np.concatenate(parts, axis=1)


def salient_sets(
    layers: Sequence[SalientLayer], depth: int, size: float, config: HeadConfig
) -> SalientSets:
    """The salient sets of layers ``0..depth`` by the configured rule."""
    rule = RULES[config.select]
    layers = layers[: depth + 1]
    whole = rule([layer.shares for layer in layers], size)
    used = [i for i, own in enumerate(whole) if len(own)]
    folds = []
    for k in range(len(layers[0].fold_shares)):
        found = rule([layer.fold_shares[k] for layer in layers], size)
        folds.append(tuple(found[i] for i in used))
    return SalientSets(tuple(layers[i] for i in used), tuple(whole[i] for i in used), tuple(folds))


def features_read(
    shares: Sequence[Array], fold_shares: Sequence[Sequence[Array]], config: HeadConfig
) -> list[Array]:
    """Per layer ``(k,)`` int64 increasing: the features that any candidate of a sweep reads.

    Args:
        shares: per layer, see :class:`SalientLayer`.
        fold_shares: per layer and fold.
        config: rule and sizes.
    """
    rule = RULES[config.select]
    read: list[Array] = [np.zeros(0, np.int64) for _ in shares]
    for source in (shares, *zip(*fold_shares, strict=True)):
        for depth in range(len(shares)):
            # Only a budget over all layers depends on the depth.
            if config.select != "budget" and depth < len(shares) - 1:
                continue
            for size in config.sizes:
                for i, own in enumerate(rule(source[: depth + 1], size)):
                    read[i] = np.union1d(read[i], own)
    return read
