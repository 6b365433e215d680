from __future__ import annotations

import os
import time

import pytest
from threadpoolctl import threadpool_info

from pipeline.cluster import map_tasks, num_cores
from pipeline.config import ClusterConfig
from pipeline.errors import ConfigError


def double(value: int) -> int:
    time.sleep(0.01 * (value % 3))
    return 2 * value


def fail(value: int) -> int:
    raise ConfigError(f"no {value}")


def where(_: int) -> tuple[int, int]:
    import numpy as np

    np.ones((64, 64)) @ np.ones((64, 64))
    pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    return os.getpid(), max(pools, default=1)


@pytest.mark.parametrize("kind", ["local", "processes"])
def test_results_come_in_order_wherever_they_ran(kind: str) -> None:
    cluster = ClusterConfig(kind=kind, workers=2)
    seen: list[int] = []
    tasks = [(i,) for i in range(7)]
    assert map_tasks(double, tasks, cluster, on_done=seen.append) == [2 * i for i in range(7)]
    assert sorted(seen) == [2 * i for i in range(7)]
    assert map_tasks(double, [], cluster) == []
    with pytest.raises(ConfigError, match="no 1"):
        map_tasks(fail, [(1,)], cluster)
    processes = {pid for pid, _ in map_tasks(where, [(i,) for i in range(4)], cluster)}
    assert (os.getpid() in processes) == (kind == "local")


@pytest.mark.parametrize("kind", ["local", "processes"])
def test_threads_times_workers_fit_the_cores(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(2 * num_cores()))
    cluster = ClusterConfig(kind=kind, workers=num_cores())
    found = map_tasks(where, [(i,) for i in range(4)], cluster)
    assert max(threads for _, threads in found) == 1


def test_an_unreachable_scheduler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cluster.CONNECT_TIMEOUT_S", 1)
    cluster = ClusterConfig(kind="scheduler", address="tcp://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9.*no Dask scheduler answers"):
        map_tasks(double, [(1,)], cluster)
