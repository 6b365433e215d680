"""Commands that score: `salient plan` and `salient score`, with what looks after its folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.core import TyperCommand

from pipeline.commands.arguments import run_at
from pipeline.commands.options import SCORE, AsJson, Device, Model, Quiet, TrustCode
from pipeline.commands.printing import out, print_json, terminal
from pipeline.errors import ConfigError, require
from store.errors import MissingExtra

# A command's options are its parameters: a limit on their number is for other functions.
app = typer.Typer()
upkeep = typer.Typer()
"""What may follow ``salient score`` in place of an input: a file of such a name is ``./repair``."""


class ScoreCommand(TyperCommand):
    """``salient score INPUT...``, or one of the commands of ``upkeep``."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """The context of the command that the first word names."""
        others = typer.main.get_command(upkeep).commands  # type: ignore[attr-defined]
        if args and args[0] in others:
            name = f"{info_name} {args[0]}"
            return others[args[0]].make_context(name, args[1:], parent=parent, **extra)
        return super().make_context(info_name, args, parent=parent, **extra)


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
            for line in report.plan_lines(facts):
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
        help="Column of the text, in files of texts; default that of the run's corpus, or `text`.",
        rich_help_panel=READING,
    ),
]
IdColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of the id; default the run's or `id` if any, else file name and line.",
        rich_help_panel=READING,
    ),
]
TimeColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of the time, for date=… and --since; default the run's or `created_at`.",
        rich_help_panel=READING,
    ),
]
LanguageColumn = Annotated[
    str | None,
    typer.Option(
        "--lang-column",
        help="Column of the language, for --lang; default `lang`.",
        rich_help_panel=READING,
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
        list[Path],
        typer.Argument(
            metavar="INPUT...",
            help="Tweet dumps, files of texts, or folders: all files in and below them.",
        ),
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
    time: TimeColumn = None,
    lang: LanguageColumn = None,
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
    model: Model = None,
    trust_remote_code: TrustCode = False,
    device: Device = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score texts or tweets into Parquet by date; run again to resume, nothing is done twice."""
    say = terminal(quiet)
    require("torch")
    say("loading heads and libraries")  # the latter alone may take many seconds
    from pipeline.scoring import IncompleteScores, ScoreOptions, score_files
    from pipeline.sharing import find_folders

    options = ScoreOptions(
        heads=find_folders(heads or (), say=say),
        tasks=tasks or (),
        format=format,
        text=text,
        id=id,
        time=time,
        lang=lang,
        model=model,
        device=device,
        trust_remote_code=trust_remote_code,
        cascade=cascade,
        keep_text=keep_text,
        check_content=check_content,
        dry_run=dry_run,
    )
    failure = None
    try:
        report = score_files(
            inputs,
            run_path and run_at(run_path),
            output,
            options=options,
            say=say,
            languages=tuple(languages or ()),
            since=since,
            until=until,
            retweets=retweets,
            max_errors=max_errors,
        )
    except IncompleteScores as error:
        report, failure = error.report, error
    if as_json:
        print_json(report.to_dict())
    else:
        out.print(f"{escape(report.output)}: {escape(report.summary())}")
    if failure is not None:
        raise failure


ScoresPath = Annotated[Path, typer.Argument(metavar="OUT", help="A folder of scores.")]


@upkeep.command()
def repair(
    output: ScoresPath,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Check every file of a folder of scores and mend it, from its Parquet files.

    Damaged files are set aside in _quarantine/_damaged (or removed, if they may hold texts and the
    folder keeps none), the ledger is made again, rows that are
    there twice go. Rows that are lost come back when their input is scored again.
    """
    from pipeline.scoring import repair_scores

    report = repair_scores(output, dry_run=dry_run, say=terminal(quiet))
    if as_json:
        print_json(report.to_dict())
    else:
        print(report)


@upkeep.command()
def delete(
    output: ScoresPath,
    dumps: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DUMP...", help="Dumps that say who wrote what, for --authors."),
    ] = None,
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="Of a tweet or row; may be repeated.")
    ] = None,
    ids_file: Annotated[
        Path | None, typer.Option("--ids", help="A file with one id a line.")
    ] = None,
    authors_file: Annotated[
        Path | None,
        typer.Option("--authors", help="A file with one author's id a line: all in the dumps."),
    ] = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="Let these ids be scored again instead.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Remove tweets from a folder of scores: rows, text hashes, ledger, quarantined lines.

    Their ids are kept as keyed digests, and later runs leave them out: the same dump brings nothing
    back. A quarantined line is known by its first 200 characters: if the id stands later, the line
    stays (score with --no-keep-text to take all texts out of quarantine). Interrupted, the next
    command that opens the folder ends the work. Of dumps with unreadable lines, or tweets that name
    no author, what is found goes, and exit code 1 says that some may be left; so it says that an
    id of --id, or every id of --ids, is not there: it is kept out from now on all the same.
    """
    from pipeline.errors import ScoreError
    from pipeline.scoring import IncompleteDeletion, delete_scores, read_names

    failure: ScoreError | None = None
    listed = read_names(ids_file) if ids_file else []
    try:
        report = delete_scores(
            output,
            [*(ids or ()), *listed],
            authors=read_names(authors_file) if authors_file else (),
            dumps=dumps or (),
            forget=forget,
            dry_run=dry_run,
            say=terminal(quiet),
        )
    except IncompleteDeletion as error:
        report, failure = error.report, error
    else:
        failure = report.not_found(ids or (), listed)
    if as_json:
        print_json(report.to_dict())
    else:
        print(report)
    if failure is not None:
        raise failure
