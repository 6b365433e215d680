"""Splits: a group of texts is never in two, given ones stay, strata are divided alike."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

from hypothesis import given
from hypothesis import strategies as st

from pipeline.texts.splits import SPLITS, Group, Row, assign_splits, deal

LABELS = st.one_of(st.none(), st.sampled_from(["a", "b", "c"]))
TEXTS = st.integers(0, 30)


def row_of(text: int, split: str | None, labels: tuple[str | float | None, ...]) -> Row:
    """Texts 3, 13 and 23 are near-duplicates, and so on; a row without a split is drawn one."""
    draw = frozenset(("val", "test")) if split is None else frozenset[str]()
    return Row(str(text), str(text % 10), split, draw, labels)


ROWS = st.builds(row_of, TEXTS, st.none(), st.tuples(LABELS, st.one_of(st.none(), st.floats(0, 1))))
FRACTIONS = {"val": 0.2, "test": 0.1}


@given(rows=st.lists(ROWS, max_size=80), seed=st.integers(0, 9), order=st.randoms())
def test_a_group_is_never_in_two_drawn_splits(
    rows: list[Row], seed: int, order: random.Random
) -> None:
    splits = assign_splits(rows, fractions=FRACTIONS, seed=seed)
    by_group: dict[str, str] = {}
    for row, split in zip(rows, splits, strict=True):
        assert by_group.setdefault(row.group, split) == split
    shuffled = order.sample(rows, len(rows))
    again = assign_splits(shuffled, fractions=FRACTIONS, seed=seed)
    assert dict(zip([row.group for row in shuffled], again, strict=True)) == by_group


GIVEN = st.sampled_from(["train", "val", "test"])
MIXED = st.one_of(ROWS, st.builds(row_of, TEXTS, GIVEN, st.just(("a", 0.5))))


@given(rows=st.lists(MIXED, max_size=60))
def test_given_splits_stay_and_take_other_rows_along(rows: list[Row]) -> None:
    splits = assign_splits(rows, fractions=FRACTIONS, seed=0)
    given_splits = defaultdict(set)
    for row in rows:
        if row.split is not None:
            given_splits[row.group].add(row.split)
    for row, split in zip(rows, splits, strict=True):
        if row.split is not None:
            assert split == row.split
        elif given_splits[row.group]:
            assert split == max(given_splits[row.group], key=SPLITS.index)


@given(sizes=st.lists(st.integers(1, 200), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_every_stratum_is_divided_in_the_same_ratio(sizes: list[int], seed: int) -> None:
    groups = {
        f"{s}-{i}": Group((str(s),), classes=frozenset([(0, str(s))]))
        for s, size in enumerate(sizes)
        for i in range(size)
    }
    drawn = deal(groups, shares=FRACTIONS, seed=seed)
    for s, size in enumerate(sizes):
        counts = Counter(drawn[text] for text in groups if groups[text].stratum == (str(s),))
        assert counts["train"] >= 1
        for split, share in FRACTIONS.items():
            assert abs(counts[split] - share * size) <= 3


@given(sizes=st.lists(st.integers(1, 8), min_size=200, max_size=400), seed=st.integers(0, 99))
def test_splits_have_their_share_of_texts_though_groups_differ(sizes: list[int], seed: int) -> None:
    groups = {str(i): Group((str(i % 3),), size) for i, size in enumerate(sizes)}
    groups["huge"] = Group(("0",), 10 * len(sizes))
    drawn = deal(groups, shares=FRACTIONS, seed=seed)
    assert drawn.pop("huge") == "train"
    for split, share in FRACTIONS.items():
        texts = sum(groups[name].size for name, found in drawn.items() if found == split)
        assert abs(texts - share * sum(sizes)) < 0.06 * sum(sizes)


def test_a_class_within_a_group_is_trained_on() -> None:
    """A rare class, though the group that has it counts as one of the common class."""
    every = frozenset(("val", "test"))
    rows = [Row(str(i), str(i), None, every, ("a",)) for i in range(200)]
    rows += [Row("x", "x", None, every, ("a",)), Row("y", "x", None, every, ("b",))]
    for seed in range(20):
        assert assign_splits(rows, fractions=FRACTIONS, seed=seed)[-1] == "train"
