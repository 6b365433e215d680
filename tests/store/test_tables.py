from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from store.errors import StoreError
from store.tables import read_arrays, read_json, read_table, write_arrays, write_json, write_table


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
