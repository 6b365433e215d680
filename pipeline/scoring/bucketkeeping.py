"""Scores that are kept in a bucket: what ``pipeline.scoring.folder`` writes becomes commits.

Others may write into the same folder at the same time. Who loses the race for a commit leaves out
what is known or deleted by now, and tries again; so every id is there once, and none comes back.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.progress import Say
from pipeline.scoring.bucketscores import BucketScores, Staged, open_bucket, pause_before
from pipeline.scoring.deleted import Deleted
from pipeline.scoring.keeping import (
    Batch,
    Ended,
    Written,
    keys_in,
    with_left_out,
    without_text,
)
from pipeline.scoring.ledger import Entry, Finished
from pipeline.scoring.parts import QUARANTINE, SET_ASIDE, Key, is_quarantine
from pipeline.scoring.place import Claim, check_place, claim_bucket
from pipeline.scoring.summary import Counts
from store.disk import ObjectLocation, locate


@dataclass
class _Waiting:
    """A batch that is being written.

    Attributes:
        partition, table: as of ``Batch``, in one.
        owner: ``(rows,)``, number of the input that each row is of.
        keys: of all rows.
        digests: of their keys and texts.
        keep: ``(rows,)`` bool, the rows that are to be written, as far as is known.
        deleted: ``(rows,)`` bool, those whose ids must not come back.
        staged: these, ready for a commit.
    """

    partition: str
    table: pa.Table
    owner: NDArray[np.int64]
    keys: list[Key]
    digests: list[tuple[bytes, int]]
    keep: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    deleted: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    staged: Staged | None = None

    def written(self) -> Written:
        """What has become of it."""
        num_rows = 0 if self.staged is None else self.staged.added.rows
        return Written(self.partition, num_rows, self.keys)


@contextmanager
def in_bucket(
    address: str,
    claim: Claim,
    metadata: Mapping[bytes, bytes] | None,
    *,
    dry_run: bool,
    say: Say,
) -> Iterator[InBucket]:
    """Open a folder of scores in a bucket, or make it.

    Args:
        address: its URL.
        claim: what it is to say of itself.
        metadata: of every part.
        dry_run: write nothing there, but know what would have been.
        say: told of progress.
    """
    check_place(address)
    location = locate(address)
    assert isinstance(location, ObjectLocation)
    has_texts = claim_bucket(location, claim, has_texts=True, dry_run=dry_run, say=say)
    with open_bucket(address, dry_run=dry_run, say=say) as scores:
        if not dry_run:
            scores.begin()
            if has_texts and not claim.keep_text:
                remove_texts(scores)
                claim_bucket(location, claim, has_texts=False, dry_run=False, say=say)
        yield InBucket(scores, metadata, say)


class InBucket:
    """Keeps rows in a bucket.

    Args:
        scores: the open folder.
        metadata: of every part.
        say: told of what another writer has changed.
    """

    def __init__(
        self, scores: BucketScores, metadata: Mapping[bytes, bytes] | None, say: Say
    ) -> None:
        self.bookkeeping = scores.bookkeeping
        self.ledger = scores.ledger
        self.left_out: dict[int, Counts] = {}
        self._scores = scores
        self._metadata = metadata
        self._say = say
        self._unended: set[int] = set()
        """Inputs that are to be read again, for another has written other rows of theirs."""

    @property
    def deleted(self) -> Deleted:
        """See ``Keeper.deleted``."""
        return self._scores.deleted

    def finished(self, key: str) -> Finished | None:
        """See ``Keeper.finished``."""
        return self.ledger.finished(key)

    def known(self, keys: Iterable[Key]) -> Mapping[Key, Entry]:
        """See ``Keeper.known``."""
        digests = self._scores.digests
        wanted = {digests.of_key(key): key for key in keys}
        return {wanted[found]: entry for found, entry in self._known_digests(wanted).items()}

    def _known_digests(self, digests: Iterable[bytes]) -> dict[bytes, Entry]:
        found = self.ledger.known(digests)
        return {key: entry for key, entry in found.items() if isinstance(key, bytes)}

    def text_of(self, key: Key, text: int) -> int:
        """See ``Keeper.text_of``: a digest of the text's digest, keyed."""
        return self._scores.digests.of_text(key, text)

    def is_of_earlier_run(self, entry: Entry) -> bool:
        """See ``Keeper.is_of_earlier_run``; rows of others that came meanwhile are such too."""
        return entry.file not in self._scores.own_files

    def write(self, batches: Iterable[Batch], ended: Ended) -> list[Written]:
        """See ``Keeper.write``.

        Who loses a race has little to do anew, so that a slow writer, too, wins one soon: parts of
        which no row is known or deleted by now are copied where they lie.
        """
        scores = self._scores
        scores.refresh()  # before the digests, which depend on the first commit
        every = [self._waiting(batch) for batch in batches]
        for attempt in itertools.count():
            pause_before(attempt)
            if attempt:
                scores.refresh()
            staged = self._staged(every)
            left_out = self._left_out_with(every)
            inputs = self._ended(ended, left_out)
            if not staged and not inputs:
                break
            if scores.append("score", staged, inputs=inputs, keeps=True):
                scores.settle(staged)
                break
        self.left_out = left_out
        return [one.written() for one in every]

    def _waiting(self, batch: Batch) -> _Waiting:
        table = pa.concat_tables(batch.tables)
        pairs = keys_in(batch.partition, table)
        return _Waiting(
            batch.partition,
            table,
            np.repeat(batch.inputs, [len(one) for one in batch.tables]),
            [key for key, _ in pairs],
            self._scores.digests.of_rows(pairs),
        )

    def _staged(self, every: Sequence[_Waiting]) -> list[Staged]:
        """Stage the rows that are not there by now, nor deleted; what has lost as it was, if it
        holds no others."""
        scores, lost = self._scores, [one.staged for one in every if one.staged is not None]
        same = []
        for one in every:
            before, one.keep = one.keep, self._wanted(one)
            if one.staged is not None and np.array_equal(before, one.keep):
                same.append(one)
            else:
                one.staged = None
        copies = scores.restage([one.staged for one in same if one.staged is not None])
        for one, copy in zip(same, copies, strict=True):
            one.staged = copy
        scores.discard(lost)
        for one in every:
            if one.staged is None and one.keep.any():
                kept = one.table.filter(pa.array(one.keep)).replace_schema_metadata(self._metadata)
                left = [one.digests[at] for at in np.flatnonzero(one.keep)]
                one.staged = scores.stage(one.partition, kept, digests=left)
        return [one.staged for one in every if one.staged is not None]

    def _wanted(self, one: _Waiting) -> NDArray[np.bool_]:
        """Which rows of a batch are not there by now, nor deleted."""
        known = self._known_digests(digest for digest, _ in one.digests)
        keep = np.fromiter((digest not in known for digest, _ in one.digests), bool, len(one.keys))
        other = (
            at
            for at, (digest, text) in enumerate(one.digests)
            if digest in known and known[digest].text != text
        )
        self._read_again({int(one.owner[at]) for at in other})
        one.deleted = self._deleted_in(one.partition, one.table)
        return np.asarray(keep & ~one.deleted)

    def _left_out_with(self, every: Iterable[_Waiting]) -> dict[int, Counts]:
        """``left_out``, once some batches are written."""
        found = {number: Counter(counts) for number, counts in self.left_out.items()}
        for one in every:
            if one.partition == QUARANTINE:  # its lines are in quarantine, whoever was first
                continue
            known = ~one.keep & ~one.deleted
            for outcome, mask in (("already_scored", known), ("filtered/deleted", one.deleted)):
                for number, rows in Counter(one.owner[mask].tolist()).items():
                    counts = found.setdefault(number, Counter())
                    counts.update({outcome: rows, "scored": -rows})
        return found

    def _deleted_in(self, partition: str, table: pa.Table) -> NDArray[np.bool_]:
        if partition == QUARANTINE:
            return self.deleted.lines(table)
        return self.deleted.mask(table["id"].to_pylist())

    def _read_again(self, inputs: Collection[int]) -> None:
        """Have inputs read again by the next run, which tells what has become of their rows."""
        if new := set(inputs) - self._unended:
            self._say(
                f"{self._scores.address}: another run has scored other texts under the same ids"
                f" meanwhile; {len(new)} of the files are read again by the next run"
            )
            self._unended |= new

    def _ended(self, ended: Ended, left_out: Mapping[int, Counts]) -> dict[str, Finished]:
        """The inputs that are finished by now, and are not known to be."""
        if self._scores.inputs_forgotten:  # what is asked for again they have left out
            return {}
        return {
            key: Finished(done.name, with_left_out(done.counts, left_out.get(number)))
            for number, (key, done) in ended.items()
            if number not in self._unended and self.ledger.finished(key) is None
        }

    @contextmanager
    def records(self, folder: str) -> Iterator[Path]:
        """See ``Keeper.records``."""
        with TemporaryDirectory(prefix="salient-") as place:
            yield Path(place)
            if self._scores.dry_run:
                return
            for path in sorted(Path(place).iterdir()):
                self._scores.location.put(f"{folder}/{self._own_name(path)}", path.read_bytes())

    def _own_name(self, path: Path) -> str:
        """A name that no other machine gives."""
        return f"{path.stem}-{self._scores.writer}{path.suffix}"

    def advice(self) -> str | None:
        """See ``Keeper.advice``: none."""
        return None


def remove_texts(scores: BucketScores) -> None:
    """Take the texts out of lines that were quarantined while texts were kept.

    Damaged parts that were set aside go, and so does what is staged: who still has something of it
    in hand loses to the commit, and stages it anew.
    """
    for path in [one for one in scores.parts() if is_quarantine(Path(one))]:
        while True:
            scores.refresh()
            if path not in scores.parts():
                break
            before = scores.read_table(path)
            after = without_text(before)
            if after.equals(before.select(after.column_names)):
                break
            staged = scores.stage(QUARANTINE, after, replaces=path)
            if scores.append("redact", [staged], removes=[path]):
                break
    aside = scores.location.list(SET_ASIDE)
    name = f"{SET_ASIDE}/{QUARANTINE}."
    scores.location.delete([one.path for one in aside if one.path.startswith(name)])
    if left := [meta.path for meta in scores.staged_now()]:
        while not scores.append("redact"):
            scores.refresh()
        scores.remove_unnamed(left)
    scores.settle()
