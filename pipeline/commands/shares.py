"""The command that counts what scores say, corrected: `salient prevalence`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pipeline.commands.arguments import placed, run_at
from pipeline.commands.options import SCORE, AsJson, Quiet
from pipeline.commands.printing import out, print_json, terminal
from pipeline.errors import ConfigError, require

app = typer.Typer()


@app.command(rich_help_panel=SCORE)
def prevalence(
    scores: Annotated[
        str,
        typer.Argument(metavar="SCORES", help="A folder, or s3://…, that `salient score` wrote."),
    ],
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="This task only; may be repeated.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            metavar="day|week|month|COLUMN",
            help="Groups: by date (a week is its Monday), or any column of the scores.",
        ),
    ] = None,
    run_path: Annotated[
        Path | None,
        typer.Option(
            "--run", metavar="RUN", help="Ask the run what its heads get wrong, not the folder."
        ),
    ] = None,
    heads: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Ask head folders, one a task; may be repeated."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE.parquet", help="The table.")
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A figure of every class: .png or .svg."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Say which share of the texts each class has, corrected for the heads' errors."""
    from pipeline import report

    if run_path is not None and heads:
        raise ConfigError("--run and --heads: give one of them")
    if output is not None and output.suffix != ".parquet":
        raise ConfigError(f"--out {output}: name a .parquet file")
    if figure is not None:
        report.check_image_path(figure)
        require("holoviews")
    from pipeline.prevalence import find_shares, write_shares

    terminal(quiet)
    found = find_shares(
        placed(scores),
        by=by,
        tasks=tasks or (),
        run=None if run_path is None else run_at(run_path),
        heads=heads or (),
    )
    if output is not None:
        write_shares(found, output)
    if figure is not None:
        report.write_shares_image(found.table, figure)
    files = {
        name: str(path) for name, path in (("out", output), ("figure", figure)) if path is not None
    }
    if as_json:
        notes = list(found.notes)
        print_json({"by": found.by, "notes": notes, **files, "rows": found.table.to_pylist()})
        return
    for task in dict.fromkeys(found.table["task"].to_pylist()):
        out.print(report.share_table(found.table, task), "", soft_wrap=False)
    for note in found.notes:
        out.print(escape(note))
    for path in files.values():
        out.print(f"written: {escape(path)}")
