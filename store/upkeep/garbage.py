"""Removing what nobody needs: records of old snapshots and leftovers of dead plans.

    print(gc(store, keep=10))

Activations are never among it: `store.upkeep.compaction` removes those of deleted samples. A disk
has a lock that says who writes; on a bucket a commit is the fence, see `store.upkeep.sweeping`.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from store import disk
from store.activations import ActivationStore
from store.commits import catch_up, dead_plans, half_written, successor, unneeded
from store.disk import Location, ObjectLocation, locked
from store.errors import StoreInputError
from store.records import (
    COMMIT_LOCK,
    INDEX,
    LABELS,
    MANIFESTS,
    SNAPSHOTS,
    Snapshot,
    kept_snapshots,
    load_snapshot,
    parse_record,
    publish_next,
    snapshot_path,
)
from store.upkeep.sweeping import do_sweep, plan_sweep
from store.upkeep.uploads import unfinished_uploads

DEFAULT_GRACE_S = 86_400.0
SHOW_NOTHING_NEW = ("gc", "plan")
"""Kinds of commits of a bucket that say what is going on and change nothing that is read."""


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


@dataclass(frozen=True)
class BucketGcReport(GcReport):
    """What `gc` removed from a bucket, or would remove.

    Attributes:
        uploads: unfinished uploads that were aborted.
        num_young: objects that no kept snapshot names and that stay for the grace period.
        grace_s: that period.
        note: why unfinished uploads are not known, and what to do about them.
    """

    uploads: tuple[str, ...] = ()
    num_young: int = 0
    grace_s: float = 0.0
    note: str = ""

    def __str__(self) -> str:
        verbs = ("would remove", "would abort") if self.dry_run else ("removed", "aborted")
        lines = [
            f"{verbs[0]} {len(self.snapshots)} snapshots and {len(self.files)} objects, "
            f"{self.num_bytes / 1e6:.3f} MB"
        ]
        if self.uploads:
            lines.append(f"{verbs[1]} {len(self.uploads)} unfinished uploads")
        if self.num_young:
            lines.append(
                f"{self.num_young} objects that no kept snapshot names stay until they are "
                f"{self.grace_s / 3600:g} h old (--grace)"
            )
        if self.note:
            lines.append(self.note)
        return "\n".join(lines)


def gc(
    store: ActivationStore,
    *,
    keep: int = 10,
    dry_run: bool = False,
    grace_s: float | None = None,
) -> GcReport:
    """Remove old snapshots' records, files that no snapshot needs, and leftovers of dead plans.

    Activations that a kept snapshot shows are never removed. Readers of a snapshot that goes away
    go on: the newest snapshot says where what they read lies now, and how it is checked.

    Args:
        store: the store.
        keep: how many of the newest snapshots stay.
        dry_run: only say what would go.
        grace_s: on a bucket, what no kept snapshot names stays until it is so many seconds old;
            default a day. On a disk, where a lock says who is writing, there is no such time.

    Raises:
        StoreInputError: fewer than 1 to keep, or a time where none is needed.
    """
    if keep < 1:
        raise StoreInputError(f"gc: keep is {keep}; at least the current snapshot must stay (1)")
    location = store.writable_location()
    if isinstance(location, ObjectLocation):
        grace_s = DEFAULT_GRACE_S if grace_s is None else grace_s
        report = _gc_bucket(location, keep=keep, dry_run=dry_run, grace_s=grace_s)
        store.refresh()
        return report
    if grace_s is not None:
        raise StoreInputError(
            f"{store.location.address}: a grace period is for buckets; on a disk a lock says who is"
            " writing, and the leftovers of the dead go at once: leave --grace out"
        )
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


def _gc_bucket(
    location: ObjectLocation, *, keep: int, dry_run: bool, grace_s: float
) -> BucketGcReport:
    before = kept_snapshots(location)
    if dry_run:
        kept = _newest(before, keep)
        sweep = plan_sweep(
            location, lambda found: _newest(found, keep), grace_s=grace_s, now=time.time()
        )
    else:
        kept = _fenced(location, keep)
        sweep = plan_sweep(location, grace_s=grace_s)
    fence = time.time() if dry_run else location.head(snapshot_path(kept[-1].id)).modified
    # Whoever writes for the plan under way may be at it for long.
    own = kept[-1].plan
    uploads = unfinished_uploads(location).begun_before(
        fence - grace_s, None if own is None else own.id
    )
    if not dry_run:
        do_sweep(location, sweep)
        uploads.abort()
    oldest = int(kept[0].id)
    return BucketGcReport(
        snapshots=tuple(one.id for one in before if int(one.id) < oldest),
        files=tuple(meta.path for meta in sweep.objects),
        num_bytes=sweep.num_bytes,
        dry_run=dry_run,
        uploads=tuple(upload.key for upload in uploads.found),
        num_young=sweep.num_young,
        grace_s=grace_s,
        note=uploads.note,
    )


def _fenced(location: ObjectLocation, keep: int) -> list[Snapshot]:
    """Commit a snapshot that says which are kept; returns these, itself the last."""
    while True:
        snapshots = kept_snapshots(location)
        kept = _newest(snapshots, keep)
        following = replace(successor(snapshots[-1], "gc"), oldest=kept[0].id)
        fence = publish_next(location, following)
        if fence is not None:
            return [*kept, fence]


def _newest(snapshots: Sequence[Snapshot], keep: int) -> list[Snapshot]:
    """The newest snapshots, of which `keep` show something that those before do not."""
    changes = [n for n, one in enumerate(snapshots) if one.kind not in SHOW_NOTHING_NEW]
    return list(snapshots[changes[-keep] if len(changes) > keep else 0 :])


def _old_records(location: Location, kept: Sequence[Snapshot]) -> Iterator[str]:
    """Records and copies of the root up to the last commit, of no snapshot that is kept.

    By name, for a gc that died may have left a copy without its record.
    """
    last, ids = int(kept[-1].id), {snapshot.id for snapshot in kept}
    for name in location.names(SNAPSHOTS):
        found = parse_record(f"{SNAPSHOTS}/{name}")
        if found and found.id not in ids and int(found.id) <= last:
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
