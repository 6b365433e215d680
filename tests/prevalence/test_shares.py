"""Shares of a folder of scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import salient
from pipeline.commands.line import run_command
from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.heads import Head
from pipeline.measures import Confusion, LabelSets
from pipeline.prevalence.assumed import DriftSeen
from pipeline.prevalence.shares import (
    ASSUMPTION,
    UNEXPLAINED,
    _drifted,
    find_shares,
    shares_of_outputs,
)
from pipeline.report.shares import share_figures, share_table
from pipeline.runfolder import RunFolder
from pipeline.scoring.files import score_files
from store.tables import read_json, write_json
from tests.builders.classes import drawn
from tests.builders.scores import class_rows, write_scores

NAMES = ("glad", "sad")
MOVED = "(moved shares can do this, too)"


def errors_of(rows: int = 600) -> dict[str, Any]:
    probability, targets = drawn(2, rows, 0)
    return Confusion.of(probability, probability.argmax(axis=1), targets).to_dict()


def folder_of(path: Path, *, errors: Any = None, strange: bool = False) -> Path:
    """Two days of texts as the errors' rows were, of other shares; on the second strange ones."""
    days = {}
    for i, day in enumerate(("2024-05-01", "2024-05-02")):
        probability, targets = drawn(2, 3000, 10 + i)
        keep = np.random.default_rng(i).random(3000) < np.where(targets == 0, 0.2, 0.9)
        probability = probability[keep]
        if strange and i:
            probability = 0.5 + 0.2 * (probability - 0.5)
        days[day] = class_rows("mood", NAMES, probability, empty=2)
    card = {"classes": list(NAMES), "type": "classification", "errors": errors}
    return write_scores(path, days, {"mood": card})


def test_shares_by_day_with_what_speaks_against_them(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "scores", errors=errors_of(), strange=True)
    report = find_shares(folder, by="day")
    rows = report.table.to_pylist()
    assert {(row["group"], row["method"], row["class"]) for row in rows} == {
        (day, method, name)
        for day in ("2024-05-01", "2024-05-02")
        for method in ("counted", "mean", "adjusted", "em")
        for name in NAMES
    }
    by = {(row["group"], row["method"], row["class"]): row for row in rows}
    em, counted = (by["2024-05-01", method, "glad"] for method in ("em", "counted"))
    truth = 0.2 / 1.1
    assert abs(em["share"] - truth) < 0.05 < abs(counted["share"] - truth)
    assert em["low"] <= em["share"] <= em["high"] and em["num_empty"] == 2
    assert em["flag"] is None
    assert by["2024-05-02", "em", "glad"]["flag"] == UNEXPLAINED
    assert by["2024-05-02", "counted", "glad"]["flag"] is None
    assert report.notes[0] == ASSUMPTION and "1 group with a flag" in report.notes[-1]
    assert any("not held against drift reports" in note for note in report.notes)


def test_drift_reports_speak_against_the_dates_they_name(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "scores", errors=errors_of())
    (folder / "_drift").mkdir()
    entries = {"2024-05-01": {"drifted": ["the activations"]}, "2024-05-02": {"drifted": []}}
    drift = {"tasks": {"mood": {"dates": entries}}}
    (folder / "_drift" / "1.json").write_text(json.dumps(drift), encoding="utf-8")
    (folder / "_drift" / "2.json").write_text("{", encoding="utf-8")  # no more than a hint
    by_day = find_shares(folder, by="day").table.to_pylist()
    flags = {row["group"]: row["flag"] for row in by_day if row["method"] == "em"}
    assert flags == {"2024-05-01": f"the activations drifted {MOVED}", "2024-05-02": None}
    (week,) = {r["flag"] for r in find_shares(folder, by="week").table.to_pylist()} - {None}
    assert week == f"the activations drifted on 2024-05-01 {MOVED}"


