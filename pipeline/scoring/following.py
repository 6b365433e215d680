"""`salient score --follow DIR`: a folder that fills, scored as its files become complete.

    follow_files(Path("dumps"), Path("run.toml"), Path("scores"), following=Following(quiet_s=60))

Again and again the folder is *looked* at: :func:`look` decides, from what was there before and
what is there now, which files are complete (a pure function). Those are scored in a round like any
other files (``pipeline.scoring.files``), with the model that is loaded already. A file is complete

- once its size and time have not changed for a while (by this machine's steady clock, so that it
  matters little what clock the writer has), or
- at once if it was seen before under an unfinished name (``day.jsonl.part``, ``.day.jsonl.Xf3a``)
  and has been renamed.

- in a bucket as soon as it is seen: an object appears when it is whole.

Files of unfinished and hidden names are never taken. What was taken is taken again when it changes,
failed files too; one that cannot be reached now is taken again without a change, after pauses that
grow (:func:`put_off`). A restart takes everything again that is there; what has been scored is
known by the ledger of the folder of scores. So it does not matter when the process is killed.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import ConfigError, CorpusError, listed
from pipeline.progress import Say, counted, silent
from pipeline.scoring.files import Clock, score_round
from pipeline.scoring.inputs import (
    check_apart,
    check_folder,
    check_inputs,
    walk_files,
    walk_objects,
)
from pipeline.scoring.prepared import AnyScorer, Prepared, ScoreOptions, prepare
from pipeline.scoring.summary import InputReport, ScoreReport, only_unknown, total
from pipeline.texts import ObjectPath, as_path, readable, status, without_markers
from store.errors import TryAgain

QUIET_S = 60.0
"""A file that has not changed for so long is complete."""
_POLL_S = (0.05, 10.0)
"""Least and most time between two looks; within that an eighth of the quiet time."""
_MAX_PAUSE_S, _MAX_DOUBLINGS = 600.0, 16
"""Most time until a file that cannot be reached is tried again, and what keeps it a number."""
MAX_TRIES = 5
"""So often a file that cannot be reached is waited for where the end is to come once idle."""


@dataclass(frozen=True)
class Following:
    """How a folder is followed.

    Attributes:
        quiet_s: how long a file must not have changed; 0 takes every file when it is seen, for
            folders into which files are only ever renamed.
        until_idle: end once every complete file is scored and none waits to be complete, or has
            been tried ``MAX_TRIES`` times in vain; otherwise it goes on until it is told to stop.
    """

    quiet_s: float = QUIET_S
    until_idle: bool = False

    @property
    def poll_s(self) -> float:
        """Time between two looks."""
        least, most = _POLL_S
        return min(max(self.quiet_s / 8, least), most)


@dataclass(frozen=True)
class Found:
    """A file at one look: its state, and whether its name is one of those that are meant."""

    size: int
    mtime_ns: int
    inode: int
    is_meant: bool = True


@dataclass(frozen=True)
class Sighting:
    """What is known of a file.

    Attributes:
        found: how it is.
        since_s: since when.
        is_taken: whether it was taken like that.
        num_tries: how often it was taken like that and could not be reached.
        again_s: not before then is it taken again.
    """

    found: Found
    since_s: float
    is_taken: bool = False
    num_tries: int = 0
    again_s: float = -math.inf


Known = Mapping[Path, Sighting]


def look(
    known: Known, found: Mapping[Path, Found], *, now_s: float, quiet_s: float
) -> tuple[dict[Path, Sighting], list[Path]]:
    """Which files are complete and not taken yet; those count as taken from then on.

    Args:
        known: from the look before; nothing at first.
        found: the files that are there now.
        now_s: the time, by a steady clock.
        quiet_s: how long a file must not have changed.

    Returns:
        What is known now, of the files that are there and no others; and the files to take, in the
        order in which they were found.
    """
    unfinished = {one.found.inode: path for path, one in known.items() if not one.found.is_meant}
    now, ready = dict[Path, Sighting](), list[Path]()
    for path, state in found.items():
        before = known.get(path)
        if before is None or before.found != state:
            before = Sighting(state, now_s)
        is_new = path not in known or known[path].found.inode != state.inode
        renamed = is_new and _is_rename(unfinished.get(state.inode), path, found)
        is_complete = renamed or now_s - before.since_s >= quiet_s
        is_due = now_s >= before.again_s and not before.is_taken
        if state.is_meant and is_complete and is_due:
            ready.append(path)
            before = replace(before, is_taken=True)
        now[path] = before
    return now, ready


def _is_rename(earlier: Path | None, path: Path, found: Mapping[Path, Found]) -> bool:
    """Whether a file was there under an unfinished name, which is gone: an inode alone may be
    another file's by now."""
    return earlier is not None and earlier not in found and path.name in earlier.name


