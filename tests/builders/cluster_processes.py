"""A real cluster for tests: a scheduler and workers, each a process of its own, as on a network."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import RunConfig
from store import ActivationStore
from store.upkeep.inspection import verify
from tests.builders.paths import ROOT
from tests.builders.waiting import default_signals, wait_until

START_S = 60
PR_SET_PDEATHSIG = 1


def free_port() -> int:
    """A port of the loopback interface that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end_with_parent() -> None:
    """Ask Linux to kill this process when the test's dies, however it does."""
    default_signals()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class ClusterProcesses:
    """Scheduler and workers that can be killed and started again.

    Args:
        folder: for logs and the workers' local files.
        workers: how many, one thread each, with a nanny that replaces a killed worker.
        host: address that the scheduler listens at.
        protocol: tcp or tls.
        arguments: further ones for each worker.
        environment: further variables for scheduler and workers.
    """

    def __init__(
        self,
        folder: Path,
        workers: int = 3,
        *,
        host: str = "127.0.0.1",
        protocol: str = "tcp",
        arguments: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.host = host
        self.port = free_port()
        self.address = f"{protocol}://{host}:{self.port}"
        self._protocol = protocol
        self._environment = {**os.environ, **(environment or {})}
        self._arguments = arguments
        self.scheduler = self.start_scheduler()
        self.workers = [self.start_worker(*arguments) for _ in range(workers)]

    def _start(self, name: str, *command: str) -> subprocess.Popen:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                env=self._environment,
                cwd=ROOT,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    def start_scheduler(self) -> subprocess.Popen:
        """Start the scheduler, at the same address again."""
        options = ["--host", self.host, "--port", str(self.port), "--no-dashboard"]
        options += ["--protocol", self._protocol]
        module = "distributed.cli.dask_scheduler"
        process = self._start("scheduler", sys.executable, "-W", "ignore", "-m", module, *options)
        wait_until(self._answers, timeout_s=START_S)
        return process

    def _answers(self) -> bool:
        try:
            socket.create_connection((self.host, self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def start_worker(
        self, *arguments: str, host: str | None = None, within: tuple[str, ...] = ()
    ) -> subprocess.Popen:
        """Start one more worker under its nanny.

        Args:
            arguments: further ones.
            host: the worker's address; default the scheduler's.
            within: a command that runs the worker's, in other namespaces for one.
        """
        options = ["--nthreads", "1", "--memory-limit", "2GB", "--no-dashboard"]
        options += ["--protocol", self._protocol]
        options += ["--local-directory", str(self.folder), "--host", host or self.host]
        command = [sys.executable, "-W", "ignore", "-m", "distributed.cli.dask_worker"]
        return self._start("workers", *within, *command, self.address, *options, *arguments)

    def restart_scheduler(self) -> None:
        """Kill the scheduler and start another one at its address.

        Workers end when they lose their scheduler; they too are started again, as a service manager
        would.
        """
        self.scheduler.kill()
        self.scheduler.wait()
        self.scheduler = self.start_scheduler()
        for _ in tuple(self.workers):
            self.workers.append(self.start_worker(*self._arguments))

    def wait_for_workers(self, number: int) -> None:
        """Wait until so many have found the scheduler."""
        from distributed import Client

        with Client(self.address) as client:
            client.wait_for_workers(number, timeout=START_S)

    def close(self) -> None:
        """End all processes."""
        for process in (*self.workers, self.scheduler):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def on_cluster(path: Path, address: str, **changes: Any) -> RunConfig:
    """A run's configuration, for a cluster's workers."""
    data = RunConfig.load(path).model_dump(mode="json")
    data["cluster"] = {"kind": "scheduler", "address": address, **changes.pop("cluster", {})}
    for section, values in changes.items():
        data[section] |= values
    return RunConfig.from_dict(data, origin=path)


def assert_equal_stores(first: RunConfig, second: RunConfig) -> None:
    """The same samples and activations, and no damage."""
    one, two = ActivationStore.open(first.store.path), ActivationStore.open(second.store.path)
    assert one.samples().equals(two.samples())
    assert list(one.schema.arrays) == list(two.schema.arrays)
    for name, layout in one.schema.arrays.items():
        for layer in layout.layers:
            pair = (store.read_matrix(name, layer=layer) for store in (one, two))
            np.testing.assert_array_equal(*pair)
    assert not verify(two).damage
