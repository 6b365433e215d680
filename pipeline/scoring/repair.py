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
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq

from pipeline.errors import ScoreError
from pipeline.progress import Say, silent
from pipeline.scoring.deleted import Deleted
from pipeline.scoring.deletion import finish_deletion, sweep
from pipeline.scoring.ledger import LEDGER, Carried, File, Ledger, Published, remove_ledger
from pipeline.scoring.mended import Damaged, RepairReport
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
from store.disk import is_url, make_directories, sync_directory
from store.tables import read_json, write_json


def repair_scores(
    folder: Path | str, *, dry_run: bool = False, grace_s: float | None = None, say: Say = silent
) -> RepairReport:
    """Mend a folder of scores.

    Args:
        folder: of the scores, or its URL.
        dry_run: change nothing, only tell.
        grace_s: in a bucket: how old a staged part must be to be taken for a dead writer's.
        say: told of progress.

    Raises:
        ConfigError: no folder of scores.
        ScoreError: it leads elsewhere, is of a newer format, holds scores of several heads without
            a card, or nothing is left of its list of deleted ids.
    """
    if is_url(folder):
        from pipeline.scoring.bucketrepair import GRACE_S, mend  # which stands above this

        grace_s = GRACE_S if grace_s is None else grace_s
        return mend(str(folder), dry_run=dry_run, grace_s=grace_s, say=say)
    folder = Path(folder)
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
