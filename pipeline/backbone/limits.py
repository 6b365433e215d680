"""Lengths at which a model computes otherwise, so that texts on both sides never share a batch.

Some models decide by the longest text of a batch how all of it is computed: longrope takes its
long factors, dynamic NTK stretches the rotary base, BigBird's and DeepSeek's attention becomes
sparse. Their configs say where, and ``limits_of`` reads it; ``plan_batches`` keeps to it.

    limits_of(config).within(4096)          # those that matter to texts of up to 4,096 tokens
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CHOSEN_TOKENS = ("index_topk", "keep_window_size")
"""Config keys with the number of tokens that sparse attention chooses: which of equal scores are
chosen beyond that depends on a batch's width."""


@dataclass(frozen=True)
class Limits:
    """Which texts may share a batch, by their numbers of tokens."""

    at: tuple[int, ...] = ()
    """Ascending; texts of up to so many tokens never run with longer ones."""
    equal_above: int | None = None
    """Texts of more tokens run with equally long ones only."""

    def __bool__(self) -> bool:
        return bool(self.at) or self.equal_above is not None

    @property
    def edges(self) -> tuple[int, ...]:
        """All of them, ascending."""
        above = () if self.equal_above is None else (self.equal_above,)
        return tuple(sorted({*self.at, *above}))

    def within(self, max_length: int) -> Limits:
        """Without those that no text of up to ``max_length`` tokens exceeds."""
        above = self.equal_above
        return Limits(
            tuple(limit for limit in self.at if limit < max_length),
            above if above is not None and above < max_length else None,
        )

    def breaks(self, descending: ArrayLike) -> NDArray[np.int64]:
        """Where a new batch must begin.

        Args:
            descending: (texts,) numbers of tokens, the longest first.

        Returns:
            (breaks,) places in it, ascending; 0 is none.
        """
        length = np.asarray(descending, np.int64)
        longer, shorter = length[:-1], length[1:]
        apart = np.searchsorted(self.at, longer) != np.searchsorted(self.at, shorter)
        if self.equal_above is not None:
            apart |= (longer != shorter) & (longer > self.equal_above)
        return np.flatnonzero(apart) + 1

    def allow(self, lengths: ArrayLike) -> bool:
        """Whether texts of these numbers of tokens ``(texts,)`` may share a batch."""
        return not len(self.breaks(np.sort(np.asarray(lengths, np.int64))[::-1]))


ANY = Limits()
"""Any texts may share a batch."""


def limits_of(config: Any) -> Limits:
    """The limits that a Hugging Face config names, wherever in it they stand."""
    at: set[int] = set()
    above: set[int] = set()
    for section, around in _sections(config.to_dict(), {}):
        kind = section.get("rope_type", section.get("type"))
        if kind == "longrope":
            at |= _lengths(section, around, "original_max_position_embeddings")
        elif isinstance(kind, str) and "dynamic" in kind:
            above |= _lengths(section, around, "original_max_position_embeddings")
            above |= _lengths(section, around, "max_position_embeddings")
        if section.get("attention_type") == "block_sparse":
            # BigBird attends to all tokens up to here: global, sliding and twice the random blocks.
            # Beyond, each token sees the batch's last block, so that none may have pads.
            blocks = 5 + 2 * int(section["num_random_blocks"])
            above.add(blocks * int(section["block_size"]))
        above |= {section[key] for key in CHOSEN_TOKENS if isinstance(section.get(key), int)}
    return Limits(tuple(sorted(at)), min(above, default=None))


def _lengths(section: Mapping[str, Any], around: Mapping[str, Any], key: str) -> set[int]:
    """The length that a section names, or else the part of the config that it belongs to."""
    value = section.get(key, around.get(key))
    return {value} if isinstance(value, int) and value > 0 else set()


def _sections(
    section: Mapping[str, Any], around: Mapping[str, Any]
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """All mappings inside a config, each with the nearest one around it that says the context."""
    yield section, around
    inside = section if "max_position_embeddings" in section else around
    for value in section.values():
        if isinstance(value, Mapping):
            yield from _sections(value, inside)
