"""A folder of scores: Parquet by date, every id once, complete after a kill at any moment.

    scores/
      _salient.json                      whose scores these are
      date=2026-11-23/part-….parquet     the rows; a file appears whole, by rename
      _quarantine/part-….parquet         lines that could not be read: file, line, reason, excerpt
      _runs/….json                       the summary of every run
      _drift/….json, ….png               how far the texts are from those the heads know
      _ledger.sqlite, .lock              bookkeeping; may be lost (``pipeline.scoring.ledger``)

Rows wait in memory until there are enough for files of some size; the dates with the most rows are
written first. Only one process at a time has the folder open, others wait.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ScoreError
from pipeline.locking import one_at_a_time
from pipeline.progress import Say, silent
from pipeline.scoring.ledger import LEDGER, QUARANTINE, Key, Ledger, Published, line_keys, row_keys
from pipeline.scoring.summary import Counts
from store.disk import check_writable_file_system
from store.tables import read_json, table_digest, write_json, write_table

SCORE_CARD = "_salient.json"
"""In a folder of scores: whose they are."""
RUNS = "_runs"
DRIFT = "_drift"
"""Folders of summaries and of drift reports within a folder of scores."""
FORMAT_VERSION = 2
_LOCK = ".lock"


@contextmanager
def open_scores(
    path: Path,
    card: Mapping[str, Any],
    *,
    buffer_rows: int,
    dry_run: bool = False,
    say: Say = silent,
) -> Iterator[ScoreFolder]:
    """Open a folder of scores, or make it; alone, until the ``with`` block ends.

    Rows that are still buffered when the block ends with an error are not written.

    Args:
        path: the folder.
        card: ``fingerprint`` of the heads, and what else is to be known of them.
        buffer_rows: rows kept in memory at most, besides one block.
        dry_run: write nothing, but know what would have been.
        say: told of a wait for another process.

    Raises:
        ScoreError: the folder is something else, holds scores of other heads or a damaged file, or
            cannot be written.
    """
    for name in ("zarr.json", "run.json", "head.json"):
        if (path / name).exists():
            raise ScoreError(f"{path}: holds {name}: no folder for scores; choose another")
    with ExitStack() as stack:
        if dry_run:
            if (path / _LOCK).exists():
                stack.enter_context(one_at_a_time(path, say))
            _check_claim(path, card)
            copy = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="salient-")))
            for file in path.glob(f"{LEDGER}*"):
                shutil.copyfile(file, copy / file.name)
            index = copy / LEDGER
        else:
            _check_writable(path)
            stack.enter_context(one_at_a_time(path, say))
            if not _check_claim(path, card):
                write_json(path / SCORE_CARD, {"format_version": FORMAT_VERSION, **card})
            for leftover in (*path.glob("date=*/.*.tmp"), *path.glob("_*/.*.tmp")):
                leftover.unlink()  # of a run that was killed
            for leftover in path.glob(".tables-*"):  # and of its workers
                shutil.rmtree(leftover, ignore_errors=True)
            index = path / LEDGER
        ledger = stack.enter_context(Ledger(index))
        ledger.sync(path, say)
        folder = ScoreFolder(path, ledger, buffer_rows=buffer_rows, dry_run=dry_run)
        yield folder
        folder.flush()


def _check_writable(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ScoreError(
            f"{path}: cannot be written ({error.strerror}); choose another folder"
        ) from None
    check_writable_file_system(path)


def _check_claim(path: Path, card: Mapping[str, Any]) -> bool:
    """Whether the folder is claimed, by these heads."""
    if not (path / SCORE_CARD).is_file():
        return False
    found = read_json(path / SCORE_CARD)
    if found.get("format_version") != FORMAT_VERSION:
        raise ScoreError(
            f"{path}: scores of format {found.get('format_version')!r}, this version writes"
            f" {FORMAT_VERSION}; write to another folder"
        )
    if found.get("fingerprint") != card["fingerprint"]:
        raise ScoreError(
            f"{path}: holds scores of other heads (fingerprint {found.get('fingerprint')}, these"
            f" are {card['fingerprint']}); write to another folder"
        )
    return True


@dataclass
class _Part:
    """Rows of one partition that wait to be written."""

    first_input: int
    tables: list[pa.Table] = field(default_factory=list)
    num_rows: int = 0


class ScoreFolder:
    """An open folder of scores; made by :func:`open_scores`. Its methods may be called by several
    threads.

    Inputs are numbered in the order in which they are read.
    """

    def __init__(self, path: Path, ledger: Ledger, *, buffer_rows: int, dry_run: bool) -> None:
        self.path = path
        self.files_written = 0
        self._ledger = ledger
        self._buffer_rows = buffer_rows
        self._dry_run = dry_run
        self._parts: dict[str, _Part] = {}
        self._num_buffered = 0
        self._pending: dict[Key, int] = {}
        self._done: dict[int, tuple[str, Counts]] = {}
        self._lock = threading.Lock()

    def finished(self, key: str) -> Counts | None:
        """The counts of an input that was read to its end, None if it is to be read."""
        with self._lock:
            for other, counts in self._done.values():
                if other == key:
                    return counts
            found = self._ledger.finished(key)
        return None if found is None else Counter(found)

    def sort_out(
        self, rows: pa.Table, *, ids_are_exact: bool
    ) -> tuple[pa.Table, pa.Table | None, Counts]:
        """Tell the rows to score from those that are there already.

        Args:
            rows: ``id``, ``text``, ``text_hash``, ``source_file``, ``line``.
            ids_are_exact: an id says what a row is, as with tweets; otherwise another text under
                an id is another row, and goes to quarantine.

        Returns:
            The rows whose id is new, which are to be added; quarantined ones (None if none);
            counts of rows already scored, repeated and quarantined.
        """
        keys = row_keys(rows)
        counts: Counts = Counter()
        new, clashing = [], []
        with self._lock:
            known = self._ledger.known(key for key, _ in keys if key not in self._pending)
            for key, text in keys:
                earlier, outcome = self._pending.get(key), "repeated"
                if earlier is None and key in known:
                    earlier = known[key].text
                    if known[key].file < self._ledger.first_new_file:
                        outcome = "already_scored"
                new.append(earlier is None)
                clashing.append(not ids_are_exact and earlier is not None and earlier != text)
                if earlier is None:
                    self._pending[key] = text
                elif clashing[-1]:
                    counts["quarantined/scored before with another text"] += 1
                else:
                    counts[outcome] += 1
        bad = _clashes(rows.filter(pa.array(clashing, pa.bool_()))) if any(clashing) else None
        return rows.filter(pa.array(new, pa.bool_())), bad, counts

    def add(self, table: pa.Table, input_number: int) -> None:
        """Take scored rows of an input; ``created_at`` (UTC) says where they go."""
        times = table["created_at"].cast(pa.timestamp("s", tz="UTC"))
        dates = pc.fill_null(pc.strftime(times, format="%Y-%m-%d"), "unknown")
        found = pc.unique(dates).to_pylist()
        parts = {
            date: table if len(found) == 1 else table.filter(pc.equal(dates, date))
            for date in found
        }
        with self._lock:
            for date, rows in parts.items():
                self._buffer(f"date={date}", rows, input_number)
            self._keep_bound()

    def quarantine(self, table: pa.Table, input_number: int) -> None:
        """Take lines that could not be read, those that are not in quarantine yet."""
        keys = [key for key, _ in line_keys(table)]
        with self._lock:
            known = self._ledger.known(key for key in keys if key not in self._pending)
            new = []
            for key in keys:
                new.append(key not in self._pending and key not in known)
                if new[-1]:
                    self._pending[key] = 0
            if any(new):
                self._buffer(QUARANTINE, table.filter(pa.array(new, pa.bool_())), input_number)
            self._keep_bound()

    def finish(self, input_number: int, key: str, counts: Counts) -> None:
        """Note that an input was read to its end; kept once all its rows are written."""
        with self._lock:
            self._done[input_number] = (key, counts)

    def flush(self) -> None:
        """Write everything that is buffered."""
        with self._lock:
            self._write_down_to(0)

    def _buffer(self, partition: str, rows: pa.Table, input_number: int) -> None:
        part = self._parts.setdefault(partition, _Part(input_number))
        part.tables.append(rows)
        part.num_rows += len(rows)
        self._num_buffered += len(rows)

    def _keep_bound(self) -> None:
        if self._num_buffered > self._buffer_rows:
            # Half, largest dates first: a date with few rows waits until it has more, or the end.
            self._write_down_to(self._buffer_rows // 2)

    def _write_down_to(self, num_rows: int) -> None:
        published = []
        while self._num_buffered > num_rows:
            name = max(self._parts, key=lambda one: self._parts[one].num_rows)
            part = self._parts.pop(name)
            self._num_buffered -= part.num_rows
            published.append(self._publish(name, pa.concat_tables(part.tables)))
        oldest = min((part.first_input for part in self._parts.values()), default=None)
        complete = [number for number in self._done if oldest is None or number < oldest]
        # Files first, then the ledger: killed in between, the next run finds them by itself.
        self._ledger.record(published, dict(self._done.pop(number) for number in complete))
        for file in published:
            for key, _ in file.keys:
                del self._pending[key]

    def _publish(self, partition: str, table: pa.Table) -> Published:
        keys = line_keys(table) if partition == QUARANTINE else row_keys(table)
        path = self.path / partition / f"part-{table_digest(table)[:20]}.parquet"
        if self._dry_run:
            return Published(f"{partition}/{path.name}", 0, 0, keys)
        write_table(path, table)
        self.files_written += partition != QUARANTINE
        return Published.of(path, self.path, keys)


def _clashes(rows: pa.Table) -> pa.Table:
    """Rows with another text than their id had before, for the quarantine."""
    return pa.table(
        {
            "source_file": rows["source_file"],
            "line": rows["line"],
            "reason": [
                f"scored before with another text: id {id!r}" for id in rows["id"].to_pylist()
            ],
            "excerpt": pc.utf8_slice_codeunits(rows["text"], 0, 200),
        }
    )
