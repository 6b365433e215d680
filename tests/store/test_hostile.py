"""Stores that were made to do harm: nothing outside their folder is read, written or deleted."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy

from store import ActivationStore, StoreError, StoreSchema
from store.disk.checked import encode_json, encode_parquet
from store.disk.location import LocalLocation, check_relative, confined
from store.layout.manifests import Manifest
from store.records.samples import ALIAS_SCHEMA
from store.upkeep.compaction import compact
from store.upkeep.export import export_archive, export_parquet
from store.upkeep.garbage import gc
from store.upkeep.inspection import describe_snapshots, info, verify
from tests.builders.store_processes import make_samples, values_of, write_one

SCHEMA = StoreSchema(num_layers=2, neuron_size=6, hidden_size=3, samples_per_shard=16)
SECRET = "what lies outside"
OLD = time.time_ns() - 10**15


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with labels, aliases, deletions and an append under way."""
    root = tmp_path_factory.mktemp("hostile") / "honest"
    store = ActivationStore.create(root, SCHEMA)
    for samples in (make_samples(range(20), repeats=2), make_samples(range(20, 40))):
        plan = store.plan_append(samples)
        for number in range(len(plan.blocks)):
            write_one(store, plan, number)
        store.commit()
    table = {"id": ["id1", "id2"], "split": ["train", "val"], "label": ["x", "y"]}
    store.put_labels("t", pa.table(table))
    store.delete(["id2", "id17"])
    plan = store.plan_append(make_samples(range(40, 60)))
    write_one(store, plan, 1)
    store.release()
    return root


@pytest.fixture
def root(honest: Path, tmp_path: Path) -> Path:
    """A copy of it, beside a decoy: what it might reach for."""
    decoy = tmp_path / "decoy"
    for folder in ("", "plans", "manifests", "c", "c/0/0/0"):
        (decoy / folder).mkdir(parents=True, exist_ok=True)
        for name in ("7", "1", "zarr.json", "x.parquet", "x.safetensors", "plan.json", "old.tmp"):
            (decoy / folder / name).write_text(SECRET)
    table = pa.table({"id": [SECRET], "split": ["train"], "label": ["x"]})
    (decoy / "labels.parquet").write_bytes(encode_parquet(table))
    for path in (*decoy.rglob("*"), decoy):
        os.utime(path, ns=(OLD, OLD))
    shutil.copytree(honest, tmp_path / "store")
    return tmp_path / "store"


