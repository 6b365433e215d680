"""Commands on one folder of scores in a bucket that race, each machine with a folder of its own.

A machine gives its commands one after another; a file says how many are done, so that it goes on
with the one in which it died. Whatever comes when, the rows are in the end those of the dumps, once
each, without those that one machine deletes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from pipeline.commands.line import run_command
from tests.builders.bucket_processes import note, num_done
from tests.builders.command_stages import compare_scores, dumps, name_doomed

Words = tuple[str, ...]
TO = ("--run", "FOLDER/run.toml", "--out", "SCORES", "--max-errors", "1", "--quiet")
DELETE = ("score", "delete", "SCORES", "--ids", "FOLDER/ids.txt", "--quiet")
REPAIR = ("score", "repair", "SCORES", "--quiet")
ALL = ("score", "FOLDER/a", "FOLDER/b", "FOLDER/c", *TO)
MACHINES: tuple[tuple[Words, ...], ...] = (
    (("score", "FOLDER/a", *TO), DELETE, REPAIR),
    (ALL,),
    (("score", "FOLDER/c", *TO), ("score", "FOLDER/a", *TO)),
    (("score", "FOLDER/b", *TO), REPAIR),
    (("score", "FOLDER/b", "FOLDER/c", *TO), ALL),
    (("score", "FOLDER/a", *TO), ("score", "FOLDER/b", *TO)),
    (("score", "FOLDER/b", "FOLDER/a", *TO),),
    (ALL, REPAIR),
)
"""What each of eight machines does."""


def prepare(folder: Path, model: Path) -> Path:
    """What each machine has at hand, and in `undisturbed` what must come of it all.

    Returns:
        The folder that every machine gets a copy of.
    """
    origin = folder / "origin"
    origin.mkdir()
    dumps(origin, model)
    name_doomed(origin)
    whole = folder / "undisturbed"
    shutil.copytree(origin, whole)
    return origin


def undisturbed(whole: Path) -> None:
    """Score, delete and score again on a disk; for a process of its own."""
    log = whole.with_suffix(".log")
    for words in (ALL, DELETE, ALL):
        if code := _run(words, whole, str(whole / "scores"), log):
            os._exit(code)


def command_work(
    url: str, environment: dict[str, str], folder: Path, jobs: Sequence[Words], again: int
) -> None:
    """Give the commands that are left to give; for a process of its own.

    Args:
        url: of the scores.
        environment: how they are reached.
        folder: of this machine.
        jobs: its commands.
        again: how often a command may be told that the network failed it, and to run it again.
    """
    os.environ.update(environment)
    progress, log = folder.with_suffix(".done"), folder.with_suffix(".log")
    for number in range(num_done(progress), len(jobs)):
        for left in range(again, -1, -1):
            code = _run(jobs[number], folder, url, log)
            if code == 0:
                break
            if left == 0 or "run it again" not in log.read_text(errors="replace")[-2000:]:
                os._exit(code)
        note(progress, f"{' '.join(jobs[number])}\n")


def _run(words: Words, folder: Path, scores: str, log: Path) -> int:
    torch.set_num_threads(1)
    os.environ["SALIENT_CACHE"] = str(folder / "cache")
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    note(log, f"$ {' '.join(words)}\n")
    said = [word.replace("FOLDER", str(folder)).replace("SCORES", scores) for word in words]
    return run_command(said) or 0


def score_faults(folder: Path, whole: Path) -> list[str]:
    """What is wrong with scores that were fetched from the bucket to `folder/scores`."""
    return compare_scores(folder, whole)
