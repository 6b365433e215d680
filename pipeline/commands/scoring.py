"""`salient score`: files, standard input or a folder that fills, into Parquet by date."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperCommand

from pipeline.commands import upkeep
from pipeline.commands.arguments import placed, run_at
from pipeline.commands.options import SCORE, AsJson, Device, Model, Quiet, TrustCode
from pipeline.commands.printing import out, print_json, terminal
from pipeline.commands.stopping import GentleStop
from pipeline.errors import ConfigError, ScoreError, require
from pipeline.events import Event, ScoreFinished, watch

if TYPE_CHECKING:
    from pipeline.progress import Say
    from pipeline.scoring import Following, ScoreOptions, ScoreReport

# A command's options are its parameters: a limit on their number is for other functions.
app = typer.Typer()


class ScoreCommand(TyperCommand):
    """``salient score INPUT...``, or one of the commands of ``pipeline.commands.upkeep``."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """The context of the command that the first word names."""
        others = typer.main.get_command(upkeep.app).commands  # type: ignore[attr-defined]
        if args and args[0] in others:
            name = f"{info_name} {args[0]}"
            return others[args[0]].make_context(name, args[1:], parent=parent, **extra)
        context = super().make_context(info_name, args, parent=parent, **extra)
        if not context.resilient_parsing:  # also where a job is only to be submitted
            names = ("inputs", "follow", "until_idle", "dry_run")
            _check_usage(*(context.params[name] for name in names))
        return context


HEADS, READING, FILTERS = "What scores", "How files are read", "Which rows"
FOLLOWING = "A folder that fills"
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
        metavar="FOLDER",
        help="Instead: a head's folder, or hub:user/name@revision for all there; may be repeated.",
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
    typer.Option(
        help="auto, tweets, csv, tsv, jsonl, parquet, arrow or text.", rich_help_panel=READING
    ),
]
TextColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of the text, or its number in a file without a header; default that of the"
        " run's corpus, or as tools usually call it.",
        rich_help_panel=READING,
    ),
]
IdColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of the id, or its number; default the run's, or as tools usually call it; else"
        " file name and line.",
        rich_help_panel=READING,
    ),
]
TimeColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of the time, or its number, for date=… and --since; default as usual.",
        rich_help_panel=READING,
    ),
]
LanguageColumn = Annotated[
    str | None,
    typer.Option(
        "--lang-column",
        help="Column of the language, or its number, for --lang; default as usual.",
        rich_help_panel=READING,
    ),
]
AuthorColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of the author; default `author_id`, `user_id` … if any.",
        rich_help_panel=READING,
    ),
]
TextEncoding = Annotated[
    str | None,
    typer.Option(
        help="Of all inputs, such as cp1252; default UTF-8, or as the byte order mark says.",
        rich_help_panel=READING,
    ),
]
DetectLanguage = Annotated[
    bool | None,
    typer.Option(
        "--detect-language/--no-detect-language",
        help="Find the language of rows that do not say it (extra: languages).",
        rich_help_panel=READING,
    ),
]
OutFormat = Annotated[
    str | None,
    typer.Option(
        help="parquet (default), or delta: a Delta table (--format delta means this too).",
    ),
]
Languages = Annotated[
    list[str] | None,
    typer.Option(
        "--lang", help="This language only, as en; may be repeated.", rich_help_panel=FILTERS
    ),
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
QUIET_S = 60.0
"""As ``pipeline.scoring.Following`` has it, which this module imports only when it is needed."""
Follow = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Instead of INPUT: score the files of a folder (or s3://…) as they become complete,"
        " until told to stop (SIGTERM or Ctrl-C end it with 0).",
        rich_help_panel=FOLLOWING,
    ),
]
QuietS = Annotated[
    float,
    typer.Option(
        min=0,
        help="Seconds for which a file must not have changed; renamed from a name such as x.part"
        " it is complete at once.",
        rich_help_panel=FOLLOWING,
    ),
]
UntilIdle = Annotated[
    bool,
    typer.Option(
        "--until-idle",
        help="End when all files are scored and none is becoming complete.",
        rich_help_panel=FOLLOWING,
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.prom",
        help="Write metrics for node_exporter's textfile collector, also on failure.",
    ),
]
MaxErrors = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Share of unreadable lines that is no failure: 0.05."),
]


@app.command(
    rich_help_panel=SCORE,
    cls=ScoreCommand,
    epilog=(
        "Also: salient score repair OUT mends a damaged folder of scores; salient score delete OUT"
        " removes tweets from it for good. Each has its own --help."
    ),
)
def score(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT...",
            help="Dumps of posts, files of texts, folders (all files in and below them), patterns"
            " ('dumps/*.gz', 's3://bucket/*.gz'), or - for standard input.",
            show_default=False,
        ),
    ] = None,
    run_path: RunPath = None,
    heads: HeadFolders = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", metavar="FOLDER|URL", help="Folder or bucket for date=…/*.parquet."
        ),
    ] = None,
    out_format: OutFormat = None,
    tasks: ScoredTasks = None,
    format: Format = "auto",
    text: TextColumn = None,
    id: IdColumn = None,
    time: TimeColumn = None,
    lang: LanguageColumn = None,
    author: AuthorColumn = None,
    encoding: TextEncoding = None,
    detect_language: DetectLanguage = None,
    languages: Languages = None,
    since: Since = None,
    until: Until = None,
    retweets: Retweets = None,
    max_errors: MaxErrors = None,
    cascade: EarlyLeave = False,
    keep_text: Annotated[
        bool | None,
        typer.Option(
            "--keep-text/--no-keep-text",
            help="Keep how unreadable lines begin; default keep_text of the run's store.",
            rich_help_panel=READING,
        ),
    ] = None,
    check_content: Annotated[
        bool,
        typer.Option(
            "--check-content",
            help="Read the bytes of files too whose name, size, times and inode are as they were.",
            rich_help_panel=READING,
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and count; run no model, write nothing.")
    ] = False,
    metrics: Metrics = None,
    follow: Follow = None,
    quiet_s: QuietS = QUIET_S,
    until_idle: UntilIdle = False,
    model: Model = None,
    trust_remote_code: TrustCode = False,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score texts or posts into Parquet by date; run again to resume, nothing is done twice."""
    say = terminal(quiet)
    run = str(run_path or ", ".join(map(str, heads or ())))
    target = None if output is None else placed(output)
    with ExitStack() as listeners:
        if metrics is not None and not dry_run:  # a dry run writes nothing
            from pipeline.scoring import metrics_file

            listeners.enter_context(metrics_file(metrics, run=run, output=target))
        if as_json:
            listeners.enter_context(watch(summaries := _Summaries(), here=True))
        require("torch")
        say("loading heads and libraries")  # the latter alone may take many seconds
        from pipeline.scoring import Following, ScoreOptions
        from pipeline.sharing import find_folders

        if format == "delta":
            format, out_format = "auto", "delta"
        options = ScoreOptions(
            heads=find_folders(heads or (), say=say),
            tasks=tasks or (),
            format=format,
            text=text,
            id=id,
            time=time,
            lang=lang,
            author=author,
            encoding=encoding,
            detect_language=detect_language,
            model=model,
            device=device,
            trust_remote_code=trust_remote_code,
            cascade=cascade,
            keep_text=keep_text,
            check_content=check_content,
            dry_run=dry_run,
        )
        settings = {
            "languages": tuple(languages or ()),
            "since": since,
            "until": until,
            "retweets": retweets,
            "max_errors": max_errors,
            "out_format": out_format,
        }
        show = summaries.show if as_json else _show
        asked = show, run_path and run_at(run_path), target, options, settings, say
        if follow is None:
            _score([placed(one) for one in inputs or ()], *asked)
        else:
            _follow(placed(follow), Following(quiet_s, until_idle), *asked)


