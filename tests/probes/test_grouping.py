"""Which tasks are fitted together: those whose rows overlap."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.probes.grouping import group_by_rows, shared_rows

positions = st.lists(st.integers(0, 12), max_size=30).map(lambda x: np.array(x, np.int64))


@given(st.lists(positions, min_size=1, max_size=4))
def test_every_tasks_rows_are_in_the_union(parts: list[Any]) -> None:
    union, rows = shared_rows(parts)
    assert (np.diff(union) >= 0).all()
    for part, places in zip(parts, rows, strict=True):
        np.testing.assert_array_equal(union[places], part)
        assert len(set(places.tolist())) == len(part)
    for value in range(13):
        most = max(int((part == value).sum()) for part in parts)
        assert int((union == value).sum()) == most
    assert sorted(i for group in group_by_rows(parts) for i in group) == list(range(len(parts)))


def test_only_overlapping_tasks_share() -> None:
    texts = np.arange(100)
    assert group_by_rows([texts, texts + 100, texts[::2], texts + 5]) == [[0, 2, 3], [1]]
