"""Load a model folder's tokenizer, and make sure that it is one for this model.

A tokenizer that lacks a file can load without a word and read every text alike, so a few plainly
different texts are encoded, and what comes out is held against the model's vocabulary.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import nn
from transformers import AutoTokenizer

from pipeline.errors import BackboneError, first_line

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
)
"""A tokenizer has one of these."""
SIDE_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "bpe.codes",
    "vocab.bpe",
    "sentencepiece.model",
    "source.spm",
    "target.spm",
    "tokenizer.tiktoken",
    "entity_vocab.json",
)
"""What else changes how it reads a text."""
_SENTENCEPIECE = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}
_RANKS = {"tiktoken": "tiktoken"}
LEAST_SHARE = 0.5
"""Of the model's vocabulary, that a tokenizer knows. Vocabularies are rounded up to multiples of
64 or 128 and hold reserved ids: of the models in use all know more than nine tenths."""
PLAIN_TEXTS = (
    "a",
    "the cat sat on the mat",
    "What? 31 dogs, 25 cats!",
    "MKVLAAGICQRNDEFHPSTWY ACGTACGT",
    "\u043c\u0438\u0440 \u4f60\u597d",
)
"""As different as can be; proteins and genes are no words to tokenizers of words, nor words to
theirs."""


def load_tokenizer(path: Path, *, trust_remote_code: bool = False) -> Any:
    """The fast tokenizer of a model folder.

    Raises:
        BackboneError: none there, only a slow one, or one that reads all texts alike.
    """
    present = [name for name in TOKENIZER_FILES if (path / name).is_file()]
    if not present:
        raise BackboneError(
            f"{path}: no tokenizer; expected tokenizer.json (or {', '.join(TOKENIZER_FILES[1:])})"
        )
    lacking = None if "tokenizer.json" in present else _lacking(path)
    if lacking and all(name.endswith(".model") for name in present):
        raise BackboneError(f"{path}: {lacking}")  # transformers would speak of what it tried last
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path, local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:
        raise BackboneError(
            f"{path}: "
            + (lacking or f"the tokenizer cannot be loaded ({first_line(error)})")
            + "; or save it again with tokenizer.save_pretrained(path)"
        ) from error
    if not tokenizer.is_fast:
        raise BackboneError(
            f"{path}: {type(tokenizer).__name__} is a slow (Python) tokenizer; convert it to "
            "tokenizer.json with transformers.convert_slow_tokenizer"
        )
    rows = tokenizer(list(PLAIN_TEXTS), padding=False, verbose=False)["input_ids"]
    if len({frozenset(row) for row in rows}) == 1:
        raise BackboneError(
            f"{path}: {type(tokenizer).__name__} of {len(tokenizer)} entries reads all texts alike "
            f"({PLAIN_TEXTS[1]!r} as {rows[1][:4]}), so a file of it is missing, as "
            "tokenizer_config.json or merges.txt; fetch the whole folder again"
        )
    return tokenizer


def _lacking(path: Path) -> str | None:
    """What the files of a tokenizer need and is not here."""
    for name in (*TOKENIZER_FILES, *SIDE_FILES):
        if name.endswith((".model", ".spm", ".tiktoken")) and (path / name).is_file():
            readers = _RANKS if _is_ranks(path / name) else _SENTENCEPIECE
            if absent := [package for package, module in readers.items() if not _found(module)]:
                return f"its {name} is read by what is missing here: pip install {' '.join(absent)}"
    if (path / "vocab.json").is_file() and not (path / "merges.txt").is_file():
        return "its vocab.json stands without merges.txt; fetch that too"
    return None


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it is in
        return False


def _is_ranks(file: Path) -> bool:
    """Whether it is tiktoken's text of base64 and ranks, not SentencePiece's protocol buffer."""
    with file.open("rb") as stream:
        return re.fullmatch(rb"[A-Za-z0-9+/]+=* \d+\s*", stream.readline(4096)) is not None


def fit_tokenizer(path: Path, tokenizer: Any, network: nn.Module) -> None:
    """Make sure that a tokenizer and a model belong together.

    Special tokens that the model has no row for, and that are not put around texts, are taken out
    of the tokenizer: a text that has their names in it is read as any other. Such are the image
    token of gemma-3 without its eyes, and a ``[PAD]`` that was added later.

    Raises:
        BackboneError: it has few of the model's entries, or ids beyond its embedding.
    """
    embedding = _embedding(network)
    if embedding is None:
        return
    size = getattr(network.config, "vocab_size", None)
    size = size if isinstance(size, int) else embedding
    if len(tokenizer) < LEAST_SHARE * size:
        raise BackboneError(
            f"{path}: the tokenizer has {len(tokenizer)} entries and the model {size}, so it is of "
            "another model or a file of it is missing; fetch the whole folder again (if it is "
            "right, cut the model with model.resize_token_embeddings(len(tokenizer)))"
        )
    beyond = {id_ for id_ in tokenizer.get_vocab().values() if id_ >= embedding}
    if not beyond:
        return
    added = tokenizer.added_tokens_decoder
    unused = {id_ for id_ in beyond if id_ in added and added[id_].special}
    unused -= set(tokenizer("")["input_ids"])
    if beyond - unused:
        raise BackboneError(
            f"{path}: the tokenizer has ids up to {max(beyond - unused)} and the model's embedding "
            f"0..{embedding - 1}; take the model's own tokenizer, or train the model after "
            "model.resize_token_embeddings(len(tokenizer))"
        )
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["id"] not in unused]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(data))


def _embedding(network: nn.Module) -> int | None:
    """Rows of the embedding of tokens; None if there is none of the usual kind."""
    try:
        found: Any = network.get_input_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None
    return getattr(found, "num_embeddings", None)
