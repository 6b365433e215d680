"""Tiny random models of every family, with fast tokenizers, as local Hugging Face folders.

    path = make_tiny_model("roberta", tmp_path)

Nothing is downloaded: configs are written here, weights are random, and the tokenizer is trained
in code on a few sentences.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedTokenizerFast
from transformers import logging as transformers_logging

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN"
)

VOCABULARY = 300
CONTEXT = 48
LAYERS = 3
FFN_WIDTH = 48

WORDS = "the a cat dog sat ran on under mat log and then it was very happy sad angry today"
TEXTS = (
    "the cat sat on the mat",
    "",
    "dog",
    "the very happy dog ran under the log and then it sat on the mat today",
    "it was sad",
    "Ünïcode 🙂 text, with punctuation!",
    "the cat sat on the log",
    "angry " * 30,
    "sad dog " * 40,
)
"""Short, empty, equally long, nearly as long as the context and longer."""

_HEADS = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
_ENCODER: dict[str, Any] = {
    **_HEADS,
    "intermediate_size": FFN_WIDTH,
    "max_position_embeddings": CONTEXT,
}
_ROBERTA = {**_ENCODER, "max_position_embeddings": CONTEXT + 2, "pad_token_id": 1}
_DECODER = {**_ENCODER, "num_key_value_heads": 2, "pad_token_id": 0}
_HEAD_SIZE = {**_DECODER, "head_dim": 8}
_GPT = {"n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": CONTEXT}
_DEBERTA = {**_ENCODER, "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}

FAMILIES: dict[str, dict[str, Any]] = {
    "bert": _ENCODER,
    "electra": {**_ENCODER, "embedding_size": 16},
    "ernie": _ENCODER,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "mpnet": _ROBERTA,
    "deberta": {**_DEBERTA, "max_relative_positions": 16},
    "deberta-v2": {**_DEBERTA, "position_buckets": 8, "share_att_key": True},
    "distilbert": {
        "dim": 32,
        "n_layers": LAYERS,
        "n_heads": 4,
        "hidden_dim": FFN_WIDTH,
        "max_position_embeddings": CONTEXT,
    },
    "albert": {**_ENCODER, "embedding_size": 16},
    "modernbert": {**_ENCODER, "local_attention": 8, "global_attn_every_n_layers": 2},
    "nomic_bert": {**_ENCODER, "head_dim": 8},
    "eurobert": {**_DECODER, "head_dim": 8},
    "xlnet": {"d_model": 32, "n_layer": LAYERS, "n_head": 4, "d_inner": FFN_WIDTH},
    "t5": {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": FFN_WIDTH,
        "num_layers": LAYERS,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 16,
    },
    "bart": {
        "d_model": 32,
        "encoder_layers": LAYERS,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": FFN_WIDTH,
        "decoder_ffn_dim": 40,
        "max_position_embeddings": CONTEXT,
    },
    "gpt2": {**_GPT, "n_inner": FFN_WIDTH},
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": LAYERS,
        "num_heads": 4,
        "intermediate_size": FFN_WIDTH,
        "attention_types": [[["global", "local", "global"], 1]],
        "window_size": 8,
        "max_position_embeddings": CONTEXT,
    },
    "gptj": {**_GPT, "n_inner": FFN_WIDTH, "rotary_dim": 4},
    "gpt_neox": _ENCODER,
    "bloom": {"hidden_size": 32, "n_layer": LAYERS, "n_head": 4},
    "falcon": {**_HEADS, "alibi": False, "ffn_hidden_size": FFN_WIDTH},
    "opt": {
        **_HEADS,
        "ffn_dim": FFN_WIDTH,
        "word_embed_proj_dim": 32,
        "max_position_embeddings": CONTEXT,
    },
    "phi": {**_ENCODER, "partial_rotary_factor": 0.5},
    "starcoder2": _DECODER,
    "phi3": {**_DECODER, "sliding_window": None},
    "llama": _DECODER,
    "mistral": {**_DECODER, "sliding_window": 8},
    "qwen2": _DECODER,
    "qwen3": _HEAD_SIZE,
    "gemma": _HEAD_SIZE,
    "gemma2": {**_HEAD_SIZE, "sliding_window": 8, "attn_logit_softcapping": 2.0},
    "gemma3_text": {**_HEAD_SIZE, "sliding_window": 8},
    "olmo2": _DECODER,
    "cohere": _DECODER,
    "stablelm": _DECODER,
}
"""Model type -> the config that makes it tiny."""

_MOE = {**_DECODER, "num_experts_per_tok": 2, "head_dim": 8, "moe_intermediate_size": 16}

EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": {**_MOE, "num_local_experts": 4},
    "qwen2_moe": {**_MOE, "num_experts": 4, "shared_expert_intermediate_size": 24},
    "qwen3_moe": {**_MOE, "num_experts": 4, "norm_topk_prob": True},
    "qwen3_next": {
        **_MOE,
        "num_experts": 4,
        "shared_expert_intermediate_size": 24,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    },
    "qwen3_5_moe_text": {
        **_MOE,
        "num_experts": 4,
        "shared_expert_intermediate_size": 24,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    },
    "gpt_oss": {
        **_MOE,
        "num_local_experts": 4,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "olmoe": {**_MOE, "num_experts": 4},
    "glm4_moe": {
        **_MOE,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
    },
    "granitemoe": {**_MOE, "num_local_experts": 4},
    "hunyuan_v1_moe": {**_MOE, "num_experts": 4, "moe_topk": 2},
    "ernie4_5_moe": {
        **_MOE,
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_num_shared_experts": 1,
        "moe_layer_start_index": 1,
    },
    "minimax_m2": {**_MOE, "num_local_experts": 4, "rotary_dim": 4},
    "phimoe": {**_MOE, "num_local_experts": 4},
    "afmoe": {
        **_MOE,
        "num_experts": 4,
        "num_shared_experts": 1,
        "num_dense_layers": 1,
        "n_group": 1,
        "topk_group": 1,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "lfm2_moe": {
        **_MOE,
        "num_experts": 4,
        "num_dense_layers": 1,
        "layer_types": ["conv", "full_attention", "conv"],
    },
}
"""Mixtures of experts."""

UNLISTED: dict[str, dict[str, Any]] = {"megatron-bert": _ENCODER}
"""Architectures without a row in the table."""

_WINDOWED = {
    key: value for key, value in FAMILIES["bart"].items() if key != "max_position_embeddings"
}
_TRANSLATOR = {"langs": ["en", "de"], "src_vocab_size": VOCABULARY, "tgt_vocab_size": VOCABULARY}

ODD: dict[str, dict[str, Any]] = {
    # pads change the other tokens
    "nystromformer": _ENCODER,
    "fnet": {**_ENCODER, "use_tpu_fourier_optimizations": False},
    "yoso": _ENCODER,
    "convbert": {**_ENCODER, "embedding_size": 32},
    "mobilebert": {
        **_ENCODER,
        "embedding_size": 16,
        "intra_bottleneck_size": 16,
        "true_hidden_size": 16,
        "num_feedforward_networks": 1,
    },
    # padded inside to a multiple of the window
    "longformer": {**_ROBERTA, "attention_window": [8] * LAYERS},
    "led": {
        **_WINDOWED,
        "attention_window": [8] * LAYERS,
        "max_encoder_position_embeddings": CONTEXT,
        "max_decoder_position_embeddings": CONTEXT,
    },
    # tokens before texts
    "fsmt": {**FAMILIES["bart"], **_TRANSLATOR},
    # full attention up to 28 tokens, for good
    "big_bird": {**_ENCODER, "block_size": 4, "num_random_blocks": 1},
    # weights that the first pass rescales
    "rwkv": {**_HEADS, "intermediate_size": FFN_WIDTH, "rescale_every": 2},
    # an encoder inside
    "dpr": _ENCODER,
    # what cannot be run on any ids alone
    "canine": _ENCODER,
    "xmod": {**_ROBERTA, "languages": ["en", "de"]},
    "vit": _HEADS,
}
"""Architectures without a row that do not treat a batch as most do."""

_CONFIGS = {**FAMILIES, **EXPERTS, **UNLISTED, **ODD}


def make_tiny_model(
    family: str, folder: Path, *, seed: int = 0, spread: bool = True, **changes: Any
) -> Path:
    """Write a tiny random model of a family, with its tokenizer, into ``folder / family``."""
    path = folder / family
    config = tiny_config(family, **changes)
    save_random_model(config, path, seed=seed, spread=spread)
    make_tokenizer(path, style=_style(family))
    return path


def tiny_config(family: str, **changes: Any) -> Any:
    """The Hugging Face config of a tiny model."""
    options = {"vocab_size": VOCABULARY, **_CONFIGS[family], **changes}
    defaults = CONFIG_MAPPING[family]()
    for name in ("bos", "eos", "cls", "sep", "mask", "pad"):
        key = f"{name}_token_id"
        if (getattr(defaults, key, None) or 0) >= VOCABULARY:
            options.setdefault(key, 2)
    return CONFIG_MAPPING[family](**options)


def save_random_model(config: Any, path: Path, *, seed: int = 0, spread: bool = True) -> None:
    """Write random weights for a config.

    ``spread`` widens them so that activations, attention and positions all matter: fresh weights
    are so small that a model with wrong positions would look right.
    """
    torch.manual_seed(seed)
    model = AutoModel.from_config(config, dtype=torch.float32)
    if spread:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                noise = torch.randn(weight.shape, generator=generator)
                is_norm = re.search(r"norm|ln_", name.lower()) is not None
                weight.add_(noise, alpha=0.1 if weight.ndim < 2 or is_norm else 0.3)
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        model.save_pretrained(path)
    finally:
        if bars:
            transformers_logging.enable_progress_bar()


def make_tokenizer(path: Path, *, style: str = "bert", padding_side: str = "right") -> None:
    """Train a byte-level BPE tokenizer on a few sentences and save it as ``tokenizer.json``.

    Args:
        path: the model's folder.
        style: "bert" ([CLS] … [SEP]), "roberta" (<s> … </s>, pad id 1), "llama" (<s> …) or "gpt"
            (no special tokens around the text, no pad token).
        padding_side: what the saved tokenizer says about padding.
    """
    special = {
        "bert": ["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
        "roberta": ["<s>", "<pad>", "</s>", "<unk>"],
        "llama": ["<unk>", "<s>", "</s>"],
        "gpt": ["<|endoftext|>"],
    }[style]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([WORDS, *TEXTS], trainer)
    names: dict[str, str] = {}
    if style == "bert":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        names = {
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
        }
    elif style == "roberta":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
        names = {
            "pad_token": "<pad>",
            "unk_token": "<unk>",
            "bos_token": "<s>",
            "eos_token": "</s>",
        }
    elif style == "llama":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
        names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    else:
        names = {"eos_token": "<|endoftext|>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side=padding_side, **names)
    fast.model_max_length = CONTEXT
    fast.save_pretrained(path)


def _style(family: str) -> str:
    options = FAMILIES.get(family, {})
    if options.get("pad_token_id") == 1:
        return "roberta"
    if family in {
        "gpt2",
        "gpt_neo",
        "gptj",
        "gpt_neox",
        "bloom",
        "falcon",
        "opt",
        "phi",
        "starcoder2",
    }:
        return "gpt"
    if family == "llama" or options.get("num_key_value_heads"):
        return "llama"
    return "bert"


def random_texts(count: int, *, seed: int = 0, max_words: int = 40) -> list[str]:
    """Made-up texts of 0 to ``max_words`` words."""
    generator = np.random.default_rng(seed)
    words = WORDS.split()
    return [
        " ".join(generator.choice(words, int(generator.integers(0, max_words + 1))))
        for _ in range(count)
    ]
