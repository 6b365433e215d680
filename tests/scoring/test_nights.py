"""Three nights of the guide's nightly job: what is scored, said, and shown to Prometheus.

The clock is that of the dumps: a night is what has arrived since the last one, and the nightly line
is the guide's own.
"""

from __future__ import annotations

import configparser
import gzip
import json
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from pipeline.commands.line import run_command
from pipeline.config import RunConfig
from tests.builders.dumps import jsonl, v2
from tests.builders.pages import pages

parser = pytest.importorskip("prometheus_client.parser")

PAGE = pages()["notebooks/guide/operating.md"]
BEGIN = "salient_score_"
"""What the names of all metrics begin with."""
LAST = "last_success"


def nightly(metrics: Path) -> list[str]:
    """The words of the guide's service, with another place for the metrics."""
    unit = configparser.ConfigParser(interpolation=None)
    unit.read_string(next(block.text for block in PAGE.blocks if block.language == "ini"))
    _, *words = shlex.split(unit["Service"]["ExecStart"].replace("\\\n", ""))
    words[words.index("--metrics") + 1] = str(metrics)
    return words


@pytest.fixture
def home(own_run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the guide's service works in, with the guide's filters in its run file."""
    folder = tmp_path / "own"
    section = next(block.text for block in PAGE.blocks if block.language == "toml")
    with (folder / "run.toml").open("a", encoding="utf-8") as file:
        file.write(f"\n{section}")
    (folder / "dumps").mkdir()
    monkeypatch.chdir(folder)
    return folder


def tweets(day: int, numbers: range, **extra: Any) -> bytes:
    """Posts of one day of November."""
    texts = ("a happy cat", "an angry dog", "a sad log", "a happy mat today")
    time = f"2026-11-{day}T09:00:00.000Z"
    return jsonl(
        v2(number, text=f"{texts[number % 4]} {number}", created_at=time, **extra)
        for number in numbers
    )


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """All rows of a folder of scores; [] before the first night."""
    if not any(folder.glob("date=*/*.parquet")):
        return []
    table = ds.dataset(folder, partitioning="hive", exclude_invalid_files=True).to_table()
    return list(table.select(["id", "date"]).to_pylist())


def samples(path: Path) -> dict[tuple[str, str], float]:
    """(name without its beginning, own label) -> value, of a file of metrics.

    A parser of Prometheus' text format reads it; every metric has help, a type and one run.
    """
    found: dict[tuple[str, str], float] = {}
    runs = set()
    for family in parser.text_string_to_metric_families(path.read_text(encoding="utf-8")):
        assert family.type == "gauge" and family.documentation, family
        for sample in family.samples:
            labels = dict(sample.labels)
            runs.add((labels.pop("run"), labels.pop("output")))
            assert len(labels) <= 1, sample
            own = (sample.name.removeprefix(BEGIN), "".join(labels.values()))
            assert own not in found, own
            found[own] = sample.value
    assert len(runs) == 1
    return found


class Night:
    """One run of the nightly line.

    Attributes:
        code: how the command ended.
        said: what `--json` printed.
        shown: the metrics.
        written: date -> rows that the folder of scores has more than before.
    """

    def __init__(self, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
        metrics, scores = home / "salient.prom", home / "scores"
        before = Counter(row["date"] for row in rows_of(scores))
        capsys.readouterr()
        self.code = run_command(nightly(metrics))
        self.said: dict[str, Any] = json.loads(capsys.readouterr().out)
        self.shown = samples(metrics)
        rows = rows_of(scores)
        assert len({row["id"] for row in rows}) == len(rows), "an id is there twice"
        self.written = dict(Counter(row["date"] for row in rows) - before)
        self.check()

    def check(self) -> None:
        """What is always true: counts add up, and are the same in both."""
        outcomes = ("scored", "already_scored", "repeated", "filtered", "quarantined")
        said, shown = self.said, self.shown
        assert said["read"] == sum(said[name] for name in outcomes)
        assert shown["read_rows", ""] == said["read"]
        assert {name: shown["rows", name] for name in outcomes} == {
            name: said[name] for name in outcomes
        }
        for kind in ("filtered", "quarantined"):
            own = {label: n for (name, label), n in shown.items() if name == f"{kind}_rows" and n}
            assert own == {reason: n for reason, n in said[f"{kind}_by"].items() if n}
        assert said["dates"] == [
            {"date": date, "rows": rows} for date, rows in sorted(self.written.items())
        ]
        assert said["scored"] == sum(self.written.values())
        good = self.code == 0
        assert (said["status"] == "done") == good == (shown["last_run_success", ""] == 1)
        ended, last = (shown[f"{name}_timestamp_seconds", ""] for name in ("last_run", LAST))
        assert last == ended if good else last < ended


def test_three_nights(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dumps = home / "dumps"
    (dumps / "21.jsonl").write_bytes(tweets(21, range(4)))
    first = Night(home, capsys)
    assert first.code == 0 and first.written == {"2026-11-21": 4}
    assert {label for name, label in first.shown if name == "drifted"} == {"mood", "level"}

    # Two of the last night again, a late one of its day, one that cannot be read, one in German.
    again = tweets(21, range(2)) + tweets(21, range(4, 5)) + tweets(22, range(5, 45))
    other = b'{"id": "1", "text": \n' + tweets(22, range(45, 46), lang="de")
    (dumps / "22.jsonl.gz").write_bytes(gzip.compress(again + other))
    second = Night(home, capsys)
    assert second.written == {"2026-11-21": 1, "2026-11-22": 40}
    assert (second.said["already_scored"], second.said["filtered"]) == (2, 1)
    assert second.said["quarantined"] == 1 and second.shown["files", "read"] == 1
    assert second.code == 0, second.said["problem"]

    # An upload that broke off: what is there is scored, and the night fails until it is replaced.
    whole = gzip.compress(tweets(23, range(50, 440)))
    (dumps / "23.jsonl.gz").write_bytes(whole[: len(whole) * 2 // 3])
    third = Night(home, capsys)
    assert third.code == 1 and third.said["problem"] and third.said["inputs"]["failed"] == 1
    assert third.shown["files", "failed"] == 1
    last = f"{LAST}_timestamp_seconds"
    assert third.shown[last, ""] == second.shown[last, ""]
    scored = third.said["scored"]
    assert 0 < scored < 390

    (dumps / "23.jsonl.gz").write_bytes(whole)
    replaced = Night(home, capsys)
    assert replaced.code == 0 and replaced.said["already_scored"] == scored
    assert replaced.written == {"2026-11-23": 390 - scored}

    nothing = Night(home, capsys)
    assert nothing.code == 0 and not nothing.written and nothing.said["read"] == 0


def test_a_mistake_before_anything_is_read_keeps_the_last_success(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "dumps" / "21.jsonl").write_bytes(tweets(21, range(4)))
    first = Night(home, capsys)
    (home / "dumps").rename(home / "elsewhere")
    assert run_command(nightly(home / "salient.prom")) == 2
    shown = samples(home / "salient.prom")
    assert shown["last_run_success", ""] == 0
    last = f"{LAST}_timestamp_seconds"
    assert shown[last, ""] == first.shown[last, ""] > 0
