"""Hosts with addresses of their own, in network namespaces; one is cut off in the middle."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="needs the extra: salient-neurons[cluster]")

from pipeline import stages
from pipeline.config import RunConfig
from pipeline.events import Event, Progressed, watch
from tests.builders.cluster_processes import ClusterProcesses, assert_equal_stores, on_cluster
from tests.builders.runs import write_mood_run

pytestmark = pytest.mark.slow
BRIDGE = "salient0"
SCHEDULER = "10.213.77.1"
HOSTS = {"salient-a": "10.213.77.11", "salient-b": "10.213.77.12"}


def ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)


def link(namespace: str) -> str:
    """The host's end of a namespace's cable."""
    return f"veth-{namespace[-1]}"


@pytest.fixture
def hosts() -> Iterator[None]:
    if shutil.which("ip") is None or os.geteuid():
        pytest.skip("network namespaces need iproute2 and root")
    try:
        ip("link", "add", BRIDGE, "type", "bridge")
        ip("addr", "add", f"{SCHEDULER}/24", "dev", BRIDGE)
        ip("link", "set", BRIDGE, "up")
        for name, address in HOSTS.items():
            ip("netns", "add", name)
            ip("link", "add", link(name), "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", link(name), "master", BRIDGE, "up")
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.decode()}")
    finally:
        for name in HOSTS:
            ip("netns", "del", name, check=False)
            ip("link", "del", link(name), check=False)
        ip("link", "del", BRIDGE, check=False)


def test_a_host_that_is_cut_off_costs_nothing_but_time(
    hosts: None, tmp_path: Path, tiny_bert: Path
) -> None:
    paths = [write_mood_run(tmp_path / name, tiny_bert, num_rows=4000) for name in ("a", "b")]
    alone = RunConfig.load(paths[0])
    expected = stages.run(alone)
    quick = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "15s"}
    processes = ClusterProcesses(tmp_path / "cluster", 0, host=SCHEDULER, environment=quick)
    try:
        for name, address in HOSTS.items():
            within = ("ip", "netns", "exec", name)
            processes.workers.append(processes.start_worker(host=address, within=within))
        processes.wait_for_workers(2)
        cut: list[str] = []

        def hear(event: Event) -> None:
            if isinstance(event, Progressed) and str(event.done).startswith("12") and not cut:
                ip("link", "set", link("salient-b"), "down")
                cut.append(event.what)

        config = on_cluster(paths[1], processes.address)
        with watch(hear):
            metrics = stages.run(config)
        assert cut == ["extracted"]
        assert_equal_stores(alone, config)
        assert metrics["tasks"] == expected["tasks"]
    finally:
        processes.close()
