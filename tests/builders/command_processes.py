"""Commands in processes of their own, killed where they are told to be."""

from __future__ import annotations

import inspect
import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from typing import Any

import torch

from pipeline.commands.line import run_command
from pipeline.commands.stopping import heed_signals
from pipeline.extraction.adding import add_layers
from pipeline.scoring import batch, files, folder, seen
from pipeline.scoring.cache import TextCache
from pipeline.scoring.folder import ScoreFolder
from pipeline.scoring.ledger import Ledger
from store.disk import durable

BEFORE, AFTER = True, False
POINTS: dict[str, tuple[Any, str, bool]] = {
    "before the folder is claimed": (folder, "write_json", BEFORE),
    "after the folder is claimed": (folder, "write_json", AFTER),
    "before a file is read": (batch, "read_input_blocks", BEFORE),
    "after ids are looked up": (ScoreFolder, "sort_out", AFTER),
    "after lines are quarantined": (ScoreFolder, "quarantine", AFTER),
    "after texts are planned": (TextCache, "plan", AFTER),
    "after texts are computed": (TextCache, "resolve", BEFORE),
    "before rows are added": (ScoreFolder, "add", BEFORE),
    "after rows are added": (ScoreFolder, "add", AFTER),
    "after a file has ended": (ScoreFolder, "finish", AFTER),
    "before a file is written": (folder, "write_table", BEFORE),
    "after a file is written": (folder, "write_table", AFTER),
    "within the ledger's transaction": (Ledger, "_insert", AFTER),
    "after files are recorded": (Ledger, "record", AFTER),
    "before files are noted": (seen, "write_table", BEFORE),
    "after files are noted": (seen, "write_table", AFTER),
    "before the run's summary": (files, "write_json", BEFORE),
    "after the run's summary": (files, "write_json", AFTER),
}
"""Point -> owner and name of a function, and whether the kill comes before it or after it."""
RENAME = "before a written file is renamed"
POINT_NAMES = (*POINTS, RENAME)


def score_and_die(words: list[str], point: str, number: int) -> None:
    """Run ``salient``; die by SIGKILL when a point is passed for the ``number``-th time."""
    torch.set_num_threads(1)
    passed = 0

    def passing() -> None:
        nonlocal passed
        passed += 1
        if passed == number:
            os.kill(os.getpid(), signal.SIGKILL)

    if point == RENAME:

        def watch(event: str, args: tuple[Any, ...]) -> None:
            if event == "os.rename" and str(args[1]).endswith(".parquet"):
                passing()

        sys.addaudithook(watch)
    else:
        owner, name, before = POINTS[point]
        function = watched(getattr(owner, name), passing, before)
        is_static = isinstance(inspect.getattr_static(owner, name), staticmethod)
        setattr(owner, name, staticmethod(function) if is_static else function)
    sys.exit(run_command(words))


def watched(plain: Callable[..., Any], passing: Callable[[], None], before: bool) -> Any:
    """A function that also says when it is passed."""

    def function(*args: Any, **options: Any) -> Any:
        if before:
            passing()
        found = plain(*args, **options)
        if not before:
            passing()
        return found

    return function


def add_and_die(step: int, store: str) -> None:
    """Add all hidden states to a store; die by SIGKILL before the ``step``-th rename."""
    torch.set_num_threads(1)
    steps = count()

    def watch(name: str) -> None:
        if name == "before rename" and next(steps) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    durable.watch_steps(watch)
    add_layers(store, hidden="all")


def heeding(words: list[str], output: str) -> None:
    """Run ``salient`` as its entry point does; what it prints goes to a file."""
    place = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(place, 1)
    os.dup2(place, 2)
    torch.set_num_threads(1)
    heed_signals()
    sys.exit(run_command(words))
