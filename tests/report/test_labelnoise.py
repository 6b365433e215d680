"""Labels that out-of-fold outputs doubt: found where they were put in wrong, listed and written."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from pipeline import stages
from pipeline.commands.line import run_command
from pipeline.config import RunConfig
from pipeline.errors import ConfigError, HeadError
from pipeline.measures.metrics import label_probabilities
from pipeline.report.facts import read_run
from pipeline.report.labelnoise import _label_sets, _Rows, read_label_doubts, write_doubts
from store import ActivationStore
from tests.builders.runs import write_mood_run

NASTY = "<script>alert(1)</script> [bold]"


def flip_labels(path: Path, every: int = 10) -> set[str]:
    """Give every tenth text that has a mood the other one; their ids."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    flipped = [row for row in rows if row["mood"]][::every]
    for row in flipped:
        row["mood"] = {"glad": "sad", "sad": "glad"}[row["mood"]]
    flipped[0]["text"] += f" {NASTY}"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return {row["id"] for row in flipped}


@pytest.fixture(scope="module")
def noisy_run(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> tuple[Path, set[str]]:
    """The configuration of a run on 400 texts, which its store does not keep, and the ids of those
    with a wrong mood."""
    folder = tmp_path_factory.mktemp("noisy")
    config = write_mood_run(folder, tiny_bert, num_rows=400)
    flipped = flip_labels(folder / "tweets.csv")
    text = config.read_text().replace("hidden_width = 4", 'kinds = ["dense"]')
    text = text.replace("samples_per_shard = 64", "samples_per_shard = 64\nkeep_text = false")
    config.write_text(text)
    stages.run(RunConfig.load(config))
    return config, flipped


def test_labels_made_wrong_are_the_ones_doubted(noisy_run: tuple[Path, set[str]]) -> None:
    """A tenth of the labels are wrong; so are at least seven in ten of those doubted."""
    config, flipped = noisy_run
    found = read_label_doubts(config)["mood"]
    looked_at = flipped & {*_ids_of(config, ("train", "val"))}
    assert found.type == "classification" and len(looked_at) > 20
    assert found.num_labels == found.num_rows == found.num_labelled > 300
    ids = found.table["id"].to_pylist()
    assert len(ids) == found.num_doubted
    right = [one in flipped for one in ids]
    assert np.mean(right) > 0.7
    assert sum(right) > 0.6 * len(looked_at)
    doubt = found.table["doubt"].to_numpy()
    assert (np.diff(doubt) <= 0).all() and doubt.min() > 0.5 and doubt.max() <= 1
    for row in found.table.to_pylist():
        assert {row["given"], row["likely"]} == {"glad", "sad"}
        assert row["split"] in ("train", "val")
        assert 0 <= row["of_the_likely_label"] <= row["near_duplicates"]
    assert sum(pair.doubted for pair in found.pairs) == found.num_doubted
    assert found.num_wrong is not None and f"{found.num_wrong:,.0f}" in found.sentence


def _ids_of(config: Path, splits: tuple[str, ...]) -> list[str]:
    table = ActivationStore.open(RunConfig.load(config).store.path).labels("mood")
    rows = zip(table["id"].to_pylist(), table["split"].to_pylist(), strict=True)
    return [one for one, split in rows if split in splits]


def test_test_labels_are_not_looked_at(noisy_run: tuple[Path, set[str]]) -> None:
    found = read_label_doubts(noisy_run[0])["mood"]
    assert not {*_ids_of(noisy_run[0], ("test",))} & {*found.table["id"].to_pylist()}


def test_values_are_doubted_by_their_residuals(noisy_run: tuple[Path, set[str]]) -> None:
    found = read_label_doubts(noisy_run[0], ["level"], limit=2)["level"]
    assert found.type == "regression" and found.num_wrong is None and found.pairs == ()
    assert "robust deviations" in found.sentence
    assert len(found.table) == min(2, found.num_doubted)
    assert all(doubt > 3 for doubt in found.table["doubt"].to_pylist())


def test_label_sets_are_doubted_label_by_label() -> None:
    draw = np.random.default_rng(0)
    truth = draw.integers(2, size=(200, 2)).astype(np.int8)
    outputs = np.where(truth > 0, 4.0, -4.0) + 0.1 * draw.normal(size=(200, 2))
    outputs[[3, 50, 70]] *= 2  # surer than the mean of their classes
    given = truth.copy()
    given[[3, 50], 0] ^= 1
    given[70, 1] ^= 1
    card = SimpleNamespace(classes=("a", "b"), type="multilabel")
    head: Any = SimpleNamespace(card=card, multilabel=True, probabilities=label_probabilities)
    groups = np.arange(200)
    groups[51] = groups[50]
    rows = _Rows(head, np.arange(200), np.full(200, "train"), given, groups, outputs, 200)
    found = _label_sets(rows)
    assert sorted(found.rows.tolist()) == [3, 50, 70]
    for place, row in enumerate(found.rows.tolist()):
        label = 1 if row == 70 else 0
        names = (f"not {'ab'[label]}", "ab"[label])
        assert found.given[place] == names[given[row, label]]
        assert found.likely[place] == names[truth[row, label]]
        assert found.agrees[place](truth[[row]]).all()
        assert not found.agrees[place](given[[row]]).any()
    assert rows.twins(50).tolist() == [51] and rows.twins(3).tolist() == []
    assert found.agreement == pytest.approx(1 - 3 / 400)


def test_the_command_lists_them(
    noisy_run: tuple[Path, set[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = noisy_run
    folder = RunConfig.load(config).run_dir
    assert run_command(["inspect", folder, "--labels", "--task", "mood", "--limit", "3"]) == 0
    shown = capsys.readouterr().out
    assert "mood: " in shown and "3 of " in shown and "level" not in shown
    args = ["inspect", str(config), "--labels", "--json", "--limit", "3"]
    assert run_command([*args, "--out", str(tmp_path / "new" / "doubted.parquet")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["kind"] == "labels" and list(facts["tasks"]) == ["mood", "level"]
    mood = facts["tasks"]["mood"]
    assert len(mood["rows"]) == 3 and mood["num_doubted"] > 3
    assert {"id", "split", "given", "likely", "doubt", "text"} <= mood["rows"][0].keys()
    table = pq.read_table(tmp_path / "new" / "doubted.parquet")
    assert table["task"].to_pylist().count("mood") == mood["num_doubted"]
    assert table.schema.field("id").type == "string"
    write_doubts(tmp_path / "doubted.csv", read_label_doubts(config).values())
    again = pyarrow.csv.read_csv(tmp_path / "doubted.csv")
    assert again.num_rows == table.num_rows and again.column_names == table.column_names


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--limit", "3"], "--limit goes with --labels"),
        (["--task", "mood"], "--task goes with --labels"),
        (["--labels", "--limit", "0"], "must be 1 or more"),
        (["--labels", "--task", "moods"], "there are heads for mood, level"),
        (["--labels", "--out", "doubted.xlsx"], "name a file that ends with .parquet, .pq, .csv"),
    ],
)
def test_what_cannot_be_listed_is_said(
    noisy_run: tuple[Path, set[str]],
    options: list[str],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command(["inspect", str(noisy_run[0]), *options]) != 0
    assert words in capsys.readouterr().err


def test_labels_are_of_a_finished_run(
    own_run: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="not a run"):
        read_label_doubts(tmp_path / "tweets.csv")
    assert run_command(["inspect", own_run.store.path, "--labels"]) != 0
    assert "not a run; there is one at" in capsys.readouterr().err
    (Path(own_run.run_dir) / "heads" / "mood" / "chosen" / "held_out.safetensors").unlink()
    with pytest.raises(Exception, match=r"held_out.safetensors"):
        read_label_doubts(Path(own_run.run_dir))
    notes = read_run(Path(own_run.run_dir)).tasks[0].notes
    assert any(note.startswith("no doubted labels: ") for note in notes)
    (Path(own_run.run_dir) / "metrics.json").unlink()
    with pytest.raises(ConfigError, match="not finished"):
        read_label_doubts(Path(own_run.run_dir))


def test_other_classes_in_the_store_are_refused(own_run: RunConfig) -> None:
    path = Path(own_run.run_dir) / "heads" / "mood"
    shutil.rmtree(path / "chosen")
    shutil.copytree(path.parent / "level" / "chosen", path / "chosen")
    with pytest.raises(HeadError, match="was trained on the classes"):
        read_label_doubts(Path(own_run.run_dir), ["mood"])


def test_texts_that_are_not_kept_come_from_the_corpus_or_are_missed(
    noisy_run: tuple[Path, set[str]], tmp_path: Path
) -> None:
    found = read_label_doubts(noisy_run[0])["mood"]
    assert found.note is None and all(found.table["text"].to_pylist())
    shutil.copytree(noisy_run[0].parent, tmp_path / "own")
    (tmp_path / "own" / "tweets.csv").unlink()
    lost = read_label_doubts(tmp_path / "own" / noisy_run[0].name)["mood"]
    assert lost.note is not None and lost.note.startswith("no texts: ")
    assert set(lost.table["text"].to_pylist()) == {None}
    assert lost.table.drop_columns("text").equals(found.table.drop_columns("text"))


def test_the_page_has_them_escaped(noisy_run: tuple[Path, set[str]]) -> None:
    pytest.importorskip("holoviews", reason="needs the extra: salient[report]")
    from dataclasses import replace

    from pipeline.report import page, tables

    run = read_run(noisy_run[0])
    mood = run.tasks[0]
    assert mood.doubts is not None
    row = mood.doubts.table.to_pylist()[0] | {"text": NASTY + "x" * 1000, "given": NASTY}
    hostile = mood.doubts.table.from_pylist([row], schema=mood.doubts.table.schema)
    pairs = (replace(mood.doubts.pairs[0], likely=NASTY), *mood.doubts.pairs[1:])
    task = replace(mood, doubts=replace(mood.doubts, table=hostile, pairs=pairs))
    view = page.view_of(task, run.card)
    html = page.render(run, [replace(view, figures=view.figures[:1])])
    assert "Labels to look at again" in html and NASTY not in html
    assert html.count("&lt;script&gt;alert(1)") >= 3
    assert "x" * (tables.MOST_CHARACTERS - len(NASTY)) + " …" in html
    assert 'style="width: 100.0%"' in html