@pytest.mark.parametrize("by_set", [True, False])
def test_shares_of_labels(tmp_path: Path, by_set: bool) -> None:
    """By the sets that their held-out rows have, or each by itself, which is said."""
    probability, targets = drawn(2, 600, 0)
    there = targets[:, None] == np.arange(2)
    errors: dict[str, Any] = {"labels": [errors_of(), errors_of()]}
    if by_set:
        sets = LabelSets.of(probability, there)
        assert sets is not None
        errors = {"sets": sets.to_dict()}
    new, targets = drawn(2, 2000, 1)
    keep = np.random.default_rng(0).random(2000) < np.where(targets == 0, 0.2, 0.9)
    new, truth = new[keep], targets[keep].mean()
    decided = [[name for name, p in zip(NAMES, row, strict=True) if p > 0.5] for row in new]
    columns = {f"mood_p_{name}": pa.array(new[:, i], pa.float32()) for i, name in enumerate(NAMES)}
    rows = pa.table({"mood": pa.array(decided, pa.list_(pa.string())), **columns})
    card = {"classes": list(NAMES), "type": "multilabel", "errors": errors}
    report = find_shares(write_scores(tmp_path / "scores", {"2024-05-01": rows}, {"mood": card}))
    found = {(row["method"], row["class"]): row for row in report.table.to_pylist()}
    methods = ("counted", "mean", "adjusted", "em")
    assert set(found) == {(method, name) for method in methods for name in NAMES}
    said = " ".join(report.notes)
    assert ("2 label sets" in said) == by_set and ("by itself" in said) != by_set
    if by_set:
        for method in ("adjusted", "em"):
            own = found[method, "sad"]
            assert own["low"] <= truth <= own["high"] and own["flag"] is None
            assert own["share"] + found[method, "glad"]["share"] == pytest.approx(1)


def test_a_folder_without_errors_says_how_to_get_them(tmp_path: Path) -> None:
    report = find_shares(folder_of(tmp_path / "scores"))
    assert set(report.table["method"].to_pylist()) == {"counted", "mean"}
    assert any("plain shares only" in note and "--run RUN" in note for note in report.notes)


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ({"confusion": [[1]]}, "errors of task 'mood'"),
        ({}, "errors of task 'mood'"),
        ([1], "errors of task 'mood'"),
    ],
)
def test_damaged_errors_are_refused(tmp_path: Path, errors: Any, said: str) -> None:
    folder = folder_of(tmp_path / "scores", errors=errors)
    with pytest.raises(ConfigError, match=said):
        find_shares(folder)


