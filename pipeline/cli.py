"""The command ``salient``: parse, load the configuration, call one function, print.

Results go to standard output, progress to standard error. Exit codes: 0 done, 1 failed, 2 wrong
usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from pipeline import storecli
from pipeline.errors import ConfigError
from store.errors import SalientError

if TYPE_CHECKING:  # what help and usage errors do not need is imported by whoever needs it
    from pipeline.config import RunConfig
    from pipeline.progress import Terminal

RUN, LOOK, SCORE, CLUSTER, STORE = "Run", "Look", "Score", "Cluster", "Store"
"""Groups of commands on the page of help."""

app = typer.Typer(
    name="salient",
    help=(
        "Large-scale text analysis from the feed-forward activations inside language models.\n\n"
        "First steps: salient demo, or salient init run.toml and then salient run run.toml. What"
        " was interrupted goes on where it was when the same command is given again."
    ),
    epilog=(
        "Results go to standard output (--json for machines), progress to standard error. Exit"
        " codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(storecli.app, name="store", rich_help_panel=STORE)
INTERRUPTED = 130
out = Console(soft_wrap=True, highlight=False)

ConfigFile = Annotated[
    Path, typer.Argument(metavar="CONFIG", help="The run's TOML file; `salient init` writes one.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
JobId = Annotated[
    str | None, typer.Argument(help="The job's id, or how it begins; default the youngest.")
]
Model = Annotated[
    str | None, typer.Option(help="The backbone's location on this machine, if it moved.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 …; auto takes a GPU if any.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]


def _say(quiet: bool) -> Terminal:
    from pipeline.progress import Terminal

    return Terminal(quiet=quiet)


def _load(config: Path) -> RunConfig:
    from pipeline.config import RunConfig

    return RunConfig.load(config)


def _print_json(data: Any) -> None:
    print(json.dumps(data, ensure_ascii=False, allow_nan=False))


@app.command(rich_help_panel=RUN)
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("run.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Write a commented starter configuration."""
    if path.exists() and not force:
        raise ConfigError(f"{path}: exists already; choose another name or give --force")
    try:
        path.write_text(_packaged("starter.toml"), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
    out.print(f"wrote {escape(str(path))}; edit it, then: salient run {escape(str(path))}")


@app.command(rich_help_panel=RUN)
def run(config: ConfigFile, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Extract, probe and consolidate; print the result tables. Run again to resume."""
    from pipeline import jobs

    settings = _load(config)
    metrics = jobs.run(settings, say=_say(quiet))
    _show_metrics(Path(settings.run_dir), metrics, as_json=as_json)


@app.command(rich_help_panel=RUN)
def extract(config: ConfigFile, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Compute the activations that the store lacks, and keep the labels beside them."""
    from pipeline import jobs

    report = jobs.extract(_load(config), say=_say(quiet))
    if as_json:
        _print_json(report.to_dict())
    else:
        out.print(escape(str(report)))


@app.command(rich_help_panel=RUN)
def probe(config: ConfigFile, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Phase 1: fit one single-layer network per layer and task; write importance tables."""
    from pipeline import jobs

    results = jobs.probe(_load(config), say=_say(quiet))
    if as_json:
        _print_json([vars(result) for result in results])
        return
    for result in results:
        out.print(f"{result.task}\t{result.source}\tvalidation {result.val_score:.4f}")


@app.command(rich_help_panel=RUN)
def rank(
    config: ConfigFile,
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="This task only; may be repeated.")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(help="Features of a layer in the sets compared; default a twentieth of them."),
    ] = None,
    replicates: Annotated[
        int, typer.Option("--stability", help="Bootstrap replicates of every ranking.")
    ] = 0,
    selectivity: Annotated[
        bool, typer.Option("--selectivity", help="Fit the probes to shuffled labels too.")
    ] = False,
    rows: Annotated[int, typer.Option(min=1, help="Neurons to print per task.")] = 10,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Rank a probed run's neurons in other ways than by weight; compare the rankings."""
    settings = _load(config)
    from pipeline import ranktables, report
    from pipeline.runfolder import RunFolder

    options = ranktables.RankOptions(
        top=top,
        replicates=replicates,
        shuffles=ranktables.SHUFFLES if selectivity else 0,
    )
    found = ranktables.rank(settings, tasks=tasks or (), options=options, say=_say(quiet))
    if as_json:
        _print_json(report.ranking_summary(found, rows=rows))
        return
    for name, tables in found.items():
        for table in report.ranking_views(name, tables, rows=rows):
            out.print(table, "")
        for kind in tables:
            path = ranktables.table_path(RunFolder(Path(settings.run_dir)), kind, name)
            out.print(f"written: {escape(str(path))}")


@app.command(rich_help_panel=RUN)
def consolidate(config: ConfigFile, quiet: Quiet = False, as_json: AsJson = False) -> None:
    """Phase 2: train cross-layer heads on salient slices, choose the depth, report the test."""
    from pipeline import jobs

    settings = _load(config)
    metrics = jobs.consolidate(settings, say=_say(quiet))
    _show_metrics(Path(settings.run_dir), metrics, as_json=as_json)


@app.command(rich_help_panel=RUN)
def ablate(
    config: ConfigFile,
    tasks: Annotated[
        list[str] | None, typer.Option("--task", help="This task only; may be repeated.")
    ] = None,
    top: Annotated[
        int | None, typer.Option(help="So many most important neurons of each layer; default 50.")
    ] = None,
    share: Annotated[
        float | None,
        typer.Option(help="Instead: the fewest with this share of a layer's squared importance."),
    ] = None,
    layers: Annotated[
        list[int] | None,
        typer.Option("--layer", help="May be repeated; default the chosen head's layers."),
    ] = None,
    fill: Annotated[
        str, typer.Option("--with", help="zero, or mean: over the training texts' tokens.")
    ] = "zero",
    draws: Annotated[int, typer.Option(help="Draws of random neurons to compare with.")] = 5,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    limit: Annotated[int | None, typer.Option(help="At most so many texts.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Silence a finished run's salient neurons in the backbone, and random ones; compare heads."""
    settings = _load(config)
    from pipeline import ablation, report

    options = ablation.AblationOptions(
        top=top,
        share=share,
        layers=tuple(layers or ()),
        fill=fill,
        draws=draws,
        split=split,
        limit=limit,
    )
    found = ablation.ablate(settings, tasks=tasks or (), options=options, say=_say(quiet))
    if as_json:
        _print_json(found)
        return
    for name, task in found["tasks"].items():
        out.print(report.ablation_table(name, task), "")
    out.print(f"written: {escape(str(Path(settings.run_dir) / 'ablation.json'))}")


# A command has as many parameters as options.
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
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure what scoring costs at every depth; pick how deep to go for all tasks together."""
    from pipeline import report
    from pipeline.costs import MeasureOptions
    from pipeline.outcome import plan_runs
    from pipeline.runfolder import RunFolder

    drawn: list[Path] = []

    def show(facts: Mapping[str, Any], run: RunFolder) -> None:
        try:
            from pipeline import figures

            drawn.extend(figures.write_plan(facts, run.figures))
        except (ConfigError, OSError) as error:
            print(f"salient: no plot: {error}", file=sys.stderr)
        if not as_json:
            out.print(report.plan_table(facts), "")
            for line in report.plan_lines(facts):
                out.print(escape(line))

    found = plan_runs(
        runs,
        tasks=tasks or (),
        pick=pick,
        tolerance=tolerance,
        min_texts_per_s=min_texts_per_s,
        apply=apply,
        loss=loss if cascade else None,
        measuring=MeasureOptions(texts, num_texts, rounds, model, device),
        say=_say(quiet),
        on_plan=show,
    )
    if as_json:
        _print_json(found.facts)
        return
    if cascade:
        out.print("", report.cascade_table(found.facts["cascade"]), "")
    first, *others = found.written
    for path in (first, *drawn, *others):
        out.print(f"written: {escape(str(path))}")


HEADS, READING, FILTERS = "What scores", "How files are read", "Which rows"
"""Groups of options on the page of help of ``score``."""

RunPath = Annotated[
    Path | None,
    typer.Option(
        "--run", help="A run folder, or the TOML file of a finished run.", rich_help_panel=HEADS
    ),
]
HeadFolders = Annotated[
    list[Path] | None,
    typer.Option(
        "--heads",
        help="Instead: a head folder; may be repeated, one for each task.",
        rich_help_panel=HEADS,
    ),
]
ScoredTasks = Annotated[
    list[str] | None,
    typer.Option("--task", help="Score this task only; may be repeated.", rich_help_panel=HEADS),
]
EarlyLeave = Annotated[
    bool,
    typer.Option(
        "--cascade",
        help="Let easy texts leave early, as salient plan has found.",
        rich_help_panel=HEADS,
    ),
]
Format = Annotated[
    str,
    typer.Option(help="auto, tweets, csv, tsv, jsonl, parquet or text.", rich_help_panel=READING),
]
TextColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of the text, in files of texts; default `text`.", rich_help_panel=READING
    ),
]
IdColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of the id; default `id` if any, else file name and line.",
        rich_help_panel=READING,
    ),
]
Languages = Annotated[
    list[str] | None,
    typer.Option("--lang", help="This language only; may be repeated.", rich_help_panel=FILTERS),
]
Since = Annotated[
    str | None,
    typer.Option(help="Only tweets from this date or time (UTC) on.", rich_help_panel=FILTERS),
]
Until = Annotated[
    str | None, typer.Option(help="Only tweets before this date or time.", rich_help_panel=FILTERS)
]
Retweets = Annotated[
    str | None,
    typer.Option(
        help="keep (default), drop, or only: nothing but retweets.", rich_help_panel=FILTERS
    ),
]
MaxErrors = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Share of unreadable lines that is no failure: 0.05."),
]


# A command's options are its parameters: a limit on their number is for other functions.
@app.command(rich_help_panel=SCORE)
def score(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="Tweet dumps or files of texts.")
    ],
    run_path: RunPath = None,
    heads: HeadFolders = None,
    output: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for date=…/*.parquet.")
    ] = None,
    tasks: ScoredTasks = None,
    format: Format = "auto",
    text: TextColumn = None,
    id: IdColumn = None,
    languages: Languages = None,
    since: Since = None,
    until: Until = None,
    retweets: Retweets = None,
    max_errors: MaxErrors = None,
    cascade: EarlyLeave = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and count; run no model, write nothing.")
    ] = False,
    model: Model = None,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score texts or tweets into Parquet by date; run again to resume, nothing is done twice."""
    from pipeline.score import IncompleteScores
    from pipeline.scoring import ScoreOptions, score_files

    options = ScoreOptions(
        heads=heads or (),
        tasks=tasks or (),
        format=format,
        text=text,
        id=id,
        model=model,
        device=device,
        cascade=cascade,
        dry_run=dry_run,
    )
    failure = None
    try:
        report = score_files(
            inputs,
            run_path,
            output,
            options=options,
            say=_say(quiet),
            languages=tuple(languages or ()),
            since=since,
            until=until,
            retweets=retweets,
            max_errors=max_errors,
        )
    except IncompleteScores as error:
        report, failure = error.report, error
    if as_json:
        _print_json(report.to_dict())
    else:
        out.print(f"{escape(report.output)}: {escape(report.summary())}")
    if failure is not None:
        raise failure


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    rich_help_panel=CLUSTER,
)
def submit(
    context: typer.Context,
    config: ConfigFile,
    stage: Annotated[
        str, typer.Argument(help="run, extract, probe, consolidate, rank, ablate or score.")
    ] = "run",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the batch script (or command); start nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start a stage that outlives this shell; print its job id. Further words go to the stage."""
    from pipeline import submit as jobs

    if dry_run:
        print(jobs.dry_run(stage, config, context.args), end="")
        return
    job = jobs.submit(stage, config, context.args)
    if as_json:
        _print_json({"job": job.id, "folder": str(job.path)})
        return
    out.print(job.id)
    print(f"salient status {job.id}, salient logs {job.id} -f", file=sys.stderr)


@app.command("jobs", rich_help_panel=CLUSTER)
def list_jobs(as_json: AsJson = False) -> None:
    """List submitted jobs, the youngest first."""
    from pipeline import submit as jobs
    from pipeline.jobfolder import all_jobs, jobs_root

    rows = []
    for job in all_jobs():
        try:
            rows.append(jobs.describe(job))
        except SalientError as error:  # one damaged folder hides none of the others
            print(f"salient: {error}", file=sys.stderr)
    if not rows:
        print(f"no jobs in {jobs_root()}", file=sys.stderr)
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        out.print(
            escape(
                f"{row['job']}  {row['state']:<9}  {row['stage']:<11}  {row['name']}"
                f"  {row['submitted']}  {row['progress']}"
            )
        )


@app.command(rich_help_panel=CLUSTER)
def status(job: JobId = None, as_json: AsJson = False) -> None:
    """Say how a submitted job stands."""
    from pipeline import submit as jobs
    from pipeline.jobfolder import find_job

    facts = jobs.describe(find_job(job))
    if as_json:
        _print_json(facts)
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
) -> None:
    """Print what a submitted job has printed."""
    from pipeline import submit as jobs
    from pipeline.jobfolder import find_job

    for piece in jobs.follow(find_job(job), until_end=follow, sleep=time.sleep):
        print(piece, end="", flush=True)


@app.command(rich_help_panel=CLUSTER)
def cancel(job: Annotated[str, typer.Argument(help="The job's id, or how it begins.")]) -> None:
    """Stop a submitted job; what it has finished is kept."""
    from pipeline import submit as jobs
    from pipeline.jobfolder import find_job

    found = find_job(job)
    jobs.cancel(found)
    out.print(f"{found.id}: asked to stop")


@app.command(rich_help_panel=LOOK)
def inspect(
    path: Annotated[
        Path, typer.Argument(help="A store, run, head or score folder, a Parquet file or a config.")
    ],
    as_json: AsJson = False,
) -> None:
    """Say what a file or folder holds."""
    from pipeline import inspection

    facts = inspection.inspect(path)
    if as_json:
        _print_json(facts)
    elif facts["kind"] == "run" and facts["metrics"] is not None:
        _show_metrics(path, facts["metrics"], as_json=False, plots=False)
    else:
        for line in inspection.describe(facts):
            out.print(escape(line))


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
    from pipeline import htmlreport

    written = htmlreport.write_report(
        run_path, output, images=images, scores=scores, say=_say(quiet)
    )
    if as_json:
        _print_json({"page": str(written[0]), "figures": [str(path) for path in written[1:]]})
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
        show=show,
        say=_say(quiet),
        announce=lambda line: print(line, flush=True),
    )


@app.command(rich_help_panel=RUN)
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for the example.")] = Path("runs/demo"),
    quiet: Quiet = False,
) -> None:
    """Run everything on the embedded example: a real encoder, made-up tweets, no network."""
    from pipeline import jobs
    from pipeline.demo import write_demo_tweets

    text, config = _packaged("demo_run.toml"), folder / "run.toml"
    if config.exists() and config.read_text(encoding="utf-8") != text:
        raise ConfigError(f"{config}: is not the demo's own; give `salient demo` another folder")
    folder.mkdir(parents=True, exist_ok=True)
    config.write_text(text, encoding="utf-8")
    write_demo_tweets(folder / "tweets.csv")
    settings = _load(config)
    metrics = jobs.run(settings, say=_say(quiet))
    _show_metrics(Path(settings.run_dir), metrics, as_json=False)
    run_dir, store = escape(str(folder / "run")), escape(str(folder / "activations"))
    out.print(f"look closer: salient report {run_dir}")
    out.print(f"             salient explore {store} --run {run_dir} --open")


def _show_metrics(
    run_dir: Path, metrics: dict[str, Any], *, as_json: bool, plots: bool = True
) -> None:
    from pipeline import report
    from pipeline.runfolder import RunFolder
    from store.tables import read_table

    folder = RunFolder(run_dir)
    figures = []
    for name, task in metrics["tasks"].items():
        sweep = read_table(folder.sweep(name))
        if plots:
            try:
                from pipeline.figures import write_overview
                from pipeline.reportdata import TaskFacts

                overview = TaskFacts(name, task, sweep)
                write_overview(overview, folder.figures / f"{name}.png")
                figures.append(folder.figures / f"{name}.png")
            except (ConfigError, OSError) as error:
                print(f"salient: no plot: {error}", file=sys.stderr)
        if not as_json:
            out.print(report.task_table(name, task), "")
            out.print(report.depth_table(name, task, sweep), "")
    if as_json:
        _print_json(metrics)
        return
    for figure in figures:
        out.print(f"figure: {escape(str(figure))}")
    out.print(f"run: {escape(str(run_dir))}")


def _packaged(name: str) -> str:
    from importlib import resources

    return resources.files("pipeline").joinpath(name).read_text(encoding="utf-8")


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: the words after ``salient``; default those of this process.
    """
    try:
        app(args=None if arguments is None else list(arguments), prog_name="salient")
    except SystemExit as end:
        if end.code == INTERRUPTED:
            return _interrupted()
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except ConfigError as error:
        print(f"salient: {error}", file=sys.stderr)
        return 2
    except SalientError as error:
        print(f"salient: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except KeyboardInterrupt:
        return _interrupted()
    except OSError as error:
        if error.filename is None:
            raise
        print(f"salient: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _interrupted() -> int:
    print("salient: interrupted; run the same command again to go on", file=sys.stderr)
    return INTERRUPTED


def main() -> NoReturn:
    """Entry point of the command ``salient``."""
    # Batch systems and service managers stop a command so; workers started here must end with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(run_command())
