"""Texts to token ids: special tokens included, over-long texts cut and flagged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Encoded:
    """Token ids of ``n`` texts, end to end."""

    flat: NDArray[np.int64]
    """(tokens,) ids."""
    lengths: NDArray[np.int64]
    """(n,) tokens of each text, special ones included."""
    leading: NDArray[np.int64]
    """(n,) special tokens before the text, as [CLS]."""
    trailing: NDArray[np.int64]
    """(n,) special tokens after it, as [SEP]."""
    truncated: NDArray[np.bool_]
    """(n,) whether the text was cut to the context."""

    def __len__(self) -> int:
        return len(self.lengths)

    def ids(self, indices: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Token ids of some texts ``(n,)``, ``(tokens,)`` each."""
        ends = self._ends
        return [self.flat[ends[i] - self.lengths[i] : ends[i]] for i in indices]

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        ends: NDArray[np.int64] = np.cumsum(self.lengths)
        return ends


def encode(tokenizer: Any, texts: Sequence[str], *, max_length: int) -> Encoded:
    """Tokenise texts with a fast tokenizer.

    Args:
        tokenizer: a fast Hugging Face tokenizer; its padding settings do not matter.
        texts: any strings, empty ones too; lone surrogates become U+FFFD.
        max_length: tokens per text, special ones included.
    """
    clean = [_encodable(text) for text in texts]
    rows, special = _call(tokenizer, clean)
    lengths = np.array([len(row) for row in rows], np.int64)
    truncated = lengths > max_length
    if over := np.flatnonzero(truncated).tolist():
        short = _call(tokenizer, [clean[i] for i in over], truncation=True, max_length=max_length)
        for i, row, mask in zip(over, *short, strict=True):
            rows[i], special[i], lengths[i] = row, mask, len(row)
    edges = np.array([_edges(mask) for mask in special], np.int64).reshape(-1, 2)
    flat = np.fromiter((token for row in rows for token in row), np.int64, int(lengths.sum()))
    return Encoded(flat, lengths, edges[:, 0], edges[:, 1], truncated)


def _call(
    tokenizer: Any, texts: list[str], **options: Any
) -> tuple[list[list[int]], list[list[int]]]:
    if not texts:
        return [], []
    result = tokenizer(
        texts,
        padding=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_special_tokens_mask=True,
        verbose=False,
        **options,
    )
    return list(result["input_ids"]), list(result["special_tokens_mask"])


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
