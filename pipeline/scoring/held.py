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
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ScoreError
from pipeline.scoring.commitlog import Added, CommitLog, Parts, staged_path
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
        self.address = address

    @cached_property
    def parts(self) -> Parts:
        """Which parts count."""
        return Parts.of(self._log)

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
            if (content := self._content(one.path)) is not None:
                yield pq.read_schema(pa.BufferReader(content))

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

    def _content(self, path: str) -> bytes | None:
        """A part, or what has its rows by now; None if they are deleted."""
        while True:
            for place in (path, staged_path(path)):
                try:
                    return self._location.read(place)
                except FileNotFoundError:
                    continue
            now = Parts.of(self._log)
            if path not in now.removed:
                raise ScoreError(
                    f"{self.address}/{path}: is not there, though a commit says so;"
                    f" {repair_command(self.address)} says what can come back"
                )
            if (heir := now.removed[path]) is None:
                return None
            path = heir

    def _columns(self, path: str, content: bytes, columns: Sequence[str]) -> pa.Table:
        where, remedy = f"{self.address}/{path}", f"{repair_command(self.address)} sets it aside"
        try:
            names = pq.read_schema(pa.BufferReader(content)).names
            there = [name for name in columns if name in names]
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
