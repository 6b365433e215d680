from __future__ import annotations

import io
import struct
from pathlib import Path

from rich.console import Console

from pipeline.config import RunConfig
from pipeline.report import best_by_depth, depth_table, plot_task, task_table
from pipeline.runfolder import RunFolder, read_metrics
from store.tables import read_table


def rendered(table: object) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_tables_and_plot_show_every_model(finished_run: Path, tmp_path: Path) -> None:
    config = RunConfig.load(finished_run)
    for name, task in read_metrics(RunFolder(Path(config.run_dir)))["tasks"].items():
        sweep = read_table(RunFolder(Path(config.run_dir)).sweep(name))
        text = rendered(task_table(name, task))
        assert f"{task['chosen']['test'][task['metric']]:.4f}" in text
        assert text.count("layer ") >= 3
        assert f"0..{task['chosen']['depth']} (chosen)" in rendered(depth_table(name, task, sweep))
        plot_task(name, task, sweep, tmp_path / f"{name}.png")
        header = (tmp_path / f"{name}.png").read_bytes()[:24]
        assert struct.unpack(">II", header[16:]) == (1200, 480)


def test_best_by_depth_minds_the_metrics_direction() -> None:
    rows = [
        {"kind": "sparse", "depth": 0, "val_score": value, "num_features": 1}
        for value in (0.2, 0.4)
    ]
    assert best_by_depth(rows, "accuracy")["sparse", 0]["val_score"] == 0.4
    assert best_by_depth(rows, "mae")["sparse", 0]["val_score"] == 0.2
