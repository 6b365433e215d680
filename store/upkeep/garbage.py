"""Removing what nobody needs: records of old snapshots and leftovers of dead plans.

    print(gc(store, keep=10))

Activations are never among it: `store.upkeep.compaction` removes those of deleted samples.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from store import disk
from store.activations import ActivationStore
from store.commits import catch_up, dead_plans, half_written, unneeded
from store.disk import Location, locked
from store.errors import StoreInputError
from store.records import (
    COMMIT_LOCK,
    INDEX,
    LABELS,
    MANIFESTS,
    SNAPSHOTS,
    Snapshot,
    load_snapshot,
)

_RECORD = re.compile(r"([0-9]{6,12})(\.zarr)?\.json", re.ASCII)


@dataclass(frozen=True)
class GcReport:
    """What `gc` removed, or would remove."""

    snapshots: tuple[str, ...]
    files: tuple[str, ...] = field(repr=False)
    num_bytes: int
    dry_run: bool

    def __str__(self) -> str:
        verb = "would remove" if self.dry_run else "removed"
        return (
            f"{verb} {len(self.snapshots)} snapshots and {len(self.files)} files, "
            f"{self.num_bytes / 1e6:.3f} MB"
        )


def gc(store: ActivationStore, *, keep: int = 10, dry_run: bool = False) -> GcReport:
    """Remove old snapshots' records, files that no snapshot needs, and leftovers of dead plans.

    Activations are never removed. Readers of a snapshot that goes away go on: what they read lies
    in the same shards, and the newest snapshot says how those are checked.

    Args:
        store: the store.
        keep: how many of the newest snapshots stay.
        dry_run: only say what would go.
    """
    if keep < 1:
        raise StoreInputError(f"gc: keep is {keep}; at least the current snapshot must stay (1)")
    root = store.writable_root()
    with locked(root / COMMIT_LOCK):
        if not dry_run:
            catch_up(root, load_snapshot(store.location))
        kept = store.snapshots()
        old, kept = kept[:-keep], kept[-keep:]
        private = (MANIFESTS, INDEX, LABELS)
        # The records go first: none is left that names a file which is gone.
        doomed = [*_old_records(store.location, kept), *unneeded(root, kept, private)]
        doomed = list(dict.fromkeys([*doomed, *dead_plans(root), *half_written(root)]))
        num_bytes = sum(_size(root / path) for path in doomed)
        if not dry_run:
            for path in doomed:
                disk.remove(root / path)
    names = tuple(snapshot.id for snapshot in old)
    return GcReport(names, tuple(doomed), num_bytes, dry_run)


def _old_records(location: Location, kept: Sequence[Snapshot]) -> Iterator[str]:
    """Records and copies of the root up to the last commit, of no snapshot that is kept.

    By name, for a gc that died may have left a copy without its record.
    """
    last, ids = int(kept[-1].id), {snapshot.id for snapshot in kept}
    for name in location.names(SNAPSHOTS):
        found = _RECORD.fullmatch(name)
        if found and found[1] not in ids and int(found[1]) <= last:
            yield f"{SNAPSHOTS}/{name}"


def _size(path: Path) -> int:
    """Bytes of a file, or of all that is in a folder; links are not followed."""
    try:
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            return status.st_size
        return sum(_size(Path(entry)) for entry in os.scandir(path))
    except OSError:
        return 0
