"""Tables as people have them: without a header, of spoiled ids, in other encodings, of JSON."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import CorpusError
from pipeline.texts.choosing import InputOptions, check_input, settled
from pipeline.texts.filters import Filters
from pipeline.texts.inputs import detect, earlier_key, input_key, read_blocks
from pipeline.texts.rows import is_float, plain_id
from tests.builders.dumps import jsonl
from tests.builders.framed import tar

TEXTS = ["Finally a train on time, what a morning", 'a "café" again 😒', "Rain all week; so"]
QUOTED = [text.replace('"', '""') for text in TEXTS]


def rows_of(path: Path, **options: Any) -> tuple[pa.Table, pa.Table]:
    """All rows of a file, and what could not be read of it."""
    own = InputOptions(**options)
    blocks = list(read_blocks(path, detect(path, own), own))
    return pa.concat_tables([one.rows for one in blocks]), pa.concat_tables(
        [one.bad for one in blocks]
    )


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(CorpusError) as caught:
        rows_of(path, **options)
    return str(caught.value).removeprefix(f"{path}: ")


# --- columns by number --------------------------------------------------------------------------


def headless(path: Path, sign: str = ",", encoding: str = "utf-8") -> Path:
    texts = [text.encode(encoding, "ignore").decode(encoding) for text in QUOTED]
    lines = [
        sign.join(
            f'"{one}"' for one in (4, 1467810369 + i, f"Wed Nov 04 09:0{i}:00 PST 2026", text)
        )
        for i, text in enumerate(texts)
    ]
    path.write_bytes("\n".join(lines).encode(encoding))
    return path


@pytest.mark.parametrize("sign", ",;\t|")
@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.csv.gz"])
@pytest.mark.parametrize("encoding", [None, "cp1252", "utf-16"])
def test_columns_by_number(tmp_path: Path, sign: str, name: str, encoding: str | None) -> None:
    path = headless(tmp_path / name.removesuffix(".gz"), sign, encoding or "utf-8")
    if name.endswith(".gz"):
        (tmp_path / name).write_bytes(gzip.compress(path.read_bytes()))
        path = tmp_path / name
    given = encoding if encoding == "cp1252" else None
    rows, bad = rows_of(path, text="4", id="2", time="3", encoding=given)
    assert len(bad) == 0
    assert rows["id"].to_pylist() == ["1467810369", "1467810370", "1467810371"]
    assert rows["created_at"].to_pylist() == [1793811600, 1793811660, 1793811720]
    assert rows["text"][0].as_py() == TEXTS[0] and "caf" in rows["text"][1].as_py()
    assert rows["line"].to_pylist() == [1, 2, 3]


def test_a_column_that_is_called_by_a_number(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("1,2,text\nx,y,z\n")
    assert rows_of(path, text="2")[0]["text"].to_pylist() == ["y"]
    assert rows_of(path)[0]["text"].to_pylist() == ["z"]


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ("tweet,mood", "line 1 looks like a header, and its column 2 is called 'mood': give that"),
        ("Tweet Text,how sad", "line 1 looks like a header, and its column 2 is called 'how sad'"),
    ],
)
def test_a_header_is_not_taken_for_a_row(tmp_path: Path, first: str, said: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{first}\nso it is,2\n")
    assert said in refusal(path, text="2")


@pytest.mark.parametrize("first", ["so it goes,sad", "5,sad", "@anna no,sad", "https://t.co/x,a"])
def test_a_first_row_of_data_is_read(tmp_path: Path, first: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"{first}\nand so on,glad\n")
    rows, _ = rows_of(path, text="1")
    assert len(rows) == 2
    assert "no column '3'" in refusal(path, text="3")


def test_a_file_without_a_header_says_how_to_name_its_columns(tmp_path: Path) -> None:
    assert refusal(headless(tmp_path / "a.csv")) == (
        "no column 'text'; line 1 looks like a row of data: of a file without a header name columns"
        ' by number, from 1, as --text 4 --id 2 --time 3 (in a configuration text = "4"), or set'
        " columns = [...] with the names of its 4 columns; line 1 holds 1 '4', 2 '1467810369', 3"
        " 'Wed Nov 04 09:00:00 PST …, 4 'Finally a train on time,'…"
    ).replace("PST …", "PST '…")
    wide = tmp_path / "wide.csv"
    wide.write_text(",".join(map(str, range(20))) + "\n")
    assert refusal(wide).endswith("12 '11' and 8 more")


def test_words_of_a_first_row_are_no_names(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("17,id,so it goes on\n18,id,and on\n")
    assert settled(path, "csv", InputOptions()).read == {
        "text": "text", "id": None, "time": None, "lang": None, "author": None,
    }  # fmt: skip
    named = settled(path, "csv", InputOptions(text="3"))
    assert (named.text, named.id) == ("3", None)


# --- ids that lost digits -----------------------------------------------------------------------

LONG = [1467810369123456789 + i for i in range(3)]
ROUNDED = [int(f"{one:.14e}".partition("e")[0].replace(".", "")) * 10**4 for one in LONG]


def csv_of(path: Path, ids: list[Any], sign: str = ",") -> Path:
    rows = [f'{one}{sign}"{text}"' for one, text in zip(ids, QUOTED, strict=True)]
    path.write_text("\n".join([f"id{sign}text", *rows]) + "\n", "utf-8")
    return path


@pytest.mark.parametrize(
    "spoiled",
    [
        "9.00000000E+15", "9.0E+15", "1.46781E+18", "1,46781E+18", "9e+15", "1E18",
        "9007199254740994.0", "1.467810369123457e+18",
    ],
)  # fmt: skip
def test_a_file_whose_ids_lost_digits_is_refused(tmp_path: Path, spoiled: str) -> None:
    assert is_float(spoiled)
    for name, sign in (("a.csv", ";"), ("a.tsv", "\t")):
        path = csv_of(tmp_path / name, [spoiled, "17", spoiled], sign)
        own = settled(path, name[2:], InputOptions())
        with pytest.raises(CorpusError, match="may have become equal"):
            check_input(path, name[2:], own)
        blocks = read_blocks(path, name[2:], own)
        with pytest.raises(CorpusError, match="so different ids may have become equal: write ids"):
            next(blocks)


@pytest.mark.parametrize("type", [pa.float64(), pa.float32()])
def test_columns_of_floats(tmp_path: Path, type: pa.DataType) -> None:
    first = {pa.float64(): 9_000_000_000_000_000, pa.float32(): 16_777_000}[type]
    path = tmp_path / "a.parquet"
    for ids, exact in (([first, first + 1, None], True), ([first * 8, first * 8 + 1, None], False)):
        column = pa.array([*map(float, ids[:2]), None], type)
        pq.write_table(pa.table({"id": column, "text": TEXTS}), path)
        if exact:
            rows, _ = rows_of(path)
            assert rows["id"].to_pylist() == [str(first), str(first + 1), "a:3"]
        else:
            assert "lost digits" in refusal(path)
    pq.write_table(pa.table({"id": LONG, "text": TEXTS}), path)
    assert rows_of(path)[0]["id"].to_pylist() == [str(one) for one in LONG]


@pytest.mark.parametrize("number", ["9.0E+15", "9.00000000E+15", "1.4678103691234568e18"])
def test_floats_in_json(tmp_path: Path, number: str) -> None:
    path = tmp_path / "a.jsonl"
    lines = [f'{{"id": {number}, "body": {json.dumps(text)}}}' for text in TEXTS]
    path.write_text("\n".join(lines))
    assert "lost digits, so different ids may have become equal" in refusal(path)
    path.write_text("\n".join(line.replace(number, f"{i}.0") for i, line in enumerate(lines)))
    assert rows_of(path)[0]["id"].to_pylist() == ["0", "1", "2"]


def test_zeros_of_a_spreadsheet(tmp_path: Path) -> None:
    assert all(str(one).endswith("0000") for one in ROUNDED)
    path = csv_of(tmp_path / "a.csv", ROUNDED)
    assert "lost digits" in refusal(path), "equal ids of different texts"
    path = csv_of(tmp_path / "b.csv", [1467810369123450000, 1567810369123450000, 16678103691230000])
    assert rows_of(path)[0].num_rows == 3, "few may end so by chance"
    path = csv_of(tmp_path / "c.csv", [ROUNDED[0], LONG[1], LONG[2]])
    assert rows_of(path)[0].num_rows == 3


@pytest.mark.parametrize("ids", [["1.0", "2.0", "3.0"], ["1", "2", "3"], ["5e3a", "1e9f", "e15"]])
def test_ids_that_are_exact(tmp_path: Path, ids: list[str]) -> None:
    expected = [one.removesuffix(".0") for one in ids]
    assert rows_of(csv_of(tmp_path / "a.csv", ids))[0]["id"].to_pylist() == expected


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("9000000000000000.0", "9000000000000000"), ("17.00", "17"), ("1,000", "1,000"),
        ('="9000000000000000001"', "9000000000000000001"), ('="a:1"', "a:1"), ('=""', None),
        ("'9000000000000000001", "9000000000000000001"), ("'tis", "'tis"), ('"17"', "17"),
        ("nan", None), ("NaN", None), ("None", None), ("<NA>", None), ("nano", "nano"),
        ("v1.0", "v1.0"), ("1.5", "1.5"), ("at://did:x/p/1", "at://did:x/p/1"), ("", None),
    ],
)  # fmt: skip
def test_what_tools_write_around_ids(tmp_path: Path, written: str, plain: str | None) -> None:
    assert plain_id(written) == plain
    assert plain is None or plain_id(plain) == plain
    path = tmp_path / "a.csv"
    quoted = written.replace('"', '""')
    path.write_text(f'id,text\n7,tea\n"{quoted}",coffee\n')
    assert rows_of(path)[0]["id"].to_pylist() == ["7", plain or "a:3"]


def test_floats_in_what_spreadsheets_take_for_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,text\n"=""9.0E+15""",tea\n"=""9.0E+15""",coffee\n')
    assert "lost digits" in refusal(path)


