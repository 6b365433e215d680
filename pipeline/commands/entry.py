"""Where the process of a command starts: signals are heeded before anything else is imported."""

from __future__ import annotations

from typing import NoReturn

from pipeline.commands.stopping import end_stopped, exit_with, heed_signals, ignore_signals


def main() -> NoReturn:
    """Entry point of the command ``salient``."""
    try:
        heed_signals()
        from pipeline.commands.line import run_command

        code = run_command()
        ignore_signals()
    except KeyboardInterrupt:
        ignore_signals()
        code = end_stopped()
    exit_with(code)
