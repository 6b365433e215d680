"""Which files are meant, and what is refused before anything is loaded or written."""

from __future__ import annotations

import csv
import json
import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import CorpusSource
from pipeline.errors import ConfigError, CorpusError, InputError
from pipeline.scoring.inputs import check_inputs, find_inputs
from pipeline.scoring.place import WrongPlace, check_place
from pipeline.texts.choosing import InputOptions, settled, usual_columns
from pipeline.texts.filters import LANGUAGES, Filters
from pipeline.texts.inputs import USUAL
from tests.builders.dumps import v1, write_tweets


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("id,text\n")


def found(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in find_inputs([folder])]


# --- folders ------------------------------------------------------------------------------------


def test_a_folder_is_all_its_files_in_order(tmp_path: Path) -> None:
    meant = ["10.csv", "9.csv", "a.b/z.jsonl.gz", "a/1.csv", "a/2/x.txt", "no_ending"]
    others = [
        ".hidden.csv", "_SUCCESS", "9.csv.part", "9.csv~", "b.tmp", "README.md", "SHA256SUMS",
        "9.csv.md5", ".git/x.csv", "_staging/x.csv",
    ]  # fmt: skip
    touch(tmp_path, *meant, *others)
    os.symlink(tmp_path, tmp_path / "a" / "circle")
    os.symlink(tmp_path / "nothing", tmp_path / "dangling.csv")
    said: list[str] = []
    paths = find_inputs([tmp_path], say=said.append)
    in_order = ["10.csv", "9.csv", "no_ending", "a/1.csv", "a/2/x.txt", "a.b/z.jsonl.gz"]
    assert [str(path.relative_to(tmp_path)) for path in paths] == in_order
    (line,) = said
    assert "6 files, in the order of their names; left out: " in line
    assert "README.md" in line and line.endswith(" and 4 more")


@pytest.mark.parametrize("sign", ["_salient.json", "_ledger.sqlite", "zarr.json", "run.json"])
def test_what_salient_writes_is_no_input(tmp_path: Path, sign: str) -> None:
    touch(tmp_path, "day.csv", f"own/{sign}", "own/date=2024-01-01/part-0.parquet")
    assert found(tmp_path) == ["day.csv"]
    with pytest.raises(ConfigError, match=r"own: holds (scores|a store|a run), no texts to score"):
        find_inputs([tmp_path / "own"])
    if sign == "_salient.json":
        for name in ("date=2024-01-01", "_quarantine"):
            (tmp_path / "own" / name).mkdir(exist_ok=True)
            with pytest.raises(ConfigError, match="holds scores"):
                find_inputs([tmp_path / "own" / name])


def test_what_is_not_there(tmp_path: Path) -> None:
    touch(tmp_path, "some/_x.csv")
    for given, message in (
        ("some", r"holds no files to score; left out: _x\.csv"),
        ("none.csv", "none.csv: no such input file"),
        ("*.csv", "no name matches the pattern"),
    ):
        with pytest.raises(ConfigError, match=message):
            find_inputs([tmp_path / given])


# --- patterns -----------------------------------------------------------------------------------


def names_of(tmp_path: Path, pattern: str, say: Callable[[str], None] = print) -> list[str]:
    found = find_inputs([tmp_path / pattern], say=say)
    return [str(one.relative_to(tmp_path)) for one in found]


def test_patterns_stand_for_the_files_they_fit(tmp_path: Path) -> None:
    for name in ("d/b.gz", "d/a.gz", "d/c.csv", "d/.h.gz", "d/x.gz.part", "d/notes.md", "d/_y.gz"):
        touch(tmp_path, name)
    for name in ("d/in/z.gz", "d/in/deep/q.gz", "e1/k.csv", "e2/j.csv"):
        touch(tmp_path, name)
    said = list[str]()
    assert names_of(tmp_path, "d/*.gz", said.append) == ["d/a.gz", "d/b.gz"]
    assert said == [
        f"{tmp_path}/d/*.gz: 2 files, in the order of their names; left out: {tmp_path}/d/_y.gz"
    ]
    assert names_of(tmp_path, "d/?.[cg]*") == ["d/a.gz", "d/b.gz", "d/c.csv"]
    assert names_of(tmp_path, "d/_*.gz") == ["d/_y.gz"]
    every = ["d/a.gz", "d/b.gz", "d/in/deep/q.gz", "d/in/z.gz"]
    assert names_of(tmp_path, "d/**/*.gz") == every
    assert names_of(tmp_path, "d/**") == [*every[:2], "d/c.csv", *every[2:]]
    assert names_of(tmp_path, "e?") == ["e1/k.csv", "e2/j.csv"]  # folders stand for their files
    # Notes only where they are asked for.
    assert names_of(tmp_path, "d/*.md") == ["d/notes.md"]
    assert "d/notes.md" not in names_of(tmp_path, "d/*")


