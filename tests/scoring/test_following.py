"""A folder that fills: every file once it is complete, nothing lost or doubled, a gentle end."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.commands.line import run_command
from pipeline.errors import InputError
from pipeline.locking import one_at_a_time
from pipeline.scoring.following import (
    MAX_TRIES,
    Following,
    FollowReport,
    Found,
    Sighting,
    follow_files,
    look,
    put_off,
    waiting,
)
from pipeline.scoring.prepared import ScoreOptions
from pipeline.scoring.summary import ScoreReport
from pipeline.texts import readahead
from pipeline.texts.readahead import ObjectFile
from store.disk import ObjectLocation, locate
from store.errors import StoreBusy
from tests.builders.command_processes import heeding
from tests.builders.dumps import jsonl, scores, v1, write_tweets
from tests.builders.forking import start
from tests.builders.heads import write_heads
from tests.builders.waiting import wait_until

NAMES = [Path(name) for name in ("a.jsonl", "b.jsonl", "c/d.gz")]
QUIET_S = 3


# --- what is complete ---------------------------------------------------------------------------

Step = dict[Path, Found]
FOUND = st.builds(Found, st.integers(0, 3), st.integers(0, 1), st.integers(0, 1), st.booleans())
STEPS = st.lists(st.dictionaries(st.sampled_from(NAMES), FOUND), max_size=30)


def looks(steps: list[Step], quiet_s: float = QUIET_S) -> list[list[Path]]:
    """What is taken at each look, one a second."""
    known: dict[Path, Sighting] = {}
    taken = []
    for now, found in enumerate(steps):
        known, ready = look(known, found, now_s=now, quiet_s=quiet_s)
        assert list(known) == list(found)  # memory is that of the files that are there
        taken.append(ready)
    return taken


def quiet_since(steps: list[Step], path: Path, now: int) -> int:
    """The first of the looks without a change that end with this one."""
    first = now
    while first and steps[first - 1].get(path) == steps[now][path]:
        first -= 1
    return first


@given(STEPS)
def test_a_file_is_taken_once_in_each_state_that_is_quiet(steps: list[Step]) -> None:
    for now, ready in enumerate(looks(steps)):
        for path, found in steps[now].items():
            same = now - quiet_since(steps, path, now)
            if path in ready:
                assert found.is_meant and same >= QUIET_S
            # Exactly at the look at which it becomes so; never again in that state.
            assert (path in ready) == (found.is_meant and same == QUIET_S)


@given(STEPS, st.floats(0, 5))
def test_what_waits_will_be_taken_if_nothing_changes(steps: list[Step], quiet_s: float) -> None:
    known: dict[Path, Sighting] = {}
    for now, found in enumerate(steps):
        known, _ = look(known, found, now_s=now, quiet_s=quiet_s)
    num = waiting(known)
    found = {path: one.found for path, one in known.items()}
    later, ready = look(known, found, now_s=len(steps) + 5, quiet_s=quiet_s)
    assert len(ready) == num and waiting(later) == 0


@pytest.mark.parametrize("earlier", ["a.jsonl.part", ".a.jsonl.Xf3a", "_a.jsonl", "a.jsonl~"])
def test_a_file_that_is_renamed_into_place_is_taken_at_once(earlier: str) -> None:
    part, whole = Path("d") / earlier, Path("d") / "a.jsonl"
    before, after = Found(5, 1, 7, is_meant=False), Found(9, 2, 7)
    assert looks([{part: before}, {whole: after}, {whole: after}]) == [[], [whole], []]
    # Not another file that got the inode, nor one beside which the unfinished one goes on.
    assert looks([{part: before}, {Path("d/b"): after}]) == [[], []]
    assert looks([{part: before}, {part: before, whole: after}]) == [[], []]
    # One in the place of another that was taken.
    old = Found(3, 0, 1)
    steps = [{whole: old}] * 4 + [{whole: old, part: before}, {whole: after}]
    assert looks(steps) == [[], [], [], [whole], [], [whole]]


def test_no_quiet_time_takes_every_file_at_once() -> None:
    one, two = Found(1, 1, 1), Found(2, 2, 1)
    path = NAMES[0]
    assert looks([{path: one}, {path: one}, {path: two}, {}], 0) == [[path], [], [path], []]


@given(st.integers(1, 2000), st.floats(0.05, 10))
def test_what_cannot_be_reached_is_taken_again_after_longer_pauses(
    tries: int, poll_s: float
) -> None:
    path, state = NAMES[0], Found(1, 1, 1)
    known, ready = look({}, {path: state}, now_s=0, quiet_s=0)
    now_s, pauses = 0.0, list[float]()
    for number in range(1, tries + 1):
        assert ready == [path]
        known = put_off(known, ready, now_s=now_s, poll_s=poll_s)
        assert waiting(known) == (number < MAX_TRIES)
        pauses.append(known[path].again_s - now_s)
        assert look(known, {path: state}, now_s=now_s, quiet_s=0)[1] == []
        # Another content does not wait.
        assert look(known, {path: Found(2, 1, 1)}, now_s=now_s, quiet_s=0)[1] == [path]
        now_s = known[path].again_s
        known, ready = look(known, {path: state}, now_s=now_s, quiet_s=0)
    assert pauses[0] == poll_s and max(pauses) < 601
    assert all(b > a * 1.9 or b > 599 for a, b in itertools.pairwise(pauses))
    # Once it is read it is not taken any more.
    assert ready == [path]
    assert look(known, {path: state}, now_s=now_s + 1e6, quiet_s=0)[1] == []


# --- what is scored -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> list[Path]:
    return write_heads(tmp_path_factory.mktemp("heads"), tiny_bert)


@dataclass
class Rounds:
    """What is done after each round, in turn; then it is idle."""

    actions: list[Callable[[], object]] = field(default_factory=list)
    reports: list[ScoreReport] = field(default_factory=list)

    def __call__(self, report: ScoreReport) -> None:
        self.reports.append(report)
        if self.actions:
            self.actions.pop(0)()


def follow(
    folder: Path, output: Path, heads: list[Path], rounds: Rounds | None = None, **options: Any
) -> FollowReport:
    return follow_files(
        folder,
        output=output,
        options=ScoreOptions(heads=heads),
        following=Following(quiet_s=0, until_idle=True),
        on_round=rounds or Rounds(),
        **options,
    )


def test_files_that_come_are_scored_in_rounds(heads: list[Path], tmp_path: Path) -> None:
    dumps, output = tmp_path / "dumps", tmp_path / "out"
    (dumps / "day").mkdir(parents=True)
    write_tweets(dumps / "a.jsonl", [v1(0), v1(1)])
    write_tweets(dumps / "b.jsonl.part", [v1(7)])
    (dumps / "bad.jsonl.gz").write_bytes(b"\x1f\x8b\x08rubbish")

    def second() -> None:
        write_tweets(dumps / "day" / "b.jsonl", [v1(1), v1(2)])
        (dumps / "b.jsonl.part").rename(dumps / "c.jsonl")

    def third() -> None:  # one that grows, and the one that failed
        write_tweets(dumps / "a.jsonl", [v1(0), v1(1), v1(3)])
        write_tweets(dumps / "bad.jsonl.gz", [v1(4)])

    rounds, said = Rounds([second, third]), list[str]()
    report = follow(dumps, output, heads, rounds, say=said.append)
    assert (report.rounds, report.scored, report.failed) == (3, 6, {})
    found = [[Path(one.name).name for one in each.inputs] for each in rounds.reports]
    assert found == [
        ["a.jsonl", "bad.jsonl.gz"],
        ["bad.jsonl.gz", "c.jsonl", "b.jsonl"],  # the first is still unread
        ["a.jsonl", "bad.jsonl.gz"],
    ]
    assert [one.scored for one in rounds.reports] == [2, 2, 2]
    problems = [one.problem for one in rounds.reports]
    assert "bad.jsonl.gz" in str(problems[0]) and problems[1:] == [problems[0], None]
    assert sum(line.startswith("heads:") for line in said) == 1
    assert sum("has failed" in line for line in said) == 2
    ids = scores(output)["id"].to_pylist()
    assert ids == [v1(i)["id_str"] for i in (0, 1, 2, 3, 4, 7)]
    assert len(list((output / "_runs").glob("*.json"))) == 3
    # Started again, it takes everything, and finds nothing new.
    again = Rounds()
    assert follow(dumps, output, heads, again).scored == 0
    assert [one.state for one in again.reports[0].inputs] == ["unchanged"] * 4


class Told:
    """Told to stop after so many blocks."""

    at_once = False

    def __init__(self, after: int) -> None:
        self.left = after
        self.gentle = 0

    @property
    def is_told(self) -> bool:
        self.left -= 1
        return self.left < 0

    def gently(self) -> AbstractContextManager[None]:
        self.gentle += 1
        return nullcontext()


def test_told_to_stop_it_finishes_what_is_in_hand(heads: list[Path], tmp_path: Path) -> None:
    dumps, output = tmp_path / "dumps", tmp_path / "out"
    dumps.mkdir()
    write_tweets(dumps / "a", [v1(i) for i in range(40)])
    write_tweets(dumps / "b", [v1(i) for i in range(40, 50)])
    stop, rounds = Told(5), Rounds()
    follow(dumps, output, heads, rounds, stop=stop, block_rows=10)
    (report,) = rounds.reports
    assert stop.gentle == 1 and [one.state for one in report.inputs] == ["stopped"] * 2
    found = report.to_dict()
    assert found["status"] == "stopped" and found["inputs"]["stopped"] == 2
    assert 0 < report.scored == found["read"] < 40 and found["problem"] is None
    assert found["dates"] == [{"date": "2021-01-01", "rows": report.scored}]
    assert len(scores(output)) == report.scored
    rest = follow(dumps, output, heads)
    assert rest.scored == 50 - report.scored
    assert len(set(scores(output)["id"].to_pylist())) == len(scores(output)) == 50


def test_what_cannot_be_followed(heads: list[Path], tmp_path: Path) -> None:
    write_tweets(tmp_path / "a", [v1(0)])
    (tmp_path / "dumps").mkdir()
    for folder, output, message in (
        (tmp_path / "none", "out", "none: no such folder"),
        (tmp_path / "a", "out", "a: is a file; name it as an INPUT"),
        (tmp_path / "dumps", "dumps", "is the folder of files to score"),
    ):
        with pytest.raises(InputError, match=message):
            follow(folder, tmp_path / output, heads)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no INPUT: name files, folders or -"),
        (["a", "--follow", "dumps"], "no INPUT, such as a"),
        (["a", "--until-idle"], "--until-idle goes with --follow"),
        (["--follow", "dumps", "--dry-run"], "--follow goes without --dry-run"),
        (["--follow", "dumps", "-"], "no INPUT, such as -"),
    ],
)
def test_usage(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["score", *words]) == 2
    assert message in capsys.readouterr().err


@dataclass
class Away:
    """Refuses requests for `b.jsonl` after some that pass, until it is back."""

    passes: int = 0
    is_back: bool = False

    def __call__(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def refused(location: ObjectLocation, path: str, *args: Any, **options: Any) -> Any:
            self.passes -= path.endswith("/b.jsonl")
            if path.endswith("/b.jsonl") and self.passes < 0 and not self.is_back:
                raise StoreBusy(f"{location.address}/{path}: cannot be reached now (503)")
            return call(location, path, *args, **options)

        return refused

    def come(self) -> None:
        self.is_back = True


@pytest.fixture
def dumps_in_bucket(memory_bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Three of them; a request is made once only, and each look into an object is one."""
    monkeypatch.setattr(ObjectFile.__init__, "__kwdefaults__", {"delays_s": ()})
    monkeypatch.setattr(readahead, "NUM_BEGINS", 0)
    for number, name in enumerate(("a", "b", "c")):
        put(memory_bucket, f"{name}.jsonl", jsonl([v1(2 * number), v1(2 * number + 1)]))
    return memory_bucket


