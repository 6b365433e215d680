"""Model types that nobody else has: each breaks one promise, so that a check can be seen to notice.

    make_odd_model("odd-depth", folder)               # as make_tiny_model

They are BERTs of their own types, registered with transformers in this process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModel, BertConfig, BertModel

from tests.builders.models import (
    CONTEXT,
    FFN_WIDTH,
    LAYERS,
    VOCABULARY,
    make_tokenizer,
    save_random_model,
)


class DepthConfig(BertConfig):
    model_type = "odd-depth"


class DepthModel(BertModel):
    """Its embeddings depend on how many blocks it has."""

    config_class = DepthConfig

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **options: Any) -> Any:
        words = self.embeddings.word_embeddings(input_ids) * (1 + len(self.encoder.layer))
        return super().forward(inputs_embeds=words, attention_mask=attention_mask, **options)


class WidthConfig(BertConfig):
    model_type = "odd-width"


class WidthModel(BertModel):
    """Its embeddings depend on how wide a batch is, if that is wider than what is tried at load."""

    config_class = WidthConfig

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **options: Any) -> Any:
        words = self.embeddings.word_embeddings(input_ids)
        words = words * (1 + 0.1 * max(0, input_ids.shape[1] - 40))
        return super().forward(inputs_embeds=words, attention_mask=attention_mask, **options)


class RestlessConfig(BertConfig):
    model_type = "odd-restless"


class RestlessModel(BertModel):
    """It remembers how long a text it has read, and reads others differently from then on."""

    config_class = RestlessConfig

    def __init__(self, config: Any, **options: Any) -> None:
        super().__init__(config, **options)
        self.longest = 0

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **options: Any) -> Any:
        words = self.embeddings.word_embeddings(input_ids) * (1 + self.longest)
        self.longest = max(self.longest, input_ids.shape[1])
        return super().forward(inputs_embeds=words, attention_mask=attention_mask, **options)


_ODD = {one.config_class.model_type: one for one in (DepthModel, WidthModel, RestlessModel)}
for kind, model in _ODD.items():
    AutoConfig.register(kind, model.config_class)
    AutoModel.register(model.config_class, model)


def make_odd_model(kind: str, folder: Path) -> Path:
    """Write a tiny random model of an odd type, with its tokenizer, into ``folder / kind``."""
    config = _ODD[kind].config_class(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=FFN_WIDTH,
        max_position_embeddings=CONTEXT,
    )
    save_random_model(config, folder / kind)
    make_tokenizer(folder / kind)
    return folder / kind
