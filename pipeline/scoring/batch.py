"""Batch scoring: texts or tweet dumps in, Parquet by date out, every id once.

A ``ScoreRun`` reads files in blocks, leaves out what the filters leave out and what is scored
already, has the different texts computed, and hands the rows to the folder of scores, which writes
them. A killed run loses nothing and doubles nothing: the next one reads the files again that were
not finished, and scores what is missing.

    files        -> (Work, texts)         _works: a thread that reads ahead
    texts        -> Scored                compute: threads or workers; the Work goes along
    Work, Scored -> rows                  _with_scores: the caller's thread
    rows         -> folder of scores      _write: the caller's thread
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import SCORE_COLUMNS
from pipeline.errors import CorpusError, DumpError, ScoreError
from pipeline.events import FileRead, RowsScored, emit
from pipeline.heads import Drift, Head
from pipeline.progress import Say, silent
from pipeline.scoring.cache import CachePlan, TextCache
from pipeline.scoring.cascade import Cascade
from pipeline.scoring.folder import ScoreFolder
from pipeline.scoring.inputs import NO_NAMES, said_by_name
from pipeline.scoring.ledger import Finished
from pipeline.scoring.prediction import OF_ROWS
from pipeline.scoring.scorer import Compute, Scored, heads_fingerprint
from pipeline.scoring.seen import Seen, SeenFiles, looked_at, now_ns, state_of
from pipeline.scoring.summary import (
    Counts,
    InputReport,
    ScoreReport,
    only_unknown,
    reason_kind,
)
from pipeline.texts import (
    READING,
    TWEETS,
    Filters,
    InputBlock,
    InputOptions,
    columns_line,
    content_digest,
    detect,
    earlier_key,
    input_key,
    readable,
    recognised,
    settled,
)
from pipeline.texts import read_blocks as read_input_blocks
from store.errors import InputError, TryAgain


class IncompleteScores(ScoreError):
    """All that could be scored was scored, but a file failed or too many rows were unreadable."""

    def __init__(self, report: ScoreReport) -> None:
        super().__init__(str(report.problem))
        self.report = report


class WrongInputs(IncompleteScores, InputError):
    """Nothing was scored for what is wrong with the inputs, or with how they are to be read."""


def score_card(heads: Sequence[Head], cascade: Cascade | None = None) -> dict[str, object]:
    """What a folder of scores says of the heads that made them, and of how texts left early."""
    card: dict[str, object] = {
        "fingerprint": heads_fingerprint(heads),
        "extraction_fingerprint": heads[0].card.extraction_fingerprint,
        "tasks": {
            head.card.task: {
                "kind": head.card.kind,
                "fingerprint": head.fingerprint,
                "depth": head.card.depth,
                "num_features": head.card.num_features,
                "classes": list(head.card.classes),  # as it is read again
                "type": head.card.type,
                "errors": head.card.metrics.get("errors"),
            }
            for head in heads
        },
    }
    if cascade is not None:
        card |= {"fingerprint": cascade.fingerprint, "cascade": cascade.to_dict()}
    return card


@dataclass(frozen=True)
class _End:
    """A file was read to its end."""

    input_number: int
    key: str
    done: Finished


@dataclass(frozen=True)
class Work:
    """New rows of one block, on their way to the folder.

    Attributes:
        input_number: of their file.
        rows: the rows; at least one.
        plan: where the predictions of their texts come from.
        counts: of their file.
        ended: the files that ended before this block and after the last one that had new rows.
    """

    input_number: int
    rows: pa.Table
    plan: CachePlan
    counts: Counts
    ended: tuple[_End, ...]


class ScoreRun:
    """One run over some files.

    Args:
        folder: an open folder of scores.
        report: to be filled; its ``fingerprint`` is put into every row.
        options: how files are read.
        filters: which rows are scored.
        cache_texts: texts whose predictions are remembered.
        compute: the model's part; None to only read and count (the folder must be in a dry run).
        seen: files whose content is known.
        names: paths -> what the user calls them, of files that stand for something else.
        told: whether the run is to end after what it has in hand; the next one goes on.
        say: told of progress.
    """

    def __init__(
        self,
        folder: ScoreFolder,
        report: ScoreReport,
        *,
        options: InputOptions,
        filters: Filters,
        cache_texts: int,
        compute: Compute | None,
        seen: SeenFiles | None = None,
        names: Mapping[Path, str] = NO_NAMES,
        told: Callable[[], bool] = lambda: False,
        say: Say = silent,
    ) -> None:
        self._folder = folder
        self._report = report
        self._options = options
        self._filters = filters
        self._cache = TextCache(max_texts=cache_texts)
        self._compute = compute
        self._seen = seen or SeenFiles()
        self._names = names
        self._told = told
        self._say = say
        asked = {**options.to_dict(), "filters": filters.to_dict(), "reading": READING}
        self._asked = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        self._columns_said: list[str] = []
        self._first = len(report.inputs)
        self._num_read = self._num_scored = self._num_done = 0
        self._ended: list[_End] = []
        self._unknown: list[_End] = []
        self.drift = Drift()
        """Of all texts computed."""

    def run(self, paths: Sequence[Path]) -> None:
        """Score files, one after another; at its end all of their rows are written."""
        started = time.monotonic()
        for work, table in self._results(self._works(paths)):
            self._write(work, table)
            self._num_scored += len(table)
            emit(
                RowsScored(
                    path=self._report.inputs[self._first + work.input_number].name,
                    num_rows=len(table),
                    read=self._num_read,
                    scored=self._num_scored,
                    rate=self._num_scored / max(time.monotonic() - started, 1e-9),
                    files_done=self._num_done,
                    num_files=len(paths),
                    dry_run=self._report.dry_run,
                )
            )
        self._finish(self._ended)
        if self._report.unknown_only() is None:  # otherwise the next run is to say so again
            self._finish(self._unknown)
        self._folder.flush()
        for number, left_out in self._folder.left_out.items():
            self._report.inputs[self._first + number].counts.update(left_out)

    def _results(self, works: Iterator[tuple[Work, pa.Table]]) -> Iterator[tuple[Work, pa.Table]]:
        """The rows of every block with their scores; in a dry run without."""
        if self._compute is None:
            for work, texts in works:
                work.counts["computed"] += len(texts)  # would be
                yield work, work.rows
        else:
            for work, scored in self._compute(works):
                yield work, self._with_scores(work, scored)

    # ------------------------------------------------- reading, in the thread that computes ahead

    def _works(self, paths: Sequence[Path]) -> Iterator[tuple[Work, pa.Table]]:
        """Every block with new rows, and those of its rows whose text is to be computed."""
        for number, path in enumerate(paths):
            entry = InputReport(self._names.get(path, readable(str(path))))
            self._report.inputs.append(entry)
            if self._told():
                entry.state = "stopped"
                continue
            try:
                yield from self._read(number, path, entry)
            except (CorpusError, DumpError) as error:
                # The other files go on; this one is reported at the end.
                entry.state, entry.problem = "failed", said_by_name(error, path, self._names)
                entry.is_unreached = isinstance(error, TryAgain)
                self._say(f"failed: {entry.problem}")
            if entry.state == "stopped":
                continue
            self._num_done += 1
            emit(
                FileRead(
                    path=entry.name,
                    state=entry.state,
                    kind=entry.kind,
                    num_rows=entry.counts["read"],
                    problem=entry.problem,
                )
            )

    def _read(
        self, number: int, given: Path, entry: InputReport
    ) -> Iterator[tuple[Work, pa.Table]]:
        looked_at_ns, (path, before) = now_ns(), looked_at(given)
        known = self._seen.find(path, before)
        settle = cache(partial(settled, path, options=self._options))  # it is looked at once
        seen = self._seen_as(path, known, settle)
        counts = self._folder.finished(seen.key)
        if counts is None and known is not None:
            # What is read is recorded by the bytes that it has.
            known, seen = None, self._seen_as(path, None, settle)
            counts = self._folder.finished(seen.key)
        if counts is None:
            counts = self._finished_earlier(path, seen)
        entry.content, entry.kind = seen.content, seen.kind
        if counts is not None:
            entry.state, entry.counts = "unchanged", counts
            is_of_state = known is not None or state_of(given) == before
            if is_of_state and path not in self._names:
                self._seen.note(path, before, seen, looked_at_ns=looked_at_ns)
            return
        with suppress(CorpusError):  # only told of: whether it can be read, reading will find
            found = recognised(path, self._options)
            entry.framing, entry.container = found.framing, found.container
            entry.encoding = found.encoding
        settings = settle(entry.kind)
        self._say_columns(entry.kind, settings)
        for block in read_input_blocks(path, entry.kind, settings):
            if self._told():
                entry.state = "stopped"
                return
            new = self._new_rows(number, self._named(path, block), entry)
            if len(new):
                plan = self._cache.plan(new["text_hash"].to_pylist())
                ended, self._ended = tuple(self._ended), []
                work = Work(number, new, plan, entry.counts, ended)
                yield work, new.take(pa.array(plan.new, pa.int64()))
        entry.state = "read"
        if state_of(given) == before:
            ends = self._unknown if only_unknown(entry.counts) else self._ended
            ends.append(_End(number, seen.key, Finished(entry.name, entry.counts)))
            if path not in self._names:  # the others are gone with this run
                self._seen.note(path, before, seen, looked_at_ns=looked_at_ns)
        else:
            self._say(f"{path}: changed while it was read; the next run reads it again")

    def _finished_earlier(self, path: Path, seen: Seen) -> Counts | None:
        """The counts of a table that an earlier version read by ids of its own making."""
        if seen.kind == TWEETS:
            return None
        filters = self._filters.to_dict()
        key = earlier_key(path, seen.content, seen.kind, self._options, filters=filters)
        return None if key is None else self._folder.finished(key)

    def _seen_as(
        self, path: Path, known: Seen | None, settle: Callable[[str], InputOptions]
    ) -> Seen:
        """A file as this run asks for it; its bytes are read if they are not known."""
        if known is not None and known.asked == self._asked:
            return known
        content = content_digest(path) if known is None else known.content
        kind = detect(path, self._options)
        key = input_key(
            path,
            content,
            kind,
            self._options,
            columns=None if kind == TWEETS else settle(kind).read,
            filters=self._filters.to_dict(),
        )
        return Seen(content, kind, self._asked, key)

    def _say_columns(self, kind: str, settings: InputOptions) -> None:
        """Say once which columns are read of files of texts."""
        if kind != TWEETS and (line := columns_line(settings)) not in self._columns_said:
            self._columns_said.append(line)
            self._say(line)

    def _named(self, path: Path, block: InputBlock) -> InputBlock:
        """A block by the name that the user knows its file by."""
        if (name := self._names.get(path)) is None:
            return block
        own = f"^{re.escape(readable(path.name))}"  # what follows is a file in it
        tables = [
            table.set_column(
                table.schema.get_field_index("source_file"),
                "source_file",
                pc.replace_substring_regex(table["source_file"], own, name),
            )
            for table in (block.rows, block.bad)
        ]
        return replace(block, rows=tables[0], bad=tables[1])

    def _new_rows(self, number: int, block: InputBlock, entry: InputReport) -> pa.Table:
        """Count a block; its rows that are to be scored."""
        rows, lines, num_deleted = self._folder.leave_out(block.rows, block.bad)
        kept, left_out = self._filters.apply(rows)
        new, bad, counts = self._folder.sort_out(kept, ids_are_exact=entry.kind == TWEETS)
        for unreadable in (lines, bad):
            if unreadable is not None:
                self._folder.quarantine(unreadable, number)
        for reason in lines["reason"].to_pylist():
            counts[f"quarantined/{reason_kind(reason)}"] += 1
        counts.update(block.counts)
        counts.update({f"filtered/{reason}": count for reason, count in left_out.items()})
        if num_deleted:
            counts["filtered/deleted"] += num_deleted
        counts["scored"] += len(new)
        entry.counts.update(counts)
        self._num_read += counts["read"]
        return new

    # ------------------------------------------------------------------ scores and writing

    def _with_scores(self, work: Work, scored: Scored) -> pa.Table:
        """The rows of a block with the predictions of their texts, as they are written."""
        self.drift += scored.drift
        predictions = scored.table.drop_columns(list(OF_ROWS))
        work.counts["computed"] += len(predictions)
        table = self._scores(work.rows, self._cache.resolve(work.plan, predictions))
        blank = [not (text or "").strip() for text in work.rows["text"].to_pylist()]
        work.counts["empty"] += sum(blank)
        work.counts["truncated"] += int(pc.sum(table["truncated"]).as_py() or 0)
        return table

    def _write(self, work: Work, table: pa.Table) -> None:
        """The only way of rows to the folder, and of ends of files to its ledger."""
        # Durable after this: nothing yet; a file's end is recorded with the last of its rows,
        # all of which have been added before.
        self._finish(work.ended)
        # Durable after this: all rows but the last buffer_rows, in files first, then in the ledger
        # (the others once the folder is flushed).
        self._folder.add(table, work.input_number)

    def _finish(self, ended: Sequence[_End]) -> None:
        for end in ended:
            self._folder.finish(end.input_number, end.key, end.done)

    def _scores(self, rows: pa.Table, predictions: pa.Table) -> pa.Table:
        columns = {
            "id": rows["id"],
            "created_at": rows["created_at"].cast(pa.timestamp("s", tz="UTC")),
            "source_file": rows["source_file"],
            "text_hash": rows["text_hash"],
            "fingerprint": pa.array([self._report.fingerprint] * len(rows), pa.string()),
            "platform": rows["platform"],
            **{name: predictions[name] for name in predictions.column_names},
        }
        others = [name for name in columns if name not in SCORE_COLUMNS]
        return pa.table({name: columns[name] for name in (*SCORE_COLUMNS, *others)})
