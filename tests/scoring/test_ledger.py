"""The ledger: which ids are there, exactly; whatever happened to it, the Parquet files decide."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ScoreError
from pipeline.scoring.ledger import (
    LEDGER,
    Entry,
    Key,
    Ledger,
    Published,
    id_key,
    line_keys,
    row_keys,
    text_digest,
)
from store import text_hash


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
        ledger.record([recorded], {"input": {"read": 2}})
    publish(tmp_path, "date=y/b.parquet", ["3"])  # and then the process died
    with Ledger(tmp_path / LEDGER) as ledger:
        ledger.sync(tmp_path)
        assert ids_known(ledger, "1234") == ["1", "2", "3"]
        assert ledger.first_new_file == 3
        assert ledger.finished("input") == {"read": 2}, "its rows are all there"
        ledger.sync(tmp_path)
        assert ledger.first_new_file == 3, "nothing is read twice"


def test_a_record_that_breaks_off_leaves_nothing(ledger: Ledger, tmp_path: Path) -> None:
    def breaking() -> Iterator[tuple[Key, int]]:
        yield 2, 0
        raise OSError("the disk went away")

    whole = publish(tmp_path, "date=x/a.parquet", ["1"])
    with pytest.raises(OSError, match="went away"):
        ledger.record([whole, Published("date=x/b.parquet", 0, 0, breaking())], {"input": {}})
    assert ids_known(ledger, "12") == [] and ledger.finished("input") is None
    ledger.record([whole], {"input": {}})
    assert ids_known(ledger, "12") == ["1"] and ledger.finished("input") == {}


def test_rows_of_files_that_are_gone_or_replaced_are_forgotten(tmp_path: Path) -> None:
    files = [publish(tmp_path, f"date=x/{name}.parquet", name) for name in ("12", "34", "56")]
    with Ledger(tmp_path / LEDGER) as ledger:
        ledger.record(files, {"input": {"read": 6}})
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


def another_format(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        lambda path: path.write_bytes(b"no database, but quite long" * 9),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        another_format,
    ],
    ids=["lost", "overwritten", "empty", "cut", "of another format"],
)
def test_a_damaged_ledger_is_made_again(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / LEDGER
    with Ledger(path) as ledger:
        ledger.record([publish(tmp_path, "date=x/a.parquet", ["1", "2"])], {"input": {}})
    damage(path)
    with Ledger(path) as ledger:
        assert ids_known(ledger, "12") == [] and ledger.finished("input") is None
        ledger.sync(tmp_path)
        assert ids_known(ledger, "123") == ["1", "2"]


def test_what_cannot_be_a_ledger_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScoreError, match=r"nowhere/_ledger\.sqlite: cannot be opened"):
        Ledger(tmp_path / "nowhere" / LEDGER)


def test_damage_while_it_is_used_says_what_to_do(tmp_path: Path) -> None:
    with (
        pytest.raises(ScoreError, match=r"full, delete it: it is made again from the Parquet"),
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
