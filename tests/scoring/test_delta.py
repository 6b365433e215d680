"""Scores as a Delta table: the same rows once each, whoever reads, compacts, deletes or repairs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake

from pipeline.errors import ConfigError, MissingExtra, ScoreError
from pipeline.report.inspection import inspect
from pipeline.scoring import delta, folder, place
from pipeline.scoring.deletion import delete_scores
from pipeline.scoring.delta import APPLICATION, LOG, DeltaLog, as_delta
from pipeline.scoring.ledger import LEDGER, Ledger, remove_ledger
from pipeline.scoring.parts import SET_ASIDE, read_scores, row_files
from pipeline.scoring.place import SCORE_CARD, read_score_card
from pipeline.scoring.repair import repair_scores
from tests.builders.dumps import quarantine, scores, v1, write_tweets
from tests.builders.scoring import run_without_model

NUM_TWEETS = 60
IDS = sorted(v1(i)["id_str"] for i in range(NUM_TWEETS))
score = partial(run_without_model, out_format="delta")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two dumps that share tweets, with a broken line, and their scores as a Delta table."""
    root = tmp_path_factory.mktemp("made")
    days = [f"Fri Jan {1 + i % 3:02d} 07:29:00 +0000 2021" for i in range(NUM_TWEETS)]
    tweets = [v1(i, created_at=day) for i, day in enumerate(days)]
    write_tweets(root / "day1", tweets[:40])
    write_tweets(root / "day2", tweets[30:])
    (root / "day1").write_bytes((root / "day1").read_bytes() + b"{bad\n")
    score([root / "day1", root / "day2"], root / "out")
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "root"))


@pytest.fixture
def out(root: Path) -> Path:
    return root / "out"


def inputs(root: Path) -> list[Path]:
    return [root / "day1", root / "day2"]


def table_ids(out: Path) -> list[str]:
    """The ids that Delta's own reader finds."""
    return sorted(DeltaTable(out).to_pyarrow_table(columns=["id"])["id"].to_pylist())


def test_everyone_reads_every_row_once(out: Path, tmp_path: Path, root: Path) -> None:
    run_without_model(inputs(root), tmp_path / "plain")
    plain = scores(tmp_path / "plain")
    wanted = [(one["id"], one["of"]) for one in plain.to_pylist()]
    table = DeltaTable(out)
    assert table.metadata().partition_columns == ["date"]
    frame = pl.read_delta(str(out)).sort("id")
    assert list(frame.select("id", "of").iter_rows()) == wanted
    assert frame["date"].unique().sort().to_list() == ["2021-01-01", "2021-01-02", "2021-01-03"]
    assert frame["created_at"].dt.date().cast(str).to_list() == frame["date"].to_list()
    rows = table.to_pyarrow_dataset()
    assert isinstance(rows, ds.Dataset)  # DuckDB's own reader of Delta comes over the network
    query = "SELECT date, count(*) AS n, count(DISTINCT id) AS ids FROM rows GROUP BY 1 ORDER BY 1"
    assert duckdb.sql(query).fetchall() == [(f"2021-01-0{day}", 20, 20) for day in (1, 2, 3)]
    own = pa.concat_tables(read_scores(out, ["id", "of", "platforms"])).sort_by("id")
    assert own.column_names == ["id", "of", "platforms", "date"]
    assert list(zip(own["id"].to_pylist(), own["of"].to_pylist(), strict=True)) == wanted
    assert own["platforms"].null_count == NUM_TWEETS
    found = inspect(out)
    assert (found["rows"], found["format_version"]) == (NUM_TWEETS, 4)


def test_commits_carry_a_rising_transaction_and_again_adds_nothing(root: Path, out: Path) -> None:
    table = DeltaTable(out)
    commits = sorted((out / LOG).glob("*.json"))
    assert table.transaction_version(APPLICATION) == len(commits) == table.version() + 1 > 1
    log = DeltaLog(out)
    log.commit(log.files(), [])
    log.commit([], [out / "date=2021-01-01" / "part-0.parquet"])
    assert score(inputs(root), out).to_dict()["inputs"]["unchanged"] == 2
    assert sorted((out / LOG).glob("*.json")) == commits
    # The files say as many rows as they have.
    num = pa.table(table.get_add_actions(flatten=True))["num_records"].to_pylist()
    assert sum(num) == NUM_TWEETS


