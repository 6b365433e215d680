"""What a config says before any weight is read."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from pipeline.backbone.checkpoint import context_length, skeleton
from pipeline.backbone.loading import load_backbone
from pipeline.errors import BackboneError
from tests.builders.models import CONTEXT, make_tiny_model, tiny_config

POSITIONS = "the model's positions"
TOKENIZER = "the tokenizer's model_max_length"
UNLIMITED = 10**30


def limited_to(tokens: int) -> Any:
    """A tokenizer, as far as the context goes by it."""
    return SimpleNamespace(model_max_length=tokens, num_special_tokens_to_add=lambda pair: 2)


@pytest.mark.parametrize(
    ("family", "named", "wanted", "expected"),
    [
        ("bert", UNLIMITED, None, (CONTEXT, POSITIONS)),
        ("roberta", UNLIMITED, None, (CONTEXT, POSITIONS)),  # which start late
        ("opt", UNLIMITED, None, (CONTEXT, POSITIONS)),
        ("bert", CONTEXT, None, (CONTEXT, POSITIONS)),
        ("bert", 20, None, (20, TOKENIZER)),
        ("t5", 512, None, (512, TOKENIZER)),
        ("t5", UNLIMITED, None, (512, "neither the model nor its tokenizer states a limit")),
        ("bert", 20, 30, (30, "max_length, as asked for")),
    ],
)
def test_a_context_says_what_limits_it(
    family: str, named: int, wanted: int | None, expected: tuple[int, str]
) -> None:
    part: Any = skeleton(tiny_config(family))
    assert context_length(part, limited_to(named), wanted) == expected


def test_more_than_the_context_is_refused_with_the_most() -> None:
    tokenizer = limited_to(UNLIMITED)
    with pytest.raises(BackboneError, match=f"context of {CONTEXT} .* name at most {CONTEXT}$"):
        context_length(skeleton(tiny_config("bert")), tokenizer, CONTEXT + 1)


@pytest.mark.parametrize("tokens", [-1, 0, 1, 2])
def test_a_context_without_room_for_a_text_is_refused(tokens: int, tmp_path: Path) -> None:
    path = make_tiny_model("bert", tmp_path)
    with pytest.raises(BackboneError, match="leave no room for a text beside 2 special ones"):
        load_backbone(path, max_length=tokens)
    settings = path / "tokenizer_config.json"
    stated = json.loads(settings.read_text())
    settings.write_text(json.dumps(stated | {"model_max_length": tokens}))
    with pytest.raises(BackboneError, match=r"the tokenizer's model_max_length.* 3 or more"):
        load_backbone(path)
    settings.write_text(json.dumps(stated))
    assert load_backbone(path, max_length=3).max_length == 3


def test_weights_that_are_not_numbers_are_told_as_such(tmp_path: Path) -> None:
    path = make_tiny_model("bert", tmp_path)
    tensors = load_file(path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("layer.1.intermediate.dense.weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BackboneError, match="layer 1 of this 'bert' model is not finite"):
        load_backbone(path)
