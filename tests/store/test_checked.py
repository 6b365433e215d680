"""Checksums inside JSON, safetensors and Parquet: damage is an error, never other values."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import StoreError
from store.disk import checked
from store.disk.checked import column_checksum, decode_json, encode_json
from store.tables import (
    read_arrays,
    read_json,
    read_table,
    write_arrays,
    write_json,
    write_table,
)

TABLE = pa.table(
    {
        "id": pa.array(["a", None, "", "déjà", "tweet 5"] * 7),
        "n": pa.array([1, None, 3, -4, 5] * 7, pa.int32()),
        "x": pa.array([0.5, float("nan"), None, -0.0, 1e300] * 7),
        "day": pa.array([0, None, 2, 3, 4] * 7, pa.timestamp("s", "UTC")),
        "flag": pa.array([True, None, False, True, True] * 7),
        "tags": pa.array([["a", "b"], None, [], ["c"], [None]] * 7),
        "kind": pa.array(["x", "y", None, "x", "x"] * 7).dictionary_encode(),
        "blob": pa.array([b"\0", None, b"", b"12", b"3"] * 7, pa.binary()),
        "none": pa.nulls(35),
    }
)
ARRAYS = {"w": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.array(2.5), "e": np.ones(0)}
DATA = {"name": "déjà", "layers": [1, 2, {"a": None}], "loss": 0.1, "ok": True}


def test_a_table_comes_back(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", TABLE)
    found = read_table(tmp_path / "t.parquet")
    assert found.drop_columns(["day", "x"]).equals(TABLE.drop_columns(["day", "x"]))
    assert found.schema.metadata is None
    assert read_table(tmp_path / "t.parquet", ["n", "id"]).column_names == ["n", "id"]
    assert pq.read_table(tmp_path / "t.parquet").num_rows == 35


@given(st.data())
def test_a_checksum_is_of_the_values_not_of_their_layout(data: Any) -> None:
    name = data.draw(st.sampled_from(TABLE.column_names))
    start, stop = sorted(data.draw(st.tuples(st.integers(0, 35), st.integers(0, 35))))
    part = TABLE.slice(start, stop - start)
    cut = data.draw(st.integers(0, len(part)))
    pieces = pa.concat_tables([part.slice(0, cut), part.slice(cut)])
    copied = part.take(pa.array(np.arange(len(part))))
    sums = {column_checksum(table[name]) for table in (part, pieces, copied)}
    assert len(sums) == 1
    if 0 < len(part) < 35 and name != "none":
        assert column_checksum(TABLE[name]) not in sums


def test_old_files_have_no_checksums(tmp_path: Path) -> None:
    pq.write_table(TABLE.select(["id", "n"]), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").equals(TABLE.select(["id", "n"]))
    (tmp_path / "j.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "j.json") == {"a": 1}


def test_a_changed_value_is_seen(tmp_path: Path) -> None:
    write_json(tmp_path / "j.json", DATA)
    assert read_json(tmp_path / "j.json") == DATA
    whole = json.loads((tmp_path / "j.json").read_text("utf-8"))
    whole["loss"] = 0.2
    (tmp_path / "j.json").write_text(json.dumps(whole))
    with pytest.raises(StoreError, match=r"j\.json: damaged .*checksum.*run its stage again"):
        read_json(tmp_path / "j.json")
    with pytest.raises(StoreError, match="holds no JSON object"):
        decode_json(b"[1]", where="here", remedy="do this")
    with pytest.raises(StoreError, match="here: damaged"):
        decode_json(b"[" * 100_000, where="here", remedy="do this")
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_json({"a": float("nan")})
    with pytest.raises(ValueError, match="a member 'checksum'"):
        encode_json({"checksum": 1})


def test_nothing_is_written_that_could_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checked, "MAX_JSON_BYTES", 100)
    assert decode_json(encode_json({"a": "x" * 30}), where="", remedy="") == {"a": "x" * 30}
    with pytest.raises(StoreError, match=r"a JSON file of 1.. bytes .* at most 100 can"):
        encode_json({"a": "x" * 90})


def flips(content: bytes, count: int) -> list[bytes]:
    """`count` copies with one byte changed, spread over the content; the same each time."""
    rng = random.Random(count)
    found = []
    for number in range(count):
        at = number * len(content) // count
        changed = bytearray(content)
        changed[at] ^= rng.randrange(1, 256)
        found.append(bytes(changed))
    return found


def test_no_flip_of_a_table_is_silent(tmp_path: Path) -> None:
    path, table = tmp_path / "t.parquet", TABLE.drop_columns(["day", "x"])
    write_table(path, table)
    refused = 0
    content = path.read_bytes()
    for changed in flips(content, len(content)):
        path.write_bytes(changed)
        try:
            found = read_table(path)
        except StoreError as error:
            assert str(path) in str(error)
            refused += 1
        else:
            assert found.to_pydict() == table.to_pydict()
    assert refused > 500


def test_no_flip_of_arrays_is_silent(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_arrays(path, ARRAYS)
    content = path.read_bytes()
    for changed in flips(content, len(content)):
        path.write_bytes(changed)
        try:
            found = read_arrays(path)
        except StoreError as error:
            assert str(path) in str(error)
        else:
            assert found.keys() == ARRAYS.keys()
            for name, array in ARRAYS.items():
                np.testing.assert_array_equal(found[name], array)


def test_no_flip_of_json_is_silent(tmp_path: Path) -> None:
    path = tmp_path / "j.json"
    write_json(path, DATA)
    content = path.read_bytes()
    for changed in flips(content, 3 * len(content)):
        path.write_bytes(changed)
        try:
            found = read_json(path)
        except StoreError as error:
            assert str(path) in str(error)
        else:
            assert {name: found[name] for name in DATA} == DATA
