"""Deletion: rows, lines and digests of some ids go, exactly those, and nothing brings them back."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import signal
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.commands.line import run_command
from pipeline.errors import ConfigError, ScoreError
from pipeline.scoring.deletion import COPY, DELETED, Deleted, delete_scores, read_names
from pipeline.scoring.ledger import LEDGER, Ledger
from pipeline.scoring.parts import SET_ASIDE
from pipeline.scoring.place import SCORE_CARD
from pipeline.scoring.repair import repair_scores
from store.tables import read_arrays, write_arrays
from tests.builders.dumps import quarantine, scores, v1, write_tweets
from tests.builders.forking import start
from tests.builders.scoring import die_at_step, run_without_model

NUM_TWEETS = 60
IDS = [v1(i)["id_str"] for i in range(NUM_TWEETS)]
BROKEN = IDS[5]
"""Its tweet is there, and a broken line names it too."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dumps that share tweets, and their scores; made once, copied for each test."""
    root = tmp_path_factory.mktemp("made")
    days = [f"Fri Jan {1 + i % 3:02d} 07:29:00 +0000 2021" for i in range(NUM_TWEETS)]
    tweets = [v1(i, created_at=day, user={"id_str": f"10{i % 4}"}) for i, day in enumerate(days)]
    write_tweets(root / "day1", tweets[:40])
    write_tweets(root / "day2", tweets[30:])
    lines = b'{"id_str": "' + BROKEN.encode() + b'", "text": "oh no\n' + b'{"id_str": "99", "te\n'
    (root / "day1").write_bytes((root / "day1").read_bytes() + lines)
    run_without_model([root / "day1", root / "day2"], root / "out")
    assert len(quarantine(root / "out")) == 2
    return root


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "place"))


def both(place: Path) -> list[Path]:
    return [place / "day1", place / "day2"]


def whole(place: Path) -> list[Path]:
    """The dumps without the lines that cannot be read."""
    lines = (place / "day1").read_bytes().splitlines(keepends=True)
    (place / "day1.whole").write_bytes(b"".join(lines[:40]))
    return [place / "day1.whole", place / "day2"]


def rest(ids: Iterable[str]) -> list[str]:
    return [one for one in IDS if one not in set(ids)]


def mentions(folder: Path, text: str) -> list[str]:
    """Files that hold an id as text or, in SQLite, as a number."""
    number = int(text).to_bytes(8, "big")
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix == ".parquet":
                content = str(pq.read_table(path, partitioning=None).to_pylist()).encode()
            if text.encode() in content or number in content:
                found.append(path.name)
    return found


def test_rows_lines_and_ledger_entries_go(place: Path) -> None:
    out, gone = place / "out", [IDS[0], BROKEN, IDS[35], "12345"]
    before = scores(out)
    assert mentions(out, BROKEN) and LEDGER in mentions(out, IDS[0])
    told = delete_scores(out, gone, dry_run=True)
    assert scores(out).equals(before)
    report = delete_scores(out, [*gone, IDS[0]])
    assert (report.ids, report.found, report.lines) == (4, 3, 1)
    assert (told.found, told.lines, told.files) == (report.found, report.lines, report.files)
    assert scores(out)["id"].to_pylist() == rest(gone)
    assert [row["excerpt"][:10] for row in quarantine(out)] == ['{"id_str":']
    for one in gone[:3]:
        assert mentions(out, one) == []
    # The others are untouched, nothing is read again, and the folder is sound.
    kept = before.filter(pa.array([one not in gone for one in before["id"].to_pylist()]))
    assert scores(out).equals(kept)
    assert run_without_model(both(place), out).to_dict()["inputs"]["unchanged"] == 2
    assert repair_scores(out).is_sound
    assert delete_scores(out, gone).found == 0


def test_what_was_deleted_does_not_come_back(place: Path) -> None:
    out, gone = place / "out", [IDS[0], BROKEN, IDS[35]]
    delete_scores(out, gone)
    for path in both(place):  # changed, so that they are read again
        path.write_bytes(path.read_bytes() + b"\n")
    found = run_without_model(both(place), out).to_dict()
    assert found["filtered_by"] == {"deleted": 5}  # one in both dumps, and the broken line
    assert found["scored"] == 0 and scores(out)["id"].to_pylist() == rest(gone)
    assert len(quarantine(out)) == 1
    # Nor when all that can be made again is.
    for path in (*out.glob("_ledger*"), *out.glob("date=*/*.parquet")):
        path.unlink()
    assert run_without_model(both(place), out).scored == len(IDS) - 3
    assert scores(out)["id"].to_pylist() == rest(gone)