def test_ids_that_are_mended_are_not_scored_twice(tmp_path: Path) -> None:
    path = csv_of(tmp_path / "a.csv", [f"{17 + n}.0" for n in range(len(QUOTED))])
    options = InputOptions()
    key = input_key(path, "x", "csv", options, columns={"text": "text", "id": "id"}, reading=1)
    assert earlier_key(path, "x", "csv", options) == key
    own = InputOptions(id="id")
    key = input_key(path, "x", "csv", own, columns={"text": "text", "id": "id"}, reading=1)
    assert earlier_key(path, "x", "csv", own) == key
    path = csv_of(tmp_path / "a.csv", [*range(17, 17 + len(QUOTED))])
    assert earlier_key(path, "x", "csv", options) is None


def test_rows_without_ids_in_a_tar(tmp_path: Path) -> None:
    path = tmp_path / "day.tar"
    lines = [jsonl([{"body": f"{name} {n}"} for n in range(2)]) for name in "abc"]
    path.write_bytes(tar({f"{n}.jsonl": data for n, data in enumerate(lines)}))
    rows, _ = rows_of(path)
    ids = rows["id"].to_pylist()
    assert ids[:2] == ["day.tar:1", "day.tar:2"] and len(set(ids)) == 6


@given(st.integers(min_value=0, max_value=10**25))
def test_whole_numbers_are_exact_and_their_floats_are_not(number: int) -> None:
    assert not is_float(str(number))
    assert is_float(f"{float(number):.5E}") and is_float(f"{number}.0") == (number >= 1 << 53)


