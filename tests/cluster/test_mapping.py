from __future__ import annotations

import os
import sys
import time
from contextlib import nullcontext
from typing import Any, get_args

import pytest
from pydantic import ValidationError
from threadpoolctl import threadpool_info

from pipeline.cluster.kinds import KINDS
from pipeline.cluster.machine import num_cores
from pipeline.cluster.mapping import map_tasks
from pipeline.cluster.session import connected
from pipeline.config import ClusterConfig
from pipeline.errors import ConfigError
from store.errors import MissingExtra


def double(value: int) -> int:
    time.sleep(0.01 * (value % 3))
    return 2 * value


def fail(value: int) -> int:
    raise ConfigError(f"no {value}")


def recurse(value: int) -> int:
    return recurse(value) + 1


def where(_: int) -> tuple[int, int]:
    import numpy as np

    np.ones((64, 64)) @ np.ones((64, 64))
    pools = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    return os.getpid(), max(pools, default=1)


@pytest.mark.parametrize("kind", ["local", "processes"])
def test_results_come_in_order_wherever_they_ran(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And threads times workers fit the cores."""
    monkeypatch.setenv("OMP_NUM_THREADS", str(2 * num_cores()))
    cluster = ClusterConfig(kind=kind, workers=max(2, num_cores()))
    seen: list[int] = []
    tasks = [(i,) for i in range(7)]
    with nullcontext() if kind == "local" else connected(cluster):
        assert map_tasks(double, tasks, cluster, on_done=seen.append) == [2 * i for i in range(7)]
        assert sorted(seen) == [2 * i for i in range(7)]
        assert map_tasks(double, [], cluster) == []
        with pytest.raises(ConfigError, match="no 1"):
            map_tasks(fail, [(1,)], cluster)
        with pytest.raises(RuntimeError, match="recursion depth"):
            map_tasks(recurse, [(1,)], cluster)
        found = map_tasks(where, [(i,) for i in range(4)], cluster)
    assert (os.getpid() in {pid for pid, _ in found}) == (kind == "local")
    assert max(threads for _, threads in found) == 1


def test_an_unreachable_scheduler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cluster.kinds.CONNECT_TIMEOUT_S", 1)
    cluster = ClusterConfig(kind="scheduler", address="tcp://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9.*no Dask scheduler answers"):
        map_tasks(double, [(1,)], cluster)


def visible_gpu(_: int = 0) -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def test_workers_share_gpus_as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    cluster = ClusterConfig(kind="cuda", workers_per_gpu=2)
    with connected(cluster) as session:
        session.client.wait_for_workers(2)
        assert list(session.client.run(visible_gpu).values()) == ["3", "3"]
        assert map_tasks(visible_gpu, [(i,) for i in range(6)], cluster) == ["3"] * 6
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match="no CUDA device"):
        map_tasks(visible_gpu, [(1,)], ClusterConfig(kind="cuda"))


@pytest.mark.parametrize(
    ("kind", "module", "settings"),
    [
        ("slurm", "dask_jobqueue", {}),
        ("lsf", "dask_jobqueue", {}),
        ("kubernetes", "dask_kubernetes.operator", {}),
        ("gateway", "dask_gateway", {"address": "http://gateway"}),
        ("ssh", "asyncssh", {"hosts": ("a", "b")}),
    ],
)
def test_a_missing_extra_is_named(
    kind: str, module: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, module.partition(".")[0], None)
    cluster = ClusterConfig(kind=kind, **settings)
    extra = {"slurm": "jobqueue", "lsf": "jobqueue"}.get(kind, kind)
    with pytest.raises(MissingExtra, match=rf"pip install .+\[{extra}\]'"):
        map_tasks(double, [(1,)], cluster)


def test_every_kind_of_the_configuration_has_a_row() -> None:
    assert set(get_args(ClusterConfig.model_fields["kind"].annotation)) == set(KINDS)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"kind": "scheduler"}, "address goes with"),
        ({"kind": "ssh"}, "hosts goes with"),
        ({"kind": "ssh", "hosts": ("one",)}, "at least one worker"),
        ({"tls_ca": "ca.pem"}, "go together"),
        ({"min_workers": 2, "workers": 1}, "at most"),
        ({"walltime": "an hour"}, "pattern"),
    ],
)
def test_settings_that_contradict_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        ClusterConfig(**settings)
