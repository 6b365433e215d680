"""What a scoring run tells of itself, in events, and what it leaves for Prometheus."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.errors import CorpusError
from pipeline.events import Event, FileRead, RowsScored, ScoreFinished, watch
from pipeline.scoring.files import score_files
from pipeline.scoring.metrics import metrics_file
from tests.builders.dumps import v1, write_tweets
from tests.builders.scoring import run_without_model


def test_a_scoring_run_tells_its_files_its_rows_and_its_end(
    finished_run: Path, tmp_path: Path
) -> None:
    dump = tmp_path / "a.jsonl"
    write_tweets(dump, [v1(number, text=f"a happy dog {number}") for number in range(40)])
    told: list[Event] = []
    with (
        watch(told.append),
        metrics_file(tmp_path / "a.prom", run="mood", output=tmp_path / "scores"),
    ):
        report = score_files([dump], finished_run, tmp_path / "scores")
        again = score_files([dump], finished_run, tmp_path / "scores")
    files = [event for event in told if isinstance(event, FileRead)]
    assert [(one.path, one.state, one.num_rows) for one in files] == [
        (str(dump), "read", 40),
        (str(dump), "unchanged", 40),
    ]
    rows = [event for event in told if isinstance(event, RowsScored)]
    assert sum(one.num_rows for one in rows) == 40 == rows[-1].scored == rows[-1].read
    assert rows[-1].num_files == 1 and rows[-1].rate > 0
    first, second = [event for event in told if isinstance(event, ScoreFinished)]
    assert first.summary == report.to_dict() and second.summary == again.to_dict()
    assert (first.status, first.read, first.rows["scored"]) == ("done", 40, 40)
    assert (second.read, second.files["unchanged"]) == (0, 1)
    assert first.drift and not second.drift  # nothing was computed
    text = (tmp_path / "a.prom").read_text()
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert values["salient_score_last_run_success"] == 1
    assert values["salient_score_read_rows"] == 0  # of the last run


def test_what_cannot_be_recognised_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, _: object) -> None:
        raise CorpusError(f"{path}: its first file is UTF-16 without a mark")

    monkeypatch.setattr("pipeline.scoring.batch.recognised", refused)
    (entry,) = run_without_model([write_tweets(tmp_path / "a", [v1(0)])], tmp_path / "out").inputs
    assert (entry.state, entry.counts["scored"], entry.problem) == ("read", 1, None)
    assert (entry.framing, entry.container, entry.encoding) == (None, None, None)
