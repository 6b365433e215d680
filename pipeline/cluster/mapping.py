"""Where tasks run: this process's threads, or workers on a Dask cluster of any kind.

``map_tasks`` is all that the jobs know of Dask. Results come back in the order of the tasks and do
not depend on where they ran.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import dask
import torch
from threadpoolctl import threadpool_limits

from pipeline.cluster.carrying import Carried, Needs, carried_with, put_back, shares_no_folder
from pipeline.cluster.kinds import KINDS
from pipeline.cluster.machine import free_memory, num_cores
from pipeline.cluster.session import Session, connected
from pipeline.config import ClusterConfig, RunConfig, is_model_path
from pipeline.progress import Say

T = TypeVar("T")


def map_tasks(
    function: Callable[..., T],
    tasks: Sequence[tuple[Any, ...]],
    cluster: ClusterConfig,
    *,
    on_done: Callable[[T], None] = lambda _: None,
    needs: Callable[..., Needs] | None = None,
) -> list[T]:
    """Call ``function(*task)`` for every task.

    Args:
        function: a module-level function, so that other processes can import it.
        tasks: argument tuples; small things only (paths and settings, never arrays).
        cluster: where to run; ``workers`` bounds the tasks under way at a time.
        on_done: called in this process with each result as it arrives.
        needs: where a task begins with its run's configuration: what it has to do with the run's
            folder, which travels with it if the store is in a bucket.

    Raises:
        ConfigError: the cluster's extra is not installed or its scheduler cannot be reached.
        ClusterError: workers went away and did not come back.
        Exception: the first task's error.
    """
    if not tasks:
        return []
    if cluster.kind == "local":
        workers = min(cluster.workers or num_cores(), len(tasks))

        def call(*task: Any) -> T:
            result = function(*task)
            on_done(result)
            return result

        # BLAS threads and Dask threads share the cores; together they must not exceed them.
        threads = min(max(1, num_cores() // workers), torch.get_num_threads())
        # The pool ends before this does, interrupted or not: nobody writes once a lock is released.
        with _threads(threads), ThreadPoolExecutor(workers) as pool:
            graph = [dask.delayed(call, pure=False)(*task) for task in tasks]
            return list(dask.compute(*graph, scheduler="threads", pool=pool))
    results: dict[int, T] = {}
    with connected(cluster) as session:
        at_a_time = cluster.workers or session.num_slots()
        for index, result in _results(session, function, tasks, at_a_time, needs):
            results[index] = result
            on_done(result)
    return [results[index] for index in range(len(tasks))]


def _results(
    session: Session,
    function: Callable[..., T],
    tasks: Sequence[tuple[Any, ...]],
    at_a_time: int,
    needs: Callable[..., Needs] | None,
) -> Iterator[tuple[int, T]]:
    """Index and result of the tasks, in order of completion."""
    if needs is None or not shares_no_folder(tasks[0][0]):
        yield from session.stream(function, tasks, at_a_time=at_a_time)
        return
    carried = carried_with(tasks, needs)
    stream = session.stream(Carried(function), carried, at_a_time=at_a_time)
    # Heads of a large model are some ten megabytes, of which Dask would warn.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GB"}):
        for index, (result, files) in stream:
            task = tasks[index]
            put_back(task[0], needs(*task), files)
            yield index, result


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Limit the threads of BLAS, OpenMP and torch in this process."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        with threadpool_limits(number):
            yield
    finally:
        torch.set_num_threads(before)


def task_memory(cluster: ClusterConfig, num_tasks: int) -> tuple[int, int]:
    """Tasks that run at the same time, and the bytes that they may take together.

    On workers of other machines each task has its worker's memory; the figures are for one.
    """
    if KINDS[cluster.kind].local:
        return min(cluster.workers or num_cores(), num_tasks), free_memory()
    with connected(cluster) as session:
        shares = [w["memory_limit"] // max(1, w["nthreads"]) for w in session.workers().values()]
    return 1, min((share for share in shares if share), default=free_memory())


def at_most(cluster: ClusterConfig, num_tasks: int) -> ClusterConfig:
    """The cluster with a bound on the tasks of this machine, whose memory they share."""
    if not KINDS[cluster.kind].local:
        return cluster
    return cluster.model_copy(update={"workers": num_tasks, "min_workers": None})


@contextmanager
def workers_for(config: RunConfig, say: Say) -> Iterator[Session | None]:
    """One session for all that a run does, checked against the run's folders; None for threads.

    Args:
        config: the run.
        say: called with a line for what happens to workers.
    """
    if config.cluster.kind == "local":
        yield None
        return
    model, run_dir = config.backbone.model, Path(config.run_dir)
    inputs = [model] if is_model_path(model) else []
    if shares_no_folder(config):
        folders, inputs = [], [config.store.path, *inputs]
        run_dir.mkdir(parents=True, exist_ok=True)  # for the keys
    else:
        folders = [run_dir, Path(config.store.path).parent]
    with connected(
        config.cluster, folders=folders, inputs=inputs, keys_in=run_dir, say=say
    ) as session:
        yield session
