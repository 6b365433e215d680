"""The run folder: what lies in it, whose it is, and that it goes with its store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.compute as pc
import pytest

from pipeline import jobs
from pipeline.config import RunConfig
from pipeline.errors import ExtractError
from pipeline.heads import Head
from pipeline.runfolder import RunFolder, read_metrics
from store import ActivationStore
from store.tables import read_table
from tests.conftest import write_mood_run


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


def test_a_run_can_be_moved_with_its_data(tmp_path: Path, tiny_bert: Path) -> None:
    path = write_mood_run(tmp_path / "old", tiny_bert, num_rows=100)
    jobs.extract(RunConfig.load(path))
    (tmp_path / "old").rename(tmp_path / "new")
    assert len(jobs.probe(RunConfig.load(tmp_path / "new" / "run.toml"))) == 8


def test_another_store_in_the_same_place_is_noticed(tmp_path: Path, tiny_bert: Path) -> None:
    path = write_mood_run(tmp_path, tiny_bert, num_rows=100)
    config = RunConfig.load(path)
    jobs.extract(config)
    shutil.rmtree(tmp_path / "activations")
    other = write_mood_run(tmp_path / "other", tiny_bert, num_rows=90)
    jobs.extract(RunConfig.load(other))
    (tmp_path / "other" / "activations").rename(tmp_path / "activations")
    with pytest.raises(ExtractError, match="does not hold the samples"):
        jobs.probe(config)


def test_an_authors_texts_can_be_deleted(tmp_path: Path, tiny_bert: Path) -> None:
    path = write_mood_run(tmp_path, tiny_bert, num_rows=60)
    rows = (tmp_path / "tweets.csv").read_text().splitlines()
    authors = ["author", *(f"a{i % 5}" for i in range(60))]
    lines = [f"{row},{author}" for row, author in zip(rows, authors, strict=True)]
    (tmp_path / "tweets.csv").write_text("\n".join(lines) + "\n")
    path.write_text(path.read_text().replace('id = "id"', 'id = "id"\nauthor = "author"'))
    config = RunConfig.load(path)
    jobs.extract(config)
    store = ActivationStore.open(config.store.path)
    assert store.delete(author_ids=["a3"]) == 12
    assert store.num_living == 48
    with pytest.raises(ExtractError, match="samples deleted since"):
        jobs.probe(config)
