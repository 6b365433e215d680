"""Which content input files had when they were last read: an archive is not hashed every night.

    seen = SeenFiles.load(folder)
    path, state = looked_at(path)
    seen.find(path, state)              # what is known of the file, if it is as it was; or None
    seen.note(path, state, Seen(...))
    seen.save(folder)

A file is known by name and state (size, times, inode). The table lies beside the ledger and may be
lost at any time: then files are hashed once more. Whether a file was read to its end the ledger
says, by content. Of a file that was changed within a moment of being looked at nothing is noted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.errors import CorpusError
from pipeline.progress import Say, silent
from pipeline.texts import ObjectPath, split_place
from store import StoreError
from store.disk import FileState, is_url
from store.tables import read_table, write_table

SEEN = "_inputs.parquet"
_SCHEMA = pa.schema(
    [
        ("path", pa.binary()),
        ("size", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("ctime_ns", pa.int64()),
        ("inode", pa.uint64()),  # layered file systems use the highest bit
        ("content", pa.string()),
        ("kind", pa.string()),
        ("asked", pa.string()),
        ("key", pa.string()),
    ]
)


@dataclass(frozen=True)
class Seen:
    """What was found of a file.

    Attributes:
        content: sha256 of its bytes.
        kind: what it was read as.
        asked: digest of how it was read, and of which rows were wanted.
        key: its key in the ledger, if that is asked again.
    """

    content: str
    kind: str
    asked: str
    key: str


class SeenFiles:
    """Path -> what was found of the file, and its state then.

    Args:
        trust: False to take no file for known.
    """

    def __init__(self, *, trust: bool = True) -> None:
        self._trust = trust
        self._known: dict[bytes, tuple[FileState, Seen]] = {}
        self._is_changed = False

    @classmethod
    def load(cls, folder: Path, *, trust: bool = True, say: Say = silent) -> SeenFiles:
        """Of a folder of scores; empty where nothing is noted, or what is noted is damaged."""
        found = cls(trust=trust)
        if (folder / SEEN).exists():
            try:
                table = read_table(folder / SEEN).select(_SCHEMA.names).cast(_SCHEMA)
                if any(column.null_count for column in table.columns):
                    raise ValueError("holds nulls")
            except (StoreError, pa.ArrowException, KeyError, ValueError):
                say(f"{folder / SEEN}: not to be used; all files are hashed once more")
            else:
                for row in table.to_pylist():
                    path = row.pop("path")
                    state = FileState(*(row.pop(name) for name in FileState._fields))
                    found._known[path] = (state, Seen(**row))
        return found

    def find(self, path: Path, state: FileState) -> Seen | None:
        """What is known of a file that has not changed since; None of others."""
        known = self._known.get(_name(path)) if self._trust else None
        return known[1] if known and known[0] == state else None

    def note(self, path: Path, state: FileState, found: Seen, *, looked_at_ns: int) -> None:
        """Note what was found of a file.

        Args:
            path, state: the file, as it was before and after it was read.
            found: in it.
            looked_at_ns: when its state was taken first, since 1970.
        """
        if state.is_settled(looked_at_ns) and self._known.get(_name(path)) != (state, found):
            self._known[_name(path)] = (state, found)
            self._is_changed = True

    def save(self, folder: Path) -> None:
        """Keep what is known of the files that are still there; where that cannot be written, they
        are hashed again."""
        if self._is_changed:
            with suppress(StoreError):
                write_table(folder / SEEN, pa.Table.from_pylist(list(self._rows()), _SCHEMA))
            self._is_changed = False

    def _rows(self) -> Iterator[dict[str, object]]:
        for path, (state, seen) in sorted(self._known.items()):
            if _is_there(os.fsdecode(path)):
                yield {"path": path, **state._asdict(), **asdict(seen)}


def looked_at(path: Path) -> tuple[Path, FileState]:
    """A file as it is now, and the path to read it by: of an object no other state is read then.

    Raises:
        CorpusError: it is not there any more.
    """
    with _said_of(path):
        found = path.pinned() if isinstance(path, ObjectPath) and not split_place(path)[1] else path
    return found, state_of(found)


def state_of(path: Path) -> FileState:
    """A file as it is now; of a file in a zip archive the archive.

    Raises:
        CorpusError: it is not there any more.
    """
    with _said_of(path):
        return FileState.of(split_place(path)[0])


@contextmanager
def _said_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror or error}") from None


def _name(path: Path) -> bytes:
    return os.fsencode(str(path) if isinstance(path, ObjectPath) else os.path.abspath(path))


def _is_there(name: str) -> bool:
    """Whether a file is still there; of objects, each a request, it is taken for granted."""
    return is_url(name) or os.path.exists(split_place(Path(name))[0])


def now_ns() -> int:
    """Nanoseconds since 1970."""
    return time.time_ns()
