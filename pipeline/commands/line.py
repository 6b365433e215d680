"""The command ``salient``: parse, load the configuration, call one function, print.

Results go to standard output, progress to standard error. Exit codes: 0 done, 1 failed, 2 wrong
usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer

from pipeline.commands import checking, jobs, looking, scoring, store, training
from pipeline.commands.options import STORE
from pipeline.errors import ConfigError
from store.errors import SalientError

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
app.add_typer(store.app, name="store", rich_help_panel=STORE)
for part in (training, checking, scoring, jobs, looking):
    app.add_typer(part.app)
INTERRUPTED = 130


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
