"""A folder of scores: Parquet by date, every id once, complete after a kill at any moment.

    scores/
      _salient.json                      whose scores these are
      date=2026-11-23/part-….parquet     the rows; a file appears whole, by rename
      _delta_log/…                       of a Delta table only: which files count
      _quarantine/part-….parquet         lines that could not be read: file, line, reason, excerpt
      _quarantine/_damaged/…             damaged files that a repair has set aside
      _runs/….json                       the summary of every run
      _drift/….json, ….png               how far the texts are from those the heads know
      _ledger.sqlite, _ledger.json       bookkeeping; may be lost (``pipeline.scoring.ledger``)
      _inputs.parquet                    contents of files known by name and state; may be lost
      _deleted.safetensors and its copy  digests of deleted ids (``pipeline.scoring.deletion``)
      .lock                              held by the one process that has the folder open

Rows wait in memory until there are enough for files of some size; the dates with the most rows are
written first. Only one process at a time has the folder open, others wait. A folder in a bucket
(``pipeline.scoring.bucketkeeping``) is open to all; ``_commits`` take the place of ledger and lock.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ScoreError
from pipeline.progress import Say, silent
from pipeline.scoring.bucketkeeping import in_bucket
from pipeline.scoring.deleted import CLASH, Deleted
from pipeline.scoring.deletion import catch_up
from pipeline.scoring.keeping import Batch, Ended, Keeper, Written, keys_in, without_text
from pipeline.scoring.ledger import Entry, Finished, Ledger, Published
from pipeline.scoring.origin import as_metadata
from pipeline.scoring.parts import (
    LINE_COLUMNS,
    ORIGIN,
    QUARANTINE,
    SET_ASIDE,
    Key,
    line_keys,
    part_name,
    read_part,
    row_keys,
)
from pipeline.scoring.place import (
    FORMAT_VERSIONS,
    SCORE_CARD,
    Claim,
    alone,
    check_claim,
    open_ledger,
)
from pipeline.scoring.sinks import PARQUET, SINKS, Sink
from pipeline.scoring.summary import CLASHES, Counts
from store.disk import is_url
from store.tables import table_digest, write_json, write_table

MANY_SMALL = 32
"""Files that could be merged, from which on a run says so."""


@contextmanager
def open_scores(
    path: Path | str,
    card: Mapping[str, Any],
    *,
    buffer_rows: int,
    out_format: str = PARQUET,
    origin: Mapping[str, Any] | None = None,
    at: datetime | None = None,
    keep_text: bool = True,
    dry_run: bool = False,
    say: Say = silent,
) -> Iterator[ScoreFolder]:
    """Open a folder of scores, or make it; on a disk alone, until the ``with`` block ends.

    Rows that are still buffered when the block ends with an error are not written.

    Args:
        path: the folder, or the URL of one in a bucket.
        card: ``fingerprint`` of the heads, and what else is to be known of them.
        buffer_rows: rows kept in memory at most, besides one block.
        out_format: how rows are kept, one of ``SINKS``.
        origin: what makes the rows (:mod:`pipeline.scoring.origin`); at: since when.
        keep_text: quarantined lines keep how they begin; otherwise a hash of it, and what the
            folder has of earlier runs is taken out.
        dry_run: write nothing, but know what would have been.
        say: told of a wait for another process.

    Raises:
        ScoreError: the folder is something else, holds scores of other heads or a damaged file, or
            cannot be written.
    """
    metadata = None
    if origin is not None:
        metadata = {ORIGIN: as_metadata(origin, str(card["fingerprint"]))}
    claim = Claim(card, out_format, origin, at, keep_text)
    opened = (
        in_bucket(str(path), claim, metadata, dry_run=dry_run, say=say)
        if is_url(path)
        else _on_disk(Path(path), claim, metadata, dry_run=dry_run, say=say)
    )
    with opened as keeper:
        folder = ScoreFolder(
            path, keeper, buffer_rows=buffer_rows, keep_text=keep_text, dry_run=dry_run
        )
        yield folder
        folder.flush()
        if not dry_run and (line := keeper.advice()) is not None:
            say(f"{path}: {line}")


class ScoreFolder:
    """An open folder of scores; made by :func:`open_scores`. Its methods may be called by several
    threads.

    Inputs are numbered in the order in which they are read.
    """

    def __init__(
        self,
        path: Path | str,
        keeper: Keeper,
        *,
        buffer_rows: int,
        keep_text: bool,
        dry_run: bool,
    ) -> None:
        self.path = path
        self.bookkeeping = keeper.bookkeeping
        self.records = keeper.records
        self.files_written = 0
        self.rows_written: Counter[str] = Counter()
        """Date -> rows that have been written into files since the folder was opened."""
        self._keeper = keeper
        self._buffer_rows = buffer_rows
        self._keep_text = keep_text
        self._dry_run = dry_run
        self._batches: dict[str, Batch] = {}
        self._num_buffered = 0
        self._pending: dict[Key, int] = {}
        self._done: dict[int, tuple[str, Finished]] = {}
        self._lock = threading.Lock()
        self._is_torn = False

    def finished(self, key: str) -> Counts | None:
        """The counts of an input that was read to its end, None if it is to be read."""
        with self._lock:
            for other, done in self._done.values():
                if other == key:
                    return Counter(done.counts)
            found = self._keeper.finished(key)
        return None if found is None else Counter(found.counts)

    def leave_out(self, rows: pa.Table, bad: pa.Table) -> tuple[pa.Table, pa.Table, int]:
        """Leave out what was deleted.

        Args:
            rows: with ``id``.
            bad: lines for the quarantine.

        Returns:
            Both without deleted ids, and how many rows and lines those were.
        """
        with self._lock:
            deleted = self._keeper.deleted
        if not len(deleted):
            return rows, bad, 0
        gone = deleted.mask(rows["id"].to_pylist()), deleted.lines(bad)
        kept = [one.filter(pa.array(~mask)) for one, mask in zip((rows, bad), gone, strict=True)]
        return kept[0], kept[1], sum(int(mask.sum()) for mask in gone)

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
            keeper = self._keeper
            known = keeper.known(key for key, _ in keys if key not in self._pending)
            for key, text in keys:
                earlier, outcome = self._pending.get(key), "repeated"
                is_new, is_same = earlier is None and key not in known, earlier == text
                if earlier is None and not is_new:
                    is_same = known[key].text == keeper.text_of(key, text)
                    if keeper.is_of_earlier_run(known[key]):
                        outcome = "already_scored"
                new.append(is_new)
                clashing.append(not ids_are_exact and not is_new and not is_same)
                if is_new:
                    self._pending[key] = text
                elif clashing[-1]:
                    counts[f"quarantined/{CLASHES}"] += 1
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
        if not self._keep_text:
            table = without_text(table)
        keys = [key for key, _ in line_keys(table)]
        with self._lock:
            known = self._keeper.known(key for key in keys if key not in self._pending)
            new = []
            for key in keys:
                new.append(key not in self._pending and key not in known)
                if new[-1]:
                    self._pending[key] = 0
            if any(new):
                self._buffer(QUARANTINE, table.filter(pa.array(new, pa.bool_())), input_number)
            self._keep_bound()

    def finish(self, input_number: int, key: str, done: Finished) -> None:
        """Note that an input was read to its end; kept once all its rows are written."""
        with self._lock:
            self._done[input_number] = (key, done)

    def flush(self) -> None:
        """Write everything that is buffered."""
        with self._lock:
            self._write_down_to(0)

    @property
    def left_out(self) -> Mapping[int, Counts]:
        """Number of an input -> what is to be added to its counts, see ``Keeper``."""
        with self._lock:
            return self._keeper.left_out

    def _buffer(self, partition: str, rows: pa.Table, input_number: int) -> None:
        self._batches.setdefault(partition, Batch(partition, input_number)).add(rows, input_number)
        self._num_buffered += len(rows)

    def _keep_bound(self) -> None:
        if self._num_buffered > self._buffer_rows:
            # Half, largest dates first: a date with few rows waits until it has more, or the end.
            self._write_down_to(self._buffer_rows // 2)

    def _write_down_to(self, num_rows: int) -> None:
        if self._is_torn:
            raise ScoreError(f"{self.path}: rows could not be written; run it again")
        sizes, names = {name: one.num_rows for name, one in self._batches.items()}, list[str]()
        while self._num_buffered - sum(sizes[name] for name in names) > num_rows:
            left = (name for name in sizes if name not in names)
            names.append(max(left, key=lambda one: sizes[one]))
        waiting = (one for name, one in self._batches.items() if name not in names)
        oldest = min((one.first_input for one in waiting), default=None)
        complete = [number for number in self._done if oldest is None or number < oldest]
        # Rows that are neither waiting nor written would let another thread, which reads on while
        # this one is ended, take their input for finished.
        self._is_torn = True
        written = self._keeper.write(
            map(self._batches.pop, names), {number: self._done.pop(number) for number in complete}
        )
        for one in written:
            self._num_buffered -= sizes[one.partition]
            if one.num_rows and one.partition != QUARANTINE and not self._dry_run:
                self.files_written += 1
                self.rows_written[one.partition.removeprefix("date=")] += one.num_rows
            for key in one.keys:
                del self._pending[key]
        self._is_torn = False


@contextmanager
def _on_disk(
    path: Path,
    claim: Claim,
    metadata: Mapping[bytes, bytes] | None,
    *,
    dry_run: bool,
    say: Say,
) -> Iterator[OnDisk]:
    """Open a folder of this machine, or make it."""
    version = FORMAT_VERSIONS[claim.out_format]
    with ExitStack() as stack:
        stack.enter_context(alone(path, dry_run=dry_run, say=say))
        found = check_claim(path, claim.card, claim.out_format)
        old = found
        wanted, changed = claim.content(found, version)
        if changed is not None:
            say(f"{path}: {changed}")
        sink = SINKS[claim.out_format](path)
        if found is None:
            # Whose they are at once; that there are no texts only once that is so.
            found = {**wanted, "keep_text": claim.keep_text or any(_quarantined(path))}
        if not dry_run and old is None:
            sink.make()
            write_json(path / SCORE_CARD, found)
        ledger = stack.enter_context(open_ledger(path, dry_run=dry_run))
        catch_up(path, ledger, dry_run=dry_run, say=say)
        if not dry_run:
            if not claim.keep_text and found.get("keep_text", True):
                remove_texts(path, ledger)
            if found != wanted:
                write_json(path / SCORE_CARD, wanted)
        yield OnDisk(path, ledger, sink, metadata, dry_run=dry_run)


class OnDisk:
    """Keeps rows in a folder of this machine, which no other process has open meanwhile.

    Args:
        path: the folder.
        ledger: that knows its files.
        sink: says which of these count.
        metadata: of every file.
        dry_run: write nothing, but know what would have been.
    """

    def __init__(
        self,
        path: Path,
        ledger: Ledger,
        sink: Sink,
        metadata: Mapping[bytes, bytes] | None,
        *,
        dry_run: bool,
    ) -> None:
        self.bookkeeping = path
        self.deleted = Deleted.load(path)
        self.left_out: Mapping[int, Counts] = {}
        self.ledger = ledger
        self._path = path
        self._sink = sink
        self._metadata = metadata
        self._dry_run = dry_run

    def finished(self, key: str) -> Finished | None:
        """See ``Keeper.finished``."""
        return self.ledger.finished(key)

    def known(self, keys: Iterable[Key]) -> Mapping[Key, Entry]:
        """See ``Keeper.known``."""
        return self.ledger.known(keys)

    def text_of(self, key: Key, text: int) -> int:
        """See ``Keeper.text_of``: the text's digest itself."""
        return text

    def is_of_earlier_run(self, entry: Entry) -> bool:
        """See ``Keeper.is_of_earlier_run``."""
        return entry.file < self.ledger.first_new_file

    def write(self, batches: Iterable[Batch], ended: Ended) -> list[Written]:
        """See ``Keeper.write``."""
        published, written = list[Published](), list[Written]()
        for batch in batches:
            table = pa.concat_tables(batch.tables)
            keys = keys_in(batch.partition, table)
            published.append(self._publish(batch.partition, table, keys))
            written.append(Written(batch.partition, len(table), [key for key, _ in keys]))
        # Files first, then what says that they count, then the ledger: killed in between, the next
        # run finds what counts by itself.
        if not self._dry_run:
            rows = [one.path for one in published if not one.path.startswith(QUARANTINE)]
            self._sink.commit([self._path / one for one in rows], [])
        self.ledger.record(published, dict(ended.values()))
        return written

    def _publish(
        self, partition: str, table: pa.Table, keys: Sequence[tuple[Key, int]]
    ) -> Published:
        """Write a file."""
        if partition != QUARANTINE:
            table = self._sink.as_written(table)
        path = self._path / partition / part_name(digest := table_digest(table))
        while path.exists():  # of rows that have been taken out, or changed, since
            digest = hashlib.sha256(digest.encode()).hexdigest()
            path = path.with_name(part_name(digest))
        sources = _sources(table)
        if self._dry_run:
            return Published(f"{partition}/{path.name}", 0, 0, keys, sources)
        write_table(path, table.replace_schema_metadata(self._metadata))
        return Published.of(path, self._path, keys, sources)

    @contextmanager
    def records(self, folder: str) -> Iterator[Path]:
        """See ``Keeper.records``."""
        yield self._path / folder

    def advice(self) -> str | None:
        """See ``Keeper.advice``."""
        if (small := self._sink.num_small()) < MANY_SMALL:
            return None
        return (
            f"{small} files are small; merge them now and then, with"
            f" deltalake.DeltaTable({str(self._path)!r}).optimize.compact()"
        )


