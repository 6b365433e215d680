"""Texts to token ids, special tokens and a frame of words included; long texts are cut and flagged.

    encoded = encode(tokenizer, ["a text"], max_length=512, frame=Frame(prefix="query: "))

The model reads a frame's tokens; mean and max pooling leave them out (``Encoded.own``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.backbone.shortening import shorten
from pipeline.config import words_around
from pipeline.errors import BackboneError

Array = NDArray[np.int64]
Spans = list[tuple[int, int]]
"""First and last character of each token."""
ROOM_TEXTS = ("", "a", ".", "1", "\u4eca", "\U0001f602")
"""What a frame's own tokens are counted around: they can depend on what they touch."""


@dataclass(frozen=True)
class Frame:
    """Words that stand around every text: none, a prefix, or a template that holds ``{text}``."""

    prefix: str | None = None
    template: str | None = None

    def __post_init__(self) -> None:
        try:
            words_around(self.prefix, self.template)
        except ValueError as error:
            raise BackboneError(str(error)) from None

    def __bool__(self) -> bool:
        return any(self.words)

    @cached_property
    def words(self) -> tuple[str, str]:
        """What stands before a text, and what behind it."""
        before, after = words_around(self.prefix, self.template)
        return _encodable(before), _encodable(after)

    @property
    def settings(self) -> dict[str, str]:
        """What is set, by the names of the configuration's keys."""
        named = {"prefix": self.prefix, "template": self.template}
        return {key: value for key, value in named.items() if value is not None}

    def check_room(self, tokenizer: Any, max_length: int) -> None:
        """Make sure that a text of some length fits.

        Raises:
            BackboneError: the frame's own tokens fill the context.
        """
        if not self:
            return
        tried = encode(tokenizer, ROOM_TEXTS, max_length=2**62, frame=self)
        own = tried.own(np.arange(len(tried)), special_tokens=False)[1]
        taken = tried.lengths - own
        if taken.max() >= max_length:
            (key,) = self.settings
            raise BackboneError(
                f"{key} {self.settings[key]!r} takes {taken.max()} tokens with the special ones, so"
                f" of max_length = {max_length} none are left for the text; shorten it, or set a"
                " larger max_length if the model allows one"
            )


NO_FRAME = Frame()


@dataclass(frozen=True)
class Encoded:
    """Token ids of ``n`` texts, end to end."""

    flat: Array
    """(tokens,) ids."""
    lengths: Array
    """(n,) tokens of each text, special ones and those of a frame included."""
    leading: Array
    """(n,) special tokens before the text, as [CLS]."""
    trailing: Array
    """(n,) special tokens after it, as [SEP]."""
    truncated: NDArray[np.bool_]
    """(n,) whether the text was cut to the context."""
    before: Array | None = None
    """(n,) a frame's tokens between the leading special ones and the text; None without a frame."""
    after: Array | None = None
    """(n,) a frame's tokens between the text and the trailing special ones."""
    spans: Array | None = None
    """(tokens, 2) first and last character within the text, if asked for; both 0 for tokens that
    are not the text's."""

    def __len__(self) -> int:
        return len(self.lengths)

    def ids(self, indices: Array) -> list[Array]:
        """Token ids of some texts ``(n,)``, ``(tokens,)`` each."""
        return [self.flat[self.slots(i)] for i in indices]

    def slots(self, index: int) -> slice:
        """Which of all tokens are those of a text."""
        return slice(self._ends[index] - self.lengths[index], self._ends[index])

    def whole(self, indices: Array, *, special_tokens: bool) -> tuple[Array, Array]:
        """Of some texts ``(n,)`` the tokens that first and last pooling choose from.

        Args:
            indices: (n,) numbers of texts.
            special_tokens: whether special tokens are among them; a frame's are.

        Returns:
            (n,) how many tokens to skip, and (n,) how many follow.
        """
        lengths = self.lengths[indices]
        if special_tokens:
            return np.zeros_like(lengths), lengths
        skip = self.leading[indices]
        return skip, lengths - skip - self.trailing[indices]

    def own(self, indices: Array, *, special_tokens: bool) -> tuple[Array, Array]:
        """The tokens that mean and max pooling run over; arrays (n,) as of ``whole``.

        Within a frame these are the text's own only, from its first to its last, whatever is said
        of special tokens.
        """
        if self.before is None or self.after is None:
            return self.whole(indices, special_tokens=special_tokens)
        skip, count = self.whole(indices, special_tokens=False)
        before = self.before[indices]
        return skip + before, count - before - self.after[indices]

    @cached_property
    def _ends(self) -> Array:
        ends: Array = np.cumsum(self.lengths)
        return ends


def encode(
    tokenizer: Any,
    texts: Sequence[str],
    *,
    max_length: int,
    frame: Frame = NO_FRAME,
    spans: bool = False,
) -> Encoded:
    """Tokenise texts with a fast tokenizer.

    A text in a frame is tokenised together with it. Tokens that hold any of the text's characters
    are the text's own; so is one that spans the border. Where it is too long, tokens go from the
    text's end: what follows it in the frame stays.

    Args:
        tokenizer: a fast Hugging Face tokenizer; its padding settings do not matter.
        texts: any strings, empty ones too; lone surrogates become U+FFFD.
        max_length: tokens per text, special ones and those of a frame included.
        frame: words around each text.
        spans: also say which characters each token holds.
    """
    clean = [_encodable(text) for text in texts]
    whole = {}
    for i, text in enumerate(clean):
        short = shorten(tokenizer, text, max_length=max_length, words=frame.words)
        if short is not None:
            clean[i], whole[i] = short.text, short
    how = _encode_framed if frame else _encode_alone
    encoded = how(tokenizer, clean, max_length, frame, spans)
    if encoded.spans is not None:
        for i, short in whole.items():
            encoded.spans[encoded.slots(i)] = short.original(encoded.spans[encoded.slots(i)])
    return encoded


