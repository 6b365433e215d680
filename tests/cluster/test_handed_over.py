"""A run's folder from elsewhere starts no cluster, and so none of the code that one may name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="needs the extra: salient-neurons[cluster]")

from pipeline.config import RunConfig
from pipeline.runfolder import run_config
from pipeline.scoring.files import score_files
from store.tables import read_json, write_json
from tests.builders.dumps import scores
from tests.builders.runs import write_mood_csv


def test_code_that_a_runs_folder_names_is_not_run(finished_run: Path, tmp_path: Path) -> None:
    marker = tmp_path / "the code ran"
    options = {"preload": f"import pathlib; pathlib.Path({str(marker)!r}).touch()"}
    cluster = {"kind": "processes", "workers": 1, "options": options}
    run = tmp_path / "run"
    shutil.copytree(RunConfig.load(finished_run).run_dir, run)
    card = read_json(run / "run.json")
    card["config"]["cluster"] = cluster
    write_json(run / "run.json", card)
    dump = tmp_path / "new.csv"
    write_mood_csv(dump, num_rows=20, seed=5)
    said: list[str] = []
    score_files([dump], run, tmp_path / "scores", say=said.append)
    assert scores(tmp_path / "scores").num_rows == 20 and not marker.exists()
    (line,) = [line for line in said if "[cluster]" in line]
    assert str(run) in line and "kind = 'processes'" in line and "TOML file" in line
    # The caller's own file does start one.
    own = tmp_path / "own.json"
    own.write_text(json.dumps({**card["config"], "run_dir": str(run)}))
    score_files([dump], own, tmp_path / "again")
    assert marker.exists()


@pytest.mark.parametrize(
    "cluster", [{"kind": "no such"}, {"kind": 7, "x": 1}, [], "slurm", {"kind": ["a"] * 999}]
)
def test_not_even_its_words_are_read(cluster: object, finished_run: Path, tmp_path: Path) -> None:
    card = read_json(Path(RunConfig.load(finished_run).run_dir) / "run.json")
    card["config"]["cluster"] = cluster
    write_json(tmp_path / "run.json", card)
    said: list[str] = []
    assert run_config(tmp_path, say=said.append).cluster.kind == "local"
    assert len("".join(said)) < 300
