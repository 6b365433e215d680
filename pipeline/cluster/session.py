"""A connection to workers that outlives them: streams of tasks with few under way at a time.

    with connected(cluster, folders=[run_dir], say=say) as session:
        for index, result in session.stream(function, tasks):
            ...                                         # in order of completion

Tasks must be restartable: those of lost workers run again elsewhere, and all that were under way
run again when the scheduler itself was restarted.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from pipeline.cluster.credentials import credentials
from pipeline.cluster.kinds import (
    KINDS,
    connect,
    cores_of,
    default_workers,
    exposure,
    keys_of,
    start_cluster,
)
from pipeline.cluster.preflight import GPU, Ticket, WorkerRefused, check_workers, tokens, versions
from pipeline.cluster.stream import TaskStream, WorkerTask
from pipeline.config import ClusterConfig
from pipeline.errors import ClusterUnreachable, ConfigError
from pipeline.progress import Say, silent
from store.disk import storage_options

T = TypeVar("T")
POLL_S = 1.0
SPEAK_EVERY_S = 60


class Session:
    """Workers, and what was seen of them.

    Attributes:
        client: Dask's.
        num_retries: tasks that had to run again.
        dashboard: address of Dask's dashboard, "" if there is none.
    """

    def __init__(
        self, cluster: ClusterConfig, started: Any | None, ticket: Ticket, say: Say
    ) -> None:
        self.cluster = cluster
        self.client = connect(cluster, started)
        self.num_retries = 0
        self._ticket = ticket
        self._started = started
        self._say = say
        self._alone_since: float | None = None
        self._spoke = 0.0

    @property
    def dashboard(self) -> str:
        """Address of the dashboard, "" without one."""
        if "dashboard" not in self.client.scheduler_info().get("services", {}):
            return ""
        return str(self.client.dashboard_link)

    @property
    def gpu(self) -> bool:
        """Whether the model's work belongs on workers with a GPU."""
        return self._ticket.gpu

    def workers(self) -> dict[str, Any]:
        """Address -> what the scheduler says of each worker."""
        try:
            found: dict[str, Any] = self.client.scheduler_info(n_workers=-1)["workers"]
        except OSError:
            return {}  # the scheduler has gone, as the client is about to notice
        return found

    def num_slots(self) -> int:
        """Tasks that run at the same time, now or once all workers are there."""
        present: int = sum(worker["nthreads"] for worker in self.workers().values())
        if KINDS[self.cluster.kind].start is None:
            return max(1, present)
        return max(present, default_workers(self.cluster))

    def prepare(self) -> None:
        """Wait for the first worker and check those that are there.

        Raises:
            ConfigError: a worker must not take part.
            ClusterError: none comes.
        """
        while not self.workers():
            self._wait_for_workers()
            time.sleep(POLL_S / 5)
        self._alone_since = None
        check_workers(self.client, self._ticket, say=self._say)

    def call(self, function: Callable[..., T], *task: Any, gpu: bool = False) -> T:
        """``function(*task)`` on some worker."""
        return next(self.stream(function, [task], gpu=gpu))[1]

    def stream(
        self,
        function: Callable[..., T],
        tasks: Iterable[tuple[Any, ...]],
        *,
        at_a_time: int | None = None,
        gpu: bool = False,
        whole_worker: bool = False,
        give_up: bool = True,
    ) -> Generator[tuple[int, T], None, None]:
        """``function(*task)`` for every task on the workers.

        Args:
            function: a module-level function.
            tasks: argument tuples of small things; drawn when there is room for them.
            at_a_time: tasks under way; default two for each slot, so that no worker waits.
            gpu: whether a task takes one of a worker's resource GPU.
            whole_worker: tasks use all of a worker's cores, and see to it that they take turns.
            give_up: whether a task that Dask holds guilty of its workers' deaths is an error; else
                it runs again, until it answers for itself.

        Yields:
            (index of the task, result) in order of completion.

        Raises:
            Exception: the first task's error.
            ClusterError: a task that kills its workers; scheduler or workers stay away.
        """
        task = WorkerTask(self._ticket, whole_worker)
        resources = {GPU: 1} if gpu else None
        yield from TaskStream(
            self, task, function, tasks, at_a_time=at_a_time, resources=resources, give_up=give_up
        )

    def refuse(self, refused: WorkerRefused) -> None:
        """Send a worker away that came later and must not take part."""
        self._say(f"refused worker {refused}")
        self.client.retire_workers(workers=[refused.worker], close_workers=True)
        if not self.workers() and not KINDS[self.cluster.kind].queued:
            raise ConfigError(f"worker {refused}") from None

    def look_around(self) -> bool:
        """Connect again to a scheduler that was restarted; wait for workers, but not for ever.

        Returns:
            Whether the scheduler is another one, which knows nothing of our tasks.
        """
        if self.client.status != "running":
            self._connect_again()
            return True
        if self.workers():
            self._alone_since = None
        else:
            self._wait_for_workers()
        return False

    def _wait_for_workers(self) -> None:
        now = time.monotonic()
        if self._alone_since is None:
            self._alone_since = now
            self._spoke = -math.inf
        alone_s = now - self._alone_since
        queued = KINDS[self.cluster.kind].queued
        if alone_s > self.cluster.wait_s and not queued:
            raise ClusterUnreachable(
                f"cluster.kind = {self.cluster.kind!r}: no worker for {alone_s:.0f} s"
                " (cluster.wait_s); start workers, then run again: what is finished is kept"
            )
        if alone_s > 2 and now - self._spoke > SPEAK_EVERY_S:
            self._spoke = now
            self._say(f"no workers for {alone_s:.0f} s: waiting for some")

    def _connect_again(self) -> None:
        if self._started is not None:
            raise ClusterUnreachable(
                f"cluster.kind = {self.cluster.kind!r}: lost the scheduler; run again to go on"
            )
        self._say(f"lost the scheduler: waiting up to {self.cluster.wait_s:.0f} s for it")
        deadline = time.monotonic() + self.cluster.wait_s
        self.client.close(timeout=1)
        while True:
            try:
                self.client = connect(self.cluster, None)
                break
            except ConfigError as error:
                if time.monotonic() > deadline:
                    raise ClusterUnreachable(f"{error}; run again to go on") from None
                time.sleep(POLL_S)
        self._say("the scheduler is back; what was under way runs again")

    def close(self) -> None:
        """Disconnect, and stop what was started here."""
        self.client.close(timeout=5)
        if self._started is not None:
            self._started.close(timeout=30)


