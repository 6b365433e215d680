"""What an ablation silences: salient neurons, as many random ones, and what takes their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.backbone import Neurons
from pipeline.errors import ConfigError
from pipeline.heads import salient_features
from store import ActivationStore

Array = NDArray[Any]
MEAN_ROWS = 2048


def salient_neurons(
    importance: pa.Table, layers: Sequence[int], *, top: int | None, share: float | None
) -> dict[int, Array]:
    """The most important neurons of each layer, by ``neuron_importance`` (over all poolings).

    Args:
        importance: a run's importance table.
        layers: the layers wanted.
        top: so many a layer; or
        share: the smallest set with this share of the layer's squared importance.

    Returns:
        Layer -> ``(k,)`` int64 neurons, increasing.

    Raises:
        ConfigError: no such layer, or more neurons than the layer has.
    """
    layer_of = importance["layer"].to_numpy()
    pooling_of = importance["pooling"].to_numpy(zero_copy_only=False)
    values, neuron_of = importance["neuron_importance"].to_numpy(), importance["neuron"].to_numpy()
    chosen: dict[int, Array] = {}
    for layer in layers:
        rows = np.flatnonzero(layer_of == layer)
        if not len(rows):
            raise ConfigError(
                f"--layer {layer}: the run has layers {layer_of.min()}..{layer_of.max()}"
            )
        # A neuron's importance is repeated in the rows of all its poolings.
        rows = rows[pooling_of[rows] == pooling_of[rows[0]]]
        if top is None:
            assert share is not None
            picked = salient_features(values[rows], share)
        elif top > len(rows):
            raise ConfigError(f"--top {top}: layer {layer} has {len(rows)} neurons")
        else:
            picked = np.argsort(-values[rows], kind="stable")[:top]
        chosen[layer] = np.sort(neuron_of[rows[picked]]).astype(np.int64)
    return chosen


def random_neurons(like: Neurons, neuron_size: int, *, seed: int, draw: int) -> dict[int, Array]:
    """As many neurons of the same layers, drawn from all of each layer; increasing."""
    return {
        layer: np.sort(
            np.random.default_rng([seed, draw, layer]).choice(neuron_size, len(chosen), False)
        )
        for layer, chosen in like.items()
    }


def token_means(
    store: ActivationStore, layer: int, positions: Array, *, unpooled: int | Array = 0
) -> Array:
    """Every neuron's mean over all pooled tokens of some texts, from what is stored.

    The stored mean of each text counts as often as the text has tokens, so nothing but the
    precision of the stored values is lost against a mean over the tokens themselves.

    Args:
        store: one with the pooling "mean".
        layer: the layer.
        positions: ``(n,)`` samples; repeated ones count once.
        unpooled: tokens of each text that were not pooled, or ``(n,)`` of every text.

    Returns:
        ``(neuron,)`` float64.

    Raises:
        ConfigError: the store lacks the pooling.
    """
    schema = store.schema
    if "mean" not in schema.poolings:
        raise ConfigError(
            f"--with mean: {store} holds the poolings {list(schema.poolings)} but not 'mean';"
            " use --with zero"
        )
    first = schema.poolings.index("mean") * schema.neuron_size
    features = np.arange(first, first + schema.neuron_size)
    samples = store.samples()
    chosen, first_of = np.unique(positions, return_index=True)
    rows = np.searchsorted(samples["position"].to_numpy(), chosen)
    left_out = np.broadcast_to(unpooled, np.shape(positions))[first_of]
    weight = np.maximum(samples["n_tokens"].to_numpy()[rows] - left_out, 0).astype(float)
    total = np.zeros(schema.neuron_size)
    for start in range(0, len(chosen), MEAN_ROWS):
        part = slice(start, start + MEAN_ROWS)
        total += weight[part] @ store.read_features(
            layer=layer, features=features, samples=chosen[part]
        )
    return np.asarray(total / max(weight.sum(), 1.0))
