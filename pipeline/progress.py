"""Progress for people: lines, a bar on a terminal, a line now and then elsewhere.

``Say`` is any function of a line: what happens once is said. How far work is goes by event
(:mod:`pipeline.events`), and :class:`Terminal` is a ``Say`` that also listens and draws a bar::

    with showing(True) as say:
        stages.run(config, say=say)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from importlib import import_module
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.events import Event, Listener, Progressed, RowsScored, watch

Say = Callable[[str], None]
LINE_EVERY_S = 10.0
"""Least time between two lines about the same work, where no bar can be drawn."""
SCORED_EVERY_S = 5.0
"""Least time between two lines about rows scored."""


def silent(_: str) -> None:
    """Report nothing."""


def counted(number: int, noun: str) -> str:
    """``1 group``, ``1,200 groups``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


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
        self._spoke = self._begin

    def __call__(self, line: str) -> None:
        """Print a line."""
        if self._quiet:
            return
        text = f"[{time.monotonic() - self._begin:7.1f} s] {line}"
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    def hear(self, event: Event) -> None:
        """Show how far work is."""
        if self._quiet:
            return
        if isinstance(event, Progressed):
            self._advance(event)
        elif isinstance(event, RowsScored) and time.monotonic() - self._spoke >= SCORED_EVERY_S:
            self._spoke = time.monotonic()
            what = "to score" if event.dry_run else "scored"
            self(
                f"{event.read:,} rows read, {event.scored:,} {what}"
                f" ({speed(event.rate, 'rows')}), {event.files_done:,} of"
                f" {counted(event.num_files, 'file')} done"
            )

    def close(self) -> None:
        """Take the bar of work that ended early away."""
        self._work = None
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _advance(self, event: Progressed) -> None:
        now = time.monotonic()
        if self._work != (event.what, event.total):
            self.close()
            self._work, self._spoke = (event.what, event.total), now
        if self._stream.isatty():
            self._draw(event)
        elif event.done >= event.total or now - self._spoke >= LINE_EVERY_S:
            self._spoke = now
            rest, pace = event.total - event.done, speed(event.rate, event.unit)
            parts = [
                f"{event.what} {event.done:,} of {event.total:,} {event.unit}"
                f" ({event.done / max(event.total, 1):.0%})",
                pace,
                f"{_clock(rest / event.rate)} left" if event.rate and rest > 0 else "",
                event.note,
            ]
            self(", ".join(part for part in parts if part))
        if event.done >= event.total:
            self.close()

    def _draw(self, event: Progressed) -> None:
        note = f"{speed(event.rate, event.unit)} {event.note}"
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
            self._task = self._bar.add_task(event.what, total=event.total, note=note)
        self._bar.update(self._task, completed=event.done, note=note)


class Notebook(Terminal):
    """Draws its bar below a notebook's cell, and takes it away when the work is done."""

    def __init__(self) -> None:
        super().__init__()
        self._handle: Any = None

    def __call__(self, line: str) -> None:
        """Print a line."""
        print(line, flush=True)

    def hear(self, event: Event) -> None:
        """Show how far work is."""
        if not isinstance(event, Progressed):
            return
        share = event.done / max(event.total, 1)
        text = (
            f"{event.what} {event.done:,} of {event.total:,} {event.unit} ({share:.0%})"
            f" {event.note}".rstrip()
        )
        bar = f'<progress value="{event.done}" max="{max(event.total, 1)}"></progress>'
        ended = event.done >= event.total
        self._show("" if ended else text, "" if ended else f"{bar} {escape(text)}")
        if ended:
            self._handle = None

    def close(self) -> None:
        """Take the bar of work that ended early away."""
        self._show("", "")
        self._handle = None

    def _show(self, text: str, html: str) -> None:
        shown = {"text/plain": text, "text/html": html}
        if self._handle is not None:
            self._handle.update(shown, raw=True)
        elif text:
            display = import_module("IPython.display")
            self._handle = display.display(shown, raw=True, display_id=True)


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


@contextmanager
def showing(
    progress: bool | None = None, through: Callable[[Listener], Listener] = lambda hear: hear
) -> Iterator[Say]:
    """The teller of work that is asked for from Python, which also sees how far that work is.

    Args:
        progress: as for :func:`teller`.
        through: makes a listener that hears in its place and passes on what it will.
    """
    say = teller(progress)
    if not isinstance(say, Terminal):
        yield say
        return
    with watch(through(say.hear), here=True):
        try:
            yield say
        finally:
            say.close()


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this process."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def speed(rate: float, unit: str) -> str:
    """Units a second in words; seconds a unit where that is the more telling."""
    if rate >= 1:
        return f"{rate:,.0f} {unit}/s"
    return f"{1 / rate:,.1f} s each" if rate else ""


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
