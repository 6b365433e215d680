"""Eight writers race in one bucket, are killed and lose answers: in the end all is there, once.

A process is killed by the proxy through which it alone reaches the server: when its k-th request
comes, or when the server has acted on it and has not answered yet.
"""

from __future__ import annotations

import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from store import ActivationStore
from store.disk import ObjectLocation
from tests.builders.bucket_commands import (
    MACHINES,
    command_work,
    prepare,
    score_faults,
    undisturbed,
)
from tests.builders.bucket_processes import Writer, num_done, store_faults, work
from tests.builders.buckets import BucketServer
from tests.builders.faults import Fault, FaultProxy
from tests.builders.forking import start
from tests.builders.killing import TALLY
from tests.builders.store_world import SCHEMA

LIFE, LIFE_OF_COMMAND = 80, 25
"""A life ends at one of its first so many requests."""
LEASE_S = "2"
SURE = 6
"""So many requests every writer makes, twice over one of a store: the first life ends for sure."""


@dataclass(frozen=True)
class Race:
    """What a race is like.

    Attributes:
        seed: of what is drawn; SALIENT_SEED says another.
        number: of the writers.
        kills: after so many nobody is killed any more.
        least: kills and lost answers that there must have been.
        lost: the share of answers that get lost.
        num_jobs: what each writer of a store does.
        seconds: after which the writers are stuck.
        life: a process that is killed is so at one of its first so many requests.
    """

    seed: int
    number: int
    kills: int
    least: tuple[int, int]
    lost: float = 0
    num_jobs: int = 0
    seconds: float = 2800
    life: int = LIFE


