"""CSV and TSV: files without a header, carriage returns, names that nearly fit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipeline.errors import CorpusError
from pipeline.texts.blocks import Layout, RowBlock
from pipeline.texts.choosing import InputOptions
from pipeline.texts.inputs import detect, read_blocks
from pipeline.texts.rows import read_rows


def read(path: Path, columns: list[str], *given: str, **options: str) -> RowBlock:
    (block,) = read_rows(path, columns, layout=Layout(columns=given), **options)
    return block


def refusal(path: Path, columns: list[str], *given: str, **options: str) -> str:
    with pytest.raises(CorpusError) as caught:
        read(path, columns, *given, **options)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("sign", ",;\t|")
def test_columns_are_named_from_outside(tmp_path: Path, sign: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f'1{sign}"so, so; and|so\tso"{sign}x\n2{sign}plain{sign}y\n')
    block = read(path, ["text", "n"], "n", "text", "tag")
    assert block.columns == {"text": ["so, so; and|so\tso", "plain"], "n": ["1", "2"]}
    assert block.lines == [1, 2]
    assert "no column 'txt'; did you mean 'text'?" in refusal(path, ["txt"], "n", "text", "tag")
    path.write_text(f"1{sign}a{sign}x\n2{sign}b\n")
    assert refusal(path, ["text"], "n", "text", "tag").startswith(
        "line 2: wrong number of fields: 2, `columns` names 3; quote a field"
    )


@pytest.mark.parametrize("rest", ["0;bye, now", "0;bye now"])
def test_a_delimiter_that_texts_hold_too(tmp_path: Path, rest: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"1;hello, world\n{rest}\n2;so;so\n")
    given = ("label", "text")
    if "," in rest:
        assert refusal(path, ["text"], *given) == (
            "',' and ';' both part its rows into the 2 fields that `columns` names; set delimiter,"
            ' as in delimiter = ","'
        )
    else:
        assert "line 3: wrong number of fields: 3, `columns` names 2; quote a field that" in (
            refusal(path, ["text"], *given)
        )
    path.write_text(f"1;hello, world\n{rest}\n")
    layout = Layout(columns=given, delimiter=";")
    (block,) = read_rows(path, ["label", "text"], layout=layout)
    assert block.columns == {"label": ["1", "0"], "text": ["hello, world", rest[2:]]}
    options = InputOptions(columns=given, delimiter=";")
    assert detect(path, options) == "csv"
    (scored,) = read_blocks(path, "csv", options)
    assert scored.rows["text"].to_pylist() == ["hello, world", rest[2:]]


def test_a_delimiter_in_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("label;text, raw\n0;bye, now\n")
    (block,) = read_rows(path, ["label"], layout=Layout(delimiter=";"))
    assert block.columns == {"label": ["0"]}
    assert refusal(path, ["label"]).startswith("no column 'label'; did you mean 'label;text'?")


@pytest.mark.parametrize(
    ("name", "format", "message"),
    [
        ("a.jsonl", "auto", "is read as jsonl, which has no delimiter; leave delimiter out, or"),
        ("a.tsv", "tsv", "is read as tsv, whose delimiter is a tab, not ';'; set format ="),
    ],
)
def test_a_delimiter_is_for_tables(tmp_path: Path, name: str, format: str, message: str) -> None:
    (tmp_path / name).write_text('{"text": "a"}\n')
    with pytest.raises(CorpusError, match=re.escape(message)):
        list(read_rows(tmp_path / name, ["text"], format=format, layout=Layout(delimiter=";")))


def test_headers_that_do_not_tell(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label, label\na,1,2\n")
    assert refusal(path, ["text", "label"]) == (
        "line 1: 2 columns are called 'label'; give each another name"
    )
    assert read(path, ["text"]).columns == {"text": ["a"]}


@pytest.mark.parametrize("sign", ";,|\t")
def test_the_delimiter_that_excel_says(tmp_path: Path, sign: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"sep={sign}\ntext{sign}label\na,; b{sign}1\n".replace("a,;", "a"))
    block = read(path, ["text", "label"])
    assert block.columns == {"text": ["a b"], "label": ["1"]} and block.lines == [3]


def test_two_files_in_one(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,1\ntext,label\nb,2\ntext,2\n")
    bad: list[tuple[int, str, str]] = []
    (block,) = read_rows(path, ["text"], on_bad=lambda *one: bad.append(one))
    assert block.columns == {"text": ["a", "b", "text"]}
    assert bad == [(3, "is the header again", "text,label")]
    path.write_text("text\na\ntext\n")
    assert read(path, ["text"]).columns == {"text": ["a", "text"]}


def test_a_header_is_not_read_as_a_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("Text,label\na,1\n")
    assert refusal(path, ["text"], "text", "label") == (
        "line 1: is a header with the names that `columns` gives; leave columns out"
    )
    assert refusal(path, ["text"]) == (
        "no column 'text'; did you mean 'Text'?; the columns are 'Text', 'label'"
    )


@pytest.mark.parametrize(
    ("first", "num_columns"),
    [("0,so it is", 2), ("so it is,2014-01-01,3.5", 3), (f"{'so it is ' * 9},x", 2)],
)
def test_a_first_row_that_is_no_header(tmp_path: Path, first: str, num_columns: int) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{first}\n{first}\n")
    said = refusal(path, ["text"])
    assert said.startswith("no column 'text'; line 1 looks like a row of data: of a file without a")
    assert (
        f"or set columns = [...] with the names of its {num_columns} columns; line 1 holds 1 '"
        in (said)
    )


def test_columns_are_for_tables_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n')
    assert refusal(path, ["text"], "text") == (
        "is read as jsonl, which names its columns itself; leave columns out, or set format to one"
        " of csv, tsv"
    )


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_line_ends_of_old_macs(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    rows = ["text,n", "one,1", '"two, too",2', "three,3"]
    if name == "a.tsv":
        rows = [row.replace('"two, too"', "two too").replace(",", "\t") for row in rows]
    path.write_bytes("\r".join(rows).encode() + b"\r")
    block = read(path, ["text", "n"])
    assert block.columns["n"] == ["1", "2", "3"]
    assert block.lines == [2, 3, 4]


def test_carriage_returns_within_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'text,n\r\none\rand more,1\r\n"two\rtoo",2\nthree,3\r\r\n')
    block = read(path, ["text", "n"])
    assert block.columns == {"text": ["one\rand more", "two\rtoo", "three"], "n": ["1", "2", "3"]}
    path.write_bytes(b"text,n\none,1\rtwo,2\nthree,3\n")
    assert refusal(path, ["text"]) == (
        "line 2: wrong number of fields: 3, the header has 2; it holds a carriage return, which is"
        " no line end in this file: write one kind of line end"
    )
    path.write_bytes(b"text,n\rone,1\ntwo,2\n")
    assert refusal(path, ["text"]).startswith("line 1: the header holds a carriage return")
    path.write_bytes(b"text\none\rtwo\n")
    assert refusal(path, ["text"]).startswith("line 2: holds a carriage return, which may be text")
    path.write_bytes(b"text\tn\none\rmore\t1\ntwo\t2\n")
    assert read(path, ["text"], format="tsv").columns["text"] == ["one\rmore", "two"]


def test_scoring_reads_by_the_same_code(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes('"0","17","caf\u00e9, so"\r\n"4","18","two"\r\n'.encode("cp1252"))
    options = InputOptions(encoding="cp1252", columns=("target", "id", "text"))
    assert detect(path, options) == "csv"
    (block,) = read_blocks(path, "csv", options)
    assert block.rows["id"].to_pylist() == ["17", "18"]
    assert block.rows["text"].to_pylist() == ["caf\u00e9, so", "two"]
    path = tmp_path / "a.txt"
    path.write_text("Text\tn\nso\t1\n")
    named = InputOptions(text="text")
    with pytest.raises(CorpusError, match=r"no column 'text'; did you mean 'Text'\?"):
        list(read_blocks(path, detect(path, named), named))
    (block,) = read_blocks(path, detect(path, InputOptions()), InputOptions())
    assert block.rows["text"].to_pylist() == ["so"]
