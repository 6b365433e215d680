"""Where a store's bytes are: a local directory, a bucket, or any fsspec address for reading.

`objects` holds the bucket, and `verbs` what it and a directory have in common. All places offer the
same three reads (a whole file, ranges of a file into buffers, a file's size) and two looks around
(a folder's names, all files); a directory also maps a file into memory.

A store may come from elsewhere, and what its files say is data: `confined` is the one place where
a path from a file becomes a path on this machine, and none leads out of the store's folder.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from store.disk.checked import FROM_BACKUP, damaged
from store.disk.durable import (
    TEMPORARY_SUFFIX,
    explain,
    make_directories,
    step,
    sync_directory,
    write_file,
)
from store.disk.locks import locked
from store.disk.verbs import Buffer, Meta, ObjectChanged
from store.errors import PASSES, SalientError, StoreBusy, StoreError, StoreInputError

Bytes = npt.NDArray[np.uint8]


def check_relative(path: str, *, said_by: str) -> str:
    """The path, if its text alone leads nowhere but into the folder that it is relative to.

    Args:
        path: as a file of the store says it.
        said_by: that file (or the store), for the error.

    Raises:
        StoreError: an empty, `.` or `..` part (so an absolute path), a backslash or NUL.
    """
    parts = path.split("/")
    if "\0" in path or "\\" in path or any(part in ("", ".", "..") for part in parts):
        raise _outside(path, said_by)
    return path


def confined(root: Path, path: str, *, said_by: str) -> Path:
    """`root / path`, where that is inside `root` with all symbolic links followed.

    Args:
        root: the store's folder; it may be a link itself.
        path: relative to it, as a file of the store says it.
        said_by: that file (or the store), for the error.

    Raises:
        StoreError: the path leads outside.
    """
    check_relative(path, said_by=said_by)
    whole = root / path
    inside = os.path.join(os.path.realpath(root), "")
    if not os.path.realpath(whole).startswith(inside):
        raise _outside(path, said_by)
    return whole


def check_folders(root: Path, folders: Mapping[str, int]) -> None:
    """Refuse to write into a store in which a link leads outside.

    Args:
        root: the store's folder.
        folders: relative to it, and how many levels below are looked at: those whose folders or
            files are opened by name. What lies deeper is replaced by renaming or removed, and
            that touches a link itself, not what it leads to. Missing folders are no harm.

    Raises:
        StoreError: a link leads outside, or there is no permission to look.
    """
    for folder, depth in folders.items():
        if os.path.islink(root / folder):
            confined(root, folder, said_by=str(root))
        entries = []
        if depth:
            try:
                entries = list(os.scandir(root / folder))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise explain(error, root / folder) from error
        for entry in entries:
            path = f"{folder}/{entry.name}"
            if entry.is_symlink():
                confined(root, path, said_by=str(root))
            elif entry.is_dir():
                check_folders(root, {path: depth - 1})


def _outside(path: str, said_by: str) -> StoreError:
    return StoreError(
        f"{said_by}: the path {path!r} leads out of the store's folder, where nothing of a store "
        "may be; do not trust this store, take it anew from where it was made (a folder that you "
        "moved to another disk with a link: move it back, or mount the disk there)"
    )


class Location(Protocol):
    """Read access to the files of one store, by path relative to its root."""

    address: str

    def read(self, path: str, *, max_bytes: int | None = None, remedy: str = FROM_BACKUP) -> bytes:
        """The whole file; FileNotFoundError if there is none.

        Args:
            path: of the file.
            max_bytes: StoreError beyond it, before anything is read.
            remedy: what to do about a file that is too long.
        """

    def size(self, path: str) -> int:
        """The file's length in bytes; FileNotFoundError if there is none."""

    def read_ranges(self, path: str, offsets: list[int], buffers: list[Bytes]) -> int:
        """Fill each flat buffer from its offset; returns the file's size (one look at it).

        Buffers past the end of a file that is too short stay untouched: compare the size.
        """

    def map(self, path: str, num_bytes: int) -> tuple[int, Bytes] | None:
        """The file's size and its first bytes as a read-only memory map; None: read ranges.

        A file shorter than `num_bytes` gives an empty map: compare the size.
        """

    def names(self, folder: str) -> list[str]:
        """What a folder holds, sorted; nothing if there is none, StoreError if it is closed."""

    def files(self) -> Iterator[str]:
        """The paths of all files; links are not followed."""


