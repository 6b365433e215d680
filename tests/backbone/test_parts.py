"""The part of a checkpoint that is run: encoders, language models, first blocks."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModel, T5EncoderModel

from pipeline.backbone.loading import load_backbone
from pipeline.backbone.parts import reading_part
from pipeline.errors import BackboneError
from pipeline.extraction.extractor import Extractor
from tests.builders.models import TEXTS, make_tiny_model
from tests.builders.zoo import make_zoo_model


def copy_tokenizer(source: Path, target: Path) -> None:
    for file in source.glob("*token*"):
        shutil.copy(file, target / file.name)


def assert_same(one: Path, other: Path) -> None:
    found, expected = (Extractor(load_backbone(path), hidden="all")(TEXTS) for path in (one, other))
    np.testing.assert_allclose(found.ffn, expected.ffn, rtol=1e-4, atol=1e-5)
    assert found.hidden is not None and expected.hidden is not None
    np.testing.assert_allclose(found.hidden, expected.hidden, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["gemma3", "llava", "qwen3_vl"])
def test_a_vision_language_model_is_its_language_model(kind: str, tmp_path: Path) -> None:
    path = make_zoo_model(kind, tmp_path)
    whole = AutoModel.from_pretrained(path, dtype=torch.float32)
    assert reading_part(whole) == "language_model"
    whole.language_model.save_pretrained(tmp_path / "alone")
    copy_tokenizer(path, tmp_path / "alone")
    assert_same(path, tmp_path / "alone")
    backbone = load_backbone(path)
    assert not any("vision" in name for name, _ in backbone.network.named_modules())


def test_an_encoder_saved_alone_is_that_of_the_whole_model(tmp_path: Path) -> None:
    path = make_tiny_model("t5", tmp_path)
    T5EncoderModel.from_pretrained(path).save_pretrained(tmp_path / "alone")
    copy_tokenizer(path, tmp_path / "alone")
    assert_same(path, tmp_path / "alone")
    names = [name for name, _ in load_backbone(path).network.named_modules()]
    assert names and not any("decoder" in name for name in names)


def test_the_first_blocks_are_those_of_the_whole_model_with_its_config(tmp_path: Path) -> None:
    path = make_tiny_model("bert", tmp_path)
    whole, cut = load_backbone(path), load_backbone(path, last_layer=0)
    assert cut.config.num_hidden_layers == whole.config.num_hidden_layers == 3
    assert len(cut.network.encoder.layer) == 1
    assert cut.fingerprint == whole.fingerprint
    found = Extractor(cut, hidden="none")(TEXTS).ffn[0]
    np.testing.assert_allclose(found, Extractor(whole)(TEXTS).ffn[0], rtol=1e-4, atol=1e-5)


def test_a_path_may_start_at_the_model_or_at_its_part(tmp_path: Path) -> None:
    path = make_zoo_model("llava", tmp_path)
    inner = "layers.{i}.mlp.down_proj"
    for site in (inner, f"language_model.{inner}"):
        backbone = load_backbone(path, ffn_site=site)
        assert backbone.site.down == f"language_model.{inner}"
        assert backbone.packs == load_backbone(path).packs


def test_a_model_of_images_is_refused_in_one_line(tmp_path: Path) -> None:
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CONFIG_MAPPING["vit"](image_size=8, patch_size=4, intermediate_size=48, **size)
    path = tmp_path / "vit"
    AutoModel.from_config(config).save_pretrained(path)
    copy_tokenizer(make_tiny_model("bert", tmp_path), path)
    with pytest.raises(BackboneError, match="no part that reads text") as caught:
        load_backbone(path)
    assert "\n" not in str(caught.value)
