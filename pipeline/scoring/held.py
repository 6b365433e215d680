"""What a folder of scores holds, for readers: on a disk or in a bucket, by the same questions.

    held = scores_at("s3://scores/sentiment")
    for table in held.tables(["id", "sentiment"]):      # the rows, with their date
    for name in held.records(DRIFT):
        held.read_record(name)

In a bucket the commits say what counts, whatever else lies there; nothing is written, nothing is
kept on this machine. A part that a deletion replaces meanwhile is read as it is then: no row of it
is read twice, and none of a deleted id after the deletion.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ScoreError
from pipeline.scoring.commitlog import Added, CommitLog, Parts, lost_part, part_content
from pipeline.scoring.parts import (
    check_files,
    num_rows,
    read_scores,
    repair_command,
    row_files,
)
from pipeline.scoring.place import read_score_card
from store.disk import ObjectLocation, decode_json, is_url, locate, read_parquet
from store.errors import StoreError
from store.tables import read_json

ID = "id"
_TAIL_BYTES = 1 << 16
"""Read of a part where only its schema is wanted: as a rule its footer is in there."""


class HeldScores(Protocol):
    """The rows and records of a folder of scores."""

    address: str

    def card(self) -> dict[str, Any] | None:
        """Whose scores they are; None if the folder does not say."""

    def dates(self) -> dict[str, list[int]]:
        """Date -> rows of each of its files; what is damaged is refused."""

    def schemas(self) -> Iterator[pa.Schema]:
        """Of the files of rows, one after another."""

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The rows; see ``pipeline.scoring.parts.read_scores``."""

    def records(self, folder: str) -> list[str]:
        """Names of the JSON files in a folder of records (``_drift``, ``_runs``), sorted."""

    def read_record(self, name: str, *, remedy: str = "") -> dict[str, Any]:
        """One of them; StoreError if it is damaged."""


def scores_at(folder: Path | str | HeldScores) -> HeldScores:
    """The scores in a folder of this machine, or in one of a bucket; those that are open already
    as they are."""
    if not isinstance(folder, Path | str):
        return folder
    return ScoresInBucket(str(folder)) if is_url(folder) else ScoresOnDisk(Path(folder))


class ScoresOnDisk:
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.address = str(folder)

    def card(self) -> dict[str, Any] | None:
        """See `HeldScores.card`."""
        return read_score_card(self._folder)

    def dates(self) -> dict[str, list[int]]:
        """See `HeldScores.dates`."""
        check_files(self._folder)
        found: dict[str, list[int]] = {}
        for file in row_files(self._folder):
            found.setdefault(file.parent.name.removeprefix("date="), []).append(num_rows(file))
        return found

    def schemas(self) -> Iterator[pa.Schema]:
        """See `HeldScores.schemas`."""
        return map(pq.read_schema, row_files(self._folder))

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """See `HeldScores.tables`."""
        return read_scores(self._folder, columns)

    def records(self, folder: str) -> list[str]:
        """See `HeldScores.records`."""
        found = sorted((self._folder / folder).glob("*.json"))
        return [str(path.relative_to(self._folder)) for path in found]

    def read_record(self, name: str, *, remedy: str = "") -> dict[str, Any]:
        """See `HeldScores.read_record`."""
        return read_json(self._folder / name, remedy=remedy)


