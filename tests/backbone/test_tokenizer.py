"""Tokenizers that read nothing, or that are of another model, are refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pipeline.backbone import tokenizer as module
from pipeline.backbone.loading import fitted_tokenizer, load_backbone
from pipeline.backbone.tokenizer import fit_tokenizer, load_tokenizer
from pipeline.errors import BackboneError
from pipeline.extraction.extractor import Extractor
from tests.builders.models import VOCABULARY, make_tiny_model, make_tokenizer, tiny_config

SENTENCEPIECE = b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02"


def refusal(do: Callable[[], Any]) -> str:
    with pytest.raises(BackboneError) as caught:
        do()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def leave_only(path: Path, **files: bytes) -> Path:
    """Take the tokenizer out of a folder and put other files there; ``__`` stands for a dot."""
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (path / name).unlink(missing_ok=True)
    for name, content in files.items():
        (path / name.replace("__", ".")).write_bytes(content)
    return path


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return make_tiny_model("bert", tmp_path)


# ------------------------------------------------------------------ reading


def test_words_with_codes_and_without_their_tokenizer_config(tmp_path: Path) -> None:
    """As BERTweet's folder: the config's type takes neither file, and knows five special tokens."""
    path = make_tiny_model("roberta", tmp_path)
    words = "".join(f"w{i}@@ {1000 - i}\n" for i in range(60)) + "the 123\ncat 7\n"
    codes = "".join(f"t h{i} {1000 - i}\n" for i in range(60))
    leave_only(path, vocab__txt=words.encode(), bpe__codes=codes.encode())
    message = refusal(lambda: load_backbone(path))
    assert "5 entries reads all texts alike" in message and "tokenizer_config.json" in message


def test_a_tokenizer_of_unknown_words_is_refused_whatever_their_number(bert: Path) -> None:
    leave_only(bert, vocab__txt=b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nzebra\n")
    assert "reads all texts alike" in refusal(lambda: load_tokenizer(bert))


@pytest.mark.parametrize(
    ("files", "advice"),
    [
        ({"tokenizer__model": SENTENCEPIECE}, "tokenizer.model .* pip install sentencepiece prot"),
        ({"spiece__model": SENTENCEPIECE}, "spiece.model .* pip install sentencepiece protobuf"),
        ({"tokenizer__model": b"YQ== 0\nYg== 1\n"}, "tokenizer.model .* pip install tiktoken"),
    ],
)
def test_the_advice_names_what_lacks(
    files: dict[str, bytes], advice: str, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_found", lambda name: False)
    leave_only(bert, **files)
    with pytest.raises(BackboneError, match=advice):
        load_tokenizer(bert)


def test_only_what_lacks_is_named(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_found", lambda name: name != "google.protobuf")
    leave_only(bert, tokenizer__model=SENTENCEPIECE)
    assert refusal(lambda: load_tokenizer(bert)).endswith("pip install protobuf")


def test_modules_are_looked_for() -> None:
    assert module._found("json") and module._found("json.decoder")
    assert not module._found("no_such_module") and not module._found("no_such_module.inner")


def test_vocabulary_without_merges(tmp_path: Path) -> None:
    path = make_tiny_model("gpt2", tmp_path)
    leave_only(path, vocab__json=json.dumps({c: i for i, c in enumerate("abcdef")}).encode())
    assert "without merges.txt" in refusal(lambda: load_tokenizer(path))


# ------------------------------------------------------------------ fitting the model


@pytest.mark.parametrize("rows", [VOCABULARY, VOCABULARY + 84, 2 * VOCABULARY - 60])
def test_reserved_and_padded_rows_are_fine(rows: int, tmp_path: Path) -> None:
    load_backbone(make_tiny_model("t5", tmp_path, vocab_size=rows), engine="torch")


def test_far_fewer_entries_than_the_model_has(tmp_path: Path) -> None:
    path = make_tiny_model("bert", tmp_path, vocab_size=3 * VOCABULARY)
    message = refusal(lambda: load_backbone(path))
    assert f"the model {3 * VOCABULARY}" in message and "resize_token_embeddings" in message


def test_ids_beyond_the_embedding(tmp_path: Path) -> None:
    path = make_tiny_model("bert", tmp_path, vocab_size=250)
    assert "embedding 0..249" in refusal(lambda: load_backbone(path))


def add(path: Path, token: str, *, special: bool, around: bool = False) -> None:
    """Add a token to a folder's tokenizer, which the model knows nothing of."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens([token], special_tokens=special)
    if around:
        id_ = tokenizer.convert_tokens_to_ids(token)
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{token} $A", special_tokens=[(token, id_)]
        )
    tokenizer.save_pretrained(path)


def full(path: Path) -> int:
    """Give the folder's model no row more than its tokenizer has entries."""
    size = len(AutoTokenizer.from_pretrained(path))
    make_tiny_model("bert", path.parent, vocab_size=size)
    make_tokenizer(path, style="bert")
    return size


def test_a_special_token_that_the_model_has_no_row_for_is_read_as_text(bert: Path) -> None:
    size = full(bert)
    texts = ["it was <image> sad", "it was sad"]
    before = Extractor(load_backbone(bert, engine="torch"))(texts)
    add(bert, "<image>", special=True)
    assert AutoTokenizer.from_pretrained(bert)("<image>")["input_ids"][1] == size
    backbone = load_backbone(bert, engine="torch")
    after = Extractor(backbone)(texts)
    assert (after.ffn == before.ffn).all() and len(backbone.tokenizer) == size


@pytest.mark.parametrize("options", [{"special": False}, {"special": True, "around": True}])
def test_other_tokens_without_a_row_are_refused(options: dict[str, bool], bert: Path) -> None:
    size = full(bert)
    add(bert, "<user>", **options)
    message = refusal(lambda: load_backbone(bert))
    assert f"ids up to {size}" in message and "resize_token_embeddings" in message


def test_without_weights_it_reads_as_a_backbones(bert: Path) -> None:
    add(bert, "<image>", special=True)
    text = "a <image> here"
    found = fitted_tokenizer(bert)(text)["input_ids"]
    assert found == load_backbone(bert).tokenizer(text)["input_ids"]
    assert found != load_tokenizer(bert)(text)["input_ids"]


def test_a_model_without_an_embedding_of_tokens_takes_any(bert: Path) -> None:
    tokenizer = load_tokenizer(bert)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    network = nn.Linear(2, 2)
    network.config = tiny_config("bert", vocab_size=10**6)  # type: ignore[assignment]
    fit_tokenizer(bert, tokenizer, network)
