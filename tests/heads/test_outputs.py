"""What rounding may do to a head's outputs: as much as other kernels do, and not much more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.backbone.loading import load_backbone
from pipeline.extraction.extractor import Extractor
from pipeline.extraction.golden import golden_activations
from pipeline.heads.model import Head
from pipeline.heads.outputs import output_rounding
from pipeline.linear.fitted import Standardiser
from store.layout import Source, ffn
from tests.builders.heads import make_head
from tests.builders.models import needs_onednn

FLOAT: dict[str, str] = {"dtype": "float32", "stored": "float16"}
STATES = {Source("hidden", i): np.arange(768) for i in (0, 3, 6)}
HEADS: dict[str, Any] = {
    "one neuron": ({ffn(2): [7]}, {}),
    "few": ({ffn(1): np.arange(9), Source("hidden", 2): [3, 500]}, {}),
    "many": ({ffn(i): np.arange(3072) for i in range(6)}, {"classes": ("a", "b", "c")}),
    "states": (STATES, {"classes": ()}),
    "a network": ({ffn(i): np.arange(0, 3072, 5) for i in range(4)}, {"hidden_width": 8}),
    "a network without a hidden layer": ({ffn(0): np.arange(50)}, {"hidden_width": 0}),
}


def fitted(head: Head, activations: dict[Source, np.ndarray]) -> Head:
    """The head with the standardisers that its features' values have, as after training."""
    parts = []
    for part in head.parts:
        edges = []
        for own in part.edges:
            known = Standardiser.fit(activations[own.source][:, own.features])
            edges.append(replace(own, standardiser=known))
        parts.append(replace(part, edges=tuple(edges)))
    return replace(head, parts=tuple(parts))


@needs_onednn
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_kernels_and_layouts_are_within(dtype: Any, minilm: str) -> None:
    ways: tuple[dict[str, Any], ...] = (
        {"engine": "torch"},
        {"engine": "onednn"},
        {"engine": "onednn", "attention": "padded"},
    )
    backbones = [load_backbone(minilm, dtype=dtype, **way) for way in ways]
    found = [
        golden_activations(Extractor(one, hidden="all"), stored_dtype="float16")
        for one in backbones
    ]
    for name, (features, options) in HEADS.items():
        head = fitted(make_head(backbones[0], features, **options), found[0])
        own = {source: found[0][source][:, index] for source, index in head.features.items()}
        allowed = output_rounding(head, own, dtype=dtype, stored="float16")
        first, *others = (head.outputs_full(one) for one in found)
        assert allowed.shape == first.shape
        for outputs in others:
            assert (np.abs(outputs - first) <= allowed).all(), name


def test_values_of_another_model_are_beyond(minilm: str) -> None:
    """The bound is no more than rounding: values that are off by a twentieth break it."""
    backbone = load_backbone(minilm, engine="torch")
    found = golden_activations(Extractor(backbone, hidden="all"), stored_dtype="float16")
    draw = np.random.default_rng(0)
    rough = {
        source: (x * (1 + 0.05 * draw.standard_normal(x.shape))).astype(np.float32)
        for source, x in found.items()
    }
    for name, (features, options) in HEADS.items():
        head = fitted(make_head(backbone, features, **options), found)
        own = {source: found[source][:, index] for source, index in head.features.items()}
        allowed = output_rounding(head, own, **FLOAT)
        moved = np.abs(head.outputs_full(rough) - head.outputs_full(found))
        assert (moved > allowed).any(), name


def test_a_linear_heads_bound_is_its_formula(tiny_bert: Any) -> None:
    head = make_head(load_backbone(tiny_bert), {ffn(1): [4, 60]})
    edges = head.parts[0].edges[0]
    x = (edges.standardiser.mean + edges.standardiser.scale)[None].astype(np.float16)
    usual = np.hypot(edges.standardiser.mean, edges.standardiser.scale)
    d = 2.0**-18 * np.maximum(np.abs(x[0].astype(float)), usual) + 2.0**-21
    h = 2.0**-10 * np.abs(x[0].astype(float))
    gain = np.abs(edges.weights[0] / edges.standardiser.scale).astype(float)
    expected = np.sqrt((gain**2 * (d * d + d * h)).sum()) + (gain * (d + h)).max()
    found = output_rounding(head, {ffn(1): x.astype(np.float32)}, **FLOAT)
    np.testing.assert_allclose(found, [[expected]], rtol=1e-5)


def test_the_slopes_of_a_network_are_its_derivatives(tiny_bert: Any) -> None:
    """A feature that alone may move, and by little, moves the outputs by the bound's two terms."""
    head = make_head(load_backbone(tiny_bert), {ffn(0): [5]}, hidden_width=4, classes=tuple("abc"))
    standardiser = head.parts[0].edges[0].standardiser
    x = (standardiser.mean + 0.3 * standardiser.scale)[None].astype(np.float32)
    d = 2.0**-19 * np.maximum(np.abs(x), np.hypot(standardiser.mean, standardiser.scale)) + 2.0**-21
    h = 2.0**-10 * np.abs(x)
    move = np.float32(1e-3)
    slope = (head.outputs({ffn(0): x + move}) - head.outputs({ffn(0): x - move})) / (2 * move)
    expected = np.abs(slope) * (np.sqrt(d * d + d * h) + d + h)
    np.testing.assert_allclose(output_rounding(head, {ffn(0): x}, **FLOAT), expected, rtol=0.02)


def test_what_is_clipped_does_not_move(tiny_bert: Any) -> None:
    head = make_head(load_backbone(tiny_bert), {ffn(0): [5, 6]})
    edges = head.parts[0].edges[0]
    far = (edges.standardiser.mean + 100 * edges.standardiser.scale)[None].astype(np.float32)
    assert output_rounding(head, {ffn(0): far}, **FLOAT).max() == 0
