"""The tables of a run on a terminal, and its overview."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from pipeline.config import RunConfig
from pipeline.report.facts import Predictions, TaskFacts
from pipeline.report.terminal import best_by_depth, depth_table, task_table
from pipeline.runfolder import RunFolder, read_metrics
from store.tables import read_table

pytest.importorskip("holoviews", reason="needs the extra: salient[report]")
from pipeline.report import figures


def rendered(table: object) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_tables_and_overview_show_every_model(finished_run: Path, tmp_path: Path) -> None:
    config = RunConfig.load(finished_run)
    tasks = read_metrics(RunFolder(Path(config.run_dir)))["tasks"]
    assert set(tasks) == {"mood", "level"}
    for name, task in tasks.items():
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


def test_calibration_and_confusion_are_counts() -> None:
    probability = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    found = Predictions(("a", "b"), np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1]), probability)
    np.testing.assert_array_equal(found.confusion(), [[1, 1], [1, 1]])
    bins = found.reliability(2)
    np.testing.assert_allclose(bins.confidence, [0.65, 0.85])
    np.testing.assert_allclose(bins.accuracy, [1.0, 0.5])
    assert bins.error == pytest.approx((0.35 + 0.35) / 2)
    assert len(found.reliability(50).count) == 4
