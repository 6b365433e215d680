"""The log of a Delta table over the Parquet files of a folder of scores.

    dates = DeltaLog(Path("scores"))
    dates.files()                                    # of the rows that are in the table
    dates.commit([Path("scores/date=…/part-….parquet")], [])
    dates.num_small()                                # files that compacting would merge

The table is the folder itself: its files stay where they are, by ``date``, and ``_delta_log`` says
which of them count; names that begin with ``_`` are nobody's to Delta. A file is written whole
first, then a commit lists it, then the ledger records its ids. So a file that was killed in between
is in neither, and its rows are scored again; one that the table lists and the ledger does not is
read into the ledger by the next run. Commits carry a rising number as the transaction of the
application ``salient``: of two writers on one state of the table Delta refuses the second, and what
is listed already is not listed again.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ScoreError, missing
from store.disk import make_directories, sync_directory
from store.errors import TryAgain

LOG = "_delta_log"
APPLICATION = "salient"
"""The ``appId`` of the transactions."""
_CONFIGURATION: dict[str, str | None] = {"delta.dataSkippingNumIndexedCols": "0"}
"""Who compacts the table notes no least and greatest ids in its log, which outlive deletion."""
SMALL_BYTES = 1 << 26
"""Files below this are merged by ``optimize.compact``, which makes them of some 100 MB."""


class TableChanged(TryAgain, ScoreError):
    """Another program committed to the table at the same time; nothing was changed."""


class DeltaLog:
    """The table in a folder; made by the first commit.

    Args:
        folder: of the scores.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self) -> None:
        """Have the place of the log, which says that the folder is a table, or will be one."""
        make_directories(self.folder / LOG)

    def files(self) -> list[Path]:
        """The files of the table, sorted; none before its first commit."""
        table = self._table()
        return [] if table is None else sorted(self.folder / name for name in _names(table))

    def commit(self, added: Sequence[Path], removed: Sequence[Path]) -> None:
        """List files that are in their place, and take others out; all of it or nothing.

        What is listed already, or is not there to be taken out, changes nothing.

        Raises:
            ScoreError: another program changed the table meanwhile.
        """
        from deltalake import CommitProperties, Transaction
        from deltalake.transaction import create_table_with_add_actions

        table = self._table()
        known = set() if table is None else _names(table)
        new = [path for path in added if self._name(path) not in known]
        gone = [path for path in removed if self._name(path) in known]
        if not new and not gone:
            return
        before = None if table is None else table.transaction_version(APPLICATION)
        number = 1 if before is None else before + 1
        properties = CommitProperties(app_transactions=[Transaction(APPLICATION, number)])
        actions = [*map(self._add_action, new), *map(self._remove_action, gone)]
        with _explained(self.folder):
            if table is None:
                create_table_with_add_actions(
                    str(self.folder.absolute()),
                    _schema([_columns(path) for path in new]),
                    actions,
                    mode="error",
                    partition_by=["date"],
                    name="scores",
                    configuration=_CONFIGURATION,
                    commit_properties=properties,
                )
            else:
                _widen(table, [_columns(path) for path in new])
                table.create_write_transaction(
                    actions, "append", table.schema(), ["date"], commit_properties=properties
                )
        self._make_durable()

    def is_foreign(self) -> bool:
        """Whether there is a table that another program made."""
        table = self._table()
        return table is not None and table.transaction_version(APPLICATION) is None

    def purge(self) -> None:
        """Remove the files that the table does not list, of earlier versions too, at once."""
        table = self._table()
        if table is None:
            return
        listed = _names(table)
        for path in sorted(self.folder.glob("date=*/*.parquet")):
            if self._name(path) not in listed:
                path.unlink()
                sync_directory(path.parent)

    def num_small(self) -> int:
        """Files that compacting would merge: small ones of a date that has several."""
        table = self._table()
        if table is None:
            return 0
        found = pa.table(table.get_add_actions(flatten=True))
        small = Counter(
            date
            for date, size in zip(
                found["partition.date"].to_pylist(), found["size_bytes"].to_pylist(), strict=True
            )
            if size < SMALL_BYTES
        )
        return sum(number for number in small.values() if number > 1)

    def _table(self) -> Any:
        """The table as it is now; None before its first commit."""
        if not any((self.folder / LOG).glob("*.json")):
            return None
        try:
            from deltalake import DeltaTable
        except ModuleNotFoundError:
            raise missing("deltalake", f"{self.folder}: a Delta table") from None
        with _explained(self.folder):
            return DeltaTable(self.folder.absolute())

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _add_action(self, path: Path) -> Any:
        from deltalake.transaction import AddAction

        facts = path.stat()
        with path.open("rb") as source:
            stats = json.dumps({"numRecords": pq.read_metadata(source).num_rows})
        when = facts.st_mtime_ns // 1_000_000
        return AddAction(self._name(path), facts.st_size, _partition(path), when, True, stats)

    def _remove_action(self, path: Path) -> Any:
        from deltalake.transaction import RemoveAction

        now = int(time.time() * 1000)
        return RemoveAction(self._name(path), True, now, partition_values=_partition(path))

    def _make_durable(self) -> None:
        """The last commit, and what came with it, survive a power cut."""
        log = self.folder / LOG
        last = max(log.glob("*.json")).name.partition(".")[0]
        for path in (*log.glob(f"{last}.*"), *log.glob("_last_checkpoint")):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        sync_directory(log)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Delta's errors as ours."""
    from deltalake.exceptions import CommitFailedError, DeltaError

    try:
        yield
    except CommitFailedError as error:
        raise TableChanged(
            f"{folder}: another program changed the Delta table meanwhile ({error}); run again,"
            " what is in the table stays"
        ) from None
    except DeltaError as error:
        raise ScoreError(
            f"{folder / LOG}: the Delta table cannot be used ({error}); restore the log from a"
            " copy, or score into a new folder"
        ) from None


def as_delta(table: pa.Table) -> pa.Table:
    """A table with the types that Delta knows: its times are in microseconds, texts are plain."""
    for at, field in enumerate(table.schema):
        kind = field.type
        if pa.types.is_timestamp(kind) and kind.unit != "us":
            kind = pa.timestamp("us", kind.tz)
        elif pa.types.is_dictionary(kind):
            kind = kind.value_type
        if kind != field.type:
            table = table.set_column(at, field.with_type(kind), table.column(at).cast(kind))
    return table


def _names(table: Any) -> set[str]:
    return set(pa.table(table.get_add_actions(flatten=True))["path"].to_pylist())


def _partition(path: Path) -> dict[str, str | None]:
    return {"date": path.parent.name.removeprefix("date=")}


def _columns(path: Path) -> pa.Schema:
    with path.open("rb") as source:
        return pq.read_schema(source).remove_metadata()


def _schema(parts: Sequence[pa.Schema]) -> Any:
    """Delta's schema of the table that these files are."""
    from deltalake import Schema

    return Schema.from_arrow(pa.unify_schemas([*parts, pa.schema([("date", pa.string())])]))


def _widen(table: Any, parts: Sequence[pa.Schema]) -> None:
    """Have the table know all columns of some files."""
    known = {field.name for field in table.schema().fields}
    new = [field for field in _schema(parts).fields if field.name not in known] if parts else []
    if new:
        table.alter.add_columns(new)
        table.update_incremental()
