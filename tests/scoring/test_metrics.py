"""Metrics of a scoring run: what node_exporter reads, whole at any moment, also of failures."""

from __future__ import annotations

import dataclasses
import os
import stat
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from pipeline.errors import ConfigError
from pipeline.events import Event, ScoreFinished, TaskDrift, emit, watch
from pipeline.scoring.alerts import drift_of_tasks
from pipeline.scoring.metrics import check_metrics, metrics_file, write_metrics
from pipeline.scoring.summary import InputReport, ScoreReport
from store import StoreError

END = ScoreFinished(
    output="scores",
    status="done",
    problem=None,
    elapsed_s=20.0,
    read=1000,
    rows={"scored": 900, "already_scored": 40, "repeated": 10, "filtered": 30, "quarantined": 20},
    filtered={"language": 30},
    quarantined={"not JSON": 15, "no id": 5},
    empty=2,
    truncated=7,
    files={"read": 2, "unchanged": 1, "failed": 0},
    files_written=1,
    drift={"mood": TaskDrift(excess=0.25, drifted=True)},
)
LAST = "salient_score_last_success_timestamp_seconds"


def values(path: Path) -> dict[tuple[str, ...], float]:
    """(name, own labels ...) -> value."""
    found = {}
    for family in text_string_to_metric_families(path.read_bytes().decode()):
        assert family.type == "gauge" and family.documentation.endswith(".")
        for sample in family.samples:
            assert sample.timestamp is None  # the collector refuses them
            own = [text for name, text in sample.labels.items() if name not in ("run", "output")]
            key = (sample.name, *own)
            assert key not in found
            found[key] = sample.value
    return found


def write(path: Path, end: ScoreFinished | None, **changes: Any) -> dict[tuple[str, ...], float]:
    facts: dict[str, Any] = {"run": "runs/mood", "output": "scores", "elapsed_s": 20.0, "now": 50.0}
    write_metrics(path, end, **facts | changes)
    return values(path)


def test_a_run_that_is_done_says_all_that_it_knows(tmp_path: Path) -> None:
    assert write(tmp_path / "a.prom", END) == {
        ("salient_score_last_run_timestamp_seconds",): 50,
        ("salient_score_last_run_success",): 1,
        (LAST,): 50,
        ("salient_score_duration_seconds",): 20,
        ("salient_score_read_rows",): 1000,
        ("salient_score_rows", "scored"): 900,
        ("salient_score_rows", "already_scored"): 40,
        ("salient_score_rows", "repeated"): 10,
        ("salient_score_rows", "filtered"): 30,
        ("salient_score_rows", "quarantined"): 20,
        ("salient_score_filtered_rows", "language"): 30,
        ("salient_score_quarantined_rows", "not JSON"): 15,
        ("salient_score_quarantined_rows", "no id"): 5,
        ("salient_score_empty_rows",): 2,
        ("salient_score_truncated_rows",): 7,
        ("salient_score_files", "read"): 2,
        ("salient_score_files", "unchanged"): 1,
        ("salient_score_files", "failed"): 0,
        ("salient_score_rows_per_second",): 45,
        ("salient_score_drift_excess", "mood"): 0.25,
        ("salient_score_drifted", "mood"): 1,
    }
    text = (tmp_path / "a.prom").read_text()
    assert '# TYPE salient_score_rows gauge\nsalient_score_rows{outcome="scored",' in text
    assert 'output="scores",run="runs/mood"} 900.0\n' in text and text.endswith("\n")


def test_a_failure_keeps_the_time_of_the_last_success(tmp_path: Path) -> None:
    path = tmp_path / "a.prom"
    failed = dataclasses.replace(END, status="failed", problem="a file failed")
    first = write(path, failed, now=10.0)  # nothing was ever done: 0, so that the alert fires
    assert (first[LAST,], first["salient_score_last_run_success",]) == (0, 0)
    assert first["salient_score_rows", "scored"] == 900  # what could be scored was
    write(path, END, now=20.0)
    for end in (failed, dataclasses.replace(END, status="stopped"), None):
        found = write(path, end, now=30.0)
        assert found[LAST,] == 20 and found["salient_score_last_run_success",] == 0
        assert found["salient_score_last_run_timestamp_seconds",] == 30
    assert len(found) == 4  # it knows no more than times
    assert write(path, None, output=None, now=40.0)[LAST,] == 20  # which scores: as before
    assert write(path, None, run="another", now=50.0)[LAST,] == 0  # that was not its success
    path.write_text('no metrics{"')
    assert write(path, None)[LAST,] == 0


texts = st.text(st.characters(codec=None) | st.sampled_from('\\"\n\r{},= né'), max_size=20)


@settings(max_examples=25, deadline=None)
@given(reasons=st.dictionaries(texts, st.integers(0, 10**12), max_size=4), run=texts, output=texts)
def test_any_names_come_through(
    tmp_path_factory: pytest.TempPathFactory, reasons: dict[str, int], run: str, output: str
) -> None:
    path = tmp_path_factory.mktemp("m") / "a.prom"
    end = dataclasses.replace(
        END, quarantined=reasons, drift={run: TaskDrift(excess=0, drifted=False)}
    )
    found = write(path, end, run=run, output=output, now=20.0)
    name = "salient_score_quarantined_rows"
    valid = {text.encode(errors="backslashreplace").decode(): n for text, n in reasons.items()}
    assert {key[1]: value for key, value in found.items() if key[0] == name} == valid
    assert write(path, None, run=run, output=output, now=30.0)[LAST,] == 20


