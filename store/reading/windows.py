"""Manifests in a bucket, read by the window: who asks for a few bytes asks for more soon.

A manifest is opened by its first bytes, then its header, its count, the checksums of a layer: on a
disk four small reads. Here what a window holds is asked for once, and windows side by side are one
request.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from store.disk import FROM_BACKUP, ObjectLocation

Bytes = npt.NDArray[np.uint8]
WINDOW_BYTES = 2**15
MAX_WINDOWS = 1024


class Windows:
    """The `Location` of files in a bucket that are read in small parts and never change."""

    def __init__(self, location: ObjectLocation) -> None:
        self.address = location.address
        self.bytes_read = 0
        self.requests = 0
        self._location = location
        self._held: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()

    def read(self, path: str, *, max_bytes: int | None = None, remedy: str = FROM_BACKUP) -> bytes:
        """See `Location.read`."""
        return self._location.read(path, max_bytes=max_bytes, remedy=remedy)

    def size(self, path: str) -> int:
        """See `Location.size`."""
        with self._lock:
            known = self._sizes.get(path)
        if known is None:
            self._fetch(path, 0, 1)
            known = self._sizes[path]
        return known

    def read_ranges(self, path: str, offsets: list[int], buffers: list[Bytes]) -> int:
        """See `Location.read_ranges`."""
        size = self.size(path)
        spans = [
            (offset, min(offset + len(buffer), size), buffer)
            for offset, buffer in zip(offsets, buffers, strict=True)
        ]
        wanted = sorted(
            {
                number
                for start, stop, _ in spans
                for number in range(start // WINDOW_BYTES, -(-stop // WINDOW_BYTES))
            }
        )
        found = self._windows(path, wanted)
        for start, stop, buffer in spans:
            if not len(buffer) or stop - start < len(buffer):
                continue
            first, last = start // WINDOW_BYTES, -(-stop // WINDOW_BYTES)
            content = b"".join(found[number] for number in range(first, last))
            at = start - first * WINDOW_BYTES
            buffer[:] = np.frombuffer(content, np.uint8, stop - start, at)
        return size

    def map(self, path: str, num_bytes: int) -> tuple[int, Bytes] | None:
        """See `Location.map`."""
        return None

    def names(self, folder: str) -> list[str]:
        """See `Location.names`."""
        return self._location.names(folder)

    def files(self) -> Iterator[str]:
        """See `Location.files`."""
        return self._location.files()

    def _windows(self, path: str, numbers: list[int]) -> dict[int, bytes]:
        with self._lock:
            found = {n: self._held[path, n] for n in numbers if (path, n) in self._held}
            for number in found:
                self._held.move_to_end((path, number))
        missing = [number for number in numbers if number not in found]
        start = 0
        for place, number in enumerate(missing):
            if place + 1 == len(missing) or missing[place + 1] != number + 1:
                found |= self._fetch(path, missing[start], number + 1)
                start = place + 1
        return found

    def _fetch(self, path: str, first: int, stop: int) -> dict[int, bytes]:
        """Windows `[first, stop)` of a file by one request, which tells the file's size too."""
        content, size = self._location.peek(path, first * WINDOW_BYTES, stop * WINDOW_BYTES)
        parts = {
            first + place: content[place * WINDOW_BYTES : (place + 1) * WINDOW_BYTES]
            for place in range(stop - first)
        }
        with self._lock:
            self.bytes_read += len(content)
            self.requests += 1
            self._sizes[path] = size
            for number, part in parts.items():
                self._held[path, number] = part
            while len(self._held) > MAX_WINDOWS:
                self._held.popitem(last=False)
        return parts
