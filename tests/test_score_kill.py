"""The scoring command killed at random, and its memory on a dump twenty times as large."""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest

from pipeline.scoring import score_files
from tests.conftest import RUN_TOML
from tests.made_dumps import REAL_COUNTS, jsonl, needs_raw, real_objects, v1
from tests.test_score import assert_same_scores, quarantine, scores
from tests.tiny_heads import write_heads

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
Place = tuple[Path, list[Path]]


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
    words = [sys.executable, "-m", "pipeline", "score", *map(str, inputs), "--run", str(config)]
    return [*words, "--out", str(output), "--json", "--max-errors", "1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Place:
    """A run that writes often, and two dumps: 12 dates, retweets, repeated ids, bad lines."""
    folder = tmp_path_factory.mktemp("kill")
    config = write_run(folder, tiny_bert, "block_rows = 40\nbuffer_rows = 200\ncache_texts = 100")
    draw = random.Random(0)
    tweets = []
    for i in range(1500):
        day = f"Fri Jan {draw.randint(1, 12):02d} 07:29:00 +0000 2021"
        tweet = v1(i, created_at=day, text=f"the happy dog {draw.randrange(10**6)} sat")
        if i and draw.random() < 0.3:
            tweet["retweeted_status"] = draw.choice(tweets[-50:])
        tweets.append(tweet)
    lines = [json.dumps(tweet).encode() for tweet in tweets]
    for at in range(0, len(lines), 60):
        lines.insert(at, b'{"broken": ' + str(at).encode())
    (folder / "a").write_bytes(b"\n".join(lines[:900]))
    (folder / "b").write_bytes(b"\n".join(lines[850:]))
    return config, [folder / "a", folder / "b"]


def start(config: Path, inputs: list[Path], output: Path) -> subprocess.Popen[str]:
    """The command, once it has loaded the model."""
    process = subprocess.Popen(
        command(config, inputs, output),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "so parity with it is not checked" in line:
            return process
    raise AssertionError(f"ended with {process.wait()}")


def finish(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Wait for the end; the summary."""
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


def kill_often(place: Place, folder: Path, *, num_kills: int, seed: int) -> None:
    """Kill runs at random moments; each folder of scores must end as one left in peace."""
    config, inputs = place
    whole = score_files(inputs, config, folder / "whole", max_errors=1.0)
    assert whole.scored == 1500 and whole.counts()["repeated"] > 0
    expected, lines = scores(folder / "whole"), quarantine(folder / "whole")
    assert len(lines) > 20
    draw = random.Random(seed)
    kills = number = with_rows = 0
    while kills < num_kills:
        output = folder / f"out{number}"
        number += 1
        for _ in range(min(draw.randint(2, 4), num_kills - kills)):
            process = start(config, inputs, output)
            time.sleep(draw.random() * whole.elapsed_s)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += process.returncode == -signal.SIGKILL
            if list(output.glob("date=*/*.parquet")):
                with_rows += 1
                ids = scores(output)["id"].to_pylist()
                assert len(ids) == len(set(ids)) <= 1500
        finish(start(config, inputs, output))
        assert_same_scores(scores(output), expected)
        assert sorted(map(str, quarantine(output))) == sorted(map(str, lines))
        assert not list(output.glob("**/*.tmp"))
    assert score_files(inputs, config, output, max_errors=1.0).read == 0
    print(f"{kills} kills over {number} folders, {with_rows} of them with rows already written")


def test_a_few_kills(place: Place, tmp_path: Path) -> None:
    kill_often(place, tmp_path, num_kills=3, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_many_kills(place: Place, tmp_path: Path, seed: int) -> None:
    kill_often(place, tmp_path, num_kills=12, seed=seed)


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
        [*words, "--quiet"], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
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
