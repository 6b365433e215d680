"""A stream of tasks on workers that may go at any time, with few under way at once.

    for index, result in TaskStream(session, WorkerTask(ticket, False), function, tasks):
        ...                                             # in order of completion

Dask itself runs a lost worker's tasks again. What it does not do is done here: tasks run again
when the scheduler was restarted, when their worker was refused, or when a disk failed once.
"""

from __future__ import annotations

import ctypes
import time
import traceback
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

import torch
from threadpoolctl import threadpool_limits

from pipeline.cluster.preflight import Ticket, WorkerRefused, admit
from pipeline.errors import ClusterError
from store.errors import SalientError

T = TypeVar("T")
POLL_S = 1.0
LOOK_EVERY_S = 5.0
RESULT_S = 30
MAX_FAILURES = 2
"""A task that failed to read or write is tried again so often."""
TRACEBACK_LINES = 20
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


class Workers(Protocol):
    """What a stream needs of its session."""

    client: Any
    num_retries: int

    def num_slots(self) -> int:
        """Tasks that run at the same time."""

    def look_around(self) -> bool:
        """See to a lost scheduler or missing workers; whether the scheduler is another one."""

    def refuse(self, refused: WorkerRefused) -> None:
        """Send a worker away."""


@dataclass(frozen=True)
class Failure:
    """What a task raised, as it comes back from a worker."""

    error: Exception


@dataclass(frozen=True)
class WorkerTask:
    """Runs on a worker: lets it in, gives the task its share of the worker's cores, runs it.

    Attributes:
        ticket: of the session.
        whole_worker: the task may use all of the worker's cores.
    """

    ticket: Ticket
    whole_worker: bool

    def __call__(self, function: Callable[..., T], *task: Any) -> T | Failure:
        """The task's result, or its error."""
        from distributed import get_worker

        worker = get_worker()
        try:
            admit(self.ticket, worker)
            _keep_freed_memory()
            threads = worker.state.nthreads
            cores = self.ticket.cores or threads
            # For good, not for the task: another may be under way, and each sets them on entry.
            number = cores if self.whole_worker else max(1, cores // threads)
            torch.set_num_threads(number)
            threadpool_limits(number)
            return function(*task)
        except (SalientError, OSError) as error:
            return Failure(error.with_traceback(None))
        except Exception as error:
            # Dask sends an error with its traceback, and hangs if one of them cannot be sent.
            told = RuntimeError(f"{type(error).__name__}: {error}")
            told.add_note(f"on worker {worker.address}:\n{traceback.format_exc(TRACEBACK_LINES)}")
            return Failure(told)


@cache
def _keep_freed_memory() -> None:
    """Undo what Dask's nannies tell glibc: to give freed memory back at once.

    Each large tensor then costs page faults anew, and a model a third of its speed. The values are
    those that glibc itself arrives at.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)
        mallopt(M_TRIM_THRESHOLD, 64 << 20)


class TaskStream(Generic[T]):
    """Iterate for (index of the task, result); arguments as of ``Session.stream``."""

    def __init__(
        self,
        session: Workers,
        task: WorkerTask,
        function: Callable[..., T],
        tasks: Iterable[tuple[Any, ...]],
        *,
        at_a_time: int | None = None,
        resources: Mapping[str, float] | None = None,
        give_up: bool = True,
    ) -> None:
        self._session = session
        self._task = task
        self._function = function
        self._at_a_time = at_a_time
        self._limit = at_a_time or 2 * session.num_slots()
        self._resources = resources
        self._give_up = give_up
        self._name = f"{function.__name__}-{uuid.uuid4().hex[:6]}"
        self._submitted = 0
        self._coming = enumerate(tasks)
        self._again: deque[tuple[int, tuple[Any, ...]]] = deque()
        self._running: dict[str, tuple[int, tuple[Any, ...], Any]] = {}
        self._failures: Counter[int] = Counter()
        self._done: SimpleQueue[Any] = SimpleQueue()
        self._next_look = time.monotonic() + LOOK_EVERY_S

    def __iter__(self) -> Iterator[tuple[int, T]]:
        try:
            while self._fill():
                future = self._next_done()
                if future is not None and future.key in self._running:
                    yield from self._settle(future)
        finally:
            for _, _, future in self._running.values():
                future.release()

    def _fill(self) -> bool:
        """Submit as many as may be under way; False once nothing is left to wait for."""
        client = self._session.client
        while len(self._running) < self._limit and client.status == "running":
            entry = self._again.popleft() if self._again else next(self._coming, None)
            if entry is None:
                return bool(self._running)
            self._submitted += 1
            future = client.submit(
                self._task,
                self._function,
                *entry[1],
                key=f"{self._name}-{self._submitted}",
                pure=False,
                resources=self._resources,
            )
            self._running[future.key] = (*entry, future)
            future.add_done_callback(self._done.put)
        return True

    def _next_done(self) -> Any | None:
        """A future that is done; None if none is yet. Looks after the cluster now and then."""
        try:
            future = self._done.get(timeout=POLL_S)
        except Empty:
            future = None
        if future is None or time.monotonic() > self._next_look:
            self._next_look = time.monotonic() + LOOK_EVERY_S
            if self._session.look_around():
                self._session.num_retries += len(self._running)
                self._again.extend((index, task) for index, task, _ in self._running.values())
                self._running.clear()
            self._limit = self._at_a_time or max(self._limit, 2 * self._session.num_slots())
        return future

    def _settle(self, future: Any) -> Iterator[tuple[int, T]]:
        """Hand out the result of a future that is done, or see to it that its task runs again."""
        from distributed import CancelledError, KilledWorker
        from distributed.comm import CommClosedError

        index, task, _ = self._running.pop(future.key)
        result: Any = None
        lost = future.status in ("cancelled", "lost")
        try:
            result = None if lost else future.result(timeout=RESULT_S)
        except KilledWorker:
            if self._give_up:
                raise ClusterError(
                    f"{self._function.__name__}: its workers died again and again, out of memory"
                    " perhaps (the workers' logs say more); give workers more memory, or start"
                    " fewer of them on a machine, then run again"
                ) from None
            lost = True
        except (TimeoutError, CancelledError, CommClosedError):
            # It had finished, but its worker went before the result was fetched.
            if future.status in ("pending", "finished"):  # Dask runs it again
                self._running[future.key] = (index, task, future)
                future.add_done_callback(self._done.put)
                return
            lost = True
        if isinstance(result, Failure):
            self._forgive(index, result.error)
            lost = True
        if lost:
            self._session.num_retries += 1
            self._again.append((index, task))
        else:
            yield index, result

    def _forgive(self, index: int, error: Exception) -> None:
        """Raise a task's error, unless the task may succeed elsewhere."""
        if isinstance(error, WorkerRefused):
            self._session.refuse(error)
        elif isinstance(error, OSError) and self._failures[index] < MAX_FAILURES:
            self._failures[index] += 1  # a disk or a network may be unwell on one machine
        else:
            raise error
