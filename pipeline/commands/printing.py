"""How commands print: tables or JSON on standard output, progress on standard error."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from pipeline.errors import ConfigError
from store.errors import MissingExtra

if TYPE_CHECKING:
    from pipeline.config import RunConfig
    from pipeline.progress import Terminal

WIDTH = 100
"""Of tables in a file or a log, where no terminal says how wide they may be."""
_unknown = not sys.stdout.isatty() and "COLUMNS" not in os.environ
out = Console(soft_wrap=True, highlight=False, width=WIDTH if _unknown else None)


def terminal(quiet: bool) -> Terminal:
    """Where a command's progress goes."""
    from pipeline.progress import Terminal

    return Terminal(quiet=quiet)


def load_config(config: Path, *, allow_code: bool | None = None) -> RunConfig:
    """A run's configuration; ConfigError in one line for what is wrong with it.

    Args:
        config: its file.
        allow_code: the model is loaded, and its own code may run even if the file is a job's; None:
            no model is loaded.
    """
    from pipeline.config import RunConfig

    found = RunConfig.load(config)
    found = found.allowing_code() if allow_code else found
    if allow_code is False and found.code_withheld:
        raise ConfigError(
            f"{config}: asks for Python code that comes with the model {found.backbone.model}"
            " (trust_remote_code), and that would run as you; if you trust it, give"
            " --trust-remote-code, or name your own TOML file"
        )
    return found


def print_json(data: Any) -> None:
    """Print one JSON object on one line."""
    print(json.dumps(data, ensure_ascii=False, allow_nan=False))


def show_metrics(
    run_dir: Path, metrics: dict[str, Any], *, as_json: bool, plots: bool = True
) -> None:
    """Print a finished run's tables, and draw each task's overview beside them."""
    from pipeline import report
    from pipeline.runfolder import RunFolder, read_sweep

    folder = RunFolder(run_dir)
    figures = []
    for name, task in metrics["tasks"].items():
        sweep = read_sweep(folder, name)
        if plots:
            try:
                overview = report.TaskFacts(name, task, sweep)
                report.write_overview(overview, folder.figures / f"{name}.png")
                figures.append(folder.figures / f"{name}.png")
            except (ConfigError, MissingExtra, OSError) as error:
                print(f"salient: no plot: {error}", file=sys.stderr)
        if not as_json:
            out.print(report.task_table(name, task), "", soft_wrap=False)
            if "labels" in task:
                out.print(report.label_table(name, task), "", soft_wrap=False)
            out.print(report.depth_table(name, task, sweep), "", soft_wrap=False)
    if as_json:
        print_json(metrics)
        return
    for figure in figures:
        out.print(f"figure: {escape(str(figure))}")
    out.print(f"run: {escape(str(run_dir))}")
