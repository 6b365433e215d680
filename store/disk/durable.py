"""Bytes that survive a power cut: write, fsync, rename, fsync of the directory.

Every file of a store appears under its name complete or not at all. `watch_steps` lets a test see
(and die at) each fsync, rename and removal; it is the only hook.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import math
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from store.errors import PASSES, WRONG_PATH, StoreBusy, StoreError, StoreInputError

Buffer = Any  # bytes, memoryview or a C-contiguous ndarray
TEMPORARY_SUFFIX = ".tmp"
PAGE_BYTES = 4096
DIRECT_BYTES = 2**20
"""From this size on, page-aligned parts are written past the page cache: the kernel's copy costs
ten times the processor time, which extraction has better use for."""

_watcher: Callable[[str], None] | None = None


def watch_steps(watcher: Callable[[str], None] | None) -> None:
    """Call `watcher(step)` before and after every fsync, rename, removal and change of a bucket."""
    global _watcher
    _watcher = watcher


def step(name: str) -> None:
    """Say a step to whoever watches; see `watch_steps`."""
    if _watcher is not None:
        _watcher(name)


def explain(error: OSError, path: Path) -> StoreError:
    """A StoreError that says what the operating system refused and what to do about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreBusy(
            f"{path}: no space left on the disk (or quota); nothing committed is harmed: "
            "free some space and run again, finished blocks are kept"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreInputError(
            f"{path}: not writable ({error.strerror}); writing needs permission on the whole "
            "store directory, reading does not"
        )
    if error.errno == errno.ELOOP:
        return StoreInputError(
            f"{path}: a symbolic link stands where a file is to be written, which might lead "
            "anywhere; remove the link"
        )
    if error.errno in WRONG_PATH:
        return StoreInputError(f"{path}: cannot be made ({error.strerror}); choose another path")
    kind = StoreBusy if error.errno in PASSES else StoreError
    return kind(f"{path}: {error.strerror or error}; nothing committed is harmed")


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    step("before sync_directory")
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    step("after sync_directory")


def make_directories(path: Path) -> None:
    """Create a directory and its parents, with durable names."""
    missing = []
    current = path
    while not current.exists():
        missing.append(current)
        current = current.parent
    try:
        path.mkdir(parents=True, exist_ok=True)
        for directory in reversed(missing):
            sync_directory(directory.parent)
    except OSError as error:
        raise explain(error, path) from error


def write_file(
    path: Path, parts: Iterable[Buffer], *, sync_name: bool = True, shared: bool = False
) -> None:
    """Write `parts` one after another to `path`: all of it or nothing.

    Args:
        path: where the file appears (replacing a file of that name).
        parts: bytes-like objects.
        sync_name: also fsync the directory; False where the caller syncs it once for many files.
        shared: several processes may write this path at once, so each takes a temporary name of
            its own. Otherwise (the caller holds a lock) the name is fixed: what a killed process
            left behind is overwritten by the next attempt.

    Raises:
        StoreError: no space, no permission.
    """
    fill_file(path, lambda file: _write_parts(file, parts), sync_name=sync_name, shared=shared)


def fill_file(
    path: Path, fill: Callable[[Path], object], *, sync_name: bool = True, shared: bool = False
) -> None:
    """Let `fill` write a new file, durably, that then appears as `path`: all of it or nothing.

    For what is streamed to a file by name; the rest is as in `write_file`.
    """
    suffix = f".{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}" if shared else TEMPORARY_SUFFIX
    # Hidden, for whoever reads all files of a folder leaves such names out.
    temporary = path.with_name(f".{path.name}{suffix}")
    try:
        if not shared:  # what a killed process left, or a link that leads anywhere
            temporary.unlink(missing_ok=True)
        fill(temporary)
        sync_file(temporary)
        replace_file(temporary, path)
        if sync_name:
            sync_directory(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise explain(error, path) from error
        raise


@contextlib.contextmanager
def made_beside(target: Path) -> Iterator[Path]:
    """A new folder to fill, beside its place and then renamed: all of it or nothing.

    Whoever fails leaves nothing; what whoever was killed has left goes with the next run.

    Raises:
        FileExistsError: there is something by then, and no empty folder.
    """
    for entry in target.parent.glob(f".{glob.escape(target.name)}.{'?' * 12}{TEMPORARY_SUFFIX}"):
        with contextlib.suppress(OSError):  # its maker lives, and holds it
            held = _held(entry)
            shutil.rmtree(entry, ignore_errors=True)
            os.close(held)
    folder, lock = _new_held(target)
    try:
        yield folder
        try:
            replace_file(folder, target)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise FileExistsError(str(target)) from None
            raise explain(error, target) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)
    sync_directory(target.parent)


def _new_held(target: Path) -> tuple[Path, int | None]:
    """A new folder beside its place, and its lock; None on a file system without locks."""
    while True:
        folder = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}{TEMPORARY_SUFFIX}")
        make_directories(folder)
        try:
            lock = _held(folder)
        except (FileNotFoundError, BlockingIOError):  # another run took it for a dead one's
            continue
        except OSError:
            return folder, None
        if folder.exists():
            return folder, lock
        os.close(lock)


