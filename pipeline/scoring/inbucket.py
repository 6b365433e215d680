"""Scores that are kept in a bucket: what ``pipeline.scoring.folder`` writes becomes commits.

Others may write into the same folder at the same time. Who loses the race for a commit leaves out
what is known or deleted by now, and tries again; so every id is there once, and none comes back.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.progress import Say
from pipeline.scoring.bucket import BucketScores, Staged, open_bucket
from pipeline.scoring.deleted import Deleted
from pipeline.scoring.keeping import Batch, Ended, Written, keys_in, without_text
from pipeline.scoring.ledger import Entry, Finished
from pipeline.scoring.parts import QUARANTINE, Key, is_quarantine
from pipeline.scoring.place import Claim, check_place, claim_bucket
from store.disk import ObjectLocation, locate


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
        """See ``Keeper.write``."""
        every, scores = list(batches), self._scores
        while True:
            scores.refresh()
            staged, written = list[Staged](), list[Written]()
            for batch in every:
                one, keys = self._stage_new(batch)
                staged += [] if one is None else [one]
                num_rows = 0 if one is None else one.added.rows
                written.append(Written(batch.partition, num_rows, keys))
            inputs = self._ended(ended)
            if not staged and not inputs:
                return written
            if scores.append("score", staged, inputs=inputs):
                scores.settle(staged)
                return written

    def _stage_new(self, batch: Batch) -> tuple[Staged | None, list[Key]]:
        """Stage the rows of a batch that are not there by now, nor deleted; its keys, of all."""
        table = pa.concat_tables(batch.tables)
        pairs = keys_in(batch.partition, table)
        keys, digests = [key for key, _ in pairs], self._scores.digests.of_rows(pairs)
        known = self._known_digests(digest for digest, _ in digests)
        keep = np.fromiter((digest not in known for digest, _ in digests), bool, len(keys))
        owner = np.repeat(batch.inputs, [len(one) for one in batch.tables])
        other = (
            at
            for at, (digest, text) in enumerate(digests)
            if digest in known and known[digest].text != text
        )
        self._read_again({int(owner[at]) for at in other})
        keep &= ~self._deleted_in(batch.partition, table)
        if not keep.any():
            return None, keys
        kept = table.filter(pa.array(keep)).replace_schema_metadata(self._metadata)
        left = [digests[at] for at in np.flatnonzero(keep)]
        return self._scores.stage(batch.partition, kept, digests=left), keys

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

    def _ended(self, ended: Ended) -> dict[str, Finished]:
        """The inputs that are finished by now, and are not known to be."""
        if self._scores.inputs_forgotten:  # what is asked for again they have left out
            return {}
        return {
            key: done
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
    """Take the texts out of lines that were quarantined while texts were kept."""
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
    scores.settle()