def test_everyone_may_read_it_and_nothing_else_is_left(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write(tmp_path / "a.prom", END)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.prom").stat().st_mode) == 0o644
    assert [path.name for path in tmp_path.iterdir()] == ["a.prom"]


def test_two_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.prom"
    write(path, END)
    whole, ended, wrong = len(values(path)), threading.Event(), []

    def look() -> None:
        while not ended.is_set():
            try:
                assert len(values(path)) == whole
            except Exception as error:
                wrong.append(error)

    watcher = threading.Thread(target=look)
    writers = [
        threading.Thread(target=lambda n=n: [write_some(path, str(n)) for _ in range(8)])
        for n in range(2)
    ]
    watcher.start()
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    ended.set()
    watcher.join()
    assert not wrong and [one.name for one in tmp_path.iterdir()] == ["a.prom"]


def write_some(path: Path, run: str) -> None:
    write_metrics(path, END, run=run, output="scores", elapsed_s=1.0)


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "collector").mkdir()
    (tmp_path / "a.prom").symlink_to(tmp_path / "collector" / "b.prom")
    write(tmp_path / "a.prom", END)
    assert (tmp_path / "a.prom").is_symlink() and (tmp_path / "collector" / "b.prom").is_file()


def test_a_wrong_place_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "folder.prom").mkdir()
    for name, said in (
        ("salient.txt", r"files that end in \.prom only; .* salient\.prom"),
        ("folder.prom", "is a folder; name a file in it"),
        ("none/salient.prom", "there is no folder .*none; .*--collector.textfile.directory"),
    ):
        with (
            pytest.raises(ConfigError, match=said),
            metrics_file(tmp_path / name, run="r", output=None),
        ):
            raise AssertionError("begun")
    check_metrics(tmp_path / "salient.prom")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.prom"]


def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pipeline.scoring.metrics.tempfile.TemporaryFile", refuse)
    with pytest.raises(
        ConfigError, match=r"nothing can be written to .* \(Permission denied\); let"
    ):
        check_metrics(tmp_path / "a.prom")


def test_each_end_of_a_run_is_written_and_a_dry_run_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.prom"
    with metrics_file(path, run="runs/mood", output=None):
        emit(dataclasses.replace(END, status="dry run"))
        assert not path.exists()
        emit(END)
        assert values(path)["salient_score_read_rows",] == 1000
        emit(dataclasses.replace(END, read=5))
    assert values(path)["salient_score_read_rows",] == 5
    done = values(path)[LAST,]
    assert done > 1.7e9
    with metrics_file(None, run="", output=None):
        emit(END)


@pytest.mark.parametrize("error", [ConfigError("no such run"), KeyboardInterrupt()])
def test_a_run_that_does_not_come_to_its_end_is_a_failure(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "a.prom"
    write(path, END, now=20.0)
    with (
        pytest.raises(type(error)),
        metrics_file(path, run="runs/mood", output=Path("scores")),
    ):
        raise error
    found = values(path)
    assert found["salient_score_last_run_success",] == 0 and found[LAST,] == 20
    assert ("salient_score_read_rows",) not in found


def test_a_failure_that_was_counted_stays_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.prom"
    with (
        pytest.raises(RuntimeError),
        metrics_file(path, run="runs/mood", output=None),
    ):
        emit(dataclasses.replace(END, status="failed"))
        raise RuntimeError
    assert values(path)["salient_score_read_rows",] == 1000


def test_what_prevents_writing_is_said_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StoreError("no space left")

    monkeypatch.setattr("pipeline.scoring.metrics.fill_file", full)
    with metrics_file(tmp_path / "a.prom", run="r", output=None):
        emit(END)
    assert "a.prom: not written (no space left)" in caplog.text
    assert "Traceback" not in caplog.text


def test_an_event_holds_what_the_report_says() -> None:
    report = ScoreReport("scores", "abc", elapsed_s=3.25, files_written=2)
    counts = {
        "read": 10,
        "scored": 5,
        "already_scored": 1,
        "repeated": 1,
        "filtered/language": 2,
        "quarantined/not JSON": 1,
        "empty": 1,
        "truncated": 2,
    }
    report.inputs = [
        InputReport("a.jsonl", "read", counts=Counter(counts)),
        InputReport("b.jsonl", "unchanged", counts=Counter(counts)),
        InputReport("c.jsonl", "stopped"),
    ]
    report.judge(1.0)
    end = report.finished()
    assert (end.output, end.status, end.problem, end.elapsed_s) == ("scores", "stopped", None, 3.25)
    assert (end.read, sum(end.rows.values()), end.rows["scored"]) == (10, 10, 5)
    assert (end.filtered, end.quarantined) == ({"language": 2}, {"not JSON": 1})
    assert (end.empty, end.truncated, end.files_written, end.drift) == (1, 2, 2, {})
    assert end.files == {"read": 1, "unchanged": 1, "stopped": 1, "failed": 0}
    assert end.summary == report.to_dict()
    report.judge(0.0)
    assert report.finished().status == "failed"
    told: list[Event] = []
    with watch(told.append):
        emit(end)
    assert told == [end]


def test_the_worst_date_speaks_for_a_task() -> None:
    def entry(excess: float, status: str) -> dict[str, Any]:
        drifted = ["the class shares"] if status == "drifted" else []
        return {"status": status, "drifted": drifted, "predictions": {"excess": excess}}

    few, stable = entry(0.9, "too few texts"), entry(0.1, "stable")
    worse = {**entry(0.2, "drifted"), "classes": {"excess": 0.3}}
    tasks = {
        "mood": {"dates": {"2026-01-01": stable, "2026-01-02": worse, "2026-01-03": few}},
        "small": {"dates": {"2026-01-03": few}},
        "none": {"dates": {}},
    }
    assert drift_of_tasks({"tasks": tasks}) == {
        "mood": TaskDrift(excess=0.3, drifted=True),
        "small": TaskDrift(excess=0.9, drifted=False),
    }
