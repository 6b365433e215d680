"""The command ``salient``: parse, load the configuration, call one function, print.

Results go to standard output, progress to standard error. Exit codes are those of
`pipeline.errors.EXIT_CODES`; signals are heeded by `pipeline.commands.stopping`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated

import typer

from pipeline.commands import (
    checking,
    helping,
    jobs,
    looking,
    models,
    planning,
    scoring,
    shares,
    sharing,
    store,
    training,
)
from pipeline.commands.options import STORE
from pipeline.commands.printing import at_end
from pipeline.commands.stopping import INTERRUPTED, end_stopped, was_stopped
from pipeline.errors import EXIT_CODES, EXTRAS, exit_code, missing
from store.errors import DISTRIBUTION, SalientError

app = typer.Typer(
    name="salient",
    help=(
        "Large-scale text analysis from the feed-forward activations inside language models.\n\n"
        "First steps: salient demo, or salient init run.toml and then salient run run.toml. What"
        " was interrupted goes on where it was when the same command is given again."
    ),
    epilog=(
        "Results go to standard output (--json for machines), progress to standard error. Exit"
        f" codes: {', '.join(f'{code} {meaning}' for code, meaning in EXIT_CODES.items())}."
    ),
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def salient(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """All commands; without one, the page of help."""
    if version:
        print(f"salient {_version()}")
    elif context.invoked_subcommand is None:
        print(context.get_help())
    else:
        return
    raise typer.Exit


def _version() -> str:
    """As ``store.layout.own_version`` says it, without what that module imports."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "(not installed)"


app.add_typer(store.app, name="store", rich_help_panel=STORE)
for part in (
    training, checking, models, planning, scoring, shares, jobs, looking, helping, sharing,
):  # fmt: skip
    app.add_typer(part.app)


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: the words after ``salient``; default those of this process.
    """
    try:
        with at_end:
            return _run(arguments)
    except KeyboardInterrupt:
        return end_stopped()
    except Exception:
        if was_stopped():  # what unwound has stumbled over what was half done
            return end_stopped()
        raise


def _run(arguments: Sequence[str] | None) -> int:
    try:
        app(args=None if arguments is None else list(arguments), prog_name="salient")
    except SystemExit as end:
        if end.code == INTERRUPTED:
            raise KeyboardInterrupt from None
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:
        if was_stopped():
            raise
        return _failed(error)
    return 0


def _failed(error: Exception) -> int:
    """The exit code of a mistake or failure that is said in one line; others are raised."""
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        error = missing(error.name)
    code = exit_code(error)
    if code is None:
        raise error
    if not isinstance(error, BrokenPipeError):
        said = str(error)
        if isinstance(error, OSError) and not isinstance(error, SalientError):
            what = error.strerror or type(error).__name__
            said = what if error.filename is None else f"{error.filename}: {what}"
        print(f"salient: {said}", file=sys.stderr)
    return code
