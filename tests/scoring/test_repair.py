"""Repair: damaged files set aside, the ledger made again, and every row back exactly once."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.commands.line import run_command
from pipeline.errors import ConfigError, ScoreError
from pipeline.scoring.deletion import COPY, DELETED, delete_scores
from pipeline.scoring.ledger import LEDGER, NOTE
from pipeline.scoring.parts import SET_ASIDE, check_files
from pipeline.scoring.place import SCORE_CARD
from pipeline.scoring.repair import repair_scores
from store.tables import write_json, write_table
from tests.builders.dumps import quarantine, scores, v1, write_tweets
from tests.builders.forking import start
from tests.builders.scoring import die_at_step, run_without_model

NUM_TWEETS = 60


@pytest.fixture
def inputs(tmp_path: Path) -> list[Path]:
    """Two dumps that share tweets, and a broken line."""
    days = [f"Fri Jan {1 + i % 3:02d} 07:29:00 +0000 2021" for i in range(NUM_TWEETS)]
    tweets = [v1(i, created_at=day) for i, day in enumerate(days)]
    paths = [write_tweets(tmp_path / "day1", tweets[:40]), tmp_path / "day2"]
    write_tweets(paths[1], tweets[30:])
    paths[0].write_bytes(paths[0].read_bytes() + b"{bad\n")
    return paths


@pytest.fixture
def folder(inputs: list[Path], tmp_path: Path) -> Path:
    run_without_model(inputs, tmp_path / "out")
    return tmp_path / "out"


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("date=*/*.parquet"))


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def state(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_sound_folder_is_left_as_it_is(folder: Path, inputs: list[Path]) -> None:
    before = {path: path.stat().st_mtime_ns for path in parts(folder)}
    for _ in range(2):
        report = repair_scores(folder)
        assert report.is_sound and (report.rows, report.files) == (NUM_TWEETS, len(before))
        assert "nothing to mend" in str(report)
    assert {path: path.stat().st_mtime_ns for path in parts(folder)} == before
    assert run_without_model(inputs, folder).to_dict()["inputs"]["unchanged"] == 2


def test_a_torn_file_is_set_aside_and_its_rows_come_back(folder: Path, inputs: list[Path]) -> None:
    whole = scores(folder)
    torn = parts(folder)[0]
    table = pq.read_table(torn, partitioning=None)
    num_rows, sources = len(table), set(table["source_file"].to_pylist())
    tear(torn)
    content = torn.read_bytes()
    for _ in range(2):
        with pytest.raises(ScoreError, match=rf"{torn.name}: damaged.*salient score repair"):
            run_without_model(inputs, folder)
    before = state(folder)
    told = repair_scores(folder, dry_run=True)
    assert state(folder) == before
    report = repair_scores(folder)
    assert told.set_aside == report.set_aside
    (one,) = report.set_aside
    aside = folder / one.moved_to
    assert aside.read_bytes() == content and aside.parent == folder / SET_ASIDE
    assert aside.name == f"{torn.parent.name}.{torn.name}.damaged"
    assert report.rows == NUM_TWEETS - num_rows
    assert one.rows == num_rows and set(one.sources or ()) == sources
    assert repair_scores(folder).is_sound
    found = run_without_model(inputs, folder).to_dict()
    assert (found["scored"], found["already_scored"]) == (num_rows, 70 - num_rows)
    assert scores(folder).equals(whole) and len(quarantine(folder)) == 1


def test_a_repair_says_what_was_lost_and_what_is_read_again(
    folder: Path, inputs: list[Path]
) -> None:
    torn = parts(folder)[-1]
    table = pq.read_table(torn, partitioning=None)
    tear(torn)
    report = repair_scores(folder)
    (one,) = report.set_aside
    assert one.rows == len(table)
    assert one.sources == tuple(sorted(set(table["source_file"].to_pylist())))
    assert report.read_again == sorted(map(str, inputs))
    for words in (f"its {one.rows} rows came from day", "read again when a run names them"):
        assert words in str(report)
    # The same file breaks again: nothing is overwritten.
    run_without_model(inputs, folder)
    (back,) = [path for path in parts(folder) if path.parent == torn.parent][-1:]
    tear(back)
    repair_scores(folder)
    assert len(list((folder / SET_ASIDE).iterdir())) == 2


@pytest.mark.parametrize("what", ["lost", "cut", "of no note"])
def test_the_ledger_is_made_again(folder: Path, inputs: list[Path], what: str) -> None:
    path = folder / LEDGER
    whole = scores(folder)
    if what == "lost":
        path.unlink()
    elif what == "cut":
        path.write_bytes(path.read_bytes()[:5000])
        with pytest.raises(ScoreError, match=r"_ledger\.sqlite: damaged.*salient score repair"):
            run_without_model(inputs, folder)
    else:
        (folder / NOTE).write_text("{}")
    report = repair_scores(folder)
    assert (report.ledger is None) is False and report.rows == NUM_TWEETS
    assert "made again" in str(report)
    assert run_without_model(inputs, folder).scored == 0
    assert scores(folder).equals(whole)


def test_rows_that_are_there_twice_go_and_other_texts_stay(
    folder: Path, inputs: list[Path]
) -> None:
    """As earlier versions left them when their ledger was damaged."""
    whole = scores(folder)
    first = parts(folder)[0]
    table = pq.read_table(first, partitioning=None)
    write_table(folder / "date=2021-02-01" / f"part-{'0' * 20}.parquet", table)  # all again
    other = table.slice(0, 2)
    hashes = pa.array(["f" * 64, *other["text_hash"].to_pylist()[1:]])
    other = other.set_column(other.column_names.index("text_hash"), "text_hash", hashes)
    write_table(folder / "date=2021-02-02" / f"part-{'1' * 20}.parquet", other)
    doubled = pa.concat_tables([table.slice(0, 1), table.slice(0, 1)])
    write_table(folder / "date=2021-02-03" / f"part-{'2' * 20}.parquet", doubled)
    told = repair_scores(folder, dry_run=True)
    report = repair_scores(folder)
    assert report.repeated == told.repeated == len(table) + 1 + 2
    assert report.clashes == told.clashes == [table["id"][0].as_py()]
    assert not (folder / "date=2021-02-01" / f"part-{'0' * 20}.parquet").exists()
    assert len(scores(folder)) == len(whole) + 1
    assert repair_scores(folder).repeated == 0
    assert run_without_model(inputs, folder).scored == 0


@pytest.mark.parametrize(
    "error", [MemoryError("malloc"), OSError(errno.EIO, "I/O error"), OSError(errno.EMFILE, "many")]
)
def test_what_cannot_be_read_is_not_set_aside(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Too little memory, a failing disk: that says nothing of the file."""

    def fail(*_: object, **__: object) -> None:
        raise error

    write_json(folder / "_runs" / "a.json", {"status": "done"})
    delete_scores(folder, ["no such id"])
    before = state(folder)
    for name in (
        "pipeline.scoring.parts.pq.ParquetFile",
        "store.disk.checked.pq.ParquetFile",
        "pipeline.scoring.repair.read_json",
        "store.disk.checked.safetensors.safe_open",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(name, fail)
            with pytest.raises(ScoreError, match=r"cannot be read .*try again"):
                repair_scores(folder)
    assert not (folder / SET_ASIDE).exists()
    kept = {name: content for name, content in before.items() if "_ledger" not in name}
    assert kept.items() <= state(folder).items()
    assert not repair_scores(folder).set_aside


def test_a_ledger_is_not_copied_to_be_repaired(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("copied")

    monkeypatch.setattr("pipeline.scoring.place.shutil.copyfile", refuse)
    assert repair_scores(folder).is_sound


@pytest.mark.parametrize(
    "content",
    [b"{", b"[1]", b'{"format_version": 3.5}', b'{"format_version": 3, "fingerprint": 7}', None],
    ids=["cut", "another", "no version", "no fingerprint", "lost"],
)
def test_the_card_comes_back(folder: Path, inputs: list[Path], content: bytes | None) -> None:
    card = folder / SCORE_CARD
    before = json.loads(card.read_bytes())
    if content is None:
        card.unlink()
    else:
        card.write_bytes(content)
        with pytest.raises(ScoreError, match=r"_salient\.json.*salient score repair"):
            run_without_model(inputs, folder)
    report = repair_scores(folder)
    assert "its rows" not in str(report)
    assert report.mended == [SCORE_CARD] and len(report.set_aside) == (content is not None)
    assert json.loads(card.read_bytes())["fingerprint"] == "made"
    assert run_without_model(inputs, folder).to_dict()["inputs"]["unchanged"] == 2
    assert json.loads(card.read_bytes()) == before


def test_a_newer_folder_is_left_alone(folder: Path) -> None:
    text = json.dumps({"format_version": 9, "fingerprint": "made"})
    (folder / SCORE_CARD).write_text(text)
    with pytest.raises(ScoreError, match=r"format 9.*use the newer version"):
        repair_scores(folder)
    assert (folder / SCORE_CARD).read_text() == text


def test_no_folder_of_scores_is_repaired(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "none"):
        with pytest.raises(ConfigError, match="folder of scores"):
            repair_scores(tmp_path / name)


def to_link(place: Callable[[Path], Path]) -> Callable[[Path, Path], None]:
    def replace(folder: Path, outside: Path) -> None:
        path = place(folder)
        target = outside / path.name
        shutil.move(path, target)
        path.symlink_to(target)

    return replace


@pytest.mark.parametrize(
    "place",
    [
        to_link(lambda folder: folder / LEDGER),
        to_link(lambda folder: folder / SCORE_CARD),
        to_link(lambda folder: parts(folder)[0]),
        to_link(lambda folder: parts(folder)[0].parent),
        to_link(lambda folder: folder / "_quarantine"),
        to_link(lambda folder: folder / ".lock"),
    ],
)
def test_a_folder_that_leads_elsewhere_is_refused(
    folder: Path, inputs: list[Path], tmp_path: Path, place: Callable[[Path, Path], None]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    place(folder, outside)
    before = state(outside)
    for step in (
        lambda: run_without_model(inputs, folder),
        lambda: repair_scores(folder),
    ):
        with pytest.raises(ScoreError, match="is a symbolic link"):
            step()
    assert state(outside) == before


@pytest.mark.parametrize(("make", "kind"), [(os.mkfifo, "pipe"), (Path.mkdir, "folder")])
@pytest.mark.parametrize(
    "name",
    [SCORE_CARD, LEDGER, NOTE, DELETED, COPY, ".lock", "date=2021-01-01/a.parquet",
     "_quarantine/a.parquet", "_runs/a.json", "_drift/a.json", ".x.tmp"],
)  # fmt: skip
def test_only_a_file_stands_at_a_files_place(
    folder: Path, make: Callable[[Path], None], kind: str, name: str
) -> None:
    """In processes of their own: a command that waits for a pipe would wait for ever."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    make(path)
    with pytest.raises(ScoreError, match=rf"{name}: is a {kind}, .*remove it or move it"):
        check_files(folder)
    for words in ["repair"], ["repair", "--dry-run"], ["delete", "--id", "1"]:
        process = start(end_with, ["score", words[0], str(folder), *words[1:], "-q"])
        process.join(20)
        waits = process.is_alive()
        process.kill()
        assert not waits and process.exitcode == 1, words


def end_with(words: list[str]) -> None:
    sys.exit(run_command(words))


def check_killed_repair(folder: Path, inputs: list[Path], copy: Path, step: int) -> bool:
    """Kill a repair; the next one ends it. Whether it was killed before its end."""
    whole = scores(folder)
    shutil.copytree(folder, copy)
    tear(parts(copy)[0])
    (copy / LEDGER).write_bytes(b"no ledger")
    table = pq.read_table(parts(copy)[1], partitioning=None)
    write_table(copy / "date=2021-02-01" / f"part-{'0' * 20}.parquet", table)
    process = start(die_at_step, ["score", "repair", str(copy), "-q"], step)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    repair_scores(copy)
    run_without_model(inputs, copy)
    assert scores(copy).equals(whole) and len(list((copy / SET_ASIDE).iterdir())) == 1
    return process.exitcode != 0


@pytest.mark.parametrize("step", [0, 3, 6, 9])
def test_a_killed_repair_is_ended_by_the_next(
    folder: Path, inputs: list[Path], tmp_path: Path, step: int
) -> None:
    assert check_killed_repair(folder, inputs, tmp_path / "copy", step)


@pytest.mark.slow
def test_a_repair_killed_at_every_step(folder: Path, inputs: list[Path], tmp_path: Path) -> None:
    step = 0
    while check_killed_repair(folder, inputs, tmp_path / f"copy{step}", step):
        step += 1
    assert step > 9


def test_the_command(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert run_command(["score", "repair", str(folder), "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["status"], found["rows"], found["set_aside"]) == ("sound", NUM_TWEETS, [])
    tear(parts(folder)[0])
    assert run_command(["score", "repair", str(folder), "--json", "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "dry run"
    assert run_command(["score", "repair", str(folder)]) == 0
    assert "set aside as _quarantine/_damaged/date=" in capsys.readouterr().out
    assert run_command(["score", "repair", str(tmp_path / "none")]) == 2
    assert run_command(["score", "repair", "--help"]) == 0
    # A file of that name is still a file.
    monkeypatch.chdir(tmp_path)
    Path("repair").write_text("text\n")
    assert run_command(["score", "./repair", "--heads", "nowhere"]) == 2
    assert "no head here" in capsys.readouterr().err
