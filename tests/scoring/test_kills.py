"""The scoring command killed at every point, and its memory on a dump twenty times as large."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from pipeline.scoring.files import score_files
from tests.builders.command_processes import POINT_NAMES, score_and_die
from tests.builders.dumps import (
    REAL_COUNTS,
    assert_same_scores,
    jsonl,
    needs_raw,
    quarantine,
    real_objects,
    scores,
    v1,
)
from tests.builders.forking import start
from tests.builders.heads import write_heads
from tests.builders.paths import ROOT
from tests.builders.runs import RUN_TOML

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
Place = tuple[Path, list[Path]]
NUM_TWEETS = 600
ONCE = {name for name in POINT_NAMES if re.search("claimed|noted|summary", name)}
"""Points that a run passes once."""


def write_run(folder: Path, model: Path, settings: str) -> Path:
    """A run of which there is no more than its heads, with settings for scoring."""
    for head in write_heads(folder / "made", model):
        target = folder / "run" / "heads" / head.name / "chosen"
        target.parent.mkdir(parents=True)
        head.rename(target)
    config = folder / "run.toml"
    config.write_text(f"{RUN_TOML.format(model=model)}[score]\n{settings}\n")
    return config


def command(config: Path, inputs: list[Path], output: Path) -> list[str]:
    """The words after ``salient``."""
    words = ["score", *map(str, inputs), "--run", str(config), "--out", str(output)]
    return [*words, "--json", "--max-errors", "1", "--quiet"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Place:
    """A run that writes often, and two dumps: 12 dates, retweets, repeated ids, bad lines."""
    folder = tmp_path_factory.mktemp("kill")
    config = write_run(folder, tiny_bert, "block_rows = 40\nbuffer_rows = 200\ncache_texts = 100")
    draw = random.Random(0)
    tweets = []
    for i in range(NUM_TWEETS):
        day = f"Fri Jan {draw.randint(1, 12):02d} 07:29:00 +0000 2021"
        tweet = v1(i, created_at=day, text=f"the happy dog {draw.randrange(10**6)} sat")
        if i and draw.random() < 0.3:
            tweet["retweeted_status"] = draw.choice(tweets[-50:])
        tweets.append(tweet)
    lines = [json.dumps(tweet).encode() for tweet in tweets]
    for at in range(0, len(lines), 40):
        lines.insert(at, b'{"broken": ' + str(at).encode())
    (folder / "a").write_bytes(b"\n".join(lines[:400]))
    (folder / "b").write_bytes(b"\n".join(lines[350:]))
    return config, [folder / "a", folder / "b"]


@pytest.fixture(scope="module")
def whole(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of scores of a run that was left in peace."""
    config, inputs = place
    folder = tmp_path_factory.mktemp("whole") / "scores"
    report = score_files(inputs, config, folder, max_errors=1.0)
    assert report.scored == NUM_TWEETS and report.counts()["repeated"] > 0
    assert len(quarantine(folder)) > 10
    return folder


def run_and_kill(place: Place, output: Path, point: str, number: int) -> bool:
    """Score; whether it was killed at the point before it ended. No id is there twice then."""
    words = command(*place, output)
    process = start(score_and_die, words, point, number)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    if list(output.glob("date=*/*.parquet")):
        ids = scores(output)["id"].to_pylist()
        assert len(ids) == len(set(ids)) <= NUM_TWEETS
    return process.exitcode != 0


def check_kills(place: Place, whole: Path, output: Path, point: str, numbers: list[int]) -> None:
    """Kill runs at a point, one after another; the next must end as one left in peace."""
    killed = [run_and_kill(place, output, point, number) for number in numbers]
    assert killed[0], f"{point}: never passed"
    config, inputs = place
    score_files(inputs, config, output, max_errors=1.0)
    assert_same_scores(scores(output), scores(whole))
    assert sorted(map(str, quarantine(output))) == sorted(map(str, quarantine(whole)))
    assert not list(output.glob("**/*.tmp"))
    assert score_files(inputs, config, output, max_errors=1.0).read == 0


@pytest.mark.parametrize(
    "point", ["after rows are added", "after a file is written", "within the ledger's transaction"]
)
def test_a_killed_run_is_completed(place: Place, whole: Path, tmp_path: Path, point: str) -> None:
    check_kills(place, whole, tmp_path / "scores", point, [2, 3])


def test_a_run_killed_once_files_are_noted_is_completed(
    place: Place, whole: Path, tmp_path: Path
) -> None:
    check_kills(place, whole, tmp_path / "scores", "after files are noted", [1])


@pytest.mark.slow
@pytest.mark.parametrize("point", POINT_NAMES)
def test_kills_at_every_point(place: Place, whole: Path, tmp_path: Path, point: str) -> None:
    check_kills(place, whole, tmp_path / "once", point, [1, 1])
    if point not in ONCE:
        check_kills(place, whole, tmp_path / "later", point, [2, 1, 5, 9])


# --- memory -------------------------------------------------------------------------------------


def renumbered(value: dict[str, Any], copy_number: int) -> dict[str, Any]:
    """A record whose tweets have ids of their own; their texts are the same."""
    value = copy.copy(value)
    if "data" in value:
        value["data"] = [renumbered(tweet, copy_number) for tweet in value["data"]]
    elif "id" in value:
        value["id"] = type(value["id"])(int(value["id"]) + copy_number * 10**13)
        if "id_str" in value:
            value["id_str"] = str(value["id"])
    return value


def repeated(name: str, count: int) -> Iterator[bytes]:
    objects = real_objects(name)
    for number in range(count):
        yield jsonl(renumbered(value, number) for value in objects)


def peak_mib(words: list[str]) -> tuple[float, dict[str, Any]]:
    """Peak resident memory of a command, and the JSON object that it prints last."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss / 1024, json.loads(printed.splitlines()[-1])


@pytest.mark.slow
@needs_raw
@pytest.mark.parametrize("layout", ["lines", "one array"])
def test_memory_is_flat_on_a_dump_20_times_larger(
    tmp_path: Path, tiny_bert: Path, layout: str
) -> None:
    settings = "block_rows = 1000\nbuffer_rows = 2000\ncache_texts = 2000"
    config = write_run(tmp_path, tiny_bert, settings)
    peaks: dict[int, float] = {}
    for count in (1, 20):
        inputs = []
        for name in REAL_COUNTS:
            inputs.append(tmp_path / f"{count}-{name}")
            with inputs[-1].open("wb") as file:
                as_layout(file.write, repeated(name, count), layout)
        peaks[count], found = peak_mib(command(config, inputs, tmp_path / f"out{count}"))
        assert found["scored"] == 3142 * count
        assert found["filtered"] == 158 * count
        ids = pc.count_distinct(scores(tmp_path / f"out{count}")["id"]).as_py()
        assert ids == 3142 * count
    print(f"peak memory: {peaks[1]:.0f} MiB, on a dump 20 times larger {peaks[20]:.0f} MiB")
    assert peaks[20] < peaks[1] + 64


def as_layout(write: Callable[[bytes], object], chunks: Iterator[bytes], layout: str) -> None:
    for number, chunk in enumerate(chunks):
        if layout == "lines":
            write(chunk)
        else:
            write((b"," if number else b"[") + chunk.rstrip().replace(b"\n", b","))
    if layout != "lines":
        write(b"]")
