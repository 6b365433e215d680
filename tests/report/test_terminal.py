from __future__ import annotations

import io
import json
import re
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pipeline.commands.line import run_command
from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.measures.metrics import pareto_front
from pipeline.neurons.tables import importance_cube
from pipeline.report.facts import Predictions, TaskFacts, read_run
from pipeline.report.terminal import best_by_depth, depth_table, task_table
from pipeline.runfolder import RunFolder, read_metrics
from store.tables import read_json, read_table, write_json, write_table

pytest.importorskip("holoviews", reason="needs the extra: salient[report]")
from pipeline.report import charts, figures, page

NASTY = "</script><script>alert(1)</script>"


def rendered(table: object) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_tables_and_overview_show_every_model(finished_run: Path, tmp_path: Path) -> None:
    config = RunConfig.load(finished_run)
    for name, task in read_metrics(RunFolder(Path(config.run_dir)))["tasks"].items():
        sweep = read_table(RunFolder(Path(config.run_dir)).sweep(name))
        text = rendered(task_table(name, task))
        assert f"{task['chosen']['test'][task['metric']]:.4f}" in text
        assert text.count("layer ") >= 3
        assert f"0..{task['chosen']['depth']} (chosen)" in rendered(depth_table(name, task, sweep))
        figures.write_overview(TaskFacts(name, task, sweep), tmp_path / f"{name}.png")
        header = (tmp_path / f"{name}.png").read_bytes()[:24]
        width, height = struct.unpack(">II", header[16:])
        assert 1000 < width < 2000 and 400 < height < 1000


def test_best_by_depth_minds_the_metrics_direction() -> None:
    rows = [
        {"kind": "sparse", "depth": 0, "val_score": value, "num_features": 1}
        for value in (0.2, 0.4)
    ]
    assert best_by_depth(rows, "accuracy")["sparse", 0]["val_score"] == 0.4
    assert best_by_depth(rows, "mae")["sparse", 0]["val_score"] == 0.2


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=30))
def test_no_point_beats_the_pareto_front(points: list[tuple[int, int]]) -> None:
    cost, score = zip(*points, strict=True)
    front = pareto_front(cost, score)
    on_front = [points[i] for i in front]
    assert on_front == sorted(on_front)
    for c, s in points:
        assert any(fc <= c and fs >= s for fc, fs in on_front)
        for fc, fs in on_front:
            assert not (c <= fc and s >= fs and (c, s) != (fc, fs))
    lowest = pareto_front(cost, [-s for s in score], higher=False)
    assert [points[i] for i in lowest] == on_front


def test_calibration_and_confusion_are_counts() -> None:
    probability = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    found = Predictions(("a", "b"), np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1]), probability)
    np.testing.assert_array_equal(found.confusion(), [[1, 1], [1, 1]])
    bins = found.reliability(2)
    np.testing.assert_allclose(bins.confidence, [0.65, 0.85])
    np.testing.assert_allclose(bins.accuracy, [1.0, 0.5])
    assert bins.error == pytest.approx((0.35 + 0.35) / 2)
    assert len(found.reliability(50).count) == 4


def test_importance_cube_puts_rows_in_their_places() -> None:
    rows = [
        {"layer": i, "pooling": p, "neuron": n, "importance": 100 * i + 10 * (p == "max") + n}
        for i in range(2)
        for p in ("mean", "max")
        for n in range(3)
    ]
    cube, poolings = importance_cube(pa.Table.from_pylist(rows[::-1]))
    assert poolings == ("max", "mean") and cube.shape == (2, 2, 3)
    assert cube[1, 0, 2] == 112 and cube[0, 1, 1] == 1


@pytest.fixture(scope="module")
def copied_run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a run's folder, with agreeing rankings, an ablation and hostile names in it."""
    path = tmp_path_factory.mktemp("report") / "run"
    shutil.copytree(RunConfig.load(finished_run).run_dir, path)
    rows = [
        {"task": "mood", "layer": layer, "ranking": "l2", "other": other, "top": 3,
         "jaccard": 0.25 * layer, "expected": 0.1, "spearman": 0.5}
        for layer in (0, 1) for other in ("anova_f", "probeless")
    ]  # fmt: skip
    write_table(path / "overlaps" / "mood.parquet", pa.Table.from_pylist(rows))
    difference = {"change": -0.1, "interval": [-0.2, 0.0]}
    part = {"value": 0.5, **difference}
    silenced = {
        "baseline": 0.6, "salient": part, "random": {**part, "values": [0.5]},
        "difference": difference,
    }  # fmt: skip
    entry = {
        "head": {"kind": "sparse"},
        "metric": "accuracy", "num_silenced": 5, "num_neurons": 32, "fill": NASTY, "draws": 2,
        "num_texts": 9, "split": "val", "chosen": silenced, "hidden": silenced,
    }  # fmt: skip
    write_json(path / "ablation.json", {"tasks": {"mood": entry}})
    card = read_json(path / "run.json")
    write_json(path / "run.json", {**card, "name": NASTY})
    return path


