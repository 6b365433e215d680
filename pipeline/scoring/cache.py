"""Predictions of texts, each computed once for as long as it is remembered.

A dump holds a popular tweet thousands of times, as retweets. Every text of a block is computed
once, and those of earlier blocks not again, as long as they are among the last ones seen::

    plan = cache.plan(hashes)                  # when a block is read; plan.new are its new texts
    table = cache.resolve(plan, computed)      # when those are computed; a row for every hash

Blocks may be planned far ahead of being resolved, in another thread; both in the same order. Three
blocks with ``max_texts=4``: once more than two texts are young, the next block makes them old::

    block    forget  again   new   the younger table then        rows
    a b a    no              0 1   a b                           0 1 0
    b c      no              1     a b c                         1 2
    d a a    yes     0       0     a d       (the older: a b c)  1 0 0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class CachePlan:
    """Where the predictions of a block come from.

    Attributes:
        number: of the block; plans are resolved in this order.
        new: places in the block, one for each text to compute.
        forget: whether the older texts are forgotten first, and the younger ones become older.
        again: rows of the older table that become young again.
        rows: row of the younger table for each row of the block, after ``again`` and ``new`` have
            been added to it, in this order.
    """

    number: int
    new: list[int]
    forget: bool
    again: list[int]
    rows: list[int]


class TextCache:
    """Remembers about ``max_texts`` texts. They are forgotten by halves, the older one first; a
    text that is seen again belongs to the younger half."""

    def __init__(self, *, max_texts: int) -> None:
        self._max_young = max_texts // 2
        # What plan() sees: hash of a text -> its row of the younger or the older table.
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}
        self._num_planned = 0
        # What resolve() sees: the tables, as of the last block that was resolved.
        self._young_table: pa.Table | None = None
        self._old_table: pa.Table | None = None
        self._num_resolved = 0

    def plan(self, hashes: Sequence[str]) -> CachePlan:
        """Decide what of a block is to be computed."""
        forget = len(self._young) > self._max_young
        if forget:
            self._old, self._young = self._young, {}
        again: dict[str, int] = {}
        new: dict[str, int] = {}
        for at, one in enumerate(hashes):
            if one in self._young:
                continue
            if one in self._old:
                again[one] = self._old[one]
            else:
                new.setdefault(one, at)
        for one in (*again, *new):
            self._young[one] = len(self._young)
        rows = [self._young[one] for one in hashes]
        number, self._num_planned = self._num_planned, self._num_planned + 1
        return CachePlan(number, list(new.values()), forget, list(again.values()), rows)

    def resolve(self, plan: CachePlan, computed: pa.Table) -> pa.Table:
        """The predictions of a block.

        Args:
            plan: its plan.
            computed: predictions of the texts in ``plan.new``, always of the same columns.

        Returns:
            A table of the same columns with a row for each row of the block.
        """
        assert plan.number == self._num_resolved, "plans are resolved in their order"
        assert len(computed) == len(plan.new)
        self._num_resolved += 1
        if plan.forget:
            self._old_table, self._young_table = self._young_table, None
        tables = [] if self._young_table is None else [self._young_table]
        if plan.again:
            assert self._old_table is not None
            tables.append(self._old_table.take(plan.again))
        self._young_table = pa.concat_tables([*tables, computed]).combine_chunks()
        return self._young_table.take(pa.array(plan.rows, pa.int64()))