def _clashes(rows: pa.Table) -> pa.Table:
    """Rows with another text than their id had before, for the quarantine."""
    return pa.table(
        {
            "source_file": rows["source_file"],
            "line": rows["line"],
            "reason": [f"{CLASH}{id!r}" for id in rows["id"].to_pylist()],
            "excerpt": pc.utf8_slice_codeunits(rows["text"], 0, 200),
        }
    )


def remove_texts(path: Path, ledger: Ledger) -> None:
    """Take the texts out of lines that were quarantined while texts were kept.

    Args:
        path: the folder of scores.
        ledger: that knows its files as they are.
    """
    for damaged in path.glob(f"{SET_ASIDE}/{QUARANTINE}.*"):  # their lines are in their inputs
        damaged.unlink()
    files = {file.path: file for file in ledger.files()}
    for file in _quarantined(path):
        before = pa.concat_tables(read_part(file, LINE_COLUMNS))
        after = without_text(before)
        if not after.equals(before):
            write_table(file, after)
            now = Published.of(file, path, line_keys(after), _sources(after))
            gone = [key for key, _ in line_keys(before)]
            ledger.rewritten(files[now.path], gone, now)


def _quarantined(path: Path) -> Iterator[Path]:
    return path.glob(f"{QUARANTINE}/*.parquet")


def _sources(table: pa.Table) -> set[str]:
    return {one for one in table["source_file"].unique().to_pylist() if one}