def test_of_two_writers_on_one_state_the_second_is_refused(
    root: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tweets(root / "day3", [v1(NUM_TWEETS)])
    stale = DeltaTable(out)
    newer = DeltaTable(out)
    number = (newer.transaction_version(APPLICATION) or 0) + 1
    properties = CommitProperties(app_transactions=[Transaction(APPLICATION, number)])
    newer.create_write_transaction(
        [], "append", newer.schema(), ["date"], commit_properties=properties
    )
    monkeypatch.setattr(DeltaLog, "_table", lambda _: stale)
    with pytest.raises(delta.TableChanged, match="another program changed the Delta table"):
        score([root / "day3"], out)
    monkeypatch.undo()
    assert score([root / "day3"], out).scored == 1
    assert len(table_ids(out)) == NUM_TWEETS + 1


# --- killed, lost, compacted ----------------------------------------------------------------------


class Killed(BaseException):
    """Nothing after it runs but what frees what is held."""


def dying(function: Callable[..., Any], *, before: bool) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        if not before:
            function(*arguments, **options)
        raise Killed

    return call


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("step", ["file", "commit", "ledger"])
def test_stopped_around_a_commit_every_id_is_there_once(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, before: bool
) -> None:
    owner, name = {
        "file": (folder, "write_table"),
        "commit": (DeltaLog, "commit"),
        "ledger": (Ledger, "record"),
    }[step]
    target = tmp_path / "out"
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, dying(getattr(owner, name), before=before))
            with pytest.raises(Killed):
                score(inputs(made), target)
        assert len(set(found := scores(target)["id"].to_pylist() if row_files(target) else [])) == (
            len(found)
        )
    score(inputs(made), target)
    assert table_ids(target) == scores(target)["id"].to_pylist() == IDS
    assert len(quarantine(target)) == 1
    assert score(inputs(made), target).read == 0


def test_a_batch_that_the_table_has_and_the_ledger_has_not_is_taken_from_it(
    root: Path, out: Path
) -> None:
    remove_ledger(out / LEDGER)
    found = score(inputs(root), out)
    assert (found.scored, found.to_dict()["already_scored"]) == (0, NUM_TWEETS + 10)
    assert table_ids(out) == IDS


def test_compacting_and_its_old_files_change_no_row(root: Path, out: Path) -> None:
    before = scores(out)
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder, "MANY_SMALL", 2)
        score([], out, say=said.append)
    assert any("files are small" in line and "optimize.compact" in line for line in said)
    DeltaTable(out).optimize.compact()
    assert len(list(out.glob("date=*/*.parquet"))) > len(row_files(out)) == 3
    again = score(inputs(root), out)
    assert again.scored == 0 and table_ids(out) == IDS
    assert scores(out).select(["id", "of"]).equals(before.select(["id", "of"]))
    write_tweets(root / "day3", [v1(NUM_TWEETS)])
    assert score([root / "day3"], out).scored == 1
    assert repair_scores(out).is_sound


def test_a_file_that_somebody_removed_leaves_the_table_and_comes_back(
    root: Path, out: Path
) -> None:
    row_files(out)[0].unlink()
    assert score(inputs(root), out).scored > 0
    assert table_ids(out) == IDS


def test_columns_that_come_later_are_null_before(root: Path, out: Path) -> None:
    part = row_files(out)[0]
    table = pq.read_table(part, partitioning=None).slice(0, 1)
    more = table.set_column(0, "id", pa.array(["1"])).append_column("extra", pa.array([0.5]))
    pq.write_table(more, part.with_name("part-foreign.parquet"))
    DeltaLog(out).commit([part.with_name("part-foreign.parquet")], [])
    found = DeltaTable(out).to_pyarrow_table()
    assert found["extra"].null_count == NUM_TWEETS and len(found) == NUM_TWEETS + 1


def test_types_that_delta_knows() -> None:
    table = pa.table(
        {
            "at": pa.array([1], pa.timestamp("s", "UTC")),
            "label": pa.array(["a"]).dictionary_encode(),
            "p": pa.array([0.5], pa.float32()),
        }
    )
    kinds = as_delta(table).schema.types
    assert kinds == [pa.timestamp("us", "UTC"), pa.string(), pa.float32()]


# --- deletion and repair --------------------------------------------------------------------------


