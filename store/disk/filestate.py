"""Whether a file is as it was, told without reading it.

    before, began_ns = FileState.of(path), time.time_ns()
    ...                                            # read it, and keep what was found
    FileState.of(path) == before and before.is_settled(began_ns)

The time of the inode counts too: whoever rewrites a file and sets its time back (``cp -p``,
``rsync --times``) cannot set that one.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

SETTLED_NS = 2_000_000_000
"""The coarsest clock of a file system: FAT counts two seconds."""


class FileState(NamedTuple):
    """What changes with a file: size, times of the content and of the inode, inode."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> FileState:
        """As it is now.

        Raises:
            OSError: it is not there, or cannot be looked at.
        """
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)

    def is_settled(self, looked_at_ns: int) -> bool:
        """Whether no later change can look the same, as of git's "racily clean" files.

        Args:
            looked_at_ns: when the file began to be looked at, since 1970.
        """
        return max(self.mtime_ns, self.ctime_ns) + SETTLED_NS < looked_at_ns
