"""Splits: a text is never in two, given ones stay, strata are divided alike."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

from hypothesis import given
from hypothesis import strategies as st

from pipeline.texts.splits import SPLITS, Row, assign_splits, deal

LABELS = st.one_of(st.none(), st.sampled_from(["a", "b", "c"]))
ROWS = st.builds(
    Row,
    text=st.integers(0, 30).map(str),
    split=st.none(),
    draw=st.just(frozenset(("val", "test"))),
    labels=st.tuples(LABELS, st.one_of(st.none(), st.floats(0, 1))),
)
FRACTIONS = {"val": 0.2, "test": 0.1}


@given(rows=st.lists(ROWS, max_size=80), seed=st.integers(0, 9), order=st.randoms())
def test_a_text_is_never_in_two_drawn_splits(
    rows: list[Row], seed: int, order: random.Random
) -> None:
    splits = assign_splits(rows, fractions=FRACTIONS, seed=seed)
    by_text: dict[str, str] = {}
    for row, split in zip(rows, splits, strict=True):
        assert by_text.setdefault(row.text, split) == split
    shuffled = order.sample(rows, len(rows))
    again = assign_splits(shuffled, fractions=FRACTIONS, seed=seed)
    assert dict(zip([row.text for row in shuffled], again, strict=True)) == by_text


GIVEN = st.sampled_from(["train", "val", "test"])
MIXED = st.one_of(
    ROWS,
    st.builds(
        Row, ROWS.map(lambda row: row.text), GIVEN, st.just(frozenset[str]()), st.just(("a", 0.5))
    ),
)


@given(rows=st.lists(MIXED, max_size=60))
def test_given_splits_stay_and_take_other_rows_along(rows: list[Row]) -> None:
    splits = assign_splits(rows, fractions=FRACTIONS, seed=0)
    given_splits = defaultdict(set)
    for row in rows:
        if row.split is not None:
            given_splits[row.text].add(row.split)
    for row, split in zip(rows, splits, strict=True):
        if row.split is not None:
            assert split == row.split
        elif given_splits[row.text]:
            assert split == max(given_splits[row.text], key=SPLITS.index)


@given(sizes=st.lists(st.integers(1, 200), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_every_stratum_is_divided_in_the_same_ratio(sizes: list[int], seed: int) -> None:
    strata = {f"{s}-{i}": (str(s),) for s, size in enumerate(sizes) for i in range(size)}
    drawn = deal(strata, shares=FRACTIONS, seed=seed, cover=[0])
    for s, size in enumerate(sizes):
        counts = Counter(drawn[text] for text in strata if strata[text] == (str(s),))
        assert counts["train"] >= 1
        for split, share in FRACTIONS.items():
            assert abs(counts[split] - share * size) <= 3
