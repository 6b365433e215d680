"""A run's folder for workers that share no disk: it goes to them with a task, and comes back.

    call = Carried(fit_layer, Needs(reads=("probes/*/ffn_003.*",)))
    result = call.open(session_call(call, *call.packed(task)))

Where the store is in a bucket, nothing else is common to the machines. What a task reads of the
run's folder travels in its message; on the worker it lies in a temporary folder, which the task
takes for the run's; what the task wrote there travels back, and the process that began the run,
which alone writes the run's folder, puts it in its place.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pipeline.config import RunConfig, is_address
from store import disk

T = TypeVar("T")
Files = Mapping[str, bytes]
"""Path in the run's folder -> content."""
LEFT_THERE = ("grams",)
"""Folders that do not come back: they save work to whoever makes them, and are large."""


@dataclass(frozen=True)
class Needs:
    """What a task has to do with its run's folder.

    Attributes:
        reads: patterns of the files in it that the task reads.
        replaces: folders in it that the task makes anew.
    """

    reads: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()


def shares_no_folder(config: RunConfig) -> bool:
    """Whether a run's workers need not see the folders of who began it."""
    return is_address(config.store.path)


@dataclass(frozen=True)
class Carried(Generic[T]):
    """Runs on a worker: a function of a run's configuration, with its own folder for the run's."""

    function: Callable[..., T]

    @property
    def __name__(self) -> str:
        return self.function.__name__

    def __call__(self, files: Files, config: RunConfig, *others: Any) -> tuple[T, Files]:
        """The function's result, and the files that it wrote or changed."""
        with tempfile.TemporaryDirectory(prefix="salient-run-") as name:
            folder = Path(name)
            _unpack(folder, files)
            result = self.function(config.model_copy(update={"run_dir": name}), *others)
            found = _pack(folder, ("**/*",))
        return result, {path: one for path, one in found.items() if files.get(path) != one}


def carried_with(
    tasks: Iterable[tuple[Any, ...]], needs: Callable[..., Needs]
) -> Iterable[tuple[Any, ...]]:
    """The tasks with the files that each reads, packed when it is drawn."""
    for task in tasks:
        yield _pack(Path(task[0].run_dir), needs(*task).reads), *task


def put_back(config: RunConfig, needs: Needs, files: Files) -> None:
    """Put what came back from a task into the run's folder; whole, or it is made again later.

    Cards say that something is complete: the old ones go first, the new ones come last.
    """
    folder = Path(config.run_dir)
    for name in needs.replaces:
        shutil.rmtree(disk.confined(folder, name, said_by="a worker"), ignore_errors=True)
    places = {path: disk.confined(folder, path, said_by="a worker") for path in files}
    cards = {path for path in files if path.endswith(".json")}
    for path in cards:
        places[path].unlink(missing_ok=True)
    for some in (files.keys() - cards, cards):
        disk.write_files({places[path]: [files[path]] for path in sorted(some)})


def _pack(folder: Path, patterns: Iterable[str]) -> dict[str, bytes]:
    """The files of a folder that fit one of the patterns."""
    found = {}
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.is_file() and not hidden and name.parts[0] not in LEFT_THERE:
            found[name.as_posix()] = path.read_bytes()
    return found


def _unpack(folder: Path, files: Files) -> None:
    for name, content in files.items():
        path = disk.confined(folder, name, said_by="the client")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
