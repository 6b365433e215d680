"""Mend a folder of scores: the Parquet files are the truth, everything else is made from them.

    print(repair_scores(Path("scores")))

Every file is read with all its checksums. A damaged one is set aside, byte for byte, in
``_quarantine/_damaged``; the ledger is made again; of rows that are there twice the later ones go;
the card and the list of deleted ids are brought back. Again is no harm, and killed at any moment
the same command, or the next run, goes on.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline.errors import ScoreError
from pipeline.progress import Say, silent
from pipeline.scoring.deletion import Deleted, finish_deletion, sweep
from pipeline.scoring.ledger import LEDGER, Carried, File, Ledger, Published, remove_ledger
from pipeline.scoring.parts import (
    CHECKED,
    SET_ASIDE,
    UNREADABLE,
    DamagedFile,
    has_column,
    is_quarantine,
    keys_of,
    part_files,
    read_part,
    reading,
    repair_command,
    rewrite_part,
)
from pipeline.scoring.place import (
    DRIFT,
    RUNS,
    SCORE_CARD,
    alone,
    check_scores,
    format_version,
    open_ledger,
    read_score_card,
)
from pipeline.scoring.sinks import sink_of
from store.disk import make_directories, sync_directory
from store.tables import read_json, write_json

MISSING = "missing"
"""The reason of a part that a commit names and that is not there."""
SHOWN = 10
"""Names that a report for a person lists."""


@dataclass(frozen=True)
class Damaged:
    """A damaged file: where it was, what is wrong, where it lies now, and what is lost with it.

    Attributes:
        file, moved_to: relative to the folder of scores; "" if it was removed, since the folder
            keeps no texts and it may have held some.
        reason: what is wrong with it.
        rows: that it had; None if nothing says so.
        sources: input files that they came from; None if nothing says so.
    """

    file: str
    reason: str
    moved_to: str
    rows: int | None = None
    sources: tuple[str, ...] | None = None


@dataclass
class RepairReport:
    """What a repair found and did.

    Attributes:
        output: the folder of scores.
        dry_run: nothing was changed.
        files, rows: that are there now.
        set_aside: damaged files.
        read_again: input files that were read to their end before, and will be read again when a
            run names them; only rows that are missing are scored.
        ledger: why the ledger was not to be used as it was; None if it was sound.
        mended: other files that were made again.
        repeated: rows that were there twice, with the same text, and were taken out.
        clashes: ids that are there with different texts; they stay as they are.
        deleted: rows of deleted ids that had been left, or come back, and were taken out.
    """

    output: str
    dry_run: bool
    files: int = 0
    rows: int = 0
    set_aside: list[Damaged] = field(default_factory=list)
    read_again: list[str] = field(default_factory=list)
    ledger: str | None = None
    mended: list[str] = field(default_factory=list)
    repeated: int = 0
    clashes: list[str] = field(default_factory=list)
    deleted: int = 0

    @property
    def is_sound(self) -> bool:
        """Whether there was nothing to mend."""
        found = (self.set_aside, self.ledger, self.mended, self.repeated, self.deleted)
        return not any(found)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        status = "dry run" if self.dry_run else "sound" if self.is_sound else "repaired"
        return {"status": status, **asdict(self)}

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        would = "would be " if self.dry_run else ""
        said = ": nothing to mend" if self.is_sound else ""
        yield f"{self.output}: {self.rows} rows in {self.files} files{said}"
        for one in self.set_aside:
            rows = "its rows" if one.rows is None else f"its {one.rows} rows"
            where = "an unknown input" if one.sources is None else some_of(one.sources)
            done = f"set aside as {one.moved_to}" if one.moved_to else "removed, it may hold texts"
            done = "taken out" if one.reason == MISSING else done
            yield f"{one.file}: {one.reason}; {would}{done}"
            if not one.file.endswith(".parquet"):
                continue  # a card or a record: no rows are lost with it
            yield f"  {rows} came from {where}: score that again, and what is missing comes back"
        if self.read_again:
            yield f"{would}read again when a run names them: {some_of(self.read_again)}"
        if self.ledger is not None:
            yield f"ledger {would}made again from the Parquet files: {self.ledger}"
        for name in self.mended:
            yield f"{name}: {would}mended"
        if self.repeated:
            yield f"{self.repeated} rows that were there before {would}taken out"
        if self.clashes:
            yield f"ids that are there with different texts, and stay: {some_of(self.clashes)}"
        if self.deleted:
            yield f"{self.deleted} rows of deleted ids {would}taken out"


def some_of(names: list[str] | tuple[str, ...]) -> str:
    """Some names in a line, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def repair_scores(folder: Path, *, dry_run: bool = False, say: Say = silent) -> RepairReport:
    """Mend a folder of scores.

    Args:
        folder: of the scores.
        dry_run: change nothing, only tell.
        say: told of progress.

    Raises:
        ConfigError: no folder of scores.
        ScoreError: it leads elsewhere, is of a newer format, holds scores of several heads without
            a card, or nothing is left of its list of deleted ids.
    """
    check_scores(folder)
    with ExitStack() as stack:
        stack.enter_context(alone(folder, dry_run=dry_run, say=say))
        report = RepairReport(str(folder), dry_run)
        work = _Repair(folder, report)
        work.mend_deleted()
        work.check_records()
        before = work.ledger_before()
        if dry_run:
            index = Path(stack.enter_context(TemporaryDirectory(prefix="salient-"))) / LEDGER
        else:
            index = folder / LEDGER
            remove_ledger(index)
        with Ledger(index, folder) as ledger:
            work.record_parts(ledger, before, say)
            for file in ledger.files():
                if file.num_repeated:
                    work.take_out_repeated(ledger, file)
            work.mend_card()
            if not dry_run:
                report.deleted = work.take_out_deleted(ledger, say)
                ledger.sync(folder)
            files = [one for one in ledger.files() if not is_quarantine(Path(one.path))]
            report.files, report.rows = len(files), sum(file.num_rows for file in files)
    return report


