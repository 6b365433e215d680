"""The ledger: which ids are there, exactly; whatever happened to it, the Parquet files decide."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

import google_crc32c
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ScoreError
from pipeline.scoring.ledger import (
    APPLICATION_ID,
    LEDGER,
    NOTE,
    Entry,
    Finished,
    Ledger,
    Published,
)
from pipeline.scoring.parts import Key, id_key, line_keys, row_keys, text_digest
from store import text_hash
from store.tables import write_json

READ_2 = Finished("day1", {"read": 2})


def publish(folder: Path, name: str, ids: Iterable[str], *, text: str = "tea") -> Published:
    """Put a file of scores in its place, as yet unknown to the ledger."""
    ids = list(ids)
    table = pa.table({"id": ids, "text_hash": [text_hash(text)] * len(ids)})
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return Published.of(path, folder, row_keys(table))


def ids_known(ledger: Ledger, ids: Iterable[str]) -> list[str]:
    known = ledger.known(id_key(one) for one in ids)
    return [one for one in ids if id_key(one) in known]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / LEDGER) as ledger:
        yield ledger


# --- ids ----------------------------------------------------------------------------------------

IDS = st.one_of(
    st.integers(0, 2**65).map(str),
    st.text(max_size=6),
    st.sampled_from(
        ["0", "00", "7", "007", "٧", "²", "-7", "+7", " 7", str(2**63), str(2**63 - 1)]
    ),
)


@given(one=IDS, other=IDS)
def test_two_ids_have_one_key_only_if_they_are_the_same(one: str, other: str) -> None:
    assert (id_key(one) == id_key(other)) == (one == other)


def test_numbers_as_sqlite_holds_them_are_kept_as_numbers() -> None:
    assert [id_key(one) for one in ("0", "12", str(2**63 - 1))] == [0, 12, 2**63 - 1]
    for id in ("", "012", str(2**63), "9" * 5000, "1.0", "tweets:1"):
        assert id_key(id) == id


def test_odd_ids_are_found_again_and_nothing_else_is(ledger: Ledger, tmp_path: Path) -> None:
    ids = ["0", "7", "007", str(2**63 - 1), str(2**63), "٧", "a'b", ""]
    ledger.record([publish(tmp_path, "date=x/a.parquet", ids)], {})
    assert ids_known(ledger, [*ids, "00", "07", "1", "٨", "a"]) == ids


def test_an_id_belongs_to_the_first_file_that_has_it(ledger: Ledger, tmp_path: Path) -> None:
    first = publish(tmp_path, "date=x/a.parquet", ["1", "2"], text="tea")
    second = publish(tmp_path, "date=x/b.parquet", ["2", "3"], text="rain")
    ledger.record([first, second], {})
    tea, rain = (text_digest(text_hash(text)) for text in ("tea", "rain"))
    assert ledger.known([1, 2, 3, 4]) == {1: Entry(tea, 1), 2: Entry(tea, 1), 3: Entry(rain, 2)}


# --- what a kill leaves -------------------------------------------------------------------------


def test_files_published_before_a_kill_are_read(tmp_path: Path) -> None:
    recorded = publish(tmp_path, "date=x/a.parquet", ["1", "2"])
    with Ledger(tmp_path / LEDGER) as ledger:
        ledger.record([recorded], {"input": READ_2})
    publish(tmp_path, "date=y/b.parquet", ["3"])  # and then the process died
    with Ledger(tmp_path / LEDGER) as ledger:
        ledger.sync(tmp_path)
        assert ids_known(ledger, "1234") == ["1", "2", "3"]
        assert ledger.first_new_file == 3
        assert ledger.finished("input") == READ_2, "its rows are all there"
        ledger.sync(tmp_path)
        assert ledger.first_new_file == 3, "nothing is read twice"


def test_a_record_that_breaks_off_leaves_nothing(ledger: Ledger, tmp_path: Path) -> None:
    def breaking() -> Iterator[tuple[Key, int]]:
        yield 2, 0
        raise OSError("the disk went away")

    whole = publish(tmp_path, "date=x/a.parquet", ["1"])
    with pytest.raises(OSError, match="went away"):
        ledger.record([whole, Published("date=x/b.parquet", 0, 0, breaking())], {"input": READ_2})
    assert ids_known(ledger, "12") == [] and ledger.finished("input") is None
    ledger.record([whole], {"input": READ_2})
    assert ids_known(ledger, "12") == ["1"] and ledger.finished("input") == READ_2


def test_rows_of_files_that_are_gone_or_replaced_are_forgotten(tmp_path: Path) -> None:
    files = [publish(tmp_path, f"date=x/{name}.parquet", name) for name in ("12", "34", "56")]
    with Ledger(tmp_path / LEDGER) as ledger:
        ledger.record(files, {"input": READ_2})
        (tmp_path / files[0].path).unlink()
        publish(tmp_path, files[1].path, "789")
        ledger.sync(tmp_path)
        assert ids_known(ledger, "123456789") == [*"56789"]
        assert ledger.finished("input") is None, "its rows are to come back"


def test_an_id_that_is_in_another_file_too_stays(tmp_path: Path) -> None:
    files = [publish(tmp_path, f"date=x/{name}.parquet", name) for name in ("12", "23")]
    with Ledger(tmp_path / LEDGER) as ledger:
        ledger.record(files, {})
        (tmp_path / files[0].path).unlink()
        ledger.sync(tmp_path)
        assert ids_known(ledger, "123") == ["2", "3"]


def test_a_quarantined_line_is_known_from_its_file(ledger: Ledger, tmp_path: Path) -> None:
    line = {"source_file": "dump", "line": 5, "reason": "not JSON", "excerpt": "{"}
    table = pa.Table.from_pylist([line, {**line, "line": 6}])
    path = tmp_path / "_quarantine" / "a.parquet"
    path.parent.mkdir()
    pq.write_table(table, path)
    ledger.sync(tmp_path)
    keys = [key for key, _ in line_keys(table)]
    (other,) = (key for key, _ in line_keys(pa.Table.from_pylist([{**line, "line": 7}])))
    assert set(ledger.known([*keys, other])) == set(keys)


# --- damage -------------------------------------------------------------------------------------


def unclean(path: Path) -> None:
    """As a kill leaves it: without the note of its checksum."""
    path.with_name(NOTE).unlink()


def change(path: Path, statement: str) -> None:
    db = sqlite3.connect(path)
    db.execute(statement)
    db.commit()
    db.close()


def made(folder: Path) -> Path:
    """A ledger that was closed in peace."""
    path = folder / LEDGER
    with Ledger(path) as ledger:
        ledger.record([publish(folder, "date=x/a.parquet", ["1", "2"])], {"input": READ_2})
    return path


def test_a_lost_ledger_is_made_again(tmp_path: Path) -> None:
    path = made(tmp_path)
    path.unlink()
    with Ledger(path) as ledger:
        assert ids_known(ledger, "12") == [] and ledger.finished("input") is None
        ledger.sync(tmp_path)
        assert ids_known(ledger, "123") == ["1", "2"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"no database, but quite long" * 9),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: change(path, "PRAGMA user_version = 99"),
        lambda path: change(path, "DELETE FROM rows WHERE id = 1"),
        lambda path: path.with_name(NOTE).write_text("{"),
    ],
    ids=["overwritten", "empty", "cut", "of another format", "of fewer rows", "note damaged"],
)
def test_a_damaged_ledger_is_refused(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    path = made(tmp_path)
    damage(path)
    with pytest.raises(ScoreError, match=r"damaged.*`salient score repair .*`"):
        Ledger(path)


ROW = "WHERE id = 1"


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        (f"DELETE FROM rows {ROW}", "rows of date=x/a.parquet are missing"),
        (f"UPDATE rows SET text = text + 1 {ROW}", "a row differs from its checksum"),
        (f"UPDATE rows SET id = 3 {ROW}", "a row differs from its checksum"),
        (f"UPDATE rows SET file = x'00' {ROW}", "a row differs from its checksum"),
        ("DELETE FROM files", "2 rows are of no file"),
        ("UPDATE files SET size = 7", "a file differs from its checksum"),
        ("UPDATE inputs SET counts = '{}'", "an input differs from its checksum"),
        ("DROP TABLE inputs", "its tables are not those that were made"),
        ("PRAGMA application_id = 7", "format 2 of application 0x7"),
        ("PRAGMA user_version = 3", "of format 3, this version knows 2"),
    ],
)
def test_after_a_kill_every_row_is_looked_at(tmp_path: Path, statement: str, what: str) -> None:
    path = made(tmp_path)
    unclean(path)
    with Ledger(path) as ledger:
        assert ids_known(ledger, "12") == ["1", "2"] and ledger.finished("input") == READ_2
    assert path.with_name(NOTE).exists(), "sound: the next one need not look"
    unclean(path)
    change(path, statement)
    with pytest.raises(ScoreError, match=rf"{what}.*`salient score repair .*`"):
        Ledger(path)


NUMBERS = range(10**17, 10**17 + 4000)
"""Ids enough for a tree of two levels."""


def killed(folder: Path) -> Path:
    """A ledger as a kill leaves it, with the last files in the write-ahead log alone."""
    with Ledger(folder / "live" / LEDGER) as ledger:
        for start in range(0, len(NUMBERS), 500):
            rows = [(one, one % 7) for one in NUMBERS[start : start + 500]]
            ledger.record([Published(f"date=x/{start}.parquet", 1, 1, rows, ["day1"])], {})
            if start == 2000:
                ledger._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ledger.record([], {"input": READ_2})
        shutil.copytree(folder / "live", folder / "killed")
    return folder / "killed"


def test_a_changed_byte_is_noticed_or_changes_nothing(memory: Path) -> None:
    """In any page: of rows, of pages, of what is free."""
    (memory / "live").mkdir()
    made, copy, draw = killed(memory), memory / "copy", random.Random(0)
    refused = 0
    for number in range(300):
        shutil.copytree(made, copy)
        path = copy / (f"{LEDGER}-wal" if number % 5 == 0 else LEDGER)
        content = bytearray(path.read_bytes())
        content[draw.randrange(len(content))] ^= draw.randrange(1, 256)
        path.write_bytes(content)
        try:
            with Ledger(copy / LEDGER) as ledger:
                files = {file.number: file for file in ledger.files()}
                more = [(one, 1) for one in range(500)]
                ledger.record([Published("date=x/more.parquet", 1, 1, more, [])], {})
                expected = {one: one % 7 for one in NUMBERS[: 500 * len(files)]} | dict(more)
                found = ledger.known([*NUMBERS, *range(600)])
                assert {key: entry.text for key, entry in found.items()} == expected
        except ScoreError as error:
            assert "salient score repair" in str(error)
            refused += 1
        shutil.rmtree(copy)
    assert 30 < refused < 300


def test_the_note_goes_before_the_first_change_and_comes_back(tmp_path: Path) -> None:
    path = made(tmp_path)
    note = path.with_name(NOTE)
    before = note.stat().st_mtime_ns
    with Ledger(path) as ledger:
        ledger.sync(tmp_path)
        assert note.exists()
    assert note.stat().st_mtime_ns == before, "nothing was changed"
    with Ledger(path) as ledger:
        ledger.record([publish(tmp_path, "date=x/b.parquet", ["3"])], {})
        assert not note.exists()
    assert note.exists()


def test_a_row_that_changes_while_it_is_used_is_noticed(tmp_path: Path) -> None:
    path = made(tmp_path)
    with pytest.raises(ScoreError, match="a row differs from its checksum"), Ledger(path) as ledger:
        ledger._db.execute("UPDATE rows SET text = 7 WHERE id = 1")
        ledger.known([1])


def test_a_ledger_that_was_found_damaged_is_not_certified(tmp_path: Path) -> None:
    path = made(tmp_path)
    with pytest.raises(ScoreError, match="a row differs from its checksum"), Ledger(path) as ledger:
        ledger.record([], {})
        ledger._db.execute("UPDATE rows SET text = 7 WHERE id = 1")
        ledger.known([1])
    assert not path.with_name(NOTE).exists()
    with pytest.raises(ScoreError, match="a row differs from its checksum"):
        Ledger(path)


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE other (x)", "CREATE VIEW v AS SELECT 1", "PRAGMA user_version = 3"]
)
def test_a_ledger_of_another_shape_is_refused_although_its_note_fits(
    tmp_path: Path, statement: str
) -> None:
    path = made(tmp_path)
    change(path, statement)
    content = path.read_bytes()
    facts = {"size": len(content), "crc32c": google_crc32c.value(content)}
    write_json(path.with_name(NOTE), {"format_version": 1, **facts})
    with pytest.raises(ScoreError, match=r"its tables are not those|use the newer version"):
        Ledger(path)
    write_json(path.with_name(NOTE), {"format_version": 2, "other": "facts"})
    with pytest.raises(ScoreError, match=r"note _ledger.json is of format 2; use the newer"):
        Ledger(path)


def test_a_full_disk_is_what_the_user_reads(ledger: Ledger, tmp_path: Path) -> None:
    """SQLite ends the transaction itself."""

    def keys() -> Iterator[tuple[Key, int]]:
        yield 1, 1
        ledger._db.execute("ROLLBACK")
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.raises(sqlite3.OperationalError, match="disk is full"):
        ledger.record([Published("date=x/a.parquet", 1, 1, keys())], {})
    ledger.record([publish(tmp_path, "date=x/a.parquet", ["1"])], {})
    assert ids_known(ledger, "12") == ["1"]


def test_a_note_beside_unwritten_changes_goes(tmp_path: Path) -> None:
    """A folder that was copied while it was in use."""
    made(tmp_path)
    (tmp_path / "live").mkdir()
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=shutil.ignore_patterns("live"))
    copy = tmp_path / "copy" / LEDGER
    with Ledger(tmp_path / LEDGER) as ledger:
        ledger.forget_inputs()
        shutil.copyfile(tmp_path / f"{LEDGER}-wal", copy.with_name(f"{LEDGER}-wal"))
    with Ledger(copy) as ledger:
        assert not copy.with_name(NOTE).exists() and ledger.finished("input") is None


def test_keys_in_any_number_are_known_and_told_when_they_repeat(
    ledger: Ledger, tmp_path: Path
) -> None:
    keys: list[Key] = [*range(3000), *map(str, "abc"), b"line"]
    ledger.record([Published("date=x/a.parquet", 1, 1, [(key, 7) for key in keys])], {})
    assert list(ledger.known([*keys, -1, "d"])) and set(ledger.known([*keys, -1])) == set(keys)
    with ledger.telling_repeated() as came_before:
        assert came_before([1, 2, 1, "1"]) == [False, False, True, False]
        assert not any(came_before(list(range(10, 2000))))
        assert came_before(["1", b"1", 11, 2]) == [True, False, True, True]
    with ledger.telling_repeated() as came_before:
        assert came_before([1]) == [False]


def test_a_ledger_of_format_1_is_made_anew(tmp_path: Path) -> None:
    """It had no checksums: its rows are read from the files, its inputs stay if these are same."""
    for name, extra in (("same", False), ("other", True)):
        folder = tmp_path / name
        file = publish(folder, "date=x/a.parquet", ["1", "2"])
        db = sqlite3.connect(folder / LEDGER)
        db.executescript(
            "CREATE TABLE files (number INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT UNIQUE NOT"
            " NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, num_repeated INTEGER NOT"
            " NULL); CREATE TABLE rows (id PRIMARY KEY NOT NULL, text INTEGER NOT NULL, file"
            " INTEGER NOT NULL) WITHOUT ROWID; CREATE TABLE inputs (key TEXT PRIMARY KEY NOT NULL,"
            " counts TEXT NOT NULL) WITHOUT ROWID; PRAGMA user_version = 1"
        )
        facts = (file.path, file.size, file.mtime_ns + extra)
        db.execute("INSERT INTO files VALUES (1, ?, ?, ?, 0)", facts)
        db.execute("INSERT INTO rows VALUES (7, 7, 1)")  # wrong, and never believed
        db.execute("INSERT INTO inputs VALUES ('input', '{\"read\": 2}')")
        db.commit()
        db.close()
        with Ledger(folder / LEDGER) as ledger:
            ledger.sync(folder)
            assert ids_known(ledger, "127") == ["1", "2"]
            assert ledger.finished("input") == (None if extra else Finished("", {"read": 2}))
        db = sqlite3.connect(folder / LEDGER)
        assert db.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        db.close()


def test_what_cannot_be_a_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScoreError, match=r"nowhere/_ledger\.sqlite: cannot be opened"):
        Ledger(tmp_path / "nowhere" / LEDGER)


def test_damage_while_it_is_used_says_what_to_do(tmp_path: Path) -> None:
    with (
        pytest.raises(ScoreError, match=r"full, `salient score repair .*` makes it again"),
        Ledger(tmp_path / LEDGER),
    ):
        raise sqlite3.DatabaseError("database disk image is malformed")


@pytest.mark.parametrize("content", [b"broken", None], ids=["damaged", "of other columns"])
def test_a_file_that_holds_no_scores_is_named(
    ledger: Ledger, tmp_path: Path, content: bytes | None
) -> None:
    publish(tmp_path, "date=x/good.parquet", ["1"])
    bad = tmp_path / "date=x" / "bad.parquet"
    if content is None:
        pq.write_table(pa.table({"a": [1]}), bad)
    else:
        bad.write_bytes(content)
    with pytest.raises(ScoreError, match=r"bad\.parquet: damaged, or no scores"):
        ledger.sync(tmp_path)
    bad.unlink()
    ledger.sync(tmp_path)
    assert ids_known(ledger, "1") == ["1"]


def test_ids_that_are_numbers_are_named(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "date=x").mkdir()
    pq.write_table(pa.table({"id": [7], "text_hash": ["f" * 64]}), tmp_path / "date=x/a.parquet")
    with pytest.raises(ScoreError, match=r"a\.parquet: .*id is int64, must be string"):
        ledger.sync(tmp_path)
