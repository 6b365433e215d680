"""A store on a bucket: the same content as on a disk, whoever writes, dies or is late when.

Two writers are let do something at every request of each other, and one is killed at each. What
the server's answers do is tested with `store.disk`; here each request is answered.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.commands.line import run_command
from store import ActivationStore, StoreError, StoreInputError, disk
from store.commits import turns
from store.commits.plans import DiskPlan
from store.disk import LocalLocation, ObjectLocation, locate
from store.errors import StoreBusy
from store.layout import Block
from store.records import empty_record, kept_ids, kept_snapshots, load_snapshot, publish_next
from tests.builders.bucket_verbs import (
    Killed,
    as_another,
    at_request,
    die,
    elsewhere,
    forget,
    let_leases_lapse,
)
from tests.builders.buckets import BucketServer, set_environment
from tests.builders.faults import Fault, FaultProxy
from tests.builders.store_world import SCHEMA, content, samples, text_of, write_blocks

FIRST = {f"i{number}": number for number in range(12)} | {"twin": 3}
LATER = {f"i{number}": number for number in range(10, 27)} | {"late": 3, "again": 20}
STEP = 1 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 9
"""Of how many requests one is tried; the nightly run tries each."""


def of(world: dict[str, int]) -> pa.Table:
    """Samples by the author of their parity."""
    return samples(world, ["odd" if number % 2 else "even" for number in world.values()])


def append(store: ActivationStore, world: dict[str, int], *, commits: int = 1) -> None:
    """Plan, write and commit, in so many steps."""
    plan = store.plan_append(of(world))
    for number in range(commits):
        write_blocks(store, plan, plan.blocks[number::commits])
        store.commit()


def labels(*ids: str) -> pa.Table:
    return pa.table({"id": list(ids), "split": ["train"] * len(ids), "label": ["x"] * len(ids)})


def make(place: str | Path) -> ActivationStore:
    store = ActivationStore.create(place, SCHEMA)
    append(store, FIRST)
    return store


def says(url: str) -> dict[str, Any]:
    """What a reader finds, once all bytes were compared with their checksums."""
    store = ActivationStore.open(url, check="always")
    for name, layout in store.schema.arrays.items():
        for layer in layout.layers:
            store.read_matrix(name, layer=layer)
    return content(url)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def short_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread renews, unless a test says so."""
    let_leases_lapse(monkeypatch)


def whole_life(place: str | Path) -> ActivationStore:
    """Everything that can be done to a store."""
    store = ActivationStore.create(place, SCHEMA)
    append(store, FIRST, commits=2)
    store.put_labels("t", labels("i1", "i2"), spec={"kind": "binary"})
    assert store.delete(["i3", "i5", "nobody"]) == 2
    plan = store.plan_backfill(hidden_layers=[1])
    write_blocks(store, plan, plan.blocks)
    store.commit()
    plan = store.plan_append(of({"i5": 5, "i6": 66, **LATER}), changed="replace")
    write_blocks(store, plan, plan.blocks[:1])
    assert store.delete(["i13"], author_ids=None) == 1
    write_blocks(store, plan, plan.blocks[1:])
    store.commit()
    assert store.delete(author_ids=["odd"]) > 0
    store.put_labels("t", labels("i2", "i4"))
    assert store.plan_append(of({"i2": 2})).blocks == ()
    return store


def test_a_bucket_holds_what_a_disk_does(memory_bucket: str, tmp_path: Path) -> None:
    """Ids, texts, labels, numbers and moments, byte for byte, and the same shards."""
    here, there = whole_life(tmp_path / "s"), whole_life(memory_bucket)
    assert says(memory_bucket) == content(tmp_path / "s")
    assert there.samples().equals(here.samples())
    for name, layout in here.schema.arrays.items():
        for layer in layout.layers:
            for one, other in (
                (here.read_matrix(name, layer=layer), there.read_matrix(name, layer=layer)),
                *zip(
                    here.moments(name, layer=layer), there.moments(name, layer=layer), strict=True
                ),
            ):
                np.testing.assert_array_equal(one, other)
            for slot, record in enumerate(there.snapshot.slots):
                own = [layout.shard_path(layer, slot, path) for path in record.manifests]
                found = [there.location.read(path) for path in own if _is_there(there, path)]
                assert here.location.read(layout.shard_path(layer, slot)) in found
    assert not [meta for meta in locate(memory_bucket).list(".salient/plans")]


