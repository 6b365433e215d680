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
    *,
    kills: int,
    lost: float,
    seed: int,
    seconds: float,
    life: int = LIFE,
) -> tuple[int, int, list[str]]:
    """Run writers until all are done.

    Args:
        server: where the bucket is.
        begins: start each writer's process, which reaches the bucket by the proxy that is given.
        kills: after so many nobody is killed any more.
        lost: the share of answers that get lost.
        seed: of what is drawn.
        seconds: after which they are stuck.
        life: a process that is killed is so at one of its first so many requests.

    Returns:
        How many were killed, how many answers got lost, and what is wrong.
    """
    draw = random.Random(seed)
    faults: list[str] = []
    with ExitStack() as stack:
        racers = []
        for number, begin in enumerate(begins):
            proxy = stack.enter_context(FaultProxy(server.endpoint, seed=seed + number))
            racers.append(Racer(proxy, begin))
            stack.callback(racers[-1].stop)

        def live(racer: Racer) -> None:
            killed = sum(one.num_kills for one in racers)
            last = draw.randrange(life) if killed < kills else None
            racer.begin(last, late=draw.random() < 0.5)
            if lost:
                racer.proxy.plan(Fault("lose", share=lost, times=None))

        for racer in racers:
            live(racer)
        running, end = list(racers), time.monotonic() + seconds
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
                faults.append(f"stuck: {len(running)} writers after {seconds:g} s")
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


def race_on_a_store(
    server: BucketServer,
    url: str,
    tmp_path: Path,
    *,
    num_writers: int = 8,
    num_jobs: int,
    kills: int,
    lost: float,
    seed: int,
    seconds: float,
) -> tuple[int, int]:
    """Race, and fail by what is wrong; how many were killed, and how many answers got lost."""
    ActivationStore.create(url, SCHEMA)
    writers = [Writer(number, seed, num_jobs) for number in range(num_writers)]

    def begin_of(writer: Writer) -> Callable[[FaultProxy], BaseProcess]:
        progress = tmp_path / f"writer{writer.number}"

        def begin(proxy: FaultProxy) -> BaseProcess:
            environment = {**server.environment(proxy.endpoint), "SALIENT_LEASE_S": "3"}
            return start(work, url, environment, writer, progress)

        return begin

    begins = [begin_of(writer) for writer in writers]
    num_kills, num_lost, faults = race(
        server, begins, kills=kills, lost=lost, seed=seed, seconds=seconds
    )
    if not faults:
        faults = store_faults(url, writers, lambda: download(url, tmp_path / "objects"))
        TALLY.update(fault.split(":")[0] for fault in faults)
    done = [num_done(tmp_path / f"writer{writer.number}") for writer in writers]
    logs = "".join(path.read_text()[-3000:] for path in sorted(tmp_path.glob("*.log")))
    said = f"seed {seed}, {num_kills} kills, {num_lost} lost, jobs {done}"
    assert not faults, "\n".join([said, *faults[:20], logs if "stuck" in faults[0] else ""])
    return num_kills, num_lost


def race_on_scores(
    server: BucketServer,
    url: str,
    tmp_path: Path,
    model: Path,
    *,
    num_machines: int,
    kills: int,
    lost: float,
    seed: int,
    seconds: float,
) -> tuple[int, int]:
    """The same of machines that score into one folder, delete from it and repair it."""
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
            jobs, again = MACHINES[number], 5 if lost else 0
            return start(command_work, url, environment, folder, jobs, again)

        return begin

    begins = [begin_of(number) for number in range(num_machines)]
    num_kills, num_lost, faults = race(
        server,
        begins,
        kills=kills,
        lost=lost,
        seed=seed,
        seconds=seconds,
        life=LIFE_OF_COMMAND,
    )
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
    said = f"seed {seed}, {num_kills} kills, {num_lost} lost"
    assert not faults, "\n".join([said, *faults[:20], logs if "stuck" in faults[0] else ""])
    return num_kills, num_lost


@pytest.fixture
def direct(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket, reached without proxy by this process."""
    monkeypatch.setenv("SALIENT_LEASE_S", "3")
    yield bucket


def seed_of(test: str) -> int:
    """The same each time, unless SALIENT_SEED says another."""
    return int(os.environ.get("SALIENT_SEED", len(test)))


def test_writers_of_a_store_are_killed_and_lose_answers(
    direct: str, bucket_server: BucketServer, tmp_path: Path
) -> None:
    num_kills, num_lost = race_on_a_store(
        bucket_server,
        direct,
        tmp_path,
        num_writers=5,
        num_jobs=2,
        kills=6,
        lost=0.03,
        seed=seed_of("killed"),
        seconds=300,
    )
    assert num_kills >= 3 and num_lost >= 3


def test_machines_that_score_into_one_folder_are_killed(
    direct: str, bucket_server: BucketServer, tmp_path: Path, tiny_bert: Path
) -> None:
    num_kills, _ = race_on_scores(
        bucket_server,
        direct,
        tmp_path,
        tiny_bert,
        num_machines=3,
        kills=4,
        lost=0,
        seed=seed_of("scores"),
        seconds=300,
    )
    assert num_kills >= 2


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_two_hundred_kills_of_writers_of_a_store(
    direct: str, bucket_server: BucketServer, tmp_path: Path
) -> None:
    num_kills, _ = race_on_a_store(
        bucket_server,
        direct,
        tmp_path,
        num_jobs=25,
        kills=220,
        lost=0,
        seed=seed_of("two hundred"),
        seconds=2800,
    )
    assert num_kills >= 200


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_five_hundred_lost_answers_and_some_kills(
    direct: str, bucket_server: BucketServer, tmp_path: Path
) -> None:
    _, num_lost = race_on_a_store(
        bucket_server,
        direct,
        tmp_path,
        num_jobs=12,
        kills=20,
        lost=0.1,
        seed=seed_of("five hundred"),
        seconds=2800,
    )
    assert num_lost >= 500


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("round_", range(4))
def test_many_kills_of_machines_that_score_into_one_folder(
    direct: str, bucket_server: BucketServer, tmp_path: Path, tiny_bert: Path, round_: int
) -> None:
    num_kills, _ = race_on_scores(
        bucket_server,
        direct,
        tmp_path,
        tiny_bert,
        num_machines=len(MACHINES),
        kills=25,
        lost=0,
        seed=seed_of("scores") + round_,
        seconds=2500,
    )
    assert num_kills >= 15


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_machines_that_score_into_one_folder_lose_answers(
    direct: str, bucket_server: BucketServer, tmp_path: Path, tiny_bert: Path
) -> None:
    _, num_lost = race_on_scores(
        bucket_server,
        direct,
        tmp_path,
        tiny_bert,
        num_machines=len(MACHINES),
        kills=0,
        lost=0.05,
        seed=seed_of("lost scores"),
        seconds=2500,
    )
    assert num_lost >= 20
