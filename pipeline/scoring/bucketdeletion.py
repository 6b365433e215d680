"""Take tweets out of scores in a bucket, for good: by one commit, whoever else writes there.

    report = erase("s3://scores/sentiment", {"1344908468193435649"}, Searched(), …)

The commit removes the parts that hold an id, adds them again without it, and lists the id, so that
all of this counts at once. With what others do at the same time it goes as follows:

- another commits first: what has come meanwhile is looked at, too, and all is tried again;
- a scorer has such a row in hand: it loses the race for its commit, and leaves out what is listed;
- killed before the commit: staged parts are left that nobody counts;
- what others that died have left staged, and nobody counts, may hold such a row: it goes, for after
  the commit nobody can commit it any more (another's that lives is staged anew);
- killed after it: nobody counts the rows any more; whoever opens the folder next removes the parts;
- a slow copy of a part that is removed by now: whoever copies looks at the commits afterwards;
- old commits keep digests of the rows: they are scrubbed, here or by the next deletion or repair.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.progress import Say, counted, silent
from pipeline.scoring.bucketscores import (
    MANY_COMMITS,
    BucketScores,
    Staged,
    open_bucket,
    pause_before,
)
from pipeline.scoring.commitlog import lost_part
from pipeline.scoring.deleted import DeletionReport, Meant, Searched, Swept, named_in
from pipeline.scoring.parts import ORIGIN, SET_ASIDE, id_key, is_quarantine


def erase(
    address: str,
    wanted: Collection[str],
    searched: Searched,
    *,
    forget: bool,
    dry_run: bool,
    say: Say,
) -> DeletionReport:
    """Take ids out of a folder in a bucket, or let them be scored again.

    Args:
        address: of the folder.
        wanted: ids.
        searched: what dumps say, of which some ids come.
        forget: let the ids be scored again instead.
        dry_run: change nothing, only count.
        say: told of progress.

    Raises:
        ScoreError: a damaged or missing part.
    """
    with open_bucket(address, dry_run=dry_run, say=say) as scores:
        aside = scores.location.list(SET_ASIDE)
        report = DeletionReport(
            address,
            dry_run,
            len(wanted),
            unreadable=searched.unreadable,
            without_author=searched.without_author,
            incomplete=tuple(searched.incomplete),
            not_searched=tuple(f"{address}/{one.path}" for one in aside),
        )
        if forget:
            return _lift(scores, report, sorted(wanted))
        return _delete(scores, report, sorted(wanted), searched.ids, say)


def _lift(scores: BucketScores, report: DeletionReport, names: Sequence[str]) -> DeletionReport:
    """Let ids be scored again; all inputs are read again, to find them."""
    while True:
        scores.refresh()
        known = scores.deleted.mask(names)
        back = [name for name, there in zip(names, known, strict=True) if there]
        if report.dry_run or not back:
            break
        digests = [scores.digests.of_key(id_key(name)) for name in back]
        if scores.append("lift", lifted=digests, forgets_inputs=True):
            break
    return replace(
        report,
        forgotten=len(back),
        listed=len(scores.deleted) - len(back) * report.dry_run,
        is_lifted=True,
        missing=tuple(name for name, there in zip(names, known, strict=True) if not there),
    )


def _delete(
    scores: BucketScores,
    report: DeletionReport,
    names: Sequence[str],
    by_authors: Collection[str],
    say: Say,
) -> DeletionReport:
    done, attempts = dict[str, _Found](), itertools.count()
    while True:
        attempt = next(attempts)
        pause_before(attempt)
        scores.refresh()
        known = scores.deleted.mask(names)
        new = [name for name, there in zip(names, known, strict=True) if not there]
        work = _take_out(scores, names, done)
        if work is None:  # another has removed a part meanwhile
            continue
        listed = len(scores.deleted) + len(new)
        if report.dry_run:
            break
        own = {one.added.staged for one in work.staged}
        left = [meta.path for meta in scores.staged_now() if meta.path not in own]
        if not (new or work.removed or left):
            break
        digests = [scores.digests.of_key(id_key(name)) for name in new]
        changes: dict[str, Any] = {"removes": work.removed, "deleted": digests}
        if scores.append("delete", work.staged, **changes, keeps=True):
            scores.remove_unnamed(left)
            break
        if not attempt:
            say(f"{scores.address}: another run was faster; looking again at what it has written")
    if not report.dry_run:
        scores.settle()
        scrub(scores)
    there, found = work.swept.ids, work.swept
    missing = (name for name in new if name not in there and name not in by_authors)
    return replace(
        report,
        missing=tuple(missing),
        found=found.rows,
        lines=found.lines,
        files=found.files,
        listed=listed,
    )


@dataclass(frozen=True)
class _Found:
    """What a part holds of some ids.

    Attributes:
        ids: those that are there.
        taken: rows or lines of theirs.
        staged: the part without these; None if nothing is left, goes, or in a dry run.
    """

    ids: frozenset[str]
    taken: int
    staged: Staged | None


@dataclass
class _Work:
    """What a deletion takes out, of the parts as it has seen them."""

    swept: Swept = field(default_factory=Swept)
    removed: list[str] = field(default_factory=list)
    staged: list[Staged] = field(default_factory=list)


def _take_out(scores: BucketScores, names: Sequence[str], done: dict[str, _Found]) -> _Work | None:
    """Stage the parts that hold some ids without these; None where a part is gone by now.

    Args:
        scores: the folder, just refreshed.
        names: the ids.
        done: path -> what was found there before; takes what is found now.
    """
    work, wanted, paths = _Work(), frozenset(names), _places(scores, names)
    _stage_again(scores, done, paths)
    for path in paths:
        if path not in done:
            table = read_live(scores, path)
            if table is None:
                return None
            done[path] = _found(scores, path, table, wanted)
        found = done[path]
        work.swept.ids |= found.ids
        work.swept.add(Path(path), found.taken)
        if found.taken:
            work.removed.append(path)
            work.staged += [] if found.staged is None else [found.staged]
    return work


def _found(scores: BucketScores, path: str, table: pa.Table, wanted: frozenset[str]) -> _Found:
    there = set[str]()

    def is_wanted(ids: Sequence[str]) -> NDArray[np.bool_]:
        there.update(wanted.intersection(ids))
        return np.fromiter(map(wanted.__contains__, ids), bool, len(ids))

    staged, taken = without_rows(scores, path, table, is_wanted)
    return _Found(frozenset(there), taken, staged)


def _stage_again(scores: BucketScores, done: dict[str, _Found], paths: Collection[str]) -> None:
    """Have what was staged before the last commit ready for the next; a part never changes."""
    gone = [done.pop(path).staged for path in set(done) - set(paths)]
    lost = {
        path: one.staged
        for path, one in done.items()
        if one.staged is not None and one.staged.base != scores.number
    }
    for path, copy in zip(lost, scores.restage(list(lost.values())), strict=True):
        if copy is None:
            del done[path]
        else:
            done[path] = replace(done[path], staged=copy)
    scores.discard([one for one in (*gone, *lost.values()) if one is not None])


def _places(scores: BucketScores, names: Sequence[str]) -> list[str]:
    """The parts that hold some ids, and all with quarantined lines, which may."""
    digests = (scores.digests.of_key(id_key(name)) for name in names)
    numbers = {entry.file for entry in scores.ledger.known(digests).values()}
    files = scores.ledger.files()
    return [one.path for one in files if one.number in numbers or is_quarantine(Path(one.path))]


def read_live(scores: BucketScores, path: str) -> pa.Table | None:
    """The rows of a part that counts; None if another commit has removed it by now.

    Raises:
        ScoreError: it is damaged, or missing though it counts.
    """
    try:
        return scores.read_table(path)
    except FileNotFoundError as error:
        scores.refresh()
        if path in scores.parts():
            raise lost_part(scores.address, path) from error
        return None


def without_rows(
    scores: BucketScores, path: str, table: pa.Table, is_meant: Meant
) -> tuple[Staged | None, int]:
    """Stage a part without the rows or lines of some ids.

    Returns:
        What is staged, None if nothing is left, goes, or in a dry run; and how many rows go.
    """
    lines = is_quarantine(Path(path))
    gone = named_in(table, is_meant) if lines else is_meant(table["id"].to_pylist())
    number = int(gone.sum())
    if not number or number == len(table) or scores.dry_run:
        return None, number
    kept = table.schema.metadata or {}
    facts = {ORIGIN: kept[ORIGIN]} if ORIGIN in kept else None
    left = table.filter(pa.array(~gone)).replace_schema_metadata(facts)
    return scores.stage(path.rpartition("/")[0], left, replaces=path), number


def scrub(scores: BucketScores, say: Say = silent) -> int:
    """Take the digests of rows that are removed out of the commits that added them.

    Returns:
        Commits that were rewritten.
    """
    removed, old = frozenset(scores.ledger.removed()), scores.ledger.unscrubbed()
    if len(old) > MANY_COMMITS:
        say(f"{scores.address}: scrubbing {counted(len(old), 'commit')}")
    rewritten = 0
    for number in old:
        rewritten += scores.log.scrub(number, removed)
        scores.ledger.note_scrubbed(number)
    return rewritten
