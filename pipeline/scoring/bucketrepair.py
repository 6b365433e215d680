"""Mend scores in a bucket: the commits are the truth, and every part is held against them.

    print(mend("s3://scores/sentiment", dry_run=True))

Each part that counts is read with all its checksums, and its rows are compared with those of its
commit. A damaged or missing one is taken out by a commit, what is left of it is set aside in
``_quarantine/_damaged``, and its inputs are read again when a run names them: then its rows come
back. Others may score at the same time. What writers that died have left staged goes once it is
older than a grace period: it is older than the commit that a repair makes for it, so whoever may
still be about to commit it loses to that, and stages anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from pipeline.errors import ScoreError
from pipeline.progress import Say, counted, silent
from pipeline.scoring.bucketdeletion import scrub
from pipeline.scoring.bucketscores import BucketScores, open_bucket
from pipeline.scoring.commitlog import STAGED, commit_path, staged_path
from pipeline.scoring.keeping import keys_in
from pipeline.scoring.mended import MISSING, Damaged, RepairReport, some_of
from pipeline.scoring.parts import (
    QUARANTINE,
    SET_ASIDE,
    DamagedFile,
    is_quarantine,
)
from pipeline.scoring.place import (
    DRIFT,
    IN_BUCKET,
    RUNS,
    SCORE_CARD,
    check_scores,
    read_score_card,
)
from store.disk import Meta, decode_json, encode_json
from store.errors import StoreError

GRACE_S = 24 * 3600.0
"""What nobody has committed for so long belongs to a writer that died."""


@dataclass
class BucketRepairReport(RepairReport):
    """What a repair in a bucket found and did.

    Attributes:
        leftovers: staged by writers that died, older than the grace period, and deleted.
        waiting: staged and not committed, younger: of writers that are at work, or died; left.
        strangers: objects among the parts that no commit names: Salient does not count them, a
            program that reads ``date=*/*.parquet`` does. They are left alone.
        scrubbed: commits that digests of removed rows were taken out of.
    """

    leftovers: int = 0
    waiting: int = 0
    strangers: list[str] = field(default_factory=list)
    scrubbed: int = 0

    @property
    def is_sound(self) -> bool:
        """Whether there was nothing to mend."""
        return super().is_sound and not (self.leftovers or self.scrubbed)

    def _lines(self) -> Iterator[str]:
        yield from super()._lines()
        would = "would be " if self.dry_run else ""
        if self.leftovers:
            yield f"staged and never committed: {counted(self.leftovers, 'part')} {would}deleted"
        if self.waiting:
            yield (
                f"staged and not committed yet: {counted(self.waiting, 'part')}, left alone for a"
                " day, for their writers may be at work"
            )
        if self.strangers:
            yield (
                "not of any commit, so not counted; other programs that read date=*/*.parquet may"
                f" count them: delete them, or score their inputs: {some_of(self.strangers)}"
            )


def mend(
    address: str, *, dry_run: bool = False, grace_s: float = GRACE_S, say: Say = silent
) -> BucketRepairReport:
    """Mend a folder of scores in a bucket.

    Args:
        address: of the folder.
        dry_run: change nothing, only tell.
        grace_s: staged parts that are older are taken for a dead writer's, if no commit has them.
        say: told of progress.

    Raises:
        ConfigError: no folder of scores.
        ScoreError: a damaged commit, or scores of several heads without a card.
    """
    check_scores(address)
    with open_bucket(address, dry_run=dry_run, say=say) as scores:
        report = BucketRepairReport(address, dry_run)
        work = _Mending(scores, report)
        work.check_records()
        damaged = work.check_parts(say)
        work.mend_card()
        work.find_strangers()
        old = work.leftovers(grace_s)
        if (damaged or old) and not dry_run:
            work.take_out(damaged)
            work.prune(old)
        if not dry_run:
            report.scrubbed = scrub(scores, say)
        files = [one for one in scores.ledger.files() if not is_quarantine(Path(one.path))]
        lost = set(damaged) if dry_run else set()
        report.files = len([one for one in files if one.path not in lost])
        report.rows = sum(one.num_rows for one in files if one.path not in lost)
    return report


