"""Writers of one store in a bucket that race, each in a process that is killed and started again.

What a writer does is drawn by its number and the seed; a file of its own says how much is done, so
that it goes on where it died. It alone knows its ids, so what must be there in the end follows:

    writers = [Writer(number, seed, num_jobs=12) for number in range(8)]
    expected(writers)     # {id: number of its text}, {task: {id: label}}

Texts are few, so that writers store each other's, and numbers that half floats hold as they are.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import re
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from store import ActivationStore
from store.errors import StoreBusy, StoreError
from store.upkeep.compaction import compact
from store.upkeep.garbage import gc
from store.upkeep.inspection import verify
from tests.builders.store_world import files_with, samples, text_of, values, write_blocks

with contextlib.suppress(ImportError):  # for the server of forks, which then has it at hand
    import boto3  # noqa: F401
    import obstore.store  # noqa: F401
    import pandas  # noqa: F401

NUM_TEXTS = 160
LOST_A_RACE = re.compile(r"run it again|superseded|again: what is committed|took its place")
JOBS = ("append", "append", "append", "delete", "labels", "compact", "gc")


@dataclass(frozen=True)
class Job:
    """One thing that a writer does; `world` are the ids and texts that it is about."""

    what: str
    world: dict[str, int]
    label: str = ""


@dataclass(frozen=True)
class Writer:
    """One of several; what it does is drawn by number and seed."""

    number: int
    seed: int
    num_jobs: int

    @property
    def task(self) -> str:
        """The task whose labels it writes."""
        return f"task{self.number}"

    def jobs(self) -> list[Job]:
        """What it does, one after another."""
        draw = random.Random(f"{self.seed} {self.number}")
        alive: dict[str, int] = {}
        jobs = []
        for turn in range(self.num_jobs):
            what = draw.choice(JOBS) if alive else "append"
            if what == "append":
                world = {
                    f"w{self.number}-{turn}-{i}": draw.randrange(NUM_TEXTS)
                    for i in range(draw.randint(1, 9))
                }
                alive |= world
            elif what == "delete":
                doomed = draw.sample(sorted(alive), min(len(alive), draw.randint(1, 4)))
                world = {name: alive.pop(name) for name in doomed}
            else:
                world = dict(draw.sample(sorted(alive.items()), min(len(alive), 3)))
            jobs.append(Job(what, world, f"round {turn}"))
        return jobs


def expected(
    writers: Sequence[Writer],
) -> tuple[dict[str, int], dict[str, dict[str, str]]]:
    """Ids with their texts' numbers, and labels by task, when all writers have done everything."""
    world: dict[str, int] = {}
    labels: dict[str, dict[str, str]] = {}
    for writer in writers:
        for job in writer.jobs():
            if job.what == "append":
                world |= job.world
            elif job.what == "delete":
                for name in job.world:
                    del world[name]
            elif job.what == "labels":
                labels[writer.task] = dict.fromkeys(job.world, job.label)
    return world, labels


def do_job(root: str, writer: Writer, job: Job) -> None:
    """Do one thing, wholly; what was begun before, by whomever, makes no difference."""
    store = ActivationStore.open(root)
    if job.what == "append":
        plan = store.plan_append(samples(job.world, ["anyone"] * len(job.world)))
        for block in plan.blocks:
            write_blocks(store, plan, [block])
            if block.slot % 2:
                store.commit()
        store.commit()
        found = set(ActivationStore.open(root).index.records["id"].to_pylist())
        assert found >= set(job.world), f"lost: {set(job.world) - found} at once"
    elif job.what == "delete":
        store.delete(list(job.world))
        found = set(ActivationStore.open(root).index.records["id"].to_pylist())
        assert not found & set(job.world), f"revived: {found & set(job.world)} at once"
    elif job.what == "labels":
        table = {"id": list(job.world), "split": ["train"] * len(job.world)}
        table["label"] = [job.label] * len(job.world)
        store.put_labels(writer.task, pa.table(table), spec={"label": job.label})
    elif job.what == "compact":
        compact(store)
    else:
        gc(store, keep=2, grace_s=0)


