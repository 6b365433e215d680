"""The run folder: what lies in it, whose it is, and that it goes with its store."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from pipeline import stages
from pipeline.commands.line import run_command
from pipeline.config import RunConfig
from pipeline.errors import ExtractError, ProbeError
from pipeline.heads.model import Head
from pipeline.neurons.ablation import ablate
from pipeline.runfolder import RunFolder, read_card, read_metrics, run_config
from store import ActivationStore
from store.tables import read_json, read_table, write_json
from store.upkeep.garbage import gc as collect
from tests.builders.runs import write_mood_run


def test_a_run_leaves_everything_it_should(finished_run: Path) -> None:
    config = RunConfig.load(finished_run)
    folder = RunFolder(Path(config.run_dir))
    metrics = read_metrics(RunFolder(Path(config.run_dir)))
    card = json.loads(folder.card.read_text())
    assert card["config_fingerprint"] == config.fingerprint
    assert card["corpus"]["rows_read"] == 160
    assert card["versions"]["torch"]
    for task in config.tasks:
        entry = metrics["tasks"][task.name]
        assert [layer["source"] for layer in entry["layers"]] == [0, 1, 2]
        assert entry["chosen"]["val"] >= entry["hidden"]["val"] - 0.2
        assert entry["chosen"]["test"][entry["metric"]] > 0.5
        table = read_table(folder.importance(task.name))
        store = ActivationStore.open(config.store.path)
        assert len(table) == 3 * 2 * store.schema.neuron_size
        head = Head.load(folder.head(task.name))
        assert head.card.depth == entry["chosen"]["depth"]
        sweep = read_table(folder.sweep(task.name))
        assert pc.max(sweep["val_score"]).as_py() >= head.card.val_score


def test_the_configuration_of_a_run_is_the_same_from_folder_and_file(finished_run: Path) -> None:
    from_file = run_config(finished_run)
    from_folder = run_config(Path(from_file.run_dir))
    assert from_folder.fingerprint == from_file.fingerprint
    assert from_folder.store.path == from_file.store.path
    assert from_folder.run_dir == str(Path(from_file.run_dir).resolve())


@pytest.mark.parametrize(
    ("card", "problem"),
    [
        ({"format_version": 9, "config": {}}, "run format 9, this version reads 1"),
        ({"format_version": 1}, "member 'config': Field required"),
        ({"format_version": 1, "config": {}, "snapshot": 6}, "member 'snapshot': .* not '6'"),
        ({"format_version": 1, "config": {}, "name": "\x1b[2J"}, "has control characters"),
        (None, "no run here"),
    ],
)
def test_what_is_no_run_is_named(tmp_path: Path, card: Any, problem: str) -> None:
    if card is not None:
        (tmp_path / "run.json").write_text(json.dumps(card))
    with pytest.raises(ProbeError, match=problem):
        read_card(RunFolder(tmp_path))


def test_a_runs_files_are_walked_once(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store inside has many, and a command reads run.json several times."""
    shutil.copytree(RunConfig.load(finished_run).run_dir, tmp_path / "run")
    read_card(RunFolder(tmp_path / "run"))
    monkeypatch.setattr(os, "scandir", None)
    monkeypatch.setattr(os, "walk", None)
    read_card(RunFolder(tmp_path / "run"))


def test_metrics_without_tasks_are_no_metrics(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(ProbeError, match="member 'tasks': Field required"):
        read_metrics(RunFolder(tmp_path))


def test_a_run_can_be_moved_with_its_data(tmp_path: Path, tiny_bert: Path) -> None:
    path = write_mood_run(tmp_path / "old", tiny_bert, num_rows=100)
    stages.extract(RunConfig.load(path))
    (tmp_path / "old").rename(tmp_path / "new")
    assert len(stages.probe(RunConfig.load(tmp_path / "new" / "run.toml"))) == 2 * (3 + 4)


def test_another_store_in_the_same_place_is_noticed(tmp_path: Path, tiny_bert: Path) -> None:
    path = write_mood_run(tmp_path, tiny_bert, num_rows=100)
    config = RunConfig.load(path)
    stages.extract(config)
    shutil.rmtree(tmp_path / "activations")
    other = write_mood_run(tmp_path / "other", tiny_bert, num_rows=90)
    stages.extract(RunConfig.load(other))
    (tmp_path / "other" / "activations").rename(tmp_path / "activations")
    with pytest.raises(ExtractError, match="does not hold the samples"):
        stages.probe(config)


def test_a_run_from_before_a_deletion_says_so(
    finished_run: Path, own_run: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    home, folder = Path(own_run.run_dir).parent, RunFolder(Path(own_run.run_dir))
    card = json.dumps(read_json(folder.card)).replace(str(finished_run.parent), str(home))
    write_json(folder.card, json.loads(card))
    commands = [
        ["inspect", str(folder.path)],
        ["report", str(folder.path), "--images", "none"],
        ["plan", str(home / "run.toml"), "--rounds", "1", "--num-texts", "8"],
        ["ablate", str(home / "run.toml"), "--task", "mood", "--top", "3", "--draws", "1"],
    ]

    def said() -> list[str]:
        codes = [run_command(command) for command in commands]
        assert codes == [0] * 4, capsys.readouterr().err
        shown = capsys.readouterr()
        lines = (shown.out + shown.err).splitlines()
        return [line for line in lines if "deleted since" in line]

    assert said() == []
    store = ActivationStore.open(own_run.store.path)
    assert store.delete([store.samples()["id"][0].as_py()]) == 1
    found = said()
    assert len(found) == 4
    for line in found:
        assert str(folder.path) in line and "`salient run` brings it up to date" in line
    assert "deleted since" in (folder.path / "report.html").read_text(encoding="utf-8")


def test_a_snapshot_that_was_collected_is_named_with_the_remedy(own_run: RunConfig) -> None:
    store = ActivationStore.open(own_run.store.path)
    store.delete([store.samples()["id"][0].as_py()])
    collect(ActivationStore.open(own_run.store.path), keep=1)
    for call in (stages.probe, ablate):
        with pytest.raises(ExtractError, match=r"snapshot '\d+', which .* gc.* run `salient run`"):
            call(own_run)


def test_an_authors_texts_can_be_deleted(tmp_path: Path, tiny_bert: Path) -> None:
    path = write_mood_run(tmp_path, tiny_bert, num_rows=60)
    rows = (tmp_path / "tweets.csv").read_text().splitlines()
    authors = ["author", *(f"a{i % 5}" for i in range(60))]
    lines = [f"{row},{author}" for row, author in zip(rows, authors, strict=True)]
    (tmp_path / "tweets.csv").write_text("\n".join(lines) + "\n")
    path.write_text(path.read_text().replace('id = "id"', 'id = "id"\nauthor = "author"'))
    config = RunConfig.load(path)
    stages.extract(config)
    store = ActivationStore.open(config.store.path)
    assert store.delete(author_ids=["a3"]) == 12
    assert store.num_living == 48
    with pytest.raises(ExtractError, match="samples deleted since"):
        stages.probe(config)