def test_a_name_that_holds_brackets_is_no_pattern(tmp_path: Path) -> None:
    for name in ("a[1].csv", "a1.csv", "b1.csv", "d[2]/x.csv", "d2/y.csv"):
        touch(tmp_path, name)
    assert names_of(tmp_path, "a[1].csv") == ["a[1].csv"]
    assert names_of(tmp_path, "b[1].csv") == ["b1.csv"]
    assert names_of(tmp_path, "d[2]") == ["d[2]/x.csv"]
    assert names_of(tmp_path, "d[2]/*.csv") == ["d2/y.csv"]


def test_patterns_leave_out_what_salient_writes(tmp_path: Path) -> None:
    for name in ("d/a.csv", "d/out/_salient.json", "d/out/date=1/part.parquet"):
        touch(tmp_path, name)
    touch(tmp_path, "run.json")  # where the command is given says nothing
    assert names_of(tmp_path, "d/**") == names_of(tmp_path, "d/*") == ["d/a.csv"]
    for pattern in ("d/out/*/*.parquet", "d/out/**", "*/*.parquet", "none/*", "d/**/*.gz"):
        with pytest.raises(ConfigError, match=r"fits no file to score|no name matches"):
            names_of(tmp_path, pattern)


# --- addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("file:///x", "/x: no such input file"),
        ("https://user:word@h/x.csv", "an address holds no user or password"),
        ("odd+x://y", r"odd\+x://y: no address"),
    ],
)
def test_addresses_are_refused(
    address: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=said):
        find_inputs([Path(address)])
    with pytest.raises(WrongPlace, match=rf"^{re.escape(address)}: (scores are|leave file:)"):
        check_place(Path(address))
    assert not list(tmp_path.iterdir())


def test_an_address_of_a_configuration_is_refused_too(tmp_path: Path) -> None:
    with pytest.raises(WrongPlace, match=r"copy them to s3:// afterwards"):
        check_place(tmp_path / "s3:" / "bucket")  # as it looks once it is absolute
    for name in ("a:b", "s3", "x:"):
        check_place(tmp_path / name / "scores")
    touch(tmp_path, "file.csv")
    with pytest.raises(WrongPlace, match="is a file"):
        check_place(tmp_path / "file.csv")


# --- columns ------------------------------------------------------------------------------------


def table(folder: Path, name: str, columns: list[str]) -> Path:
    with (folder / name).open("w", newline="") as file:
        csv.writer(file).writerows([columns, [f"of {one}" for one in columns]])
    return folder / name


CORPUS = [
    CorpusSource(path="a.csv", text="body", id="tid", time="posted", labels={"mood": "m"}),
    CorpusSource(path="b.csv", time="made", labels={"mood": "m"}),
]


def test_columns_are_those_of_the_corpus_where_a_file_has_them(tmp_path: Path) -> None:
    usual = usual_columns(CORPUS)
    assert usual["time"][:3] == ("posted", "made", "created_at")
    for columns, expected in (
        (["tid", "body", "made", "posted", "lang"], ("body", "tid", "posted", "lang", None)),
        (["id", "text", "made"], ("text", "id", "made", None, None)),
        (["text", "body"], ("body", None, None, None, None)),
        (["created_at", "tid", "id", "text"], ("text", "tid", "created_at", None, None)),
    ):
        path = table(tmp_path, "in.csv", columns)
        assert tuple(settled(path, "csv", InputOptions(usual=usual)).read.values()) == expected
    named = InputOptions(usual=usual, text="text", time="when")
    assert settled(path, "csv", named).time == "when", "and an error where it is not there"