_current: ContextVar[Session | None] = ContextVar("session", default=None)


@contextmanager
def connected(
    cluster: ClusterConfig,
    *,
    folders: Sequence[Path] = (),
    inputs: Sequence[str] = (),
    keys_in: Path | None = None,
    say: Say = silent,
) -> Iterator[Session]:
    """A session with workers; one that is open already serves again.

    Args:
        cluster: where the workers are; any kind but "local".
        folders: what workers write to; made where missing, and checked to be shared.
        inputs: what workers must be able to read: paths, or addresses of buckets.
        keys_in: where keys lie that workers read from files; default the first folder.
        say: called with a line for what happens to workers.

    Raises:
        ConfigError, ClusterError: see :mod:`pipeline.cluster.kinds` and
        :mod:`pipeline.cluster.preflight`.
    """
    current = _current.get()
    if current is not None:
        yield current
        return
    ticket = Ticket(
        id=uuid.uuid4().hex[:12],
        versions=versions(),
        folders=tuple(map(str, folders)),
        inputs=tuple(inputs),
        cores=cores_of(cluster, default_workers(cluster)),
        gpu=cluster.device.startswith("cuda"),
        storage=storage_options(),
    )
    keys, extra = keys_of(cluster), KINDS[cluster.kind].extra
    secret = folders if keys_in is None else [keys_in]
    with tokens(folders, ticket.id), credentials(keys, secret, extra=extra) as security:
        if open_door := exposure(cluster):
            say(open_door)
        started = start_cluster(cluster, security)
        try:
            session = Session(cluster, started, ticket, say)
        except BaseException:
            if started is not None:
                started.close()
            raise
        reset = _current.set(session)
        try:
            session.prepare()
            if session.dashboard:
                say(f"dashboard: {session.dashboard}")
            yield session
        finally:
            _current.reset(reset)
            session.close()