def read_into(descriptor: int, buffer: Bytes, offset: int) -> int:
    """Fill `buffer` from a file; returns how much there was (a single read stops at 2 GiB)."""
    done = os.preadv(descriptor, [buffer.data], offset)
    while 0 < done < len(buffer):
        more = os.preadv(descriptor, [buffer[done:].data], offset + done)
        if more == 0:
            break
        done += more
    return done


class LocalLocation:
    """A directory of this machine or of a mounted file system."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.address = str(root)
        # Folders that are known not to lead outside; another process looks for itself.
        self._inside: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalLocation, (self.root,)

    def read(self, path: str, *, max_bytes: int | None = None, remedy: str = FROM_BACKUP) -> bytes:
        """See `Location.read`."""
        with open(self._open(path), "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            _check_size(f"{self.address}/{path}", size, max_bytes, remedy)
            try:
                return file.read()
            except MemoryError:
                raise _too_large(f"{self.address}/{path}", size, remedy) from None

    def size(self, path: str) -> int:
        """See `Location.size`."""
        descriptor = self._open(path)
        try:
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

    def read_ranges(self, path: str, offsets: list[int], buffers: list[Bytes]) -> int:
        """See `Location.read_ranges`."""
        descriptor = self._open(path)
        try:
            for offset, buffer in zip(offsets, buffers, strict=True):
                read_into(descriptor, buffer, offset)
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

    def map(self, path: str, num_bytes: int) -> tuple[int, Bytes] | None:
        """See `Location.map`."""
        descriptor = self._open(path)
        try:
            size = os.fstat(descriptor).st_size
            if not 0 < num_bytes <= size:
                return size, np.empty(0, np.uint8)
            mapped = mmap.mmap(descriptor, num_bytes, prot=mmap.PROT_READ)
            return size, np.frombuffer(mapped, np.uint8)
        finally:
            os.close(descriptor)

    def names(self, folder: str) -> list[str]:
        """See `Location.names`."""
        try:
            place = confined(self.root, folder, said_by=self.address) if folder else self.root
            return sorted(os.listdir(place))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unlisted(f"{self.address}/{folder}", error) from error

    def files(self) -> Iterator[str]:
        """See `Location.files`."""
        for folder, folders, names in os.walk(self.address):
            base = os.path.relpath(folder, self.address)
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            for name in (*names, *links):
                yield os.path.normpath(os.path.join(base, name))

    # -- the verbs that a bucket has too (`store.disk.verbs`) ----------------------------------

    def child(self, path: str) -> LocalLocation:
        """A folder below this one."""
        return LocalLocation(self.root / check_relative(path, said_by=self.address))

    def head(self, path: str) -> Meta:
        """What is known of a file; FileNotFoundError if there is none."""
        descriptor = self._open(path)
        try:
            return _meta(path, os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def get(
        self, path: str, *, max_bytes: int | None = None, remedy: str = FROM_BACKUP
    ) -> tuple[bytes, Meta]:
        """A file whole, and what is known of it."""
        content = self.read(path, max_bytes=max_bytes, remedy=remedy)
        return content, self.head(path)

    def read_range(self, path: str, start: int, stop: int, *, etag: str | None = None) -> bytes:
        """Bytes `[start, stop)` of a file; fewer where it ends before."""
        descriptor = self._open(path)
        try:
            if etag is not None and _meta(path, os.fstat(descriptor)).etag != etag:
                raise ObjectChanged(
                    f"{self.address}/{path}: changed while it was read; what was read of it before"
                    " does not count, read it again"
                )
            buffer = np.empty(max(0, stop - start), np.uint8)
            return buffer[: read_into(descriptor, buffer, start)].tobytes()
        finally:
            os.close(descriptor)

    def put(self, path: str, parts: Buffer | Sequence[Buffer]) -> Meta:
        """See `Puts.put`."""
        target = self._target(path)
        write_file(target, _as_parts(parts), shared=True)
        return _meta(path, os.stat(target))

    def create(self, path: str, parts: Buffer | Sequence[Buffer]) -> bool:
        """See `Creates.create`; a link appears whole or finds the name taken."""
        target = self._target(path)
        beside = target.with_name(f".{target.name}.{os.urandom(4).hex()}{TEMPORARY_SUFFIX}")
        try:
            write_file(beside, _as_parts(parts), sync_name=False)
            try:
                step("before link")
                os.link(beside, target)
                step("after link")
            except FileExistsError:
                return False
            sync_directory(target.parent)
            return True
        except OSError as error:
            raise explain(error, target) from error
        finally:
            beside.unlink(missing_ok=True)

    def replace(self, path: str, parts: Buffer | Sequence[Buffer], found: Meta) -> bool:
        """See `Creates.replace`; those who replace exclude each other by a lock beside the file."""
        target = self._target(path)
        with locked(target.with_name(f".{target.name}.lock"), signed=False):
            try:
                if self.head(path).etag != found.etag:
                    return False
            except FileNotFoundError:
                return False
            write_file(target, _as_parts(parts))
            return True

    def copy(self, source: str, target: str) -> None:
        """Copy a file, in place of what is there."""
        self.put(target, self.read(source))

    def delete(self, paths: Iterable[str]) -> None:
        """See `Deletes.delete`."""
        for path in paths:
            step("before delete")
            self._target(path, make=False).unlink(missing_ok=True)
            step("after delete")

    def list(self, folder: str = "", *, after: str | None = None) -> Iterator[Meta]:
        """See `Lists.list`; files that are being written are left out."""
        base = confined(self.root, folder, said_by=self.address) if folder else self.root
        found = []
        for place, _, names in os.walk(base):
            for name in names:
                if name.startswith(".") and name.endswith((TEMPORARY_SUFFIX, ".lock")):
                    continue
                whole = os.path.join(place, name)
                path = os.path.relpath(whole, self.root)
                with contextlib.suppress(FileNotFoundError):
                    if after is None or path > after:
                        found.append(_meta(path, os.lstat(whole)))
        yield from sorted(found)

    def _target(self, path: str, *, make: bool = True) -> Path:
        target = confined(self.root, path, said_by=self.address)
        if make:
            make_directories(target.parent)
        return target

    def _open(self, path: str) -> int:
        """A descriptor of a regular file inside the folder; what else there is, is an OSError.

        Whether a folder leads outside is looked up once; a link in place of the file itself makes
        the first attempt fail, so that files of the usual kind cost nothing more.
        """
        folder = check_relative(path, said_by=self.address).rpartition("/")[0]
        if folder not in self._inside:
            confined(self.root, path, said_by=self.address)
            self._inside.add(folder)
        # A pipe without a writer would block for ever.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        whole = f"{self.address}/{path}"
        try:
            descriptor = os.open(whole, flags | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            confined(self.root, path, said_by=self.address)
            descriptor = os.open(whole, flags)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "no regular file")
        return descriptor


def _meta(path: str, status: os.stat_result) -> Meta:
    etag = f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_ctime_ns:x}-{status.st_size:x}"
    return Meta(path, status.st_size, etag, status.st_mtime)


def _as_parts(parts: Any) -> list[Any]:
    return list(parts) if isinstance(parts, (list, tuple)) else [parts]


class RemoteLocation:
    """An fsspec address that obstore does not serve, such as `hf://…`; for reading only."""

    def __init__(self, address: str, **options: Any) -> None:
        import fsspec

        self.address = address.rstrip("/")
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.address, **options)
        except ImportError as error:
            raise StoreInputError(
                f"{self.address}: {_without_package(self.address, error)}"
            ) from None
        except ValueError as error:  # no such scheme, or an address that it cannot have
            raise StoreInputError(
                f"{self.address}: no address of a store ({error}); give a local folder, or s3://…,"
                " gs://…, https://… and the like, as fsspec reads them"
            ) from None

    def _path(self, path: str) -> str:
        check_relative(path, said_by=self.address)
        return f"{self._root.rstrip('/')}/{path}"

    def read(self, path: str, *, max_bytes: int | None = None, remedy: str = FROM_BACKUP) -> bytes:
        """See `Location.read`."""
        if max_bytes is not None:  # before the download
            _check_size(f"{self.address}/{path}", self.size(path), max_bytes, remedy)
        with _reached(f"{self.address}/{path}"):
            return bytes(self._files.cat_file(self._path(path)))

    def size(self, path: str) -> int:
        """See `Location.size`."""
        with _reached(f"{self.address}/{path}"):
            return int(self._files.info(self._path(path))["size"])

    def read_ranges(self, path: str, offsets: list[int], buffers: list[Bytes]) -> int:
        """See `Location.read_ranges`."""
        size = self.size(path)
        stops = [offset + len(buffer) for offset, buffer in zip(offsets, buffers, strict=True)]
        name = self._path(path)
        with _reached(f"{self.address}/{path}"):
            parts = self._files.cat_ranges([name] * len(offsets), offsets, stops, on_error="raise")
        for part, buffer in zip(parts, buffers, strict=True):
            if len(part) == len(buffer):
                buffer[:] = np.frombuffer(part, np.uint8)
        return size

    def map(self, path: str, num_bytes: int) -> tuple[int, Bytes] | None:
        """See `Location.map`."""
        return None

    def names(self, folder: str) -> list[str]:
        """See `Location.names`."""
        try:
            with _reached(f"{self.address}/{folder}"):
                found = self._files.ls(self._path(folder), detail=False, refresh=True)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unlisted(f"{self.address}/{folder}", error) from error
        return sorted(str(name).rstrip("/").rpartition("/")[2] for name in found)

    def files(self) -> Iterator[str]:
        """See `Location.files`."""
        for name in self._files.find(self._root):
            yield str(name)[len(self._root.rstrip("/")) :].lstrip("/")


def _without_package(address: str, error: ImportError) -> str:
    """What to install for an address; some file systems have a package, others need several."""
    from fsspec.registry import known_implementations

    scheme = address.partition("://")[0]
    package = known_implementations.get(scheme, {}).get("class", "fsspec").partition(".")[0]
    if package == "fsspec":
        return f"a package is not installed that {scheme}:// needs ({error})"
    return f"{scheme}:// needs the package {package}, which is not installed: pip install {package}"


_REMOTE_NETWORK = ("Connect", "Timeout", "Network", "EndpointConnection", "Gaierror", "DNS")
"""In the names of what HTTP libraries raise where nobody answers; they share no class."""


@contextlib.contextmanager
def _reached(where: str) -> Iterator[None]:
    """Say what a remote file system's library raises in one line; FileNotFoundError goes on."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, SalientError):
        raise
    except PermissionError as error:
        raise StoreInputError(
            f"{where}: may not be read ({_said(error)}); check the address and the credentials"
        ) from None
    except Exception as error:
        names = " ".join(kind.__name__ for kind in type(error).__mro__)
        passes = isinstance(error, OSError) and (error.errno in PASSES or error.errno is None)
        if passes or any(name.lower() in names.lower() for name in _REMOTE_NETWORK):
            raise StoreBusy(
                f"{where}: cannot be reached now ({_said(error)}); check the network, try again"
            ) from None
        if isinstance(error, OSError):
            raise
        raise StoreInputError(
            f"{where}: cannot be read ({_said(error)}); check the address and the credentials"
        ) from None


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0][:200]}"


def _check_size(where: str, size: int, max_bytes: int | None, remedy: str) -> None:
    if max_bytes is not None and size > max_bytes:
        raise damaged(where, f"{size:,} bytes, at most {max_bytes:,}", remedy)


def _too_large(where: str, size: int, remedy: str) -> StoreError:
    return StoreError(
        f"{where}: {size:,} bytes do not fit into memory; take a machine with more, or, if it "
        f"should be shorter, {remedy}"
    )


def _unlisted(where: str, error: OSError) -> StoreError:
    return StoreInputError(
        f"{where}: what is in it cannot be seen ({error.strerror or error}); allow the store's "
        "folders to be read and searched by who opens it"
    )


def unreadable(where: str, error: OSError, remedy: str) -> StoreError:
    """The error for a file that is there and cannot be read."""
    denied = error.errno in (errno.EACCES, errno.EPERM)
    return (StoreInputError if denied else StoreError)(
        f"{where}: cannot be read ({error.strerror or error}); allow it to be read, or {remedy}"
    )
