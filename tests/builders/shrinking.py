"""Any model type's config made tiny, by rules on the names of its keys.

    config = tiny_config("qwen2_vl")          # four blocks of width 32, FFN 56, vocabulary 320

A config class's own defaults are taken and every number is shrunk by the first rule that its key
matches; nested configs alike. The few types whose numbers depend on each other in a way that no
rule of names knows are in ``OVERRIDES``. Widths are distinctive: the FFN's is no other's, so that a
wrong capture site shows in its width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from transformers import CONFIG_MAPPING

from tests.builders.plainforward import SIDE

VOCABULARY = 320
"""Of the models; the tokenizer has 300 entries, and ids of images and the like lie between."""
CONTEXT = 64
LAYERS = 4
SIDE_LAYERS = 2
WIDTH = 32
HEADS = 4
HEAD_SIZE = 8
FFN_WIDTH = 56
DECODER_FFN_WIDTH = 40
SIDE_FFN_WIDTH = 72
EXPERT_WIDTH = 24
SHARED_WIDTH = 48
WINDOW = 8

_DROPPED = {
    "transformers_version",
    "architectures",
    "id2label",
    "label2id",
    "dtype",
    "torch_dtype",
    "model_type",
    "_name_or_path",
    "_attn_implementation",
    # derived from the depth, and of vision
    "per_layer_config",
    "out_features",
    "out_indices",
    "stage_names",
}
_PLAIN_SPECIAL = re.compile(r"(bos|eos|cls|sep|mask|unk|decoder_start|forced_\w+)_(token_id|index)")

Rule = Callable[[int], int]


def _at_most(limit: int) -> Rule:
    return lambda value: min(value, limit)


def _to(size: int) -> Rule:
    """A size, where there is one at all: zeros mean that a part is absent."""
    return lambda value: size if value > 0 else value


DEPTH = _to(LAYERS)
RULES: list[tuple[str, Rule]] = [
    (
        r".*type_vocab_size|chunk_size_feed_forward|.*(kernel|stride|(?<!base_)channels).*",
        lambda v: v,
    ),
    (r"(.*_)?vocab_size.*|src_vocab_size|tgt_vocab_size|vocab_offset", _to(VOCABULARY)),
    (r".*(nextn_predict_layers|mtp_num_hidden_layers)", _to(0)),
    (r"(num_)?decoder_(num_)?(hidden_)?layers|num_decoder_layers", _to(2)),
    (
        r"(\w+_)?(num_)?hidden_layers|(\w+_)?(num_|n_)layers?|encoder_layers|depth"
        r"|speech_encoder_layers|[lxr]_layers|num_blocks",
        DEPTH,
    ),
    (r"(\w*_)?(num_key_value_heads|num_kv_heads|kv_n_heads|num_key_heads)", _at_most(2)),
    (r"mamba_n_heads|mamba_num_heads|n_mamba_heads", _at_most(8)),
    (r"hidden_size_per_layer_input", _to(16)),
    (r"(mamba_)?chunk_size", _at_most(16)),
    (r"qk_head_dim", _to(2 * HEAD_SIZE)),
    (r"(\w+_)?(head_dim|d_kv|d_head|head_size|dim_head|kv_channels|headdim)", _to(HEAD_SIZE)),
    (r"(\w+_)?(num_|n_)?(\w+_)?heads?", _to(HEADS)),
    (r"(\w+_)?(lora_rank|rank|time_step_rank|dt_rank)", _at_most(16)),
    (r"(num_|n_)shared_experts|moe_num_shared_experts", _at_most(1)),
    (r"\w*shared\w*(intermediate_size|ffn\w*)", _to(SHARED_WIDTH)),
    (r"(moe|expert)\w*(intermediate_size|ffn_hidden_size|ffn_dim)", _to(EXPERT_WIDTH)),
    (r"decoder_(ffn_dim|intermediate_size|linear_units)", _to(DECODER_FFN_WIDTH)),
    (
        r"(\w+_)?(intermediate_size(_mlp)?|ffn_dim|d_ff|n_inner|dim_ff|dff|ffn_hidden_size"
        r"|mlp_dim|linear_units|dim_feedforward|intermediate_dim)|d_inner|hidden_dim",
        _to(FFN_WIDTH),
    ),
    (
        r"(num_experts_per_tok(en)?|moe_topk|moe_k|moe_top_k|top_k_experts|num_selected)",
        _at_most(2),
    ),
    (r"(num_local_experts|num_experts|n_routed_experts|moe_num_experts)", _to(4)),
    (r"n_group|topk_group|num_expert_group|n_groups|mamba_n_groups", _at_most(1)),
    (r"first_k_dense_replace|num_dense_layers|moe_layer_start_index", _at_most(1)),
    (r"max_window_layers|depths", _at_most(2)),
    (r"rotary_dim", _at_most(4)),
    (r"base_channels", _at_most(WIDTH)),
    (r"num_res_blocks", _at_most(1)),
    (r"index_topk\w*|index_block_size", _at_most(WINDOW)),
    (r"original_max_position_embeddings", _to(CONTEXT // 2)),
    (
        r"(\w+_)?max_(\w+_)?position(_embedding)?s|n_positions|n_ctx|max_seq_len|context_length"
        r"|max_sequence_length|max_text_len",
        _at_most(CONTEXT),
    ),
    (
        r"(\w+_)?(sliding_window(_size)?|window_size|attention_window|attention_chunk_size"
        r"|local_attention(_window_len)?|local_radius|local_window)",
        _at_most(WINDOW),
    ),
    (r"image_size", _at_most(32)),
    (r"patch_size", _at_most(8)),
    (r"num_position_embeddings", _at_most(16)),
    (
        r"(\w+_)?(hidden_size|d_model|n_embd|embed_dim|emb_dim|embedding_size|embedding_dim"
        r"|projection_dim|project_dim|output_dim|hidden_sizes|embed_proj_dim|proj_dim|state_size)|dim",
        _at_most(WIDTH),
    ),
]


def tiny_config(model_type: str, *, attempt: int = 0, **changes: Any) -> Any:
    """The Hugging Face config of a tiny model of a type.

    Args:
        model_type: a key of ``CONFIG_MAPPING``.
        attempt: number of an entry of ``FILLED``, for types that cannot be built otherwise.
        changes: over what the rules give.
    """
    cls = CONFIG_MAPPING[model_type]
    options = shrink(cls().to_dict(), filled=FILLED[attempt])
    return cls(**merge(options, {**OVERRIDES.get(model_type, {}), **changes}))


FILLED: tuple[dict[str, Any], ...] = (
    {},
    {"head_dim": HEAD_SIZE, "num_key_value_heads": 2},
    {"num_key_value_heads": HEADS},
    {"mrope_section": [2, 1, 1]},
    {"mrope_section": [1, 1, 0]},
    {"head_dim": 64, "num_key_value_heads": 2},
    {"head_dim": 128, "num_key_value_heads": 2},
)
"""Keys that some types need although their class leaves them open, that must agree with others, or
whose size is written down in the model's code."""


