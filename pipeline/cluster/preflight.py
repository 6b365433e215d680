"""Checks before work starts: every worker has this process's packages and sees its folders.

A worker with other versions may give other numbers, and one that sees another disk writes where
nobody looks. The client puts a token into each folder; a worker must read it there and answer with
a file of its own, which the client must see. Where a run's store is in a bucket there are no such
folders; a worker must then reach the bucket.
"""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError
from pipeline.progress import Say
from store.disk import ObjectLocation, is_url, locate, use_storage
from store.errors import SalientError

COMPARED = (
    "dask",
    "distributed",
    "numpy",
    "pyarrow",
    "safetensors",
    "scikit-learn",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
    "zarr",
)
"""Packages whose versions must be the same everywhere."""
OWN_PACKAGES = ("pipeline", "store")
"""Packages whose code must be the same everywhere."""
GPU = "GPU"
"""The resource that GPU workers offer and GPU tasks take one of."""
TOKEN = ".salient-token-"
SEEN_WITHIN_S = 10.0
"""Network file systems may show a new file some seconds late."""
FORGOTTEN_AFTER_S = 30 * 86400.0


class WorkerRefused(SalientError):
    """A worker must not take part: other packages, another disk, no GPU."""

    def __init__(self, worker: str, problem: str) -> None:
        super().__init__(worker, problem)
        self.worker = worker
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.worker}: {self.problem}"


@dataclass(frozen=True)
class Ticket:
    """What a worker is checked against; small, for it travels with every task.

    Attributes:
        id: of the session.
        versions: as of :func:`versions`.
        folders: folders that hold a token, to be written by workers.
        inputs: files or folders, or addresses of buckets, that workers must be able to read.
        cores: of a worker; None: as many as it has threads.
        gpu: whether tasks need a GPU.
        storage: how buckets are reached; no credentials, which each worker has of its own.
    """

    id: str
    versions: Mapping[str, str]
    folders: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    cores: int | None = None
    gpu: bool = False
    storage: Mapping[str, Any] = field(default_factory=dict)


