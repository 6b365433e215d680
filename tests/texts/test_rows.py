"""Rows of text files: streamed, kept, left out or refused."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import CorpusError
from pipeline.texts.rows import read_texts
from store import text_hash
from tests.builders.tables import made_rows, write_csv, write_jsonl


def test_read_texts_streams_blocks(tmp_path: Path) -> None:
    rows = [row | {"when": 1_600_000_000 + i} for i, row in enumerate(made_rows(25))]
    expected = [row["text"] for row in rows]
    write_jsonl(tmp_path / "a.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    write_csv(tmp_path / "a.csv", rows)
    (tmp_path / "a.txt").write_text("\n".join(expected))
    header = "\t".join(rows[0])
    body = ["\t".join(map(str, row.values())) for row in rows]
    (tmp_path / "b.txt").write_text("\n".join([header, *body]))
    for path in sorted(tmp_path.iterdir()):
        columns: dict[str, Any] = {} if path.name == "a.txt" else {"id": "id", "time": "when"}
        blocks = list(read_texts(path, block_rows=10, **columns))
        assert [block.num_rows for block in blocks] == [10, 10, 5], path
        table = pa.concat_tables(blocks)
        assert table.column("text").to_pylist() == expected
        if columns:
            assert table.column("id").to_pylist() == [row["id"] for row in rows]
            assert table.column("created_at")[3].as_py() == 1_600_000_003
        else:
            assert table.column("id")[3].as_py() == "a:4"


def test_read_texts_keeps_every_row(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"text": "@bob"}, {"text": None}, {"text": ""}, {"x": 1}])
    (block,) = read_texts(tmp_path / "a.jsonl")
    assert block.column("text").to_pylist() == ["@user", "", "", ""]
    assert block.column("text_hash")[1].as_py() == text_hash("")


def test_rows_that_cannot_be_read_can_be_left_out(tmp_path: Path) -> None:
    data = {
        "a.csv": b'text,mood\na,1\nb\xff,1\nc,1,2\nd,0\ne,"x"y\n"f\ng",0\n',
        "a.tsv": b'text\tmood\na\t1\nb\xff\t1\nc\t1\t2\nd\t0\ne\n"f g\t0\n',
        "a.jsonl": b'{"text": "a"}\n{"text": "\xff"}\n[1]\n{"text": "d"}\n{"te\n{"text": "f"}\n',
    }
    for name, content_ in data.items():
        (tmp_path / name).write_bytes(content_)
        told: list[tuple[int, str, str]] = []
        blocks = list(read_texts(tmp_path / name, on_bad=lambda *bad, to=told: to.append(bad)))
        texts = [text for block in blocks for text in block.column("text").to_pylist()]
        assert [text[0] for text in texts[:2]] == ["a", "d"], name
        assert len(texts) == 3, name
        first = 2 if name == "a.jsonl" else 3
        assert [line for line, _, _ in told] == [first, first + 1, first + 3], name
        with pytest.raises(CorpusError, match=f"line {first}: not UTF-8"):
            list(read_texts(tmp_path / name))


@pytest.mark.parametrize("depth", [500, 1000, 1020, 100_000])
def test_a_value_of_any_depth_ends_no_run(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "deep.jsonl"
    path.write_text('{"text": "a"}\n{"text": ' + "[" * depth + "]" * depth + '}\n{"text": "b"}\n')
    bad: list[int] = []
    blocks = read_texts(path, text="text", on_bad=lambda line, *_: bad.append(line))
    texts = [text for block in blocks for text in block["text"].to_pylist()]
    assert len(texts) + len(bad) == 3
    assert {"a", "b"} <= set(texts)
    assert bad in ([], [2])


def test_a_quote_that_is_never_closed_costs_one_row(tmp_path: Path) -> None:
    path = tmp_path / "open.csv"
    quoted = [f'{i},"text, of ""{i}"""' for i in range(2000)]
    lines = [
        *quoted[:1500],
        'x,"never closed',
        *[f"{i},text {i}" for i in range(1500, 2000)],
    ]
    path.write_text("\n".join(["id,text", *lines]) + "\n")
    bad: list[int] = []
    blocks = list(read_texts(path, text="text", id="id", on_bad=lambda line, *_: bad.append(line)))
    ids = [one for block in blocks for one in block["id"].to_pylist()]
    assert ids == [str(i) for i in range(2000)]
    assert bad == [1502]


def test_rows_before_a_break_are_kept(tmp_path: Path) -> None:
    rows = made_rows(3000)
    write_jsonl(tmp_path / "a.jsonl", rows)
    write_csv(tmp_path / "a.csv", rows)
    for name in ("a.jsonl", "a.csv"):
        packed = gzip.compress((tmp_path / name).read_bytes())
        (tmp_path / "broken.gz").write_bytes(packed[: len(packed) // 2])
        format = name.removeprefix("a.")
        told: list[tuple[int, str, str]] = []
        blocks = list(
            read_texts(
                tmp_path / "broken.gz", format=format, on_bad=lambda *bad, to=told: to.append(bad)
            )
        )
        texts = [text for block in blocks for text in block.column("text").to_pylist()]
        assert 100 < len(texts) < 2900
        assert texts == [row["text"] for row in rows[: len(texts)]]
        assert len(told) == 1 and "gz breaks off" in told[0][1]
