"""One writer at a time in a folder: a lock that says what it waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from store.disk import locked

LOCK = ".lock"
"""Name of the file that is locked; it is empty and stays."""


@contextmanager
def one_at_a_time(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold ``folder/.lock``; if another process holds it, say so and wait.

    Raises:
        OSError, StoreError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    waiting = f"{folder}: another process is at work there; waiting for it to end"
    with locked(folder / LOCK, on_wait=lambda _: say(waiting), signed=False):
        yield
