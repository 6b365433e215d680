"""What happens while something runs, as typed events; whoever wants to know listens.

    with watch(print):                         # or: unwatch = watch(listener) … unwatch()
        stages.run(config)

The bar on a terminal, the state of a submitted job, the JSON of ``salient score`` and its file of
metrics are such listeners. Each class below is an event, and its fields say all that there is to
know. A listener is called at once, in the thread where it happened, after those that have listened
for longer; several threads may call it at the same time. What it raises stops no work: it is logged
once, and the listener goes on listening.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import Any

NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened."""


@dataclass(frozen=True, kw_only=True)
class StageStarted(Event):
    """A stage began."""

    stage: str
    """``run``, ``extract``, ``probe``, ``rank``, ``consolidate``, ``learn``, ``ablate``; the others
    lie within ``run``."""
    folder: str
    """Of the run."""


@dataclass(frozen=True, kw_only=True)
class StageFinished(Event):
    """A stage ended, one way or the other; each that began ends."""

    stage: str
    """As it began."""
    folder: str
    """As it began."""
    elapsed_s: float
    """Seconds since it began."""
    problem: str | None = None
    """Why it failed or was stopped, in a line; None: it is done."""


@dataclass(frozen=True, kw_only=True)
class Progressed(Event):
    """Some of the work under way is done; :class:`Tally` tells it."""

    what: str
    """What is done with the units, as "extracted"."""
    done: int
    """Units done, those of an earlier run that was cut short not counted."""
    total: int
    """Units to do, the done ones included."""
    unit: str
    """What is counted, as "texts"."""
    rate: float
    """Units a second since the first that was told of this work; 0.0 at that."""
    note: str = ""
    """What else there is to say, as "3 workers"."""


@dataclass(frozen=True, kw_only=True)
class BlockWritten(Event):
    """A block of texts is on disk: computed, and seen by others once its stage has ended."""

    store: str
    """The store's folder."""
    start: int
    """Position of the block's first text in the store."""
    stop: int
    """Position behind its last text."""
    elapsed_s: float
    """Seconds from the begin of its computing to the end of its writing; blocks overlap."""
    estimated_bytes: int
    """Memory that the process was expected to take: what it had before its first block, with the
    model in it, and the activations of the blocks that are in work at a time."""
    peak_bytes: int
    """Most memory that the process had so far in its life (resident, as the system counts it): as
    estimated, and on a CPU some hundred MB for a batch's numbers and what the allocator keeps."""
    gpu_bytes: int = 0
    """Most GPU memory that tensors took so far; 0 without a GPU."""
    worker: str = ""
    """Host and process of the worker that wrote it; "": this process."""


@dataclass(frozen=True, kw_only=True)
class FileRead(Event):
    """Scoring is through with reading a file; the last of its rows may not be scored yet."""

    path: str
    """Of the file."""
    state: str
    """``read``, ``unchanged`` (an earlier run has read it) or ``failed``."""
    kind: str | None
    """Format as which it was read; None where that could not be told."""
    num_rows: int
    """Rows in it; of a file that failed those before the failure."""
    problem: str | None = None
    """Why it failed."""


@dataclass(frozen=True, kw_only=True)
class RowsScored(Event):
    """The rows of a block were scored and handed to the folder of scores."""

    path: str
    """Of their file."""
    num_rows: int
    """Rows of this block that were scored; in a dry run, that would be."""
    read: int
    """Rows that this run has read so far, in all files."""
    scored: int
    """Of them, rows scored."""
    rate: float
    """Rows scored a second since the first file was begun."""
    files_done: int
    """Files read to their end, unchanged, or failed."""
    num_files: int
    """Files to read."""
    dry_run: bool = False
    """Nothing is scored, rows are only counted."""


@dataclass(frozen=True, kw_only=True)
class TaskDrift:
    """How far texts of a scoring run are from those that a task's head was validated on."""

    excess: float
    """Largest of all dates' indices (PSI) over what chance makes of so few texts; 0.0: none. Dates
    with too few texts to tell are left out, unless there are no others."""
    drifted: bool
    """Whether some date drifted, as the run warns of it."""


