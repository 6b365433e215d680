"""The page of a run: every figure, all text escaped, the same bytes again."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from markupsafe import escape

from pipeline.commands.line import run_command
from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.heads.model import KINDS
from pipeline.report.facts import read_run
from store.tables import read_json, write_json, write_table

pytest.importorskip("holoviews", reason="needs the extra: salient-neurons[report]")
from pipeline.report import charts, figures, page

NASTY = "</script><script>alert(1)</script>"


def test_every_kind_of_head_has_a_colour_of_its_own() -> None:
    assert list(figures.KIND_COLOURS) == list(KINDS)
    assert len({*figures.KIND_COLOURS.values(), charts.GREY}) == len(KINDS) + 1


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
        "layers": [0], "level": 0.95,
    }  # fmt: skip
    write_json(path / "ablation.json", {"format_version": 1, "tasks": {"mood": entry}})
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


def test_the_n_grams_of_a_head_that_reads_them_are_named(copied_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(copied_run, run)
    assert page.view_of(read_run(run).tasks[0]).ngrams == ()
    heads = run / "heads" / "mood"
    shutil.rmtree(heads / "chosen")
    shutil.copytree(heads / "baseline_lexical", heads / "chosen")
    found = read_run(run)
    view = page.view_of(replace(found.tasks[0], predictions=None))
    assert len(view.ngrams) == page.TOP_NGRAMS
    assert {towards for _, towards, _ in view.ngrams} == {"glad", "sad"}
    html = page.render(found, [replace(view, figures=view.figures[:1])])
    assert "Most important n-grams" in html
    for ngram, towards, share in view.ngrams:
        assert f"<td>{escape(ngram)}</td><td>{towards}</td><td>{share}</td>" in html


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
