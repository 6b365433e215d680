"""The kinds of cluster: one table, a row for each value of ``[cluster] kind``.

    with credentials(keys_of(config.cluster), folders) as security:
        cluster = start_cluster(config.cluster, security)    # None where a scheduler runs already
        client = connect(config.cluster, cluster)

Dask is the engine; a row only says what it runs on. A new kind is a function that makes Dask's
cluster object and a row in ``KINDS``. Dashboards listen at the loopback interface alone unless
``[cluster] dashboard`` says where: they show texts to whoever reaches them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from pipeline.cluster.credentials import Keys, as_settings
from pipeline.cluster.machine import num_cores
from pipeline.cluster.preflight import GPU
from pipeline.config import ClusterConfig
from pipeline.errors import ConfigError, SchedulerUnreachable, missing

CONNECT_TIMEOUT_S = 30
LOCAL_DASHBOARD = "127.0.0.1:0"
NO_WORKER_DASHBOARD = ("--no-dashboard", "--dashboard-address", LOCAL_DASHBOARD)
"""Without the address a worker still answers for its health at any interface."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Kind:
    """How a kind's workers come about.

    Attributes:
        start: makes Dask's cluster object with a number of workers and the session's keys; None: a
            scheduler runs already.
        extra: of ``pyproject.toml``.
        queued: workers are jobs that may wait in a queue for long.
        local: workers run on this machine.
        keys: how scheduler and workers get the session's keys; None: who runs them sees to that.
    """

    start: Callable[[ClusterConfig, int, Any], Any] | None
    extra: str = "cluster"
    queued: bool = False
    local: bool = False
    keys: Keys | None = None


