"""Waiting for other processes, and starting them with the signals that they are to have."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

POLL_S = 0.1
STOPPING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 240) -> None:
    """Look now and then whether a condition holds; fail when it never does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(POLL_S)


def default_signals() -> None:
    """As ``preexec_fn`` of a process that is to be stopped by signals.

    The tests themselves may have been started with some ignored (by ``nohup``, or in a script's
    background) or blocked, and a process inherits that.
    """
    for number in STOPPING:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def ignored_signals() -> None:
    """As ``preexec_fn``: what ``nohup``, a script's background and a blocking parent hand down."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
