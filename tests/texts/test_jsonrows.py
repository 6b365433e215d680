"""JSON objects as rows: columns that are paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import CorpusError
from pipeline.texts.inputs import InputOptions, detect, read_blocks
from pipeline.texts.jsonrows import at
from pipeline.texts.rows import read_rows, read_texts
from tests.builders.tables import write_jsonl


def row(text: str, **others: Any) -> dict[str, Any]:
    return {"data": {"text": text, "label": [{"name": "tea"}, 3]}, **others}


def test_columns_are_paths(tmp_path: Path) -> None:
    rows = [row("one"), row("two", **{"data.text": "own key"}), {"data": {"label": []}}]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    columns = ["data.text", "data.label.0.name", "data.label.1"]
    (block,) = read_rows(path, columns)
    assert block.columns == {
        "data.text": ["one", "own key", None],
        "data.label.0.name": ["tea", "tea", None],
        "data.label.1": ["3", "3", None],
    }
    (tmp_path / "b.json").write_text(json.dumps(rows, indent=1))
    (again,) = read_rows(tmp_path / "b.json", columns)
    assert again.columns == block.columns
    options = InputOptions(text="data.text")
    (scored,) = read_blocks(Path(path), detect(Path(path), options), options)
    assert scored.rows["text"].to_pylist() == ["one", "own key", ""]


def test_a_path_that_leads_nowhere(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [row("one", id=1), row("two", id=2)])
    with pytest.raises(CorpusError) as caught:
        list(read_rows(path, ["data.txt"]))
    assert str(caught.value) == (
        f"{path}: no column 'data.txt'; did you mean 'data.text'?; the columns are 'data.text',"
        " 'data.label.0.name', 'data.label.1', 'id'"
    )
    with pytest.raises(CorpusError, match=r"no column 'text'; did you mean 'data\.text'\?"):
        list(read_rows(path, ["text"]))


def test_keys_with_dots_go_first() -> None:
    value = {"a": {"b.c": 1, "b": {"c": 2}}, "a.b": {"c": 3}, "x": [[0, 7]]}
    assert at(value, "a.b.c") == 1
    assert at(value, "a.b") == {"c": 3}
    assert at(value, "x.0.1") == 7


@given(
    st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text("ab.01"), inner),
    ),
    st.text("ab.01-"),
)
def test_smoke_any_path_of_any_value(value: Any, path: str) -> None:
    at(value, path)


def test_rows_on_one_line_have_ids_of_their_own(tmp_path: Path) -> None:
    """`json.dumps` of a list and pandas' `to_json` write no line ends."""
    path = tmp_path / "day.json"
    path.write_text(json.dumps([{"text": f"t{i}"} for i in range(5)]))
    tables = [*read_texts(path, text="text", id=None, block_rows=2)]
    ids = [one for table in tables for one in table["id"].to_pylist()]
    assert ids == ["day:1", "day:1.2", "day:1.3", "day:1.4", "day:1.5"]
    path = tmp_path / "lines.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n')
    (table,) = read_texts(path, text="text", id=None)
    assert table["id"].to_pylist() == ["lines:1", "lines:2"]


@pytest.mark.parametrize("value", [{"text": "a"}, ["a", "b"]])
def test_an_object_is_no_text(tmp_path: Path, value: object) -> None:
    path = tmp_path / "day.jsonl"
    path.write_text(json.dumps({"post": "fine"}) + "\n" + json.dumps({"post": value}) + "\n")
    with pytest.raises(CorpusError, match=r"line 2: 'post' holds .* such as 'post\.(text|0)'"):
        list(read_texts(path, text="post", id=None))
    bad: list[tuple[int, str, str]] = []
    (table,) = read_texts(path, text="post", id=None, on_bad=lambda *what: bad.append(what))
    assert table["text"].to_pylist() == ["fine"] and [line for line, *_ in bad] == [2]
