"""What a freshly loaded backbone must prove before it is used.

Sizes are measured, not believed; packing and fast kernels are kept only if the model's last
activations stay what they were for a few random texts, each run alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.backbone.attention import PACKED
from pipeline.backbone.engine import Engine, speed_up
from pipeline.backbone.sites import input_width
from pipeline.backbone.transformer import Backbone
from pipeline.errors import BackboneError

TEXT_LENGTHS = (3, 7, 7, 19, 5)
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Largest difference that rounding may make, relative to the largest activation."""


def measure_sizes(backbone: Backbone) -> None:
    """Find the widths and the work per token in a dry run.

    Raises:
        BackboneError: the site is not reached once per block, or widths differ between blocks.
    """
    text = _texts(backbone)[0]
    widths: list[int] = []
    layers: list[int] = []
    spent = 0.0

    def count(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal spent
        spent += 2.0 * args[0].shape[-1] * output.numel() / len(text)

    def on_ffn(layer: int, tokens: Tensor) -> None:
        layers.append(layer)
        widths.append(tokens.shape[1])
        backbone.linear_flops.append(spent)

    def on_hidden(_: int, tokens: Tensor) -> None:
        backbone.hidden_size = tokens.shape[1]

    linears = [layer for layer in backbone.network.modules() if input_width(layer) is not None]
    handles = [layer.register_forward_hook(count) for layer in linears]
    truncated, backbone.truncated = backbone.truncated, False
    try:
        backbone.run(
            backbone.batch([text], packed=False),
            on_ffn=on_ffn,
            on_hidden=on_hidden,
            hidden_layers=(backbone.num_layers,),
        )
    finally:
        backbone.truncated = truncated
        for handle in handles:
            handle.remove()
    if layers != list(range(backbone.num_layers)) or len(set(widths)) != 1:
        raise BackboneError(
            f"{backbone.source}: {backbone.site.down} was reached in blocks {layers} with widths "
            f"{sorted(set(widths))}, not once in each of {backbone.num_layers} blocks with one "
            "width; set ffn_site to the path of the FFN's down projection"
        )
    backbone.linear_flops.append(spent)
    backbone.neuron_size = widths[0]


def try_packing(backbone: Backbone, *, required: bool) -> None:
    """Pack batches if the architecture allows it and packed texts equal each text alone.

    Raises:
        BackboneError: packing is required but does not work.
    """
    if not backbone.site.packs:
        if required:
            raise BackboneError(
                f"{backbone.source}: {backbone.model_type!r} cannot be packed; use "
                "attention = 'padded'"
            )
        return
    texts = _texts(backbone)
    alone = torch.cat([_last_activations(backbone, [text], packed=False) for text in texts])
    previous = backbone.network.config._attn_implementation  # type: ignore[union-attr]
    try:
        backbone.network.set_attn_implementation(PACKED)  # type: ignore[operator]
        error = _difference(_last_activations(backbone, texts, packed=True), alone)
    except (NotImplementedError, RuntimeError, ValueError, TypeError) as trouble:
        error, reason = float("inf"), str(trouble)
    else:
        reason = f"relative error {error:.1e}"
    if error <= TOLERANCE[backbone.dtype]:
        backbone.packs = True
        return
    backbone.network.set_attn_implementation(previous)  # type: ignore[operator]
    if required:
        raise BackboneError(
            f"{backbone.source}: packed texts differ from texts alone ({reason}); use "
            "attention = 'padded'"
        )


def change_kernels(backbone: Backbone, engine: Engine) -> None:
    """Change to faster kernels.

    Raises:
        BackboneError: the whole model no longer computes the same.
    """
    texts = _texts(backbone)
    before = _last_activations(backbone, texts, packed=backbone.packs)
    backbone.engine = speed_up(
        backbone.network,
        backbone.site,
        num_layers=backbone.num_layers,
        engine=engine,
        dtype=backbone.dtype,
    )
    try:
        after = _last_activations(backbone, texts, packed=backbone.packs)
        error = _difference(after, before)
    except (NotImplementedError, RuntimeError):  # the model computes with the weights by itself
        error = float("inf")
    if not error <= TOLERANCE[backbone.dtype]:
        raise BackboneError(
            f"{backbone.source}: the fast kernels change this {backbone.model_type!r} model's "
            "activations; load it with engine = 'torch'"
        )


def _texts(backbone: Backbone) -> list[NDArray[np.int64]]:
    generator = np.random.default_rng(0)
    vocabulary = int(backbone.config.vocab_size)
    return [
        generator.integers(0, vocabulary, min(length, backbone.max_length))
        for length in TEXT_LENGTHS
    ]


def _last_activations(
    backbone: Backbone, texts: Sequence[NDArray[np.int64]], *, packed: bool
) -> Tensor:
    """The last site's activations of all texts in turn, (tokens, neuron) float32."""
    kept: list[Tensor] = []
    batch = backbone.batch(texts, packed=packed)
    backbone.run(
        batch,
        on_ffn=lambda _, tokens: kept.append(tokens.float()),
        layers=(backbone.num_layers - 1,),
    )
    slots = np.concatenate(
        [np.arange(first, first + n) for first, n in zip(batch.starts, batch.lengths, strict=True)]
    )
    return kept[0][torch.from_numpy(slots).to(kept[0].device)]


def _difference(values: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest value; NaN if a value is."""
    return float((values - expected).abs().max() / expected.abs().max())