def test_a_deletion_is_lifted(place: Path) -> None:
    out = place / "out"
    delete_scores(out, IDS[:3])
    report = delete_scores(out, [IDS[1], "7"], forget=True)
    assert (report.forgotten, report.listed) == (1, 2)
    found = run_without_model(both(place), out).to_dict()
    assert found["scored"] == 1 and found["filtered_by"] == {"deleted": 2}
    assert scores(out)["id"].to_pylist() == [IDS[1], *IDS[3:]]


def test_authors_are_found_in_the_dumps(place: Path) -> None:
    out = place / "out"
    with pytest.raises(ConfigError, match="scores do not hold who wrote a tweet; name the dumps"):
        delete_scores(out, authors=["101"])
    (place / "in.csv").write_text("id,text\n1,tea\n")
    with pytest.raises(ConfigError, match=r"in\.csv: no dump of posts, and no column.*--ids"):
        delete_scores(out, authors=["101"], dumps=[place / "in.csv"])
    report = delete_scores(out, authors=["101", "109"], dumps=whole(place))
    assert (report.authors, report.ids, report.found) == (2, NUM_TWEETS // 4, NUM_TWEETS // 4)
    assert scores(out)["id"].to_pylist() == [one for i, one in enumerate(IDS) if i % 4 != 1]


def test_authors_are_found_in_tables_too(place: Path) -> None:
    out, table = place / "out", place / "who.csv"
    lines = [f"{one},tea {i},10{i % 4}" for i, one in enumerate(IDS)]
    table.write_text("\n".join(["id,text,author_id", *lines]) + "\n")
    report = delete_scores(out, authors=["101"], dumps=[table])
    assert report.found == NUM_TWEETS // 4 and not report.incomplete
    assert scores(out)["id"].to_pylist() == [one for i, one in enumerate(IDS) if i % 4 != 1]


def test_dumps_that_do_not_say_all_are_named(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, (day1, day2) = place / "out", whole(place)
    (place / "authors").write_text("101\n")
    packed = gzip.compress(b"".join(day1.read_bytes().splitlines(keepends=True)), 0)
    (place / "cut").write_bytes(packed[: len(packed) // 2])
    write_tweets(place / "nobody", [v1(0), {**v1(1), "user": None}])
    words = ["score", "delete", str(out), str(day2), "--authors", str(place / "authors"), "-q"]
    for name, numbers, said in (
        ("cut", (1, 0), r"cut: 1 lines could not be read \(gz breaks off"),
        ("day1", (2, 0), "day1: 2 lines could not be read"),
        ("nobody", (0, 1), "nobody: 1 tweets do not say who wrote them"),
    ):
        for step in (["--dry-run"], []):
            assert run_command([*words, str(place / name), "--json", *step]) == 1
            told = capsys.readouterr()
            found = json.loads(told.out)
            assert (found["unreadable"], found["without_author"]) == numbers
            assert re.search(rf"{said}.*the authors' tweets in there may be left", told.err)
    assert scores(out)["id"].to_pylist() == [one for i, one in enumerate(IDS) if i % 4 != 1]


def test_a_file_of_ids_has_one_a_line(tmp_path: Path) -> None:
    odd = ["a\u2028b", "c\x0bd", "e\x85"]
    (tmp_path / "ids").write_text("\r\n".join([*odd, " 7\t", ""]), newline="")
    assert read_names(tmp_path / "ids") == [*odd, "7"]


def test_all_rows_of_a_file_and_of_everything(place: Path) -> None:
    out = place / "out"
    assert delete_scores(out, IDS).found == NUM_TWEETS
    assert not list(out.glob("date=*/*.parquet"))
    assert run_without_model(both(place), out).to_dict()["inputs"]["unchanged"] == 2
    assert repair_scores(out).is_sound


def test_rows_that_are_there_twice_go_too(place: Path) -> None:
    """Files of other programs, in which an id stands again, and which have no checksums."""
    out = place / "out"
    table = scores(out)
    (out / "date=x").mkdir()
    doubled = pa.concat_tables([table, table.slice(0, 4)])
    pq.write_table(doubled, out / "date=x" / "all.parquet")
    report = delete_scores(out, IDS[:2])
    assert report.found == 2 + 4
    left = scores(out)["id"].to_pylist()
    assert sorted(set(left)) == rest(IDS[:2]) and len(left) == 2 * (NUM_TWEETS - 2) + 2
    assert repair_scores(out).repeated == NUM_TWEETS
    assert scores(out)["id"].to_pylist() == rest(IDS[:2])


def test_rows_known_by_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("tea\nrain\n")
    out = tmp_path / "out"
    run_without_model([tmp_path / "notes.txt"], out)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("tea\nsnow\n")
    run_without_model([tmp_path / "b" / "notes.txt"], out)
    assert [row["excerpt"] for row in quarantine(out)] == ["snow"]
    report = delete_scores(out, ["notes:2"])
    assert (report.found, report.lines) == (1, 1)
    assert scores(out)["id"].to_pylist() == ["notes:1"] and quarantine(out) == []


def test_programs_without_a_list_of_deleted_ids_refuse_the_folder(place: Path) -> None:
    card = place / "out" / SCORE_CARD
    card.write_text(json.dumps({"format_version": 2, "fingerprint": "made", "tasks": {}}))
    delete_scores(place / "out", IDS[:1], dry_run=True)
    assert json.loads(card.read_text())["format_version"] == 2
    delete_scores(place / "out", IDS[:1])
    assert json.loads(card.read_text())["format_version"] == 3


def test_files_set_aside_are_named(place: Path) -> None:
    out = place / "out"
    torn = next(out.glob("date=*/*.parquet"))
    torn.write_bytes(b"torn")
    repair_scores(out)
    report = delete_scores(out, IDS[:1])
    assert len(report.not_searched) == 1 and SET_ASIDE in str(report)


# --- the list of deleted ids --------------------------------------------------------------------


@given(ids=st.sets(st.text(max_size=30), max_size=20), others=st.sets(st.text(max_size=30)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_list_knows_its_ids_and_no_others(
    ids: set[str], others: set[str], tmp_path: Path
) -> None:
    Deleted().with_ids(ids).save(tmp_path)
    found = Deleted.load(tmp_path)
    assert found.pending and len(found) == len(ids) and len(found.without(ids)) == 0
    listed = sorted(ids | others)
    assert found.mask(listed).tolist() == [one in ids for one in listed]


def test_lists_of_two_folders_cannot_be_compared(tmp_path: Path) -> None:
    one, other = Deleted().with_ids(["7"]), Deleted().with_ids(["7"])
    assert one.salt != other.salt and one.digests != other.digests


@pytest.mark.parametrize("name", [DELETED, COPY])
@pytest.mark.parametrize("content", [None, b"{", b"{}"])
def test_a_damaged_list_is_refused_and_comes_back(
    place: Path, name: str, content: bytes | None
) -> None:
    out = place / "out"
    delete_scores(out, IDS[:3])
    before = (out / name).read_bytes()
    (out / name).unlink()
    if content is not None:
        (out / name).write_bytes(content)
    if (name, content) != (COPY, None):
        for step in (
            lambda: run_without_model(both(place), out),
            lambda: delete_scores(out, IDS[:1]),
        ):
            with pytest.raises(ScoreError, match=rf"{name}: .*salient score repair"):
                step()
    assert repair_scores(out).mended == [name]
    assert (out / name).read_bytes() == before
    both_damaged = [out / DELETED, out / COPY]
    for path in both_damaged:
        path.write_bytes(b"{")
    with pytest.raises(ScoreError, match="cannot be told any more; remove both"):
        repair_scores(out)


def test_a_long_list_is_small_and_exact(tmp_path: Path) -> None:
    """Digests of any bytes, zeros at the end too; 16 bytes an id on the disk."""
    numbers = range(30_000)
    listed = Deleted().with_ids(map(str, numbers))
    listed.save(tmp_path)
    assert (tmp_path / DELETED).stat().st_size < 17 * len(listed)
    found = Deleted.load(tmp_path)
    assert found.same_as(listed) and len(found) == len(numbers)
    assert found.mask([str(one) for one in range(60_000)]).sum() == 30_000
    assert found.mask([str(one) for one in numbers]).all()
    assert not found.without(["7"]).same_as(found)


@pytest.mark.parametrize("odd", ["salt", "digests", "pending", "format_version"])
def test_a_list_of_other_arrays_is_refused(tmp_path: Path, odd: str) -> None:
    Deleted().with_ids(["7"]).save(tmp_path)
    arrays = read_arrays(tmp_path / DELETED)
    arrays[odd] = np.zeros((9, 9), np.int64)
    write_arrays(tmp_path / DELETED, arrays)
    with pytest.raises(ScoreError, match=r"_deleted\.safetensors: (damaged|of format)"):
        Deleted.load(tmp_path)


def test_the_list_and_its_copy_agree_after_a_kill(place: Path) -> None:
    """A lifted deletion, killed before its copy: losing the list later does not undo it."""
    out = place / "out"
    delete_scores(out, IDS[:3])
    before = (out / COPY).read_bytes()
    delete_scores(out, IDS[:1], forget=True)
    (out / COPY).write_bytes(before)
    run_without_model(both(place), out)
    assert (out / COPY).read_bytes() == (out / DELETED).read_bytes()
    (out / DELETED).unlink()
    repair_scores(out)
    assert len(Deleted.load(out)) == 2 and IDS[0] in scores(out)["id"].to_pylist()


def test_an_id_that_is_no_text_is_refused(place: Path) -> None:
    for named in ({"ids": ["\udcff"]}, {"authors": ["\udcff"], "dumps": both(place)}):
        with pytest.raises(ConfigError, match=r"'\\udcff': no text in UTF-8"):
            delete_scores(place / "out", **named)  # type: ignore[arg-type]


@pytest.mark.parametrize("after", ["score", "delete", "repair", "repair of a known file"])
def test_a_file_that_is_put_back_brings_nothing_back(place: Path, after: str) -> None:
    out = place / "out"
    shutil.copytree(out, place / "backup")
    delete_scores(out, [IDS[0], BROKEN])
    for path in (place / "backup").glob("*/*.parquet"):
        shutil.copyfile(path, out / path.relative_to(place / "backup"))
    if after == "score":
        run_without_model(both(place), out)
    elif after == "delete":
        report = delete_scores(out, IDS[1:2])
        assert (report.found, report.lines) == (3, 1)
    else:
        if after != "repair":  # as earlier versions left it
            with Ledger(out / LEDGER) as ledger:
                ledger.sync(out)
        assert repair_scores(out).deleted == 2
    gone = [IDS[0], BROKEN, *IDS[1 : 1 + (after == "delete")]]
    assert scores(out)["id"].to_pylist() == rest(gone) and len(quarantine(out)) == 1
    assert repair_scores(out).is_sound


# --- kills --------------------------------------------------------------------------------------


def check_killed(made: Path, copy: Path, step: int, after: str) -> bool:
    """Kill a deletion; whatever comes next ends it. Whether it was killed before its end."""
    shutil.copytree(made, copy)
    out, gone = copy / "out", [IDS[0], BROKEN, IDS[35], IDS[50]]
    (copy / "ids").write_text("\n".join(gone))
    words = ["score", "delete", str(out), "--ids", str(copy / "ids"), "-q"]
    process = start(die_at_step, words, step)
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    seen = scores(out)["id"].to_pylist()
    assert len(seen) == len(set(seen)), "a reader sees no row twice"
    listed = (out / DELETED).exists()
    if after == "score":
        run_without_model(both(copy), out)
    elif after == "repair":
        repair_scores(out)
    else:
        listed = True
        report = delete_scores(out, gone)
        assert report.listed == len(gone)
    left = scores(out)["id"].to_pylist()
    assert left == (rest(gone) if listed else IDS)
    delete_scores(out, gone)
    run_without_model(both(copy), out)
    assert scores(out)["id"].to_pylist() == rest(gone) and len(quarantine(out)) == 1
    assert not Deleted.load(out).pending and repair_scores(out).is_sound
    return process.exitcode != 0


@pytest.mark.parametrize(
    ("step", "after"),
    [(6, "score"), (14, "repair"), (22, "delete"), (30, "score"), (38, "repair"), (46, "delete")],
)
def test_a_killed_deletion_is_ended_by_what_comes_next(
    made: Path, tmp_path: Path, step: int, after: str
) -> None:
    assert check_killed(made, tmp_path / "copy", step, after)


@pytest.mark.slow
@pytest.mark.parametrize("after", ["score", "repair", "delete"])
def test_a_deletion_killed_at_every_step(made: Path, tmp_path: Path, after: str) -> None:
    step = 0
    while check_killed(made, tmp_path / f"copy{step}", step, after):
        step += 1
    assert step > 40


# --- the command, and texts that are not kept ---------------------------------------------------


def test_the_command(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(place / "out")
    command = ["score", "delete", out, "-q"]
    unknown = ["--id", IDS[0], "--id", "4", "--json"]
    assert run_command([*command, *unknown, "--dry-run"]) == 1
    assert capsys.readouterr().err == f"salient: {out}: id 4 is not in the scores\n"
    assert run_command([*command, *unknown]) == 1  # and all that is there has gone
    found = json.loads(capsys.readouterr().out)
    assert (found["status"], found["ids"], found["found"], found["listed"]) == ("done", 2, 1, 2)
    assert found["missing"] == ["4"]
    (place / "none").write_text("\n 4 \n")
    assert run_command([*command, "--ids", str(place / "none")]) == 0, "deleted before"
    assert "0 rows of 1 id found" in capsys.readouterr().out
    (place / "some").write_text(f"{IDS[1]}\n5\n")
    assert run_command([*command, "--ids", str(place / "some"), "--dry-run"]) == 0
    assert "not in the scores: id 5" in capsys.readouterr().out
    (place / "some").write_text("5\n6\n")
    assert run_command([*command, "--ids", str(place / "some"), "--dry-run"]) == 1
    assert "ids 5, 6 are not in the scores" in capsys.readouterr().err
    (place / "authors").write_text("102\n")
    dumps = list(map(str, whole(place)))
    assert run_command([*command, *dumps, "--authors", str(place / "authors"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["found"] == NUM_TWEETS // 4
    assert run_command([*command, "--id", IDS[0], "--forget"]) == 0
    assert "of 1 id 1 had been deleted" in capsys.readouterr().out
    assert run_command([*command, "--id", IDS[0], "--forget"]) == 1
    for words in (command, [*command, "--ids", str(place / "nowhere")]):
        assert run_command(words) == 2
    assert run_command(["score", "delete", str(place / "day1"), "--id", "1"]) == 2


def test_without_texts_quarantine_holds_hashes(place: Path) -> None:
    out = place / "new"
    run_without_model(both(place), out, keep_text=False)
    for row in quarantine(out):
        assert row["excerpt"].startswith("blake2b:") and row["line"] > 0
        assert row["reason"] == "not JSON"
    # What was kept before goes, once, and the same lines are not taken again.
    old = place / "out"
    assert "oh no" in str(quarantine(old))
    for _ in range(2):
        run_without_model(both(place), old, keep_text=False)
        assert sorted(map(str, quarantine(old))) == sorted(map(str, quarantine(out)))
    assert repair_scores(old).is_sound
    db = sqlite3.connect(old / LEDGER)
    assert db.execute("SELECT count(*) FROM inputs").fetchone()[0] == 2
    db.close()


def test_texts_are_taken_out_without_reading_the_inputs_again(place: Path) -> None:
    out = place / "out"
    found = run_without_model(both(place), out, keep_text=False).to_dict()
    assert found["inputs"]["unchanged"] == 2 and "oh no" not in str(quarantine(out))
    with Ledger(out / LEDGER) as ledger:
        assert ledger.unknown(out) == []
    for path in both(place):  # and the same lines are known
        path.write_bytes(path.read_bytes() + b"\n")
    run_without_model(both(place), out, keep_text=False)
    assert len(quarantine(out)) == 2


def test_texts_kept_once_more_get_a_file_of_their_own(place: Path) -> None:
    out = place / "out"
    lines = quarantine(out)
    run_without_model(both(place), out, keep_text=False)
    for path in both(place):
        path.write_bytes(path.read_bytes() + b"\n")
    run_without_model(both(place), out)
    assert len(quarantine(out)) == 4 and all(line in quarantine(out) for line in lines)


def test_texts_go_whatever_was_lost_or_damaged(place: Path) -> None:
    out = place / "out"
    (torn,) = out.glob("_quarantine/*.parquet")
    content = torn.read_bytes()
    torn.write_bytes(content[:-20])
    repair_scores(out)
    assert list((out / SET_ASIDE).glob("_quarantine.*"))
    torn.write_bytes(content)
    (out / SCORE_CARD).unlink()
    run_without_model(both(place), out, keep_text=False)
    assert "oh no" not in str(quarantine(out)) and quarantine(out)
    assert not list((out / SET_ASIDE).iterdir())
    (torn,) = out.glob("_quarantine/*.parquet")
    torn.write_bytes(content[:-20])
    report = repair_scores(out)
    assert "removed, it may hold texts" in str(report)
    assert not torn.exists() and not list((out / SET_ASIDE).iterdir())
