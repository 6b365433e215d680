"""Objects that are read again and again, kept on this machine from the first time on.

    store.location = kept_here(store.location, num_bytes)

What is kept has no name: it takes room in the folder of temporary files, and is gone with the last
who uses it, however that ends. It is for objects that never change, as a store's shards.
"""

from __future__ import annotations

import mmap
import shutil
import tempfile
import threading
from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from weakref import WeakValueDictionary

from store.disk.objects import ObjectLocation

FREE_SHARE = 0.5
"""Of the free room what may be taken at most."""


class KeptObjects(ObjectLocation):
    """A folder of a bucket whose fetched objects are read from the bucket once."""

    def __init__(self, address: str, options: Any = None) -> None:
        super().__init__(address, options)
        self._contents: dict[str, memoryview] = {}
        self._locks: dict[str, threading.Lock] = defaultdict(threading.Lock)

    def fetch(self, path: str, starts: Sequence[int], stops: Sequence[int]) -> list[Any]:
        """See `ObjectLocation.fetch`."""
        content = self._content(path)
        return [content[start:stop] for start, stop in zip(starts, stops, strict=True)]

    def fetch_all(self, path: str) -> Any:
        """See `ObjectLocation.fetch_all`."""
        return self._content(path)

    def _content(self, path: str) -> memoryview:
        with self._locks[path]:
            if path not in self._contents:
                self._contents[path] = _put_away(self.read(path))
            return self._contents[path]


def _put_away(content: bytes) -> memoryview:
    if not content:
        return memoryview(b"")
    with tempfile.TemporaryFile(prefix="salient-") as file:
        file.write(content)
        file.flush()
        return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))


_places: WeakValueDictionary[tuple[str, str], KeptObjects] = WeakValueDictionary()
_lock = threading.Lock()


def kept_here(location: ObjectLocation, num_bytes: int) -> ObjectLocation:
    """The location with what is fetched kept here, if there is room; one for all of this process.

    Args:
        location: of objects that never change.
        num_bytes: that all of them may take.
    """
    key = (location.address, repr(sorted(location.options.items())))
    with _lock:
        found = _places.get(key)
        if found is None:
            if num_bytes > FREE_SHARE * shutil.disk_usage(tempfile.gettempdir()).free:
                return location
            found = _places[key] = KeptObjects(location.address, location.options)
        return found