def put(url: str, name: str, data: bytes) -> None:
    location = locate(url)
    assert isinstance(location, ObjectLocation)
    location.put(name, data)


@pytest.mark.parametrize(
    ("verb", "passes"),
    [("head", 0), ("read_range", 0), ("head", 1), ("read_range", 3)],
    ids=["checked", "begun to be checked", "opened to be read", "read"],
)
def test_an_object_that_cannot_be_reached_fails_its_round_and_is_taken_again(
    verb: str,
    passes: int,
    heads: list[Path],
    dumps_in_bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    away = Away(passes)
    monkeypatch.setattr(ObjectLocation, verb, away(getattr(ObjectLocation, verb)))
    rounds, said = Rounds([str, away.come]), list[str]()
    report = follow(Path(dumps_in_bucket), tmp_path / "out", heads, rounds, say=said.append)
    assert (report.rounds, report.scored, report.failed) == (3, 6, {})
    first, second, third = rounds.reports
    assert first.scored == 4 and str(first.problem).count("cannot be reached now (503)") == 1
    assert [one.state for one in first.inputs].count("failed") == 1
    assert second.scored == 0 and second.problem == first.problem
    assert third.scored == 2 and third.problem is None
    assert [Path(one.name).name for one in third.inputs] == ["b.jsonl"]
    assert sum("taken again, after pauses" in line for line in said) == 1
    assert len(set(scores(tmp_path / "out")["id"].to_pylist())) == 6
    records = list((tmp_path / "out" / "_runs").glob("*.json"))
    assert len(records) == 3 and not any("unreached" in one.read_text() for one in records)


def test_what_is_never_reached_is_a_failure_once_idle(
    heads: list[Path],
    dumps_in_bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put(dumps_in_bucket, "bad.jsonl.gz", b"\x1f\x8b\x08rubbish")
    monkeypatch.setattr(ObjectLocation, "head", Away()(ObjectLocation.head))
    rounds, said = Rounds(), list[str]()
    report = follow(Path(dumps_in_bucket), tmp_path / "out", heads, rounds, say=said.append)
    assert [one.scored for one in rounds.reports] == [4, *[0] * (MAX_TRIES - 1)]
    failed = Counter(line.split(": ")[1] for line in said if line.startswith("failed: "))
    assert list(failed.values()) == [MAX_TRIES, 1]  # what is bad is read once
    assert {str(path) for path in report.failed} == set(failed)
    words = command(Path(dumps_in_bucket), tmp_path / "out", heads)
    words[2] = dumps_in_bucket
    assert run_command([*words, "--until-idle", "--quiet"]) == 1
    # Named as an input, and alone, it may be tried again.
    alone = ["score", f"{dumps_in_bucket}/b.jsonl", *words[3:5], *words[words.index("--heads") :]]
    assert run_command(alone) == 75
    assert "cannot be reached now (503)" in capsys.readouterr().err


# --- the command --------------------------------------------------------------------------------


def command(dumps: Path, output: Path, heads: list[Path]) -> list[str]:
    words = ["score", "--follow", str(dumps), "--out", str(output), "--quiet-s", "0", "--json"]
    return [*words, *(word for head in heads for word in ("--heads", str(head)))]


def is_said(printed: Path, words: str, times: int = 1) -> bool:
    """Whether a process has said something so many times."""
    return printed.exists() and printed.read_text().count(words) >= times


def test_a_failed_file_fails_the_command_once_idle(
    heads: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dumps = tmp_path / "dumps"
    dumps.mkdir()
    write_tweets(dumps / "a", [v1(0)])
    (dumps / "b.gz").write_bytes(b"\x1f\x8b\x08rubbish")
    words = [*command(dumps, tmp_path / "out", heads), "--until-idle", "--quiet"]
    assert run_command(words) == 1
    printed = capsys.readouterr()
    (line,) = printed.out.splitlines()
    assert json.loads(line)["scored"] == 1 and "b.gz" in printed.err


def test_rows_that_fail_a_round_fail_the_command_until_they_are_mended(
    heads: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dumps, broken = tmp_path / "dumps", b"{broken\n" * 2
    dumps.mkdir()
    path, rest = write_tweets(dumps / "a", [v1(0), v1(1), v1(2)]), jsonl([v1(3)])
    path.write_bytes(path.read_bytes() + broken)
    write_tweets(dumps / "b", [v1(4)])
    words = [*command(dumps, tmp_path / "out", heads), "--until-idle", "--quiet"]
    assert run_command(words) == 1
    assert "2 of 6 rows were unreadable" in capsys.readouterr().err
    assert len(scores(tmp_path / "out")) == 4

    def mend() -> None:
        write_tweets(dumps / ".a.part", [v1(0), v1(1), v1(2)]).rename(path)

    rounds = Rounds([lambda: path.write_bytes(path.read_bytes() + rest), mend])
    report = follow(dumps, tmp_path / "out", heads, rounds)
    assert [one.problem is None for one in rounds.reports] == [False, False, True]
    assert report.failed == {}


def test_a_folder_that_this_user_may_not_look_into_is_left_out(
    heads: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dumps, said = tmp_path / "dumps", list[str]()
    (dumps / "lost+found").mkdir(parents=True)
    write_tweets(dumps / "a", [v1(0)])
    write_tweets(dumps / "lost+found" / "b", [v1(1)])
    may = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path).name != "lost+found" and may(path, mode)
    )
    rounds = Rounds([lambda: write_tweets(dumps / "c", [v1(2)])])
    assert follow(dumps, tmp_path / "out", heads, rounds, say=said.append).scored == 2
    line = f"{dumps / 'lost+found'}: left out, this user may not look into it"
    assert said.count(line) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_its_normal_end(heads: list[Path], tmp_path: Path, number: int) -> None:
    dumps, output, printed = tmp_path / "dumps", tmp_path / "out", tmp_path / "printed"
    dumps.mkdir()
    write_tweets(dumps / "a", [v1(0)])
    process = start(heeding, command(dumps, output, heads), str(printed))
    for come, name in ((1, "b"), (2, "c")):
        wait_until(partial(is_said, printed, '"done"', come))
        # Never there in part: without a quiet time it would be taken like that.
        write_tweets(dumps / f".{name}.part", [v1(0), v1(come)]).rename(dumps / name)
    wait_until(partial(is_said, printed, '"done"', 3))
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 0
    said = printed.read_text()
    assert "no longer followed; 3 rows scored in 3 rounds" in said and "Traceback" not in said


def test_told_to_stop_while_another_process_has_the_folder(
    heads: list[Path], tmp_path: Path
) -> None:
    dumps, output, printed = tmp_path / "dumps", tmp_path / "out", tmp_path / "printed"
    dumps.mkdir()
    write_tweets(dumps / "a", [v1(0)])
    with one_at_a_time(output, print):
        process = start(heeding, command(dumps, output, heads), str(printed))
        wait_until(partial(is_said, printed, "another process is at work"))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGTERM)
        process.join()
    assert process.exitcode == 0 and "0 rows scored in 0 rounds" in printed.read_text()
