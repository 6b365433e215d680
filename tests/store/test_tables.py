from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from store.errors import StoreError
from store.tables import (
    check_array,
    read_arrays,
    read_json,
    read_table,
    write_arrays,
    write_json,
    write_table,
)


def test_round_trips(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "scalar": np.float32(2.5),
        "empty": np.zeros((0, 4), np.int64),
    }
    write_arrays(tmp_path / "deep" / "x.safetensors", {k: np.asarray(v) for k, v in arrays.items()})
    found = read_arrays(tmp_path / "deep" / "x.safetensors")
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].shape == np.shape(value)
    write_json(tmp_path / "x.json", {"é": [1, None]})
    assert read_json(tmp_path / "x.json") == {"é": [1, None]}
    table = pa.table({"n": [1, 2], "s": ["a", None]})
    write_table(tmp_path / "layer=3" / "x.parquet", table)
    assert read_table(tmp_path / "layer=3" / "x.parquet").equals(table)
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".tmp")]


@pytest.mark.parametrize(
    ("name", "read"),
    [("x.safetensors", read_arrays), ("x.json", read_json), ("x.parquet", read_table)],
)
def test_missing_and_damaged_files_are_named(tmp_path: Path, name: str, read) -> None:
    with pytest.raises(StoreError, match=f"{name}: no such file"):
        read(tmp_path / name)
    (tmp_path / name).write_bytes(b"\x00garbage")
    with pytest.raises(StoreError, match=f"{name}: damaged"):
        read(tmp_path / name)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert read_json(tmp_path / "x.json") == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_an_array_that_is_another_than_expected_is_named() -> None:
    array = np.zeros((3, 4), np.float32)
    for fits in ((3, 4), (None, 4), (None, None)):
        check_array("weights", array, "f", fits)
    for kind, shape in (("i", (3, 4)), ("f", (4, 4)), ("f", (3, None, None)), ("f", (None, 3))):
        with pytest.raises(ValueError, match=r"weights: float32 \(3, 4\), not"):
            check_array("weights", array, kind, shape)


def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    pipe, folder, long = (tmp_path / name for name in ("pipe", "folder", "long"))
    os.mkfifo(pipe)
    folder.mkdir()
    for path in (pipe, folder):
        for read in (read_json, read_arrays, read_table):
            with pytest.raises(StoreError, match=f"{path.name}: is no file; remove it"):
                read(path)
    with long.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(StoreError, match=r"long: damaged .*bytes, at most"):
        read_json(long)
