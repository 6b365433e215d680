"""Processes that are really killed: no torn read, no lost commit, the same bytes in the end.

They die at fsyncs and renames, which lie between and within all states of a block: planned,
written, staged, published (`store.commits.plans`), and of a shard: steady, being replaced
(`store.layout.manifests`).
"""

from __future__ import annotations

import json
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store import ActivationStore
from store.layout.manifests import Manifest
from tests.builders.forking import start
from tests.builders.store_processes import (
    SCHEMA,
    append_all,
    append_forever_until,
    armed,
    delete_and_compact,
    drive,
    make_samples,
    values_of,
    work,
)


def check_reader(root: Path, acknowledged: Path, rng: random.Random) -> int:
    """Read some of the store and compare; returns its number of samples."""
    promised = [line.split() for line in acknowledged.read_text().splitlines(keepends=True)]
    store = ActivationStore.open(root, check="always")
    if promised:
        assert int(store.snapshot_id) >= int(promised[-1][0])
        assert store.num_samples >= int(promised[-1][1])
    if store.num_samples == 0:
        return 0
    ids = store.samples()["id"].to_pylist()
    assert len(ids) == store.num_samples
    layer = rng.randrange(2)
    first = rng.randrange(store.num_samples)
    got = store.read_matrix(layer=layer, samples=slice(first, None))
    want = values_of(SCHEMA, ids[first:])["ffn"][layer].reshape(-1, len(ids) - first)
    np.testing.assert_array_equal(got, want.T)
    got = store.read_features("hidden", layer=2, features=[1, 4])
    want = values_of(SCHEMA, ids)["hidden"][0].reshape(-1, len(ids))[[1, 4]]
    np.testing.assert_array_equal(got, want.T)
    return store.num_samples


def fingerprint(root: Path) -> dict[str, object]:
    """Everything that must be the same however often a run was interrupted."""
    content: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_file() and not name.startswith(".salient"):
            content[name] = path.read_bytes()
    document = json.loads(content.pop("zarr.json"))  # type: ignore[arg-type]
    document["attributes"]["salient"].pop("snapshot")
    store = ActivationStore.open(root)
    content["root"] = document
    content["samples"] = store.samples().to_pylist()
    content["records"] = sorted(store.index.records.select(["id", "position"]).to_pylist(), key=str)
    for slot, record in enumerate(store.snapshot.slots):
        for path in record.manifests:
            manifest = Manifest(store.location, path)
            content[f"manifest {slot}"] = [
                (key, manifest.accepted(*key).tolist(), manifest.moments(*key).m2.tolist())
                for key in manifest.layers
            ]
    return content


STEPS_OF_A_LIFE = 150
"""A process dies before so many fsyncs and renames: the driver within its first or second commit, a
writer within its first few blocks."""
BATCHES = [
    make_samples(range(0, 21), repeats=3),
    make_samples(range(18, 60)),
    make_samples(range(60, 64), repeats=2),
    make_samples(range(64, 150)),
]


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, object]:
    root = tmp_path / "undisturbed"
    ActivationStore.create(root, SCHEMA)
    append_all(root, BATCHES)
    return fingerprint(root)


def run_with_kills(tmp_path: Path, *, kills: int, seed: int) -> int:
    """A driver and two writers that die at drawn steps, again and again; returns the kills.

    A reader looks at the store all the while, at least once between two deaths.
    """
    rng = random.Random(seed)
    root, acknowledged = tmp_path / f"store{seed}", tmp_path / f"acknowledged{seed}"
    ActivationStore.create(root, SCHEMA)
    acknowledged.touch()
    killed = 0

    def begin(role: int) -> Any:
        step = rng.randrange(STEPS_OF_A_LIFE) if killed < kills else None
        if role == 0:
            return start(armed, step, drive, root, BATCHES, acknowledged)
        return start(armed, step, work, root, role - 1, 2, rng.randrange(10**6))

    processes = [begin(role) for role in range(3)]
    while processes[0].exitcode != 0:
        check_reader(root, acknowledged, rng)
        for role, process in enumerate(processes):
            if process.exitcode not in (None, 0):
                assert process.exitcode == -signal.SIGKILL
                killed += 1
                processes[role] = begin(role)
    for process in processes[1:]:
        process.kill()
        process.join()
    check_reader(root, acknowledged, rng)
    return killed


