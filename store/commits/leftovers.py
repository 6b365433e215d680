"""What dead processes left: plans that nobody names, files that no commit names, temporary ones.

Whoever looks holds the commit lock: nobody else writes such files then, but for the blocks of the
active plan.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from store import disk
from store.commits.planning import PLAN_TABLES
from store.commits.plans import active_plan_id
from store.disk import TEMPORARY_SUFFIX
from store.layout import sample_coordinates
from store.records import INDEX, LABELS, MANIFESTS, PLANS, PRIVATE, SNAPSHOTS, Snapshot


def dead_plans(root: Path) -> Iterator[str]:
    """What is in the folder of plans and not the active one; what was not finished in that."""
    active = active_plan_id(root)
    for entry in _entries(root / PLANS):
        if entry.name != active:
            yield f"{PLANS}/{entry.name}"
    if active is not None:  # whose blocks may be on the way, under names of their own
        for name in ("plan.json", *(f"{table}.arrow" for table in PLAN_TABLES)):
            path = f"{PLANS}/{active}/.{name}{TEMPORARY_SUFFIX}"
            if os.path.lexists(root / path):
                yield path


def unneeded(root: Path, kept: Iterable[Snapshot], folders: Iterable[str]) -> Iterator[str]:
    """Files of private folders that no kept snapshot and no plan under way needs."""
    needed = set().union(*(snapshot.files() for snapshot in kept))
    active = active_plan_id(root)
    for folder in folders:
        for entry in _entries(root / folder):
            path = f"{folder}/{entry.name}"
            # An interrupted commit has moved manifests of its plan and will want them again.
            wanted = folder == MANIFESTS and active is not None and active in entry.name
            if path not in needed and not wanted:
                yield path


def half_written(root: Path, folders: Iterable[str] | None = None) -> Iterator[str]:
    """Temporary files and folders, but for those of plans: see `dead_plans`.

    Args:
        root: of the store.
        folders: look into these alone; by default all are looked through, links not followed.
    """
    waiting = [""] if folders is None else list(folders)
    while waiting:
        folder = waiting.pop()
        for entry in _entries(root / folder):
            path = f"{folder}/{entry.name}".lstrip("/")
            if entry.name.endswith(TEMPORARY_SUFFIX):
                yield path
            elif folders is None and path != PLANS and entry.is_dir(follow_symlinks=False):
                waiting.append(path)


def remove_texts(root: Path, snapshot: Snapshot) -> None:
    """Remove what holds ids and texts beside the last commit and the active plan."""
    # Parts of the index are only ever added, so that what this snapshot lacks no older one has.
    for path in [*dead_plans(root), *unneeded(root, [snapshot], [INDEX])]:
        disk.remove(root / path)
    private = [PRIVATE, INDEX, LABELS, MANIFESTS, SNAPSHOTS]
    texts = [f"{name}/c" for name in sample_coordinates(snapshot.schema)]
    for path in list(half_written(root, [*private, *texts])):
        disk.remove(root / path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds; git and object stores keep no empty ones."""
    try:
        return list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise disk.explain(error, folder) from error
