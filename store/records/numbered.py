"""Snapshots of a bucket: a chain of create-only objects, of which the highest number is the newest.

    head = load_newest(location)
    following = replace(…, id=head.next_id)
    publish_next(location, following)        None: another was first; read the head and do it again

There is no lock and nothing that is replaced: `create` gives each number to one writer, and whoever
has it built upon the number before, for numbers have no gaps. A record that nobody needs is
emptied, never deleted, so that a writer who sleeps cannot take its number again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from store import disk
from store.disk import Meta, ObjectLocation, new_writer
from store.errors import StoreError, StoreInputError
from store.records.encoding import decode_snapshot, encode_snapshot
from store.records.snapshots import SNAPSHOTS, Snapshot, parse_record, snapshot_path

NUM_LOOKS = 100
"""How often the newest record is looked for while others follow and this one is emptied."""


def numbers(location: ObjectLocation, *, since: str | None = None) -> dict[str, Meta] | None:
    """The records by id, oldest first, emptied ones too; None if this is no such chain.

    A store of a disk that was copied to a bucket has copies of its root beside its records.

    Args:
        location: where the store is.
        since: id of a snapshot; only it and later ones are wanted. One request then.
    """
    if location.address.startswith(("http:", "https:")):  # which cannot list
        return None
    start = None if since is None else snapshot_path(since).removesuffix(".json")
    found: dict[str, Meta] = {}
    for meta in location.list(SNAPSHOTS, after=start):
        if named := parse_record(meta.path):
            if named.is_copy:
                return None
            found[named.id] = meta
    ids = sorted(found, key=int)
    if since is not None and set((ids or [since])[-1]) == {"9"}:  # then 1000000 stands before it
        return numbers(location)
    if not found:
        return None
    return {name: found[name] for name in ids}


def load_newest(location: ObjectLocation, *, known: Snapshot | None = None) -> Snapshot | None:
    """The last commit; None if there is no chain.

    Args:
        location: where the store is.
        known: read before; given back if it still is the last commit.

    Raises:
        StoreInputError: the store of which `known` was read is not there any more.
    """
    found = _listed(location, known)
    return None if found is None else found[1]


def _listed(
    location: ObjectLocation, known: Snapshot | None = None
) -> tuple[dict[str, Meta], Snapshot] | None:
    """The records by id, as `numbers` has them, and what the last of them says."""
    previous = None
    for _ in range(NUM_LOOKS):
        there = numbers(location, since=None if known is None else known.id)
        if known is not None and not _is_in(location, known, there or {}):
            raise StoreInputError(
                f"{location.address}: snapshot {known.id}, which was read before, is not there any"
                " more: the store was removed, or another one made in its place; open it again"
            )
        if not there:
            return None
        newest = list(there)[-1]
        if known is not None and newest == known.id:
            return there, known
        snapshot = read_numbered(location, newest)
        if snapshot is not None:
            return there, snapshot
        if previous == newest:
            break
        previous = newest  # others followed, and a compaction has emptied this one
    where = f"{location.address}/{snapshot_path(newest)}"
    raise disk.damaged(where, "the record of the last commit is empty", disk.FROM_BACKUP)


def _is_in(location: ObjectLocation, known: Snapshot, there: Mapping[str, Meta]) -> bool:
    """Whether the record of a snapshot is among those there, as it was read or emptied."""
    if known.id not in there:
        return False
    found = there[known.id]
    if not found.size:
        return True
    if known.etag and found.etag.strip('"') == known.etag.strip('"'):  # Azure lists it without
        return True
    now = read_numbered(location, known.id)  # some servers list another than they answer with
    return now is None or now.writer == known.writer


def read_numbered(location: ObjectLocation, snapshot_id: str) -> Snapshot | None:
    """The record of a snapshot; None if it was emptied."""
    path = snapshot_path(snapshot_id)
    where = f"{location.address}/{path}"
    try:
        content, meta = location.get(path, max_bytes=disk.MAX_JSON_BYTES)
    except FileNotFoundError:
        raise StoreError(f"{where}: the record is missing; {disk.FROM_BACKUP}") from None
    if not content:
        return None
    snapshot = decode_snapshot(content, snapshot_id, where=where, remedy=disk.FROM_BACKUP)
    return replace(snapshot, etag=meta.etag)


def kept(location: ObjectLocation) -> tuple[list[str], Snapshot] | None:
    """Ids of the snapshots that may still be opened, oldest first, and the last of them.

    What is older than the last commit says is as good as emptied. None if there is no chain.
    """
    found = _listed(location)
    if found is None:
        return None
    there, head = found
    oldest = int(head.oldest)
    return [name for name, meta in there.items() if meta.size and int(name) >= oldest], head


def publish_next(location: ObjectLocation, following: Snapshot) -> Snapshot | None:
    """Make `following` the last commit, if nothing else has its number; all it names is there.

    Args:
        location: where the store is.
        following: built upon the snapshot before it.

    Returns:
        It, signed; None if another writer was first.

    Raises:
        StoreBusy: no answer, so that nobody knows: read the head and do it again.
    """
    signed = replace(following, writer=new_writer(), etag="")
    content = encode_snapshot(signed)
    path = snapshot_path(signed.id)
    try:  # What no program could open must not be committed, whatever made it.
        decode_snapshot(content, signed.id, where=f"{location.address}/{path}", remedy="")
    except StoreError as error:
        raise StoreError(
            f"{error} it was not committed, snapshot {signed.parent} stands: please report this"
        ) from None
    return signed if location.create(path, [content]) else None


def empty_record(location: ObjectLocation, snapshot_id: str) -> None:
    """Keep a snapshot no longer; not the newest one."""
    location.put(snapshot_path(snapshot_id), [b""])
