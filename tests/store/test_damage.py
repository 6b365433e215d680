"""Any byte of any file of a store changed: right numbers or a StoreError, and verify sees it."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import xarray as xr

from store import ActivationStore, StoreError, StoreSchema
from store.commits.plans import active_plan_id
from store.commits.settling import announce
from store.disk.checked import decode_json, encode_json
from store.disk.location import LocalLocation
from store.layout.manifests import Manifest, encode_manifest
from store.reading.codec import register
from store.records.history import publish
from store.upkeep.compaction import compact
from store.upkeep.export import export_parquet
from store.upkeep.garbage import gc
from store.upkeep.inspection import describe_snapshots, info, verify
from tests.builders.paths import ROOT
from tests.builders.store_processes import make_samples, write_one

UNREAD = {".salient/commit.lock", ".salient/append.lock"}
"""Files of a store whose content Salient never reads: they are locked, and say who holds them."""
SCHEMA = StoreSchema(
    num_layers=3,
    neuron_size=6,
    layers=(0, 2),
    hidden_size=3,
    samples_per_shard=8,
    fingerprint="f",
    provenance={"backbone": "none"},
    peaks=True,
)


def make_store(root: Path) -> None:
    """A store with all that can be in one: see the test."""
    store = ActivationStore.create(root, SCHEMA)

    def append(numbers: range, repeats: int = 0) -> None:
        samples = make_samples(numbers, repeats=repeats)
        authors = pa.array([f"a{i % 3}" for i in range(len(samples))])
        times = pa.array([1_700_000_000 + i for i in range(len(samples))], pa.int64())
        samples = samples.append_column("author_id", authors).append_column("created_at", times)
        finish(store, samples)

    append(range(12), repeats=2)
    append(range(12, 30))
    table = {"id": ["id1", "id2", "id20"], "split": ["train", "val", "test"]}
    store.put_labels("t", pa.table({**table, "label": ["x", "y", "x"]}), spec={"classes": ["x"]})
    store.put_labels("u", pa.table({**table, "label": [0.5, 1.0, 2.0]}))
    store.delete(["id2", *(f"id{i}" for i in range(8, 16))])
    compact(store)
    store.delete(["id5"])
    plan = store.plan_backfill(layers=[1], hidden_layers=[1], hidden_size=3)
    for block in plan.blocks:
        store.write_block(plan, block, backfilled(plan.record.layers, len(block)))
    store.commit()
    plan = store.plan_append(make_samples(range(40, 60), repeats=1))
    write_one(store, plan, 1)  # not the first, so that nothing of it can be committed yet
    store.release()
    announce(root, [99])  # a note that a dead commit left, of a slot that did not come


def finish(store: ActivationStore, samples: pa.Table) -> None:
    plan = store.plan_append(samples)
    for index in range(len(plan.blocks)):
        write_one(store, plan, index)
    store.commit()


def backfilled(layers: dict[str, tuple[int, ...]], count: int) -> dict[str, np.ndarray]:
    widths = {"ffn": (2, 6), "peak": (1, 6), "hidden": (2, 3)}
    return {
        name: np.full((len(numbers), *widths[name], count), 2.5, np.float32)
        for name, numbers in layers.items()
    }


@dataclass
class Case:
    """A store, the bytes of its files, and what every read of it gave."""

    root: Path
    contents: dict[str, bytes]
    expected: dict[str, Any]
    plain: dict[str, Any]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    root = tmp_path_factory.mktemp("damage") / "s"
    make_store(root)
    contents = {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
    assert verify(ActivationStore.open(root)).sound, str(verify(ActivationStore.open(root)))
    return Case(root, contents, {name: read(root) for name, read in READS.items()}, plain(root))


def whole_store(store: ActivationStore) -> Iterator[Any]:
    """All that one store object reads."""
    yield store.samples().to_pydict()
    for task in store.tasks():
        yield task, store.labels(task).to_pydict(), dict(store.label_spec(task))
    yield store.positions(["id0", "copy0", "id2"]).tolist()
    for task in store.tasks():
        yield store.select(since=1_700_000_003, task=task, split="test").tolist()
    for name, layout in store.schema.arrays.items():
        for layer in layout.layers:
            yield store.read_matrix(name, layer=layer).tobytes()
            yield [block.tobytes() for _, block in store.iter_blocks(name, layer=layer)]
            yield [np.asarray(part).tobytes() for part in store.moments(name, layer=layer)]


def open_and_read(root: Path, snapshot: str | None = None) -> list[Any]:
    return list(whole_store(ActivationStore.open(root, snapshot=snapshot)))


def few_rows(root: Path) -> list[Any]:
    store = ActivationStore.open(root)
    return [
        store.read_features(name, layer=layer, features=[2], samples=slice(16, 27)).tobytes()
        for name, layout in store.schema.arrays.items()
        for layer in layout.layers
    ]


def as_xarray(root: Path) -> dict[str, Any]:
    return values_in(ActivationStore.open(root).to_xarray())


def plain(root: Path) -> dict[str, Any]:
    register()
    with xr.open_zarr(root, chunks=None) as dataset:
        return values_in(dataset)


def values_in(dataset: xr.Dataset) -> dict[str, Any]:
    found = {**dataset.data_vars, **dataset.coords}
    return {str(name): (one.dims, plain_values(one)) for name, one in found.items()}


def plain_values(variable: Any) -> Any:
    numbers = variable.dtype.kind in "biufM"
    return variable.values.tobytes() if numbers else variable.values.tolist()


def table_of_neurons(root: Path) -> bytes:
    target = root.parent / "out.parquet"
    target.unlink(missing_ok=True)
    export_parquet(ActivationStore.open(root), target, layer=1, units=[0, 4])
    return target.read_bytes()


def plan_under_way(root: Path) -> list[Any]:
    store = ActivationStore.open(root)
    plan_id = active_plan_id(root)
    if plan_id is None:
        return []
    plan = store.open_plan(plan_id)
    samples = [plan.samples(block).to_pydict() for block in plan.all_blocks]
    return [plan.record, samples, plan.aliases().to_pydict(), plan.replaced().to_pydict()]


def go_on(root: Path) -> list[Any]:
    """Finish the append that is under way, in a copy."""
    copy = root.with_name("copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(root, copy)
    try:
        store = ActivationStore.open(copy)
        try:
            finish(store, make_samples(range(40, 60), repeats=1))
        finally:
            store.release()
        return list(whole_store(ActivationStore.open(copy)))
    except StoreError as error:
        raise StoreError(str(error).replace(str(copy), str(root))) from error


READS: dict[str, Callable[[Path], Any]] = {
    "all": open_and_read,
    "some rows": few_rows,
    "xarray": as_xarray,
    "snapshot 1": lambda root: open_and_read(root, "000001"),
    "snapshot 4": lambda root: open_and_read(root, "000004"),
    "info": lambda root: str(info(ActivationStore.open(root))),
    "snapshots": lambda root: describe_snapshots(ActivationStore.open(root)),
    "parquet": table_of_neurons,
    "gc": lambda root: gc(ActivationStore.open(root), keep=3, dry_run=True).files,
    "plan": plan_under_way,
    "go on": go_on,
}


def check_flip(case: Case, path: str, flipped: bytes, reads: list[str]) -> list[str]:
    """What is wrong with the store's answers while a file has other bytes."""
    file = case.root / path
    file.write_bytes(flipped)
    wrong = []
    try:
        for name in reads:
            try:
                if READS[name](case.root) != case.expected[name]:
                    wrong.append(f"{name}: silently other")
            except StoreError as error:
                if str(case.root) not in str(error):
                    wrong.append(f"{name}: names no file: {error}")
        try:
            report = verify(ActivationStore.open(case.root))
            is_plain = not path.startswith(".salient/")  # plain Zarr readers look at it
            if report.sound and is_plain and plain(case.root) != case.plain:
                wrong.append("verify: plain Zarr reads other values")
            changed = report.sound and path.startswith(KEPT)
            if changed and meaning(path, flipped) != meaning(path, case.contents[path]):
                wrong.append("verify: sees nothing")
            if any(str(case.root) not in damage.message for damage in report.damage):
                wrong.append(f"verify: names no file: {report}")
        except StoreError:
            pass  # it cannot even be opened
    except Exception as error:
        wrong.append(f"{type(error).__name__}: {error}")
    finally:
        file.write_bytes(case.contents[path])
    return [f"{path}: {message}" for message in wrong]