def check_kills(tmp_path: Path, undisturbed: dict[str, object], *, kills: int) -> None:
    killed = round_ = 0
    while killed < kills:
        killed += run_with_kills(tmp_path, kills=kills - killed, seed=round_)
        assert fingerprint(tmp_path / f"store{round_}") == undisturbed
        round_ += 1
    print(f"{killed} kills, {round_} stores: all equal")


def test_killed_processes(tmp_path: Path, undisturbed: dict[str, object]) -> None:
    check_kills(tmp_path, undisturbed, kills=12)


@pytest.mark.slow
def test_killed_processes_a_hundred_times(tmp_path: Path, undisturbed: dict[str, object]) -> None:
    check_kills(tmp_path, undisturbed, kills=120)


def die_at_every(tmp_path: Path, *, stride: int) -> None:
    batches = [make_samples(range(0, 18), repeats=2), make_samples(range(18, 35))]
    ActivationStore.create(tmp_path / "undisturbed", SCHEMA)
    append_all(tmp_path / "undisturbed", batches)
    undisturbed = fingerprint(tmp_path / "undisturbed")
    step = 0
    while True:
        root, acknowledged = tmp_path / "s", tmp_path / "acknowledged"
        ActivationStore.create(root, SCHEMA)
        acknowledged.write_text("")
        process = start(armed, step, append_all, root, batches, acknowledged)
        process.join()
        if process.exitcode == 0:
            break  # past the last step
        assert process.exitcode == -signal.SIGKILL
        check_reader(root, acknowledged, random.Random(step))
        append_all(root, batches)
        assert fingerprint(root) == undisturbed, f"died at step {step}"
        shutil.rmtree(root)
        step += stride
    assert step > 100
    print(f"died at {step // stride} of {step} fsyncs and renames")


def test_fail_points(tmp_path: Path) -> None:
    die_at_every(tmp_path, stride=73)


@pytest.mark.slow
def test_every_fail_point(tmp_path: Path) -> None:
    die_at_every(tmp_path, stride=1)


def die_while_compacting_at(tmp_path: Path, *, stride: int) -> None:
    origin = tmp_path / "origin"
    ActivationStore.create(origin, SCHEMA)
    append_all(origin, [make_samples(range(0, 20)), make_samples(range(20, 40))])
    shutil.copytree(origin, tmp_path / "undisturbed")
    delete_and_compact(tmp_path / "undisturbed")
    undisturbed = fingerprint(tmp_path / "undisturbed")
    step = 0
    while True:
        root = tmp_path / "s"
        shutil.copytree(origin, root)
        earlier = ActivationStore.open(root, check="always")
        process = start(armed, step, delete_and_compact, root)
        process.join()
        for store in (earlier, ActivationStore.open(root, check="always")):
            alive = np.array([0, 1, 3, 15, 32, 39])  # a reader from before sees no damage either
            want = values_of(SCHEMA, [f"id{i}" for i in alive])["ffn"][1].reshape(-1, len(alive))
            np.testing.assert_array_equal(store.read_matrix(layer=1, samples=alive), want.T)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        delete_and_compact(root)
        assert fingerprint(root) == undisturbed, f"died at step {step}"
        shutil.rmtree(root)
        step += stride
    assert step > 50
    print(f"died at {step // stride} of {step} fsyncs and renames of a compaction")


def test_fail_points_of_compaction(tmp_path: Path) -> None:
    die_while_compacting_at(tmp_path, stride=61)


@pytest.mark.slow
def test_every_fail_point_of_compaction(tmp_path: Path) -> None:
    die_while_compacting_at(tmp_path, stride=1)


def test_two_processes_append_at_once(tmp_path: Path) -> None:
    root = tmp_path / "s"
    ActivationStore.create(root, SCHEMA)
    barrier = tmp_path / "go"
    ranges = [range(0, 60), range(40, 100)]
    processes = [start(append_forever_until, root, numbers, barrier) for numbers in ranges]
    barrier.touch()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    store = ActivationStore.open(root, check="always")
    ids = store.samples()["id"].to_pylist()
    assert sorted(ids, key=lambda name: int(name[2:])) == [f"id{i}" for i in range(100)]
    want = values_of(SCHEMA, ids)["ffn"][1].reshape(-1, 100)
    np.testing.assert_array_equal(store.read_matrix(layer=1), want.T)
