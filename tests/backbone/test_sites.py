"""The table of capture sites: every row against a real (tiny) model of the family."""

import pytest

from pipeline.backbone.checkpoint import skeleton
from pipeline.backbone.discovery import choose_site
from pipeline.backbone.engine import FUSED_ACTIVATIONS, OneDnnLinear
from pipeline.backbone.loading import load_backbone
from pipeline.backbone.sites import FFN_SITES, input_width
from pipeline.errors import BackboneError
from tests.builders.models import (
    FAMILIES,
    FFN_WIDTH,
    LAYERS,
    make_tiny_model,
    needs_onednn,
    tiny_config,
)


def test_every_row_is_tried():
    assert set(FFN_SITES) == set(FAMILIES)
    assert len(FFN_SITES) >= 35


@pytest.mark.parametrize("family", FAMILIES)
def test_the_paths_of_a_row_exist_and_fit_together(family):
    config = tiny_config(family)
    site = FFN_SITES[family]
    model = skeleton(config)
    part = model.get_submodule(site.root)
    width = 128 if family == "bloom" else FFN_WIDTH
    for layer in range(LAYERS):
        assert input_width(part.get_submodule(site.inner(site.down, layer))) == width
        part.get_submodule(site.inner(site.block, layer))
        for path in site.up:
            assert input_width(part.get_submodule(site.inner(path, layer))) == 32
        if site.activation:
            activation = part.get_submodule(site.inner(site.activation, layer))
            assert type(activation).__name__ in FUSED_ACTIVATIONS


@needs_onednn
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "opt", "bloom", "bart"])
def test_the_activation_is_fused_in_every_block(family, tmp_path):
    backbone = load_backbone(make_tiny_model(family, tmp_path), engine="onednn")
    layers = [m for m in backbone.network.modules() if isinstance(m, OneDnnLinear)]
    assert backbone.engine == "onednn"
    assert sum(layer.activation[0] != "none" for layer in layers) == LAYERS


def test_an_unlisted_architecture_is_discovered(tmp_path):
    path = make_tiny_model("megatron-bert", tmp_path)
    backbone = load_backbone(path)
    assert backbone.site.down == "encoder.layer.{i}.output.dense"
    assert backbone.neuron_size == FFN_WIDTH and not backbone.packs


def test_an_ambiguous_architecture_is_refused_with_the_candidates(tmp_path):
    path = make_tiny_model("megatron-bert", tmp_path, intermediate_size=32)
    backbone = load_backbone(path)
    assert not backbone.ffn_layers and backbone.site_layers("hidden") == (0, 1, 2, 3)
    with pytest.raises(BackboneError, match=r"encoder\.layer\.\{i\}\.output\.dense") as caught:
        backbone.check_sites(["hidden", "ffn"])
    assert "ffn_site" in str(caught.value) and "\n" not in str(caught.value)
    explicit = load_backbone(path, ffn_site="encoder.layer.{i}.output.dense")
    assert explicit.neuron_size == 32


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("encoder.layer.output.dense", "lacks {i}"),
        ("encoder.layer.{i}.nowhere", "nowhere"),
        ("embeddings.{i}", "ffn_site"),
    ],
)
def test_a_wrong_explicit_path_is_explained(path, message, tmp_path):
    with pytest.raises(BackboneError) as caught:
        load_backbone(make_tiny_model("bert", tmp_path), ffn_site=path)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'bert'}: ffn_site")


def test_an_explicit_path_overrides_the_table():
    model = skeleton(tiny_config("llama", intermediate_size=32))
    site = choose_site(model, "", ffn_site="layers.{i}.mlp.gate_proj")
    assert site.down == "layers.{i}.mlp.gate_proj" and not site.packs and not site.up
    row = choose_site(model, "", ffn_site="layers.{i}.mlp.down_proj")
    assert row == FFN_SITES["llama"]


def test_an_explicit_path_of_a_doubtful_width_is_refused_or_said(caplog):
    model = skeleton(tiny_config("bert"))
    with pytest.raises(BackboneError, match=r"as wide as the hidden state \(32\)") as caught:
        choose_site(model, "", ffn_site="encoder.layer.{i}.attention.output.dense")
    assert "encoder.layer.{i}.output.dense" in str(caught.value)
    model = skeleton(tiny_config("qwen3", head_dim=16))
    choose_site(model, "", ffn_site="layers.{i}.self_attn.o_proj")
    assert "is that of no FFN in config.json" in caplog.text