class Racer:
    """One writer and the proxy that it is killed by."""

    def __init__(self, proxy: FaultProxy, begin: Callable[[FaultProxy], BaseProcess]) -> None:
        self.proxy = proxy
        self._begin = begin
        self._process: BaseProcess | None = None
        self._lock = threading.Lock()
        self.num_kills = 0

    def begin(self, life: int | None, late: bool) -> None:
        """Start a process that dies at a request, or at none."""
        self.proxy.clear()
        with self._lock:
            self._process = self._begin(self.proxy)
        if life is not None:
            self.proxy.plan(Fault("call", skip=life, call=self._kill, late=late))

    def _kill(self, *_: object) -> None:
        with self._lock:
            if self._process is not None and self._process.is_alive():
                self._process.kill()
                self.num_kills += 1

    def ended(self) -> int | None:
        """The exit code of a process that has ended; None while it lives."""
        assert self._process is not None
        return self._process.exitcode

    def stop(self) -> None:
        """End it, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.join()


def race(
    server: BucketServer,
    begins: list[Callable[[FaultProxy], BaseProcess]],
    wanted: Race,
) -> tuple[int, int, list[str]]:
    """Run writers until all are done.

    Args:
        server: where the bucket is.
        begins: start each writer's process, which reaches the bucket by the proxy that is given.
        wanted: what it is like.

    Returns:
        How many were killed, how many answers got lost, and what is wrong.
    """
    draw = random.Random(wanted.seed)
    faults: list[str] = []
    with ExitStack() as stack:
        racers = []
        for number, begin in enumerate(begins):
            proxy = stack.enter_context(FaultProxy(server.endpoint, seed=wanted.seed + number))
            racers.append(Racer(proxy, begin))
            stack.callback(racers[-1].stop)

        def live(racer: Racer) -> None:
            killed = sum(one.num_kills for one in racers)
            last = draw.randrange(wanted.life) if killed < wanted.kills else None
            if last is not None and racer.num_kills == 0:
                last = draw.randrange(SURE) + (SURE if wanted.lost else 0)
            racer.begin(last, late=draw.random() < 0.5)
            if wanted.lost:
                racer.proxy.plan(Fault("lose", skip=draw.randrange(SURE)))
                racer.proxy.plan(Fault("lose", share=wanted.lost, times=None))

        for racer in racers:
            live(racer)
        running, end = list(racers), time.monotonic() + wanted.seconds
        while running and not faults:
            time.sleep(0.02)
            for racer in list(running):
                code = racer.ended()
                if code == 0:
                    running.remove(racer)
                elif code == -9:
                    live(racer)
                elif code is not None:
                    faults.append(f"stuck: a writer ended with {code}")
            if time.monotonic() > end:
                faults.append(f"stuck: {len(running)} writers after {wanted.seconds:g} s")
        num_kills = sum(racer.num_kills for racer in racers)
        num_lost = sum(racer.proxy.faults["lose"] for racer in racers)
    TALLY["SIGKILL"] += num_kills
    TALLY.update(fault.split(":")[0] for fault in faults)
    return num_kills, num_lost, faults


def download(url: str, folder: Path) -> Path:
    """Every object under an address, as files."""
    location = ObjectLocation(url)
    for found in location.list():
        target = folder / found.path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(location.read(found.path))
    return folder


def race_on_a_store(server: BucketServer, url: str, tmp_path: Path, wanted: Race) -> None:
    """Race, and fail by what is wrong."""
    wanted = replace(wanted, seed=int(os.environ.get("SALIENT_SEED", wanted.seed)))
    ActivationStore.create(url, SCHEMA)
    writers = [Writer(number, wanted.seed, wanted.num_jobs) for number in range(wanted.number)]

    def begin_of(writer: Writer) -> Callable[[FaultProxy], BaseProcess]:
        progress = tmp_path / f"writer{writer.number}"

        def begin(proxy: FaultProxy) -> BaseProcess:
            environment = {**server.environment(proxy.endpoint), "SALIENT_LEASE_S": LEASE_S}
            return start(work, url, environment, writer, progress)

        return begin

    begins = [begin_of(writer) for writer in writers]
    num_kills, num_lost, faults = race(server, begins, wanted)
    if not faults:
        faults = store_faults(url, writers, lambda: download(url, tmp_path / "objects"))
        TALLY.update(fault.split(":")[0] for fault in faults)
    done = [num_done(tmp_path / f"writer{writer.number}") for writer in writers]
    logs = "".join(path.read_text()[-3000:] for path in sorted(tmp_path.glob("*.log")))
    said = f"seed {wanted.seed}, {num_kills} kills, {num_lost} lost, jobs {done}"
    assert not faults, "\n".join([said, *faults[:20], logs if "stuck" in faults[0] else ""])
    assert num_kills >= wanted.least[0] and num_lost >= wanted.least[1], said


def race_on_scores(
    server: BucketServer, url: str, tmp_path: Path, model: Path, wanted: Race
) -> None:
    """The same of machines that score into one folder, delete from it and repair it."""
    seed = int(os.environ.get("SALIENT_SEED", wanted.seed))
    wanted = replace(wanted, seed=seed, life=LIFE_OF_COMMAND)
    origin = prepare(tmp_path, model)
    whole = start(undisturbed, tmp_path / "undisturbed")
    draw = random.Random(seed)

    def begin_of(number: int) -> Callable[[FaultProxy], BaseProcess]:
        folder = tmp_path / f"machine{number}"
        shutil.copytree(origin, folder)

        def begin(proxy: FaultProxy) -> BaseProcess:
            if draw.random() < 0.3:  # another machine goes on
                shutil.rmtree(folder / "cache", ignore_errors=True)
            environment = server.environment(proxy.endpoint)
            jobs, again = MACHINES[number], 5 if wanted.lost else 0
            return start(command_work, url, environment, folder, jobs, again)

        return begin

    begins = [begin_of(number) for number in range(wanted.number)]
    num_kills, num_lost, faults = race(server, begins, wanted)
    whole.join()
    assert whole.exitcode == 0, (tmp_path / "undisturbed.log").read_text()
    if not faults:
        # Whoever comes last reads all dumps, and settles what the killed left behind.
        (tmp_path / "machine1.done").unlink()
        with FaultProxy(server.endpoint) as proxy:
            process = begins[1](proxy)
            process.join()
        assert process.exitcode == 0, (tmp_path / "machine1.log").read_text()[-2000:]
        download(url, tmp_path / "fetched" / "scores")
        faults = score_faults(tmp_path / "fetched", tmp_path / "undisturbed")
        TALLY.update(fault.split(":")[0] for fault in faults)
    logs = "".join(path.read_text()[-2000:] for path in sorted(tmp_path.glob("machine*.log")))
    said = f"seed {wanted.seed}, {num_kills} kills, {num_lost} lost"
    assert not faults, "\n".join([said, *faults[:20], logs if "stuck" in faults[0] else ""])
    assert num_kills >= wanted.least[0] and num_lost >= wanted.least[1], said


@pytest.fixture
def direct(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket, reached without proxy by this process."""
    monkeypatch.setenv("SALIENT_LEASE_S", LEASE_S)
    yield bucket


def table(some: Race, *long: Race) -> pytest.MarkDecorator:
    """A race that is always run, and ones that take long."""
    marks = (pytest.mark.slow, pytest.mark.timeout(3000))
    rest = (pytest.param(one, id=str(one.seed), marks=marks) for one in long)
    return pytest.mark.parametrize("wanted", [pytest.param(some, id="some"), *rest])


@table(
    Race(6, 4, kills=4, lost=0.02, least=(4, 4), num_jobs=2, seconds=300),
    Race(11, 8, kills=220, least=(200, 0), num_jobs=25),
    Race(12, 8, kills=20, lost=0.1, least=(0, 500), num_jobs=12),
)
def test_writers_of_a_store_are_killed_and_lose_answers(
    direct: str, bucket_server: BucketServer, tmp_path: Path, wanted: Race
) -> None:
    race_on_a_store(bucket_server, direct, tmp_path, wanted)


@table(
    Race(6, 3, kills=3, least=(3, 0), seconds=300),
    *(Race(7 + number, len(MACHINES), kills=25, least=(15, 0)) for number in range(4)),
    Race(11, len(MACHINES), kills=0, lost=0.05, least=(0, 20)),
)
def test_machines_that_score_into_one_folder_are_killed_and_lose_answers(
    direct: str, bucket_server: BucketServer, tmp_path: Path, tiny_bert: Path, wanted: Race
) -> None:
    race_on_scores(bucket_server, direct, tmp_path, tiny_bert, wanted)