def test_deleted_rows_leave_the_table_and_the_disk(root: Path, out: Path) -> None:
    DeltaTable(out).optimize.compact()  # its old files hold the rows too
    gone = [IDS[0], IDS[7], IDS[41]]
    told = delete_scores(out, gone, dry_run=True)
    assert table_ids(out) == IDS and told.found == 3
    assert delete_scores(out, gone).found == 3
    rest = [one for one in IDS if one not in gone]
    assert table_ids(out) == scores(out)["id"].to_pylist() == rest
    for path in out.glob("date=*/*.parquet"):  # listed or not
        assert not {*gone} & {*pq.read_table(path, partitioning=None)["id"].to_pylist()}
    for path in (out / LOG).iterdir():  # nor are they the least and greatest of a file
        assert not any(one.encode() in path.read_bytes() for one in IDS)
    for path in inputs(root):
        path.write_bytes(path.read_bytes() + b"\n")
    assert score(inputs(root), out).scored == 0
    assert repair_scores(out).is_sound


def test_a_damaged_file_is_set_aside_and_leaves_the_table(root: Path, out: Path) -> None:
    part = row_files(out)[0]
    part.write_bytes(part.read_bytes()[:-20])
    report = repair_scores(out)
    assert [one.file for one in report.set_aside] == [str(part.relative_to(out))]
    assert (out / SET_ASIDE).is_dir() and len(table_ids(out)) < NUM_TWEETS
    assert score(inputs(root), out).scored > 0
    assert table_ids(out) == IDS


def test_a_lost_card_is_made_again_as_that_of_a_table(out: Path) -> None:
    (out / SCORE_CARD).unlink()
    assert repair_scores(out).mended == [SCORE_CARD]
    assert (read_score_card(out) or {})["format_version"] == 4


def test_rows_that_are_there_twice_go_once(out: Path) -> None:
    part = row_files(out)[0]
    shutil.copyfile(part, part.with_name("part-copy.parquet"))
    DeltaLog(out).commit([part.with_name("part-copy.parquet")], [])
    assert len(table_ids(out)) > NUM_TWEETS
    assert repair_scores(out).repeated > 0
    assert table_ids(out) == IDS


# --- refusals -------------------------------------------------------------------------------------


def test_a_folder_is_one_or_the_other(made: Path, tmp_path: Path) -> None:
    with pytest.raises(place.WrongPlace, match="keeps its scores as a Delta table, not as plain"):
        run_without_model(inputs(made), made / "out")
    plain = tmp_path / "plain"
    run_without_model(inputs(made), plain)
    before = sorted(plain.rglob("*"))
    with pytest.raises(place.WrongPlace, match="as plain Parquet, not as a Delta table: give"):
        score(inputs(made), plain)
    (plain / SCORE_CARD).unlink()
    with pytest.raises(place.WrongPlace, match="--out-format parquet, or another folder"):
        score(inputs(made), plain)
    assert sorted(plain.rglob("*")) == [one for one in before if one.name != SCORE_CARD]


def test_without_its_package_one_line_names_the_extra(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.errors.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"deltalake: pip install .*\[delta\]") as raised:
        score(inputs(made), tmp_path / "out")
    assert "\n" not in str(raised.value)
    monkeypatch.setitem(__import__("sys").modules, "deltalake", None)
    with pytest.raises(MissingExtra, match=r"Delta table needs .*\[delta\]"):
        delta.DeltaLog(made / "out").files()


def test_a_log_that_cannot_be_read_is_named(out: Path) -> None:
    for path in (out / LOG).glob("*.json"):
        path.write_text("{")
    with pytest.raises(ScoreError, match=r"_delta_log: the Delta table cannot be used"):
        row_files(out)


def test_a_table_of_another_program_is_left_alone(made: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_deltalake(other, pa.table({"date": ["2021-01-01"], "id": ["1"]}), partition_by=["date"])
    next(other.glob("date=*/*.parquet")).unlink()
    before = sorted(other.rglob("*"))
    for call in (
        lambda: score(inputs(made), other),
        lambda: repair_scores(other),
        lambda: delete_scores(other, ["1"]),
    ):
        with pytest.raises((place.WrongPlace, ConfigError), match=r"another program|no folder of"):
            call()
    assert sorted(other.rglob("*")) == before


def test_a_dry_run_leaves_no_log(made: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    score(inputs(made), target, dry_run=True)
    assert not target.exists() or not list(target.iterdir())
    assert json.loads(json.dumps(DeltaLog(target).num_small())) == 0
