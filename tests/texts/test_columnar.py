"""Parquet and Arrow files."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from pipeline.errors import CorpusError
from pipeline.texts.blocks import Layout
from pipeline.texts.choosing import InputOptions
from pipeline.texts.formats import detect_format
from pipeline.texts.inputs import detect, read_blocks
from pipeline.texts.rows import read_rows

TABLE = pa.table(
    {
        "text": ["one", None, "naïve", "one"],
        "view": pa.array(["a", "b", None, "d"], pa.string_view()),
        "kind": pa.array(["x", "y", "x", None]).dictionary_encode(),
        "n": pa.array([1.0, 2.5, None, 4.0]),
        "list": [["a"], [], None, ["a", "b"]],
    }
)
EXPECTED = {
    "text": ["one", None, "naïve", "one"],
    "view": ["a", "b", None, "d"],
    "kind": ["x", "y", "x", None],
    "n": ["1", "2.5", None, "4"],
    "list": ['["a"]', "[]", None, '["a","b"]'],
}


def write_file(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_file(path, table.schema) as sink:
        sink.write_table(table, max_chunksize=3)


def write_stream(path: Path, table: pa.Table) -> None:
    with pa.ipc.new_stream(path, table.schema) as sink:
        sink.write_table(table, max_chunksize=3)


def write_feather(path: Path, table: pa.Table) -> None:
    feather.write_feather(table, path, compression="zstd")


@pytest.mark.parametrize("write", [write_file, write_stream, write_feather])
@pytest.mark.parametrize("name", ["a.arrow", "a.feather", "a"])
def test_arrow_of_every_kind(tmp_path: Path, name: str, write: Any) -> None:
    path = tmp_path / name
    write(path, TABLE)
    assert detect_format(path) == "arrow"
    blocks = list(read_rows(path, list(EXPECTED), block_rows=3))
    assert [block.lines for block in blocks] == [[1, 2, 3], [4]]
    found = {name: [one for b in blocks for one in b.columns[name]] for name in EXPECTED}
    assert found == EXPECTED
    options = InputOptions()
    (scored,) = read_blocks(path, detect(path, options), options)
    assert scored.rows["text"].to_pylist() == ["one", "", "naïve", "one"]


def refusal(path: Path, **layout: Any) -> str:
    with pytest.raises(CorpusError) as caught:
        list(read_rows(path, ["text"], layout=Layout(**layout)))
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


def test_what_is_wrong_with_an_arrow_file(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    write_file(path, TABLE.rename_columns(["Text", "view", "kind", "n", "list"]))
    assert refusal(path).startswith("no column 'text'; did you mean 'Text'?; the columns are")
    assert refusal(path, encoding="cp1252").startswith("is arrow, which has no other encoding")
    write_file(path, TABLE)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:7], whole[:8] + bytes(4000) + whole[4008:]):
        path.write_bytes(damaged)
        assert "is not a readable Arrow file: " in refusal(path)
    path.write_bytes(gzip.compress(whole))
    assert "does not begin as one; if it is packed, unpack it" in refusal(path)
    path.write_bytes(b"FEA1 and so on")
    assert refusal(path).startswith("is Feather of version 1, which is given up; save it as")
    odd = pa.table({"text": pa.array([b"one", b"\xff", b"two"], pa.binary())})
    write_file(path, odd)
    assert refusal(path) == "line 2: not UTF-8: byte 0xFF"


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]
)
@pytest.mark.parametrize("write", [write_file, write_stream])
@pytest.mark.parametrize("place", [-2000, 8300, 200_000_000])
def test_offsets_that_lead_out_of_an_arrow_file(
    tmp_path: Path, kind: pa.DataType, write: Any, place: int
) -> None:
    table = pa.table({"text": pa.array([f"MARK{i:04}" for i in range(1000)], kind)})
    path = tmp_path / "a.arrow"
    write(path, table)
    width = np.int64 if kind == pa.large_string() else np.int32
    whole, true = path.read_bytes(), np.arange(0, 32, 8, dtype=width).tobytes()
    path.write_bytes(whole.replace(true, np.array([0, place, 16, 24], width).tobytes()))
    assert path.read_bytes() != whole
    assert refusal(path).startswith("is not a readable Arrow file: Offset invariant failure: ")


def test_an_index_beyond_a_dictionary(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    write_file(path, pa.table({"text": pa.array(["x", "y"] * 500).dictionary_encode()}))
    true = np.array([0, 1], np.int32).tobytes()
    path.write_bytes(path.read_bytes().replace(true * 2, true + b"\0\0\0\0\0\0\0\x40"))
    assert refusal(path) == "is not a readable Arrow file: Index 1073741824 out of bounds"


@pytest.mark.parametrize("name", ["a.feather", "a.arrows"])
def test_columns_that_are_not_read_stay_packed(tmp_path: Path, name: str) -> None:
    junk = pa.array(["z" * 1000]).take(pa.array(np.zeros(200_000, np.int64)))
    table = pa.table({"junk": junk, "text": ["a"] * 200_000})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    new = pa.ipc.new_file if name == "a.feather" else pa.ipc.new_stream
    with new(tmp_path / name, table.schema, options=options) as sink:
        sink.write_table(table)
    del junk, table
    before, most = pa.total_allocated_bytes(), 0
    for block in read_rows(tmp_path / name, ["text"]):
        most = max(most, pa.total_allocated_bytes() - before)
        assert set(block.columns["text"]) == {"a"}
    assert most < 20 << 20


def test_packed_parquet_says_so(tmp_path: Path) -> None:
    pq.write_table(TABLE.select(["text"]), tmp_path / "a.parquet")
    packed = tmp_path / "b.parquet.gz"
    packed.write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    assert refusal(packed).endswith("does not begin as one; if it is packed, unpack it")
