"""Processes that begin in milliseconds: forks of one that has imported what they run.

There is one server of forks in a session, so that what it imports is said here, for all tests.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
# Where there is no torch, the last ones cannot be imported, and the server goes without them.
_CONTEXT.set_forkserver_preload(
    [
        "tests.builders.store_processes",
        "tests.builders.bucket_processes",
        "tests.builders.store_changes",
        "tests.builders.store_life",
        "tests.builders.store_stages",
        "tests.builders.mortal",
        "tests.builders.command_processes",
        "tests.builders.command_stages",
        "tests.builders.bucket_commands",
    ]
)


def start(target: Callable[..., object], *args: Any) -> BaseProcess:
    """Call a function of one of those modules in a process that ends with the test's."""
    process = _CONTEXT.Process(target=target, args=args, daemon=True)
    process.start()
    return process
