"""Processes that begin in milliseconds: forks of one that has imported what they run.

There are two servers of forks in a session, each begun when it is first asked: what a store needs
is imported in two seconds, what commands need, torch among it, takes many times as long.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_STORES = {
    "tests.builders.store_processes",
    "tests.builders.store_upkeep",
    "tests.builders.bucket_processes",
    "tests.builders.store_changes",
    "tests.builders.store_life",
    "tests.builders.store_stages",
    "tests.builders.mortal",
}
# Where there is no torch, these cannot be imported, and the server goes without them.
_COMMANDS = {
    "tests.builders.command_processes",
    "tests.builders.command_stages",
    "tests.builders.bucket_commands",
}
_lock = threading.Lock()


def _server(modules: set[str]) -> Any:
    server = forkserver.ForkServer()  # type: ignore[attr-defined]
    server.set_forkserver_preload(sorted(modules))
    return server


_LIGHT, _FULL = _server(_STORES), _server(_STORES | _COMMANDS)


def start(target: Callable[..., object], *args: Any) -> BaseProcess:
    """Call a function of one of those modules in a process that ends with the test's."""
    process = _CONTEXT.Process(target=target, args=args, daemon=True)
    called = {getattr(one, "__module__", "") for one in (target, *args) if callable(one)}
    server = _LIGHT if called <= _STORES else _FULL
    with _lock:
        # What a process is begun by; the library has but one of it.
        forkserver.connect_to_new_process = server.connect_to_new_process
        process.start()
    return process
