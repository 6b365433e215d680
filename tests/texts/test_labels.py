"""Cells of labels: one name, or several in one of the ways that programs write them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.texts.labels import BadLabel, read_classes, read_numbers, read_sets


def sets(*cells: str | None, separator: str | None = None) -> list[tuple[str, ...] | None]:
    return read_sets(cells, classes=None, separator=separator)


@pytest.mark.parametrize(
    "cell",
    [
        '["b", "a"]',
        "['b', 'a']",
        "['b','a',]",
        "{'b', 'a'}",
        "('b', \"a\")",
        "['b' 'a']",
        "['b'\n 'a']",
        "b|a",
        "b | a",
    ],
)
def test_sets_as_programs_write_them(cell: str) -> None:
    assert sets(cell, "[]", "()", None, "a") == [("a", "b"), (), ("()",), None, ("a",)]


@pytest.mark.parametrize(
    ("cell", "separator", "expected"),
    [
        ("b;a", ";", ("a", "b")),
        ("b ; a", ";", ("a", "b")),
        ("b,a", ",", ("a", "b")),
        ("b, c|a", "|", ("a", "b, c")),
        ("['b', 'a']", ",", ("a", "b")),
        ("b / a", "/", ("a", "b")),
        ("[x] a", " ", ("[x]", "a")),
        ("2,14", ",", ("14", "2")),
    ],
)
def test_sets_with_a_separator(cell: str, separator: str, expected: tuple[str, ...]) -> None:
    assert sets(cell, "a", separator=separator)[0] == expected


@pytest.mark.parametrize("cell", ["[a, b]", "{'a': 1}", "[np.str_('a')]", "['a', b]"])
def test_what_only_looks_like_a_list(cell: str) -> None:
    with pytest.raises(BadLabel, match="is no list of labels; write"):
        sets("a", cell)


def test_a_separator_is_named_where_there_may_be_one() -> None:
    with pytest.raises(BadLabel, match='looks like several labels; set separator = ";", or'):
        sets("a", "x;y")
    with pytest.raises(BadLabel, match='looks like several labels; set separator = ",", or'):
        sets("a", "b", "a,b")
    with pytest.raises(BadLabel, match='looks like several labels; set separator = ",", or'):
        sets("b", "a,b")
    assert sets("x, y", "a", "b;") == [("x, y",), ("a",), ("b;",)]
    with pytest.raises(BadLabel, match='but its parts are; set separator = ";"') as caught:
        read_sets(["a", "b;a"], classes=["a", "b"])
    assert caught.value.row == 1


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        (["a", "['a', 'b']"], 'is a list, no class; set type = "multilabel" for lists'),
        (["a", '["a", "b"]'], "is a list, no class"),
        (["a", "{'a', 'b'}"], "is a list, no class"),
        (["a", "['a' 'b']"], "is a list, no class"),
        (["3", "[3 8]"], "is a list, no class"),
        (["a", "['a', b']"], "is a list, no class"),
        (["a", "[a, b]"], "is a list, no class"),
        (["a", '{"a": 1}'], "is an object, no class"),
        (
            ["a", "b", "a;b"],
            'looks like several labels; set type = "multilabel" and separator = ";',
        ),
        (["a", "b", "a|b"], 'separator = "|", or, if it is one class, name the classes under'),
        (["a;b", "b;c", "c;a"], 'separator = ";"'),
        (["a", "a;b"], 'separator = ";"'),
        (["a", "b|a"], 'separator = "|"'),
        (["a", '"b"'], "is in quotes; in CSV no blank stands before a quote"),
        (["a", "NA"], "may be a class or a missing label; name the classes under `labels`, or"),
    ],
)
def test_several_labels_are_no_class(cells: Sequence[str], reason: str) -> None:
    with pytest.raises(BadLabel) as caught:
        read_classes(cells, classes=None)
    assert reason in str(caught.value)
    assert caught.value.row == next(i for i, cell in enumerate(cells) if cell == caught.value.value)
    assert read_classes(cells, classes=[*cells, "c"]) == cells  # named: classes all the same


def test_names_with_signs_are_classes() -> None:
    cells = ["[unk]", "(none)", "joy, glee", "x;y", "a|b", "{", "[", "salt & pepper", ""]
    assert read_classes(cells, classes=None) == [*cells[:-1], None]


@pytest.mark.parametrize("cell", ["1_5", "١", "so"])
def test_numbers_are_plain(cell: str) -> None:
    assert read_numbers([" 1.5 ", "1e3", "", None]) == [1.5, 1000.0, None, None]
    with pytest.raises(BadLabel, match="is not a number"):
        read_numbers(["1", cell])


def test_what_cells_mean() -> None:
    names = {"0": "no", "4.0": "yes"}
    found = read_classes(["4", "0.0", None, "no"], classes=None, names=names)
    assert found == ["yes", "no", None, "no"]
    assert read_classes(["4"], classes=["yes", "no"], names=names) == ["yes"]
    assert read_sets(["0|4", "['yes']"], classes=None, names=names) == [("no", "yes"), ("yes",)]
    with pytest.raises(BadLabel, match=r"'2' is none of label_names, which has '0', '4\.0'"):
        read_classes(["4", "2"], classes=None, names=names)


@given(st.lists(st.text(st.characters(codec="ascii", categories=["L", "P", "Zs"]), min_size=1)))
def test_lists_of_python_and_json_are_read_back(names: list[str]) -> None:
    names = [name for name in names if name.strip() and name.strip().lower() not in ("nan",)]
    expected = tuple(sorted({name.strip() for name in names}))
    if any(name.lower().strip() in ("true", "false") for name in names):
        return
    assert sets(repr(names)) == sets(json.dumps(names)) == [expected]


@given(st.lists(st.text("ab'\"[](){},;|\\ 1"), max_size=5))
def test_smoke_any_cells(cells: list[str]) -> None:
    for read in (read_classes, read_sets):
        try:
            read(cells, classes=None)
        except BadLabel as error:
            assert "\n" not in str(error)
