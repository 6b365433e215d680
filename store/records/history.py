"""The chain of snapshots: opening one, which are kept, and publishing one on a disk.

Publishing writes the record and the copy of the root, then swaps the root `zarr.json` with one
rename: a reader sees the old state or the new one.
"""

from __future__ import annotations

import contextlib
import itertools
import shlex
from pathlib import Path

from store import disk
from store.disk import LocalLocation, Location, ObjectLocation
from store.errors import NoStoreError, StoreError, StoreInputError
from store.layout import (
    ROOT_DOCUMENT,
    Root,
    array_documents,
    decode_root,
    encode_document,
    program,
    root_document,
    shard_bytes,
)
from store.records.encoding import SNAPSHOT_ID, decode_snapshot, encode_snapshot
from store.records.numbered import kept, load_newest, read_numbered
from store.records.snapshots import SNAPSHOTS, Snapshot, root_copy_path, snapshot_path

LARGE_SHARD_BYTES = 2**30
MANY_SAMPLES = 2**22
NUM_LOOKS = 3


def read_root(location: Location) -> Root:
    """The root `zarr.json`, which names the last commit.

    Raises:
        NoStoreError: this is no Salient store.
        StoreError: its root is damaged.
    """
    where = f"{location.address}/{ROOT_DOCUMENT}"
    try:
        content = location.read(ROOT_DOCUMENT, max_bytes=disk.MAX_JSON_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise NoStoreError(f"{location.address}: {_instead(location)}") from None
    except OSError as error:
        raise disk.unreadable(where, error, disk.FROM_BACKUP) from error
    try:
        return _checked_root(content, where, disk.FROM_BACKUP)
    except StoreError:
        return _checked_root(content, where, root_remedy(location))  # says what to do


_NAME_ONE = "name a store that `salient extract` or `salient run` has written"
OTHERS = {
    "run.json": "is a run's folder; its store is where the run's TOML file says, as [store] path",
    "head.json": "is a head's folder",
    "_salient.json": "is a folder of scores",
    "config.json": "is a model's folder",
}
"""File -> what a folder with it is, in place of a store."""


def _instead(location: Location) -> str:
    """What is there that is no store."""
    if isinstance(location, disk.LocalLocation):
        if not location.root.exists():
            return f"no such folder; {_NAME_ONE}"
        if not location.root.is_dir():
            return "is a file; name a store's folder"
    for name, what in OTHERS.items():
        with contextlib.suppress(OSError, StoreError):
            if location.size(name) >= 0:
                return f"no activation store here: it {what}"
    return f"no activation store here; {_NAME_ONE}"


def _checked_root(content: bytes, where: str, remedy: str) -> Root:
    root = decode_root(content, where=where, remedy=remedy)
    if not SNAPSHOT_ID.fullmatch(root.snapshot_id):
        raise disk.damaged(where, f"{root.snapshot_id!a} is no snapshot", remedy)
    return root


def root_remedy(location: Location) -> str:
    """What to type about a damaged root: every commit keeps a copy of its own.

    A commit that died may have left a record and a copy too, of which gc has taken the files: the
    newest of which all is there takes the root's place.
    """
    try:
        copies = (name for name in reversed(kept_ids(location)) if _is_whole(location, name))
        newest = next(copies, None)
    except (StoreError, OSError):
        newest = None
    if newest is None:
        return disk.FROM_BACKUP
    copy = f"{location.address}/{root_copy_path(newest)}"
    place = f"{location.address}/{ROOT_DOCUMENT}"
    return f"its last copy is sound: cp {shlex.quote(copy)} {shlex.quote(place)}"


def _is_whole(location: Location, snapshot_id: str) -> bool:
    """Whether a snapshot's copy of the root, its record and all private files are there."""
    try:
        content = location.read(root_copy_path(snapshot_id), max_bytes=disk.MAX_JSON_BYTES)
        files = read_record(location, snapshot_id).files()
        return _checked_root(content, "", "").snapshot_id == snapshot_id and all(
            location.size(path) >= 0 for path in files
        )
    except (StoreError, OSError):
        return False


def load_snapshot(
    location: Location, snapshot_id: str | None = None, *, known: Snapshot | None = None
) -> Snapshot:
    """Read a snapshot's record; by default the last commit's.

    Args:
        location: where the store is.
        snapshot_id: of an older one.
        known: read before; given back if it still is the last commit, which takes a bucket one
            small request.

    Raises:
        StoreError: no store, no such snapshot, damage, or a later format; of a bucket, another
            store in the place of the one that is known.
    """
    if isinstance(location, ObjectLocation):
        found = _of_bucket(location, snapshot_id, known)
        if found is not None:
            return found
    current = read_root(location).snapshot_id
    if snapshot_id is None:
        try:
            return read_record(location, current, is_last=True)
        except StoreError:
            if read_root(location).snapshot_id == current:
                raise
            return load_snapshot(location)  # another followed, and gc removed this one
    if not SNAPSHOT_ID.fullmatch(snapshot_id) or int(snapshot_id) > int(current):
        raise _no_such_snapshot(location, snapshot_id)
    return read_record(location, snapshot_id)


def _of_bucket(
    location: ObjectLocation, snapshot_id: str | None, known: Snapshot | None
) -> Snapshot | None:
    """As `load_snapshot`; None where no bucket's chain is, but maybe a copy of a disk's store."""
    if snapshot_id is not None:
        there = kept(location)
        if there is None:
            return None
        if snapshot_id not in there[0]:
            raise _no_such_snapshot(location, snapshot_id)
        return read_record(location, snapshot_id)
    if known is not None and known.on_bucket:
        return load_newest(location, known=known)
    found = load_newest(location)
    if found is not None:
        _refuse_unborne_size(location, found, f"{location.address}/{snapshot_path(found.id)}")
    return found


def read_record(location: Location, snapshot_id: str, *, is_last: bool = False) -> Snapshot:
    """Read the record of a snapshot that is known to be one.

    Args:
        location: where the store is.
        snapshot_id: of the snapshot.
        is_last: the root names it, so that it must be there.

    Raises:
        StoreError: there is none, or it is damaged.
    """
    path = snapshot_path(snapshot_id)
    where = f"{location.address}/{path}"
    try:
        content = location.read(path, max_bytes=disk.MAX_JSON_BYTES)
    except FileNotFoundError:
        if is_last:
            what = "the record of the last commit is missing"
            raise StoreError(f"{where}: {what}; {disk.FROM_BACKUP}") from None
        raise _no_such_snapshot(location, snapshot_id) from None
    except OSError as error:
        raise disk.unreadable(where, error, disk.FROM_BACKUP) from error
    if not content and isinstance(location, ObjectLocation):  # emptied: see `numbered`
        raise _no_such_snapshot(location, snapshot_id)
    snapshot = decode_snapshot(content, snapshot_id, where=where, remedy=disk.FROM_BACKUP)
    _refuse_unborne_size(location, snapshot, where)
    return snapshot


def _refuse_unborne_size(location: Location, snapshot: Snapshot, where: str) -> None:
    """Refuse sizes that no shard bears out, before any memory is asked for them.

    Files are looked at only where the sizes are extraordinary.
    """
    schema = snapshot.schema
    row_bytes = schema.samples_per_shard * schema.itemsize
    filled = [number for number, slot in enumerate(snapshot.slots) if not slot.emptied]
    some_slots = {*filled[:1], *filled[len(filled) // 2 :][:1], *filled[-1:]}
    for layout in schema.arrays.values():
        expected = shard_bytes(layout.rows, row_bytes)
        if not filled or (expected < LARGE_SHARD_BYTES and snapshot.num_samples < MANY_SAMPLES):
            continue
        some = itertools.product(layout.layers[:NUM_LOOKS], some_slots)
        sizes = (
            _length(location, layout.shard_path(layer, slot, manifest))
            for layer, slot in some
            for manifest in snapshot.slots[slot].manifests
        )
        if expected not in sizes:
            raise disk.damaged(
                where,
                f"{snapshot.num_samples:,} samples in shards of {expected:,} bytes, and no file "
                f"of array {layout.name!r} is that long",
                disk.FROM_BACKUP,
            )


def _length(location: Location, path: str) -> int:
    try:
        return location.size(path)
    except OSError:
        return -1


def _no_such_snapshot(location: Location, snapshot_id: str) -> StoreInputError:
    return StoreInputError(
        f"{location.address}: no snapshot {snapshot_id!r}; list them with `salient store "
        "snapshots` (gc removes old ones)"
    )


def kept_ids(location: Location) -> list[str]:
    """Ids of the snapshots whose records are there, oldest first, committed or not.

    Emptied ones of a bucket are not kept.
    """
    if isinstance(location, ObjectLocation):
        found = kept(location)
        if found is not None:
            return found[0]
    names = (name.removesuffix(".json") for name in location.names(SNAPSHOTS))
    return sorted((name for name in names if SNAPSHOT_ID.fullmatch(name)), key=int)


def kept_snapshots(location: Location) -> list[Snapshot]:
    """The committed snapshots that are still kept, oldest first.

    Raises:
        StoreError: the record of one is damaged.
    """
    if isinstance(location, ObjectLocation):
        found = kept(location)
        if found is not None:  # the last was read first: older ones may be emptied meanwhile
            ids, head = found
            older = (read_numbered(location, name) for name in ids[:-1])
            return [*(snapshot for snapshot in older if snapshot is not None), head]
    while True:
        snapshots, last = list[Snapshot](), read_root(location).snapshot_id
        for name in kept_ids(location):
            if int(name) <= int(last):
                try:
                    snapshots.append(read_record(location, name))
                except StoreInputError:  # unless gc has removed it meanwhile
                    if name in kept_ids(location):
                        raise
        if snapshots or read_root(location).snapshot_id == last:
            return snapshots


def publish(root: Path, snapshot: Snapshot) -> None:
    """Make `snapshot` the last commit. The caller holds the commit lock; all it names is durable.

    Raises:
        StoreError: the disk refused; the previous commit stands.
    """
    document = encode_document(
        root_document(snapshot.schema, snapshot.num_samples, snapshot.id, written_by=program())
    )
    record = encode_snapshot(snapshot)
    # What no program could open must not be committed, whatever made it.
    decode_snapshot(
        record,
        snapshot.id,
        where=str(root / snapshot_path(snapshot.id)),
        remedy=f"it was not committed, snapshot {snapshot.parent} stands: please report this",
    )
    disk.write_files(
        {
            root / snapshot_path(snapshot.id): [record],
            root / root_copy_path(snapshot.id): [document],
        }
    )
    disk.write_file(root / ROOT_DOCUMENT, [document])
    write_array_documents(root, snapshot)


def write_array_documents(root: Path, snapshot: Snapshot) -> None:
    """Bring each array's own `zarr.json` up to the published root (readers of a single array).

    They come after the root, so they never promise more than is committed; a commit that died here
    is made good by whoever takes the commit lock next.
    """
    changed = {}
    for name, document in array_documents(snapshot.schema, snapshot.num_samples).items():
        path = f"{name}/{ROOT_DOCUMENT}"
        content = encode_document(document)
        if not _holds(root, path, content):
            changed[root / path] = [content]
    disk.write_files(changed)


def _holds(root: Path, path: str, content: bytes) -> bool:
    try:
        found = LocalLocation(root).read(path, max_bytes=len(content))
        return not (root / path).is_symlink() and found == content
    except (StoreError, OSError):
        return False
