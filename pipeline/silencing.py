"""Silence FFN neurons of a backbone; choose which, and what they are set to.

    quiet = silenced(backbone, {3: [17, 99]})         # to zero; or to given values
    Extractor(quiet)(texts)

A neuron is silenced at the capture site: every token's input of the down projection is replaced,
so that the pooled activations, all later layers and the final hidden state see it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from pipeline.backbone import Backbone
from pipeline.errors import BackboneError, ConfigError
from pipeline.selection import salient_features
from store import ActivationStore

Array = NDArray[Any]
Neurons = Mapping[int, Array]
"""Layer -> ``(k,)`` int64 neurons."""
MEAN_ROWS = 2048


def refuse_shared(backbone: Backbone) -> None:
    """Refuse backbones whose blocks share one FFN, as ALBERT's.

    Raises:
        BackboneError: naming the model.
    """
    if backbone.site.shared:
        raise BackboneError(
            f"{backbone.source}: all blocks of {backbone.model_type!r} share one FFN, so the"
            " neurons of one layer cannot be silenced alone; use another backbone"
        )


def silenced(
    backbone: Backbone,
    neurons: Mapping[int, ArrayLike],
    values: Mapping[int, ArrayLike] | None = None,
) -> Backbone:
    """A backbone on the same weights in which neurons have a constant activation on every token.

    Whatever captures its activations sees the constants. The given backbone stays as it is, and
    both may run at the same time.

    Args:
        backbone: any but those whose blocks share one module.
        neurons: layer -> ``(k,)`` neurons; layers without any are left alone.
        values: layer -> ``(k,)`` or scalar replacement; default 0.

    Returns:
        With a fingerprint of its own, if there is any neuron to silence.

    Raises:
        BackboneError: no such layer or neuron, shared blocks (ALBERT), or neurons cut before.
    """
    refuse_shared(backbone)
    if backbone.last is not None:
        raise BackboneError(
            f"{backbone.source}: its last block computes some neurons only; silence the full one"
        )
    quiet = backbone.twin()
    digest = hashlib.sha256(backbone.fingerprint.encode())
    for layer, chosen in sorted(neurons.items()):
        index = np.asarray(chosen, np.int64)
        if not 0 <= layer < backbone.num_layers:
            raise BackboneError(
                f"layer {layer}: {backbone.source} runs layers 0..{backbone.num_layers - 1}"
            )
        if not len(index):
            continue
        if index.min() < 0 or index.max() >= backbone.neuron_size:
            raise BackboneError(
                f"layer {layer}: neurons {index.min()}..{index.max()} are not all in"
                f" 0..{backbone.neuron_size - 1}"
            )
        fill = np.full(backbone.neuron_size, np.nan)
        fill[index] = 0.0 if values is None else np.asarray(values[layer])
        module = quiet.network.get_submodule(quiet.site.inner(quiet.site.down, layer))
        constants = torch.from_numpy(fill).to(backbone.device, backbone.dtype)
        hook = _replacement(~constants.isnan(), constants)
        module.register_forward_pre_hook(hook, with_kwargs=True)
        digest.update(f" {layer} ".encode() + fill.tobytes())
        quiet.fingerprint = digest.hexdigest()
    return quiet


def _replacement(mask: Tensor, fill: Tensor) -> Callable[..., Any]:
    """A forward pre-hook without state, so that further twins may share it."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (torch.where(mask, fill, args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": torch.where(mask, fill, kwargs["hidden_states"])}

    return hook


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
    store: ActivationStore, layer: int, positions: Array, *, special_tokens: int = 0
) -> Array:
    """Every neuron's mean over all pooled tokens of some texts, from what is stored.

    The stored mean of each text counts as often as the text has tokens, so nothing but the
    precision of the stored values is lost against a mean over the tokens themselves.

    Args:
        store: one with the pooling "mean".
        layer: the layer.
        positions: ``(n,)`` samples; repeated ones count once.
        special_tokens: tokens of each text that were not pooled.

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
    chosen = np.unique(positions)
    rows = np.searchsorted(samples["position"].to_numpy(), chosen)
    weight = np.maximum(samples["n_tokens"].to_numpy()[rows] - special_tokens, 0).astype(float)
    total = np.zeros(schema.neuron_size)
    for start in range(0, len(chosen), MEAN_ROWS):
        part = slice(start, start + MEAN_ROWS)
        total += weight[part] @ store.read_features(
            layer=layer, features=features, samples=chosen[part]
        )
    return np.asarray(total / max(weight.sum(), 1.0))


def check_silenced(pooled: Array, neurons: Array, values: Array | None) -> None:
    """Make sure that pooling saw the replaced activations of a layer.

    Args:
        pooled: ``(pooling, neuron, n)`` of a :func:`silenced` backbone.
        neurons: ``(k,)`` the silenced ones.
        values: ``(k,)`` what they were set to; default 0.

    Raises:
        BackboneError: it did not.
    """
    texts = pooled.any(axis=(0, 1))  # those that have tokens
    seen = pooled[:, neurons][..., texts]
    expected = np.zeros(len(neurons)) if values is None else values
    if not np.allclose(seen, expected[:, None], rtol=1e-2, atol=1e-5):
        raise BackboneError(
            "the captured activations of silenced neurons are not what they were set to; this"
            " backbone captures them before the hooks of its down projections"
        )