def test_a_column_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path) -> None:
    path = tmp_path / "day.parquet"
    ids = pa.array([str(10**15 + row * 7919) for row in range(2000)])
    rows = pa.table({"text": ["good"] * 2000, "id": ids})
    pq.write_table(rows, path, use_dictionary=False, compression="snappy")
    place = pq.read_metadata(path).row_group(0).column(1).data_page_offset
    damaged = bytearray(path.read_bytes())
    for at in range(place, place + 400):
        damaged[at] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(CorpusError, match=r"day\.parquet: .*read"):
        settled(path, "parquet", InputOptions())
    twice = tmp_path / "twice.csv"
    twice.write_text("id,id,text\n1,2,good\n")
    with pytest.raises(CorpusError, match="2 columns are called 'id'"):
        settled(twice, "csv", InputOptions())


@pytest.mark.parametrize("text", ["", "text\n", "id,text\n"])
def test_a_file_without_rows_has_whatever_columns(tmp_path: Path, text: str) -> None:
    path = tmp_path / "quiet.csv"
    path.write_text(text)
    assert settled(path, "csv", InputOptions()).read == {**dict.fromkeys(USUAL), "text": "text"}


@pytest.mark.parametrize(
    ("options", "filters", "message"),
    [
        ({}, {}, None),
        ({"lang": "nope"}, {}, r"no column 'nope'; the columns are"),
        ({"text": "boddy"}, {}, r"no column 'boddy'; did you mean 'body'\?"),
        ({"id": "nope"}, {}, "no column 'nope'"),
        ({}, {"languages": ["en"]}, r"no column 'lang'; did you mean 'langs'\?.*--lang-column"),
        ({"lang": "langs"}, {"languages": ["en"]}, None),
        ({"time": "id"}, {"since": "2024-01-01"}, None),
        ({}, {"until": "2024-01-01"}, r"no column 'created_at'.*its time unknown.*--time"),
    ],
)
def test_columns_are_looked_for(
    tmp_path: Path, options: dict[str, str], filters: dict[str, str], message: str | None
) -> None:
    path = table(tmp_path, "in.csv", ["id", "text", "body", "langs"])
    check = [path], InputOptions(**options), Filters.of(**filters)
    if message is None:
        check_inputs(*check)
        return
    with pytest.raises(ConfigError, match=message):
        check_inputs(*check)
    # Of several files, the others are reported when the run ends.
    check_inputs([path, write_tweets(tmp_path / "dump", [v1(0)])], InputOptions(), check[2])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    touch(tmp_path, "book.xls")
    (tmp_path / "book.xls").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 99)
    with zipfile.ZipFile(tmp_path / "book.xlsx", "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    (tmp_path / "odd").write_text("nothing\n")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"words": "x"}) + "\n")
    for name, message in (
        ("book.xls", "is an Excel workbook; save its sheet as CSV"),
        ("book.xlsx", "is an Excel workbook; save its sheet as CSV"),
        ("odd", r"set format to one of tweets, csv, tsv, jsonl, parquet, arrow, text$"),
        ("rows.jsonl", r"no column 'text'.*name the column of the text with --text$"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_inputs([tmp_path / name], InputOptions(), Filters.of())
    with pytest.raises(ConfigError, match=r"book\.xls.*\(and 1 more file\)"):
        both = [tmp_path / "book.xls", tmp_path / "odd"]
        check_inputs(both, InputOptions(), Filters.of())


# --- languages ----------------------------------------------------------------------------------


def test_languages_are_codes() -> None:
    for code in ("en", "und", "qme", "zh-CN", "zh_tw", "EN", *LANGUAGES.values()):
        assert Filters.of(languages=[code]).languages == (code.lower(),)
    with pytest.raises(ConfigError, match=r"'English' is no code .* did you mean 'en'\?"):
        Filters.of(languages=["English"])
    with pytest.raises(ConfigError, match=r"'klingon' is no code .* write one as 'en'"):
        Filters.of(languages=["klingon"])
    assert Filters.of(languages=["English"], any_language=True).languages == ("english",)