@dataclass(frozen=True, kw_only=True)
class ScoreFinished(Event):
    """A scoring run, or a round of one that follows a folder, came to its end."""

    output: str
    """The folder of scores."""
    status: str
    """``done``, ``failed`` (what could be scored is scored), ``stopped`` (told to, before all files
    were read) or ``dry run``."""
    problem: str | None
    """Why it failed."""
    elapsed_s: float
    """Seconds from its begin, the loading of the model included."""
    read: int
    """Rows read."""
    rows: Mapping[str, int]
    """Outcome -> rows, which add up to ``read``: ``scored``, ``already_scored`` (by an earlier
    run), ``repeated`` (an id of this run), ``filtered``, ``quarantined``."""
    filtered: Mapping[str, int] = field(default_factory=lambda: NONE)
    """Reason -> rows that filters left out."""
    quarantined: Mapping[str, int] = field(default_factory=lambda: NONE)
    """Reason -> rows that could not be used."""
    empty: int = 0
    """Rows scored that have no text: their predictions are null."""
    truncated: int = 0
    """Rows scored whose text was cut to the model's context."""
    files: Mapping[str, int] = field(default_factory=lambda: NONE)
    """State -> files: ``read``, ``unchanged``, ``stopped`` (not read to the end), ``failed``."""
    files_written: int = 0
    """Files of scores written."""
    drift: Mapping[str, TaskDrift] = field(default_factory=lambda: NONE)
    """Task -> its drift; without tasks of which no text was computed."""
    summary: Mapping[str, Any] = field(default_factory=lambda: NONE)
    """The operator's summary, JSON-ready: what ``salient score --json`` prints."""


Listener = Callable[[Event], object]


class Watch:
    """A listener's stay: call it, or leave it as a context, and the listener hears no more."""

    def __init__(self, listener: Listener, thread: int | None) -> None:
        self.listener = listener
        self.thread = thread
        self.failed = False

    def __call__(self) -> None:
        """Stop listening; a second time does nothing."""
        global _watches
        with _changing:
            _watches = tuple(one for one in _watches if one is not self)

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self()


_watches: tuple[Watch, ...] = ()
_changing = threading.Lock()


def watch(listener: Listener, *, here: bool = False) -> Watch:
    """Have a listener told of all that happens in this process from now on.

    Args:
        listener: called with each event.
        here: only of what happens in the thread that asks, so that what is shown of one's own work
            is not mixed with others'.

    Returns:
        What stops it: call it, or use it in a ``with``.
    """
    global _watches
    found = Watch(listener, threading.get_ident() if here else None)
    with _changing:
        _watches = (*_watches, found)
    return found


def emit(event: Event) -> None:
    """Tell the listeners of an event."""
    for one in _watches:
        if one.thread is None or one.thread == threading.get_ident():
            try:
                one.listener(event)
            except Exception:
                level = logging.DEBUG if one.failed else logging.WARNING
                one.failed = True
                log = logging.getLogger(__name__)
                what = type(event).__name__
                log.log(level, "a listener failed at %s; the work goes on", what, exc_info=True)


class Tally:
    """Tells of work whose units are counted.

        tally = Tally("extracted", 1000, "texts")
        tally(100)                             # after the first 100

    Args:
        what, total, unit: as in :class:`Progressed`.
    """

    def __init__(self, what: str, total: int, unit: str) -> None:
        self.what, self.total, self.unit = what, total, unit
        self._first: tuple[int, float] | None = None

    def __call__(self, done: int, *, note: str = "") -> None:
        """So many units are done now."""
        now = time.monotonic()
        # Counted from the first report: what went before was no steady rate.
        before, begin = self._first = self._first or (done, now)
        rate = (done - before) / max(now - begin, 1e-9)
        emit(
            Progressed(
                what=self.what, done=done, total=self.total, unit=self.unit, rate=rate, note=note
            )
        )


@contextmanager
def stage(name: str, folder: object) -> Iterator[None]:
    """Tell of a stage's begin and end.

    Args:
        name: see :class:`StageStarted`.
        folder: of the run.
    """
    begin = time.monotonic()
    emit(StageStarted(stage=name, folder=str(folder)))
    problem: str | None = "stopped"
    try:
        yield
        problem = None
    except Exception as error:
        problem = str(error) or type(error).__name__
        raise
    finally:
        elapsed_s = time.monotonic() - begin
        emit(StageFinished(stage=name, folder=str(folder), elapsed_s=elapsed_s, problem=problem))
