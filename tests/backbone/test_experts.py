"""Mixtures of experts: what is captured equals a loop over tokens and experts, and HF's outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel

from pipeline.backbone import Backbone, Segments, load_backbone, pool, pool_routed
from pipeline.backbone.experts import Routed, captured_experts, capturing_experts
from pipeline.errors import BackboneError
from pipeline.extraction import Extractor, RoutedLayers, StoreOptions
from tests.builders.models import (
    EXPERTS,
    make_tiny_model,
    make_tokenizer,
    save_random_model,
    tiny_config,
)

SAMPLE = ("mixtral", "glm4_moe", "gpt_oss", "phimoe", "afmoe", "qwen3_next")
"""Softmax and sigmoid, dense blocks and shared experts, biases, other gates, a router that is a
linear layer, and linear attention; the others are slow."""
FAMILIES = [
    pytest.param(name, marks=[] if name in SAMPLE else pytest.mark.slow) for name in EXPERTS
]
TEXTS = ("the cat sat on the mat", "dog", "the very happy dog ran under the log and sat", "")
POOLINGS = ("mean", "max", "first")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("experts")


def _model(family: str, folder: Path) -> Path:
    path = folder / family
    return path if path.exists() else make_tiny_model(family, folder)


def _plain(path: Path, backbone: Backbone, text: str) -> dict[str, Any]:
    """One text through HF's own eager experts: inputs, choices and outputs of experts, logits."""
    model = AutoModel.from_pretrained(path, experts_implementation="eager").eval()
    seen: dict[str, Any] = {"inputs": {}, "outputs": {}, "logits": {}, "modules": {}}
    mixture = backbone.mixture
    assert mixture is not None

    def experts_hook(block: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            seen["inputs"][block], seen["outputs"][block] = args, output
            seen["modules"][block] = module

        return hook

    def router_hook(block: int) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            seen["logits"][block] = output[0]

        return hook

    for block, name in mixture.experts.items():
        model.get_submodule(name).register_forward_hook(experts_hook(block), with_kwargs=True)
    for block, name in mixture.routers.items():
        model.get_submodule(name).register_forward_hook(router_hook(block))
    ids = torch.tensor([backbone.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        seen["final"] = model(ids, use_cache=False).last_hidden_state[0]
    return seen


def _activation(module: Any, expert: int, token: torch.Tensor) -> torch.Tensor:
    """Gate and up of one expert on one token, written out from the weights."""
    weight = module.gate_up_proj[expert]
    made = token @ (weight if module.is_transposed else weight.t())
    if module.has_bias:  # gpt_oss: gate and up take turns
        made = made + module.gate_up_proj_bias[expert]
        gate, up = made[::2].clamp(max=module.limit), made[1::2].clamp(-module.limit, module.limit)
        return (up + 1) * gate * torch.sigmoid(gate * module.alpha)
    gate, up = made.chunk(2)
    return module.act_fn(gate) * up


def _by_hand(module: Any, args: Any) -> torch.Tensor:
    """(tokens, experts, neurons): ``w_e a_e``, a token and an expert at a time."""
    hidden, index, weights = args
    size = module.down_proj.shape[1 if module.is_transposed else 2]
    out = torch.zeros(len(hidden), len(module.down_proj), size)
    for token, (experts, own) in enumerate(zip(index, weights, strict=True)):
        for expert, weight in zip(experts.tolist(), own, strict=True):
            out[token, expert] += weight * _activation(module, expert, hidden[token])
    return out


@pytest.mark.parametrize("family", FAMILIES)
def test_captured_activations_equal_a_loop_over_tokens_and_experts(
    family: str, folder: Path
) -> None:
    path = _model(family, folder)
    backbone = load_backbone(path)
    assert backbone.mixture is not None and not backbone.mixture.refused
    layers = backbone.site_layers("experts")
    assert layers == backbone.site_layers("router") and layers
    extractor = Extractor(
        backbone, poolings=POOLINGS, routed=RoutedLayers(layers, layers), hidden="final"
    )
    found = extractor(TEXTS)
    assert found.router is not None and found.experts is not None and found.hidden is not None
    for number, text in enumerate(TEXTS[:3]):
        seen = _plain(path, backbone, text)
        _close(found.hidden[0, :, :, number], _pooled(seen["final"]))
        for at, layer in enumerate(layers):
            values = _by_hand(seen["modules"][layer], seen["inputs"][layer])
            _close(found.experts[at, :, :, number], _pooled(values.flatten(1)))
            logits = seen["logits"][layer].float().flatten(0, -2)
            sigmoid = backbone.mixture.score == "sigmoid"
            _close(
                found.router[at, :, :, number],
                _pooled(torch.sigmoid(logits) if sigmoid else torch.softmax(logits, -1)),
            )
            _sums_to_the_output(seen["modules"][layer], values, seen, layer)
    assert not found.experts[..., 3].any() or len(backbone.tokenizer("")["input_ids"])


def _sums_to_the_output(module: Any, values: torch.Tensor, seen: Any, layer: int) -> None:
    """``Σ_e W2_e slice_e`` is what the layer puts out; with biases, times the weights, beside."""
    down = module.down_proj if module.is_transposed else module.down_proj.transpose(1, 2)
    total = torch.einsum("ten,enh->th", values, down)
    if module.has_bias:
        _, index, weights = seen["inputs"][layer]
        total = total + (weights[..., None] * module.down_proj_bias[index]).sum(1)
    _close(total.detach().numpy(), seen["outputs"][layer].numpy())


def _pooled(tokens: torch.Tensor) -> np.ndarray:
    rows = [tokens.mean(0), tokens.amax(0), tokens[0]]
    return torch.stack(rows).detach().numpy()


def _close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(1.0, np.abs(expected).max()))


def test_which_score_a_router_makes(folder: Path) -> None:
    scores = {}
    for family in ("mixtral", "glm4_moe", "gpt_oss"):
        mixture = load_backbone(_model(family, folder)).mixture
        assert mixture is not None
        scores[family] = mixture.score
    assert scores == {"mixtral": "softmax", "glm4_moe": "sigmoid", "gpt_oss": "softmax"}


def test_dense_and_shared_ffns_are_the_ffn_site(folder: Path) -> None:
    layers = {
        name: load_backbone(_model(name, folder)).site_layers("ffn")
        for name in ("mixtral", "glm4_moe", "qwen3_next")
    }
    assert layers == {"mixtral": (), "glm4_moe": (1, 2), "qwen3_next": (0, 1, 2)}
    dense = load_backbone(_model("glm4_moe", folder), ffn_site="layers.{i}.mlp.down_proj")
    assert dense.site_layers("ffn") == (0,) and dense.neuron_size == 48
    assert dense.site_layers("experts") == (1, 2)


def test_a_pass_ends_with_the_last_thing_wanted(folder: Path) -> None:
    backbone = load_backbone(_model("mixtral", folder))
    short = backbone.truncate(1)
    assert short.site_layers("experts") == (0, 1)
    both = [
        Extractor(b, routed=RoutedLayers((0,), (1,)), hidden="none")(TEXTS).experts
        for b in (backbone, short)
    ]
    assert both[0] is not None and both[1] is not None
    np.testing.assert_allclose(both[0], both[1], atol=1e-6)
    with pytest.raises(BackboneError, match="no experts 2: this backbone runs 2 blocks"):
        Extractor(short, routed=RoutedLayers(experts=(2,)), hidden="none")(TEXTS)


@pytest.mark.parametrize("poolings", [("mean", "max"), ("first", "max", "last", "mean")])
def test_pooling_by_expert_equals_pooling_the_whole_matrix(poolings: tuple[str, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    slots, experts, size, k = 23, 5, 3, 2
    values = torch.randn(slots, experts, size, generator=generator)
    chosen = torch.stack([torch.randperm(experts, generator=generator)[:k] for _ in range(slots)])
    dense = torch.zeros(slots, experts, size)
    for token in range(slots):
        dense[token, chosen[token]] = values[token, chosen[token]]
    numbers, order = torch.sort(chosen.reshape(-1), stable=True)
    tokens = order // k
    routed = Routed(tokens, numbers, values[tokens, numbers], slots)
    segments = Segments.of(starts=[2, 9, 16, 10], lengths=[5, 1, 7, 0])
    kept = [0, 2, 4]
    found = pool_routed(routed, segments, poolings, experts=kept)
    expected = pool(dense[:, kept].flatten(1), segments, poolings)
    torch.testing.assert_close(found, expected)


def test_kept_experts_are_a_part_of_all(folder: Path) -> None:
    backbone = load_backbone(_model("mixtral", folder))
    layers = backbone.site_layers("experts")
    whole = Extractor(backbone, routed=RoutedLayers(experts=layers), hidden="none")
    part = Extractor(backbone, routed=RoutedLayers((), layers, [3, 1]), hidden="none")
    size = backbone.mixture.expert_size if backbone.mixture else 0
    every, some = whole(TEXTS).experts, part(TEXTS).experts
    assert every is not None and some is not None
    np.testing.assert_array_equal(some[:, :, :size], every[:, :, size : 2 * size])
    np.testing.assert_array_equal(some[:, :, size:], every[:, :, 3 * size :])
    assert whole.fingerprint() != part.fingerprint()


def test_experts_that_weigh_their_input_are_refused(folder: Path, tmp_path: Path) -> None:
    path = _model("mixtral", folder)
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    own = MixtralExperts.forward

    def weighted_inputs(self: nn.Module, hidden: Any, index: Any, weights: Any) -> Any:
        ones = torch.ones_like(weights)
        return own.__wrapped__(self, hidden * weights.sum(-1, keepdim=True) * 2, index, ones)

    weighted_inputs.__wrapped__ = weighted_inputs  # type: ignore[attr-defined]
    try:
        MixtralExperts.forward = weighted_inputs
        backbone = load_backbone(path)
    finally:
        MixtralExperts.forward = own
    assert backbone.site_layers("experts") == ()
    assert backbone.site_layers("router") == (0, 1, 2)
    with pytest.raises(BackboneError, match="no site 'experts': its experts compute otherwise"):
        backbone.check_sites(["experts"])


def test_an_expert_that_is_chosen_twice_counts_with_both_weights() -> None:
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    module = MixtralExperts(tiny_config("mixtral")).eval()
    torch.nn.init.normal_(module.gate_up_proj)
    torch.nn.init.normal_(module.down_proj)
    args = (
        torch.randn(3, 32),
        torch.tensor([[1, 1], [0, 3], [1, 2]]),
        torch.tensor([[0.4, 0.6], [0.9, 0.1], [0.3, 0.7]]),
    )
    kept: list[Routed] = []
    with torch.no_grad(), capturing_experts({5: module}, lambda _, routed: kept.append(routed)):
        found = captured_experts(module, *args)
        expected = type(module).forward.__wrapped__(module, *args)
    torch.testing.assert_close(found, expected)
    segments = Segments.of(starts=[0, 1], lengths=[1, 2])
    pooled = pool_routed(kept[0], segments, ("max", "mean"), experts=range(4))
    by_hand = _by_hand(module, args).detach().flatten(1)
    torch.testing.assert_close(pooled, pool(by_hand, segments, ("max", "mean")))


def test_a_batch_may_pass_by_all_experts() -> None:
    """Numbers beyond the last expert mean none, as of slots that are pads."""
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    module = MixtralExperts(tiny_config("mixtral")).eval()
    nobody = torch.full((3, 2), module.num_experts)
    kept: list[Routed] = []
    with torch.no_grad(), capturing_experts({0: module}, lambda _, routed: kept.append(routed)):
        found = captured_experts(module, torch.randn(3, 32), nobody, torch.rand(3, 2))
    assert not found.any() and found.shape == (3, 32)
    segments = Segments.of(starts=[0, 1], lengths=[1, 2])
    pooled = pool_routed(kept[0], segments, ("max", "mean", "last"), experts=range(4))
    assert not pooled.any() and pooled.shape[:2] == (2, 3)


DECODER: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 48,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MAMBA = {"n_groups": 2, "ssm_state_size": 8, "mamba_num_heads": 4, "mamba_head_dim": 16}
OTHERS: dict[str, dict[str, Any]] = {
    # experts and FFNs in some blocks; experts outside the interface; switched off; no FFN at all
    "nemotron_h": {
        **DECODER,
        **MAMBA,
        "layers_block_type": ["mamba", "mlp", "attention", "moe"],
        "head_dim": 8,
        "chunk_size": 8,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "moe_shared_expert_intermediate_size": 24,
        "n_group": 1,
        "topk_group": 1,
    },
    "llama4_text": {
        **DECODER,
        "num_hidden_layers": 3,
        "intermediate_size_mlp": 40,
        "head_dim": 8,
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
        "moe_layers": [1],
        "attention_chunk_size": 64,
        "layer_types": ["chunked_attention", "chunked_attention", "full_attention"],
    },
    "doge": {**DECODER, "num_hidden_layers": 2, "num_experts": 16},
    "mamba": {
        "vocab_size": 300,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "state_size": 8,
        "pad_token_id": 0,
    },
}


def _other(family: str, folder: Path) -> Backbone:
    path = folder / family
    if not path.exists():
        save_random_model(CONFIG_MAPPING[family](**OTHERS[family]), path)
        make_tokenizer(path, style="llama")
    return load_backbone(path)


def test_blocks_of_several_kinds(folder: Path) -> None:
    backbone = _other("nemotron_h", folder)
    assert backbone.site_layers("ffn") == (1,) and backbone.neuron_size == 48
    assert backbone.site_layers("router") == backbone.site_layers("experts") == (3,)
    found = Extractor(backbone, routed=RoutedLayers((3,), (3,)), hidden="all")(TEXTS)
    alone = Extractor(backbone, routed=RoutedLayers((3,), (3,)), hidden="all")(TEXTS[2:3])
    for one, other in zip(found.in_order, alone.in_order, strict=True):
        _close(one[..., 2], other[..., 0])


def test_experts_outside_the_interface_have_routers_only(folder: Path) -> None:
    backbone = _other("llama4_text", folder)
    assert backbone.site_layers("router") == (1,) and backbone.width("router") == 4
    assert backbone.mixture is not None and backbone.mixture.score == "sigmoid"
    with pytest.raises(BackboneError, match="its experts are not in transformers' experts interf"):
        backbone.check_sites(["router", "experts"])


def test_experts_that_are_configured_but_not_built_are_no_mixture(folder: Path) -> None:
    backbone = _other("doge", folder)
    assert backbone.mixture is None and backbone.site_layers("ffn") == (0, 1)


def test_a_model_without_an_ffn_has_hidden_states(folder: Path) -> None:
    backbone = _other("mamba", folder)
    assert backbone.site_layers("ffn") == () and backbone.site_layers("hidden") == (0, 1, 2)
    found = StoreOptions(sites=("hidden",)).extractor(backbone)(TEXTS)
    ids = torch.tensor([backbone.tokenizer(TEXTS[0])["input_ids"]])
    with torch.no_grad():
        model = AutoModel.from_pretrained(folder / "mamba").eval()
        states = model(ids, output_hidden_states=True, use_cache=False).hidden_states
        first = model.embeddings(ids)
    assert found.hidden is not None
    for index, state in enumerate([first, states[0], states[2]]):  # its list begins after block 0
        _close(found.hidden[index, :, :, 0], _pooled(state[0])[:2])
    with pytest.raises(BackboneError, match=r"sites = \[\"hidden\"\]"):
        StoreOptions().extractor(backbone)
