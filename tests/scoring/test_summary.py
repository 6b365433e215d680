"""What is told of a run: by file, by date, as JSON and as metrics."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.commands.line import run_command
from pipeline.scoring.files import ScoreOptions, score_files
from pipeline.scoring.summary import InputReport, ScoreReport
from tests.builders.dumps import jsonl, scores, v1, write_tweets
from tests.builders.heads import write_heads


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> list[Path]:
    return write_heads(tmp_path_factory.mktemp("heads"), tiny_bert)


def score(heads: list[Path], tmp_path: Path, *inputs: Path, dry_run: bool = False) -> ScoreReport:
    options = ScoreOptions(heads=heads, dry_run=dry_run)
    return score_files(inputs, output=tmp_path / "out", options=options, max_errors=1.0)


def day(number: int) -> str:
    return f"Fri Jan {number:02d} 07:29:00 +0000 2021"


def test_the_dates_are_those_of_the_rows_written(heads: list[Path], tmp_path: Path) -> None:
    one = [v1(i, created_at=day(1 + i % 2)) for i in range(5)]
    first = score(heads, tmp_path, write_tweets(tmp_path / "a", one)).to_dict()
    assert first["dates"] == [{"date": "2021-01-01", "rows": 3}, {"date": "2021-01-02", "rows": 2}]
    two = [*one, v1(7, created_at=day(2))]
    report = score(heads, tmp_path, write_tweets(tmp_path / "b", two), tmp_path / "a")
    assert report.to_dict()["dates"] == [{"date": "2021-01-02", "rows": 1}]
    assert report.record()["dates"] == report.to_dict()["dates"]
    assert score(heads, tmp_path, tmp_path / "b").to_dict()["dates"] == []
    (tmp_path / "c.csv").write_text("id,text\n1,tea\n")
    assert score(heads, tmp_path, tmp_path / "c.csv").dates == {"unknown": 1}
    table = scores(tmp_path / "out")
    assert table["platform"].to_pylist() == [None, *["twitter"] * 6]
    assert table.column_names[7] == "platform"
    # A dry run writes none.
    (tmp_path / "d.csv").write_text("id,text\n2,tea\n")
    assert score(heads, tmp_path, tmp_path / "d.csv", dry_run=True).dates == {}


def test_a_dry_run_tells_what_each_file_is(
    heads: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notice = {"delete": {"status": {"id": 1, "id_str": "1"}}}
    lines = jsonl([v1(0), notice, v1(1)]) + b"{broken\n"
    (tmp_path / "a.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "b.csv").write_text("id,text\n1,tea\n")
    (tmp_path / "c.csv").write_text("x,y\n1,2\n")
    words = ["score", *(str(tmp_path / name) for name in ("a.gz", "b.csv", "c.csv"))]
    words += ["--out", str(tmp_path / "out"), "--heads", str(heads[0]), "--dry-run", "-q"]
    assert run_command([*words, "--max-errors", "1"]) == 2
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"{tmp_path}/a.gz: tweets (v1.1 tweet 2")
    for part in ("gz", "JSON lines", "utf-8", "4 rows read, 2 to score", "1 left out (delete)"):
        assert part in told[0]
    assert "1 quarantined (not JSON)" in told[0]
    assert told[1].startswith(f"{tmp_path}/b.csv: csv; lines of text; plain; utf-8: 1 row read")
    assert told[2].startswith(f"{tmp_path}/c.csv: csv") and "failed: " in told[2]
    assert run_command([*words, "--max-errors", "1", "--json"]) == 2
    files = json.loads(capsys.readouterr().out)["input_files"]
    assert [one["kind"] for one in files] == ["tweets", "csv", "csv"]
    assert files[0]["shapes"]["v1.1 tweet"] == 2
    assert (files[0]["framing"], files[0]["encoding"]) == ("JSON lines", "utf-8")
    assert files[0]["counts"]["filtered/delete"] == 1
    assert not (tmp_path / "out").exists()


def test_a_line_of_a_file() -> None:
    entry = InputReport("a", "failed", problem="cannot be opened")
    assert entry.told() == "a: not recognised: failed: cannot be opened"
    entry = InputReport("a", "unchanged", kind="csv")
    entry.counts.update({"read": 3, "scored": 2, "filtered/language": 1})
    assert entry.told() == (
        "a: csv: unchanged since an earlier run, which had 3 rows read, 2 to score, 1 left out"
        " (language)"
    )


def test_metrics_are_written_whatever_comes_of_it(heads: list[Path], tmp_path: Path) -> None:
    dump, file = write_tweets(tmp_path / "a", [v1(0), v1(1)]), tmp_path / "salient.prom"

    def metrics() -> dict[str, list[float]]:
        families = text_string_to_metric_families(file.read_text())
        return {one.name: [sample.value for sample in one.samples] for one in families}

    words = ["score", str(dump), "--out", str(tmp_path / "out"), "--metrics", str(file), "-q"]
    assert run_command([*words, "--heads", str(tmp_path / "none")]) == 2  # before there is a model
    failed = metrics()
    assert run_command([*words, "--heads", str(heads[0])]) == 0
    done = metrics()
    assert failed != done and {*failed} <= {*done}
    file.unlink()
    assert run_command([*words, "--heads", str(heads[0]), "--dry-run"]) == 0
    assert not file.exists()
    words[5] = str(tmp_path / "x.txt")
    assert run_command([*words, "--heads", str(heads[0])]) == 2
