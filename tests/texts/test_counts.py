"""What is told of labels before any model runs, and what stops there."""

from __future__ import annotations

import json
import re
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import TaskConfig
from pipeline.errors import CorpusError
from pipeline.texts.counts import (
    MOST_LINES,
    check_counts,
    count_lines,
    doubts,
    label_counts,
    no_classes,
    plain_spelling,
)

MOOD = TaskConfig(name="mood", type="classification")
FORCE = TaskConfig(name="force", type="regression")
TAGS = TaskConfig(name="tags", type="multilabel")


def counts_of(train: dict[str, int], **others: dict[str, int]) -> dict[str, Any]:
    return {
        split: {"rows": sum(labels.values()), "labels": labels}
        for split, labels in {"train": train, **others}.items()
    }


def said(task: TaskConfig, counts: dict[str, Any], *, by_folds: bool = True) -> str:
    return "\n".join(doubts(task, counts, by_folds=by_folds))


@given(st.lists(st.tuples(st.sampled_from(("train", "val", "test")), st.sampled_from("abc"))))
def test_every_row_is_counted_once(rows: list[tuple[str, str]]) -> None:
    splits, labels = zip(*rows, strict=True) if rows else ((), ())
    table = pa.table(
        {"split": pa.array(splits, pa.string()), "label": pa.array(labels, pa.string())}
    )
    counts = label_counts(MOOD, table, ("a", "b", "c"))
    for split in ("train", "val", "test"):
        own = [label for where, label in rows if where == split]
        found = counts.get(split, {"rows": 0, "labels": {}})
        assert found["rows"] == len(own) == sum(found["labels"].values())
        assert {name: n for name, n in found["labels"].items() if n} == {
            name: own.count(name) for name in set(own)
        }
    assert json.loads(json.dumps(counts)) == counts
    assert len({len(line) for line in count_lines(counts)}) <= 1  # a table


def test_label_sets_and_numbers_have_their_own() -> None:
    sets = pa.table({"split": ["train"] * 3, "label": ['["a", "b"]', '["b"]', "[]"]})
    assert label_counts(TAGS, sets, ("a", "b")) == {
        "train": {"rows": 3, "labels": {"a": 1, "b": 2}}
    }
    numbers = pa.table({"split": ["train"] * 3 + ["val"], "label": [1.0, 5.0, 3.0, 2.0]})
    found = label_counts(FORCE, numbers, ())
    assert found["train"] == {"rows": 3, "min": 1.0, "median": 3.0, "max": 5.0, "values": 3}
    assert count_lines(found)[1:] == [
        "min         1      2",
        "median      3      2",
        "max         5      2",
    ]


def test_of_many_classes_the_commonest_are_listed() -> None:
    lines = count_lines(counts_of({f"c{number}": number for number in range(100)}))
    assert len(lines) == MOST_LINES + 2
    assert lines[1].split() == ["c99", "99"] and lines[-1] == "and 80 others"


@pytest.mark.parametrize(
    ("names", "question"),
    [
        ([f"{number / 7:.3f}" for number in range(122)], 'regression.*type = "regression"'),
        ([f"word{i} and some more words of it" for i in range(122)], "text column as the label"),
        ([f"id{number:05}" for number in range(122)], "free text, or an id"),
    ],
)
def test_values_that_are_no_classes_stop(names: list[str], question: str) -> None:
    counts = counts_of({name: 1 + (at % 6 == 0) for at, name in enumerate(names)})
    told = no_classes(MOOD, counts, in_python=False)
    assert re.match(f"122 different classes in 143 .*{question}", told)
    assert "corpus" not in no_classes(MOOD, counts, in_python=True)
    check_counts(FORCE, {"train": {"rows": 3, "min": 0.0, "median": 0.5, "max": 1.0}})


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.integers(1, 9), min_size=1, max_size=30))
def test_classes_stop_where_most_have_a_row_only(train: dict[str, int]) -> None:
    told = no_classes(MOOD, counts_of(train), in_python=False)
    alone = sum(number == 1 for number in train.values())
    assert bool(told) == (len(train) > 2 and alone > len(train) / 2)


def test_too_few_rows_of_a_class_are_named() -> None:
    check_counts(MOOD, counts_of({"good": 3, "bad": 30}))
    with pytest.raises(CorpusError, match=r"rows of the class 'good' \(2\).*at least 3"):
        check_counts(MOOD, counts_of({"good": 2, "bad": 30}))
    with pytest.raises(CorpusError, match="all 4 test rows have the one class 'bad'"):
        check_counts(MOOD, counts_of({"good": 9, "bad": 9}, test={"good": 0, "bad": 4}))
    alone = counts_of({"good": 9, "bad": 9}, val={"good": 0, "bad": 1})
    check_counts(MOOD, alone)
    with pytest.raises(CorpusError, match="the only val row has the one class 'bad'"):
        check_counts(MOOD, alone, by_folds=False)
    check_counts(TAGS, counts_of({"a": 1, "b": 30}, test={"a": 0, "b": 3}))


def test_few_rows_of_a_class_held_out_are_told() -> None:
    counts = counts_of({"a": 90, "b": 90}, val={"a": 9, "b": 4}, test={"a": 60, "b": 2})
    assert said(MOOD, counts) == (
        "task 'mood': fewer than 5 test rows of 'b' (2): the score of such a class is luck, and so"
        " is its part in macro averages"
    )
    assert "val rows of 'b' (4)" in said(MOOD, counts, by_folds=False)


def test_spellings_are_pointed_out_with_a_mapping_that_joins_them() -> None:
    counts = counts_of({"positive": 40, "Positive": 7, "negative": 30}, test={"POSITIVE": 2})
    told = said(MOOD, counts).splitlines()
    assert told[0].startswith(
        "task 'mood': 'positive' (40 rows) and 'Positive' (7 rows) and 'POSITIVE' (2 rows) differ"
    )
    assert (
        'label_names = { mood = { "positive" = "positive", "Positive" = "positive",'
        ' "POSITIVE" = "positive", "negative" = "negative" } }' in told[1]
    )
    assert said(MOOD, counts_of({"positive": 40, "negative": 30})) == ""


def test_a_class_too_rare_for_its_spelling_is_told_so() -> None:
    counts = counts_of({"positive": 40, "Positive": 2, "negative": 30})
    with pytest.raises(CorpusError, match=r"few.*'Positive' \(2\).*'positive' \(40 rows\).*join"):
        check_counts(MOOD, counts)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Positive", "positive"), ("very  good", "Very_good"), ("caf\u00e9", "cafe\u0301"),
     ("\ufb01ne", "FINE"), ("Stra\u00dfe", "STRASSE")],
)  # fmt: skip
def test_spellings_of_one_label(one: str, other: str) -> None:
    assert plain_spelling(one) == plain_spelling(other)


@given(st.text(max_size=20))
def test_a_plain_spelling_is_its_own(name: str) -> None:
    once = plain_spelling(name)
    assert plain_spelling(once) == once
    assert plain_spelling(f" {name}\t") == once


def test_a_regression_on_two_values_is_asked_about() -> None:
    table = pa.table({"split": ["train"] * 4, "label": [0.0, 1.0, 1.0, 0.0]})
    assert "two different values, 0 and 1" in said(FORCE, label_counts(FORCE, table, ()))