def test_another_id_is_taken_where_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("id,id_str,text\n1.46781E+18,1467810369123456789,so\n")
    assert rows_of(path)[0]["id"].to_pylist() == ["1467810369123456789"]
    assert "lost digits" in refusal(path, id="id", text="text")


# --- JSON is no text ----------------------------------------------------------------------------

POST = {"words": "Rain all week", "n": 17}
JSON = {
    "lines": "\n".join(json.dumps(POST) for _ in range(3)),
    "an array": json.dumps([POST, POST]),
    "printed": json.dumps([POST, POST], indent=2),
    "a printed object": json.dumps(POST, indent=1),
    "repr": "\n".join(repr(POST) for _ in range(3)),
    "JavaScript": "window.YTD.tweets.part0 = " + json.dumps([POST, POST], indent=2),
    "behind blanks": "\n\n  " + json.dumps(POST),
}


@pytest.mark.parametrize("what", JSON)
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.log", "a"])
def test_json_is_never_read_as_texts(tmp_path: Path, what: str, name: str) -> None:
    path = tmp_path / name
    path.write_text(JSON[what])
    for format in ("text", "csv", "tsv"):
        said = refusal(path, format=format)
        assert (
            said.startswith("is JSON (") and "leave --format out, or give --format tweets" in said
        )
    assert "no column 'text'" in refusal(path)
    rows, _ = rows_of(path, text="words")
    assert set(rows["text"].to_pylist()) == {"Rain all week"}


def test_a_line_of_json_among_texts_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    lines = ["so", json.dumps(POST), "{lol}", "[1] is a list", "{}", repr(POST), "window. closed"]
    path.write_text("\n".join(lines))
    rows, bad = rows_of(path, format="text")
    assert rows["text"].to_pylist() == ["so", "{lol}", "[1] is a list", "{}", "window. closed"]
    assert bad["line"].to_pylist() == [2, 6]
    assert bad["reason"][0].as_py().startswith("no text but a JSON object; read it as what it is")
    table = tmp_path / "a.csv"
    cell = json.dumps(POST).replace('"', '""')
    table.write_text(f'id,text\n1,so\n2,"{cell}"\n')
    rows, bad = rows_of(table)
    assert (rows["id"].to_pylist(), bad["line"].to_pylist()) == (["1"], [3])


# --- filters ------------------------------------------------------------------------------------


def test_languages_and_times_of_tables(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "id\tcreated_at\ttweet\tlanguage\n"
        + "".join(
            f"{i}\t2026-11-0{i} 09:00:00 -0800\ttea {i}\t{('en', 'de')[i % 2]}\n"
            for i in (1, 2, 3, 4)
        )
    )
    rows, _ = rows_of(path)
    kept, _ = Filters.of(languages=["en"]).apply(rows)
    assert kept["id"].to_pylist() == ["2", "4"]
    kept, _ = Filters.of(since="2026-11-03").apply(rows)
    assert kept["id"].to_pylist() == ["3", "4"]
