"""Where a store's bytes are: a local directory, or any fsspec address for reading.

Both offer the same three reads: a whole file, ranges of a file into buffers, and a file's size.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


class Location(Protocol):
    """Read access to the files of one store, by path relative to its root."""

    address: str

    def read(self, path: str) -> bytes:
        """The whole file; FileNotFoundError if there is none."""

    def size(self, path: str) -> int:
        """The file's length in bytes; FileNotFoundError if there is none."""

    def read_ranges(self, path: str, offsets: list[int], buffers: list[Bytes]) -> int:
        """Fill each flat buffer from its offset; returns the file's size (one look at it).

        Buffers past the end of a file that is too short stay untouched: compare the size.
        """


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

    def read(self, path: str) -> bytes:
        """See `Location.read`."""
        return (self.root / path).read_bytes()

    def size(self, path: str) -> int:
        """See `Location.size`."""
        return os.stat(f"{self.address}/{path}").st_size

    def read_ranges(self, path: str, offsets: list[int], buffers: list[Bytes]) -> int:
        """See `Location.read_ranges`."""
        descriptor = os.open(f"{self.address}/{path}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            for offset, buffer in zip(offsets, buffers, strict=True):
                read_into(descriptor, buffer, offset)
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)


class RemoteLocation:
    """An fsspec address such as `s3://bucket/store`; for reading only."""

    def __init__(self, address: str, **options: Any) -> None:
        import fsspec

        self.address = address.rstrip("/")
        self._files, self._root = fsspec.core.url_to_fs(self.address, **options)

    def _path(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}"

    def read(self, path: str) -> bytes:
        """See `Location.read`."""
        return bytes(self._files.cat_file(self._path(path)))

    def size(self, path: str) -> int:
        """See `Location.size`."""
        return int(self._files.info(self._path(path))["size"])

    def read_ranges(self, path: str, offsets: list[int], buffers: list[Bytes]) -> int:
        """See `Location.read_ranges`."""
        size = self.size(path)
        stops = [offset + len(buffer) for offset, buffer in zip(offsets, buffers, strict=True)]
        name = self._path(path)
        parts = self._files.cat_ranges([name] * len(offsets), offsets, stops, on_error="raise")
        for part, buffer in zip(parts, buffers, strict=True):
            if len(part) == len(buffer):
                buffer[:] = np.frombuffer(part, np.uint8)
        return size


def locate(path: str | Path) -> LocalLocation | RemoteLocation:
    """The location of a store given as a directory or as an fsspec address."""
    if isinstance(path, str) and "://" in path and not path.startswith("file://"):
        return RemoteLocation(path)
    return LocalLocation(Path(str(path).removeprefix("file://")))
