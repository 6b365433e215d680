"""How a folder of scores says which of its Parquet files count: a row of ``SINKS`` for each way.

    sink = sink_of(folder)
    sink.files()                       # of the rows that are there
    sink.commit(added, removed)        # after the files are in their place

``parquet``: whatever lies in ``date=…`` counts. ``delta``: what the log of the Delta table lists
(:mod:`pipeline.scoring.delta`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from pipeline.scoring.delta import LOG, DeltaLog, as_delta
from store.disk import sync_directory

PARQUET, DELTA = "parquet", "delta"


class Sink(Protocol):
    """The rows of one folder, as files."""

    def make(self) -> None:
        """Leave a sign of what the folder is, before its first row."""

    def files(self) -> list[Path]:
        """The files whose rows count, sorted."""

    def as_written(self, table: pa.Table) -> pa.Table:
        """Rows with the types that are written."""

    def successor(self, path: Path, change: bytes) -> Path:
        """Where a file is written that takes another's place; ``change`` tells them apart."""

    def commit(self, added: Sequence[Path], removed: Sequence[Path]) -> None:
        """Have files count that are in their place, and others not any more; again is no harm."""

    def settle(self) -> None:
        """Have nothing count that is not there."""

    def purge(self) -> None:
        """Remove what does not count, of earlier versions too."""

    def num_small(self) -> int:
        """Files that would better be merged, as far as somebody can."""


class ParquetSink:
    """Every file counts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self) -> None:
        """Nothing: a folder is one of plain files unless it says otherwise."""

    def files(self) -> list[Path]:
        """All that are there."""
        return sorted(self._folder.glob("date=*/*.parquet"))

    def as_written(self, table: pa.Table) -> pa.Table:
        """As it is."""
        return table

    def successor(self, path: Path, change: bytes) -> Path:
        """Its own place, where it appears by rename."""
        return path

    def commit(self, added: Sequence[Path], removed: Sequence[Path]) -> None:
        """Nothing but to remove: what is in its place counts already."""
        for path in removed:
            path.unlink(missing_ok=True)
            sync_directory(path.parent)

    def settle(self) -> None:
        """Nothing: what is not there does not count."""

    def purge(self) -> None:
        """Nothing: there is none."""

    def num_small(self) -> int:
        """Files are not merged."""
        return 0


class DeltaSink(DeltaLog):
    """What the table lists counts."""

    def files(self) -> list[Path]:
        """Those that the table lists and that are there."""
        return [path for path in super().files() if path.exists()]

    def settle(self) -> None:
        """Take files out of the table that somebody has removed."""
        if missing := [path for path in super().files() if not path.exists()]:
            self.commit([], missing)

    def as_written(self, table: pa.Table) -> pa.Table:
        """With Delta's types."""
        return as_delta(table)

    def successor(self, path: Path, change: bytes) -> Path:
        """A place of its own: earlier versions of the table name the file as it was."""
        digest = hashlib.sha256(path.name.encode() + change).hexdigest()
        return path.with_name(f"part-{digest[:20]}.parquet")


SINKS: dict[str, Callable[[Path], Sink]] = {PARQUET: ParquetSink, DELTA: DeltaSink}
"""How rows are kept -> what keeps them in a folder."""


def kept_as(folder: Path) -> str:
    """How a folder keeps its rows: one of ``SINKS``."""
    return DELTA if (folder / LOG).is_dir() else PARQUET


def sink_of(folder: Path) -> Sink:
    """What keeps the rows of a folder."""
    return SINKS[kept_as(folder)](folder)
