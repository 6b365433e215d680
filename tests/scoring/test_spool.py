"""Standard input as a file like any other."""

from __future__ import annotations

import errno
import fcntl
import gzip
import io
import os
import pty
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import pytest

from pipeline.commands.line import run_command
from pipeline.errors import ConfigError
from pipeline.scoring.files import ScoreOptions, score_files
from pipeline.scoring.spool import standard_input
from pipeline.scoring.summary import ScoreReport
from store.errors import TryAgain
from tests.builders.dumps import jsonl, quarantine, scores, v1, write_tweets
from tests.builders.heads import write_heads

DASH = Path("-")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> list[Path]:
    return write_heads(tmp_path_factory.mktemp("heads"), tiny_bert)


Piped = Callable[..., ScoreReport]


@pytest.fixture
def piped(heads: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Piped:
    """Score bytes that come by standard input, and files."""

    def run(data: bytes, *inputs: Path, **options: Any) -> ScoreReport:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        own = ScoreOptions(heads=heads, **options)
        given = inputs or [DASH]
        return score_files(given, output=tmp_path / "out", options=own, max_errors=1.0)

    return run


def test_a_stream_is_a_file_for_a_while(place: Path) -> None:
    data, other = os.urandom(3 << 20), Path("a")
    with standard_input([other, DASH], stream=io.BytesIO(data)) as (inputs, names):
        assert inputs[0] == other and names == {inputs[1]: "stdin"}
        assert inputs[1].read_bytes() == data
        assert inputs[1].parent.parent == place and inputs[1].parent.stat().st_mode & 0o077 == 0
        name = inputs[1].name
    assert list(place.iterdir()) == []
    with standard_input([DASH], stream=io.BytesIO(data)) as (inputs, _):
        assert inputs[0].name == name
    with standard_input([DASH], stream=io.BytesIO(b"x")) as (inputs, _):
        assert inputs[0].name != name
    with standard_input([other]) as (inputs, names):
        assert (inputs, names) == ([other], {})


def test_what_killed_runs_have_left_is_removed_and_no_more(place: Path) -> None:
    left = place / "salient-stdin-left"
    left.mkdir()
    (left / "stdin").write_bytes(b"x")
    (place / "other").mkdir()
    with (
        standard_input([DASH], stream=io.BytesIO(b"1")) as (one, _),
        standard_input([DASH], stream=io.BytesIO(b"2")) as (two, _),
    ):
        assert not left.exists() and one[0].read_bytes() == b"1" and two[0].read_bytes() == b"2"
    assert [path.name for path in place.iterdir()] == ["other"]


def test_a_folder_that_another_run_takes_for_a_leftover_is_made_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, made = tempfile.mkdtemp, list[str]()

    def mkdtemp(**options: Any) -> str:
        made.append(make(**options))
        if len(made) < 3:  # what another run does that begins before the lock is taken
            Path(made[-1]).rmdir()
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    with standard_input([DASH], stream=io.BytesIO(b"1")) as (inputs, _):
        assert inputs[0].read_bytes() == b"1" and str(inputs[0].parent) == made[2]
    assert list(place.iterdir()) == []


def test_a_folder_that_is_removed_while_its_lock_is_waited_for_is_made_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, locked = fcntl.flock, list[int]()

    def flock(held: int, how: int) -> None:
        lock(held, how)
        locked.append(held)
        if len(locked) == 1:
            (folder,) = place.iterdir()
            folder.rmdir()

    monkeypatch.setattr(fcntl, "flock", flock)
    with standard_input([DASH], stream=io.BytesIO(b"1")) as (inputs, _):
        assert inputs[0].read_bytes() == b"1" and len(locked) == 2
    assert list(place.iterdir()) == []


def refused(
    message: str,
    stream: IO[bytes] | None,
    error: type[Exception] = ConfigError,
    *,
    times: int = 1,
) -> None:
    with (
        pytest.raises(error, match=message),
        standard_input([DASH] * times, stream=stream),
    ):
        pass


def test_what_is_no_stream(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "rb") as terminal:
        refused(r"is a terminal.*zcat day\.jsonl\.gz \| salient", cast(IO[bytes], terminal))
    os.close(master)
    with pytest.raises(ConfigError, match="named twice"), standard_input([DASH, DASH]):
        pass
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(ConfigError, match="is closed"), standard_input([DASH]):
        pass

    class Full(io.BytesIO):
        def read(self, _: int | None = -1) -> bytes:
            raise OSError(errno.ENOSPC, "no space left")

    with pytest.raises(TryAgain, match="set TMPDIR"), standard_input([DASH], stream=Full()):
        pass
    assert list(place.iterdir()) == []


def test_streams_are_recognised_and_scored_once(piped: Piped, tmp_path: Path) -> None:
    packed = gzip.compress(jsonl([v1(0), v1(1)]) + b"{broken\n")
    report = piped(packed)
    (entry,) = report.inputs
    assert (entry.name, entry.kind, report.scored) == ("stdin", "tweets", 2)
    assert "gz" in str(entry.container)
    assert set(scores(tmp_path / "out")["source_file"].to_pylist()) == {"stdin"}
    assert [line["source_file"] for line in quarantine(tmp_path / "out")] == ["stdin"]
    assert piped(packed).inputs[0].state == "unchanged"
    # Beside files, in any order.
    dump = write_tweets(tmp_path / "dump", [v1(1), v1(2)])
    report = piped(jsonl([v1(2), v1(3)]), dump, DASH)
    assert [one.name for one in report.inputs] == [str(dump), "stdin"]
    assert report.to_dict()["repeated"] == 1 and len(scores(tmp_path / "out")) == 4
    assert (
        not (tmp_path / "out" / "_inputs.parquet").exists()
        or b"salient-stdin" not in (tmp_path / "out" / "_inputs.parquet").read_bytes()
    )


def test_rows_without_ids_are_known_by_the_streams_content(piped: Piped, tmp_path: Path) -> None:
    assert piped(b"text,a\nrain,1\nsun,2\n").scored == 2
    assert piped(b"text,a\nrain,1\nsun,2\n").inputs[0].state == "unchanged"
    assert piped(b"text,a\ntea,3\n").scored == 1  # another night's
    assert len(scores(tmp_path / "out")) == 3


def test_what_is_wrong_with_a_stream_is_said_of_stdin(piped: Piped, place: Path) -> None:
    with pytest.raises(ConfigError) as failure:
        piped(b"a,b\n1,2\n")
    assert str(failure.value).startswith("stdin: ") and str(place) not in str(failure.value)
    report = piped(jsonl([v1(0)]), dry_run=True)
    assert report.scored == 1 and report.files_told()[0].startswith("stdin: tweets (")
    assert list(place.iterdir()) == []


def test_a_terminal_is_a_usage_error(
    heads: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        words = ["score", "-", "--out", str(tmp_path / "out"), "--heads", str(heads[0])]
        assert run_command(words) == 2
    os.close(master)
    assert "is a terminal" in capsys.readouterr().err
