"""How commands print: tables or JSON on standard output, progress on standard error."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from pipeline.errors import ConfigError
from store.errors import MissingExtra

if TYPE_CHECKING:
    from pipeline.progress import Terminal

at_end = ExitStack()
"""What is closed when the command under way ends, however it ends."""
WIDTH = 110
"""Of tables in a file or a log, where no terminal says how wide they may be."""
_unknown = not sys.stdout.isatty() and "COLUMNS" not in os.environ
out = Console(soft_wrap=True, highlight=False, width=WIDTH if _unknown else None)


def terminal(quiet: bool) -> Terminal:
    """Where a command's progress goes, until the command ends."""
    from pipeline.events import watch
    from pipeline.progress import Terminal

    found = Terminal(quiet=quiet)
    at_end.callback(found.close)
    at_end.enter_context(watch(found.hear, here=True))
    return found


def print_json(data: Any) -> None:
    """Print one JSON object on one line."""
    print(json.dumps(data, ensure_ascii=False, allow_nan=False), flush=True)


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