@pytest.mark.parametrize("entry", [None, [], "mood", {"classes": 3}, {"classes": None, "type": 1}])
def test_a_damaged_card_is_refused(tmp_path: Path, entry: Any) -> None:
    folder = folder_of(tmp_path / "scores")
    card = json.loads((folder / "_salient.json").read_text(encoding="utf-8"))
    card["tasks"]["mood"] = entry
    (folder / "_salient.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"_salient\.json: task 'mood'"):
        find_shares(folder)


def test_several_dates_are_counted() -> None:
    seen = DriftSeen(frozenset(["all"]), {"all": ("2024-05-01", "2024-05-02", "2024-05-07")})
    assert _drifted(seen, "all") == (
        f"the activations drifted on 2024-05-01 and 2 more dates {MOVED}"
    )
    assert _drifted(seen, "other") is None and _drifted(None, "all") is None


def test_places_and_tasks_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        find_shares(tmp_path / "none")
    folder = folder_of(tmp_path / "scores")
    with pytest.raises(ConfigError, match="there are heads for mood"):
        find_shares(folder, tasks=["level"])
    (folder / "_salient.json").unlink()
    with pytest.raises(ConfigError, match="does not say which tasks"):
        find_shares(folder)


def test_the_command_writes_what_python_gives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path / "scores", errors=errors_of())
    out = tmp_path / "shares.parquet"
    assert run_command(["prevalence", str(folder), "--by", "day", "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["rows"] == pq.read_table(out).to_pylist() and said["by"] == "day"
    frame = salient.prevalence(folder, by="day")
    assert pa.Table.from_pandas(frame, preserve_index=False).to_pylist() == said["rows"]
    assert frame.attrs["notes"] == said["notes"]
    assert b"salient.notes" in pq.read_schema(out).metadata
    assert run_command(["prevalence", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "adjusted" in printed and ASSUMPTION[:40] in printed
    for wrong in (["--out", "x.csv"], ["--run", "a", "--heads", "b"], ["--figure", "x.pdf"]):
        assert run_command(["prevalence", str(folder), *wrong]) == 2


def test_a_figure_for_each_class(tmp_path: Path) -> None:
    pytest.importorskip("holoviews")
    folder = folder_of(tmp_path / "scores", errors=errors_of())
    table = find_shares(folder, by="day").table
    figures = share_figures(table)
    assert [figure.title for figure in figures] == ["mood: glad", "mood: sad"]
    assert share_table(table, "mood").row_count == 4
    picture = tmp_path / "shares.png"
    assert run_command(["prevalence", str(folder), "--by", "day", "--figure", str(picture)]) == 0
    assert picture.stat().st_size > 10_000


def test_scores_of_a_run_know_what_its_heads_get_wrong(own_run: RunConfig, tmp_path: Path) -> None:
    """From training to the table, and the same where an earlier version left no errors."""
    texts = tmp_path / "new.csv"
    rows = [f"{i},it was {('happy', 'sad')[i % 2]} cat {i},2024-06-01T00:00:00Z" for i in range(40)]
    texts.write_text("\n".join(["id,text,created_at", *rows]) + "\n", encoding="utf-8")
    run, scores = Path(own_run.run_dir), tmp_path / "scores"
    score_files([texts], run, scores)
    report = find_shares(scores, by="day")
    methods = set(zip(*(report.table[n].to_pylist() for n in ("task", "method")), strict=True))
    assert ("mood", "em") in methods and ("level", "adjusted") in methods
    asked = find_shares(scores, by="day", run=run)
    assert asked.table.equals(report.table)
    path = RunFolder(run).head("mood") / "head.json"
    card = read_json(path)
    confusion = np.array(card["metrics"].pop("errors")["confusion"])
    write_json(path, card)
    again = find_shares(scores, by="day", run=run, tasks=["mood"]).table
    known = report.table.filter(pa.array([t == "mood" for t in report.table["task"].to_pylist()]))
    for name in ("counted", "mean"):
        one, other = (
            [row for row in table.to_pylist() if row["method"] == name] for table in (known, again)
        )
        assert [row["share"] for row in one] == [row["share"] for row in other]
    assert abs(confusion.sum() - Head.load(path.parent).card.metrics["num_judged"]) == 0
    with pytest.raises(ConfigError, match="of an earlier version; give --run RUN"):
        find_shares(scores, tasks=["mood"], heads=[path.parent])
    other = RunFolder(run).head("mood", "depth_000")
    if Head.load(other).fingerprint != Head.load(path.parent).fingerprint:
        with pytest.raises(ConfigError, match="is not the head that made the scores"):
            find_shares(scores, tasks=["mood"], heads=[other])


def test_texts_in_memory(own_run: RunConfig) -> None:
    head = Head.load(RunFolder(Path(own_run.run_dir)).head("mood"))
    outputs = np.random.default_rng(0).normal(size=(50, 1)).astype(np.float32)
    table = shares_of_outputs(head, outputs, num_empty=3).to_pylist()
    assert {row["method"] for row in table} == {"counted", "mean", "adjusted", "em"}
    assert {(row["num_texts"], row["num_empty"]) for row in table} == {(50, 3)}
    none = shares_of_outputs(head, outputs[:0]).to_pylist()
    assert {row["share"] for row in none} == {None}
