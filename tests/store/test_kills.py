"""Processes that are killed while others go on: no torn read, no lost commit, the same bytes.

They die at their steps (`tests.builders.mortal`), which lie between and within all states of a
block: planned, written, staged, published (`store.commits.plans`).
"""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from store import ActivationStore
from tests.builders.forking import start
from tests.builders.mortal import stop_at
from tests.builders.store_processes import (
    SCHEMA,
    append_all,
    append_forever_until,
    drive,
    make_samples,
    values_of,
    work,
)
from tests.builders.store_world import fingerprint


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


STEPS_OF_A_LIFE = 300
"""A process dies before so many steps: the driver within its first or second commit, a
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
        how = (stop_at, step, signal.SIGKILL, root, None)
        if role == 0:
            return start(*how, drive, root, BATCHES, acknowledged)
        return start(*how, work, root, role - 1, 2, rng.randrange(10**6))

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