def test_report_has_every_figure_and_escapes_all_text(copied_run: Path, tmp_path: Path) -> None:
    run = read_run(copied_run)
    mood, level = run.tasks
    assert mood.predictions is not None
    hostile = replace(mood.predictions, classes=(NASTY, r"$$x$$ \(y\) <blink>"))
    metrics = {**mood.metrics, "classes": [NASTY, "<blink>"]}
    tasks = (replace(mood, predictions=hostile, metrics=metrics), level)
    views = [page.view_of(task) for task in tasks]
    names = [[figure.name for figure in view.figures] for view in views]
    assert names[0] == [
        "by-layer", "by-depth", "pareto", "importance", "overlap", "confusion", "calibration",
    ]  # fmt: skip
    assert names[1] == ["by-layer", "by-depth", "pareto", "importance", "predicted"]
    html = page.render(replace(run, tasks=tasks), views)
    assert NASTY not in html and "<blink>" not in html
    assert html.count("&lt;/script&gt;&lt;script&gt;alert(1)") >= 3
    own = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert re.findall(r"""(?:src|href)=["'](?!data:|#)""", own) == []
    for figure in views[0].figures:
        charts.write_image(figure, tmp_path / f"{figure.name}.svg", title=NASTY)
        text = (tmp_path / f"{figure.name}.svg").read_text()
        assert "<script" not in text and len(text) > 5000


def test_report_names_what_the_run_was_made_from(copied_run: Path, tmp_path: Path) -> None:
    shutil.copytree(copied_run, tmp_path / "run")
    card = read_json(tmp_path / "run" / "run.json")
    card["config"]["store"]["poolings"] = ["max"]
    write_json(tmp_path / "run" / "run.json", card)
    run = read_run(tmp_path / "run")
    view = page.view_of(run.tasks[1])
    html = page.render(run, [replace(view, figures=view.figures[:1])])
    for name, value in (
        ("poolings", "max"),
        ("backbone", card["config"]["backbone"]["model"]),
        ("store", card["config"]["store"]["path"]),
    ):
        assert f"<dt>{name}</dt><dd>{value}</dd>" in html


def test_an_ablation_has_a_row_for_each_head_and_arm(copied_run: Path) -> None:
    mood = read_run(copied_run).tasks[0]
    rows = [vars(row) for row in page.view_of(mood).ablation]
    assert [row["head"] for row in rows] == 4 * ["chosen (sparse)"] + 4 * ["final hidden state"]
    assert [row["silenced"] for row in rows[:4]] == ["nothing", "salient", "random", "difference"]
    assert [row["score"] for row in rows[:4]] == ["0.6000", "0.5000", "0.5000", ""]
    assert [row["interval"] for row in rows[:2]] == ["", "-0.2000, +0.0000"]


def test_names_of_classes_are_no_formulas() -> None:
    assert charts.short_label(r"$$x$$ \(y\)") == r"$ $x$ $ \ (y\)"
    assert charts.short_label("a" * 30) == "a" * 17 + "…"


def test_drift_of_several_scorings_is_one_figure(copied_run: Path, tmp_path: Path) -> None:
    assert all(task.drift is None for task in read_run(copied_run).tasks)
    for name, dates in (("1", ("2024-05-01", "2024-05-02")), ("2", ("2024-05-02", "2024-05-03"))):
        entries = {
            date: {"predictions": {"excess": 0.1 * int(name)}, "num_texts": 9} for date in dates
        }
        if name == "2":
            entries["2024-05-03"]["classes"] = {"excess": 0.3}
        report = {"threshold": 0.2, "tasks": {"mood": {"all": None, "dates": entries}}}
        write_json(tmp_path / "scores" / "_drift" / f"{name}.json", report)
    mood, level = read_run(copied_run, scores=tmp_path / "scores").tasks
    assert mood.drift is not None and level.drift is None
    excess = [entry["predictions"]["excess"] for entry in mood.drift.dates.values()]
    assert excess == [0.1, 0.2, 0.2] and mood.drift.threshold == 0.2
    figure = figures.drift(mood)
    assert figure is not None and figures.drift(level) is None
    charts.write_image(figure, tmp_path / "drift.svg")
    charts.bokeh_model(figure)


def test_the_same_figure_gives_the_same_bytes(copied_run: Path, tmp_path: Path) -> None:
    figure = figures.by_layer(read_run(copied_run).tasks[0])
    assert figure is not None
    for name in ("a.svg", "b.svg", "a.png", "b.png"):
        charts.write_image(figure, tmp_path / name)
    for suffix in ("svg", "png"):
        first, second = (tmp_path / f"{stem}.{suffix}" for stem in "ab")
        assert first.read_bytes() == second.read_bytes()


def test_report_command_says_what_it_leaves_out(
    copied_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(copied_run, run)
    for folder in ("importance", "overlaps", "heads"):
        shutil.rmtree(run / folder)
    page = tmp_path / "out" / "page.html"
    command = ["report", str(run), "--out", str(page), "--images", "svg", "--json"]
    assert run_command(command) == 0
    written = json.loads(capsys.readouterr().out)
    assert written["page"] == str(page) and len(written["figures"]) == 6
    assert all(
        Path(path).parent == tmp_path / "out" / "page_figures" for path in written["figures"]
    )
    text = page.read_text()
    for words in ("no importance table", "no rankings", "no predictions of the test split"):
        assert words in text
    assert run_command(["report", str(run), "--images", "gif"]) == 2
    assert "'gif'" in capsys.readouterr().err
    (run / "metrics.json").unlink()
    with pytest.raises(ConfigError, match="not finished"):
        read_run(run)
    assert run_command(["report", str(tmp_path / "nowhere")]) == 1
