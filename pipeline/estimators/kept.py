"""Activations kept from one fit to the next: a store for each extraction, in the user's cache.

    key = entry_key(config, schema, backbone)
    with kept_activations(None, key, schema, ids=ids, most_bytes=20_000_000_000) as place:
        place.store, place.golden      # paths; nobody removes them before the block ends

A store is found by all that its numbers depend on, a text in it by its hash; texts themselves are
not kept. All stores together take at most so many bytes, about: before a fit that brings more,
those not used for longest are removed, but never one that another process is using: whoever uses a
store holds a shared lock on the file beside it, which stays. ``cache=False`` keeps nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.backbone import Backbone, cache_folder
from pipeline.config import RunConfig
from pipeline.progress import Say, silent
from store import ActivationStore, StoreError, StoreSchema

KEY = re.compile("[0-9a-f]{24}")
"""Name of an entry."""
GONE = re.compile(r"\.gone-\d+-[0-9a-f]{24}")
"""Name of an entry that is being removed: by which process, and its key."""


@dataclass(frozen=True)
class Place:
    """Where the activations of one extraction lie.

    Attributes:
        store: path of the store; it need not exist.
        golden: the record of the golden texts; it need not exist.
        kept: whether they are there for the next fit, too.
    """

    store: Path
    golden: Path
    kept: bool


def entry_key(config: RunConfig, schema: StoreSchema, backbone: Backbone) -> str:
    """Digest of all that stored numbers depend on, and of what heads made of them record."""
    facts = {
        "fingerprint": schema.fingerprint,
        "arrays": {
            name: [layout.rows, list(layout.layers)] for name, layout in schema.arrays.items()
        },
        "dtype": schema.dtype,
        "backbone": config.backbone.model_dump(mode="json", exclude={"check"}),
        "engine": backbone.circumstances(),
        "samples_per_shard": config.store.samples_per_shard,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]


@contextmanager
def kept_activations(
    cache: Any,
    key: str,
    schema: StoreSchema,
    *,
    ids: Sequence[str],
    most_bytes: int,
    say: Say = silent,
) -> Iterator[Place]:
    """The place of an extraction's activations, with room for those of some texts.

    Args:
        cache: folder; None or True for the user's cache folder, False for a temporary one.
        key: of :func:`entry_key`.
        schema: that a new store would have.
        ids: of the texts that are wanted.
        most_bytes: of all stores in the folder together.
        say: told once where activations are kept, and when they are not.
    """
    root = None if cache is False else _root(cache, say)
    if root is not None and len(ids) * schema.bytes_per_sample > most_bytes:
        say(
            f"the activations of {len(ids):,} texts take"
            f" {len(ids) * schema.bytes_per_sample / 1e9:,.1f} GB, more than cache_bytes"
            f" ({most_bytes / 1e9:,.1f} GB): they are not kept after this fit"
        )
        root = None
    if root is None:
        with tempfile.TemporaryDirectory(prefix="salient-") as folder:
            yield _place(Path(folder), kept=False)
        return
    entry, lock = root / key, root / f"{key}.lock"
    with _shared(lock):
        if not entry.exists():
            say(
                f"activations are kept in {root}, up to {most_bytes / 1e9:,.0f} GB, so that the"
                " next fit on these texts runs no model (hashes of texts, no texts;"
                " cache=False keeps nothing)"
            )
        needed = _needed(entry, ids, schema)
    if needed > most_bytes:  # with what earlier fits have brought; nobody else may be reading it
        remove(root, key)
    with _shared(lock):
        make_room(root, most_bytes - _needed(entry, ids, schema), keep=key)
        entry.mkdir(mode=0o700, exist_ok=True)
        os.utime(lock)
        yield _place(entry, kept=True)


def make_room(root: Path, most_bytes: int, *, keep: str) -> int:
    """Remove what was not used for longest until the others take at most so many bytes.

    Args:
        root: folder of the entries.
        most_bytes: of all entries but one.
        keep: the key of that one.

    Returns:
        Bytes that the others take.
    """
    # A folder of the user's may hold other things.
    for rest in root.iterdir():
        if GONE.fullmatch(rest.name):  # of a process that died
            shutil.rmtree(rest, ignore_errors=True)
    entries = [path.stem for path in root.glob("*.lock") if KEY.fullmatch(path.stem)]
    entries = [name for name in entries if name != keep]
    sizes = {name: _size(root / name) for name in entries}
    for name in sorted(entries, key=lambda one: (root / f"{one}.lock").stat().st_mtime_ns):
        if sum(sizes.values()) <= most_bytes:
            break
        if sizes[name] and remove(root, name):
            del sizes[name]
    return sum(sizes.values())


def remove(root: Path, key: str) -> bool:
    """Remove an entry, unless somebody is using it; whether it is gone."""
    with open(root / f"{key}.lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        gone = root / f".gone-{os.getpid()}-{key}"
        with suppress(FileNotFoundError):
            os.rename(root / key, gone)
        shutil.rmtree(gone, ignore_errors=True)
    return True


def _root(cache: Any, say: Say) -> Path | None:
    """The folder, made; None where it cannot be written."""
    root = cache_folder() / "activations" if cache in (None, True) else Path(cache).expanduser()
    root = root.absolute()
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        say(f"cache {root}: cannot be written ({error.strerror}); nothing is kept after this fit")
        return None
    return root


@contextmanager
def _shared(path: Path) -> Iterator[None]:
    with open(path, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def _place(entry: Path, *, kept: bool) -> Place:
    return Place(entry / "store", entry / "golden.safetensors", kept)


def _needed(entry: Path, ids: Sequence[str], schema: StoreSchema) -> int:
    """Bytes of an entry once it has some texts."""
    try:
        known = ActivationStore.open(entry / "store").positions(list(ids))
        new = int((known < 0).sum())
    except StoreError:
        new = len(ids)
    return _size(entry) + new * schema.bytes_per_sample


def _size(entry: Path) -> int:
    """Bytes on disk."""
    total = 0
    for folder, _, names in os.walk(entry):
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(folder, name)).st_blocks * 512
    return total
