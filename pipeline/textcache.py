"""Predictions of texts, each computed once for as long as it is remembered.

A dump holds a popular tweet thousands of times, as retweets. Every text of a block is computed
once, and those of earlier blocks not again, as long as they are among the last ones seen::

    plan = cache.plan(hashes)                  # when a block is read; plan.new are its new texts
    table = cache.resolve(plan, computed)      # when those are computed; a row for every hash

Blocks may be planned far ahead of being resolved, in another thread; both in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Plan:
    """Where the predictions of a block come from.

    Attributes:
        new: places in the block, one for each text to compute; at least one.
        forget: whether the older texts are forgotten first.
        again: rows of the older table that become young again.
        rows: row of the younger table for each row of the block, after ``again`` and ``new`` have
            been added to it, in this order.
    """

    new: list[int]
    forget: bool
    again: list[int]
    rows: list[int]


class TextCache:
    """Remembers about ``max_texts`` texts. They are forgotten by halves, the older one first; a
    text that is seen again belongs to the younger half."""

    def __init__(self, *, max_texts: int) -> None:
        self._max_young = max_texts // 2
        self._young: dict[str, int] = {}  # hash of a text -> row of the younger table
        self._old: dict[str, int] = {}
        self._num_young_rows = 0
        self._young_table: pa.Table | None = None
        self._old_table: pa.Table | None = None

    def plan(self, hashes: Sequence[str]) -> Plan:
        """Decide what of a block (at least one row) is to be computed."""
        forget = self._num_young_rows > self._max_young
        if forget:
            self._old, self._young = self._young, {}
            self._num_young_rows = 0
        again: dict[str, int] = {}
        new: dict[str, int] = {}
        for at, one in enumerate(hashes):
            if one in self._young:
                continue
            if one in self._old:
                again[one] = self._old[one]
            else:
                new.setdefault(one, at)
        if not new:  # a table to compute for every block keeps reading and writing in step
            new[hashes[0]] = 0
            again.pop(hashes[0], None)
        for one in (*again, *new):
            self._young[one] = self._num_young_rows
            self._num_young_rows += 1
        rows = [self._young[one] for one in hashes]
        return Plan(list(new.values()), forget, list(again.values()), rows)

    def resolve(self, plan: Plan, computed: pa.Table) -> pa.Table:
        """The predictions of a block.

        Args:
            plan: its plan; those of earlier blocks have been resolved.
            computed: predictions of the texts in ``plan.new``, always of the same columns.

        Returns:
            A table of the same columns with a row for each row of the block.
        """
        if plan.forget:
            self._old_table, self._young_table = self._young_table, None
        tables = [] if self._young_table is None else [self._young_table]
        if plan.again:
            assert self._old_table is not None
            tables.append(self._old_table.take(plan.again))
        self._young_table = pa.concat_tables([*tables, computed]).combine_chunks()
        return self._young_table.take(plan.rows)
