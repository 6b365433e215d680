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
from threadpoolctl import threadpool_limits

from pipeline.config import ClusterConfig
from pipeline.errors import ConfigError

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
        with threadpool_limits(max(1, num_cores() // workers)):
            graph = [dask.delayed(call, pure=False)(*task) for task in tasks]
            return list(dask.compute(*graph, scheduler="threads", num_workers=workers))
    with _client(cluster, workers) as client:
        futures = [client.submit(function, *task, pure=False) for task in tasks]
        from distributed import as_completed

        for future in as_completed(futures):
            on_done(future.result())
        return [future.result() for future in futures]


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
    threads = max(1, num_cores() // workers)
    environment = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    with (
        dask.config.set({"distributed.nanny.pre-spawn-environ": environment}),
        LocalCluster(
            n_workers=workers, threads_per_worker=1, dashboard_address=None, processes=True
        ) as local,
        Client(local) as client,
    ):
        yield client
