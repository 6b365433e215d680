"""Commands that show: `salient inspect`, `report` and `explore`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pipeline.commands.arguments import is_run, lies_near, placed, run_at, store_at
from pipeline.commands.options import LOOK, AsJson, Model, Quiet
from pipeline.commands.printing import out, print_json, show_metrics, terminal
from pipeline.errors import ConfigError, listed

app = typer.Typer()


@app.command(rich_help_panel=LOOK)
def inspect(
    path: Annotated[
        str,
        typer.Argument(
            help="A store, run, head or score folder, a Parquet file or a config; or a store or"
            " scores as s3://…."
        ),
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
    store: Annotated[
        str | None,
        typer.Option(metavar="STORE", help="With --labels: where the run's store is, if it moved."),
    ] = None,
    whole: Annotated[
        bool,
        typer.Option("--all", help="Every key of a configuration, not only what was changed."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a file or folder holds, or which labels of a run look wrong."""
    from pipeline import report

    if labels:
        _doubted_labels(Path(path), task or (), limit, output, store, as_json=as_json)
        return
    given = {"--task": task, "--limit": limit, "--out": output, "--store": store}
    if odd := [name for name, value in given.items() if value is not None]:
        raise ConfigError(f"{odd[0]} goes with --labels: salient inspect RUN --labels {odd[0]} ...")
    from pipeline.config import changes

    place = placed(path)
    try:
        facts = report.inspect(place)
    except ConfigError as error:
        is_other = isinstance(place, Path) and place.is_dir() and not is_run(place)
        near = lies_near(Path(place)) if is_other else ""
        raise ConfigError(f"{error}{near}") from None
    if as_json:
        print_json(facts)
    elif facts["kind"] == "run" and facts["metrics"] is not None:
        show_metrics(Path(path), facts["metrics"], as_json=False, plots=False)
        if "lost" in facts:
            out.print(escape(facts["lost"]))
    else:
        changed = not whole and isinstance(facts.get("config"), dict)
        if changed:
            facts["config"] = changes(facts["config"])
        for line in report.describe(facts):
            out.print(escape(line))
        if changed:
            out.print("(other keys have their defaults: --all shows them)")


def _doubted_labels(
    path: Path,
    tasks: Sequence[str],
    limit: int | None,
    output: Path | None,
    store: str | None,
    *,
    as_json: bool,
) -> None:
    from pipeline import report

    path = run_at(path)
    store = None if store is None else store_at(store)
    shown = report.DOUBTS_SHOWN if limit is None else limit
    if output is not None:
        report.check_doubts_path(output)
        found = report.read_label_doubts(path, tasks, store=store)
        report.write_doubts(output, found.values())
        found = {name: one.first(shown) for name, one in found.items()}
    else:
        found = report.read_label_doubts(path, tasks, limit=shown, store=store)
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
        str | None,
        typer.Option(help="A folder of scores made with the run, or s3://…: adds their drift."),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a finished run's report: one HTML page, and its figures as PNG and SVG."""
    from pipeline import report

    place = None if scores is None else placed(scores)
    if place is not None:
        _check_scores(place)
    written = report.write_report(
        run_at(run_path), output, images=images, scores=place, say=terminal(quiet)
    )
    if as_json:
        files = [str(path) for path in written[1:]]
        tables = [path for path in files if path.endswith(".csv")]
        figures = [path for path in files if path not in tables]
        print_json({"page": str(written[0]), "figures": figures, "tables": tables})
        return
    for path in reversed(written):
        out.print(f"written: {escape(str(path))}")


def _check_scores(folder: Path | str) -> None:
    from pipeline.scoring import SCORE_CARD, check_scores

    if isinstance(folder, str):
        check_scores(folder)
        return
    if (folder / SCORE_CARD).is_file():
        return
    if not folder.is_dir():
        raise ConfigError(f"--scores {folder}: no such folder")
    found = sorted(str(one.parent) for one in folder.glob(f"*/{SCORE_CARD}"))
    near = f"there are some in {listed(found)}" if found else "name what --out of salient score was"
    raise ConfigError(f"--scores {folder}: no scores here (no {SCORE_CARD}); {near}")


@app.command(rich_help_panel=LOOK)
def explore(
    path: Annotated[
        str,
        typer.Argument(
            metavar="STORE", help="An activation store, or a run (folder, TOML file) on one."
        ),
    ],
    run_path: Annotated[
        Path | None,
        typer.Option("--run", help="A finished run on the store: adds ranks and decisions."),
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="On this machine; 0 takes any free one.")
    ] = 5006,
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
    store, run = _store_and_run(path, run_path)
    from pipeline import explorer

    try:
        explorer.serve(
            store,
            run=run,
            port=port,
            model=model,
            allow_hosts=allow_host or (),
            show=show,
            say=terminal(quiet),
            announce=lambda line: print(line, flush=True),
        )
    except KeyboardInterrupt:  # how a server ends that nobody needs any more
        print("salient: stopped", file=sys.stderr, flush=True)


def _store_and_run(path: str, run_path: Path | None) -> tuple[str, Path | None]:
    """The store to look at and the folder of the run on it, of which either names both."""
    from pipeline.runfolder import run_config

    store = store_at(path)
    if run_path is None and path != store and Path(path) != Path(store):
        run_path = Path(path)
    return store, run_path and Path(run_config(run_at(run_path)).run_dir)
