"""Silence FFN neurons of a backbone: set them to zero, or to given values.

    quiet = silenced(backbone, {3: [17, 99]})         # to zero; or to given values
    Extractor(quiet)(texts)

A neuron is silenced at the capture site: every token's input of the down projection is replaced,
so that the pooled activations, all later layers and the final hidden state see it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pipeline.backbone.hooks import replacement
from pipeline.backbone.transformer import Backbone
from pipeline.errors import BackboneError

Array = NDArray[Any]
Neurons = Mapping[int, Array]
"""Layer -> ``(k,)`` int64 neurons."""


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
        if layer not in backbone.ffn_layers:
            raise BackboneError(
                f"layer {layer}: {backbone.source} has FFNs in layers"
                f" {', '.join(map(str, backbone.ffn_layers)) or '(none)'}"
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
        hook = replacement(~constants.isnan(), constants)
        module.register_forward_pre_hook(hook, with_kwargs=True)
        digest.update(f" {layer} ".encode() + fill.tobytes())
        quiet.fingerprint = digest.hexdigest()
        quiet.older_fingerprint = None
    return quiet


def check_silenced(pooled: Array, neurons: Array, values: Array | None) -> None:
    """Make sure that pooling saw the replaced activations of a layer.

    Args:
        pooled: ``(pooling, neuron, n)`` of a :func:`silenced` backbone.
        neurons: ``(k,)`` the silenced ones.
        values: ``(k,)`` what they were set to; default 0.

    Raises:
        BackboneError: it did not.
    """
    empty = ~pooled.any(axis=1, keepdims=True)  # where there are no tokens to pool
    expected = np.zeros(len(neurons)) if values is None else values
    same = np.isclose(pooled[:, neurons], expected[:, None], rtol=1e-2, atol=1e-5)
    if not (same | empty).all():
        raise BackboneError(
            "the captured activations of silenced neurons are not what they were set to; this"
            " backbone captures them before the hooks of its down projections"
        )
