"""Activations across kernels and layouts count as the same, those of another model do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.backbone.loading import load_backbone
from pipeline.backbone.transformer import Backbone
from pipeline.extraction.extractor import Extractor
from pipeline.extraction.golden import golden_activations
from pipeline.extraction.rounding import allowance, departure
from store.layout import Source, ffn
from tests.builders.models import FAMILIES, make_tiny_model, needs_onednn

SAMPLE = ("bert", "gpt2", "t5", "xlnet", "gemma2")
"""One family of each kind; the others are slow."""
WAYS: tuple[dict[str, Any], ...] = (
    {"engine": "torch"},
    {"engine": "onednn"},
    {"engine": "torch", "attention": "padded"},
    {"engine": "onednn", "attention": "padded"},
)


def golden(backbone: Backbone, *, stored: str = "float16", **options: Any) -> dict[Source, Any]:
    return golden_activations(Extractor(backbone, hidden="all", **options), stored_dtype=stored)


@needs_onednn
@pytest.mark.parametrize("stored", ["float16", "float32"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("which", ["bert", "gpt2", "llama", "modernbert", "minilm"])
def test_kernels_layouts_and_batches_agree(
    which: str, dtype: Any, stored: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if which == "minilm":
        path = Path(request.getfixturevalue("minilm"))
    else:  # weights as small as trained ones'
        path = make_tiny_model(which, tmp_path, spread=False)
    first, *others = (load_backbone(path, dtype=dtype, **way) for way in WAYS)
    recorded = golden(first, stored=stored)
    again = golden(first, stored=stored, batch_tokens=64)
    for found in (again, *(golden(other, stored=stored) for other in others)):
        assert departure(recorded, found, dtype=dtype, stored=stored) <= 1


@pytest.mark.parametrize(
    "family",
    [
        family if family in SAMPLE else pytest.param(family, marks=pytest.mark.slow)
        for family in FAMILIES
    ],
)
def test_no_family_is_farther_apart_than_allowed(family: str, tmp_path: Path) -> None:
    """Even with wide random weights, which let rounding grow."""
    path = make_tiny_model(family, tmp_path)
    packed, padded = load_backbone(path), load_backbone(path, attention="padded", engine="torch")
    found = departure(golden(packed), golden(padded), dtype="float32", stored="float16")
    assert found <= 1


def scaled_by_noise(backbone: Backbone, name: str, size: float) -> None:
    weight = backbone.network.get_parameter(name)
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weight.mul_((1 + size * noise).to(weight.dtype))


BLOCK = "encoder.layer.0"
CHANGES: dict[str, Callable[[Backbone], None]] = {
    "the first FFN matrix": lambda b: scaled_by_noise(
        b, f"{BLOCK}.intermediate.dense.weight", 1e-2
    ),
    "the second FFN matrix": lambda b: scaled_by_noise(b, f"{BLOCK}.output.dense.weight", 1e-2),
    "the queries": lambda b: scaled_by_noise(b, f"{BLOCK}.attention.self.query.weight", 1e-2),
    "the embeddings": lambda b: scaled_by_noise(b, "embeddings.word_embeddings.weight", 1e-2),
    "the tokenizer": lambda b: b.tokenizer.add_tokens(["coffee", "day", "now"]) and None,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_model_is_told_from_rounding(change: str, minilm: str) -> None:
    backbone = load_backbone(minilm, engine="torch")
    recorded = golden(backbone)
    CHANGES[change](backbone)
    assert departure(recorded, golden(backbone), dtype="float32", stored="float16") > 2


def test_another_precision_is_told_from_rounding(minilm: str) -> None:
    exact, rough = (load_backbone(minilm, dtype=dtype) for dtype in ("float32", "bfloat16"))
    assert departure(golden(exact), golden(rough), dtype="float32", stored="float16") > 2


def test_a_step_of_the_stored_type_is_allowed() -> None:
    values = np.array([[1.0, -0.3, 1e-7, 0.0]])
    for source, silent in ((ffn(3), True), (Source("hidden", 3), False)):
        d, h = allowance(values, np.abs(values[0]), source, dtype="float32", stored="float16")
        np.testing.assert_allclose(h, [[2**-10, 0.3 * 2**-10, 2**-24, 2**-24]])
        assert (d[0, 3] > 0) == silent
        assert d[0, 0] < 1e-5 < h[0, 0]
    wider, _ = allowance(values, np.full(4, 2.0), source, dtype="float32", stored="float16")
    assert (wider > d).all()
    rough, _ = allowance(values, np.abs(values[0]), source, dtype="bfloat16", stored="float16")
    assert rough[0, 0] > 1000 * d[0, 0]


def test_departures_without_values_and_with_odd_ones() -> None:
    types = {"dtype": "float32", "stored": "float16"}
    assert departure({}, {}, **types) == 0
    one = {ffn(0): np.ones((2, 3), np.float32)}
    assert departure(one, one, **types) == 0
    assert np.isnan(departure(one, {ffn(0): one[ffn(0)] * np.nan}, **types))
    silent = {Source("hidden", 0): np.zeros((2, 3), np.float32)}  # has nothing to be rounded
    for stored in ("float16", "float32"):
        assert departure(silent, silent, dtype="float32", stored=stored) == 0
        for other in (1e-3, np.nan):
            moved = {Source("hidden", 0): np.full((2, 3), other, np.float32)}
            assert not departure(silent, moved, dtype="float32", stored=stored) <= 1
    assert departure(one, {ffn(0): one[ffn(0)] * [[1], [1.05]]}, **types) > 20, "the worst text"
