"""How a command ends when it is told to.

SIGINT (Ctrl-C) and SIGTERM (service managers, batch systems, `timeout`) end it alike: what is under
way unwinds, workers end with it, what is finished is kept, and the exit code is 130 or 143. Neither
depends on what the parent had ignored or blocked.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
"""Exit code after SIGINT."""
PATIENCE_S = 3.0
"""Signals that come again so soon are the same order: `timeout` and terminals give it twice."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_told: tuple[int, float] | None = None


def heed_signals() -> None:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt, once, whatever this process has inherited."""
    global _told
    _told = None
    for number in _SIGNALS:
        signal.signal(number, _stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _stop(number: int, _frame: FrameType | None) -> None:
    global _told
    now = time.monotonic()
    if _told is None:
        _told = number, now
        raise KeyboardInterrupt
    if now - _told[1] > PATIENCE_S:  # cleaning up takes too long, or the first was lost
        os._exit(end_stopped())


class GentleStop:
    """Signals for a command whose normal end is to be told to stop, and which says so by 0.

        stop = GentleStop()
        with stop.heeded():
            with stop.gently():
                ...                 # the first signal raises nothing here, and stop.is_told then

    Elsewhere, and for a signal that comes again after a moment, it is as in any command.
    """

    def __init__(self) -> None:
        self.is_told = False
        self.at_once = False
        self._is_gentle = False
        self._told_at = 0.0

    @contextlib.contextmanager
    def heeded(self) -> Iterator[None]:
        """Within, signals come here."""
        before = {number: signal.signal(number, self._told) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def gently(self) -> Iterator[None]:
        """Within, what is in hand is finished first."""
        self._is_gentle = True
        try:
            yield
        finally:
            self._is_gentle = False

    def _told(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.is_told:
            if now - self._told_at > PATIENCE_S:
                self.at_once = True
                _stop(number, frame)
            return
        self.is_told, self._told_at = True, now
        if not self._is_gentle:
            _stop(number, frame)


def ignore_signals() -> None:
    """From here on the exit code is certain: a signal that comes too late must not change it."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def was_stopped() -> bool:
    """Whether a signal has told this command to end."""
    return _told is not None


def stopped_code() -> int:
    """Exit code of a command that was told to end."""
    return INTERRUPTED if _told is None else 128 + _told[0]


def end_stopped() -> int:
    """Say that a command was told to end; returns its exit code."""
    code = stopped_code()
    what = "interrupted" if code == INTERRUPTED else "told to stop"
    with contextlib.suppress(OSError, ValueError):  # nobody may be listening any more
        print(f"salient: {what}; run the same command again to go on", file=sys.stderr, flush=True)
    return code


def exit_with(code: int) -> NoReturn:
    """End the process with a code, whatever had interrupted it.

    Python ends what was started with ``-m`` by SIGINT, whatever its code, once a KeyboardInterrupt
    has come out of an ``exec`` of text, as imports do it, even if it was caught further up. The
    next ``exec`` forgets that.
    """
    exec("")
    sys.exit(code)