@cache
def versions() -> dict[str, str]:
    """Versions of Python, of the packages that results depend on, and a digest of our own code."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for name in COMPARED:
        try:
            # A build such as +cpu or +cu126 may differ: GPU workers under a driver without one.
            found[name] = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    found["salient"] = code_digest(OWN_PACKAGES)
    return found


def code_digest(packages: Sequence[str]) -> str:
    """Digest of all Python files of some packages, however deep, and of where in them they lie.

    Stubs count: a door exports what its stub names.
    """
    digest = hashlib.sha256()
    for package in packages:
        root = Path(str(resources.files(package)))
        for path in sorted([*root.rglob("*.py"), *root.rglob("*.pyi")]):
            name = f"{package}/{path.relative_to(root).as_posix()}"
            digest.update(f"{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@contextmanager
def tokens(folders: Sequence[Path], ticket_id: str) -> Iterator[None]:
    """Put a token into each folder, made where missing, and take it away in the end.

    Raises:
        ConfigError: a folder cannot be written.
    """
    try:
        for folder in folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                _forget_old(folder)
                (folder / f"{TOKEN}{ticket_id}").write_text(ticket_id)
            except OSError as error:
                raise ConfigError(
                    f"{folder}: cannot be written ({error.strerror}); choose another folder"
                ) from None
        yield
    finally:
        for folder in folders:
            for path in folder.glob(f"{TOKEN}{ticket_id}*"):
                path.unlink(missing_ok=True)


def _forget_old(folder: Path) -> None:
    """Take away the tokens of clients that were killed long ago."""
    for path in folder.glob(f"{TOKEN}*"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - FORGOTTEN_AFTER_S:
                path.unlink()


def worker_problem(ticket: Ticket, dask_worker: Any = None) -> str | None:
    """Runs on a worker: what is wrong with it; None if nothing is.

    Leaves an answer beside each token.

    Args:
        ticket: of the session.
        dask_worker: the worker; Dask fills it in.
    """
    use_storage(ticket.storage)
    own = versions()
    for name, wanted in ticket.versions.items():
        if own.get(name) != wanted:
            what = "the code of salient" if name == "salient" else name
            return (
                f"{what} is {own.get(name)}, the client's is {wanted}; install the same versions"
                " (pip install -c requirements.lock, or the same image) and start the worker again"
            )
    for folder in map(Path, ticket.folders):
        if not _appears(folder / f"{TOKEN}{ticket.id}"):
            return (
                f"{folder} is not the client's folder (its token is not there); mount the same"
                " file system at the same path, or move run_dir and store.path to a shared one"
            )
        try:
            answer = folder / f"{TOKEN}{ticket.id}.{uuid.uuid4().hex[:8]}"
            answer.write_text(f"{socket.gethostname()} {os.getpid()}")
        except OSError as error:
            return f"{folder} cannot be written there ({error.strerror}); check its permissions"
    for path in ticket.inputs:
        if is_url(path):
            if (problem := _unreached(path)) is not None:
                return problem
        elif not os.access(path, os.R_OK):
            return (
                f"{path} cannot be read there; put it on a file system that workers share, or at"
                " that path on each of them"
            )
    if ticket.gpu and dask_worker is not None and offers_gpu(dask_worker.state.total_resources):
        import torch

        if not torch.cuda.is_available():
            return "offers the resource GPU, but torch finds no CUDA device there"
    return None


def _unreached(address: str) -> str | None:
    """What keeps this process from a place in a bucket; nothing need lie there yet."""
    place = locate(address)
    assert isinstance(place, ObjectLocation)
    try:
        next(place.list(), None)
    except SalientError as error:
        return (
            f"cannot reach the store there ({error}); give workers credentials of their own"
            " (environment, profile, or the machine's role)"
        )
    return None


def offers_gpu(resources: Mapping[str, float]) -> bool:
    """Whether a worker with these resources takes GPU tasks."""
    return resources.get(GPU, 0) >= 1


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + SEEN_WITHIN_S
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
        try:
            os.listdir(path.parent)  # makes a network file system look again
        except OSError:
            return False
    return True


_accepted: set[str] = set()


def admit(ticket: Ticket, worker: Any) -> None:
    """Runs on a worker before its first task of a session.

    Raises:
        WorkerRefused: see :func:`worker_problem`.
    """
    if ticket.id in _accepted:
        use_storage(ticket.storage)  # another session may have come between
        return
    problem = worker_problem(ticket, worker)
    if problem is not None:
        raise WorkerRefused(worker.address, problem)
    _accepted.add(ticket.id)


def check_workers(client: Any, ticket: Ticket, *, say: Say) -> None:
    """Check all present workers; later ones are checked with their first task.

    Raises:
        ConfigError: a worker that must not take part; all of them are counted, the first named.
    """
    answers = client.run(worker_problem, ticket, on_error="return")
    problems = {worker: _problem(answer) for worker, answer in answers.items() if answer}
    if problems:
        names = sorted(problems)
        more = f" (and {len(names) - 1} more workers)" if len(names) > 1 else ""
        raise ConfigError(f"worker {names[0]}: {problems[names[0]]}{more}")
    for folder in map(Path, ticket.folders):
        deadline = time.monotonic() + SEEN_WITHIN_S
        # The token itself matches too.
        while len(list(folder.glob(f"{TOKEN}{ticket.id}*"))) < len(answers) + 1:
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"{folder}: workers write to another folder of that name; mount the same file"
                    " system at the same path everywhere"
                )
            time.sleep(0.2)
    if ticket.gpu:
        _check_gpus(client)
    shared = "packages and folders" if ticket.folders else "packages"
    say(f"workers: {len(answers)}, with the same {shared} as here")


def _problem(answer: str | BaseException) -> str:
    if isinstance(answer, str):
        return answer
    if isinstance(answer, ModuleNotFoundError):
        return f"has no package {answer.name}; install salient there in the same version"
    return f"{type(answer).__name__}: {answer}"


def _check_gpus(client: Any) -> None:
    """Unmet resources would wait for ever."""
    found = client.scheduler_info(n_workers=-1)["workers"]
    if not any(offers_gpu(worker["resources"]) for worker in found.values()):
        raise ConfigError(
            'device = "cuda", but no worker offers the resource GPU; start workers with'
            " `dask worker --resources 'GPU=1'`, one for each model that a GPU shall hold"
        )
