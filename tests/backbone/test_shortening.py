"""Long texts lose their middle before they are tokenised, and no token changes by it."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from pipeline.backbone import shortening, tokens
from pipeline.backbone.shortening import shorten
from pipeline.backbone.tokens import Encoded, Frame, encode
from tests.builders.models import TEXTS, WORDS

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
CORPUS = [WORDS, *TEXTS, "aa aaa aaaa", "12 123 2026", "今日は 今", "it's ... http://a.b"]


def wordpiece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL)
    )
    return made


def byte_level() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


def split_digits() -> Tokenizer:
    """As Llama 3's: digits go by threes from the left of their run."""
    made = byte_level()
    pattern = r"'s|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return made


def not_split() -> Tokenizer:
    """As Llama 2's: a text is one word."""
    made = Tokenizer(models.BPE(unk_token="[UNK]", fuse_unk=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    words = [text.replace(" ", " \u2581") for text in CORPUS]
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=150, special_tokens=SPECIAL, show_progress=False)
    )
    trained = made.to_str()
    made = Tokenizer.from_str(trained)
    made.pre_tokenizer = None  # type: ignore[assignment]
    return made


def unigram() -> Tokenizer:
    """As XLM-R's."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False
    )
    made.train_from_iterator(CORPUS, trainer)
    return made


def pairs() -> Tokenizer:
    """Where the single ``a`` of an odd run goes depends on the whole run."""
    vocabulary = [(name, 0.0) for name in SPECIAL]
    made = Tokenizer(models.Unigram([*vocabulary, ("a", -3.0), ("aa", -3.5), ("aaa", -4.9)], 1))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    return made


KINDS: dict[str, Callable[[], Tokenizer]] = {
    made.__name__: made for made in (wordpiece, byte_level, split_digits, not_split, unigram, pairs)
}


@cache
def tokenizer(kind: str, side: str = "right") -> Any:
    made = KINDS[kind]()
    made.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, truncation_side=side, pad_token="[PAD]", unk_token="[UNK]"
    )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts count as long that still are quick to tokenise whole."""
    monkeypatch.setattr(shortening, "LEAST_CHARS", 256)
    monkeypatch.setattr(shortening, "LONG", 8)
    monkeypatch.setattr(shortening, "WIDER", (1, 2))


def whole(tokenizer: Any, texts: list[str], **options: Any) -> Encoded:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "shorten", lambda *args, **options: None)
        return encode(tokenizer, texts, **options)


def assert_same(found: Encoded, expected: Encoded) -> None:
    for name in ("flat", "lengths", "leading", "trailing", "truncated", "before", "after", "spans"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


UNITS = {
    "words": "the happy dog sat, 12 cats ran! ",
    "one letter": "a",
    "kanji": "\u4eca\u65e5",
    "emoji": "\U0001f602",
    "digits": "1234567",
    "blanks": " ",
    "letters and many blanks": "cat   ",
    "line feeds": "the\n",
    "marks": "\u0301",
    "marked": "e\u0301",
    "nothing that is kept": "\0",
    "a special token": "[SEP]",
    "punctuation": "...!",
}
FRAMES = (Frame(), Frame(prefix="query: "), Frame(template='say "{text}" now'))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", UNITS)
def test_tokens_are_those_of_the_whole_text(kind: str, side: str, unit: str) -> None:
    own = tokenizer(kind, side)
    for length in (5000, 5001):
        texts = [(UNITS[unit] * length)[:length], "the cat " + "x" * length + " dog"]
        for frame in FRAMES[::2]:
            options: dict[str, Any] = {"max_length": 30, "frame": frame, "spans": True}
            assert_same(encode(own, texts, **options), whole(own, texts, **options))


@pytest.mark.usefixtures("small")
@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from([*KINDS]),
    side=st.sampled_from(["right", "left"]),
    seed=st.integers(0, 10**6),
    units=st.lists(st.sampled_from([*UNITS.values(), "x"]), min_size=1, max_size=5),
    frame=st.sampled_from(FRAMES),
    max_length=st.integers(16, 60),
)
def test_any_mixture(
    kind: str, side: str, seed: int, units: list[str], frame: Frame, max_length: int
) -> None:
    order = random.Random(seed)
    parts = [unit * order.choice([1, 1, 1, 50]) for unit in order.choices(units, k=1500)]
    text = "".join(parts)[: order.randrange(3000, 20_000)]
    own = tokenizer(kind, side)
    options: dict[str, Any] = {"max_length": max_length, "frame": frame, "spans": True}
    assert_same(encode(own, [text], **options), whole(own, [text], **options))


class Counting:
    """A tokenizer that counts the characters it is given."""

    def __init__(self, own: Any) -> None:
        self._own = own
        self.truncation_side = own.truncation_side
        self.num_chars = 0

    def __call__(self, texts: list[str], **options: Any) -> Any:
        self.num_chars += sum(map(len, texts))
        return self._own(texts, **options)


READ_AS_ONE = {("wordpiece", "one letter"), ("pairs", "one letter")} | {
    (kind, "kanji") for kind in ("not_split", "unigram", "pairs")
}
"""Of these runs nothing can be left out: they are one token, or go by twos from the far end."""


@pytest.mark.parametrize(
    ("kind", "unit"),
    [
        pair
        for pair in product(KINDS, ["words", "one letter", "kanji", "a special token"])
        if pair not in READ_AS_ONE
    ],
)
def test_a_long_text_is_hardly_more_work_than_a_short_one(kind: str, unit: str) -> None:
    counting = Counting(tokenizer(kind))
    text = UNITS[unit] * (2_000_000 // len(UNITS[unit]))
    encoded = encode(counting, [text], max_length=64)
    assert encoded.truncated.tolist() == [True] and encoded.lengths.tolist() == [64]
    assert counting.num_chars < 100_000


def test_short_texts_are_left_alone() -> None:
    own = tokenizer("byte_level")
    limit = shortening.LONG * max(shortening.LEAST_CHARS, 512 * shortening.TOKEN_CHARS)
    assert shorten(own, "cat " * (limit // 4), max_length=512) is None
    assert shorten(own, "cat " * limit, max_length=512) is not None
    assert shorten(own, "cat " * limit, max_length=2**62) is None


def test_places_are_told_of_the_whole_text() -> None:
    short = shorten(tokenizer("byte_level"), "cat " * 200_000, max_length=64)
    assert short is not None and short.gone > 700_000
    places = np.array([0, short.at, short.at + 1])
    assert short.original(places).tolist() == [0, short.at, short.at + 1 + short.gone]
