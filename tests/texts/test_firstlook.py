from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import CorpusError
from pipeline.texts.firstlook import glance

HEADER = "id,text,created_at,author_id,split,label"


def table(folder: Path, rows: list[str], *, header: str = HEADER, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def rows(labels: list[str]) -> list[str]:
    return [
        f"{10**18 + i},text {i},2024-05-01T12:00:00Z,a{i % 3},{'train' if i % 2 else 'test'},{one}"
        for i, one in enumerate(labels)
    ]


def test_columns_by_their_usual_names_and_the_task_by_its_values(tmp_path: Path) -> None:
    found = glance(table(tmp_path, rows(["a", "b", "b", "", "a", "b"])), [])
    assert found.columns == {
        "text": "text", "id": "id", "time": "created_at", "author": "author_id", "split": "split",
    }  # fmt: skip
    (task,) = found.tasks
    assert (task.name, task.column, task.type) == ("label", "label", "classification")
    assert task.why == "2 classes: a 2, b 3; 1 row without" and found.num_rows == 6


@pytest.mark.parametrize(
    ("labels", "type_", "separator", "why"),
    [
        (["0", "1", "2", "1", "0", "1"], "classification", None, "3 classes: 0 2, 1 3, 2 1"),
        (["true", "False", "true"], "classification", None, "2 classes: false 1, true 2"),
        (["0.5", "1", "0.25"], "regression", None, "numbers from 0.25 to 1, 3 different"),
        ([str(i) for i in range(30)], "regression", None, "numbers from 0 to 29, 30 different"),
        (["a|b", "a", "b"], "multilabel", None, "2 labels: a 2, b 2"),
        (["a;b", "a", "b"], "multilabel", ";", "2 labels: a 2, b 2"),
        (['"a,b"', "a", "b"], "multilabel", ",", "2 labels: a 2, b 2"),
        (["\"['a', 'b']\"", "['a']", "[]"], "multilabel", None, "2 labels: a 2, b 1"),
    ],
)
def test_types(
    tmp_path: Path, labels: list[str], type_: str, separator: str | None, why: str
) -> None:
    (task,) = glance(table(tmp_path, rows(labels)), ["label"]).tasks
    assert (task.type, task.separator, task.why) == (type_, separator, why)


def test_tasks_may_be_named_and_columns_that_cannot_serve_are_left_out(tmp_path: Path) -> None:
    odd = ["1,one,yesterday,a,x,p", "1,two,today,b,y,q", "2,three,now,a,z,p"]
    found = glance(table(tmp_path, odd), ["mood=label", "author_id"])
    assert [one.name for one in found.tasks] == ["mood", "author_id"]
    assert found.columns == {"text": "text"}
    assert [*found.notes] == [
        "column 'id' is not taken as the id: '1' comes 2 times",
        "column 'created_at' is not taken as the time: 'yesterday' is no time that can be read",
        "column 'split' is not taken as the split: 'x' is no split; those are train, val and test",
    ]
    named = glance(table(tmp_path, ["1,a,x", "2,b,y"], header="nr,body,how sad?"), ["how sad?"])
    assert named.tasks[0].name == "how_sad" and named.columns == {"text": "body"}


def test_classes_spelled_alike_are_noted(tmp_path: Path) -> None:
    (note,) = glance(table(tmp_path, rows(["a", "b", "A", "a", "b", " a"])), []).notes
    assert note.startswith("column 'label': 'a', 'A' differ in case, spaces")


def test_a_file_has_one_separator(tmp_path: Path) -> None:
    rows = ["t,p|q,x;y", "u,p,x", "v,q,y"]
    with pytest.raises(CorpusError, match=r"'a' by '\|' and 'b' by ';'.*one separator"):
        glance(table(tmp_path, rows, header="text,a,b"), ["a", "b"])
    lists = table(tmp_path, ["t,\"['p', 'q']\",x;y", "u,['p'],x", "v,['q'],y"], header="text,a,b")
    assert [one.separator for one in glance(lists, ["a", "b"]).tasks] == [None, ";"]


def test_json_lines_are_read_by_their_paths(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    lines = [{"data": {"text": f"t {i}", "id": str(i)}, "mood": "ab"[i % 2]} for i in range(4)]
    path.write_text("\n".join(map(json.dumps, lines)))
    found = glance(path, ["mood"])
    assert found.columns == {"text": "data.text", "id": "data.id"}


@pytest.mark.parametrize(
    ("labels", "wanted", "given", "parts"),
    [
        (["a", "b"], ["lable"], {}, ["no column 'lable'", "did you mean 'label'?", "'text'"]),
        (["a", "b"], ["text"], {}, ["column 'text' is the text"]),
        (["a", "b"], ["label"], {"time": "text"}, ["--time text", "is no time"]),
        (["a", "a"], ["label"], {}, ["one class only, 'a', in all 2"]),
        (["", ""], ["label"], {}, ["has no label in any of 2 rows"]),
        (["a", "b", "c", "d"], ["label"], {}, ["4 different values in 4 rows", "no classes"]),
        (['"0,5"', '"1,7"', "3"], ["label"], {}, ["values such as '0,5'", "with a point"]),
        (["a", "NA", "b"], ["label"], {}, ["row 2: 'NA'", "may be a class or a missing label"]),
        (["a", "b"], ["x=label", "x=split"], {}, ["two tasks are called 'x'"]),
    ],
)
def test_what_cannot_be_a_task_is_said(
    tmp_path: Path, labels: list[str], wanted: list[str], given: dict[str, str], parts: list[str]
) -> None:
    with pytest.raises(CorpusError) as caught:
        glance(table(tmp_path, rows(labels)), wanted, given=given)
    for part in parts:
        assert part in str(caught.value)


def test_files_without_the_usual_names(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"as texts usually are .*--text COLUMN.*'a', 'b'"):
        glance(table(tmp_path, ["1,2"], header="a,b"), ["b"])
    with pytest.raises(CorpusError, match=r"as labels usually are .*--label COLUMN"):
        glance(table(tmp_path, ["1,2"], header="text,b"), [])
    with pytest.raises(CorpusError, match="looks like a row of data"):
        glance(table(tmp_path, ["2,x,q"], header="1,hello there,p"), ["q"])
    with pytest.raises(CorpusError, match="column 'text' is empty in all 2 rows"):
        glance(table(tmp_path, [",p", ",q"], header="text,label"), [])
    with pytest.raises(CorpusError, match="no such file"):
        glance(tmp_path / "none.csv", [])
    with pytest.raises(CorpusError, match="is a folder; name one file of it"):
        glance(tmp_path, [])


def test_columns_by_number(tmp_path: Path) -> None:
    rows = [f'{4 * (i % 2)},{10**9 + i},"so, it is {i}"' for i in range(6)]
    path = table(tmp_path, rows[1:], header=rows[0])
    with pytest.raises(CorpusError, match="by number, as --text 3 --label 1"):
        glance(path, ["mood"])
    found = glance(path, ["mood=1"], given={"text": "3", "id": "2"})
    assert found.columns == {"text": "3", "id": "2"} and found.num_rows == 6
    assert found.tasks[0].why == "2 classes: 0 3, 4 3"
