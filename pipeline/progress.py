"""Progress for people: a bar on a terminal, a line now and then elsewhere.

``Say`` is any function of a line. :class:`Terminal` is one that also draws; ``advance`` uses that
where it can, so that the stages need not know who listens.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from html import escape
from importlib import import_module
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Say = Callable[[str], None]
LINE_EVERY_S = 10.0
"""Least time between two lines about the same work, where no bar can be drawn."""


def silent(_: str) -> None:
    """Report nothing."""


def counted(number: int, noun: str) -> str:
    """``1 group``, ``1,200 groups``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


Watcher = Callable[[dict[str, Any]], None]
_watchers: list[Watcher] = []


def watch(watcher: Watcher) -> None:
    """Tell ``watcher`` of all work under way in this process: what, done, total, unit, rate."""
    _watchers.append(watcher)


class Terminal:
    """Prints lines with the elapsed time, and draws a bar if ``stream`` is a terminal.

    Args:
        stream: where to; default standard error.
        quiet: print nothing at all.
    """

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._begin = time.monotonic()
        self._bar: Progress | None = None
        self._task: Any = None
        self._work: tuple[str, int] | None = None
        self._work_begin = 0.0
        self._done_before = 0
        self._spoke = 0.0

    def __call__(self, line: str) -> None:
        """Print a line."""
        if self._quiet:
            return
        text = f"[{time.monotonic() - self._begin:7.1f} s] {line}"
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    def advance(self, what: str, done: int, total: int, unit: str, note: str = "") -> None:
        """Show that ``done`` of ``total`` units are done."""
        now = time.monotonic()
        if self._work != (what, total):
            self._stop()
            self._work = (what, total)
            # Counted from the first report: what went before was no steady rate.
            self._work_begin, self._done_before, self._spoke = now, done, now
        rate = (done - self._done_before) / max(now - self._work_begin, 1e-9)
        facts = {"what": what, "done": done, "total": total, "unit": unit, "rate": rate}
        for watcher in _watchers:
            watcher({**facts, "note": note})
        if self._quiet:
            return
        if self._stream.isatty():
            self._draw(what, done, total, f"{speed(rate, unit)} {note}")
        elif done >= total or now - self._spoke >= LINE_EVERY_S:
            self._spoke = now
            left = f", {_clock((total - done) / rate)} left" if rate and done < total else ""
            pace = f", {speed(rate, unit)}" if rate else ""
            extra = f", {note}" if note else ""
            self(f"{what} {done:,} of {total:,} {unit} ({done / total:.0%}){pace}{left}{extra}")
        if done >= total:
            self._stop()

    def _draw(self, what: str, done: int, total: int, note: str) -> None:
        if self._bar is None:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(file=self._stream),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(what, total=total, note=note)
        self._bar.update(self._task, completed=done, note=note)

    def _stop(self) -> None:
        self._work = None
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Notebook(Terminal):
    """Draws its bar below a notebook's cell, and takes it away when the work is done."""

    def __init__(self) -> None:
        super().__init__()
        self._handle: Any = None

    def __call__(self, line: str) -> None:
        """Print a line."""
        print(line, flush=True)

    def advance(self, what: str, done: int, total: int, unit: str, note: str = "") -> None:
        """Show that ``done`` of ``total`` units are done."""
        display = import_module("IPython.display")
        share = done / max(total, 1)
        text = f"{what} {done:,} of {total:,} {unit} ({share:.0%}) {note}".rstrip()
        html = f'<progress value="{done}" max="{max(total, 1)}"></progress> {escape(text)}'
        if done >= total:
            text = html = ""
        shown = {"text/plain": text, "text/html": html}
        if self._handle is None and text:
            self._handle = display.display(shown, raw=True, display_id=True)
        elif self._handle is not None:
            self._handle.update(shown, raw=True)
        if done >= total:
            self._handle = None


def teller(progress: bool | None = None) -> Say:
    """Who is told of work that is asked for from Python.

    Args:
        progress: True for a bar in a notebook or on a terminal, and lines elsewhere; False for
            nothing; None for a bar where one can be drawn, else nothing.
    """
    if progress is False:
        return silent
    if _in_notebook():
        return Notebook()
    return Terminal() if progress or sys.stderr.isatty() else silent


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this process."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def advance(say: Say, what: str, done: int, total: int, unit: str, *, note: str = "") -> None:
    """Report work under way to whoever listens: as a bar if they can draw one, else as a line."""
    listener = getattr(say, "advance", None)
    if listener is not None:
        listener(what, done, total, unit, note)
    else:
        say(f"{what} {done} of {total} {unit}")


def speed(rate: float, unit: str) -> str:
    """Units a second in words; seconds a unit where that is the more telling."""
    if rate >= 1:
        return f"{rate:,.0f} {unit}/s"
    return f"{1 / rate:,.1f} s each" if rate else ""


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
