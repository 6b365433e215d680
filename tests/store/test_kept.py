"""Objects that are kept on this machine: read from the bucket once, in files without names."""

from __future__ import annotations

import gc
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from store.disk import ObjectLocation
from store.disk.kept import KeptObjects, kept_here

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def place(memory_bucket: str) -> ObjectLocation:
    place = ObjectLocation(memory_bucket)
    place.put("shard", CONTENT)
    place.put("empty", b"")
    return place


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_an_object_is_fetched_once_by_all_who_ask(
    place: ObjectLocation, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []
    read = ObjectLocation.read
    monkeypatch.setattr(
        KeptObjects, "read", lambda self, path: fetched.append(path) or read(self, path)
    )
    kept = kept_here(place, len(CONTENT))
    assert kept_here(ObjectLocation(place.address), len(CONTENT)) is kept
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda at: kept.fetch("shard", [at, 0], [at + 9, 2]), range(8)))
    assert [bytes(first) for first, _ in parts] == [CONTENT[at : at + 9] for at in range(8)]
    assert bytes(kept.fetch("shard", [10_000], [99_999])[0]) == CONTENT[10_000:]  # it ends before
    assert bytes(kept.fetch("empty", [0], [5])[0]) == b""
    assert bytes(kept.fetch_all("shard")) == CONTENT
    assert fetched == ["shard", "empty"]
    with pytest.raises(FileNotFoundError):
        kept.fetch("missing", [0], [1])


def test_what_is_kept_has_no_name_and_goes_with_its_last_user(
    place: ObjectLocation, folder: Path
) -> None:
    kept = kept_here(place, len(CONTENT))
    (part,) = kept.fetch("shard", [0], [9])
    assert list(folder.iterdir()) == [] and num_mapped(folder) == 1
    del kept
    gc.collect()
    assert bytes(part) == CONTENT[:9]  # as long as anything of it is used
    del part
    gc.collect()
    assert num_mapped(folder) == 0


def num_mapped(folder: Path) -> int:
    """How many files of a folder this process has mapped."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("only Linux says what is mapped")
    return maps.read_text().count(f"{folder}/")


def test_where_there_is_no_room_it_is_read_from_the_bucket(
    place: ObjectLocation, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda where: SimpleNamespace(free=1000))
    assert kept_here(place, 501) is place
    assert kept_here(place, 500) is not place
