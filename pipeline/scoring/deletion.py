"""Take tweets out of a folder of scores, for good: their rows, their lines, and their return.

    delete_scores(folder, ids=["1344908468193435649"])
    Deleted.load(folder).mask(ids)              # which of these must not be scored again

First the ids are listed in ``_deleted.safetensors`` as keyed digests, marked as pending; then every
file that holds one is rewritten in its place; then the mark goes. Killed in between, the next
command that opens the folder ends the work, by the digests alone. Later runs leave listed ids out
and count them as ``filtered/deleted``, so that reading the same dump again brings nothing back, and
look through files that they do not know, so that neither does a file that is put back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.progress import Say, silent
from pipeline.scoring.deleted import (
    COPY as COPY,
)
from pipeline.scoring.deleted import (
    DELETED as DELETED,
)
from pipeline.scoring.deleted import (
    Deleted,
    DeletionReport,
    IncompleteDeletion,
    Meant,
    Searched,
    Swept,
    named_in,
)
from pipeline.scoring.ledger import File, Ledger
from pipeline.scoring.parts import (
    SET_ASIDE,
    Key,
    id_key,
    is_quarantine,
    keys_of,
    read_part,
    rewrite_part,
)
from pipeline.scoring.place import (
    SCORE_CARD,
    alone,
    check_scores,
    format_version,
    open_ledger,
    read_score_card,
)
from pipeline.scoring.sinks import sink_of
from pipeline.scoring.summary import reason_kind
from pipeline.texts import (
    TWEETS,
    USUAL,
    InputOptions,
    as_path,
    detect,
    read_blocks,
    read_dump,
    settled,
)
from store.disk import is_url
from store.tables import write_json


def delete_scores(
    folder: Path | str,
    ids: Iterable[str] = (),
    *,
    authors: Collection[str] = (),
    dumps: Sequence[Path | str] = (),
    forget: bool = False,
    dry_run: bool = False,
    say: Say = silent,
) -> DeletionReport:
    """Take tweets out of a folder of scores: rows, text hashes, ledger entries, quarantined lines.

    Again is no harm; killed at any moment, the next command that opens the folder ends the work.

    Args:
        folder: of the scores, or its URL.
        ids: of the rows.
        authors: all tweets of these authors that stand in ``dumps``.
        dumps: files of tweets, which say who wrote them.
        forget: the other way round: let these ids be scored again.
        dry_run: change nothing, only count.
        say: told of progress.

    Raises:
        ConfigError: no folder of scores, nothing named, or authors without dumps.
        IncompleteDeletion: all is done, but the dumps hold lines that cannot be read, or tweets
            that do not say who wrote them.
        ScoreError: a damaged file.
    """
    check_scores(folder)
    wanted = set(ids)
    if not wanted and not authors:
        raise ConfigError("nothing to delete: give --id, --ids or --authors")
    for name in (*wanted, *authors):
        if not _is_text(name):
            raise ConfigError(
                f"{name!r}: no text in UTF-8, so no row or author has it; leave it out"
            )
    searched = ids_of_authors(authors, dumps) if authors else Searched()
    wanted |= searched.ids
    how: dict[str, Any] = {"forget": forget, "dry_run": dry_run, "say": say}
    if is_url(folder):
        from pipeline.scoring.bucketdeletion import (
            erase,
        )  # which stands above what it shares with this

        report = erase(str(folder), wanted, searched, **how)
    else:
        report = _delete(Path(folder), wanted, searched, **how)
    report = replace(report, authors=len(set(authors)))
    if report.incomplete:
        raise IncompleteDeletion(report)
    return report


def _delete(
    folder: Path, wanted: set[str], searched: Searched, *, forget: bool, dry_run: bool, say: Say
) -> DeletionReport:
    with alone(folder, dry_run=dry_run, say=say):
        card = read_score_card(folder)
        if not dry_run and card is not None and card["format_version"] != format_version(folder):
            # Programs that know no list of deleted ids are to refuse the folder from now on.
            write_json(folder / SCORE_CARD, {**card, "format_version": format_version(folder)})
        with open_ledger(folder, dry_run=dry_run) as ledger:
            left = catch_up(folder, ledger, dry_run=dry_run, say=say)
            report = DeletionReport(
                str(folder),
                dry_run,
                len(wanted),
                unreadable=searched.unreadable,
                without_author=searched.without_author,
                incomplete=tuple(searched.incomplete),
                not_searched=tuple(sorted(map(str, (folder / SET_ASIDE).glob("*.damaged")))),
            )
            if forget:
                names = sorted(wanted)
                known = Deleted.load(folder).mask(names)
                number = forget_ids(folder, ledger, wanted, dry_run=dry_run)
                return replace(
                    report,
                    forgotten=number,
                    listed=len(Deleted.load(folder)),
                    is_lifted=True,
                    missing=_unmarked(names, known),
                )
            before = Deleted.load(folder)
            found, deleted = delete_ids(folder, ledger, wanted, dry_run=dry_run)
            unlisted = sorted(wanted - found.ids - searched.ids)
            known = before.mask(unlisted)
    return replace(
        report,
        missing=_unmarked(unlisted, known),
        found=found.rows + left.rows,
        lines=found.lines + left.lines,
        files=found.files + left.files,
        listed=len(deleted),
    )


def _unmarked(names: Sequence[str], marks: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(name for name, is_marked in zip(names, marks, strict=True) if not is_marked)


def sweep(
    folder: Path, ledger: Ledger, files: Iterable[File], is_meant: Meant, *, dry_run: bool = False
) -> Swept:
    """Take all rows and lines of some ids out of files; again is no harm.

    Args:
        folder: of the scores.
        ledger: that knows the files as they are.
        files: to look at.
        is_meant: of ids.
        dry_run: only count.
    """
    found = Swept()
    for file in files:
        keys, now = _take_out(folder / file.path, is_meant, dry_run=dry_run)
        if keys and not dry_run:
            ledger.take_out(file, now, keys=keys, num_taken=len(keys))
        found.add(folder / file.path, len(keys))
    return found


def _take_out(path: Path, is_meant: Meant, *, dry_run: bool) -> tuple[list[Key], Path | None]:
    """Take rows or lines out of one file; their keys, and the file that has the others."""
    keep, keys = [], list[Key]()
    quarantined = is_quarantine(path)
    for table in read_part(path):
        own = [key for key, _ in keys_of(path, table)]
        gone = named_in(table, is_meant) if quarantined else is_meant(table["id"].to_pylist())
        keep.append(~gone)
        keys += [own[at] for at in np.flatnonzero(gone)]
    left: Path | None = path
    if keys and not dry_run:
        left = rewrite_part(path, np.concatenate(keep))
    return keys, left


def catch_up(folder: Path, ledger: Ledger, *, dry_run: bool, say: Say = silent) -> Swept:
    """Have the ledger know all files, and no row of a deleted id be in them.

    Files that were put back, or that another program made of rows it had read before, may hold such
    rows; those the ledger does not know yet are looked through before it does. A deletion that was
    killed is ended.

    Args:
        folder: of the scores.
        ledger: its ledger, or in a dry run a copy.
        dry_run: change no file.
        say: told of progress.

    Returns:
        What was taken out.
    """
    deleted, found = Deleted.load(folder), Swept()
    if not dry_run:
        Deleted.mend(folder, dry_run=False)  # killed between the list and its copy
        for path in ledger.unknown(folder) if len(deleted) else ():
            found.add(path, len(_take_out(path, deleted.mask, dry_run=False)[0]))
        if found.rows:
            sink_of(folder).purge()
    ledger.sync(folder, say)
    if not dry_run:
        found += finish_deletion(folder, ledger, say)
    return found


def finish_deletion(folder: Path, ledger: Ledger, say: Say = silent) -> Swept:
    """End a deletion that was killed."""
    deleted = Deleted.load(folder)
    if not deleted.pending:
        return Swept()
    say(f"{folder}: a deletion was interrupted; looking for what it left")
    found = sweep(folder, ledger, ledger.files(), deleted.mask)
    sink_of(folder).purge()
    replace(deleted, pending=False).save(folder)
    return found


def delete_ids(
    folder: Path, ledger: Ledger, ids: Collection[str], *, dry_run: bool
) -> tuple[Swept, Deleted]:
    """Take ids out of an open folder of scores, and list them."""
    deleted, wanted = Deleted.load(folder), frozenset(ids)
    longer = deleted.with_ids(wanted)
    if not dry_run:
        longer.save(folder)
    files = ledger.files()
    if not any(file.num_repeated for file in files):  # else an id may be in other files too
        places = {entry.file for entry in ledger.known(map(id_key, wanted)).values()}
        files = [one for one in files if one.number in places or is_quarantine(Path(one.path))]

    there: set[str] = set()

    def is_wanted(names: Sequence[str]) -> NDArray[np.bool_]:
        there.update(wanted.intersection(names))
        return np.fromiter(map(wanted.__contains__, names), bool, len(names))

    found = sweep(folder, ledger, files, is_wanted, dry_run=dry_run)
    found.ids = there
    longer = replace(longer, pending=False)
    if not dry_run:
        sink_of(folder).purge()
        longer.save(folder)
    return found, longer


def forget_ids(folder: Path, ledger: Ledger, ids: Collection[str], *, dry_run: bool) -> int:
    """Let ids be scored again; all inputs are read again, to find them. Returns how many."""
    deleted = Deleted.load(folder)
    left = deleted.without(ids)
    if not dry_run and len(left) < len(deleted):
        ledger.forget_inputs()
        left.save(folder)
    return len(deleted) - len(left)


def read_names(path: Path | str) -> list[str]:
    """The ids or authors in a file, one a line.

    Raises:
        ConfigError: it cannot be read.
    """
    path = as_path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else None
        raise ConfigError(f"{path}: cannot be read: {said or error}") from None
    return [name for line in lines if (name := line.strip(" \t"))]  # ids may hold other signs


def ids_of_authors(authors: Collection[str], dumps: Sequence[Path | str]) -> Searched:
    """The ids of all tweets of some authors in some dumps; scores do not say who wrote a tweet.

    Raises:
        ConfigError: no dumps, or a file that does not say who wrote what.
    """
    if not dumps:
        raise ConfigError(
            "--authors: scores do not hold who wrote a tweet; name the dumps too, which say it"
            " (salient score delete OUT DUMP... --authors FILE)"
        )
    wanted, found = pa.array(sorted(set(authors)), pa.string()), Searched()
    for path in map(as_path, dumps):
        if not path.is_file():
            raise ConfigError(f"{path}: no such input file")
        reasons, without_author = Counter[str](), 0
        for rows, bad in _with_authors(path):
            theirs = rows.filter(pc.is_in(rows["author_id"], value_set=wanted))
            found.ids.update(theirs["id"].to_pylist())
            without_author += rows["author_id"].null_count
            reasons.update(map(reason_kind, bad["reason"].to_pylist()))
        unreadable, lacks = reasons.total(), list[str]()
        if unreadable:
            said = ", ".join(reason for reason, _ in reasons.most_common(3))
            lacks.append(f"{unreadable} lines could not be read ({said})")
        if without_author:
            lacks.append(f"{without_author} tweets do not say who wrote them")
        if lacks:
            found.incomplete.append(f"{path}: {' and '.join(lacks)}")
        found.unreadable += unreadable
        found.without_author += without_author
    return found


def _with_authors(path: Path) -> Iterator[tuple[pa.Table, pa.Table]]:
    """The rows of a dump or table with ``id`` and ``author_id``, and the lines that are no rows."""
    kind = detect(path, InputOptions())
    if kind == TWEETS:
        for dump in read_dump(path):
            yield dump.table, dump.quarantine
        return
    settings = settled(path, kind, InputOptions())
    if settings.author is None:
        raise ConfigError(
            f"{path}: no dump of posts, and no column that says who wrote what (such as"
            f" {', '.join(USUAL['author'][:3])}); give the ids of its rows with --ids"
        )
    for block in read_blocks(path, kind, settings):
        yield block.rows, block.bad


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
