"""Commands for jobs that outlive the shell: `salient submit`, `jobs`, `status` and so on."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pipeline.commands.options import CLUSTER, AsJson, ConfigFile, JobId
from pipeline.commands.printing import out, print_json
from store.errors import SalientError

app = typer.Typer()
Jobs = Annotated[
    str | None,
    typer.Option(
        metavar="PLACE",
        help="Folder or bucket of the jobs, or the TOML file that names it; default $SALIENT_JOBS,"
        " else ~/.salient/jobs.",
    ),
]


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    rich_help_panel=CLUSTER,
)
def submit(
    context: typer.Context,
    config: ConfigFile,
    stage: Annotated[
        str,
        typer.Argument(
            metavar="STAGE",
            help="run, extract, probe, consolidate, rank, ablate, plan, report or score.",
        ),
    ] = "run",
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WORD...",
            help="What `salient STAGE --help` lists: of score its INPUT and --out (--run is given),"
            " of the others the options alone. They are checked before anything starts.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the batch script (or command); start nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start a stage that outlives this shell; print its job id. Further words go to the stage.

    As in: salient submit run.toml score tweets.jsonl.gz --out scores
    """
    from pipeline import submission

    given = [*(words or ()), *context.args]
    _check_words(context, stage, config, given)
    if dry_run:
        print(submission.dry_run(stage, config, given), end="")
        return
    job = submission.submit(stage, config, given)
    if as_json:
        print_json({"job": job.id, "folder": job.place})
        return
    out.print(job.id)
    place = job.place.rpartition("/")[0]
    where = "" if place == submission.jobs_place() else f" --jobs {place}"
    print(f"salient status {job.id}{where}, salient logs {job.id} -f{where}", file=sys.stderr)


def _place(jobs: str | None) -> str | None:
    """The folder or address of jobs that was named, itself or by the TOML file of a run."""
    if jobs is None or Path(jobs).suffix != ".toml":
        return jobs
    from pipeline.config import RunConfig

    return RunConfig.load(jobs).submission.folder


def _check_words(context: typer.Context, stage: str, config: Path, words: Sequence[str]) -> None:
    """Parse a stage's words as its own command would: here, not in the log of a failed job."""
    root = context.find_root()
    command = root.command.commands.get(stage)  # type: ignore[attr-defined]
    if command is not None:
        given = [*words, "--run", str(config)] if stage == "score" else [str(config), *words]
        command.make_context(stage, given, parent=root)


@app.command("jobs", rich_help_panel=CLUSTER)
def list_jobs(jobs: Jobs = None, as_json: AsJson = False) -> None:
    """List submitted jobs, the youngest first."""
    from pipeline import submission

    place, rows = _place(jobs), []
    for job in submission.all_jobs(place):
        try:
            rows.append(submission.describe(job))
        except SalientError as error:  # one damaged folder hides none of the others
            print(f"salient: {error}", file=sys.stderr)
    if not rows:
        print(f"no jobs in {submission.jobs_place(place)}", file=sys.stderr)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        out.print(
            escape(
                f"{row['job']}  {row['state']:<9}  {row['stage']:<11}  {row['name']}"
                f"  {row['submitted']}  {row['progress']}"
            )
        )


@app.command(rich_help_panel=CLUSTER)
def status(job: JobId = None, jobs: Jobs = None, as_json: AsJson = False) -> None:
    """Say how a submitted job stands."""
    from pipeline import submission

    facts = submission.describe(submission.find_job(job, _place(jobs)))
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        if value not in ("", None):
            out.print(escape(f"{key}: {value}"))


@app.command(rich_help_panel=CLUSTER)
def logs(
    job: JobId = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")
    ] = False,
    jobs: Jobs = None,
) -> None:
    """Print what a submitted job has printed."""
    from pipeline import submission

    found = submission.find_job(job, _place(jobs))
    for piece in submission.follow(found, until_end=follow, sleep=time.sleep):
        print(piece, end="", flush=True)


@app.command(rich_help_panel=CLUSTER)
def cancel(
    job: Annotated[str, typer.Argument(help="The job's id, or how it begins.")],
    jobs: Jobs = None,
) -> None:
    """Stop a submitted job; what it has finished is kept."""
    from pipeline import submission

    found = submission.find_job(job, _place(jobs))
    submission.cancel(found)
    out.print(f"{found.id}: asked to stop")
