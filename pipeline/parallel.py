"""Threads over blocks of samples, each with single-threaded BLAS.

A pass is memory-bound in places and its matrix products are narrow, so whole blocks on separate
cores beat products spread over the cores. Results come back in the order of the blocks, whatever
the number of threads: sums over them do not depend on it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")


class BlockThreads:
    """As many threads as BLAS may use, to run over blocks instead.

    Use as a context manager: torch is single-threaded inside it, BLAS only inside
    :meth:`ordered` and :meth:`single_threaded_blas`, so that factorisations between two passes use
    all threads.
    """

    def __init__(self) -> None:
        self._controller = ThreadpoolController().select(user_api="blas")
        counts = [info["num_threads"] for info in self._controller.info()]
        self.num_threads: int = min(counts, default=1)
        self._local = threading.local()

    def __enter__(self) -> BlockThreads:
        self._torch_threads = torch.get_num_threads()
        # Read by every thread when it first runs an operation, hence before the pool starts.
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(self.num_threads) if self.num_threads > 1 else None
        return self

    def __exit__(self, *_: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        torch.set_num_threads(self._torch_threads)

    @contextmanager
    def single_threaded_blas(self) -> Iterator[None]:
        """Inside, BLAS uses one thread: several make narrow products and solves slower."""
        if self.num_threads == 1:
            yield
        else:
            with self._controller.limit(limits=1):
                yield

    def scratch(self, size: int) -> torch.Tensor:
        """This thread's own float32 buffer of at least ``size`` values."""
        buffer: torch.Tensor | None = getattr(self._local, "buffer", None)
        if buffer is None or len(buffer) < size:
            buffer = self._local.buffer = torch.empty(size, dtype=torch.float32)
        return buffer

    def ordered(
        self, function: Callable[[Item], Result], items: Iterable[Item]
    ) -> Iterator[Result]:
        """``map(function, items)``, some items ahead; items are drawn in the calling thread."""
        with self.single_threaded_blas():
            if self._pool is None:
                yield from map(function, items)
                return
            waiting: deque[Future[Result]] = deque()
            for item in items:
                waiting.append(self._pool.submit(function, item))
                if len(waiting) > 2 * self.num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
