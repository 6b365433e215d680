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
from threadpoolctl import OpenBLASController, ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")


class _OneBlasThread:
    """Limits BLAS to one thread as long as any thread of this process is inside.

    OpenBLAS has one number for the process, and threadpoolctl heeds only the thread that set it
    first: so the first to enter sets it, in the name of all, and the last to leave resets it.
    Others, with a number for each thread, are limited in every thread that enters.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before: dict[str, int] = {}

    def num_threads(self, controller: ThreadpoolController) -> int:
        """BLAS's threads outside."""
        with self._lock:
            return min(map(self._outside, controller.lib_controllers), default=1)

    def _outside(self, library: Any) -> int:
        inside = self._inside and _is_shared(library)
        number: int = self._before[library.filepath] if inside else library.num_threads
        return number

    @contextmanager
    def __call__(self, controller: ThreadpoolController) -> Iterator[None]:
        """Limit these libraries inside a ``with`` block."""
        before = {}
        with self._lock:
            for library in controller.lib_controllers:
                before[library.filepath] = self._outside(library)
                self._set(library, 1)
            self._before |= before
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                for library in controller.lib_controllers:
                    if not (self._inside and _is_shared(library)):
                        self._set(library, before[library.filepath])

    @staticmethod
    def _set(library: Any, number: int) -> None:
        OpenBLASController.clear_controlling_thread(force=True)
        library.set_num_threads(number)
        OpenBLASController.clear_controlling_thread(force=True)


def _is_shared(library: Any) -> bool:
    return bool(library.internal_api == "openblas" and library.threading_layer != "openmp")


_one_blas_thread = _OneBlasThread()


class BlockThreads:
    """As many threads as BLAS may use, to run over blocks instead.

    Use as a context manager: torch is single-threaded inside it, BLAS only inside
    :meth:`ordered` and :meth:`single_threaded_blas`, so that factorisations between two passes use
    all threads.
    """

    def __init__(self) -> None:
        self._controller = ThreadpoolController().select(user_api="blas")
        self.num_threads = _one_blas_thread.num_threads(self._controller)
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
            with _one_blas_thread(self._controller):
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