@dataclass(frozen=True)
class _Before:
    """What the ledger knew, if it was sound."""

    carried: Carried | None = None
    files: dict[str, File] = field(default_factory=dict)


class _Repair:
    """One repair, step by step."""

    def __init__(self, folder: Path, report: RepairReport) -> None:
        self._folder = folder
        self._report = report

    def mend_deleted(self) -> None:
        """The list of deleted ids, from its copy or for it."""
        mended = Deleted.mend(self._folder, dry_run=self._report.dry_run)
        if mended is not None:
            self._report.mended.append(mended)

    def check_records(self) -> None:
        """Summaries and drift reports: nothing depends on them, but a report reads them."""
        for path in (*self._folder.glob(f"{RUNS}/*.json"), *self._folder.glob(f"{DRIFT}/*.json")):
            try:
                with reading(path, ""):
                    read_json(path)
            except DamagedFile as error:
                self._set_aside(path, str(error))

    def ledger_before(self) -> _Before:
        """What the ledger says, before it is made again."""
        if not (self._folder / LEDGER).exists():
            self._report.ledger = "it was missing"
            return _Before()
        try:
            # It is removed right after, so only a dry run needs a copy, which may be of gigabytes.
            with open_ledger(self._folder, dry_run=self._report.dry_run) as ledger:
                return _Before(ledger.carried(), {one.path: one for one in ledger.files()})
        except ScoreError as error:
            self._report.ledger = str(error).partition(": ")[2].partition("; `salient")[0]
            return _Before()

    def record_parts(self, ledger: Ledger, before: _Before, say: Say) -> None:
        """Read every file into the ledger, the oldest first; set damaged ones aside."""
        found = sorted(part_files(self._folder), key=lambda path: (path.stat().st_mtime_ns, path))
        say(f"{self._folder}: reading {len(found)} files")
        for path in found:
            try:
                ledger.record([Published.unread(path, self._folder)], {})
            except DamagedFile as error:
                known = before.files.get(str(path.relative_to(self._folder)))
                self._set_aside(path, str(error), *_lost(path, known))
        carried = before.carried
        kept = {} if carried is None else carried.inputs_if(ledger.files())
        ledger.record([], kept)
        if carried is not None:
            names = {one.name for key, one in carried.inputs.items() if key not in kept}
            self._report.read_again = sorted(filter(None, names))

    def take_out_repeated(self, ledger: Ledger, file: File) -> None:
        """Take rows out of a file that another holds, or that it holds before."""
        path, keep = self._folder / file.path, []
        with ledger.telling_repeated() as came_before:
            for table in read_part(path):
                keys = keys_of(path, table)
                known = ledger.known(key for key, _ in keys)
                repeated = came_before([key for key, _ in keys])
                stays = np.ones(len(keys), bool)
                for at, (key, text) in enumerate(keys):
                    entry = known[key]
                    if entry.file == file.number and not repeated[at]:
                        continue
                    stays[at] = entry.text != text
                    if stays[at]:
                        self._report.clashes.append(str(key))
                keep.append(stays)
        mask = np.concatenate(keep)
        num_taken = int((~mask).sum())
        self._report.repeated += num_taken
        if num_taken and not self._report.dry_run:
            ledger.take_out(file, rewrite_part(path, mask), num_taken=num_taken)

    def take_out_deleted(self, ledger: Ledger, say: Say) -> int:
        """Rows of deleted ids, wherever they came from: a file may have been put back."""
        deleted, rows = Deleted.load(self._folder), finish_deletion(self._folder, ledger, say).rows
        if len(deleted):
            rows += sweep(self._folder, ledger, ledger.files(), deleted.mask).rows
        return rows

    def _keeps_text(self) -> bool:
        with contextlib.suppress(ScoreError):
            return (read_score_card(self._folder) or {}).get("keep_text", True) is not False
        return True

    def mend_card(self) -> None:
        """The card, from the rows; a run with the heads completes it."""
        path = self._folder / SCORE_CARD
        with contextlib.suppress(DamagedFile):
            if read_score_card(self._folder) is not None:  # sound: of this format, or refused
                return
        found = self._fingerprints()
        if len(found) > 1:
            raise ScoreError(
                f"{path}: damaged, and the rows are of {len(found)} sets of heads"
                f" ({', '.join(sorted(found))}): move those of all but one to another folder, then"
                f" {repair_command(self._folder)} again"
            )
        if path.exists():
            self._set_aside(path, "damaged")
        if found:
            self._report.mended.append(SCORE_CARD)
            if not self._report.dry_run:
                version = format_version(self._folder)
                write_json(path, {"format_version": version, "fingerprint": found.pop()})

    def _fingerprints(self) -> set[str]:
        found: set[str] = set()
        for path in part_files(self._folder):
            if not is_quarantine(path) and has_column(path, "fingerprint"):
                with contextlib.suppress(DamagedFile):  # in a dry run it is still there
                    for table in read_part(path, ("fingerprint",)):
                        found.update(table["fingerprint"].unique().to_pylist())
        return found

    def _set_aside(
        self,
        path: Path,
        reason: str,
        rows: int | None = None,
        sources: tuple[str, ...] | None = None,
    ) -> None:
        """Move a damaged file where no reader looks, and say so."""
        name = str(path.relative_to(self._folder))
        target = self._folder / SET_ASIDE / f"{name.replace(os.sep, '.')}.damaged"
        number = 1
        while target.exists():
            number += 1
            target = target.with_name(f"{name.replace(os.sep, '.')}.{number}.damaged")
        moved_to = str(target.relative_to(self._folder))
        if is_quarantine(path) and not self._keeps_text():
            moved_to = ""
        if not self._report.dry_run:
            if moved_to:
                make_directories(target.parent)
                os.rename(path, target)
                sync_directory(target.parent)
            else:
                path.unlink()
            sync_directory(path.parent)
            sink_of(self._folder).commit([], [path])
        reason = reason.removeprefix(f"{path}: ").partition("; `salient")[0]
        self._report.set_aside.append(Damaged(name, reason, moved_to, rows, sources))


def _lost(path: Path, known: File | None) -> tuple[int | None, tuple[str, ...] | None]:
    """Rows of a damaged file and where they came from, by the ledger or by what can be read."""
    if known is not None:
        return known.num_rows + known.num_repeated, known.sources
    try:
        with path.open("rb") as source, pq.ParquetFile(source, **CHECKED) as file:
            names = file.read(columns=["source_file"])["source_file"].unique().to_pylist()
        return None, tuple(sorted(map(str, names)))
    except UNREADABLE:
        return None, None