def put_off(
    known: Known, unreached: Collection[Path], *, now_s: float, poll_s: float
) -> dict[Path, Sighting]:
    """What is known once files that were taken could not be reached: they are to be taken again.

    Args:
        known: from the look that took them.
        unreached: files of it.
        now_s: the time, by the same clock.
        poll_s: the pause before the second try; it doubles with each.
    """
    later = dict(known)
    for path in unreached:
        one = known[path]
        pause_s = min(poll_s * 2 ** min(one.num_tries, _MAX_DOUBLINGS), _MAX_PAUSE_S)
        later[path] = replace(
            one, is_taken=False, num_tries=one.num_tries + 1, again_s=now_s + pause_s
        )
    return later


def waiting(known: Known) -> int:
    """Files that will be taken if they do not change any more, but for those that were tried
    ``MAX_TRIES`` times in vain."""
    return sum(
        one.found.is_meant and not one.is_taken and one.num_tries < MAX_TRIES
        for one in known.values()
    )


class Stop(Protocol):
    """Who is told to stop."""

    @property
    def is_told(self) -> bool:
        """Whether to stop; within ``gently`` what is in hand is finished first."""

    @property
    def at_once(self) -> bool:
        """Whether told a second time, not to finish anything."""

    def gently(self) -> AbstractContextManager[None]:
        """Within, being told raises nothing; elsewhere it raises KeyboardInterrupt."""


class Never:
    """Nobody tells to stop; KeyboardInterrupt comes as in any program."""

    is_told = False
    at_once = True

    def gently(self) -> AbstractContextManager[None]:
        """Nothing changes within."""
        return nullcontext()


@dataclass
class FollowReport:
    """What became of a folder that was followed.

    Attributes:
        rounds: in which files were taken.
        scored: rows, over all rounds.
        failed: files that are there and failed when they were taken last -> why: the file could not
            be read, or the round failed by its rows, some of which are this file's.
    """

    rounds: int = 0
    scored: int = 0
    failed: dict[Path, str] = field(default_factory=dict)


def follow_files(
    folder: Path | str,
    run: Path | None = None,
    output: Path | str | None = None,
    *,
    options: ScoreOptions | None = None,
    following: Following | None = None,
    stop: Stop | None = None,
    on_round: Callable[[ScoreReport], None] = lambda _: None,
    say: Say = silent,
    **settings: Any,
) -> FollowReport:
    """Score the files of a folder as they become complete, until told to stop.

        follow_files(Path("dumps"), Path("run.toml"), Path("scores"))

    The folder of scores is locked for a round, not between rounds: other commands get their turn.

    Args:
        folder: the files to score, in it and below.
        run, output, options, say, settings: as for ``score_files``.
        following: how it is followed.
        stop: who is told to stop; default nobody, until KeyboardInterrupt.
        on_round: told of the counts of every round.

    Returns:
        What became of it all, when it is told to stop or idle.

    Raises:
        ConfigError: wrong arguments, or no such folder; nothing was written.
        SalientError: the folder of scores cannot be written. A file or round that fails raises
            nothing.
    """
    options, following, stop = options or ScoreOptions(), following or Following(), stop or Never()
    report = FollowReport()
    if options.dry_run:
        raise ConfigError("--follow scores what comes; for --dry-run name the folder as an INPUT")
    place = as_path(folder)
    try:
        check_folder(place)
        asked = prepare(run, output, options=options, settings=settings, say=say)
        check_apart([place], asked.target)
        scorer = asked.load_scorer(say)
        _Follower(place, asked, scorer, following, stop, on_round, report, say).run()
    except KeyboardInterrupt:
        if not stop.is_told or stop.at_once:
            raise
    say(
        f"{folder}: no longer followed; {counted(report.scored, 'row')} scored in"
        f" {counted(report.rounds, 'round')}"
    )
    return report