def cores_of(cluster: ClusterConfig, workers: int) -> int | None:
    """Cores of each worker; None where only the worker knows."""
    if cluster.cores is not None or not KINDS[cluster.kind].local:
        return cluster.cores
    return max(1, num_cores() // workers)


def keys_of(cluster: ClusterConfig) -> Keys | None:
    """How a cluster's parts get the keys of a session; None where there are none."""
    return None if cluster.security == "none" else KINDS[cluster.kind].keys


def exposure(cluster: ClusterConfig) -> str | None:
    """A line to say of a cluster whose ports we do not guard; None if there is nothing to say."""
    if cluster.security == "none":  # the user knows
        return None
    if cluster.kind == "scheduler" and not str(cluster.address).startswith("tls://"):
        return (
            f"the scheduler at {cluster.address} talks without TLS: whoever reaches it or its"
            " workers runs code there; start it with TLS and set tls_ca, tls_cert and tls_key, or"
            ' security = "none" if its network is guarded'
        )
    if cluster.kind == "kubernetes":
        return (
            "Dask's operator sets up no TLS: whatever the network policy lets into the namespace"
            ' runs code there; security = "none" if it is guarded'
        )
    return None


def default_workers(cluster: ClusterConfig) -> int:
    """Workers to start where the configuration does not say."""
    if cluster.workers is not None:
        return cluster.workers
    if cluster.kind == "cuda":
        return len(_gpus()) * cluster.workers_per_gpu
    if cluster.kind == "ssh":
        return len(cluster.hosts) - 1
    return num_cores() if KINDS[cluster.kind].local else 1


def _environment(cores: int | None) -> dict[str, str]:
    # Threads that spin while they wait would take the cores of the other workers.
    threads = {} if cores is None else {name: str(cores) for name in THREAD_VARIABLES}
    return {"OMP_WAIT_POLICY": "PASSIVE", **threads}


def _guarded(security: Any) -> dict[str, Any]:
    """What a scheduler, a worker or a cluster takes to talk to holders of the keys alone."""
    return {} if security is None else {"security": security, "protocol": "tls://"}


def _processes(cluster: ClusterConfig, workers: int, security: Any) -> Any:
    """Processes of this machine, restarted when they die."""
    from distributed import LocalCluster

    memory = {} if cluster.memory is None else {"memory_limit": cluster.memory}
    arguments: dict[str, Any] = {
        "n_workers": workers,
        "threads_per_worker": 1,
        "processes": True,
        "dashboard_address": cluster.dashboard or LOCAL_DASHBOARD,
        "env": _environment(cores_of(cluster, workers)),
        **_guarded(security),
        **memory,
        **cluster.options,
    }
    return LocalCluster(**arguments)


def _cuda(cluster: ClusterConfig, workers: int, security: Any) -> Any:
    """Processes of this machine, each seeing one GPU; several may share one.

    dask-cuda starts one worker a GPU and offers no resource; no data moves between our workers, so
    its transports would not be used.
    """
    from distributed import Nanny, Scheduler, SpecCluster

    gpus = _gpus()
    cores = cores_of(cluster, workers)

    def options(index: int) -> dict[str, Any]:
        return {
            "nthreads": 1,
            "host": "127.0.0.1",
            "dashboard": False,
            "resources": {GPU: 1},
            "memory_limit": cluster.memory or "auto",
            "env": {**_environment(cores), "CUDA_VISIBLE_DEVICES": gpus[index % len(gpus)]},
            **_guarded(security),
            **cluster.options,
        }

    return SpecCluster(
        workers={i: {"cls": Nanny, "options": options(i)} for i in range(workers)},
        scheduler={
            "cls": Scheduler,
            "options": {
                "host": "127.0.0.1",
                "port": 0,
                "dashboard_address": cluster.dashboard or LOCAL_DASHBOARD,
                **_guarded(security),
            },
        },
        security=security,
    )


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        import torch

        found = [str(index) for index in range(torch.cuda.device_count())]
    else:
        found = [name.strip() for name in visible.split(",") if name.strip()]
    if not found:
        raise ConfigError(
            "cluster.kind = 'cuda': this machine has no CUDA device; use kind = 'processes', or"
            " 'scheduler' with workers on GPU machines"
        )
    return found


def _ssh(cluster: ClusterConfig, workers: int, security: Any) -> Any:
    """Workers on hosts that answer to ssh without a password; the first host is the scheduler's.

    Their options go there on a command line, which all users of a host can read: the keys' paths
    may stand in it, the keys may not.
    """
    import_module("asyncssh")
    from distributed import SSHCluster

    options = dict(cluster.options)
    guarded = _guarded(None if security is None else as_settings(security))
    return SSHCluster(
        list(cluster.hosts),
        worker_options={
            "nthreads": 1,
            "dashboard": False,
            "dashboard_address": LOCAL_DASHBOARD,
            **({} if cluster.memory is None else {"memory_limit": cluster.memory}),
            **_gpu_resource(cluster),
            **guarded,
            **options.pop("worker_options", {}),
        },
        scheduler_options={
            "dashboard_address": cluster.dashboard or LOCAL_DASHBOARD,
            **guarded,
            **options.pop("scheduler_options", {}),
        },
        **({} if security is None else {"security": security}),
        remote_python=options.pop("remote_python", sys.executable),
        **options,
    )


def _batch(class_name: str, cluster: ClusterConfig, workers: int, security: Any) -> Any:
    """Each worker a job of a batch system, replaced when it ends before its time."""
    jobqueue = import_module("dask_jobqueue")
    options = dict(cluster.options)
    extra = list(options.pop("worker_extra_args", []))
    if cluster.device.startswith("cuda"):
        extra += ["--resources", f"{GPU}=1"]
    walltime = {} if cluster.walltime is None else {"walltime": cluster.walltime}
    arguments: dict[str, Any] = {
        "cores": cluster.cores or 1,
        "processes": 1,
        "memory": cluster.memory or "4GB",
        "worker_extra_args": [*extra, "--nthreads", "1", *NO_WORKER_DASHBOARD],
        "scheduler_options": {
            "dashboard_address": cluster.dashboard or LOCAL_DASHBOARD,
            **options.pop("scheduler_options", {}),
        },
        "log_directory": os.environ.get("SALIENT_JOB_FOLDER", os.getcwd()),
        **_guarded(security),
        **walltime,
        **options,
    }
    started = getattr(jobqueue, class_name)(**arguments)
    if cluster.min_workers is None:
        # Adapting between equal bounds replaces workers that reached their wall time.
        started.adapt(minimum=workers, maximum=workers)
    return started


def _kubernetes(cluster: ClusterConfig, workers: int, security: Any) -> Any:
    """A cluster made by the Dask operator; ``options`` holds name, image, namespace …"""
    operator = import_module("dask_kubernetes.operator")
    limits = {
        **({} if cluster.cores is None else {"cpu": str(cluster.cores)}),
        **({} if cluster.memory is None else {"memory": cluster.memory}),
    }
    resources = {"resources": {"requests": limits, "limits": limits}} if limits else {}
    arguments = {"name": "salient", "n_workers": workers, **resources, **cluster.options}
    return operator.KubeCluster(**arguments)


def _gateway(cluster: ClusterConfig, workers: int, security: Any) -> Any:
    """A cluster of a Dask Gateway server; ``options`` are the server's cluster options."""
    gateway = import_module("dask_gateway").Gateway(cluster.address)
    started = gateway.new_cluster(**cluster.options)
    started.scale(workers)
    return started


def _gpu_resource(cluster: ClusterConfig) -> dict[str, Any]:
    return {"resources": {GPU: 1}} if cluster.device.startswith("cuda") else {}


_BATCH_SYSTEMS = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "lsf": "LSFCluster",
    "sge": "SGECluster",
    "oar": "OARCluster",
    "moab": "MoabCluster",
    "htcondor": "HTCondorCluster",
}
KINDS: dict[str, Kind] = {
    "local": Kind(None, local=True),  # threads of this process: no Dask cluster at all
    "processes": Kind(_processes, local=True, keys="memory"),
    "cuda": Kind(_cuda, local=True, keys="memory"),
    "scheduler": Kind(None),
    "ssh": Kind(_ssh, "ssh", keys="files"),
    "kubernetes": Kind(_kubernetes, "kubernetes", queued=True),
    "gateway": Kind(_gateway, "gateway", queued=True),
    **{
        name: Kind(partial(_batch, class_name), "jobqueue", queued=True, keys="files")
        for name, class_name in _BATCH_SYSTEMS.items()
    },
}


