"""`salient plan`: what scoring costs at every depth."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from pipeline.commands.arguments import run_at
from pipeline.commands.options import SCORE, AsJson, Device, Model, Quiet, TrustCode
from pipeline.commands.printing import out, print_json, terminal
from pipeline.errors import ConfigError, require
from store.errors import MissingExtra

# A command's options are its parameters: a limit on their number is for other functions.
app = typer.Typer()


@app.command(rich_help_panel=SCORE)
def plan(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Folders, or TOML files, of finished runs."),
    ],
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="Plan for this task; may be repeated.")
    ] = None,
    pick: Annotated[
        str | None,
        typer.Option(help="best, or smallest (default): fewest layers within --tolerance of it."),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="Default head.tolerance of the configuration.")
    ] = None,
    min_texts_per_s: Annotated[
        float | None,
        typer.Option(min=0, help="Pick among depths that are this fast; makes best the default."),
    ] = None,
    apply: Annotated[
        bool, typer.Option("--apply", help="Make the picked heads the chosen ones.")
    ] = False,
    cascade: Annotated[
        bool,
        typer.Option(
            "--cascade", help="Find when easy texts may leave early, for score --cascade."
        ),
    ] = False,
    loss: Annotated[
        float, typer.Option(min=0, help="Of each task's metric on validation, for --cascade.")
    ] = 0.005,
    texts: Annotated[
        Path | None, typer.Option(help="A file to measure on; default labelled texts of the run.")
    ] = None,
    num_texts: Annotated[
        int | None, typer.Option(min=1, help="Texts to measure on; default 256, 4096 on a GPU.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed passes at every depth.")] = 5,
    model: Model = None,
    trust_remote_code: TrustCode = False,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure what scoring costs at every depth; pick how deep to go for all tasks together."""
    say = terminal(quiet)
    require("torch")
    say("loading heads and model")
    from pipeline import report
    from pipeline.planning import MeasureOptions, plan_runs
    from pipeline.runfolder import RunFolder

    drawn: list[Path] = []

    def show(facts: Mapping[str, Any], run: RunFolder) -> None:
        try:
            drawn.extend(report.write_plan(facts, run.figures))
        except (ConfigError, MissingExtra, OSError) as error:
            print(f"salient: no plot: {error}", file=sys.stderr)
        if not as_json:
            out.print(report.plan_table(facts), "")
            for line in (*report.plan_lines(facts), *_requests(facts)):
                out.print(escape(line))

    found = plan_runs(
        [run_at(one) for one in runs],
        tasks=tasks or (),
        pick=pick,
        tolerance=tolerance,
        min_texts_per_s=min_texts_per_s,
        apply=apply,
        loss=loss if cascade else None,
        measuring=MeasureOptions(texts, num_texts, rounds, model, device, trust_remote_code),
        say=say,
        on_plan=show,
    )
    if as_json:
        print_json(found.facts)
        return
    if cascade:
        out.print("", report.cascade_table(found.facts["cascade"]), "")
    first, *others = found.written
    for path in (first, *drawn, *others):
        out.print(f"written: {escape(str(path))}")


def _requests(facts: Mapping[str, Any]) -> Iterator[str]:
    """What scoring into a bucket asks of it."""
    if (found := facts.get("requests")) is not None:
        yield (
            f"scores in the bucket: about {found['put']:,} PUT, {found['copy']:,} COPY,"
            f" {found['get']:,} GET and {found['list']:,} LIST requests for {found['texts']:,}"
            f" texts of a date ({found['batches']:,} batches: score.buffer_rows); a PUT and a COPY"
            " more for each further date in a batch"
        )
