"""Coordinates that follow a commit: slots whose visible ids and texts change are written after it.

    announce(root, slots)        a note: these slots are about to change
    publish(root, following)     the commit
    settle(root, following)      coordinates as the commit has them; the note goes

Whoever dies in between leaves the note, and `catch_up` is the first thing that whoever takes
`commit.lock` next does. Until then `store.upkeep.verify` leaves those slots' coordinates out: our
own readers ask the sample index, which a commit changes at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from store import disk
from store.disk import LocalLocation, Location
from store.errors import StoreError
from store.layout import write_sample_chunks
from store.records import CHANGING, SampleIndex, Snapshot, write_array_documents

REWRITTEN = "any delete, append or gc writes the coordinates again"
"""What to do about a damaged note."""


def announce(root: Path, slots: Iterable[int]) -> None:
    """Note durably that the coordinates of these slots will have to be written again."""
    numbers = sorted({int(slot) for slot in slots})
    if numbers:
        disk.write_file(root / CHANGING, [disk.encode_json({"slots": numbers})])


def catch_up(root: Path, snapshot: Snapshot) -> None:
    """Make good what a commit that died behind its root has left undone.

    Whoever takes the commit lock does this first; after a commit of one's own `settle` is enough.
    """
    write_array_documents(root, snapshot)
    settle(root, snapshot)


def settle(root: Path, snapshot: Snapshot, index: Callable[[], SampleIndex] | None = None) -> None:
    """Bring the coordinates of the noted slots in step with the last commit.

    Args:
        root: of the store; the caller holds the commit lock.
        snapshot: the last commit.
        index: gives the last commit's, where the caller has use for it too.
    """
    if not os.path.lexists(root / CHANGING):
        return
    location = LocalLocation(root)
    try:
        slots = changing_slots(location, snapshot)
    except StoreError:  # then any of them
        slots = set(range(len(snapshot.slots)))
    if slots:
        own = SampleIndex(location, snapshot) if index is None else index()
        write_sample_chunks(root, snapshot.schema, own.visible_slots(slots))
    disk.remove(root / CHANGING)


def changing_slots(location: Location, snapshot: Snapshot) -> set[int]:
    """The slots of a snapshot whose coordinates are between two commits.

    Raises:
        StoreError: the note is damaged.
    """
    where = f"{location.address}/{CHANGING}"
    try:
        content = location.read(CHANGING, max_bytes=disk.MAX_JSON_BYTES, remedy=REWRITTEN)
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise disk.unreadable(where, error, REWRITTEN) from None
    noted = disk.decode_json(content, where=where, remedy=REWRITTEN)
    disk.check_members(noted, {"slots": [int]}, where=where, remedy=REWRITTEN)
    return set(noted["slots"]) & set(range(len(snapshot.slots)))
