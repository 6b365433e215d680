"""Garbage collection: old snapshots' records, and files that no snapshot needs.

print(gc(store, keep=10))
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from store.activations import ActivationStore
from store.commits import active_plan_id
from store.disk import TEMPORARY_SUFFIX, locked
from store.errors import StoreError
from store.records import (
    COMMIT_LOCK,
    INDEX,
    LABELS,
    MANIFESTS,
    PLANS,
    Snapshot,
    root_copy_path,
    snapshot_path,
)


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

    Activations are never removed. Readers that opened a snapshot that goes away must reopen.

    Args:
        store: the store.
        keep: how many of the newest snapshots stay.
        dry_run: only say what would go.
    """
    if keep < 1:
        raise StoreError(f"gc: keep is {keep}; at least the current snapshot must stay (1)")
    root = store.writable_root()
    with locked(root / COMMIT_LOCK):
        kept = store.snapshots()
        old, kept = kept[:-keep], kept[-keep:]
        doomed = [*_records(old), *_unneeded(root, kept), *_leftovers(root)]
        num_bytes = sum(_size(root / path) for path in doomed)
        if not dry_run:
            for path in doomed:
                if (root / path).is_dir():
                    shutil.rmtree(root / path)
                else:
                    (root / path).unlink(missing_ok=True)
    names = tuple(snapshot.id for snapshot in old)
    return GcReport(names, tuple(doomed), num_bytes, dry_run)


def _records(snapshots: list[Snapshot]) -> Iterator[str]:
    for snapshot in snapshots:
        yield snapshot_path(snapshot.id)
        yield root_copy_path(snapshot.id)


def _unneeded(root: Path, kept: list[Snapshot]) -> Iterator[str]:
    """Private files that no kept snapshot and no plan under way needs."""
    needed = set().union(*(snapshot.files() for snapshot in kept))
    active = active_plan_id(root)
    for folder in (MANIFESTS, INDEX, LABELS):
        for entry in os.scandir(root / folder):
            path = f"{folder}/{entry.name}"
            # An interrupted commit has moved files of its plan and will want them again.
            if path not in needed and not (active and active in entry.name):
                yield path


def _leftovers(root: Path) -> Iterator[str]:
    active = active_plan_id(root)
    for entry in os.scandir(root / PLANS):
        if entry.name != active:
            yield f"{PLANS}/{entry.name}"
    for path in root.rglob(f"*{TEMPORARY_SUFFIX}"):
        if root / PLANS not in path.parents:
            yield str(path.relative_to(root))


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
    return path.stat().st_size
