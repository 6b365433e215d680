"""Where rows come from: parts of a table, members of a zip, names of labels."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import CorpusSource, NormaliseConfig, SplitConfig, TaskConfig
from pipeline.errors import ConfigError, CorpusError
from pipeline.texts.corpus import Corpus, describe_corpus, load_corpus
from pipeline.texts.formats import file_stem
from pipeline.texts.rows import read_rows
from tests.builders.tables import made_rows, write_csv, write_jsonl

MOOD = TaskConfig(name="mood", type="classification")


def load(path: Path, task: TaskConfig = MOOD, **source: Any) -> Corpus:
    return load_corpus(
        [CorpusSource(path=str(path), labels={"mood": "mood"}, **source)],
        [task],
        normalise=NormaliseConfig(),
        seed=0,
        split_fractions=SplitConfig(),
    )


def refusal(path: Path, **source: Any) -> str:
    with pytest.raises(CorpusError) as caught:
        load(path, **source)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


def write_parts(folder: Path) -> list[dict[str, Any]]:
    rows = made_rows(90)
    folder.mkdir()
    for part in range(3):
        write_csv(folder / f"part-0000{part}.csv", rows[30 * part : 30 * part + 30])
    (folder / "part-00003.csv").write_text("id,text,mood,force\n")  # an empty partition
    (folder / "part-00004.csv").write_bytes(b"")
    (folder / "_SUCCESS").write_bytes(b"")
    (folder / ".part-00000.csv.crc").write_bytes(b"\x00\x01")
    return rows


def test_parts_are_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    rows = write_parts(folder)
    write_csv(tmp_path / "whole.csv", rows)
    expected = load(tmp_path / "whole.csv", id="id")
    for path in (folder, folder / "part-*.csv", tmp_path / "**" / "part-*.csv"):
        corpus = load(path, id="id")
        assert corpus.samples.equals(expected.samples)
        assert corpus.labels["mood"].equals(expected.labels["mood"])
    assert load(folder).samples["id"][0].as_py() == "out/part-00000:2"
    said = describe_corpus(load(folder)).splitlines()[1]
    assert said == (
        f"  {folder}: 5 files, in the order of their names; left out: .part-00000.csv.crc, _SUCCESS"
    )
    limited = load(folder, id="id", limit=40)
    assert limited.samples.equals(load(tmp_path / "whole.csv", id="id", limit=40).samples)
    some = load(folder, id="id", where={"id": [row["id"] for row in rows[:60]]})
    assert some.samples.num_rows == 60  # and none of the last part's
    assert refusal(folder, where={"mood": "7"}) == (
        "no row has mood = '7'; check the corpus entry's where"
    )


def test_parts_that_are_no_table(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_parts(folder)
    write_jsonl(folder / "part-00009.jsonl", made_rows())
    assert refusal(folder) == (
        "part-00000.csv is csv, part-00009.jsonl is jsonl; the parts of one table have one format:"
        " name them by a pattern, as in folder/*.csv"
    )
    (folder / "part-00009.jsonl").unlink()
    (folder / "part-00002.csv").write_text("id,txt,mood\n1,so,2\n")
    found = refusal(folder)
    assert found.startswith(f"{folder}/part-00002.csv: no column 'text'; did you mean 'txt'?")
    assert refusal(folder / "*.tsv") == "no file has such a name; check the pattern"
    for name in ("neg", "pos"):
        (tmp_path / "classes" / name).mkdir(parents=True)
    assert 'but the folders neg, pos; if these are classes, set format = "folders"' in refusal(
        tmp_path / "classes"
    )
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "part-0.csv").write_bytes(b"")
    (tmp_path / "empty" / "part-1.csv").write_bytes(b"")
    assert refusal(tmp_path / "empty") == "its 2 files have no rows of data"


def write_zip(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_a_zip_with_one_file(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", made_rows())
    data = (tmp_path / "a.csv").read_bytes()
    expected = load(tmp_path / "a.csv", id="id")
    path = write_zip(
        tmp_path / "a.zip",
        {"in/": b"", "in/a.csv": data, "__MACOSX/in/._a.csv": b"\x00", ".DS_Store": b"\x01"},
    )
    assert load(path, id="id").samples.equals(expected.samples)
    assert load(path / "in" / "a.csv", id="id").samples.equals(expected.samples)
    assert load(path).samples["id"][0].as_py() == f"{tmp_path.name}/a:2"
    stored = write_zip(tmp_path / "b.zip", {"b.csv": data}, zipfile.ZIP_STORED)
    assert load(stored, id="id").samples.equals(expected.samples)
    assert file_stem("day.jsonl.zip") == "day"


def test_a_zip_with_several_files(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", made_rows())
    data = (tmp_path / "a.csv").read_bytes()
    path = write_zip(tmp_path / "a.zip", {"train.csv": data, "read.me": b"so"})
    assert refusal(path) == (
        f'holds 2 files: train.csv, read.me; name one, as in "{path}/train.csv"'
    )
    assert load(path / "train.csv").samples.num_rows == 60
    assert refusal(path / "train.tsv") == (
        "holds no file 'train.tsv'; did you mean 'train.csv'?; it holds train.csv, read.me"
    )
    assert refusal(tmp_path / "a.csv" / "b.csv") == (
        "a.csv is no zip archive, so there is no b.csv in it; name the file alone"
    )
    assert refusal(write_zip(tmp_path / "c.zip", {})) == "holds 0 files; name another"


def test_zips_that_are_not_read(tmp_path: Path) -> None:
    data = b"text,mood\na,1\n"
    both = write_zip(tmp_path / "ab.zip", {"a.csv": data, "b.csv": data}).read_bytes()
    for name, path, expected in (
        ("a.csv", write_zip(tmp_path / "l.zip", {"a.csv": b"x" * 99}, zipfile.ZIP_LZMA), "rare"),
        (
            "",
            write_zip(tmp_path / "z.zip", {"ab.zip": both}),
            "holds 2 files: a.csv, b.csv; unpack",
        ),
        ("", write_zip(tmp_path / "b.xlsx", {"xl/workbook.xml": b"<x/>"}), "is an Excel workbook;"),
    ):
        assert expected in refusal(path), name
    one = write_zip(tmp_path / "a.zip", {"a.csv": data}).read_bytes()
    locked = bytearray(one)
    locked[6] |= 1
    locked[one.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "p.zip").write_bytes(locked)
    assert refusal(tmp_path / "p.zip") == "needs a password; unpack it, and name the file in it"


def test_names_of_labels(tmp_path: Path) -> None:
    path = Path(write_jsonl(tmp_path / "a.jsonl", made_rows()))
    names = tmp_path / "names.txt"
    for text in ("sad\nflat\nglad\n", "0\tsad\n1\tflat\n2\tglad\n", "0: sad\n1: flat\n2: glad\n"):
        names.write_text(text)
        corpus = load(path, label_names={"mood": str(names)})
        assert corpus.classes["mood"] == ("flat", "glad", "sad")
    given = {"0": "sad", "1": "flat"}
    assert refusal(path, label_names={"mood": given}).startswith(
        "line 3: mood '2' is none of label_names, which has '0', '1'"
    )
    ordered = TaskConfig(name="mood", type="classification", labels=("sad", "flat", "glad"))
    corpus = load(path, ordered, label_names={"mood": str(names)})
    assert corpus.classes["mood"] == ordered.labels
    names.write_text("sad\nsad\nglad\n")
    with pytest.raises(CorpusError, match=r"names\.txt: needs a name in each line, each another"):
        load(path, label_names={"mood": str(names)})


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [(">= 0.5", 3), ("> 0.5", 2), ("<1", 2), ("<= -1", 1), (["1", "0.5"], 2), (1, 1)],
)
def test_which_rows_are_kept(tmp_path: Path, wanted: Any, kept: int) -> None:
    values = ["0.5", "1.0", "2e0", "-1", "", None, "so"]
    rows = [row | {"sure": values[i % len(values)]} for i, row in enumerate(made_rows(140))]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    assert load(Path(path), where={"sure": wanted}).samples.num_rows == 20 * kept


def test_texts_that_read_like_comparisons(tmp_path: Path) -> None:
    rows = [row | {"sign": ["<3", "2", ":)"][i % 5 % 3]} for i, row in enumerate(made_rows(60))]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    with pytest.raises(ConfigError) as caught:
        load(path, where={"sign": "<3"})
    assert str(caught.value) == (
        "where: sign = '<3' compares numbers, and a row has it as its text; for these rows write"
        ' ["<3"]'
    )
    assert load(path, where={"sign": ["<3"]}).samples.num_rows == 24
    with pytest.raises(ConfigError) as caught:
        load(path, where={"sign": [":)", ">= 0.6"]})
    assert str(caught.value) == (
        "where: sign has the comparison '>= 0.6' in a list; give it alone, or values only"
    )


def test_a_file_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"is no folder; format = \"folders\" is for a folder"):
        list(read_rows(tmp_path / "none", ["text"], format="folders"))
    (tmp_path / "a.txt").write_text("(2 (2 so) (3 it)\n")
    with pytest.raises(CorpusError, match=r"line 1: is no tree of phrases, as in \(3 \(2 It\)"):
        list(read_rows(tmp_path / "a.txt", ["text"], format="trees"))