class _Mending:
    """One repair, step by step."""

    def __init__(self, scores: BucketScores, report: BucketRepairReport) -> None:
        self._scores = scores
        self._report = report
        self._location = scores.location
        self._fingerprints: set[str] = set()

    def check_records(self) -> None:
        """Summaries and drift reports: nothing depends on them, but a report reads them."""
        for folder in (RUNS, DRIFT):
            for meta in self._location.list(folder):
                if meta.path.endswith(".json"):
                    try:
                        self._json(meta.path)
                    except StoreError as error:
                        self._set_aside(meta.path, str(error))
                        if not self._report.dry_run:
                            self._location.delete([meta.path])

    def _json(self, path: str) -> None:
        where = f"{self._scores.address}/{path}"
        try:
            decode_json(self._location.get(path)[0], where=where, remedy="")
        except FileNotFoundError:  # another has set it aside
            return

    def check_parts(self, say: Say) -> dict[str, Damaged]:
        """Read every part that counts; those that are damaged or missing, by their paths."""
        paths, found = self._scores.parts(), dict[str, Damaged]()
        numbers = {one.path: one.number for one in self._scores.ledger.files()}
        say(f"{self._scores.address}: reading {counted(len(paths), 'part')}")
        for path in paths:
            try:
                problem = self._problem(path, numbers[path])
            except FileNotFoundError:
                self._scores.refresh()
                if path not in self._scores.parts():  # another has removed it meanwhile
                    continue
                problem = MISSING
            if problem is not None:
                found[path] = self._lost(path, problem)
        return found

    def _problem(self, path: str, number: int) -> str | None:
        """What is wrong with a part; None if nothing is."""
        try:
            table = self._scores.read_table(path)
            pairs = keys_in(path.partition("/")[0], table)
        except DamagedFile as error:
            return str(error)
        except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
            return f"damaged, or no scores ({error})"
        if "fingerprint" in table.column_names:
            self._fingerprints.update(table["fingerprint"].unique().to_pylist())
        digests = self._scores.digests
        known = self._scores.ledger.known(digests.of_key(key) for key, _ in pairs)
        own = sum(one.file == number for one in known.values())
        if own != len(pairs) and path in self._scores.parts():
            return f"holds {len(pairs)} rows, of which its commit knows {own}"
        return None

    def _lost(self, path: str, reason: str) -> Damaged:
        file = next((one for one in self._scores.ledger.files() if one.path == path), None)
        rows = None if file is None else file.num_rows
        sources = None if file is None else file.sources
        moved_to = "" if reason == MISSING else self._aside(path)
        reason = reason.removeprefix(f"{self._scores.address}/{path}: ").partition("; `salient")[0]
        one = Damaged(path, reason, moved_to, rows, sources)
        self._report.set_aside.append(one)
        names = set(self._report.read_again)
        self._report.read_again = sorted(names | set(sources or ()))
        return one

    def _aside(self, path: str) -> str:
        """Where a damaged object is set aside; nowhere if it may hold a text, and none is kept."""
        if is_quarantine(Path(path)) and not self._keeps_text():
            return ""
        return f"{SET_ASIDE}/{path.replace('/', '.')}-{self._scores.writer}.damaged"

    def _set_aside(self, path: str, reason: str) -> None:
        target = self._aside(path)
        if not self._report.dry_run:
            try:
                self._location.copy(path, target)
            except FileNotFoundError:  # another has set it aside
                return
        reason = reason.removeprefix(f"{self._scores.address}/{path}: ").partition("; `salient")[0]
        self._report.set_aside.append(Damaged(path, reason, target))

    def _keeps_text(self) -> bool:
        try:
            return (read_score_card(self._scores.address) or {}).get("keep_text", True) is not False
        except ScoreError:
            return True

    def take_out(self, damaged: dict[str, Damaged]) -> None:
        """Set damaged parts aside, and commit that they do not count: what is left staged loses."""
        for path, one in damaged.items():
            if one.moved_to:
                self._copy_aside(path, one.moved_to)
        while True:
            self._scores.refresh()
            counting = set(self._scores.parts())
            removes = [path for path in damaged if path in counting]
            if self._scores.append("repair", removes=removes, forgets_inputs=bool(removes)):
                break
        self._scores.settle()

    def _copy_aside(self, path: str, target: str) -> None:
        for place in (path, staged_path(path), path):
            with suppress(FileNotFoundError):
                self._location.copy(place, target)
                return

    def leftovers(self, grace_s: float) -> list[str]:
        """Objects that were staged, and that no commit names, older than the grace period.

        The server's own times count: its latest is that of what is there.
        """
        staged = list(self._location.list(STAGED))
        now = self._now(staged)
        self._scores.refresh()  # what was committed meanwhile is none
        named = set(map(staged_path, self._scores.parts()))
        unnamed = [one for one in staged if one.path not in named]
        found = [one.path for one in unnamed if one.modified <= now - grace_s]
        self._report.leftovers = len(found)
        young = [one for one in unnamed if one.path not in set(found)]
        self._report.waiting = sum(one.path.endswith(".parquet") for one in young)
        return found

    def _now(self, staged: Iterable[Meta]) -> float:
        """The time by the server's clock: of an object that is made for it, where one may be."""
        if self._report.dry_run:
            times = [one.modified for one in staged]
            if self._scores.number:
                times.append(self._location.head(commit_path(self._scores.number)).modified)
            return max(times, default=0.0)
        path = f"{STAGED}/.now-{self._scores.writer}"
        while True:
            self._location.put(path, self._scores.writer.encode())
            with suppress(FileNotFoundError):  # another repair has taken it for a leftover
                now = self._location.head(path).modified
                self._location.delete([path])
                return now

    def prune(self, old: Sequence[str]) -> None:
        """Delete leftovers, once a commit is there that their writers, if they live, lose to."""
        self._report.leftovers = len(self._scores.remove_unnamed(old))

    def find_strangers(self) -> None:
        """Objects in the places of parts that no commit names."""
        there = [meta.path for meta in self._location.list(after="date")]
        there += [meta.path for meta in self._location.list(QUARANTINE)]
        there = [path for path in there if path.startswith(("date=", QUARANTINE))]
        self._scores.refresh()  # a part is in its place only after its commit
        known = {*self._scores.parts(), *self._scores.ledger.removed()}
        aside = f"{SET_ASIDE}/"
        self._report.strangers = [
            path for path in there if path not in known and not path.startswith(aside)
        ]

    def mend_card(self) -> None:
        """The card, from the rows; a run with the heads completes it."""
        before, damage = None, ""
        try:
            before = self._location.head(SCORE_CARD)
            if read_score_card(self._scores.address) is not None:
                return
        except FileNotFoundError:
            pass
        except DamagedFile as error:
            damage = str(error)
        found = self._fingerprints
        if len(found) > 1:
            raise ScoreError(
                f"{self._scores.address}/{SCORE_CARD}: damaged or missing, and the rows are of"
                f" {len(found)} sets of heads ({', '.join(sorted(found))}): restore the object from"
                " an earlier version"
            )
        if damage:
            self._set_aside(SCORE_CARD, damage)
        if not found:
            return
        card = encode_json({"format_version": IN_BUCKET, "fingerprint": next(iter(found))})
        if self._report.dry_run:
            is_ours = True
        elif before is None:
            is_ours = self._location.create(SCORE_CARD, card)
        else:
            is_ours = self._location.replace(SCORE_CARD, card, before)
        if is_ours:  # not where a run has written its own meanwhile, which says more
            self._report.mended.append(SCORE_CARD)
