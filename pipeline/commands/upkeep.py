"""What may follow ``salient score`` in place of an input: `salient score repair` and `delete`.

A file of such a name is ``./repair``.
"""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.commands.arguments import placed
from pipeline.commands.options import AsJson, Quiet
from pipeline.commands.printing import print_json, terminal
from pipeline.errors import ScoreError

app = typer.Typer()


ScoresPath = Annotated[
    str, typer.Argument(metavar="OUT", help="A folder of scores, or its address as s3://…")
]


@app.command()
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

    report = repair_scores(placed(output), dry_run=dry_run, say=terminal(quiet))
    if as_json:
        print_json(report.to_dict())
    else:
        print(report)


@app.command()
def delete(
    output: ScoresPath,
    dumps: Annotated[
        list[str] | None,
        typer.Argument(metavar="DUMP...", help="Dumps that say who wrote what, for --authors."),
    ] = None,
    ids: Annotated[
        list[str] | None, typer.Option("--id", help="Of a tweet or row; may be repeated.")
    ] = None,
    ids_file: Annotated[
        str | None, typer.Option("--ids", help="A file with one id a line.")
    ] = None,
    authors_file: Annotated[
        str | None,
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
    from pipeline.scoring import IncompleteDeletion, delete_scores, read_names

    failure: ScoreError | None = None
    listed = read_names(placed(ids_file)) if ids_file else []
    try:
        report = delete_scores(
            placed(output),
            [*(ids or ()), *listed],
            authors=read_names(placed(authors_file)) if authors_file else (),
            dumps=[placed(one) for one in dumps or ()],
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
