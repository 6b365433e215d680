"""The tables of a run on a terminal, and its overview."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from pipeline.config import RunConfig
from pipeline.report.facts import Predictions, TaskFacts
from pipeline.report.scores import best_by_depth, judging, num_layers_of, remarks, score_rows
from pipeline.report.terminal import depth_table, task_table
from pipeline.runfolder import RunFolder, read_metrics
from store.tables import read_table
from tests.builders.metrics import made_up_task

pytest.importorskip("holoviews", reason="needs the extra: salient-neurons[report]")
from pipeline.report import figures


def rendered(table: object, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_tables_and_overview_show_every_model(finished_run: Path, tmp_path: Path) -> None:
    config = RunConfig.load(finished_run)
    tasks = read_metrics(RunFolder(Path(config.run_dir)))["tasks"]
    assert set(tasks) == {"mood", "level"}
    for name, task in tasks.items():
        sweep = read_table(RunFolder(Path(config.run_dir)).sweep(name))
        text = rendered(task_table(name, task))
        assert f"{task['chosen']['test'][task['metric']]:.3f} [" in text
        for model in ("final hidden state", "best single layer", "best hidden state", "chosen"):
            assert model in text
        chosen = f"{task['chosen']['depth'] + 1}/{num_layers_of(task)} *"
        assert chosen in rendered(depth_table(name, task, sweep))
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
    with_loss = [row | {"loss": row["val_score"]} for row in rows]
    assert best_by_depth(with_loss, "accuracy")["sparse", 0]["val_score"] == 0.2


def test_calibration_and_confusion_are_counts() -> None:
    probability = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    found = Predictions(("a", "b"), np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1]), probability)
    np.testing.assert_array_equal(found.confusion(), [[1, 1], [1, 1]])
    bins = found.reliability(2)
    np.testing.assert_allclose(bins.confidence, [0.65, 0.85])
    np.testing.assert_allclose(bins.accuracy, [1.0, 0.5])
    assert bins.error == pytest.approx((0.35 + 0.35) / 2)
    assert len(found.reliability(50).count) == 4


def test_a_row_of_the_scores_for_everything_that_is_compared() -> None:
    rows = {row.model: row for row in score_rows(made_up_task())}
    assert list(rows) == [
        "majority", "TF-IDF", "final hidden state", "all features, same blocks",
        "best single layer", "best hidden state", "best sparse head", "chosen: ensemble",
    ]  # fmt: skip
    assert [row.blocks for row in rows.values()] == [
        "0/6", "0/6", "6/6", "4/6", "6/6", "0/6", "4/6", "4/6",
    ]  # fmt: skip
    chosen, final = rows["chosen: ensemble"], rows["final hidden state"]
    assert (chosen.features, chosen.loss, chosen.score) == ("1,643", "0.01460", "0.720")
    assert (final.test, final.gain) == ("0.710 [0.679, 0.738]", "+0.070 [-0.003, 0.098]")
    assert rows["majority"].test == "—" and rows["majority"].gain == ""
    assert rows["best single layer"].score == ""  # of validation alone: another measure
    assert judging(made_up_task()) == "loss (squared error) and score out of fold"
    assert remarks(made_up_task()) == [
        "chosen head less final hidden state: +0.070 [-0.003, 0.098]",
        "chosen head: at most 4 of 6 blocks: squared error +0.0009 ± 0.0002 against all blocks",
    ]


def test_a_gain_in_a_metric_of_which_less_is_better() -> None:
    less = remarks(made_up_task(metric="mae"))[0]
    assert less == "final hidden state less chosen head: +0.070 [-0.003, 0.098]"


def test_a_head_chosen_after_the_test_has_no_gains() -> None:
    task = made_up_task(gain={})
    task["chosen"] = task["chosen"] | {"note": "it was chosen by hand"}
    del task["chosen"]["choice"]  # what the run chose itself
    assert all(row.gain == "" for row in score_rows(task))
    assert remarks(task) == ["chosen head: no gain evaluated, it was chosen by hand"]


def test_an_older_run_has_one_baseline_and_no_losses() -> None:
    path = Path(__file__).parents[1] / "formats" / "1" / "run"
    for name, task in read_metrics(RunFolder(path))["tasks"].items():
        first, *rows = score_rows(task)
        assert (first.model, first.blocks, first.features) == ("final hidden state", "3/3", "—")
        assert all(row.loss == "" and row.score for row in (first, *rows))
        assert "loss" not in rendered(task_table(name, task))
        assert "score on validation" in rendered(task_table(name, task))
        sweep = read_table(RunFolder(path).sweep(name))
        assert "frozen" in rendered(depth_table(name, task, sweep))


@pytest.mark.parametrize(
    ("width", "columns"),
    [
        (105, {"blocks", "features", "loss", "score", "test", "gain"}),
        (100, {"blocks", "features", "score", "test", "gain"}),
        (80, {"blocks", "test", "gain"}),
        (60, {"blocks", "test"}),
        (50, {"test"}),
        (30, {"test"}),
    ],
)
def test_narrow_terminals_get_fewer_columns(width: int, columns: set[str]) -> None:
    lines = rendered(task_table("anger", made_up_task()), width).splitlines()
    assert max(map(len, lines)) <= width
    head = " ".join(lines[1:4])
    found = {w for w in ("blocks", "features", " loss ", "score ", "test", "gain") if w in head}
    assert {word.strip() for word in found} == columns
    text = "\n".join(lines)
    assert "0.710 [0.679, 0.738]" in text and "…" not in text
    sweep = pa.Table.from_pylist(
        [
            {"kind": kind, "depth": depth, "num_features": 16128, "loss": 0.2, "score": 0.7277,
             "val_score": 0.71}
            for depth in range(6) for kind in ("dense", "sparse", "frozen", "ensemble")
            if kind == "dense" or depth == 3
        ]
    )  # fmt: skip
    lines = rendered(depth_table("anger", made_up_task(), sweep), width).splitlines()
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines) and "0.728" in "".join(lines)
