"""What happens at a request to a bucket: another writer goes first, or this one dies.

    with at_request(7, die):                     # in place of the eighth request of this process
        store.commit()
    as_another(lambda: ActivationStore.open(url).delete(["id1"]))

Two writers in one process are as two processes: turns are each one's own, and whoever is not at
work renews nothing, as if it were stopped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest

from store.commits import turns
from store.disk import ObjectLocation

T = TypeVar("T")


class Killed(BaseException):
    """A process is gone."""


class Inline(Executor):
    """What a pool of threads does, at once and in order, so that requests have numbers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(function(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


class Requests:
    """How many there were."""

    def __init__(self) -> None:
        self.count = 0


@contextmanager
def at_request(number: int, happens: Callable[[], object]) -> Iterator[Requests]:
    """Let something happen before one request, reading or writing, of what runs in the context.

    Args:
        number: of the request, from 0.
        happens: called once; its own requests do not count.
    """
    seen = Requests()
    original: Any = ObjectLocation._tried
    lock = threading.Lock()
    busy = threading.Event()

    def tried(self: ObjectLocation, *args: Any) -> Any:
        mine = threading.current_thread().name != "store-lease" and not busy.is_set()
        now = False
        with lock:
            if mine and not busy.is_set():
                now = seen.count == number
                seen.count += 1
                if now:
                    busy.set()
        if now:
            try:
                happens()
            finally:
                busy.clear()
        return original(self, *args)

    ObjectLocation._tried = tried  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        ObjectLocation._tried = original  # type: ignore[method-assign]


def let_leases_lapse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is stopped or dead is not waited for: no thread renews, and requests have an order."""
    monkeypatch.setenv(turns.LEASE, "0.01")
    monkeypatch.setattr(turns, "RENEWALS", 1e-9)
    monkeypatch.setattr(turns, "FIRST_POLL_S", 0.011)
    monkeypatch.setattr("store.disk.flight.IN_FLIGHT", 1)
    monkeypatch.setattr("store.commits.writing.ThreadPoolExecutor", Inline)
    monkeypatch.setattr(turns, "_is_free", lambda said: said.get("holder") == "")


def die() -> None:
    """The process is killed; its lease is left as it is."""
    raise Killed


@contextmanager
def elsewhere() -> Iterator[None]:
    """As in another process: turns of this one do not count there."""
    mine = dict(turns._turns)
    turns._turns.clear()
    try:
        yield
    finally:
        forget()
        turns._turns.update(mine)


def as_another(function: Callable[[], T]) -> T:
    """What another process does."""
    with elsewhere():
        return function()


def forget() -> None:
    """This process is gone, or another: its turns are nobody's now, and nobody is told."""
    for turn in list(turns._turns.values()):
        turn.end(say=False)
    turns._turns.clear()
