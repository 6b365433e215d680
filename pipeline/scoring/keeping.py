"""What a folder of scores asks of the place where it keeps them: a disk, or a bucket.

``pipeline.scoring.folder`` decides what is to be kept and when; a ``Keeper`` knows what is there
already and writes what is new, so that all of it counts or none. There are two:
``pipeline.scoring.folder.OnDisk`` and ``pipeline.scoring.bucketkeeping.InBucket``.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import pyarrow as pa

from pipeline.scoring.deleted import Deleted
from pipeline.scoring.ledger import Entry, Finished
from pipeline.scoring.parts import QUARANTINE, Key, line_keys, row_keys
from pipeline.scoring.summary import Counts, reason_kind

Ended = Mapping[int, tuple[str, Finished]]
"""Number of an input that was read to its end -> its key, and what was in it."""


@dataclass
class Batch:
    """Rows of one partition that wait to be written.

    Attributes:
        partition: ``date=2026-11-23`` or ``_quarantine``.
        first_input: number of the first input that it has rows of.
        tables: of rows, in the order in which they came.
        inputs: number of the input that each table is of.
        num_rows: of all.
    """

    partition: str
    first_input: int
    tables: list[pa.Table] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    num_rows: int = 0

    def add(self, rows: pa.Table, input_number: int) -> None:
        """Take further rows."""
        self.tables.append(rows)
        self.inputs.append(input_number)
        self.num_rows += len(rows)


class Written(NamedTuple):
    """What became of a batch: the rows that were written, and the keys that it had."""

    partition: str
    num_rows: int
    keys: list[Key]


class Keeper(Protocol):
    """Knows and keeps the rows of one folder, as long as it is open."""

    bookkeeping: Path
    """A folder of this machine for files that may be lost."""

    @property
    def left_out(self) -> Mapping[int, Counts]:
        """Number of an input -> what is to be added to its counts: of rows that were counted as
        scored, and then another writer was first with, or that were deleted meanwhile."""

    @property
    def deleted(self) -> Deleted:
        """The ids that must not come back."""

    def finished(self, key: str) -> Finished | None:
        """What was in an input that was read to its end, None if it was not."""

    def known(self, keys: Iterable[Key]) -> Mapping[Key, Entry]:
        """Those of some keys whose rows are there."""

    def text_of(self, key: Key, text: int) -> int:
        """What an ``Entry`` of a key with this text says of it."""

    def is_of_earlier_run(self, entry: Entry) -> bool:
        """Whether a row was there before the folder was opened here."""

    def write(self, batches: Iterable[Batch], ended: Ended) -> list[Written]:
        """Keep rows and ends of inputs, all of whose rows are kept by now; all of it or nothing."""

    def records(self, folder: str) -> AbstractContextManager[Path]:
        """A folder of this machine; what is written there is, at the end, in the folder's own."""

    def advice(self) -> str | None:
        """What the user may do about how it is kept, once all is written."""


def keys_in(partition: str, table: pa.Table) -> list[tuple[Key, int]]:
    """Key and text digest of every row."""
    return line_keys(table) if partition == QUARANTINE else row_keys(table)


def with_left_out(counts: Mapping[str, int], left_out: Mapping[str, int] | None) -> Counts:
    """Counts of an input, with what ``Keeper.left_out`` says of it."""
    found = Counter(counts)
    found.update(left_out or {})
    return found


def without_text(lines: pa.Table) -> pa.Table:
    """Quarantined lines with a hash in place of how they begin, and reasons that quote nothing."""
    said = [reason_kind(reason or "") for reason in lines["reason"].to_pylist()]
    return pa.table(
        {
            "source_file": lines["source_file"],
            "line": lines["line"],
            "reason": pa.array(said, pa.string()),
            "excerpt": pa.array(map(_hashed, lines["excerpt"].to_pylist()), pa.string()),
        }
    )


def _hashed(text: str | None) -> str:
    if text is not None and _HASH.fullmatch(text):
        return text
    return "blake2b:" + hashlib.blake2b((text or "").encode(), digest_size=16).hexdigest()


_HASH = re.compile("blake2b:[0-9a-f]{32}")
