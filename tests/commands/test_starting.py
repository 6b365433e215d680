from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from pipeline.commands.line import run_command
from pipeline.config import RunConfig
from pipeline.extraction import foresee
from pipeline.texts import corpus_of
from tests.builders.runs import write_mood_csv, write_mood_run


def test_a_file_that_fits_runs_as_it_stands(
    tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mood_csv(tmp_path / "mine.csv")
    target = tmp_path / "run.toml"
    words = ["init", str(target), "--csv", str(tmp_path / "mine.csv"), "--model", str(tiny_bert)]
    assert run_command([*words, "--label", "mood", "--label", "height=level"]) == 0
    said = capsys.readouterr().out
    assert "160 rows; text = text, id = id, time = created_at" in said
    assert "task mood: classification, 2 classes: glad " in said
    assert "task height: classification, 6 classes" in said or "task height: regression" in said
    config = RunConfig.load(target)
    (source,) = config.corpus
    assert source.path == str(tmp_path / "mine.csv") and source.id == "id"
    assert source.labels == {"mood": "mood", "height": "level"}
    assert config.name == "mine" and config.backbone.model == str(tiny_bert)
    assert config.run_dir == str(tmp_path / "runs" / "mine")
    assert tomllib.loads(target.read_text())["corpus"][0]["path"] == "mine.csv"
    before = sorted(tmp_path.iterdir())
    assert run_command(["run", str(target), "--dry-run", "-q"]) == 0
    said = capsys.readouterr().out
    assert "glad" in said and "to compute" in said and "nothing was written" in said
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--label", "moood"], "did you mean 'mood'?"),
        (["--label", "mood", "--text", "body"], "no column 'body'"),
        (["--label", "mood", "--model", "./nowhere"], "--model ./nowhere: no such folder"),
        (["--label", "mood", "--model", "org/name@main"], "'main' is no commit"),
        ([], "--label COLUMN; the columns are 'id', 'text', 'created_at', 'mood', 'level'"),
    ],
)
def test_mistakes_write_nothing(
    tmp_path: Path, words: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mood_csv(tmp_path / "mine.csv")
    target = tmp_path / "run.toml"
    assert run_command(["init", str(target), "--csv", str(tmp_path / "mine.csv"), *words]) == 2
    error = capsys.readouterr().err
    assert part in error and error.count("\n") == 1 and not target.exists()


def test_options_without_a_file_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["init", str(tmp_path / "a.toml"), "--label", "x"]) == 2
    assert "--label goes with --csv FILE" in capsys.readouterr().err
    assert run_command(["init", str(tmp_path / "new" / "a.toml")]) == 0


def test_a_hub_name_with_its_commit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mood_csv(tmp_path / "mine.csv")
    target, commit = tmp_path / "run.toml", "0123456789" * 4
    words = ["init", str(target), "--csv", str(tmp_path / "mine.csv"), "--label", "mood"]
    assert run_command([*words, "--model", f"org/name@{commit}"]) == 0
    config = RunConfig.load(target)
    assert (config.backbone.model, config.backbone.revision) == ("org/name", commit)
    found = foresee(config, corpus_of(config).samples)
    assert "org/name is not on this machine yet" in found["unknown"] and "disk" not in found


def test_a_dry_run_tells_what_would_be_done(
    tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(write_mood_run(tmp_path, tiny_bert))
    assert run_command(["run", config, "--dry-run", "-q", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["corpus"]["label_counts"]["mood"]["train"]["labels"].keys() == {"glad", "sad"}
    found = facts["extraction"]
    assert found["texts"] == found["new"] > 100 and found["stored"] == 0
    assert found["disk"]["bytes"] == found["new"] * found["disk"]["bytes_per_text"]
    assert found["time"]["seconds"] > 0 and found["memory"]["model"] > 0
    assert not (tmp_path / "run").exists() and not (tmp_path / "activations").exists()
    assert run_command(["extract", config, "-q"]) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capsys.readouterr()
    assert run_command(["run", config, "--dry-run", "-q"]) == 0
    said = capsys.readouterr().out
    assert "in the store already; 0 to compute" in said and "disk:" not in said
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