def work(root: str, environment: dict[str, str], writer: Writer, progress: Path) -> None:
    """Do what is left to do; for a process of its own. Its log is `progress` with `.log`."""
    os.environ.update(environment)
    jobs = writer.jobs()
    log = progress.with_suffix(".log")
    for number in range(num_done(progress), len(jobs)):
        for again in range(40):
            try:
                do_job(root, writer, jobs[number])
                break
            except (StoreError, StoreBusy) as error:
                if not LOST_A_RACE.search(str(error)) or again == 39:
                    note(log, traceback.format_exc())
                    os._exit(1)
                note(log, f"{jobs[number].what}: {error}\n")
                time.sleep(random.random() * 0.2)
            except BaseException:
                note(log, traceback.format_exc())
                os._exit(1)
        note(progress, f"{jobs[number].what} {number}\n")


def save_mean(sent: bytes, environment: dict[str, str], target: Path) -> None:
    """Save the mean of a layer of a Dataset that was sent; for a process of its own.

    Args:
        sent: the Dataset, pickled: what it is of can be reached once the environment says how.
        environment: how the bucket is reached.
        target: NumPy's file.
    """
    os.environ.update(environment)
    lazy = pickle.loads(sent)  # noqa: S301  # our own bytes
    np.save(target, lazy.ffn.sel(layer=1).mean("sample").values)


def num_done(progress: Path) -> int:
    """How many jobs of a writer are done."""
    return len(progress.read_text().splitlines()) if progress.exists() else 0


def note(path: Path, line: str) -> None:
    """Add to a file."""
    with path.open("a") as file:
        file.write(line)


# -- what must be there in the end ----------------------------------------------------------------


def store_faults(root: str, writers: Sequence[Writer], download: Callable[[], Path]) -> list[str]:
    """What is wrong when all writers are done; each begins with a word of `killing.KINDS`.

    Args:
        root: of the store.
        writers: who wrote it.
        download: gives a folder with every object under it.
    """
    world, labels = expected(writers)
    store = ActivationStore.open(root, check="always")
    faults = [f"stuck: verify: {one.message}" for one in verify(store).damage]
    ids = store.index.records["id"].to_pylist()
    if len(ids) > len(set(ids)):
        faults.append(f"doubled: {sorted(one for one in set(ids) if ids.count(one) > 1)}")
    faults += [f"lost: {name}" for name in sorted(set(world) - set(ids))]
    faults += [f"revived: {name}" for name in sorted(set(ids) - set(world))]
    if faults:
        return faults
    faults += _value_faults(store, world)
    for task, wanted in labels.items():
        rows = store.labels(task).to_pylist() if task in store.tasks() else []
        got = {row["id"]: row["label"] for row in rows}
        if {name: label for name, label in wanted.items() if name in world} != {
            name: label for name, label in got.items() if name in world
        }:
            faults.append(f"lost: labels of {task}: {got}, not {wanted}")
    compact(store)
    gc(store, keep=1, grace_s=0)
    left = gc(ActivationStore.open(root), keep=1, grace_s=0, dry_run=True)
    if left.files:
        faults.append(f"stuck: {left.files} are left after gc")
    gone = {number for writer in writers for job in writer.jobs() for number in job.world.values()}
    gone -= set(world.values())
    found = files_with(download(), map(text_of, sorted(gone)))
    faults += [f"revived: {text!r} in {path}" for path, text in found]
    store = ActivationStore.open(root, check="always")
    faults += [f"stuck: compacted: {one.message}" for one in verify(store).damage]
    return faults + _value_faults(store, world)


def _value_faults(store: ActivationStore, world: dict[str, int]) -> list[str]:
    """Whether every id has its text and the activations of that."""
    names = sorted(world)
    at = store.positions(names)
    rows = {row["position"]: row["text"] for row in store.samples().to_pylist()}
    faults = [
        f"lost: text of {name}: {rows.get(int(position))!r}"
        for name, position in zip(names, at, strict=True)
        if rows.get(int(position)) != text_of(world[name])
    ]
    if len(rows) > len(set(world.values())):
        faults.append(f"doubled: {len(rows)} texts, not {len(set(world.values()))}")
    for name, layout in store.schema.arrays.items():
        for layer in layout.layers:
            got = store.read_matrix(name, layer=layer, samples=at)
            want = values(store.schema, name, [layer], [world[one] for one in names])[0]
            flat = want.reshape(-1, len(names)).T
            if not np.array_equal(np.asarray(got, np.float32).reshape(flat.shape), flat):
                faults.append(f"lost: values of {name}, layer {layer}")
    return faults
