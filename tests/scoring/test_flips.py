"""One byte of a folder of scores is changed: right rows, or an error with its remedy; never others.

Not read by Salient, so not part of this: the plots in ``_drift``, and files that are set aside.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.report.facts import read_drift
from pipeline.report.inspection import inspect
from pipeline.scoring.deletion import delete_scores
from pipeline.scoring.folder import open_scores
from pipeline.scoring.ledger import LEDGER, NOTE
from pipeline.scoring.repair import repair_scores
from store.errors import SalientError
from store.tables import write_json
from tests.builders.dumps import quarantine, scores, v1, write_tweets
from tests.builders.scoring import run_without_model

NUM_TWEETS = 90
GONE = v1(7)["id_str"]
"""An id that was deleted, and must not come back."""


class Place:
    """A folder of scores of three dumps, one more dump, and what must come out of all four."""

    def __init__(self, root: Path) -> None:
        days = [f"Fri Jan {1 + i % 3:02d} 07:29:00 +0000 2021" for i in range(NUM_TWEETS)]
        tweets = [v1(i, created_at=day, text=f"dog {i}") for i, day in enumerate(days)]
        spans = ((0, 40), (30, 60), (50, 70), (60, NUM_TWEETS))
        self.inputs = [write_tweets(root / f"{a}-{b}", tweets[a:b]) for a, b in spans]
        for path in self.inputs[:2]:
            path.write_bytes(path.read_bytes() + b'{"broken": 1\n')
        self.folder = root / "scores"
        self.unclean = root / "unclean"
        run_without_model(self.inputs[:2], self.folder)
        delete_scores(self.folder, [GONE])
        self.add_records(self.folder)
        self.kill(root / "live")
        run_without_model(self.inputs[:3], self.folder)
        expected = root / "expected"
        shutil.copytree(self.folder, expected)
        run_without_model(self.inputs, expected)
        self.rows, self.lines = scores(expected), quarantine(expected)
        assert len(self.rows) == NUM_TWEETS - 1 and len(self.lines) == 2

    def kill(self, live: Path) -> None:
        """What a kill leaves: no note, and changes in the write-ahead log alone."""
        shutil.copytree(self.folder, live)
        card = {"fingerprint": "made", "tasks": {}}
        with open_scores(live, card, buffer_rows=20) as folder:
            folder._keeper.ledger.forget_inputs()
            shutil.copytree(live, self.unclean)
        assert (self.unclean / f"{LEDGER}-wal").stat().st_size
        assert not (self.unclean / NOTE).exists()

    @staticmethod
    def add_records(folder: Path) -> None:
        write_json(folder / "_runs" / "a.json", {"status": "done"})
        entry = {"reference_texts": 3, "all": None, "dates": {"2021-01-01": {"status": "stable"}}}
        write_json(folder / "_drift" / "a.json", {"threshold": 0.2, "tasks": {"mood": entry}})


@pytest.fixture(scope="module")
def place(memory: Path) -> Place:
    return Place(memory)


def files_of(folder: Path) -> list[Path]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return sorted(path for path in found if path.stat().st_size)


def flip(path: Path, draw: random.Random) -> str:
    """Change one byte of a file; half of the time without a sign in its times."""
    facts = path.stat()
    at, change = draw.randrange(facts.st_size), 1 << draw.randrange(8)
    if draw.random() < 0.5:
        change = draw.randrange(1, 256)
    content = bytearray(path.read_bytes())
    content[at] ^= change
    path.write_bytes(content)
    if draw.random() < 0.5:
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    return f"{path.name} at {at} ^ {change:#04x}"


def check_error(error: SalientError, where: str) -> None:
    assert "salient score repair" in str(error) or "newer version of Salient" in str(error), (
        where,
        error,
    )


def same(found: pa.Table, expected: pa.Table) -> bool:
    return bool(found.sort_by("id").equals(expected.sort_by("id")))


def check_flip(place: Place, copy: Path, path: Path, draw: random.Random) -> str:
    """Look, score, repair, score; returns who noticed."""
    where = flip(path, draw)
    noticed = []
    try:
        inspect(copy)
        read_drift(copy)
    except SalientError as error:
        check_error(error, where)
        noticed.append("looking")
    try:
        delete_scores(copy, ["1"], dry_run=True)
    except SalientError as error:
        check_error(error, where)
        noticed.append("delete")
    try:
        run_without_model(place.inputs, copy)
    except SalientError as error:
        check_error(error, where)
        noticed.append("score")
    else:
        if path.suffix != ".parquet":  # else it may be damaged, and not have been read
            assert same(scores(copy), place.rows), where
    report = repair_scores(copy)
    noticed += [] if report.is_sound else ["repair"]
    assert not report.clashes and not report.repeated, where
    run_without_model(place.inputs, copy)
    assert same(scores(copy), place.rows), where
    assert sorted(map(str, quarantine(copy))) == sorted(map(str, place.lines)), where
    assert repair_scores(copy).is_sound, where
    return ", ".join(noticed)


def check_flips(place: Place, root: Path, count: int, seed: int) -> None:
    draw = random.Random(seed)
    noticed: Counter[str] = Counter()
    for number in range(count):
        source = place.folder if number % 3 else place.unclean
        copy = root / "copy"
        shutil.copytree(source, copy)
        path = draw.choice(files_of(copy))
        if "ledger" not in path.name and draw.random() < 0.3:
            path = copy / LEDGER
        noticed[check_flip(place, copy, path, draw)] += 1
        shutil.rmtree(copy)
    print(dict(noticed))


def test_flipped_bytes(place: Place, memory: Path) -> None:
    check_flips(place, memory, 40, 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(11))
def test_many_flipped_bytes(place: Place, memory: Path, seed: int) -> None:
    check_flips(place, memory, 200, seed)
