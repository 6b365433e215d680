"""Events: told in order, by whoever they happen to, and no listener stops the work."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import logging
import threading
from pathlib import Path

import pytest

from pipeline import events, stages
from pipeline.config import RunConfig
from pipeline.events import (
    BlockWritten,
    Event,
    Progressed,
    StageFinished,
    StageStarted,
    Tally,
    emit,
    stage,
    watch,
)
from tests.builders.runs import write_mood_run


def started(name: str) -> StageStarted:
    return StageStarted(stage=name, folder="runs/a")


KINDS = [kind for _, kind in inspect.getmembers(events, dataclasses.is_dataclass)]


@pytest.mark.parametrize("kind", KINDS)
def test_each_field_of_an_event_is_documented_and_none_can_be_changed(kind: type) -> None:
    (found,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(found, ast.ClassDef) and ast.get_docstring(found)
    lines = found.body[1:]
    for field, words in zip(lines[::2], lines[1::2], strict=True):
        assert isinstance(field, ast.AnnAssign)
        assert isinstance(words, ast.Expr) and isinstance(words.value, ast.Constant)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_listeners_hear_in_the_order_in_which_they_came() -> None:
    heard: list[tuple[str, Event]] = []
    first = watch(lambda event: heard.append(("first", event)))
    with watch(lambda event: heard.append(("second", event))):
        emit(started("extract"))
        first()
        first()  # again does nothing
        emit(started("probe"))
    emit(started("run"))
    assert heard == [
        ("first", started("extract")),
        ("second", started("extract")),
        ("second", started("probe")),
    ]


def test_one_that_fails_stops_neither_the_work_nor_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[Event] = []

    def fail(event: Event) -> None:
        heard.append(event)
        raise ValueError("no more room")

    with caplog.at_level(logging.WARNING), watch(fail), watch(heard.append):
        emit(started("extract"))
        emit(started("probe"))
    assert [getattr(event, "stage", None) for event in heard] == ["extract"] * 2 + ["probe"] * 2
    (record,) = caplog.records  # once
    assert "StageStarted" in record.getMessage() and "no more room" in caplog.text


def test_one_that_is_told_to_stop_stops_the_work() -> None:
    def stop(_: Event) -> None:
        raise KeyboardInterrupt

    with watch(stop), pytest.raises(KeyboardInterrupt):
        emit(started("extract"))


def test_a_listener_may_come_and_go_within_an_event() -> None:
    heard: list[str] = []

    def once(_: Event) -> None:
        heard.append("once")
        stop()
        inner.append(watch(lambda _: heard.append("from then on")))

    inner: list[events.Watch] = []
    stop = watch(once)
    emit(started("extract"))
    assert heard == ["once"]
    emit(started("probe"))
    assert heard == ["once", "from then on"]
    inner[0]()


def test_threads_are_heard_but_by_those_who_listen_to_their_own() -> None:
    heard: list[Event] = []
    own: list[Event] = []

    def work(number: int) -> None:
        for _ in range(100):
            emit(started(f"stage {number}"))
            watch(own.append, here=True)()

    with watch(heard.append), watch(own.append, here=True):
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert own == []
        emit(started("mine"))
    assert own == [started("mine")] and len(heard) == 401
    assert events._watches == ()


def test_a_rate_counts_from_the_first_report(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("pipeline.events.time.monotonic", lambda: now)
    told: list[Event] = []
    tally = Tally("extracted", 1000, "texts")
    with watch(told.append):
        tally(400)
        now += 10
        tally(600, note="3 workers")
    facts = {"what": "extracted", "total": 1000, "unit": "texts"}
    assert told == [
        Progressed(done=400, rate=0.0, **facts),  # type: ignore[arg-type]
        Progressed(done=600, rate=20.0, note="3 workers", **facts),  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (None, None),
        (ValueError("no such file"), "no such file"),
        (ValueError(), "ValueError"),
        (KeyboardInterrupt(), "stopped"),
    ],
)
def test_a_stage_that_began_ends(error: BaseException | None, problem: str | None) -> None:
    told: list[Event] = []
    with watch(told.append):
        try:
            with stage("extract", Path("runs/a")):
                if error is not None:
                    raise error
        except BaseException as found:
            assert found is error
    begin, end = told
    assert begin == started("extract")
    assert isinstance(end, StageFinished) and end.elapsed_s >= 0
    assert (end.stage, end.folder, end.problem) == ("extract", "runs/a", problem)


def test_a_run_tells_its_stages_its_blocks_and_how_far_it_is(
    tmp_path: Path, tiny_bert: Path
) -> None:
    config = RunConfig.load(write_mood_run(tmp_path, tiny_bert))
    told: list[Event] = []
    with watch(told.append):
        stages.run(config)
    named = [(type(e), e.stage) for e in told if isinstance(e, StageStarted | StageFinished)]
    inner = [
        (kind, name)
        for name in ("extract", "probe", "consolidate")
        for kind in (StageStarted, StageFinished)
    ]
    assert named == [(StageStarted, "run"), *inner, (StageFinished, "run")]
    assert all(e.folder == config.run_dir for e in told if isinstance(e, StageStarted))
    assert all(e.problem is None for e in told if isinstance(e, StageFinished))
    blocks = [(e.start, e.stop) for e in told if isinstance(e, BlockWritten)]
    assert blocks == [(0, 64), (64, 128), (128, 160)]
    for what, total in (("extracted", 160), ("probed", 7), ("consolidated", 2)):
        steps = [e for e in told if isinstance(e, Progressed) and e.what == what]
        assert {step.total for step in steps} == {total} and steps[-1].done == total
        assert [step.done for step in steps] == sorted(step.done for step in steps)
