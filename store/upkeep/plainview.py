"""What plain Zarr readers see beside the shards: is it what the snapshot says?

Salient itself reads none of it but the snapshot's name in the root; `xr.open_zarr(store)` shows all
of it as it is. Each check yields what is damaged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from store import disk
from store.commits import changing_slots
from store.disk import Location, ObjectLocation
from store.errors import NoStoreError, StoreBusy, StoreError, StoreInputError
from store.layout import (
    ROOT_DOCUMENT,
    Root,
    array_documents,
    axis_chunk_path,
    axis_coordinates,
    check_axis_chunk,
    check_sample_chunk,
    decode_root,
    root_document,
    sample_coordinates,
    store_attributes,
)
from store.records import (
    SampleIndex,
    Snapshot,
    kept_ids,
    read_record,
    read_root,
    root_copy_path,
    root_remedy,
)

JSON = Any
REWRITE = "`salient store add` or the next append writes it anew"


@dataclass(frozen=True)
class Damage:
    """One thing that is wrong, with the slot it belongs to (None: the whole store)."""

    slot: int | None
    message: str


def told(location: Location, error: StoreError) -> str:
    """What an error says is wrong; raised again where a bucket does not answer, or refuses access.

    For then it says nothing about what lies there.
    """
    unknown = isinstance(error, (StoreBusy, StoreInputError)) and not isinstance(
        error, NoStoreError
    )
    if unknown and isinstance(location, ObjectLocation):
        raise error
    return str(error)


def check_root(location: Location, snapshot: Snapshot) -> Iterator[Damage]:
    """The root `zarr.json` of the last commit, `snapshot`."""
    root = read_root(location)
    if root.snapshot_id == snapshot.id:  # else a commit came meanwhile, and with it a new root
        where = f"{location.address}/{ROOT_DOCUMENT}"
        yield from _compare_root(root, snapshot, where, root_remedy(location))


def check_root_copy(location: Location, snapshot: Snapshot) -> Iterator[Damage]:
    """The copy of the root that a snapshot keeps."""
    path = root_copy_path(snapshot.id)
    where = f"{location.address}/{path}"
    try:
        content = location.read(path, max_bytes=disk.MAX_JSON_BYTES)
    except OSError as error:
        yield Damage(None, f"{where}: {error.strerror or 'missing'}; {disk.FROM_BACKUP}")
        return
    root = decode_root(content, where=where, remedy=disk.FROM_BACKUP)
    yield from _compare_root(root, snapshot, where, disk.FROM_BACKUP)


def _compare_root(root: Root, snapshot: Snapshot, where: str, remedy: str) -> Iterator[Damage]:
    expected = root_document(snapshot.schema, snapshot.num_samples, snapshot.id)
    ours = expected["attributes"].pop("salient")
    words = store_attributes(snapshot.schema)
    none = words.keys().isdisjoint(root.document["attributes"])  # as earlier versions wrote it
    for name in words if none else ("title",):  # a title may be the user's own
        del expected["attributes"][name]
    said = {**root.document, "attributes": dict(root.document["attributes"])}
    del said["attributes"]["salient"]
    for name in set(said["attributes"]) - set(expected["attributes"]):
        del said["attributes"][name]  # a reader's own
    schemas = [{**schema, "format_version": 0} for schema in (root.schema, ours["schema"])]
    same = _text(said) == _text(expected) and _text(schemas[0]) == _text(schemas[1])
    if not same or root.snapshot_id != snapshot.id:
        yield Damage(None, f"{where}: differs from what snapshot {snapshot.id} says; {remedy}")


def check_array_documents(location: Location, snapshot: Snapshot) -> Iterator[Damage]:
    """Each array's own `zarr.json`; after a crash it may still be the commit's before."""
    accepted = [array_documents(snapshot.schema, snapshot.num_samples)]
    if snapshot.parent in kept_ids(location):
        before = read_record(location, snapshot.parent)
        accepted.append(array_documents(before.schema, before.num_samples))
    for name in accepted[0]:
        path = f"{name}/{ROOT_DOCUMENT}"
        where = f"{location.address}/{path}"
        wanted = [_text(documents.get(name)) for documents in accepted]
        try:
            content = location.read(path, max_bytes=disk.MAX_JSON_BYTES)
            found = _text(disk.decode_json(content, where=where, remedy=REWRITE))
        except FileNotFoundError:
            found = _text(None)
        except OSError as error:
            yield Damage(None, f"{where}: cannot be read ({error.strerror or error}); {REWRITE}")
            continue
        except StoreError as error:
            yield Damage(None, told(location, error))
            continue
        if found not in wanted:
            yield Damage(None, f"{where}: differs from the store's schema; {REWRITE}")


def check_axes(location: Location, snapshot: Snapshot) -> Iterator[Damage]:
    """The coordinates of layers, poolings and units."""
    for name in axis_coordinates(snapshot.schema):
        yield from _check_chunk(
            location,
            axis_chunk_path(name),
            None,
            lambda content, name=name: check_axis_chunk(content, name, snapshot.schema),
            "the coordinate differs from the store's schema",
        )


def check_samples(location: Location, snapshot: Snapshot, index: SampleIndex) -> Iterator[Damage]:
    """The coordinates of the samples: ids, texts, times."""
    size = snapshot.schema.samples_per_shard
    rows = index.visible_rows(0, snapshot.num_samples)
    # While a commit changes them, or after one that died, those of a slot are not yet true.
    changing = changing_slots(location, snapshot)
    for slot, record in enumerate(snapshot.slots):
        if slot in changing:
            continue
        own = rows.slice(slot * size, record.count)
        for name in sample_coordinates(snapshot.schema):
            yield from _check_chunk(
                location,
                f"{name}/c/{slot}",
                slot,
                lambda content, name=name, own=own: check_sample_chunk(content, name, own, size),
                "the coordinate differs from the sample index",
            )


def _check_chunk(
    location: Location, path: str, slot: int | None, is_sound: Any, what: str
) -> Iterator[Damage]:
    where = f"{location.address}/{path}"
    try:
        if not is_sound(location.read(path)):
            yield Damage(slot, f"{where}: {what}; {disk.FROM_BACKUP}")
    except OSError as error:
        yield Damage(slot, f"{where}: {error.strerror or 'missing'}; {disk.FROM_BACKUP}")
    except StoreError as error:
        yield Damage(slot, told(location, error))


def _text(document: Mapping[str, JSON] | None) -> str:
    """What a document says, however it is spaced: 1, 1.0 and true are three things."""
    return json.dumps(document, sort_keys=True)