def shrink(
    options: dict[str, Any], *, side: bool = False, filled: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """All numbers of a config (as a dictionary) by the rules; nested ones too."""
    depths = {value for key, value in options.items() if _is_depth(str(key), value)}
    layers = SIDE_LAYERS if side else LAYERS
    names = iter(range(VOCABULARY - 18, VOCABULARY))
    filled = filled or {}

    def small(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            if key.startswith("rope") or not value:
                sections = {"mrope_section"} & filled.keys() if key == "rope_parameters" else ()
                return {**shrink(value), **{name: filled[name] for name in sections}}
            inner = side or SIDE.search(key) is not None
            return {**shrink(value, side=inner, filled=filled), **_type_of(value)}
        if key in filled and (value is None or isinstance(value, int)):
            return filled[key]
        return _shrink_value(key, value, depths=depths, layers=layers, side=side, names=names)

    return {str(key): small(str(key), v) for key, v in options.items() if key not in _DROPPED}


def _is_depth(key: str, value: Any) -> bool:
    return isinstance(value, int) and re.fullmatch(
        r"(num_)?(hidden_|encoder_)?layers|n_layers?|depth", key
    ) is not None  # fmt: skip


def _shrink_value(
    key: str, value: Any, *, depths: set[int], layers: int, side: bool, names: Any
) -> Any:
    if key == "mrope_section":
        return [2, 1, 1]
    if re.fullmatch(r"(?!.*layer)(\w*token_(id|ids|index|idx)|\w+_index|\w+_ids?)", key):
        return _special(key, value, names)
    if isinstance(value, list | tuple) and len(value) in depths:
        kept = first_of_each_kind(value, layers)
        return [_by_rule(key, one, side=side) if type(one) is int else one for one in kept]
    if isinstance(value, list | tuple) and value and all(type(one) is int for one in value):
        value = [_by_rule(key, one, side=side) for one in value]
    if isinstance(value, list | tuple) and re.search(r"layer|idx|index", key):
        inside = [number for number in value if not isinstance(number, int) or number < layers]
        return inside or value
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    return _by_rule(key, value, side=side)


def _by_rule(key: str, value: int, *, side: bool) -> int:
    for pattern, rule in RULES:
        if re.fullmatch(pattern, key):
            small = rule(value)
            if side and small == FFN_WIDTH:
                return SIDE_FFN_WIDTH
            return SIDE_LAYERS if side and rule is DEPTH else small
    return value


def _type_of(options: dict[str, Any]) -> dict[str, Any]:
    return {"model_type": options["model_type"]} if "model_type" in options else {}


def _special(key: str, value: Any, names: Any) -> Any:
    """Ids within the vocabulary: of the tokenizer's for its own, above it for images and such."""
    if isinstance(value, list) and value and all(isinstance(one, int) for one in value):
        return [_special(key, one, names) for one in value]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        return value
    if re.fullmatch(r"\w*pad_(token_id|index|token_index)", key):
        return value if value < 2 else 0
    if _PLAIN_SPECIAL.fullmatch(key) is not None:
        return value if value < 4 else 2
    if re.search(r"token|index", key):
        return next(names, VOCABULARY - 1)
    return value


def first_of_each_kind(values: Any, length: int) -> list[Any]:
    """A list cut to a length so that each kind of entry is in there, if it can be."""
    kept = list(values[:length])
    kinds = {repr(value): value for value in values}
    lost = [value for kind, value in kinds.items() if kind not in {repr(one) for one in kept}]
    for place, value in zip(range(length - 1, 0, -1), lost, strict=False):
        kept[place] = value
    return kept


def merge(options: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries, the second over the first."""
    out = dict(options)
    for key, value in changes.items():
        old = out.get(key)
        out[key] = merge(old, value) if isinstance(value, dict) and isinstance(old, dict) else value
    return out


_FULL = {"full_attention": {"rope_theta": 10_000.0, "rope_type": "default"}}
_QSA = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": HEAD_SIZE,
    "indexer_budget": WINDOW,
    "indexer_compress_ratio": 4,
    "ngram_vocab_size_base": 200,
    "make_ngram_vocab_size_divisible_by": 8,
    "split_ngram_parts": 2,
    "hc_lowrank": 8,
    "hc_count": 2,
    "ple_embed_dim": WIDTH,
}
_OWN_CACHES = {"kv_source_layers": [0, 1, 2, 3]}
_LATENT = {"num_key_value_heads": HEADS, "qk_head_dim": HEAD_SIZE, "index_kpool": 4}
_SECTIONS = {
    "head_dim": HEAD_SIZE,
    "rope_parameters": {**_FULL["full_attention"], "mrope_section": [1, 1, 1, 1]},
}
_SPARSE = ["dense", "sparse", "sparse", "sparse"]

OVERRIDES: dict[str, dict[str, Any]] = {
    "big_bird": {"block_size": 4, "num_random_blocks": 1},
    "bigbird_pegasus": {"block_size": 4, "num_random_blocks": 1},
    "blt": {"encoder_hash_byte_group_vocab": 500},
    "chameleon": {"vocabulary_map": {"<image>": 301}},
    "cohere_compass": {"text_config": {"rope_parameters": _FULL}},
    "cohere_compass_text": {"rope_parameters": _FULL},
    "dbrx": {"attn_config": {"rope_theta": 10_000.0, "clip_qkv": 8.0}},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": _SPARSE, "num_experts_per_tok": 2}},
    "deepseek_v2": {"num_experts_per_tok": 2, "num_key_value_heads": HEADS},
    "diffusion_gemma": {
        "text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": EXPERT_WIDTH}
    },
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1},
    "emu3": {"vocabulary_map": {"<|extra_200|>": 301, "<image>": 302}},
    "dots3_note_text": {
        "num_key_value_heads": HEADS,
        "head_dim": 2 * HEAD_SIZE,
        "per_layer_config": {layer: {"kv_lora_rank": 24} for layer in (2, 3)},
    },
    "ernie4_5_vl_moe": {"text_config": {"head_dim": 128}},
    "esm": {"vocab_size": VOCABULARY, "pad_token_id": 1, "mask_token_id": 3},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "hidden_size_per_layer_input": 16,
    },
    "florence2": {
        "vision_config": {"embed_dim": [16] * 4, "num_heads": [4] * 4, "num_groups": [4] * 4}
    },
    "gemma4": {
        "vision_config": {
            "model_type": "gemma4_vision",
            "hidden_size": WIDTH,
            "intermediate_size": SIDE_FFN_WIDTH,
            "num_hidden_layers": SIDE_LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": 2,
            "head_dim": HEAD_SIZE,
            "global_head_dim": HEAD_SIZE,
            "patch_size": 8,
            "position_embedding_size": WIDTH,
        }
    },
    "glm5_next": {"text_config": _LATENT},
    "glm5_next_text": _LATENT,
    "hunyuan_vl": {"text_config": _SECTIONS},
    "hunyuan_vl_text": _SECTIONS,
    "layoutlmv3": {"coordinate_size": 4, "shape_size": 8},
    "lilt": {"hidden_size": 48},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8},
    "mistral4": {
        "num_key_value_heads": HEADS,
        "rope_parameters": {"partial_rotary_factor": 1.0},
    },
    "mistral_large4": {"text_config": _OWN_CACHES},
    "mistral_large4_text": _OWN_CACHES,
    "mobilebert": {
        "intra_bottleneck_size": 16,
        "true_hidden_size": 16,
        "num_feedforward_networks": 2,
    },
    "molmo2": {"adapter_config": {"vision_feature_layer": [1, 0]}},
    "neomme": {
        "rope_parameters": {
            "full_attention": {**_FULL["full_attention"], "partial_rotary_factor": 0.5},
            "sliding_attention": _FULL["full_attention"],
        }
    },
    "qwen4_exp": {"text_config": _QSA},
    "qwen4_exp_text": _QSA,
    "recurrent_gemma": {"lru_width": WIDTH},
    "reformer": {
        "axial_pos_shape": [8, 8],
        "axial_pos_embds_dim": [16, 16],
        "feed_forward_size": FFN_WIDTH,
        "lsh_attn_chunk_length": WINDOW,
        "local_attn_chunk_length": WINDOW,
        "hash_seed": 0,
    },
    "xmod": {"default_language": "en_XX"},
    "zamba2": {
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "hybrid_layer_ids": [1, 3],
    },
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 2},
}
"""What no rule of names knows: model type -> changes of its shrunk config."""
