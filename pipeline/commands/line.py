"""The command ``salient``: parse, load the configuration, call one function, print.

Results go to standard output, progress to standard error. Exit codes: 0 done, 1 failed, 2 wrong
usage or configuration, 130 after SIGINT, 143 after SIGTERM (`pipeline.commands.stopping`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from pipeline.commands import checking, jobs, looking, scoring, sharing, store, training
from pipeline.commands.options import STORE
from pipeline.commands.stopping import INTERRUPTED, end_stopped, was_stopped
from pipeline.errors import EXTRAS, ConfigError, missing
from store.errors import MissingExtra, SalientError

app = typer.Typer(
    name="salient",
    help=(
        "Large-scale text analysis from the feed-forward activations inside language models.\n\n"
        "First steps: salient demo, or salient init run.toml and then salient run run.toml. What"
        " was interrupted goes on where it was when the same command is given again."
    ),
    epilog=(
        "Results go to standard output (--json for machines), progress to standard error. Exit"
        " codes: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted (SIGINT), 143"
        " told to stop (SIGTERM)."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(store.app, name="store", rich_help_panel=STORE)
for part in (training, checking, scoring, jobs, looking, sharing):
    app.add_typer(part.app)


def run_command(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code.

    Args:
        arguments: the words after ``salient``; default those of this process.
    """
    try:
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
    if isinstance(error, BrokenPipeError):
        return 1
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        error = missing(error.name)
    if isinstance(error, SalientError):
        print(f"salient: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError | MissingExtra) else 1
    if isinstance(error, OSError) and error.filename is not None:
        print(f"salient: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    raise error
