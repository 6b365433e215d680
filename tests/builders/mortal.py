"""Processes that are stopped at a step of their own choosing.

A *step* is whatever moves a folder from one state to another: an fsync or rename of the store's
(`store.disk.durable.watch_steps`), a file or folder that is removed, made or renamed there, and the
begin, work and end of a transaction of SQLite.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from pipeline.commands.stopping import heed_signals, stopped_code
from store.disk import durable

CHANGES = {"os.mkdir", "os.remove", "os.rename", "os.rmdir"}


def watch_folder(folder: Path, on_step: Callable[[], None]) -> None:
    """Call a function at each step of this process in a folder, from now on until its end."""
    durable.watch_steps(lambda _: on_step())
    prefix = str(folder)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES:
            path = os.fsdecode(arguments[0])
            # Whoever removes a whole folder names what is in it relative to that.
            if path.startswith(prefix) or not os.path.isabs(path):
                on_step()

    sys.addaudithook(audit)

    class Watched(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            if sql.startswith("SELECT"):
                return super().execute(sql, *arguments)
            on_step()
            cursor = super().execute(sql, *arguments)
            on_step()
            return cursor

        def executemany(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            cursor = super().executemany(sql, *arguments)
            on_step()
            return cursor

        def executescript(self, sql: str) -> sqlite3.Cursor:
            on_step()
            cursor = super().executescript(sql)
            on_step()
            return cursor

    sqlite3.connect = partial(sqlite3.connect, factory=Watched)  # type: ignore[assignment]


def stop_at(
    step: int | None,
    number: int,
    folder: Path,
    counted: Path | None,
    call: Callable[..., Any],
    *args: Any,
) -> None:
    """Call a function; a signal comes at the given step. Ends with the code of a command.

    What it prints goes to a file named as the folder, with `.log`.

    Args:
        step: which step, from 0; None: no signal comes.
        number: the signal.
        folder: whose steps count.
        counted: a file for the number of steps, written at the end.
        call, args: the function; an integer that it returns is the exit code.
    """
    log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    heed_signals()
    steps = count()

    def on_step() -> None:
        if next(steps) == step:
            os.kill(os.getpid(), number)

    watch_folder(folder, on_step)
    try:
        code = call(*args)
    except KeyboardInterrupt:
        code = stopped_code()
    if counted is not None:
        counted.write_text(str(next(steps)))
    sys.exit(code if isinstance(code, int) else 0)


def command_with_signal(step: int, number: int, folder: Path) -> None:
    """The command ``salient`` of this process, which sends itself a signal at a step: twice, as
    `timeout` does.

    For an interpreter of its own, so that its start and its end are the real ones.
    """
    from pipeline.commands.entry import main

    passed = count()

    def on_step() -> None:
        if next(passed) == step:
            try:
                os.kill(os.getpid(), number)
            finally:
                os.kill(os.getpid(), number)

    watch_folder(folder, on_step)
    main()