class _Follower:
    """Looks at a folder, and has what is complete scored."""

    def __init__(
        self,
        folder: Path,
        asked: Prepared,
        scorer: AnyScorer,
        following: Following,
        stop: Stop,
        on_round: Callable[[ScoreReport], None],
        report: FollowReport,
        say: Say,
    ) -> None:
        self._folder = folder
        self._asked, self._scorer = asked, scorer
        self._following, self._stop = following, stop
        self._on_round, self._report, self._say = on_round, report, say
        self._trouble: str | None = None
        self._said = set[str]()

    def run(self) -> None:
        """Until told to stop, or idle."""
        quiet_s, poll_s = self._following.quiet_s, self._following.poll_s
        known = dict[Path, Sighting]()
        when = f"renamed from an unfinished name, or have not changed for {quiet_s:g} s"
        if isinstance(self._folder, ObjectPath):
            quiet_s, when = 0.0, f"seen; every {poll_s:g} s they are listed"
        self._say(f"{self._folder}: followed; files are taken once they are {when}")
        while not self._stop.is_told:
            found = self._found()
            if found is not None:
                known, ready = look(known, found, now_s=time.monotonic(), quiet_s=quiet_s)
                failed = self._report.failed
                for path in [one for one in failed if one not in found]:
                    del failed[path]
                if ready:
                    unreached = self._round(ready)
                    known = put_off(known, unreached, now_s=time.monotonic(), poll_s=poll_s)
                elif self._following.until_idle and not waiting(known):
                    return
            if not self._stop.is_told:
                time.sleep(poll_s)

    def _found(self) -> dict[Path, Found] | None:
        """The files that are there; None where the folder cannot be looked at now."""
        found = {}
        try:
            for path, is_meant, state_of in self._walk():
                with suppress(FileNotFoundError):  # gone since, or a link to nowhere
                    facts = state_of()
                    found[path] = Found(facts.st_size, facts.st_mtime_ns, facts.st_ino, is_meant)
        except (OSError, CorpusError) as error:  # a network file system that is away, perhaps
            trouble = str(error)
            if isinstance(error, OSError):
                trouble = f"{error.filename or self._folder}: {error.strerror or error}"
            if trouble != self._trouble:
                self._say(f"{trouble}; it is looked at again every {self._following.poll_s:g} s")
            self._trouble = trouble
            return None
        self._trouble = None
        return found

    def _walk(self) -> Iterator[tuple[Path, bool, Callable[[], os.stat_result]]]:
        """Files, whether they are meant, and what tells their state; of objects the listing."""
        if isinstance(self._folder, ObjectPath):
            listing = dict(self._folder.below())
            for path, is_meant in walk_objects(self._folder, without_markers(listing.items())):
                if path in listing:
                    yield path, is_meant, partial(status, listing[path])
        else:
            for path, is_meant in walk_files(self._folder, say=self._say_once):
                yield path, is_meant, path.stat

    def _say_once(self, line: str) -> None:
        """Say what would be said at every look."""
        if line not in self._said:
            self._said.add(line)
            self._say(line)

    def _round(self, ready: Sequence[Path]) -> list[Path]:
        """Score files; which of them could not be reached."""
        asked, clock = self._asked, Clock()
        names = listed((readable(str(path.relative_to(self._folder))) for path in ready), most=3)
        self._say(f"{self._folder}: {counted(len(ready), 'file')} complete: {names}")
        good = list[Path]()
        # A round is no success while a file of an earlier one is still unread.
        failed = [
            InputReport(readable(str(path)), "failed", problem=problem)
            for path, problem in self._report.failed.items()
            if path not in ready
        ]
        for path in ready:
            try:
                check_inputs([path], asked.reading, asked.filters)
                good.append(path)
            except (ConfigError, TryAgain) as error:
                entry = InputReport(readable(str(path)), "failed", problem=str(error))
                entry.is_unreached = isinstance(error, TryAgain)
                failed.append(entry)
                self._say(f"failed: {error}")
        with ExitStack() as stack:
            report = score_round(
                asked,
                self._scorer,
                good,
                failed=failed,
                told=lambda: self._stop.is_told,
                opened=lambda: stack.enter_context(self._stop.gently()),
                clock=clock,
                say=self._say,
            )
            self._note(ready, report)
            self._on_round(report)
        names_unreached = {one.name for one in report.inputs if one.is_unreached}
        unreached = [path for path in ready if readable(str(path)) in names_unreached]
        if unreached:
            self._say_once(
                f"{self._folder}: files that cannot be reached now are taken again, after pauses"
                " that grow"
            )
        return unreached

    def _note(self, ready: Sequence[Path], report: ScoreReport) -> None:
        self._report.rounds += 1
        self._report.scored += report.scored
        problems = {one.name: one.problem or _problem_of_rows(one, report) for one in report.inputs}
        for path in ready:
            self._report.failed.pop(path, None)
            if problem := problems.get(readable(str(path))):
                self._report.failed[path] = problem
        if report.problem is not None:
            self._say(f"this round has failed: {report.problem}")


def _problem_of_rows(one: InputReport, report: ScoreReport) -> str | None:
    """Why a round failed by its rows, if some of these are of this file."""
    is_one_of_them = total(one.counts, "quarantined") or only_unknown(one.counts)
    return report.problem_of_rows if is_one_of_them else None
