"""Locks between processes, and which file systems can be trusted with them.

In a store `commit.lock` is held for the moments of a commit, and `append.lock` is the lease of the
one process whose append is under way. They are `flock` locks: the kernel drops them when the
process dies.

Who comes second waits: for as long as it takes, or, with ``SALIENT_WAIT_S=60`` in the environment,
for so many seconds; then `StoreBusy` says who holds the lock.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from store.disk.durable import explain
from store.errors import StoreBusy, StoreError, StoreInputError

logger = logging.getLogger(__name__)

POLL_S = 0.05
WAIT_IN_SILENCE_S = 2.0
PATIENCE = "SALIENT_WAIT_S"
"""Environment variable: seconds to wait for a lock at most; without it there is no end."""
# Network file systems without locks and atomic renames that all clients see.
UNSAFE_FILE_SYSTEMS = ("cifs", "smb3", "smbfs", "vboxsf", "9p", "ncpfs", "afs", "davfs")
UNSAFE_OPTIONS = {
    "nfs": ("nolock", "local_lock=all", "local_lock=flock"),
    "nfs4": ("nolock", "local_lock=all", "local_lock=flock"),
    "lustre": ("noflock", "localflock"),
}


class FileLock:
    """An exclusive lock on a file, held by this object until `release`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def acquire(self, *, on_wait: Callable[[str], None] | None = None, signed: bool = True) -> None:
        """Take the lock, waiting for whoever holds it.

        Args:
            on_wait: called with the holder's name if the lock is not free; by default a wait of
                more than a few seconds is logged.
            signed: write this process's name into the file, for those who wait.

        Raises:
            StoreBusy: held for longer than ``SALIENT_WAIT_S`` allows.
            StoreError: no permission, or the file system has no locks.
        """
        if self.held:
            return
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self.path, flags, 0o666)
        except OSError as error:
            raise explain(error, self.path) from error
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise StoreError(f"{self.path}: the lock is no regular file; remove it")
            self._wait(descriptor, on_wait)
            if signed:
                name = f"process {os.getpid()} on {os.uname().nodename}"
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, name.encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _held_in_this_process.add(self)

    def _wait(self, descriptor: int, on_wait: Callable[[str], None] | None) -> None:
        started, longest = time.monotonic(), patience()
        told = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                pass
            except OSError as error:
                raise StoreInputError(
                    f"{self.path}: the file system has no locks ({error.strerror}); write the "
                    "store to a local disk or a POSIX file system with locks"
                ) from error
            waited = time.monotonic() - started
            holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
            if waited >= longest:
                raise StoreBusy(
                    f"{self.path}: held by {holder} for more than {longest:g} s ({PATIENCE}); try"
                    " again when that has ended"
                )
            if not told and (on_wait or waited > WAIT_IN_SILENCE_S):
                told = True
                if on_wait:
                    on_wait(holder)
                else:
                    logger.warning("waiting for %s, held by %s", self.path, holder)
            time.sleep(POLL_S)

    def release(self) -> None:
        """Let go; harmless when not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            _held_in_this_process.discard(self)


def patience() -> float:
    """Seconds to wait for others at most, by ``SALIENT_WAIT_S``; without it there is no end."""
    text = os.environ.get(PATIENCE, "").strip()
    try:
        longest = float(text or "inf")
    except ValueError:
        longest = math.nan
    if not longest >= 0:
        raise StoreInputError(f"{PATIENCE} is {text!r}; give seconds, such as 60, or unset it")
    return longest


_held_in_this_process: set[FileLock] = set()


def _forget_after_fork() -> None:
    # A forked worker inherits the descriptor; closing its copy leaves the parent's lock alone, and
    # keeping it would hold the lock after the parent's death.
    for lock in list(_held_in_this_process):
        lock.release()


os.register_at_fork(after_in_child=_forget_after_fork)


@contextmanager
def locked(
    path: Path, *, on_wait: Callable[[str], None] | None = None, signed: bool = True
) -> Iterator[None]:
    """Hold the lock on `path` for the length of a `with` block; see `FileLock.acquire`."""
    lock = FileLock(path)
    lock.acquire(on_wait=on_wait, signed=signed)
    try:
        yield
    finally:
        lock.release()


def check_writable_file_system(path: Path, mounts: str | None = None) -> None:
    """Refuse directories where a commit would not be safe.

    Args:
        path: an existing directory.
        mounts: the text of /proc/mounts; read from the system by default.

    Raises:
        StoreError: a network file system without locks (NFS mounted `nolock`, SMB, FUSE ...).
    """
    if mounts is None:
        try:
            mounts = Path("/proc/mounts").read_text()
        except OSError:  # not Linux: the lock itself is the only test
            return
    kind, options = _mount_of(path.resolve(), mounts)
    bad = [option for option in UNSAFE_OPTIONS.get(kind, ()) if option in options]
    if bad or kind in UNSAFE_FILE_SYSTEMS or kind.startswith("fuse."):
        detail = f"{kind} mounted with {bad[0]}" if bad else kind
        raise StoreInputError(
            f"{path}: writing to {detail} is not safe, its locks do not reach other machines; "
            "write to a local disk or a shared POSIX file system with locks (reading is fine)"
        )


def _mount_of(path: Path, mounts: str) -> tuple[str, tuple[str, ...]]:
    best, kind, options = "", "", ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 4:
            continue
        point = fields[1].replace("\\040", " ")
        inside = path == Path(point) or Path(point) in path.parents
        if inside and len(point) >= len(best):
            best, kind, options = point, fields[2], fields[3]
    return kind, tuple(options.split(","))


_process_locks: dict[Path, FileLock] = {}


def process_lock(path: Path) -> FileLock:
    """The one lock object of this process for `path`: holding it again is no waiting."""
    whole = path.parent.resolve() / path.name  # a link in place of the lock itself is refused
    return _process_locks.setdefault(whole, FileLock(whole))