def _encode_alone(
    tokenizer: Any, clean: list[str], max_length: int, frame: Frame, spans: bool
) -> Encoded:
    rows, special, offsets = _call(tokenizer, clean, offsets=spans)
    truncated = np.array([len(row) > max_length for row in rows], bool)
    if over := np.flatnonzero(truncated).tolist():
        short = _call(
            tokenizer,
            [clean[i] for i in over],
            offsets=spans,
            truncation=True,
            max_length=max_length,
        )
        for i, row, mask, places in zip(over, *short, strict=True):
            rows[i], special[i], offsets[i] = row, mask, places
    lengths, edges = _lengths(rows), _all_edges(special)
    return Encoded(
        _flat(rows),
        lengths,
        edges[:, 0],
        edges[:, 1],
        truncated,
        spans=_flat_spans(offsets) if spans else None,
    )


def _encode_framed(
    tokenizer: Any, texts: list[str], max_length: int, frame: Frame, spans: bool
) -> Encoded:
    before, after = frame.words
    framed = [before + text + after for text in texts]
    rows, special, offsets = _call(tokenizer, framed, offsets=True)
    truncated = np.array([len(row) > max_length for row in rows], bool)
    owned = np.zeros((len(rows), 2), np.int64)
    for i, text in enumerate(texts):
        begin, end = len(before), len(before) + len(text)
        front, back = _edges(special[i])
        start, stop = _own(offsets[i], front, len(rows[i]) - back, begin, end)
        if (excess := len(rows[i]) - max_length) > 0:
            # A token that spans the border is the frame's as well, so it stays.
            if tokenizer.truncation_side == "left":
                cut = start + int(stop > start and offsets[i][start][0] < begin)
                gone = slice(cut, min(cut + excess, len(rows[i]) - back))
            else:
                cut = stop - int(stop > start and offsets[i][stop - 1][1] > end)
                gone = slice(max(cut - excess, front), cut)
            parts: tuple[list[Any], ...] = (rows[i], special[i], offsets[i])
            for values in parts:
                del values[gone]
            stop = max(stop - (gone.stop - gone.start), front)
            start = min(start, stop)
        owned[i] = start, stop
        if spans:
            offsets[i] = [
                (max(first - begin, 0), min(last, end) - begin) if start <= at < stop else (0, 0)
                for at, (first, last) in enumerate(offsets[i])
            ]
    lengths, edges = _lengths(rows), _all_edges(special)
    return Encoded(
        _flat(rows),
        lengths,
        edges[:, 0],
        edges[:, 1],
        truncated,
        before=owned[:, 0] - edges[:, 0],
        after=lengths - edges[:, 1] - owned[:, 1],
        spans=_flat_spans(offsets) if spans else None,
    )


def _own(spans: Spans, first: int, last: int, begin: int, end: int) -> tuple[int, int]:
    """Of the tokens ``first`` to ``last`` those that hold the characters ``begin`` to ``end``.

    Looks from both sides, so that the text itself, which may be long, is not gone through. Byte
    level tokenizers give a token of blanks no characters, at the end of the blanks.
    """
    start = next((i for i in range(first, last) if spans[i][1] > begin), last)
    if begin == end:
        return start, start
    backwards = range(last - 1, start - 1, -1)
    stop = next((i + 1 for i in backwards if min(spans[i][0], spans[i][1] - 1) < end), start)
    return start, stop


def _call(
    tokenizer: Any, texts: list[str], *, offsets: bool, **options: Any
) -> tuple[list[list[int]], list[list[int]], list[Spans]]:
    """Of each text the ids, the mask of special tokens, and the spans if asked for."""
    if not texts:
        return [], [], []
    result = tokenizer(
        texts,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_special_tokens_mask=True,
        return_offsets_mapping=offsets,
        verbose=False,
        **options,
    )
    spans = list(result["offset_mapping"]) if offsets else [[] for _ in texts]
    return list(result["input_ids"]), list(result["special_tokens_mask"]), spans


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _edges(special: list[int]) -> tuple[int, int]:
    """Numbers of special tokens at the front and at the back; all at the front if all are."""
    front = special.index(0) if 0 in special else len(special)
    return front, (special[::-1].index(0) if front < len(special) else 0)


def _all_edges(special: list[list[int]]) -> Array:
    return np.array([_edges(mask) for mask in special], np.int64).reshape(-1, 2)


def _lengths(rows: list[list[int]]) -> Array:
    return np.array([len(row) for row in rows], np.int64)


def _flat(rows: list[list[int]]) -> Array:
    return np.fromiter((token for row in rows for token in row), np.int64, sum(map(len, rows)))


def _flat_spans(offsets: list[Spans]) -> Array:
    return np.array([span for row in offsets for span in row], np.int64).reshape(-1, 2)
