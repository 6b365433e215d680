"""The files of a store: those that kept snapshots name, and those that nobody knows."""

from __future__ import annotations

import re
from collections.abc import Iterator

from store.disk import TEMPORARY_SUFFIX, Location
from store.errors import StoreError
from store.layout import (
    ROOT_DOCUMENT,
    Manifest,
    StoreSchema,
    array_documents,
    axis_chunk_path,
    axis_coordinates,
    sample_coordinates,
)
from store.records import (
    ACTIVE_PLAN,
    APPEND_LOCK,
    CHANGING,
    COMMIT_LOCK,
    INDEX,
    LABELS,
    MANIFESTS,
    PLANS,
    SNAPSHOTS,
    Snapshot,
    kept_ids,
    read_label_file,
    read_parquet,
    read_record,
)
from store.upkeep.plainview import Damage, check_root_copy, told

_PRIVATE = re.compile(
    "|".join(
        (
            rf"{re.escape(SNAPSHOTS)}/[0-9]{{6,12}}(\.zarr)?\.json",
            rf"{re.escape(PLANS)}/.+",
            rf"{re.escape(MANIFESTS)}/[^/]+\.safetensors",
            rf"({re.escape(INDEX)}|{re.escape(LABELS)})/[^/]+\.parquet",
            *map(re.escape, (ACTIVE_PLAN, CHANGING, COMMIT_LOCK, APPEND_LOCK)),
        )
    ),
    re.ASCII,
)


def check_history(location: Location, current: Snapshot) -> Iterator[Damage]:
    """The record of each kept snapshot, its copy of the root, and every file that it names."""
    checked: set[str] = set()
    for snapshot_id in kept_ids(location):
        if int(snapshot_id) > int(current.id):
            continue  # of a commit that died, or came meanwhile
        try:
            snapshot = read_record(location, snapshot_id)
            yield from check_root_copy(location, snapshot)
            files = sorted(snapshot.files() - checked)
        except StoreError as error:
            if snapshot_id in kept_ids(location):  # else gc came meanwhile
                yield Damage(None, told(location, error))
            continue
        checked.update(files)
        for path in files:
            try:
                read_file(location, path)
            except StoreError as error:
                if snapshot_id in kept_ids(location):
                    yield Damage(_slot_of(snapshot, path), told(location, error))


def read_file(location: Location, path: str) -> None:
    """Read a manifest or a table whole; StoreError if it is missing or damaged."""
    if path.startswith(f"{MANIFESTS}/"):
        Manifest(location, path).check()
    elif path.startswith(f"{LABELS}/"):
        read_label_file(location, path)
    else:
        read_parquet(location, path)


def _slot_of(snapshot: Snapshot, path: str) -> int | None:
    slots = (slot for slot, record in enumerate(snapshot.slots) if path in record.manifests)
    return next(slots, None)


def unknown_files(location: Location, schema: StoreSchema) -> Iterator[str]:
    """Files in the store's folder that are not of the store; nobody reads them."""
    arrays = array_documents(schema, 0)
    whole = {ROOT_DOCUMENT, *(f"{name}/{ROOT_DOCUMENT}" for name in arrays)}
    whole |= {axis_chunk_path(name) for name in axis_coordinates(schema)}
    samples = "|".join(map(re.escape, sample_coordinates(schema)))
    shards = "|".join(map(re.escape, schema.arrays))
    chunks = re.compile(
        rf"({samples})/c/(0|[1-9][0-9]*)|({shards})/c/[0-9]+/0/0/(0|[1-9][0-9]*)", re.ASCII
    )
    for path in location.files():
        known = path in whole or chunks.fullmatch(path) or _PRIVATE.fullmatch(path)
        if not known and not path.endswith(TEMPORARY_SUFFIX):
            yield path