def start_cluster(cluster: ClusterConfig, security: Any | None) -> Any | None:
    """Start what the kind needs; None where a scheduler runs already.

    Args:
        cluster: the ``[cluster]`` section.
        security: the session's keys, as of :func:`pipeline.cluster.credentials.credentials`.

    Raises:
        ConfigError: the kind's extra is not installed, or the cluster cannot be started.
    """
    kind = KINDS[cluster.kind]
    if kind.start is None:
        return None
    workers = default_workers(cluster)
    try:
        import_module("distributed")
        started = kind.start(cluster, workers, security)
    except ImportError as error:
        what = f"cluster.kind = {cluster.kind!r}"
        raise missing(error.name, what, extra=kind.extra) from None
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"cluster.kind = {cluster.kind!r} cannot be started: {reason}; check the [cluster]"
            " section"
        ) from error
    if cluster.min_workers is not None:
        started.adapt(minimum=cluster.min_workers, maximum=workers)
    return started


def connect(cluster: ClusterConfig, started: Any | None) -> Any:
    """A client of a started cluster, or of a running scheduler.

    Raises:
        ConfigError: the extra is not installed, no scheduler answers, or TLS does not fit.
    """
    try:
        from distributed import Client
        from distributed.security import Security
    except ImportError as error:
        what = f"cluster.kind = {cluster.kind!r}"
        raise missing(error.name, what, extra=KINDS[cluster.kind].extra) from None
    if started is not None:
        return Client(started, timeout=CONNECT_TIMEOUT_S)
    security = None
    if cluster.tls_ca is not None:
        security = Security(
            tls_ca_file=cluster.tls_ca,
            tls_client_cert=cluster.tls_cert,
            tls_client_key=cluster.tls_key,
            require_encryption=True,
        )
    try:
        return Client(cluster.address, timeout=CONNECT_TIMEOUT_S, security=security)
    except (OSError, TimeoutError, ValueError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise SchedulerUnreachable(
            f"cluster.address {cluster.address!r}: no Dask scheduler answers ({reason});"
            " start one with `dask scheduler` or use kind = 'local'"
        ) from None
