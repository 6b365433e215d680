"""The verbs that data on a disk and in a bucket have in common.

Each function asks for those that it uses (as in `obspec`): what only reads takes a `Location`, what
commits takes `Creates`. Two classes have them all, `LocalLocation` and `ObjectLocation`:

    location.create("commits/000007.json", record)    # True: it is ours; False: another was first
    location.put("data/part-1.parquet", content)      # there, whole, or not at all
    for found in location.list("data"):               # as it is now: nothing is cached
        location.read_range(found.path, 0, 100, etag=found.etag)
    location.delete(["data/part-1.parquet"])             # what is not there is no harm

Paths are relative to the location's root, with `/` between their parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from store.errors import StoreError

Buffer = Any
"""bytes, a memoryview or a C-contiguous numpy array."""


class Meta(NamedTuple):
    """What is known of an object without its content.

    Attributes:
        path: relative to the location.
        size: in bytes.
        etag: changes with the content; as the server gives it.
        modified: seconds since 1970 by the server's clock; NaN where it was not asked.
        version: the generation, of servers that have one (GCS).
    """

    path: str
    size: int
    etag: str
    modified: float
    version: str | None = None


class ObjectChanged(StoreError):
    """An object is another than the one that was begun to be read."""


class Puts(Protocol):
    """Writes whole objects; the last to write one counts."""

    def put(self, path: str, parts: Buffer | Sequence[Buffer]) -> Meta:
        """Write an object, in place of what is there: all of it or nothing."""


class Creates(Protocol):
    """Writes objects on a condition; of several writers at a time one wins."""

    def create(self, path: str, parts: Buffer | Sequence[Buffer]) -> bool:
        """Write an object that is not there yet.

        Args:
            path: of the object.
            parts: its content. It holds what no other writer writes (a writer's id), for an
                answer may get lost, and then equal bytes tell one's own object from another's.

        Returns:
            Whether it is this writer's; False: another's was there first.
        """

    def replace(self, path: str, parts: Buffer | Sequence[Buffer], found: Meta) -> bool:
        """Write an object in place of one that is as it was found; see `create`."""


class Lists(Protocol):
    """Says which objects there are."""

    def list(self, folder: str = "", *, after: str | None = None) -> Iterator[Meta]:
        """All objects under a folder, at any depth, in the order of their paths.

        Args:
            folder: "" is the root.
            after: only those whose path comes after this one (need not exist).
        """


class Deletes(Protocol):
    """Removes objects."""

    def delete(self, paths: Iterable[str]) -> None:
        """Remove objects; those that are not there are no harm."""
