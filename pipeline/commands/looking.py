"""Commands that show: `salient inspect`, `report` and `explore`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pipeline.commands.options import LOOK, AsJson, Model, Quiet
from pipeline.commands.printing import out, print_json, show_metrics, terminal
from pipeline.errors import ConfigError

app = typer.Typer()


@app.command(rich_help_panel=LOOK)
def inspect(
    path: Annotated[
        Path, typer.Argument(help="A store, run, head or score folder, a Parquet file or a config.")
    ],
    labels: Annotated[
        bool, typer.Option("--labels", help="Of a run: the labels that its heads most doubt.")
    ] = False,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="With --labels: of this task. May be repeated."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="With --labels: rows shown of each task; default 20.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="With --labels: all doubted rows, .parquet or .csv."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a file or folder holds, or which labels of a run look wrong."""
    from pipeline import report

    if labels:
        _doubted_labels(path, task or (), limit, output, as_json=as_json)
        return
    given = {"--task": task, "--limit": limit, "--out": output}
    if odd := [name for name, value in given.items() if value is not None]:
        raise ConfigError(f"{odd[0]} goes with --labels: salient inspect RUN --labels {odd[0]} ...")
    facts = report.inspect(path)
    if as_json:
        print_json(facts)
    elif facts["kind"] == "run" and facts["metrics"] is not None:
        show_metrics(path, facts["metrics"], as_json=False, plots=False)
        if "lost" in facts:
            out.print(escape(facts["lost"]))
    else:
        for line in report.describe(facts):
            out.print(escape(line))


def _doubted_labels(
    path: Path, tasks: Sequence[str], limit: int | None, output: Path | None, *, as_json: bool
) -> None:
    from pipeline import report

    shown = report.DOUBTS_SHOWN if limit is None else limit
    if output is not None:
        report.check_doubts_path(output)
        found = report.read_label_doubts(path, tasks)
        report.write_doubts(output, found.values())
        found = {name: one.first(shown) for name, one in found.items()}
    else:
        found = report.read_label_doubts(path, tasks, limit=shown)
    if as_json:
        doubts = {name: one.facts() for name, one in found.items()}
        where = {} if output is None else {"out": str(output)}
        print_json({"kind": "labels", "run": str(path), **where, "tasks": doubts})
        return
    for one in found.values():
        out.print(report.doubt_table(one), "", soft_wrap=False)
    if output is not None:
        out.print(f"written: {escape(str(output))}")


@app.command("report", rich_help_panel=LOOK)
def write_report(
    run_path: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run folder, or the TOML file of its run.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The HTML page; default RUN/report.html."),
    ] = None,
    images: Annotated[
        str, typer.Option(help="Files of each figure: png, svg, both or none.")
    ] = "both",
    scores: Annotated[
        Path | None, typer.Option(help="A folder of scores made with the run: adds their drift.")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a finished run's report: one HTML page, and its figures as PNG and SVG."""
    from pipeline import report

    written = report.write_report(
        run_path, output, images=images, scores=scores, say=terminal(quiet)
    )
    if as_json:
        print_json({"page": str(written[0]), "figures": [str(path) for path in written[1:]]})
        return
    for path in reversed(written):
        out.print(f"written: {escape(str(path))}")


@app.command(rich_help_panel=LOOK)
def explore(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="An activation store.")],
    run_path: Annotated[
        Path | None,
        typer.Option("--run", help="A finished run on it: adds ranks and decisions."),
    ] = None,
    port: Annotated[int, typer.Option(help="On this machine; 0 takes any free one.")] = 5006,
    model: Model = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Behind a proxy: its name, as hub.example.org. May be repeated; an ssh tunnel"
            " needs none.",
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open a browser.")] = False,
    quiet: Quiet = False,
) -> None:
    """Search a store's neurons in a local web page; nothing leaves this machine."""
    from pipeline import explorer

    explorer.serve(
        store,
        run=run_path,
        port=port,
        model=model,
        allow_hosts=allow_host or (),
        show=show,
        say=terminal(quiet),
        announce=lambda line: print(line, flush=True),
    )