def _check_usage(
    inputs: Sequence[str] | None, follow: str | None, until_idle: object, dry_run: object
) -> None:
    """Refuse options that do not go together."""
    if follow is None and not inputs:
        raise ConfigError("no INPUT: name files, folders or -, or a folder with --follow DIR")
    if follow is None and until_idle:
        raise ConfigError("--until-idle goes with --follow DIR")
    if follow is not None and inputs:
        raise ConfigError(
            f"--follow {follow}: takes the files of that folder and no INPUT, such as {inputs[0]};"
            " put files there, or score them with a command of their own"
        )
    if follow is not None and dry_run:
        raise ConfigError("--follow goes without --dry-run; name the folder as an INPUT for that")


def _score(
    inputs: Sequence[Path | str],
    show: Callable[[ScoreReport], None],
    run: Path | None,
    output: Path | str | None,
    options: ScoreOptions,
    settings: Mapping[str, Any],
    say: Say,
) -> None:
    """Score files, and show what became of them, also where the run has failed."""
    from pipeline.scoring import IncompleteScores, score_files

    try:
        report = score_files(inputs, run, output, options=options, say=say, **settings)
    except IncompleteScores as error:
        show(error.report)
        raise
    show(report)


def _follow(
    folder: Path | str,
    following: Following,
    show: Callable[[ScoreReport], None],
    run: Path | None,
    output: Path | str | None,
    options: ScoreOptions,
    settings: Mapping[str, Any],
    say: Say,
) -> None:
    """Follow a folder until told to stop: that is no failure, whatever files have failed."""
    from pipeline.scoring import follow_files

    stop = GentleStop()
    with stop.heeded():
        report = follow_files(
            folder,
            run,
            output,
            options=options,
            following=following,
            stop=stop,
            on_round=show,
            say=say,
            **settings,
        )
    if report.failed and not stop.is_told:
        first, more = next(iter(report.failed.values())), len(report.failed) - 1
        raise ScoreError(f"{first}{f' (and {more} more)' * (more > 0)}")


def _show(report: ScoreReport) -> None:
    for line in report.files_told() if report.dry_run else ():
        out.print(escape(line))
    out.print(f"{escape(report.output)}: {escape(report.summary())}")


class _Summaries:
    """Prints what is heard of runs and rounds that end, as JSON: a listener, as metrics are."""

    def __init__(self) -> None:
        self._error: OSError | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, ScoreFinished):
            try:
                print_json(event.summary)
            except OSError as error:  # nobody reads it; of a listener it would only be logged
                self._error = error

    def show(self, _: ScoreReport) -> None:
        """Raise what was in the way of printing."""
        if self._error is not None:
            raise self._error
