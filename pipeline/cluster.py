"""Where tasks run: this process's threads, a local cluster of processes, or a running scheduler.

``map_tasks`` is all that the jobs know of Dask. Results come back in the order of the tasks and do
not depend on where they ran.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import dask
import torch
from threadpoolctl import threadpool_limits

from pipeline.config import ClusterConfig
from pipeline.errors import ConfigError
from pipeline.memory import free_memory

T = TypeVar("T")
CONNECT_TIMEOUT_S = 30


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_tasks(
    function: Callable[..., T],
    tasks: Sequence[tuple[Any, ...]],
    cluster: ClusterConfig,
    *,
    on_done: Callable[[T], None] = lambda _: None,
) -> list[T]:
    """Call ``function(*task)`` for every task.

    Args:
        function: a module-level function, so that other processes can import it.
        tasks: argument tuples; small things only (paths and settings, never arrays).
        cluster: where to run.
        on_done: called in this process with each result as it arrives.

    Raises:
        ConfigError: the cluster's extra is not installed or its scheduler cannot be reached.
        Exception: the first task's error.
    """
    if not tasks:
        return []
    workers = min(cluster.workers or num_cores(), len(tasks))
    if cluster.kind == "local":

        def call(*task: Any) -> T:
            result = function(*task)
            on_done(result)
            return result

        # BLAS threads and Dask threads share the cores; together they must not exceed them.
        with _threads(max(1, num_cores() // workers)):
            graph = [dask.delayed(call, pure=False)(*task) for task in tasks]
            return list(dask.compute(*graph, scheduler="threads", num_workers=workers))
    with _client(cluster, workers) as client:
        threads = max(1, num_cores() // workers) if cluster.kind == "processes" else None
        futures = [
            client.submit(_within_budget, threads, function, *task, pure=False) for task in tasks
        ]
        from distributed import as_completed

        for future in as_completed(futures):
            on_done(future.result())
        return [future.result() for future in futures]


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Limit the threads of BLAS, OpenMP and torch in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(number, before))
    try:
        with threadpool_limits(number):
            yield
    finally:
        torch.set_num_threads(before)


def _within_budget(threads: int | None, function: Callable[..., T], *task: Any) -> T:
    """Run a task on a worker with its share of the cores; None takes the share of the environment.

    A nanny leaves variables such as OMP_NUM_THREADS as the parent had them, so that the environment
    of local processes says nothing of their number.
    """
    if threads is None:
        from distributed import get_worker

        cores = int(os.environ.get("OMP_NUM_THREADS", "0")) or num_cores()
        threads = max(1, cores // get_worker().state.nthreads)
    with _threads(threads):
        return function(*task)


def task_memory(cluster: ClusterConfig, num_tasks: int) -> tuple[int, int]:
    """Tasks that run at the same time, and the bytes that they may take together.

    On a scheduler's workers each task has its worker's memory; the figures are for one.
    """
    if cluster.kind != "scheduler":
        return min(cluster.workers or num_cores(), num_tasks), free_memory()
    with _client(cluster, 1) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        shares = [w["memory_limit"] // max(1, w["nthreads"]) for w in workers]
    return 1, min((share for share in shares if share), default=free_memory())


@contextmanager
def _client(cluster: ClusterConfig, workers: int) -> Iterator[Any]:
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise ConfigError(
            f"cluster.kind = {cluster.kind!r} needs the extra: pip install 'salient[cluster]'"
        ) from None
    if cluster.kind == "scheduler":
        try:
            connected = Client(cluster.address, timeout=CONNECT_TIMEOUT_S)
        except (OSError, TimeoutError) as error:
            raise ConfigError(
                f"cluster.address {cluster.address!r}: no Dask scheduler answers ({error});"
                " start one with `dask scheduler` or use kind = 'local'"
            ) from None
        with connected as client:
            yield client
        return
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None, processes=True
        ) as local,
        Client(local) as client,
    ):
        yield client
