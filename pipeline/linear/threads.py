"""Threads over blocks of samples, each with single-threaded BLAS.

A pass is memory-bound in places and its matrix products are narrow, so whole blocks on separate
cores beat products spread over the cores. Results come back in the order of the blocks, whatever
the number of threads: sums over them do not depend on it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from threadpoolctl import OpenBLASController, ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")


class _OneBlasThread:
    """Limits BLAS to one thread as long as any thread of this process is inside.

    OpenBLAS has one number of threads for the process: the first to enter sets it, the last to
    leave resets it. Other libraries have a number for each thread, which sets and resets its own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside: dict[tuple[str, int], tuple[int, int]] = {}
        """A library, and the thread if that has its own number -> how many are inside, and the
        number outside."""

    def num_threads(self, libraries: Sequence[Any]) -> int:
        """BLAS's threads outside."""
        with self._lock:
            return min((self._state(_key(each), each)[1] for each in libraries), default=1)

    @contextmanager
    def __call__(self, libraries: Sequence[Any]) -> Iterator[None]:
        """Limit these libraries inside a ``with`` block."""
        keys = [_key(library) for library in libraries]
        with self._lock:
            for key, library in zip(keys, libraries, strict=True):
                count, outside = self._state(key, library)
                self._inside[key] = count + 1, outside
                _set_threads(library, 1)
        try:
            yield
        finally:
            with self._lock:
                for key, library in zip(keys, libraries, strict=True):
                    count, outside = self._inside.pop(key)
                    if count > 1:
                        self._inside[key] = count - 1, outside
                    else:
                        _set_threads(library, outside)

    def _state(self, key: tuple[str, int], library: Any) -> tuple[int, int]:
        return self._inside.get(key, (0, library.num_threads))


def _key(library: Any) -> tuple[str, int]:
    is_shared = library.internal_api == "openblas" and library.threading_layer != "openmp"
    return library.filepath, 0 if is_shared else threading.get_ident()


def _set_threads(library: Any, number: int) -> None:
    # Else threadpoolctl heeds only the thread that was the first to set OpenBLAS's number.
    OpenBLASController.clear_controlling_thread(force=True)
    library.set_num_threads(number)
    OpenBLASController.clear_controlling_thread(force=True)


_one_blas_thread = _OneBlasThread()


class BlockThreads:
    """As many threads as BLAS may use, to run over blocks instead.

    Use as a context manager: torch is single-threaded inside it, BLAS only inside
    :meth:`ordered` and :meth:`single_threaded_blas`, so that factorisations between two passes use
    all threads.
    """

    def __init__(self) -> None:
        self._blas = ThreadpoolController().select(user_api="blas").lib_controllers
        self.num_threads = _one_blas_thread.num_threads(self._blas)
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
            with _one_blas_thread(self._blas):
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