def _is_there(store: ActivationStore, path: str) -> bool:
    try:
        return store.location.size(path) >= 0
    except FileNotFoundError:
        return False


# -- what is done, killed at each request, and done again ---------------------------------------


def _append(url: str) -> None:
    append(ActivationStore.open(url), LATER, commits=2)


def _delete(url: str) -> None:
    ActivationStore.open(url).delete(["i1", "twin", "late"])


def _labels(url: str) -> None:
    ActivationStore.open(url).put_labels("t", labels("i1"))


def _backfill(url: str) -> None:
    store = ActivationStore.open(url)
    plan = store.plan_backfill(hidden_layers=[1])
    write_blocks(store, plan, plan.blocks)
    store.commit()


CHANGES = {"append": _append, "delete": _delete, "labels": _labels, "backfill": _backfill}


def after(memory: str, *changes: Callable[[str], None]) -> dict[str, Any]:
    """What is there when nothing interferes."""
    make(memory).release()
    for change in changes:
        change(memory)
    return says(memory)


@pytest.mark.parametrize("name", CHANGES)
def test_killed_at_each_request_and_done_again(memory_bucket: str, name: str) -> None:
    """The same as if nothing had happened; in between readers see it before, or after a commit."""
    change = CHANGES[name]
    make(memory_bucket + "/plain").release()
    before = says(memory_bucket + "/plain")
    with at_request(-1, die) as seen:
        change(memory_bucket + "/plain")
    wanted = says(memory_bucket + "/plain")
    for number in range(0, seen.count, STEP // 3 or 1):
        url = f"{memory_bucket}/{number}"
        make(url).release()
        with pytest.raises(Killed), at_request(number, die):
            change(url)
        forget()
        found = says(url)
        assert found in (before, wanted) or name == "append"
        assert before["samples"].items() <= found["samples"].items() or name == "delete"
        change(url)
        forget()
        assert says(url) == wanted, number


@pytest.mark.parametrize("other", CHANGES)
@pytest.mark.parametrize("name", CHANGES)
def test_another_goes_first_at_each_request(memory_bucket: str, name: str, other: str) -> None:
    """Both are done: no matter where one is stopped, for long enough that the other takes over."""
    mine, theirs = CHANGES[name], CHANGES[other]
    make(memory_bucket + "/plain").release()
    with at_request(-1, die) as seen:
        mine(memory_bucket + "/plain")
    one_way = after(memory_bucket + "/one", mine, theirs)
    other_way = after(memory_bucket + "/two", theirs, mine)
    for number in range(len(name) % STEP, seen.count, STEP):
        url = f"{memory_bucket}/{number}"
        make(url).release()
        with at_request(number, lambda url=url: as_another(lambda: theirs(url))):
            try:
                mine(url)
            except StoreError as error:
                assert "superseded" in str(error)
        mine(url) if name != "delete" else None
        forget()
        found = says(url)
        if {name, other} == {"append", "delete"}:  # of an id that comes and goes, either
            for one in (found, one_way, other_way):
                one["samples"].pop("late", None)
        assert found in (one_way, other_way), number


@pytest.mark.parametrize("number", range(0, 75, STEP))
def test_what_is_deleted_of_a_plan_never_comes(memory_bucket: str, number: int) -> None:
    """Whoever writes and commits the plan, wherever it is when another process deletes."""
    store = make(memory_bucket)
    plan = store.plan_append(of(LATER))

    def deletes() -> None:
        other = ActivationStore.open(memory_bucket)
        assert other.delete(["i15", "i21", "i2", "late"]) in (3, 4)

    with at_request(number, lambda: as_another(deletes)) as seen:
        write_blocks(store, plan, plan.blocks[:2])
        store.commit()
        write_blocks(store, plan, plan.blocks[2:])
        store.commit()
    if seen.count <= number:
        as_another(deletes)
    found = says(memory_bucket)
    assert not {"i15", "i21", "i2", "late"} & set(found["samples"])
    assert set(found["samples"]) == (set(FIRST) | set(LATER)) - {"i15", "i21", "i2", "late"}
    assert not _holding(memory_bucket, text_of(21)), "a table of the plan"


def _holding(url: str, text: str) -> list[str]:
    """Tables of plans with a text."""
    location = locate(url)
    assert isinstance(location, ObjectLocation)
    found = [meta.path for meta in location.list(".salient/plans")]
    return [path for path in found if text.encode() in location.read(path)]


# -- turns ---------------------------------------------------------------------------------------


def test_who_comes_second_waits_for_a_living_writer(
    memory_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as it renews its lease; released, its plan is another's at once."""
    monkeypatch.setenv(turns.LEASE, "2")
    monkeypatch.setattr(turns, "RENEWALS", 4)
    store = make(memory_bucket)
    plan = store.plan_append(of(LATER))
    monkeypatch.setenv("SALIENT_WAIT_S", "0.5")
    with elsewhere(), pytest.raises(StoreBusy, match=f"process {os.getpid()} on"):
        ActivationStore.open(memory_bucket).plan_append(of({"new": 100}))
    store.put_labels("t", labels("i1"))  # which nobody has to wait for
    assert as_another(lambda: ActivationStore.open(memory_bucket).delete(["i1"])) == 1
    write_blocks(store, plan, plan.blocks[:1])
    store.release()
    with elsewhere():
        other = ActivationStore.open(memory_bucket)
        append(other, {"new": 100})
    with pytest.raises(StoreError, match="superseded"):
        write_blocks(store, plan, plan.blocks[1:])
    assert {"new", "i12", "i15"} <= set(says(memory_bucket)["samples"])  # what was finished stays


def test_who_was_refused_hinders_nobody(memory_bucket: str) -> None:
    """Its turn, which it took over for an append that cannot be planned, is anybody's."""
    make(memory_bucket)

    def begins_and_stops() -> None:
        ActivationStore.open(memory_bucket).plan_append(of(LATER))

    as_another(begins_and_stops)
    with pytest.raises(StoreInputError, match="another text"):
        ActivationStore.open(memory_bucket).plan_append(of({"i1": 99}))
    assert not turns._turns


def test_a_turn_at_a_plan_that_is_over_is_let_go(
    memory_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is committed between the look at its lease and the taking of it."""
    make(memory_bucket).release()
    as_another(lambda: ActivationStore.open(memory_bucket).plan_append(of(LATER)))
    look = turns._look

    def late(location: ObjectLocation, plan_id: str) -> Any:
        monkeypatch.setattr(turns, "_look", look)
        found = look(location, plan_id)
        as_another(lambda: append(ActivationStore.open(memory_bucket), LATER))
        return found[0], None  # as if there had been no lease, so that one is made

    monkeypatch.setattr(turns, "_look", late)
    append(ActivationStore.open(memory_bucket), {"new": 100})
    assert not turns._turns
    assert not [*locate(memory_bucket).list(".salient/plans")]  # type: ignore[union-attr]


def test_a_stopped_writer_is_taken_over_and_told(memory_bucket: str) -> None:
    """By the same append, whose blocks stay; by another, which takes what is finished."""
    store = make(memory_bucket)
    plan = store.plan_append(of(LATER))
    write_blocks(store, plan, plan.blocks[:2])
    with elsewhere():
        same = ActivationStore.open(memory_bucket).plan_append(of(LATER))
    assert same.id == plan.id and same.blocks == plan.blocks[2:]
    write_blocks(store, plan, plan.blocks[2:])  # nobody is harmed
    with elsewhere():
        other = ActivationStore.open(memory_bucket).plan_append(of({"new": 100}))
    assert other.num_new == 1
    with pytest.raises(StoreError, match="superseded"):
        store.open_plan(plan.id)
    assert set(says(memory_bucket)["samples"]) == set(FIRST) | set(LATER)


@pytest.mark.slow
def test_eight_processes_of_which_some_are_killed(
    bucket_server: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that was asked for is there once; dead processes of this machine are known at once."""
    monkeypatch.undo()
    set_environment(monkeypatch, bucket_server.environment())
    monkeypatch.setenv(turns.LEASE, "1000")
    url = bucket_server.new_bucket()
    make(url).release()
    context = multiprocessing.get_context("spawn")
    for round_ in range(2):
        some = [context.Process(target=_writer, args=(url, one)) for one in range(8)]
        for process in some:
            process.start()
        if round_ == 0:
            time.sleep(4)
            for process in some[:4]:
                process.kill()
        for process in some:
            process.join(300)
            assert process.exitcode in ((0, -9) if round_ == 0 else (0,))
    found = says(url)
    wanted = {name for one in range(8) for name in _batch(one)} - {f"{one}/d" for one in range(8)}
    assert set(found["samples"]) == {"shared"} | wanted | set(FIRST)
    assert set(found["labels"]) == {f"t{one}" for one in range(8)}
    positions = ActivationStore.open(url).samples()["text_hash"].to_pylist()
    assert len(set(positions)) == len(positions)


def _batch(one: int) -> dict[str, int]:
    return {f"{one}/{name}": 30 + 4 * one + number for number, name in enumerate("abcd")}


def _writer(url: str, one: int) -> None:
    store = ActivationStore.open(url)
    store.delete([f"{one}/d"])
    append(store, {"shared": 90, **_batch(one)})
    store.put_labels(f"t{one}", labels(f"{one}/a"))
    store.delete([f"{one}/d"])


# -- places --------------------------------------------------------------------------------------


def test_of_many_creators_one_makes_the_store(bucket: str) -> None:
    """The others are told that it is there."""
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        made = pool.map(_created, [bucket] * 4)
    assert sorted(made) == [False, False, False, True]
    assert says(bucket)["samples"] == {}


def _created(url: str) -> bool:
    try:
        ActivationStore.create(url, SCHEMA)
    except StoreInputError as error:
        assert "exists already" in str(error)
        return False
    return True


def test_nothing_is_made_where_something_is(memory_bucket: str) -> None:
    """A store is made in a place of its own."""
    locate(memory_bucket).put("notes.txt", b"mine")  # type: ignore[union-attr]
    with pytest.raises(StoreInputError, match="exists already"):
        ActivationStore.create(memory_bucket, SCHEMA)
    assert not ActivationStore.exists(memory_bucket)


def test_the_copy_of_a_disks_store_is_read_only(memory_bucket: str, tmp_path: Path) -> None:
    """It is opened by its root, as ever."""
    make(tmp_path / "s")
    source, target = LocalLocation(tmp_path / "s"), locate(memory_bucket)
    for path in source.files():
        target.put(path, source.read(path))  # type: ignore[union-attr]
    store = ActivationStore.open(memory_bucket)
    assert says(memory_bucket) == content(tmp_path / "s")
    assert [one.id for one in store.snapshots()] == ["000000", "000001"]
    with pytest.raises(StoreInputError, match="read-only"):
        store.delete(["i1"])


def test_no_kept_snapshot_is_missed(memory_bucket: str) -> None:
    """Whatever is committed while they are listed: none between the first and the last."""
    make(memory_bucket)
    location = locate(memory_bucket)
    for number in range(3):
        with at_request(number, lambda: [_labels(memory_bucket) for _ in range(2)]):
            ids = kept_ids(location)
        assert [int(one) for one in ids] == list(range(int(ids[-1]) + 1))


def test_a_disks_commit_looks_no_further_than_an_unfinished_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many follow."""
    store = make(tmp_path / "s")
    plan = store.plan_append(of(LATER))
    assert len(plan.all_blocks) == 3
    write_blocks(store, plan, plan.blocks[:1])
    asked: list[Block] = []
    monkeypatch.setattr(DiskPlan, "is_finished", lambda self, block: bool(asked.append(block)))
    assert plan.waiting(store.snapshot) == ([], list(plan.all_blocks))
    assert len(asked) == 1


def test_a_failed_attempt_leaves_nothing_on_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where all was written, and the disk would not say that it stays."""
    store = make(tmp_path / "s")
    plan = store.plan_append(of(LATER))

    def fails(path: Path) -> None:
        raise StoreError(f"{path}: no space left")

    monkeypatch.setattr(disk, "sync_directory", fails)
    with pytest.raises(StoreError, match="no space"):
        write_blocks(store, plan, plan.blocks[:1])
    assert not [path for path in Path(plan.where).iterdir() if path.is_dir()]


def test_an_emptied_number_is_never_taken_again(memory_bucket: str) -> None:
    """Nor is what lies before the oldest opened, emptied yet or not."""
    store = make(memory_bucket)
    location, head = locate(memory_bucket), store.snapshot
    assert isinstance(location, ObjectLocation)
    empty_record(location, "000001")
    assert publish_next(location, replace(head, id="000001", parent="000000")) is None
    assert kept_ids(location) == ["000000", "000002"]
    with pytest.raises(StoreInputError, match="no snapshot '000001'"):
        ActivationStore.open(memory_bucket, "000001")
    after = replace(head, id="000003", parent="000002", oldest="000002")
    assert publish_next(location, after) is not None
    assert [one.id for one in kept_snapshots(location)] == ["000002", "000003"]
    assert load_snapshot(location, known=store.snapshot).id == "000003"
    empty_record(location, store.snapshot_id)
    assert load_snapshot(location, known=store.snapshot).id == "000003"


@pytest.mark.parametrize("again", [None, 0, 2, 3], ids=["none", "behind", "as-far", "farther"])
def test_who_knows_a_store_that_is_gone_writes_nothing(
    memory_bucket: str, again: int | None
) -> None:
    """Whichever was made in its place, however far it is."""
    made, location = make(memory_bucket), locate(memory_bucket)
    assert isinstance(location, ObjectLocation) and made.snapshot_id == "000002"
    olds = [made, ActivationStore.open(memory_bucket)]
    location.delete([meta.path for meta in location.list()])
    if again is not None:
        ActivationStore.create(memory_bucket, SCHEMA)
        for _ in range(again):
            ActivationStore.open(memory_bucket).put_labels("t", labels("i30"))
    there = {meta.path for meta in location.list()}
    uses: list[Callable[[ActivationStore], object]] = [
        lambda old: old.refresh(),
        lambda old: old.put_labels("t", labels("i1")),
        lambda old: old.delete(["i1"]),
        lambda old: append(old, LATER),
        lambda old: old.read_matrix(layer=1),
    ]
    for old in olds:
        for use in uses:
            with pytest.raises(StoreInputError, match=r"snapshot 000002, .* open it again"):
                use(old)
    assert {meta.path for meta in location.list()} == there
    if again is not None:
        assert ActivationStore.open(memory_bucket).snapshot_id == f"{again:06d}"


def test_a_look_at_the_newest_is_one_request(bucket: str, fault_proxy: FaultProxy) -> None:
    """Of a store that was opened, while nobody commits."""
    make(bucket)
    store = ActivationStore.open(bucket)
    fault_proxy.reset_counts()
    store.refresh()
    assert [passed.method for passed in fault_proxy.log] == ["GET"]
    assert "list-type" in fault_proxy.log[0].path


@pytest.mark.parametrize("key", ["list-type", "/snapshots/0"])
def test_access_that_is_refused_is_no_missing_store(
    bucket: str, fault_proxy: FaultProxy, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody is told that there is none, who was not let look."""
    assert not ActivationStore.exists(bucket)
    make(bucket)
    fault_proxy.plan(Fault("answer", key=key, status=403, times=None))
    with pytest.raises(StoreInputError, match="access refused"):
        ActivationStore.exists(bucket)
    assert run_command(["inspect", bucket]) == 2
    assert "access refused" in capsys.readouterr().err
    fault_proxy.clear()
    assert ActivationStore.exists(bucket)