def state(decoy: Path) -> dict[str, Any]:
    """All that a change of the decoy would show in."""
    return {
        str(path): (path.lstat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in sorted((decoy, *decoy.rglob("*")))
    }


def record_path(root: Path) -> Path:
    newest = json.loads((root / "zarr.json").read_text())["attributes"]["salient"]["snapshot"]
    return root / f".salient/snapshots/{newest}.json"


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file as whoever can compute a checksum would."""
    data = json.loads(path.read_text())
    data.pop("checksum", None)
    change(data)
    path.write_bytes(encode_json(data))


def edit_record(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda root: edit(record_path(root), change)


def edit_schema(**fields: Any) -> Callable[[Path], None]:
    return edit_record(lambda record: record["schema"].update(fields))


def edit_root(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        document = json.loads((root / "zarr.json").read_text())
        ours = document["attributes"]["salient"]
        ours.pop("checksum")
        change(ours)
        (root / "zarr.json").write_text(json.dumps(document))

    return apply


def link(path: str, target: str = "") -> Callable[[Path], None]:
    """Put a link to a place of the decoy where a file or folder of the store was."""

    def apply(root: Path) -> None:
        place = root / path
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        elif place.exists():
            place.unlink()
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(root.parent / "decoy" / target)

    return apply


def link_record(root: Path) -> None:
    path = record_path(root)
    moved = root.parent / "decoy" / "record.json"
    shutil.copy(path, moved)
    os.utime(moved, ns=(OLD, OLD))
    path.unlink()
    path.symlink_to(moved)


def pipe(path: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        (root / path).unlink(missing_ok=True)
        os.mkfifo(root / path)

    return apply


def label_at(path: str) -> Callable[[Path], None]:
    return edit_record(lambda record: record["labels"]["t"].update(path=path))


def manifest_at(path: str) -> Callable[[Path], None]:
    return edit_record(lambda record: record["slots"]["manifests"].__setitem__(0, path))


def part_at(path: str) -> Callable[[Path], None]:
    return edit_record(lambda record: record["index"]["paths"].__setitem__(0, path))


def plan_named(name: Any) -> Callable[[Path], None]:
    return lambda root: edit(root / ".salient/active.json", lambda data: data.update(plan=name))


def table_at(folder: str, table: pa.Table) -> Callable[[Path], None]:
    """Another table in place of the first of a folder, with right checksums."""

    def apply(root: Path) -> None:
        next(iter(sorted((root / folder).iterdir()))).write_bytes(encode_parquet(table))

    return apply


def manifests_with(
    change: Callable[[dict[str, np.ndarray]], object], folder: str = ".salient/manifests"
) -> Callable[[Path], None]:
    """Other members in the manifests, with right checksums."""

    def apply(root: Path) -> None:
        for path in (root / folder).rglob("*.safetensors"):
            members = safetensors.numpy.load_file(path)
            attempt = Manifest(LocalLocation(root), str(path.relative_to(root))).attempt
            change(members)
            metadata = {name: str(google_crc32c.value(a.tobytes())) for name, a in members.items()}
            safetensors.numpy.save_file(members, path, metadata={**metadata, "attempt": attempt})

    return apply


def fewer_rows(members: dict[str, np.ndarray]) -> None:
    for name in ("crc32c", "mean", "m2"):
        members[f"ffn/0/{name}"] = np.ascontiguousarray(members[f"ffn/0/{name}"][..., :1])


def of_another_type(members: dict[str, np.ndarray]) -> None:
    members["ffn/0/mean"] = members["ffn/0/mean"].astype(np.int64)


def of_a_deep_name(members: dict[str, np.ndarray]) -> None:
    members["../ffn/x/crc32c"] = members["ffn/0/crc32c"]


def fewer_results(members: dict[str, np.ndarray]) -> None:
    members["n_tokens"] = members["n_tokens"][:3]


def of_another_count(members: dict[str, np.ndarray]) -> None:
    members["count"] = np.array(3, np.int64)


def plan_says(**fields: Any) -> Callable[[Path], None]:
    return lambda root: edit(
        next((root / ".salient/plans").glob("*/plan.json")), lambda data: data.update(fields)
    )


def emptied_slots(root: Path) -> None:
    """Slots beyond all memory, without a shard or a deleted sample."""
    size, number = 2**26, 3000

    def change(record: dict[str, Any]) -> None:
        record["schema"]["samples_per_shard"] = size
        manifest, path = record["slots"]["manifests"][0], record["index"]["paths"][0]
        record["slots"] = {
            "counts": [size] * number,
            "manifests": [manifest] * number,
            "emptied": list(range(number)),
        }
        total = size * number
        parts = {"kinds": ["rows"], "paths": [path], "starts": [0], "stops": [total]}
        record.update(index=parts, num_samples=total, has_dead=False)

    edit_record(change)(root)


def plan_file(name: str, place: Callable[[str], Callable[[Path], None]]) -> Callable[[Path], None]:
    """Put something else in place of a file of the plan under way."""

    def apply(root: Path) -> None:
        path = next((root / ".salient/plans").glob(f"*/{name}"))
        place(str(path.relative_to(root)))(root)

    return apply


def folder(path: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        (root / path).unlink(missing_ok=True)
        (root / path).mkdir()

    return apply


def noted(text: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        (root / ".salient/changing.json").write_text(text)

    return apply


def inner_link(path: str, target: str) -> Callable[[Path], None]:
    """Put a link to another file of the store in place of a file."""

    def apply(root: Path) -> None:
        (root / path).unlink(missing_ok=True)
        (root / path).symlink_to(os.path.relpath(root / target, (root / path).parent))

    return apply


CATALOGUE: dict[str, Callable[[Path], None]] = {
    "labels above": label_at("../decoy/labels.parquet"),
    "labels above, from inside": label_at(".salient/labels/../../../decoy/labels.parquet"),
    "labels at the root of the disk": label_at("/etc/passwd"),
    "labels with NUL": label_at(".salient/labels/x\0.parquet"),
    "labels with a backslash": label_at(".salient/labels/..\\..\\x.parquet"),
    "labels with a line's end": label_at(".salient/labels/a.parquet\n.salient/labels/b.parquet"),
    "labels in a link": link(".salient/labels"),
    "labels are a link": lambda root: link(
        str(next((root / ".salient/labels").iterdir()).relative_to(root)), "labels.parquet"
    )(root),
    "labels without a path": label_at(""),
    "task above": edit_record(
        lambda record: record["labels"].update({"../x": record["labels"]["t"]})
    ),
    "manifest above": manifest_at("../decoy/x.safetensors"),
    "manifest above, from inside": manifest_at(".salient/manifests/../../../decoy/x.safetensors"),
    "manifest at the root of the disk": manifest_at("/decoy/x.safetensors"),
    "second manifest above": manifest_at(".salient/manifests/a.safetensors ../decoy/x.safetensors"),
    "no manifest": manifest_at(""),
    "index above": part_at("../decoy/x.parquet"),
    "index above, from inside": part_at(".salient/index/../../../decoy/x.parquet"),
    "index is a folder": part_at(".salient/index"),
    "plan above": plan_named("../../../decoy/plans"),
    "plan above, one step": plan_named(".."),
    "plan at the root of the disk": plan_named("/decoy/plans"),
    "plan without a name": plan_named(""),
    "plan is a number": plan_named(7),
    "snapshot above": edit_root(lambda ours: ours.update(snapshot="../../../decoy/x")),
    "snapshot of other digits": edit_root(lambda ours: ours.update(snapshot="٠٠٠٠٠٥")),
    "snapshot is a number": edit_root(lambda ours: ours.update(snapshot=5)),
    "snapshot far away": edit_root(lambda ours: ours.update(snapshot="9" * 11)),
    "record of another": edit_record(lambda record: record.update(id="000001")),
    "record is a link": link_record,
    "root is a link": link("zarr.json", "zarr.json"),
    "private is a link": link(".salient"),
    "manifests are a link": link(".salient/manifests", "manifests"),
    "index is a link": link(".salient/index"),
    "plans are a link": link(".salient/plans", "plans"),
    "snapshots are a link": link(".salient/snapshots"),
    "array is a link": link("ffn"),
    "chunks are a link": link("ffn/c", "c"),
    "layer is a link": link("ffn/c/0", "c/0"),
    "shard is a link": link("ffn/c/0/0/0/0", "7"),
    "ids are a link": link("sample_id"),
    "chunks of ids are a link": link("sample_id/c", "c"),
    "axis is a link": link("layer"),
    "lock is a link": link(".salient/commit.lock", "7"),
    "lease is a link": link(".salient/append.lock", "7"),
    "half-written root is a link": link(".zarr.json.tmp", "zarr.json"),
    "half-written chunk is a link": link("sample_id/c/.2.tmp", "7"),
    "lease is a link inside": inner_link(".salient/append.lock", "zarr.json"),
    "leftover is a link": link("leftover.tmp"),
    "leftover leads nowhere": link("leftover.tmp", "nowhere"),
    "leftover folder with a link": lambda root: (
        (root / "x.tmp").mkdir(),
        link("x.tmp/c", "c")(root),
    )[0],
    "leftover file is a link": link("ffn/leftover.tmp", "7"),
    "a link to a link": lambda root: (link("x", "")(root), link("ffn/c", "../store/x/c")(root))[0],
    "root is a pipe": pipe("zarr.json"),
    "shard is a pipe": pipe("ffn/c/0/0/0/0"),
    "lock is a pipe": pipe(".salient/commit.lock"),
    "array's document is a pipe": pipe("ffn/zarr.json"),
    "plan is a pipe": plan_file("plan.json", pipe),
    "plan is a folder": plan_file("plan.json", folder),
    "samples of a plan are a pipe": plan_file("samples.arrow", pipe),
    "aliases of a plan are a pipe": plan_file("aliases.arrow", pipe),
    "aliases of a plan are a link": plan_file("aliases.arrow", lambda path: link(path, "7")),
    "replaced texts of a plan are a link": plan_file(
        "replaced.arrow", lambda path: link(path, "7")
    ),
    "note is a pipe": pipe(".salient/changing.json"),
    "note is a folder": folder(".salient/changing.json"),
    "note is a link": link(".salient/changing.json", "7"),
    "note of no numbers": noted('{"slots": [1e999]}'),
    "note of no slots": noted('{"slots": {"a": 1}}'),
    "half-written root is a pipe": pipe(".zarr.json.tmp"),
    "samples without end": edit_record(lambda record: record.update(num_samples=2**60)),
    "a negative number of samples": edit_record(lambda record: record.update(num_samples=-1)),
    "slots without end": edit_record(
        lambda record: (
            record.update(num_samples=2**60),
            record["slots"]["counts"].__setitem__(-1, 2**60),
        )
    ),
    "shards without end": edit_schema(samples_per_shard=2**60),
    "large shards": edit_schema(samples_per_shard=2**26),
    "emptied slots without end": emptied_slots,
    "emptied slots without end, with deletions": lambda root: (
        emptied_slots(root),
        edit_record(lambda record: record.update(has_dead=True))(root),
    )[0],
    "neurons without end": edit_schema(neuron_size=2**60),
    "many neurons": edit_schema(neuron_size=2**24),
    "layers without end": edit_schema(num_layers=2**60),
    "layers that are none": edit_schema(layers=None),
    "experts without end": edit_schema(
        experts=list(range(1000)), expert_size=2**40, experts_layers=[0]
    ),
    "numbers beyond 64 bits": edit_schema(hidden_size=10**30),
    "true for a number": edit_schema(num_layers=True),
    "a member more": edit_record(lambda record: record.update(command="rm")),
    "half a character": edit_schema(fingerprint="\ud800"),
    "labels of numbers": table_at(
        ".salient/labels", pa.table({"id": [1], "split": [2], "label": [[3]]})
    ),
    "labels without columns": table_at(".salient/labels", pa.table({"x": [1]})),
    "deleted ids of numbers": table_at(
        ".salient/index", pa.table({"id": [1.5], "position": ["x"]})
    ),
    "aliases that lie": table_at(
        ".salient/index",
        pa.table(
            {"id": ["a"], "position": [2**62], "created_at": [0], "author_id": ["b"]},
            schema=ALIAS_SCHEMA,
        ),
    ),
    "manifests of one row": manifests_with(fewer_rows),
    "manifests of another type": manifests_with(of_another_type),
    "manifests of a deep name": manifests_with(of_a_deep_name),
    "manifests of a plan with another count": manifests_with(of_another_count, ".salient/plans"),
    "manifests of a plan with fewer samples": manifests_with(fewer_results, ".salient/plans"),
    "a plan without end": plan_says(stop=2**60),
    "a plan of texts for numbers": plan_says(start="40", stop="60"),
    "a plan of a router": plan_says(layers={"router": [0]}),
    "a plan of layers that are none": plan_says(layers={"ffn": [2**40]}),
    "a plan of arrays that are none": plan_says(layers={"../../decoy": [0]}),
    "a plan of another kind": plan_says(kind="delete"),
    "a plan of another name": plan_says(id="../../../decoy"),
    "the end of time": edit_record(lambda record: record.update(created_at=1e300)),
}


def use_all(root: Path) -> str:
    """Everything a user may do with a store; what it printed."""
    said = []

    def attempt(action: Callable[[], Any]) -> None:
        try:
            said.append(str(action()))
        except StoreError as error:
            assert str(root) in str(error) or "plan" in str(error), error
            assert "restore" not in str(error) or ".salient/plans/" not in str(error), error
            said.append(str(error))

    def opened() -> ActivationStore:
        return ActivationStore.open(root)

    def append() -> None:
        store = opened()
        try:
            plan = store.plan_append(make_samples(range(40, 60)))
            for number in range(len(plan.blocks)):
                write_one(store, plan, number)
            store.commit()
        finally:
            store.release()

    def backfill() -> None:
        store = opened()
        try:
            plan = store.plan_backfill(hidden_layers=[0])
            for block in plan.blocks:
                values = values_of(store.schema, ["id1"] * len(block))["hidden"]
                store.write_block(plan, block, {"hidden": values})
            store.commit()
        finally:
            store.release()

    attempt(lambda: info(opened()))
    attempt(lambda: describe_snapshots(opened()))
    attempt(lambda: opened().samples().to_pydict())
    attempt(lambda: opened().labels("t").to_pydict())
    attempt(lambda: opened().read_matrix(layer=0).shape)
    attempt(lambda: opened().read_features(layer=1, features=[1]).shape)
    attempt(lambda: opened().moments(layer=0)[0])
    attempt(lambda: opened().to_xarray().load())
    attempt(lambda: verify(opened()))
    attempt(lambda: export_parquet(opened(), root.parent / "out.parquet", layer=0, units=[1]))
    attempt(lambda: export_archive(opened(), root.parent / "out.zarr"))
    attempt(append)
    attempt(lambda: opened().put_labels("t", pa.table({"id": ["a"], "split": ["b"], "label": [1]})))
    attempt(lambda: opened().delete(["id3", "copy1"]))
    attempt(backfill)
    attempt(lambda: compact(opened()))
    attempt(lambda: gc(opened(), keep=1))
    attempt(lambda: verify(opened()))
    return "\n".join(said)


_opened: list[str] | None = None


def _note(event: str, args: tuple[Any, ...]) -> None:
    """Python tells an audit hook of whatever it opens, by whichever call."""
    if event == "open" and _opened is not None and isinstance(args[0], str | Path):
        folder, name = os.path.split(args[0])
        follows = not args[2] & os.O_NOFOLLOW
        _opened.append(
            os.path.realpath(args[0]) if follows else f"{os.path.realpath(folder)}/{name}"
        )


@contextmanager
def opens() -> Iterator[list[str]]:
    """The files and folders that are opened meanwhile, with links followed."""
    global _opened, _hooked
    if not _hooked:
        sys.addaudithook(_note)
        _hooked = True
    _opened = []
    try:
        yield _opened
    finally:
        _opened = None


_hooked = False


@pytest.mark.parametrize("name", CATALOGUE)
def test_nothing_outside_is_touched(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoy = root.parent / "decoy"
    CATALOGUE[name](root)
    before = state(decoy)
    was_open = ActivationStore.exists(root)
    with opens() as opened:
        said = use_all(root)
    reached = [path for path in opened if f"{path}/".startswith(f"{decoy}/")]
    assert state(decoy) == before
    assert SECRET not in said
    assert not reached, reached
    assert ActivationStore.exists(root) == was_open


@pytest.mark.parametrize(
    "path", ["", "/x", "..", "a/../b", "a/..", "./a", "a//b", "a/", "a\0b", "a\\b", "..\\x"]
)
def test_paths_that_lead_outside_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(StoreError, match=r"record\.json: the path .* leads out of"):
        check_relative(path, said_by="record.json")
    with pytest.raises(StoreError, match="leads out of"):
        LocalLocation(tmp_path).read(path)


def test_a_store_may_be_a_link_itself(root: Path) -> None:
    root.with_name("link").symlink_to(root)
    store = ActivationStore.open(root.with_name("link"))
    assert verify(store).sound
    assert store.delete(["id3"]) == 1
    compact_after_append(store)
    assert "id3" not in ActivationStore.open(root).samples()["id"].to_pylist()


def compact_after_append(store: ActivationStore) -> None:
    plan = store.plan_append(make_samples(range(40, 60)))
    for number in range(len(plan.blocks)):
        write_one(store, plan, number)
    store.commit()
    compact(store)


def test_a_link_that_stays_inside_is_followed(root: Path) -> None:
    (root / "ffn/c").rename(root / "elsewhere")
    (root / "ffn/c").symlink_to("../elsewhere")
    store = ActivationStore.open(root)
    assert store.read_matrix(layer=0).shape == (40, 12)
    assert confined(root, "ffn/c/0", said_by="x") == root / "ffn/c/0"
