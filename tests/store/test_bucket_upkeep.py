"""Upkeep of stores on buckets: compacting, collecting garbage, verifying, copying.

Crashes are tried at every single write and removal, others at every request, in memory; what needs
a server's own answers (unfinished uploads, the clock of objects) is tried against one.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from pipeline.commands.line import run_command
from store import ActivationStore, StoreBusy, StoreError, StoreInputError, StoreSchema
from store.commits import begin_compaction
from store.disk import ObjectLocation, durable, locate
from store.records import Snapshot, load_snapshot
from store.upkeep import compact, copy_store, copying, gc, info, verify
from store.upkeep.rewriting import base_of, commit, look, rewrite
from store.upkeep.sweeping import do_sweep, plan_sweep, record_id
from tests.builders.bucket_verbs import as_another, at_request, let_leases_lapse
from tests.builders.faults import Fault, FaultProxy
from tests.builders.forking import start
from tests.builders.store_processes import append_all, make_samples
from tests.builders.store_upkeep import append_slowly, compact_slowly
from tests.builders.waiting import wait_until

SCHEMA = StoreSchema(num_layers=1, neuron_size=2, hidden_size=2, samples_per_shard=16)
STRIDE = 1 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 4
"""Of how many requests one is tried, but of the shortest; the nightly run tries each."""


@pytest.fixture
def on_disk(tmp_path: Path) -> ActivationStore:
    """A store of 53 samples in four slots, three of them under two ids, with labels."""
    root = tmp_path / "disk"
    ActivationStore.create(root, SCHEMA)
    append_all(root, [make_samples(range(40), repeats=3), make_samples(range(40, 53))])
    store = ActivationStore.open(root)
    labels = {"id": ["id3", "id4"], "split": ["a", "a"], "label": ["x", "y"]}
    store.put_labels("mood", pa.table(labels), spec={"kind": "classes"})
    return store


def check_same(store: ActivationStore, other: ActivationStore) -> None:
    """Both show the same samples, labels and numbers."""
    assert store.samples().equals(other.samples())
    assert store.tasks() == other.tasks()
    for task in store.tasks():
        assert store.labels(task).equals(other.labels(task))
        assert store.label_spec(task) == other.label_spec(task)
    for name, layout in store.schema.arrays.items():
        for layer in layout.layers:
            np.testing.assert_array_equal(
                store.read_matrix(name, layer=layer), other.read_matrix(name, layer=layer)
            )
            mine, others = store.moments(name, layer=layer), other.moments(name, layer=layer)
            assert mine[0] == others[0]
            np.testing.assert_allclose(mine[1], others[1], rtol=1e-12)
    known = [*other.index.records["id"].to_pylist(), "nobody"]
    np.testing.assert_array_equal(store.positions(known), other.positions(known))


class Killed(BaseException):
    """What a process feels that is killed: nothing of it goes on."""


def is_renewing() -> bool:
    """Whether it is the thread of a lease, which tells those who wait that it has ended."""
    return threading.current_thread().name == "store-lease"


class AtStep:
    """Do something once, after the change of a bucket of a given number; `done` says whether."""

    def __init__(self, number: int, work: Callable[[], None]) -> None:
        self.number, self.work, self.done = number, work, False
        self._count = itertools.count(1)
        self._lock = threading.RLock()

    def __call__(self, step: str) -> None:
        if step.startswith("after ") and not is_renewing():
            with self._lock:
                if not self.done and next(self._count) == self.number:
                    self.done = True
                    durable.watch_steps(None)
                    self.work()
                    durable.watch_steps(self)


def dying_at(number: int) -> AtStep:
    """Die after that change, and let no thread change anything afterwards."""

    def die(_: str = "") -> None:
        durable.watch_steps(die)
        if not is_renewing():
            raise Killed

    return AtStep(number, die)


@contextmanager
def watched(watcher: Callable[[str], None]) -> Iterator[None]:
    """What happens inside is watched."""
    durable.watch_steps(watcher)
    try:
        yield
    finally:
        durable.watch_steps(None)


def clone(source: str, number: int) -> str:
    """The URL of a bucket with the same objects."""
    address = f"memory://{source.split('/')[2]}-{number}/data"
    there, here = locate(source), locate(address)
    for meta in there.list():
        here.put(meta.path, there.read(meta.path))
    return address


def names_left(address: str, needles: Sequence[str]) -> list[str]:
    """The objects in which an id or text is found, tables decoded."""
    found = []
    location = locate(address)
    for meta in location.list():
        content = location.read(meta.path)
        if meta.path.endswith(".parquet"):
            content = str(pq.read_table(pa.BufferReader(content)).to_pydict()).encode()
        elif meta.path.endswith(".arrow"):
            table = pa.ipc.open_file(pa.BufferReader(content)).read_all()
            content = str(table.to_pydict()).encode()
        if any(f"'{needle}'".encode() in content for needle in needles):
            found.append(meta.path)
    return found


def check_sound(store: ActivationStore, expected: ActivationStore) -> None:
    """It holds what is expected, and no object is damaged."""
    check_same(store, expected)
    report = verify(store)
    assert report.sound, str(report)


DELETED = [f"id{i}" for i in range(16, 32)] + ["id3", "copy1", "id40"]
"""All of a slot, one of two ids of a text, both kinds of ids."""
GONE = [*DELETED, *(f"text {i}" for i in [*range(16, 32), 3, 40])]


@pytest.fixture
def deleted(on_disk: ActivationStore, memory_bucket: str) -> str:
    """A bucket with the store of `on_disk`, where some of it was deleted, as on the disk."""
    copy_store(on_disk, memory_bucket)
    ActivationStore.open(memory_bucket).delete(DELETED)
    on_disk.delete(DELETED)
    return memory_bucket


def test_a_compaction_dies_at_every_change(deleted: str, on_disk: ActivationStore) -> None:
    """Readers see the same before and after; the next one leaves nothing of what was deleted."""
    for number in itertools.count(1):
        address = clone(deleted, number)
        store = ActivationStore.open(address)
        watcher = dying_at(number)
        with watched(watcher), suppress(Killed):
            compact(store)
        check_same(ActivationStore.open(address), on_disk)
        report = compact(ActivationStore.open(address))
        after = ActivationStore.open(address)
        check_sound(after, on_disk)
        assert names_left(address, GONE) == []
        left = plan_sweep(locate(address))
        assert left.objects == left.records == ()
        assert after.snapshots()[0].kind == "compact"
        if not watcher.done:
            break
        store.refresh()
    assert number > 15
    assert report.num_samples == 0 and report.emptied_slots == (1,)


def test_gc_dies_at_every_change(deleted: str, on_disk: ActivationStore) -> None:
    """Kept snapshots stay as they are; the next gc leaves no object that nobody names."""
    store = ActivationStore.open(deleted)
    for number in range(4):
        ids = {"id": ["id3", f"id{number}"], "split": ["a", "b"], "label": ["x", "z"]}
        store.put_labels("mood", pa.table(ids))
        on_disk.put_labels("mood", pa.table(ids))
    location = store.location
    shards = [f"ffn/c/0/0/0/{slot}.0123456789ab-00000000" for slot in range(3)]
    lost = [f".salient/index/rows-0-5-00000{n}-{'0' * 16}.parquet" for n in (3, 7)]
    for path in (*shards, *lost):
        location.put(path, b"of one who died")
    location.put("notes.txt", b"a user's own")
    assert gc(store, grace_s=3600, dry_run=True).num_young == 5
    for number in itertools.count(1):
        address = clone(deleted, number)
        watcher = dying_at(number)
        with watched(watcher), suppress(Killed):
            report = gc(ActivationStore.open(address), keep=2, grace_s=0)
        check_same(ActivationStore.open(address), on_disk)
        if not watcher.done:
            break
        gc(ActivationStore.open(address), keep=2, grace_s=0)
        after = ActivationStore.open(address)
        check_sound(after, on_disk)
        kinds = [snapshot.kind for snapshot in after.snapshots()]
        assert kinds[:2] == ["labels", "labels"] and set(kinds[2:]) == {"gc"}
        assert {meta.path for meta in plan_sweep(after.location).objects} == set()
        assert verify(after).unknown_files == ("notes.txt",)
    assert set(report.files) > {*shards, *lost} and len(report.snapshots) == 4


# -- what another does before each request, reading or writing ----------------------------------

SMALL = StoreSchema(num_layers=1, neuron_size=2, samples_per_shard=8, fingerprint="f")


def compacts(address: str) -> None:
    compact(ActivationStore.open(address))


def collects(address: str) -> None:
    gc(ActivationStore.open(address), keep=1, grace_s=0)


def deletes(address: str) -> None:
    ActivationStore.open(address).delete(["id5", "id17"])


def changes(address: str) -> None:
    """Much at a time, after which what was there before is gone."""
    deletes(address)
    ActivationStore.open(address).put_labels("mood", labels_of("id3", "id5", "id6"))
    compacts(address)
    collects(address)


def verifies(address: str) -> None:
    report = verify(ActivationStore.open(address))
    assert report.sound, str(report)


def copies(address: str) -> None:
    copy_store(ActivationStore.open(address), f"{address}-copy")
    verifies(f"{address}-copy")


def labels_of(*ids: str) -> pa.Table:
    return pa.table({"id": list(ids), "split": ["a"] * len(ids), "label": ["x"] * len(ids)})


def small_store(address: str) -> None:
    """Samples of three slots, of which some are deleted, with labels."""
    ActivationStore.create(address, SMALL)
    append_all(address, [make_samples(range(20))])  # type: ignore[arg-type]
    store = ActivationStore.open(address)
    store.put_labels("mood", labels_of("id3", "id1"))
    store.delete(["id1", *(f"id{i}" for i in range(8, 16))])


REFUSED = "run it again"


@pytest.mark.parametrize("other", [compacts, changes])
@pytest.mark.parametrize("mine", [compacts, collects, deletes, verifies, copies])
def test_another_comes_at_every_request(
    memory_bucket: str,
    mine: Callable[[str], None],
    other: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both are done, or one is told to run it again; nothing is lost and nothing comes back."""
    let_leases_lapse(monkeypatch)
    small_store(f"{memory_bucket}/plain")
    expected = ActivationStore.open(clone(f"{memory_bucket}/plain", 0))
    for change in (mine, other):
        if change in (deletes, changes):
            change(expected.location.address)
    expected.refresh()
    for number in range(0, 300, 1 if mine is collects else STRIDE):
        address = clone(f"{memory_bucket}/plain", number + 1)
        with at_request(number, lambda address=address: as_another(lambda: other(address))) as seen:
            try:
                mine(address)
            except StoreError as error:
                assert mine in (compacts, copies) and REFUSED in str(error), str(error)
        if seen.count <= number:
            other(address)
        compacts(address)
        check_sound(ActivationStore.open(address), expected)
        assert names_left(address, ["id1", "id9", "text 9"]) == []
        if seen.count <= number:
            break
    else:
        raise AssertionError("there is no end of requests")


