"""Where a store may be: fsspec addresses, network file systems, full and read-only disks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.locking import one_at_a_time
from store import ActivationStore, DamagedShardError, StoreError, StoreInputError
from store.disk import locks
from store.disk.locks import FileLock, check_writable_file_system
from store.upkeep.inspection import verify
from tests.builders.store_processes import SCHEMA, append_all, make_samples, values_of, write_one


@pytest.fixture
def store(tmp_path: Path) -> ActivationStore:
    root = tmp_path / "s"
    ActivationStore.create(root, SCHEMA)
    append_all(root, [make_samples(range(0, 40))])
    return ActivationStore.open(root)


@pytest.mark.parametrize("address", ["s3:/bucket/s", "https://host/s"])
def test_no_store_is_made_at_an_address(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    typed = address.replace("s3:/b", "s3://b")
    with pytest.raises(StoreInputError, match=f"^{typed}: .* written to"):
        ActivationStore.create(address, SCHEMA)
    assert not list(tmp_path.iterdir())


class Elsewhere(MemoryFileSystem):
    """What obstore does not serve, and fsspec does."""

    protocol = "elsewhere"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(str(path).replace("elsewhere://", "memory://"))


def test_reading_through_fsspec(store: ActivationStore) -> None:
    fsspec.register_implementation("elsewhere", Elsewhere, clobber=True)
    files = fsspec.filesystem("memory")
    files.put(str(store.location.root), "/bucket/s", recursive=True)
    remote = ActivationStore.open("elsewhere://bucket/s")
    assert remote.snapshot_id == store.snapshot_id
    for layer in range(2):
        np.testing.assert_array_equal(
            remote.read_matrix(layer=layer), store.read_matrix(layer=layer)
        )
    wanted = {"layer": 1, "features": [11, 0, 3], "samples": [39, 1]}
    np.testing.assert_array_equal(remote.read_features(**wanted), store.read_features(**wanted))
    assert remote.samples().equals(store.samples())
    assert verify(remote).sound
    assert remote.to_xarray().ffn.sel(layer=1, sample="id7").shape == (2, 6)
    with pytest.raises(StoreError, match="directories and to buckets"):
        remote.commit()
    files.rm("/bucket/s/ffn/c/0/0/0/1")
    with pytest.raises(DamagedShardError, match="is missing"):
        remote.read_matrix(layer=0)
    with pytest.raises(StoreError, match="no activation store here"):
        ActivationStore.open("elsewhere://bucket/none")


@pytest.mark.parametrize(
    ("mount", "refused"),
    [
        ("server:/x /data nfs4 rw,vers=4.2 0 0", None),
        ("server:/x /data nfs rw,vers=3,nolock 0 0", "nfs mounted with nolock"),
        ("server:/x /data nfs4 rw,local_lock=all 0 0", "nfs4 mounted with local_lock=all"),
        ("//server/x /data cifs rw 0 0", "cifs"),
        ("bucket /data fuse.s3fs rw 0 0", "fuse.s3fs"),
        ("x@y:/z /data lustre rw,flock 0 0", None),
        ("x@y:/z /data lustre rw,localflock 0 0", "localflock"),
        ("/dev/sda1 /data/local ext4 rw 0 0\nserver:/x /data nfs rw,nolock 0 0", None),
        ("/dev/sda1 / ext4 rw 0 0\n//server/x /data\\040disk cifs rw 0 0", None),
    ],
)
def test_file_systems_without_shared_locks_are_refused(mount: str, refused: str | None) -> None:
    path = Path("/data/local/store")
    if refused is None:
        check_writable_file_system(path, mount)
    else:
        with pytest.raises(StoreError, match=f"{refused}.*not safe"):
            check_writable_file_system(path, mount)


def test_a_lock_says_who_holds_it(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    holders: list[str] = []

    def end_the_wait(holder: str) -> None:
        holders.append(holder)
        first.release()

    first.acquire(on_wait=end_the_wait)
    assert not holders
    second.acquire(on_wait=end_the_wait)
    assert second.held and not first.held
    second.release()
    assert holders == [f"process {os.getpid()} on {os.uname().nodename}"]


def test_a_long_wait_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    monkeypatch.setattr(locks, "WAIT_IN_SILENCE_S", -1.0)
    monkeypatch.setattr(locks.time, "sleep", lambda _: first.release())
    first.acquire()
    second.acquire()
    second.release()
    assert f"waiting for {tmp_path / 'lock'}, held by process {os.getpid()}" in caplog.text


def test_one_writer_at_a_time_in_a_folder(tmp_path: Path) -> None:
    told: list[str] = []
    other = FileLock(tmp_path / "run" / ".lock")

    def say(message: str) -> None:
        told.append(message)
        other.release()

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()  # as an earlier version left it
    with one_at_a_time(tmp_path / "run", say):
        assert not told
    other.acquire()
    with one_at_a_time(tmp_path / "run", say):
        assert told == [
            f"{tmp_path / 'run'}: another process is at work there; waiting for it to end"
        ]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 1 MB; needs the right to mount."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small tmpfs is not allowed here")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def read_all(root: Path, count: int) -> None:
    store = ActivationStore.open(root, check="always")
    assert store.num_samples == count
    want = values_of(SCHEMA, [f"id{i}" for i in range(count)])["ffn"][1].reshape(-1, count)
    np.testing.assert_array_equal(store.read_matrix(layer=1), want.T)


def test_a_disk_that_fills_up(small_disk: Path) -> None:
    root = small_disk / "s"
    ActivationStore.create(root, SCHEMA)
    append_all(root, [make_samples(range(0, 20))])
    store = ActivationStore.open(root)
    plan = store.plan_append(make_samples(range(20, 60)))
    ballast = small_disk / "ballast"
    with pytest.raises(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    with pytest.raises(StoreError, match="no space left on the disk"):
        write_one(store, plan, 0)
    read_all(root, 20)
    ballast.write_bytes(b"x" * (ballast.stat().st_size - 40_000))
    with pytest.raises(StoreError, match="no space left on the disk"):
        append_all(root, [make_samples(range(20, 60))])
    finished = ActivationStore.open(root).num_samples
    assert finished < 60
    read_all(root, finished)
    ballast.unlink()
    append_all(root, [make_samples(range(20, 60))])
    read_all(root, 60)


def test_a_read_only_disk(small_disk: Path) -> None:
    root = small_disk / "s"
    ActivationStore.create(root, SCHEMA)
    append_all(root, [make_samples(range(0, 20))])
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    read_all(root, 20)
    with pytest.raises(StoreError, match="not writable"):
        ActivationStore.open(root).plan_append(make_samples(range(20, 60)))
    with pytest.raises(StoreError, match="not writable"):
        ActivationStore.open(root).delete(["id1"])
    with pytest.raises(StoreError, match="not writable"):
        ActivationStore.create(small_disk / "t", SCHEMA)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory(store: ActivationStore) -> None:
    private = store.location.root / ".salient"
    private.chmod(0o555)
    try:
        with pytest.raises(StoreError, match="not writable"):
            ActivationStore.open(store.location.root).plan_append(make_samples(range(50, 60)))
        read_all(store.location.root, 40)
    finally:
        private.chmod(0o755)
