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
from pipeline.report.facts import RunFacts, read_run
from store.tables import read_json, write_json, write_table

pytest.importorskip("holoviews", reason="needs the extra: salient-neurons[report]")
from pipeline.report import charts, figures, page, tables

NASTY = "</script><script>alert(1)</script>"


def test_lines_and_marks_of_one_figure_differ() -> None:
    assert list(figures.KIND_STYLES) == list(KINDS)
    others = {figures.BASELINE_STYLES[name] for name in ("random", "layer")}
    drawn = [charts.CHOSEN, *figures.KIND_STYLES.values(), *others]
    assert len({(style.colour, style.mark) for style in drawn}) == len(drawn)
    beside = [charts.CHOSEN, *figures.BASELINE_STYLES.values()]
    assert len({(style.colour, style.mark) for style in beside}) == len(beside)
    assert {style.mark for style in (*drawn, *beside)} <= set(page.SWATCHES)


def tables_of(run: RunFacts, task: int = 0) -> dict[str, tables.PageTable]:
    """A task's tables by their names."""
    return {table.name: table for table in tables.page_tables(run.tasks[task], run.card)}


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
    views = [page.view_of(task, run.card) for task in tasks]
    names = [[figure.name for figure in view.figures] for view in views]
    assert names[0] == [
        "compared", "by-depth", "by-size", "by-layer", "confusion", "calibration",
        "pareto", "importance", "overlap",
    ]  # fmt: skip
    assert names[1] == [
        "compared",
        "by-depth",
        "by-size",
        "by-layer",
        "predicted",
        "pareto",
        "importance",
    ]
    html = page.render(replace(run, tasks=tasks), views)
    assert NASTY not in html and "<blink>" not in html
    assert html.count("&lt;/script&gt;&lt;script&gt;alert(1)") >= 3
    own = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert re.findall(r"""(?:src|href)=["'](?!data:|#|http://localhost:5006/)""", own) == []
    for figure in views[0].figures[::3]:
        charts.write_image(figure, tmp_path / f"{figure.name}.svg", title=NASTY)
        text = (tmp_path / f"{figure.name}.svg").read_text()
        assert "<script" not in text and len(text) > 5000


def test_report_names_what_the_run_was_made_from(copied_run: Path, tmp_path: Path) -> None:
    shutil.copytree(copied_run, tmp_path / "run")
    card = read_json(tmp_path / "run" / "run.json")
    card["config"]["store"]["poolings"] = ["max"]
    write_json(tmp_path / "run" / "run.json", card)
    run = read_run(tmp_path / "run")
    view = page.view_of(run.tasks[1], run.card)
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
    assert "ngrams" not in tables_of(read_run(run))
    heads = run / "heads" / "mood"
    shutil.rmtree(heads / "chosen")
    shutil.copytree(heads / "baseline_lexical", heads / "chosen")
    found = read_run(run)
    shown = tables_of(found)["ngrams"]
    assert len(shown.rows) == tables.TOP_NGRAMS < len(shown.raw["ngram"])
    assert {row[1] for row in shown.rows} == {"glad", "sad"}
    view = page.view_of(replace(found.tasks[0], predictions=None), found.card)
    html = page.render(found, [replace(view, figures=view.figures[:1])])
    for ngram, towards, share in shown.rows:
        cells = (f'text">{escape(ngram)}', f'name">{towards}', f'number">{share}')
        assert "".join(f'<td class="{cell}</td>' for cell in cells) in html


def test_an_ablation_has_a_row_for_each_head_and_arm(copied_run: Path) -> None:
    rows = tables_of(read_run(copied_run))["ablation"].raw
    assert rows["head"] == 4 * ["chosen (sparse)"] + 4 * ["final hidden state"]
    assert rows["silenced"][:4] == ["nothing", "salient", "random", "difference"]
    assert rows["score"][:4] == ["0.600", "0.500", "0.500", ""]
    assert rows["interval"][:2] == ["", "[-0.200, 0.000]"]


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
    assert written["page"] == str(page) and len(written["figures"]) == 10
    folder = tmp_path / "out" / "page_figures"
    assert all(Path(path).parent == folder for path in written["figures"])
    text = page.read_text()
    for words in ("no importance table", "no predictions of the test split"):
        assert words in text
    assert "no rankings: <code>salient rank</code> compares" in text
    linked = re.findall(r'href="(page_[^"]+)"', text)
    assert {(tmp_path / "out" / own).is_file() for own in linked} == {True}
    assert {Path(own) for own in linked if own.endswith("svg")} == {
        Path(path).relative_to(tmp_path / "out") for path in written["figures"]
    }
    assert {Path(path).name for path in written["tables"]} == {
        f"{task}-{table}.csv" for task in ("mood", "level") for table in ("scores", "heads")
    } | {"mood-ablation.csv"}
    assert run_command(["report", str(run), "--images", "gif"]) == 2
    assert "'gif'" in capsys.readouterr().err
    (run / "metrics.json").unlink()
    with pytest.raises(ConfigError, match="not finished"):
        read_run(run)
    assert run_command(["report", str(tmp_path / "nowhere")]) == 2
