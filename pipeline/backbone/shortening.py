"""Very long texts without their middle, before they are tokenised: the model reads an end only.

    short = shorten(tokenizer, text, max_length=512)
    short.text         # its beginning and its end
    short.original     # places in it -> places in the text

A tokenizer takes seconds for a megabyte, of which a model reads some thousand characters. What is
left gives the very tokens that the whole text would give once it is cut to ``max_length``:

- It is cut at blanks between letters if there are any. All usual tokenizers part words there, so
  that the words before and behind a blank do not know of each other.
- It keeps many times what the model reads, at both ends, for whichever end is read and what a frame
  puts there.
- It is tokenised at several places of cutting. Only if all agree on far more tokens than are read,
  the middle is left out; else the text stays whole, which is slow and right. Texts without any
  blank (some scripts, or noise) rely on that.

No place of cutting is within a run of combining marks, which normalisers sort as a whole.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.int64]

TOKEN_CHARS = 16
"""Characters of a text that are kept at each end for each token of the context; English has 5."""
LEAST_CHARS = 4096
LONG = 16
"""Texts are shortened that are so many times as long as one end."""
WIDER = (1, 16)
"""How many times those characters are tried; then the text stays whole."""
NUM_PLACES = 4
"""Places of cutting that must agree: where no blanks part it, four next to each other also tell
whether tokens go by twos, threes or fours from the far end."""
_BLANK = re.compile(r"(?<=[^\W\d_]) (?=[^\W\d_])")


@dataclass(frozen=True)
class Shortened:
    """A text without its middle: ``gone`` characters from ``at`` on."""

    text: str
    at: int
    gone: int

    def original(self, places: Array) -> Array:
        """Where characters ``(...)`` of the shorter text are in the whole one."""
        return np.where(places > self.at, places + self.gone, places)


def shorten(
    tokenizer: Any, text: str, *, max_length: int, words: tuple[str, str] = ("", "")
) -> Shortened | None:
    """A long text without its middle; None where it is short, or has to stay whole.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        text: without lone surrogates.
        max_length: most tokens of it that are read, from the side that the tokenizer keeps.
        words: what stands before and behind it in its frame.
    """
    size = max(LEAST_CHARS, TOKEN_CHARS * max_length)
    for times in WIDER:
        if len(text) > LONG * size * times:
            tried = _without_middle(text, size * times)
            if tried and _agree(tokenizer, tried, max_length=max_length, words=words):
                return tried[0]
    return None


def _without_middle(text: str, size: int) -> list[Shortened]:
    """The text with about ``size`` characters at each end, cut at several places; longest first."""
    heads = _places(text, range(size, 2 * size))
    tails = _places(text, range(len(text) - size, len(text) - 2 * size, -1))
    return [
        Shortened(text[:start] + text[stop:], start, stop - start)
        for start in reversed(heads)
        for stop in tails[:1]  # one end alone, so that lengths differ by one, not by two
    ]


def _places(text: str, tried: range) -> list[int]:
    """A few places where a text can be cut, in the given order: at blanks, else anywhere."""
    low, high = sorted((tried[0], tried[-1]))
    blanks = [match.start() for match in _BLANK.finditer(text, low, high)]
    if len(blanks) >= NUM_PLACES:
        return sorted(blanks, reverse=tried.step < 0)[:NUM_PLACES]
    return [place for place in tried if not unicodedata.combining(text[place])][:NUM_PLACES]


def _agree(
    tokenizer: Any, tried: Sequence[Shortened], *, max_length: int, words: tuple[str, str]
) -> bool:
    """Whether all have the same tokens in the outer half of the end that is read, and enough.

    At the other end nothing but the words of a frame is read, and what touches them.
    """
    before, after = words
    result = tokenizer(
        [before + short.text + after for short in tried],
        padding=False,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    first_half = len(before) + min(short.at for short in tried) // 2
    last_half = len(after) + min(len(short.text) - short.at for short in tried) // 2
    heads, tails = set(), set()
    rows = zip(result["input_ids"], result["offset_mapping"], tried, strict=True)
    for ids, spans, short in rows:
        tokens, places = np.array(ids, np.int64), np.array(spans, np.int64).reshape(-1, 2)
        length = len(before) + len(short.text) + len(after)
        heads.add(tuple(tokens[places[:, 1] <= first_half].tolist()))
        tails.add(tuple(tokens[places[:, 0] >= length - last_half].tolist()))
    read, other, beside = heads, tails, after
    if tokenizer.truncation_side == "left":
        read, other, beside = tails, heads, before
    enough = len(read) == 1 and len(next(iter(read))) > max_length
    return enough and (not beside or len(other) == 1)