class ScoresInBucket:
    """A folder of a bucket, as its commits are when it is first asked."""

    def __init__(self, address: str) -> None:
        location = locate(address)
        assert isinstance(location, ObjectLocation), address
        self._location = location
        self._log = CommitLog(location)
        self._lock = Lock()
        self.address = address

    @cached_property
    def parts(self) -> Parts:
        """Which parts count."""
        return Parts.of(self._log)

    @cached_property
    def _latest(self) -> Parts:
        """The same, and what commits have changed by the time a part was missed."""
        return replace(self.parts, live=dict(self.parts.live), removed=dict(self.parts.removed))

    def card(self) -> dict[str, Any] | None:
        """See `HeldScores.card`."""
        return read_score_card(self.address)

    def dates(self) -> dict[str, list[int]]:
        """See `HeldScores.dates`; by the commits, without reading the rows."""
        found: dict[str, list[int]] = {}
        for one in self._rows():
            found.setdefault(date_of(one.path), []).append(one.rows)
        return found

    def schemas(self) -> Iterator[pa.Schema]:
        """See `HeldScores.schemas`."""
        for one in self._rows():
            if (tail := self._content(one.path, _TAIL_BYTES)) is None:
                continue
            try:
                yield pq.read_schema(pa.BufferReader(tail))
            except pa.ArrowException:  # a long footer, or damage
                if (content := self._content(one.path)) is not None:
                    yield self._schema(one.path, content)

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """See `HeldScores.tables`; the next part is fetched while one is worked on."""
        paths = [one.path for one in self._rows()]
        with ThreadPoolExecutor(1) as pool:
            ahead = [pool.submit(self._content, path) for path in paths[:1]]
            for number, path in enumerate(paths):
                content = ahead.pop().result()
                ahead += [pool.submit(self._content, one) for one in paths[number + 1 : number + 2]]
                if content is not None:
                    yield self._columns(path, content, columns)

    def records(self, folder: str) -> list[str]:
        """See `HeldScores.records`."""
        return sorted(one.path for one in self._location.list(folder) if one.path.endswith(".json"))

    def read_record(self, name: str, *, remedy: str = "") -> dict[str, Any]:
        """See `HeldScores.read_record`."""
        where = f"{self.address}/{name}"
        return decode_json(self._location.read(name), where=where, remedy=remedy)

    def _rows(self) -> list[Added]:
        """The parts with rows, by date."""
        live = self.parts.live
        return [live[path] for path in sorted(live) if path.startswith("date=")]

    def _content(self, path: str, last: int | None = None) -> bytes | None:
        """A part, or what has its rows by now; None if they are deleted.

        Args:
            path: of the part.
            last: so many of its last bytes; default all.
        """
        location = self._location
        while True:
            one = self._latest.live.get(path)
            size = 0 if one is None else one.size

            def tail(place: str, size: int = size) -> bytes:
                return location.read_range(place, max(0, size - (last or size)), size)

            try:
                return part_content(location, path, tail if last and size else None)
            except FileNotFoundError:
                with self._lock:
                    if path not in self._latest.removed:
                        self._latest.refresh(self._log)
            if path not in self._latest.removed:
                raise lost_part(self.address, path)
            if (heir := self._latest.removed[path]) is None:
                return None
            path = heir

    def _schema(self, path: str, content: bytes) -> pa.Schema:
        try:
            return pq.read_schema(pa.BufferReader(content))
        except pa.ArrowException as error:
            raise ScoreError(
                f"{self.address}/{path}: damaged, or no scores ({error});"
                f" {repair_command(self.address)} sets it aside"
            ) from None

    def _columns(self, path: str, content: bytes, columns: Sequence[str]) -> pa.Table:
        where, remedy = f"{self.address}/{path}", f"{repair_command(self.address)} sets it aside"
        names = self._schema(path, content).names
        there = [name for name in columns if name in names]
        try:
            source = pa.BufferReader(content)
            table = read_parquet(source, where=where, remedy=remedy, columns=there or [ID])
        except pa.ArrowException as error:
            raise ScoreError(f"{where}: damaged, or no scores ({error}); {remedy}") from None
        except StoreError as error:
            raise ScoreError(str(error)) from None
        nulls = pa.nulls(len(table))
        own = {name: table[name] if name in there else nulls for name in columns}
        return pa.table({**own, "date": pa.array([date_of(path)] * len(table), pa.string())})


def date_of(path: str) -> str:
    """The date in a part's path."""
    return path.partition("/")[0].removeprefix("date=")
