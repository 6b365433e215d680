from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import xarray as xr

from pipeline.cli import run_command
from pipeline.config import RunConfig
from store import ActivationStore


@pytest.fixture
def store(finished_run: Path, tmp_path: Path) -> Path:
    shutil.copytree(RunConfig.load(finished_run).store.path, tmp_path / "store")
    return tmp_path / "store"


def test_look_verify_and_damage(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["store", "info", str(store)]) == 0
    assert "160 under 160 ids" in capsys.readouterr().out
    assert run_command(["store", "snapshots", str(store)]) == 0
    assert "160 samples" in capsys.readouterr().out
    assert run_command(["store", "verify", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["damage"] == []
    shard = store / "ffn" / "c" / "1" / "0" / "0" / "0"
    content = bytearray(shard.read_bytes())
    content[100] ^= 4
    shard.write_bytes(content)
    assert run_command(["store", "verify", str(store)]) == 1
    assert "ffn/c/1/0/0/0" in capsys.readouterr().out
    assert run_command(["store", "gc", str(store), "--dry-run"]) == 0
    assert run_command(["store", "info", str(store / "nowhere")]) == 1
    assert capsys.readouterr().err.startswith("salient: ")


def test_delete_compact_export(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = ActivationStore.open(store).samples()["id"].to_pylist()
    (store.parent / "ids.txt").write_text(f"{ids[3]}\n{ids[4]}\n")
    arguments = ["store", "delete", str(store), "--id", ids[0], "--ids-file"]
    assert run_command([*arguments, str(store.parent / "ids.txt")]) == 0
    assert "3 ids deleted" in capsys.readouterr().out
    assert run_command(["store", "delete", str(store)]) == 2
    assert run_command(["store", "compact", str(store)]) == 0
    assert run_command(["store", "export", str(store), str(store.parent / "archive")]) == 0
    assert "ffn" in xr.open_zarr(store.parent / "archive")
    table = store.parent / "few.parquet"
    arguments = ["store", "export", str(store), str(table), "--layer", "1", "--neuron", "5"]
    assert run_command([*arguments, "--neuron", "7", "--pooling", "max"]) == 0
    columns = pq.read_table(table).column_names
    assert columns[-2:] == ["ffn_1_max_5", "ffn_1_max_7"]
    assert pq.read_table(table).num_rows == 157
    assert run_command(["store", "export", str(store), str(table)]) == 1
    assert run_command(["store", "export", str(store), "x", "--layer", "1"]) == 2
    capsys.readouterr()