@pytest.mark.parametrize("number", range(12))
def test_a_sweep_sleeps_while_a_compaction_ends(
    memory_bucket: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shards of a later compaction, listed before its commit, stay wherever it sleeps."""
    let_leases_lapse(monkeypatch)
    small_store(memory_bucket)
    compacts(memory_bucket)
    deletes(memory_bucket)
    location = locate(memory_bucket)
    assert isinstance(location, ObjectLocation)
    head = begin_compaction(location, load_snapshot(location))
    assert head.plan is not None
    work = look(location, base_of(head))
    manifests = rewrite(location, head.plan, work)

    def ends() -> None:
        commit(location, head.plan, work, manifests)
        do_sweep(location, plan_sweep(location))

    with at_request(number, ends):
        do_sweep(location, plan_sweep(location))
    verifies(memory_bucket)


def test_what_gc_removes_has_been_there_for_a_while(memory_bucket: str) -> None:
    """Also what only dropped snapshots named, for their readers; a compaction removes at once."""
    small_store(memory_bucket)
    store = ActivationStore.open(memory_bucket)
    store.put_labels("mood", labels_of("id4"))
    store.location.put(".salient/plans/0123456789ab/lease.json", b"{}")  # type: ignore[union-attr]
    report = gc(store, keep=1)
    assert report.files == () and len(report.snapshots) == 6
    assert "objects that no kept snapshot names stay until they are 24 h old" in str(report)
    report = gc(store, keep=1, grace_s=0)
    assert [path.split("/")[1] for path in report.files] == ["labels"]
    assert "stay until" not in str(report)  # a lease may be there before its plan, for an hour
    compacts(memory_bucket)
    left = [meta.path for meta in store.location.list(".salient/index")]  # type: ignore[union-attr]
    assert set(left) == {part.path for part in ActivationStore.open(memory_bucket).snapshot.index}


def test_gc_and_compact_come_at_every_step_of_an_append(
    deleted: str, on_disk: ActivationStore
) -> None:
    """No block of the append is taken away; a compaction is refused while it is under way."""
    batch = make_samples(range(60, 80))
    append_all(on_disk.location.root, [batch])
    on_disk.refresh()
    refused = 0
    for number in itertools.count(1):
        address = clone(deleted, number)

        def change(address: str = address) -> None:
            nonlocal refused
            gc(ActivationStore.open(address), keep=1, grace_s=0)
            try:
                compact(ActivationStore.open(address))
            except StoreError as error:
                assert "an append is not finished" in str(error)
                refused += 1

        watcher = AtStep(number, change)
        with watched(watcher):
            append_all(address, [batch])
        check_sound(ActivationStore.open(address), on_disk)
        if not watcher.done:
            break
    assert 5 < refused < number


def test_a_compaction_waits_for_an_append_and_is_killed(
    deleted: str, on_disk: ActivationStore, bucket: str
) -> None:
    """Processes, at a server: one waits for the other, and a dead one's work is gone on with."""
    source, there = locate(deleted), locate(bucket)
    for meta in source.list():
        there.put(meta.path, source.read(meta.path))
    batch = make_samples(range(60, 80))
    append_all(on_disk.location.root, [batch])
    on_disk.refresh()
    appender = start(append_slowly, bucket, batch, 1.0)
    wait_until(lambda: ActivationStore.open(bucket).snapshot.plan is not None)
    assert compact(ActivationStore.open(bucket)).num_samples == 18
    appender.join()
    check_sound(ActivationStore.open(bucket), on_disk)

    ActivationStore.open(bucket).delete(["id50", "id65"])
    on_disk.delete(["id50", "id65"])
    killed = start(compact_slowly, bucket)

    def has_begun() -> bool:
        plan = ActivationStore.open(bucket).snapshot.plan
        return plan is not None and any(plan.id in meta.path for meta in there.list("ffn"))

    wait_until(has_begun)
    head = ActivationStore.open(bucket).snapshot
    assert head.plan is not None
    killed.kill()
    killed.join()
    check_same(ActivationStore.open(bucket), on_disk)
    compact(ActivationStore.open(bucket))  # at once: the process is gone, as this machine knows
    after = ActivationStore.open(bucket)
    check_sound(after, on_disk)
    assert after.snapshot.finished_plan == head.plan.id
    assert names_left(bucket, [*GONE, "id50", "text 50", "id65", "text 65"]) == []


def test_lost_answers_change_nothing(
    deleted: str, on_disk: ActivationStore, bucket: str, fault_proxy: FaultProxy
) -> None:
    """A server acts and its answer gets lost, of every third write: it is done once."""
    source, there = locate(deleted), locate(bucket)
    for meta in source.list():
        there.put(meta.path, source.read(meta.path))
    fault_proxy.plan(Fault("lose", method="PUT|POST|DELETE", share=0.33, times=None))
    assert compact(ActivationStore.open(bucket)).num_samples == 18
    gc(ActivationStore.open(bucket), keep=1, grace_s=0)
    assert fault_proxy.faults["lose"] > 3
    fault_proxy.clear()
    check_sound(ActivationStore.open(bucket), on_disk)
    assert names_left(bucket, GONE) == []
    assert plan_sweep(there).objects == ()


def test_verify_names_each_damaged_object(deleted: str, on_disk: ActivationStore) -> None:
    """Of all that is named anything may be missing, cut or changed: it is found, and named."""
    store = ActivationStore.open(deleted)
    named = [meta for meta in store.location.list() if meta.size]
    for number, meta in enumerate(named):
        address = clone(deleted, number)
        there = locate(address)
        content = bytearray(there.read(meta.path))
        spoiled = ["missing", "cut", "changed"][number % 3]
        if meta.path.endswith(".parquet") and spoiled == "changed":
            spoiled = "cut"  # not each of its bytes says something
        if spoiled == "missing":
            there.delete([meta.path])
        elif spoiled == "cut":
            there.put(meta.path, bytes(content[: len(content) // 2]))
        else:
            content[0 if "/c/" in meta.path else len(content) // 2] ^= 1
            there.put(meta.path, bytes(content))
        if record_id(meta.path) == store.snapshot_id:
            continue  # then nothing can be opened, or the one before it
        report = verify(ActivationStore.open(address))
        assert meta.path in str(report), (meta.path, spoiled, str(report))


def test_a_store_is_copied_to_a_bucket_and_back(
    on_disk: ActivationStore, bucket: str, tmp_path: Path
) -> None:
    """What is deleted stays behind, all else is the same, and both copies are sound."""
    on_disk.delete([f"id{i}" for i in range(16, 32)] + ["id3"])
    report = copy_store(on_disk, bucket)
    there = ActivationStore.open(bucket)
    assert there.snapshot_id == on_disk.snapshot_id == report.snapshot
    check_same(there, on_disk)
    assert verify(there).sound, str(verify(there))
    assert "17 objects" in str(info(there)) and info(there).list_requests == 1

    copy_store(there, tmp_path / "back")
    back = ActivationStore.open(tmp_path / "back")
    check_same(back, on_disk)
    assert verify(back).sound, str(verify(back))
    append_all(tmp_path / "back", [make_samples(range(60, 70))])
    assert verify(ActivationStore.open(tmp_path / "back")).sound

    for target in (bucket, str(tmp_path / "back")):
        with pytest.raises(StoreError, match="something is there already"):
            copy_store(on_disk, target)


def test_a_copy_beside_a_compaction_is_sound(
    on_disk: ActivationStore, memory_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is of the store as it was when it was begun, whatever its bucket says by now."""
    copy_store(on_disk, memory_bucket)

    plain = copying._Copy.snapshot

    def later(*given: Any) -> Snapshot:
        other = ActivationStore.open(memory_bucket)
        other.delete(["id3"])
        compact(other)
        return plain(*given)

    monkeypatch.setattr(copying._Copy, "snapshot", later)
    copy_store(ActivationStore.open(memory_bucket), tmp_path / "copy")
    copied = ActivationStore.open(tmp_path / "copy")
    assert verify(copied).sound, str(verify(copied))


def test_no_copy_is_made_within_a_stores_private_folder(
    on_disk: ActivationStore, memory_bucket: str
) -> None:
    """Its gc would remove it."""
    copy_store(on_disk, memory_bucket)
    there = {meta.path for meta in locate(memory_bucket).list()}  # type: ignore[union-attr]
    with pytest.raises(StoreInputError, match=r"folder \.salient of a store"):
        copy_store(on_disk, f"{memory_bucket}/.salient/plans/0123456789ab")
    assert {meta.path for meta in locate(memory_bucket).list()} == there  # type: ignore[union-attr]


KEYS = {
    "shard": "/ffn/c/",
    "manifest": "manifests/",
    "table": "index/",
    "labels": "labels/",
    "record": "snapshots/0",
}


@pytest.mark.parametrize("key", KEYS.values(), ids=list(KEYS))
@pytest.mark.parametrize("own", [True, False], ids=["own", "of-a-disk"])
def test_what_cannot_be_read_now_is_no_damage(
    on_disk: ActivationStore,
    bucket: str,
    fault_proxy: FaultProxy,
    key: str,
    own: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where access is refused, or the server is busy for long; of a copy of a disk's files, too."""
    place = ObjectLocation(bucket, {"allow_http": True, "retry_timeout_s": 0.1})
    if own:
        copy_store(on_disk, bucket)
    else:
        for path in on_disk.location.files():
            place.put(path, on_disk.location.read(path))
    store = ActivationStore(place, load_snapshot(place), check="first", pinned=False)
    for fault, error in (
        (Fault("answer", key=key, status=503, times=None), StoreBusy),
        (Fault("answer", key=key, status=403, times=None), StoreInputError),
    ):
        fault_proxy.clear()
        fault_proxy.plan(fault)
        with pytest.raises(error, match=bucket):
            verify(store)
    fault_proxy.clear()
    fault_proxy.plan(Fault("answer", key=key, method="GET", status=403, times=None))
    assert run_command(["store", "verify", bucket]) == 2
    assert "access refused" in capsys.readouterr().err


def test_unfinished_uploads_are_aborted_once_they_are_old(
    on_disk: ActivationStore, bucket: str
) -> None:
    import boto3

    copy_store(on_disk, bucket)
    name = bucket.split("/")[2]
    client = boto3.client(
        "s3", region_name="us-east-1", endpoint_url=os.environ["AWS_ENDPOINT_URL"]
    )
    for key in ("data/ffn/c/0/0/0/9.aaaaaaaaaaaa-bbbbbbbb", "other/thing"):
        client.create_multipart_upload(Bucket=name, Key=key)
    store = ActivationStore.open(bucket)
    assert gc(store, grace_s=1e9).uploads == ()  # moto says that all began in 2010
    assert len(gc(store, grace_s=0, dry_run=True).uploads) == 1
    report = gc(store, grace_s=0)
    assert report.uploads == ("data/ffn/c/0/0/0/9.aaaaaaaaaaaa-bbbbbbbb",)
    assert "1 unfinished uploads" in str(report)
    left = client.list_multipart_uploads(Bucket=name)["Uploads"]
    assert [upload["Key"] for upload in left] == ["other/thing"]


def test_a_copy_into_a_bucket_dies_at_every_change(
    on_disk: ActivationStore, memory_bucket: str
) -> None:
    """There is no store before all of it is there; the same copy again writes what lacks."""
    on_disk.delete(DELETED)
    lacking = []
    for number in itertools.count(1):
        address = f"{memory_bucket}/{number}"
        watcher = dying_at(number)
        with watched(watcher), suppress(Killed):
            copy_store(on_disk, address)
        if not watcher.done:
            break
        if not ActivationStore.exists(address):
            lacking.append(copy_store(on_disk, address).num_files)
        check_same(ActivationStore.open(address), on_disk)
    assert verify(ActivationStore.open(address)).sound
    assert len(lacking) > 15 and lacking[-1] < lacking[0] / 2


def test_commands_take_urls(
    on_disk: ActivationStore, bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same words, messages and exit codes as on a disk."""

    def run(words: str) -> tuple[int, str]:
        code = run_command(["store", *words.split()])
        told = capsys.readouterr()
        return code, told.out + told.err

    assert run(f"copy {on_disk.location.address} {bucket}")[0] == 0
    assert run(f"copy {on_disk.location.address} {bucket}")[0] == 2
    code, told = run(f"info {bucket}")
    assert code == 0 and "53 under 56 ids" in told and "objects, 0.000 GB (1 request" in told
    assert run(f"delete {bucket} --id id17 --id nobody")[0] == 1
    code, told = run(f"compact {bucket}")
    assert code == 0 and told.startswith("1 deleted samples removed from 1 slots")
    code, told = run(f"snapshots {bucket}")
    assert code == 0 and told.count("samples") == 1 and "compact" in told
    code, told = run(f"gc {bucket} --grace 0s")
    assert code == 0 and "removed 0 snapshots and 0 objects" in told
    assert run(f"gc {bucket} --grace soon")[0] == 2
    assert run(f"gc {on_disk.location.address} --grace 1h")[0] == 2
    assert run(f"verify {bucket}")[0] == 0
    assert run(f"export {bucket} {tmp_path / 'archive'}")[0] == 0
    assert zarr.open_group(tmp_path / "archive", mode="r")["ffn"].shape[-1] == 53
    assert run(f"copy {bucket} {tmp_path / 'copy'}")[0] == 0
    there = locate(bucket)
    shard = next(meta.path for meta in there.list("ffn"))
    there.put(shard, there.read(shard)[:-1])
    code, told = run(f"verify {bucket}")
    assert code == 1 and shard in told
    assert run(f"info {bucket}/nowhere")[0] == 2
