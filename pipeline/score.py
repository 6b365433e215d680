"""Batch scoring: texts or tweet dumps in, Parquet by date out, every id once.

A ``ScoreRun`` reads files in blocks, leaves out what the filters leave out and what is scored
already, has the different texts computed, and hands the rows to the folder of scores, which writes
them. Reading runs in another thread, ahead of computing. A killed run loses nothing and doubles
nothing: the next one reads the files again that were not finished, and scores what is missing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import SCORE_COLUMNS
from pipeline.drift import Drift
from pipeline.errors import CorpusError, DumpError, ScoreError
from pipeline.filters import Filters
from pipeline.heads import Head
from pipeline.inputs import TWEETS, InputBlock, InputOptions, content_digest, detect, input_key
from pipeline.inputs import read_blocks as read_input_blocks
from pipeline.scorefolder import ScoreFolder
from pipeline.scorer import Scored, heads_fingerprint
from pipeline.scorereport import Counts, InputReport, ScoreReport, reason_kind
from pipeline.streams import readable
from pipeline.textcache import Plan, TextCache

SAY_EVERY_S = 5.0
Compute = Callable[[Iterable[pa.Table]], Iterator[Scored]]
"""``Scorer.score``: tables of rows with different texts -> their results, in order."""


class IncompleteScores(ScoreError):
    """All that could be scored was scored, but a file failed or too many rows were unreadable."""

    def __init__(self, report: ScoreReport) -> None:
        super().__init__(str(report.problem))
        self.report = report


def score_card(heads: Sequence[Head]) -> dict[str, object]:
    """What a folder of scores says of the heads that made them."""
    return {
        "fingerprint": heads_fingerprint(heads),
        "extraction_fingerprint": heads[0].card.extraction_fingerprint,
        "tasks": {
            head.card.task: {
                "kind": head.card.kind,
                "fingerprint": head.fingerprint,
                "depth": head.card.depth,
                "num_features": head.card.num_features,
                "classes": head.card.classes,
            }
            for head in heads
        },
    }


@dataclass(frozen=True)
class _Rows:
    """New rows of one block, on their way to the folder."""

    input_number: int
    rows: pa.Table
    plan: Plan
    counts: Counts


@dataclass(frozen=True)
class _End:
    """An input was read to its end; its rows came before."""

    input_number: int
    key: str
    counts: Counts


class ScoreRun:
    """One run over some files.

    Args:
        folder: an open folder of scores.
        report: to be filled; its ``fingerprint`` is put into every row.
        options: how files are read.
        filters: which rows are scored.
        cache_texts: texts whose predictions are remembered.
        compute: the model's part; None to only read and count (the folder must be in a dry run).
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
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._folder = folder
        self._report = report
        self._options = options
        self._filters = filters
        self._cache = TextCache(max_texts=cache_texts)
        self._compute = compute
        self._say = say
        self._waiting: deque[_Rows | _End] = deque()
        self.drift = Drift()
        """Of all texts computed."""

    def run(self, paths: Sequence[Path]) -> None:
        """Score files, one after another."""
        started = said = time.monotonic()
        for scored in self._results(self._tables(paths)):
            self._take(scored)
            now = time.monotonic()
            if now - said >= SAY_EVERY_S:
                said = now
                self._say(self._progress(now - started))
        self._take_ends()

    def _results(self, tables: Iterator[pa.Table]) -> Iterator[Scored | None]:
        """What is computed for each table; nothing in a dry run."""
        if self._compute is None:
            return (None for _ in tables)
        return self._compute(tables)

    def _progress(self, elapsed_s: float) -> str:
        report = self._report
        done = sum(one.state != "reading" for one in report.inputs)
        return (
            f"{report.read} rows read, {report.scored} scored ({report.scored / elapsed_s:.0f} a"
            f" second), {done} files done"
        )

    # ------------------------------------------------- reading, in the thread that computes ahead

    def _tables(self, paths: Sequence[Path]) -> Iterator[pa.Table]:
        """Rows with a new text each, block by block; the blocks wait in ``_waiting``."""
        for number, path in enumerate(paths):
            entry = InputReport(readable(str(path)))
            self._report.inputs.append(entry)
            try:
                yield from self._read(number, path, entry)
            except (CorpusError, DumpError) as error:
                # The other files go on; this one is reported at the end.
                entry.state, entry.problem = "failed", str(error)
                self._say(f"failed: {error}")

    def _read(self, number: int, path: Path, entry: InputReport) -> Iterator[pa.Table]:
        before = _state_of_file(path)
        entry.content = content_digest(path)
        entry.kind = detect(path, self._options)
        key = input_key(
            path, entry.content, entry.kind, self._options, filters=self._filters.to_dict()
        )
        if (counts := self._folder.finished(key)) is not None:
            entry.state, entry.counts = "unchanged", counts
            return
        for block in read_input_blocks(path, entry.kind, self._options):
            yield from self._plan(number, block, entry)
        entry.state = "read"
        if _state_of_file(path) == before:
            self._waiting.append(_End(number, key, entry.counts))
        else:
            self._say(f"{path}: changed while it was read; the next run reads it again")

    def _plan(self, number: int, block: InputBlock, entry: InputReport) -> Iterator[pa.Table]:
        """Count a block; yield those of its rows whose text is to be computed."""
        kept, left_out = self._filters.apply(block.rows)
        new, bad, counts = self._folder.sort_out(kept, ids_are_exact=entry.kind == TWEETS)
        for unreadable in (block.bad, bad):
            if unreadable is not None:
                self._folder.quarantine(unreadable, number)
        for reason in block.bad["reason"].to_pylist():
            counts[f"quarantined/{reason_kind(reason)}"] += 1
        counts.update(block.counts)
        counts.update({f"filtered/{reason}": count for reason, count in left_out.items()})
        counts["scored"] += len(new)
        entry.counts.update(counts)
        if len(new):
            plan = self._cache.plan(new["text_hash"].to_pylist())
            self._waiting.append(_Rows(number, new, plan, entry.counts))
            yield new.take(plan.new)

    # ------------------------------------------------------------------ writing

    def _take(self, scored: Scored | None) -> None:
        """Hand the next block's rows to the folder."""
        self._take_ends()
        block = self._waiting.popleft()
        assert isinstance(block, _Rows)
        if scored is None:
            self._folder.add(block.rows, block.input_number)
            return
        self.drift += scored.drift
        predictions = scored.table.drop_columns(list(_OF_ROWS))
        block.counts["computed"] += len(predictions)
        table = self._scores(block.rows, self._cache.resolve(block.plan, predictions))
        blank = [not (text or "").strip() for text in block.rows["text"].to_pylist()]
        block.counts["empty"] += sum(blank)
        block.counts["truncated"] += int(pc.sum(table["truncated"]).as_py() or 0)
        self._folder.add(table, block.input_number)

    def _take_ends(self) -> None:
        """Pass on that inputs have ended, up to the next block with rows."""
        while self._waiting and isinstance(self._waiting[0], _End):
            end = self._waiting.popleft()
            assert isinstance(end, _End)
            self._folder.finish(end.input_number, end.key, end.counts)

    def _scores(self, rows: pa.Table, predictions: pa.Table) -> pa.Table:
        columns = {
            "id": rows["id"],
            "created_at": rows["created_at"].cast(pa.timestamp("s", tz="UTC")),
            "source_file": rows["source_file"],
            "text_hash": rows["text_hash"],
            "fingerprint": pa.array([self._report.fingerprint] * len(rows), pa.string()),
            **{name: predictions[name] for name in predictions.column_names},
        }
        others = [name for name in columns if name not in SCORE_COLUMNS]
        return pa.table({name: columns[name] for name in (*SCORE_COLUMNS, *others)})


_OF_ROWS = ("id", "created_at", "source_file", "text_hash")
"""Columns of ``Scored.table`` that belong to a row rather than to its text."""


def _state_of_file(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror or error}") from None
    return found.st_ino, found.st_size, found.st_mtime_ns
