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
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from pipeline.errors import ScoreError
from pipeline.progress import Say, silent
from pipeline.scoring.bucket import BucketScores, open_bucket
from pipeline.scoring.commitlog import STAGED, commit_path, staged_path
from pipeline.scoring.erasure import scrub
from pipeline.scoring.mended import MISSING, Damaged, RepairReport, some_of
from pipeline.scoring.parts import (
    QUARANTINE,
    SET_ASIDE,
    DamagedFile,
    is_quarantine,
    line_keys,
    row_keys,
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
        strangers: objects among the parts that no commit names: Salient does not count them, a
            program that reads ``date=*/*.parquet`` does. They are left alone.
        scrubbed: commits that digests of removed rows were taken out of.
    """

    leftovers: int = 0
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
            yield f"{self.leftovers} parts that were staged and never committed {would}deleted"
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
            report.scrubbed = scrub(scores.log, say)
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
        say(f"{self._scores.address}: reading {len(paths)} parts")
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
            pairs = (line_keys if is_quarantine(Path(path)) else row_keys)(table)
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
            self._location.copy(path, target)
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
        for place in (path, staged_path(path)):
            try:
                self._location.copy(place, target)
                return
            except FileNotFoundError:
                continue

    def leftovers(self, grace_s: float) -> list[str]:
        """Objects that were staged, and that no commit names, older than the grace period.

        The server's own times count: its latest is that of what is there.
        """
        staged = list(self._location.list(STAGED))
        now = self._now(staged)
        counting = set(map(staged_path, self._scores.parts()))
        old = [one.path for one in staged if one.modified <= now - grace_s]
        found = [path for path in old if path not in counting]
        self._report.leftovers = len(found)
        return found

    def _now(self, staged: Iterable[Meta]) -> float:
        """The time by the server's clock: of an object that is made for it, where one may be."""
        if self._report.dry_run:
            last = self._location.head(commit_path(self._scores.number)).modified
            return max([last, *(one.modified for one in staged)])
        path = f"{STAGED}/.now-{self._scores.writer}"
        self._location.put(path, self._scores.writer.encode())
        now = self._location.head(path).modified
        self._location.delete([path])
        return now

    def prune(self, old: Sequence[str]) -> None:
        """Delete leftovers, once a commit is there that their writers, if they live, lose to."""
        self._scores.refresh()
        counting = set(map(staged_path, self._scores.parts()))
        gone = [path for path in old if path not in counting]
        self._report.leftovers = len(gone)
        self._location.delete(gone)

    def find_strangers(self) -> None:
        """Objects in the places of parts that no commit names."""
        known = {*self._scores.parts(), *self._scores.ledger.removed()}
        aside = f"{SET_ASIDE}/"
        for meta in self._location.list(""):
            folder = meta.path.partition("/")[0]
            if not (folder.startswith("date=") or folder == QUARANTINE):
                continue
            if meta.path not in known and not meta.path.startswith(aside):
                self._report.strangers.append(meta.path)

    def mend_card(self) -> None:
        """The card, from the rows; a run with the heads completes it."""
        try:
            if read_score_card(self._scores.address) is not None:
                return
        except DamagedFile as error:
            damage = str(error)
        else:
            damage = ""
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
        self._report.mended.append(SCORE_CARD)
        if not self._report.dry_run:
            card = {"format_version": IN_BUCKET, "fingerprint": found.pop()}
            self._location.put(SCORE_CARD, encode_json(card))
