"""What a report reads beside the run itself."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config import RunConfig
from pipeline.errors import ScoreError
from pipeline.heads import Head
from pipeline.report.facts import read_drift, read_run
from pipeline.runfolder import RunFolder
from store.tables import read_json, write_json
from tests.builders.scores import class_rows, write_scores

GOOD: dict[str, Any] = {
    "threshold": 0.2,
    "tasks": {"mood": {"dates": {"2026-11-23": {"predictions": {"excess": 0.1, "of": {}}}}}},
}


def test_drift_of_several_reports_is_joined(tmp_path: Path) -> None:
    write_json(tmp_path / "_drift/1.json", GOOD)
    other = {"threshold": 0.3, "tasks": {"mood": {"dates": {"2026-11-22": {"status": ""}}}}}
    write_json(tmp_path / "_drift/2.json", other)
    found = read_drift(tmp_path)["mood"]
    assert found.threshold == 0.3 and list(found.dates) == ["2026-11-22", "2026-11-23"]
    assert found.dates["2026-11-23"] == GOOD["tasks"]["mood"]["dates"]["2026-11-23"]
    assert "predictions" not in found.dates["2026-11-22"]


@pytest.mark.parametrize(
    ("changes", "member"),
    [
        ({"threshold": "high"}, "threshold"),
        ({"tasks": ["mood"]}, "tasks"),
        ({"tasks": {"mood": {}}}, r"tasks\.mood\.dates"),
        ({"tasks": {"mood": {"dates": {"2026-11-23": {"classes": {}}}}}}, "excess"),
        ({"tasks": {"../x": {"dates": {}}}}, "tasks"),
    ],
)
def test_a_drift_report_of_another_shape_is_named(
    tmp_path: Path, changes: dict[str, Any], member: str
) -> None:
    write_json(tmp_path / "_drift/1.json", {**GOOD, **changes})
    with pytest.raises(ScoreError, match=rf"1\.json: member .*{member}.*salient score repair"):
        read_drift(tmp_path)


def test_a_runs_folder_leads_to_no_scores(finished_run: Path, tmp_path: Path) -> None:
    """They are read where the caller's own file names them, or the caller."""
    run, scores = tmp_path / "run", tmp_path / "scores"
    shutil.copytree(RunConfig.load(finished_run).run_dir, run)
    write_json(scores / "_drift/1.json", GOOD)
    card = read_json(run / "run.json")
    card["config"]["score"]["output"] = str(scores)
    write_json(run / "run.json", card)
    assert [task.drift for task in read_run(run).tasks] == [None, None]
    mood = next(task for task in read_run(run, scores=scores).tasks if task.name == "mood")
    assert mood.drift is not None
    text = finished_run.read_text("utf-8").replace('run_dir = "run"', f'run_dir = "{run}"')
    (tmp_path / "own.toml").write_text(text + f'\n[score]\noutput = "{scores}"\n', "utf-8")
    assert [task.drift for task in read_run(tmp_path / "own.toml").tasks].count(None) == 1


def test_the_run_is_asked_where_scores_do_not_say_what_heads_get_wrong(
    finished_run: Path, tmp_path: Path
) -> None:
    names, run = ("glad", "sad"), Path(RunConfig.load(finished_run).run_dir)
    classes = Head.load(RunFolder(run).head("mood")).card.classes
    draw = np.random.default_rng(0).dirichlet(np.ones(len(classes)), size=30)
    for task, own in (("mood", classes), ("other", names)):
        rows = {"2026-11-23": class_rows(task, own, draw[:, : len(own)])}
        write_scores(tmp_path / task, rows, {task: {"classes": list(own)}})
        found = read_run(run, scores=tmp_path / task).tasks[0]
        assert found.shares is not None
        corrected = "em" in found.shares.table["method"].to_pylist()
        assert corrected == (task == "mood")
        assert corrected != any("no corrected shares: " in note for note in found.notes)