def flips(case: Case, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Another byte in each file, then in files at random."""
    rng = random.Random(seed)
    paths = [path for path, content in case.contents.items() if content]
    for number in range(count):
        path = paths[number % len(paths)] if number < len(paths) else rng.choice(paths)
        content = bytearray(case.contents[path])
        content[rng.randrange(len(content))] ^= rng.choice([1, 2, 4, 8, 16, 32, 64, 128, 255])
        yield path, bytes(content)


KEPT = (".salient/snapshots/", ".salient/changing.json")
"""Private files whose sense `verify` must see change, for nothing else reads all of them."""


def meaning(path: str, content: bytes) -> Any:
    """What a JSON file says, or None."""
    try:
        return json.loads(content)
    except ValueError:
        return None


CONCERNED = {
    ("ffn/c/", "hidden/c/", "peak/c/"): ["all", "some rows", "xarray", "parquet"],
    ("zarr.json",): ["all", "info", "snapshots", "snapshot 1", "gc"],
    (".salient/snapshots/",): ["all", "xarray", "snapshots", "snapshot 1", "snapshot 4", "gc"],
    (".salient/manifests/", ".salient/index/"): ["all", "some rows", "xarray", "snapshot 4"],
    (".salient/labels/",): ["all", "xarray"],
    (".salient/plans/", ".salient/active.json"): ["info", "gc", "plan", "go on"],
    (".salient/changing.json",): ["info", "go on"],
}
"""The reads that open files whose paths begin so; of the others, plain Zarr's, `verify` does."""


def reads_of(path: str) -> list[str]:
    return next((names for starts, names in CONCERNED.items() if path.startswith(starts)), ["info"])


def test_every_kind_of_file_is_there(case: Case) -> None:
    kinds = {"deleted", "rows", "aliases"}
    index = [path for path in case.contents if path.startswith(".salient/index/")]
    assert {path.split("/")[2].split("-")[0] for path in index} >= kinds
    record = json.loads(case.contents[sorted(p for p in case.contents if "snapshots" in p)[-2]])
    assert record["slots"]["emptied"] and record["finished_plan"]
    assert ".salient/active.json" in case.contents
    assert any(path.endswith("samples.arrow") for path in case.contents)


def test_all_other_files_are_opened(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that Salient never reads are listed, so that the flips leave none out unnoticed."""
    opened: set[str] = set()
    own = LocalLocation._open

    def note(self: LocalLocation, path: str) -> int:
        opened.add(path)
        return own(self, path)

    monkeypatch.setattr(LocalLocation, "_open", note)
    for name, read_all in READS.items():
        assert read_all(case.root) == case.expected[name]
    verify(ActivationStore.open(case.root))
    staged = {path for path in case.contents if path.startswith(".salient/plans/")}
    staged -= {path for path in staged if path.endswith((".json", ".arrow", ".safetensors"))}
    assert set(case.contents) - opened - staged == UNREAD


def test_no_flip_is_silent(case: Case) -> None:
    wrong = []
    for path, flipped in flips(case, 200, seed=17):
        wrong += check_flip(case, path, flipped, reads_of(path))
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_no_flip_of_two_thousand_is_silent(case: Case) -> None:
    wrong = []
    for path, flipped in flips(case, 2000, seed=18):
        is_plan = path.startswith((".salient/plans", ".salient/active"))
        wrong += check_flip(case, path, flipped, [n for n in READS if is_plan or n != "go on"])
    assert not wrong, "\n".join(wrong)


def test_no_cut_is_silent(case: Case) -> None:
    """Files that end too early."""
    rng, wrong = random.Random(19), []
    for path, content in case.contents.items():
        if content and not path.startswith(("ffn/c/", "peak/c/")):
            stop = rng.choice([0, 1, len(content) // 2, len(content) - 1])
            wrong += check_flip(case, path, content[:stop], reads_of(path))
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def root(case: Case, tmp_path: Path) -> Path:
    """A copy of the store."""
    shutil.copytree(case.root, tmp_path / "s")
    return tmp_path / "s"


@pytest.mark.parametrize("number", range(5))
def test_verify_sees_what_only_plain_zarr_reads(root: Path, number: int) -> None:
    """Coordinates of the axes, documents of the arrays, the history."""
    paths = ("neuron/c/0", "hidden_layer/c/0", "pooling/c/0", "ffn/zarr.json", "layer/zarr.json")
    path = root / paths[number]
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    report = verify(ActivationStore.open(root))
    assert [str(path) in damage.message for damage in report.damage] == [True]
    assert not report.damaged_slots


def test_verify_reads_the_history(root: Path) -> None:
    record = root / ".salient/snapshots/000002.json"
    record.write_bytes(record.read_bytes().replace(b"append", b"bppend"))
    copy = root / ".salient/snapshots/000003.zarr.json"
    copy.unlink()
    store = ActivationStore.open(root)
    messages = [damage.message for damage in verify(store).damage]
    assert len(messages) == 2
    assert str(record) in messages[0] and "differs from its checksum" in messages[0]
    assert str(copy) in messages[1]
    with pytest.raises(StoreError, match=r"000002\.json: damaged"):
        store.snapshots()
    with pytest.raises(StoreError, match=r"000002\.json: damaged"):
        gc(store, keep=1)


def test_verify_names_files_that_are_not_of_the_store(root: Path) -> None:
    (root / "notes.txt").write_text("mine")
    (root / "ffn/c/0/extra").write_text("mine")
    report = verify(ActivationStore.open(root))
    assert report.sound and report.unknown_files == ("ffn/c/0/extra", "notes.txt")
    assert "not of the store: ffn/c/0/extra, notes.txt" in str(report)


def test_a_damaged_root_is_mended_from_its_copy(root: Path) -> None:
    """What the message says to type works."""
    content = (root / "zarr.json").read_bytes()
    shown = ActivationStore.open(root).snapshot_id
    for old, new in ((shown, f"{int(shown) - 1:06d}"), ('"snapshot"', '"snapshor"'), ("{", "[")):
        (root / "zarr.json").write_bytes(content.replace(old.encode(), new.encode(), 1))
        with pytest.raises(StoreError, match=r"zarr\.json: .*its last copy is sound: cp ") as error:
            ActivationStore.open(root)
        command = str(error.value).split("its last copy is sound: ")[1].split(" (")[0]
        subprocess.run(command.split(), check=True)
        assert verify(ActivationStore.open(root)).sound
        assert (root / "zarr.json").read_bytes() == content


def test_a_copy_of_a_commit_that_died_is_not_offered(root: Path) -> None:
    """Of a record that names what gc has removed; the last whole one is."""
    snapshots = root / ".salient/snapshots"
    shown = ActivationStore.open(root).snapshot_id
    dead = f"{int(shown) + 1:06d}"
    record = decode_json((snapshots / f"{shown}.json").read_bytes(), where="", remedy="")
    record["id"] = dead
    record["index"]["paths"][0] = ".salient/index/gone.parquet"
    (snapshots / f"{dead}.json").write_bytes(encode_json(record))
    document = json.loads((root / "zarr.json").read_text())
    del document["attributes"]["salient"]["checksum"]
    document["attributes"]["salient"]["snapshot"] = dead
    (snapshots / f"{dead}.zarr.json").write_text(json.dumps(document))
    (root / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match=rf"sound: cp \S+{shown}\.zarr\.json"):
        ActivationStore.open(root)


def test_a_wrong_count_is_never_committed(root: Path) -> None:
    store = ActivationStore.open(root)
    plan = store.plan_append(make_samples(range(40, 60), repeats=1))
    for index in range(len(plan.blocks)):
        write_one(store, plan, index)
    path = plan.staged_manifest(plan.all_blocks[0])
    manifest = Manifest(LocalLocation(root), str(path.relative_to(root)))
    content = encode_manifest(3, {}, manifest.sample_results(), attempt=manifest.attempt)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"covers 3 samples.*remove the plan"):
        store.commit()
    store.release()
    assert ActivationStore.open(root).snapshot_id == store.snapshot_id
    slots = (*store.snapshot.slots[:-1], store.snapshot.slots[-1]._replace(count=3))
    wrong = replace(store.snapshot, id=store.snapshot.next_id, slots=slots)
    with pytest.raises(StoreError, match="it was not committed"):
        publish(root, wrong)
    assert ActivationStore.open(root).snapshot_id == store.snapshot_id


def test_other_attributes_may_be_added_to_the_root(root: Path) -> None:
    document = json.loads((root / "zarr.json").read_text())
    document["attributes"]["title"] = "my store"
    (root / "zarr.json").write_text(json.dumps(document))
    assert verify(ActivationStore.open(root)).sound


@pytest.mark.parametrize("checksum", [None, "xyz:1", "crc32c:00000000"])
@pytest.mark.parametrize("file", ["root", "record"])
def test_a_later_format_says_which_version_to_take(
    root: Path, file: str, checksum: str | None
) -> None:
    """Also one that has other checksums."""
    path = root / "zarr.json"
    document = json.loads(path.read_text())
    ours = document["attributes"]["salient"]
    if file == "root":
        ours["schema"]["format_version"] = 9
        ours["written_by"] = "salient 3.1.0"
        ours["novelty"] = 1
        del ours["checksum"]
        if checksum:
            ours["checksum"] = checksum
        path.write_text(json.dumps(document))
    else:
        path = root / f".salient/snapshots/{ours['snapshot']}.json"
        record = decode_json(path.read_bytes(), where="", remedy="")
        record["schema"]["format_version"] = 9
        record.update(written_by="salient 3.1.0", novelty=1)
        if checksum:
            record["checksum"] = checksum
        path.write_text(json.dumps(record))
    with pytest.raises(
        StoreError, match=r"format 9, this Salient reads up to 2: install salient >= 3\.1\.0"
    ):
        ActivationStore.open(root)


def test_a_store_of_the_first_format_grows_into_this_one(tmp_path: Path) -> None:
    root = tmp_path / "s"
    shutil.copytree(ROOT / "tests/formats/1/store", root)
    store = ActivationStore.open(root)
    assert store.schema.format_version == 1
    store.delete(["id0"])
    again = ActivationStore.open(root)
    assert again.schema.format_version == 2 and verify(again).sound
    record = root / f".salient/snapshots/{again.snapshot_id}.json"
    assert "checksum" in json.loads(record.read_bytes())
    assert ActivationStore.open(root, snapshot="000001").schema.format_version == 1


def test_a_missing_record_of_the_last_commit_is_named(tmp_path: Path) -> None:
    store = ActivationStore.create(tmp_path / "s", StoreSchema(num_layers=1, neuron_size=2))
    record = tmp_path / "s" / ".salient" / "snapshots" / f"{store.snapshot_id}.json"
    record.unlink()
    with pytest.raises(
        StoreError, match=f"{record.name}: the record of the last commit is missing"
    ):
        ActivationStore.open(tmp_path / "s")