def _held(folder: Path) -> int:
    """A descriptor that locks a folder as long as this process lives; OSError if another has it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def write_files(contents: Mapping[Path, Iterable[Buffer]]) -> None:
    """Write several small files, each like `write_file`, waiting for the disk only once or twice.

    The fsyncs run side by side, which a journalling file system answers together. The order in
    which the files appear is not defined.
    """
    with ThreadPoolExecutor(8, thread_name_prefix="durable") as pool:
        for path in {path.parent for path in contents}:
            make_directories(path)
        jobs = [
            pool.submit(write_file, path, parts, sync_name=False)
            for path, parts in contents.items()
        ]
        for job in jobs:
            job.result()
        sync_directories({path.parent for path in contents}, pool)


def sync_directories(paths: Iterable[Path], pool: ThreadPoolExecutor | None = None) -> None:
    """Make the names in several directories durable."""
    if pool is None:
        with ThreadPoolExecutor(8, thread_name_prefix="durable") as own:
            sync_directories(paths, own)
        return
    for job in [pool.submit(sync_directory, path) for path in sorted(paths)]:
        job.result()


def _write_parts(path: Path, parts: Iterable[Buffer]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    try:
        for part in parts:
            view = memoryview(part).cast("B")
            view = view[_write_directly(descriptor, view) :]
            while len(view):
                view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    """Make the content of a file durable."""
    step("before sync_file")
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    step("after sync_file")


def _write_directly(descriptor: int, view: memoryview) -> int:
    """Write a part past the page cache if its size and place, and the file system, allow it.

    Returns:
        The bytes written: all, or where direct writing is not possible fewer, maybe none.
    """
    aligned = len(view) % PAGE_BYTES == 0 and _address(view) % PAGE_BYTES == 0
    if len(view) < DIRECT_BYTES or not aligned or not hasattr(os, "O_DIRECT"):
        return 0
    if os.lseek(descriptor, 0, os.SEEK_CUR) % PAGE_BYTES:
        return 0
    flags, done = fcntl.fcntl(descriptor, fcntl.F_GETFL), 0
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
        while done < len(view) and done % PAGE_BYTES == 0:
            done += os.write(descriptor, view[done:])
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    return done


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data) if len(view) else 0


def page_aligned(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """An uninitialised C-order array of a shape, for `write_file` to write without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + PAGE_BYTES, np.uint8)
    first = -memory.ctypes.data % PAGE_BYTES
    return memory[first : first + size].view(dtype).reshape(shape)


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it; nothing if it is not there."""
    step("before remove")
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    step("after remove")


def replace_file(source: Path, target: Path) -> None:
    """Atomic rename (the caller syncs the directory)."""
    step("before rename")
    os.replace(source, target)
    step("after rename")
