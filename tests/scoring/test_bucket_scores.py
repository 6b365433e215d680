"""Scores in a bucket: whoever dies or races when, every id is there once, and none comes back."""

from __future__ import annotations

import errno
import itertools
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.commands.line import run_command
from pipeline.errors import ScoreError
from pipeline.scoring.bucketscores import BucketScores, open_bucket
from pipeline.scoring.commitlog import Added, Commit, CommitLog, Digests, Parts, commit_path
from pipeline.scoring.folder import open_scores
from pipeline.scoring.parts import id_key
from pipeline.scoring.place import SCORE_CARD, WrongPlace, check_place, read_score_card
from store.disk import ObjectLocation, durable, locate
from tests.builders.buckets import BucketServer
from tests.builders.dumps import assert_same_scores, scores, v1, write_tweets
from tests.builders.faults import Fault, FaultProxy
from tests.builders.forking import start
from tests.builders.heads import write_heads
from tests.builders.scoring import run_without_model

CARD = {"fingerprint": "made", "tasks": {}}
NUM_TWEETS = 60
NUM_LINES = 2


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two dumps of two dates that share a third of their tweets; each has a line that is none."""
    root = tmp_path_factory.mktemp("dumps")
    days = [f"Fri Jan {1 + i % 2:02d} 07:29:00 +0000 2021" for i in range(NUM_TWEETS)]
    tweets = [
        v1(i, created_at=day, text=f"dog {i}", id=i, id_str=str(i)) for i, day in enumerate(days)
    ]
    found = [write_tweets(root / "a", tweets[:40]), write_tweets(root / "b", tweets[20:])]
    for path in found:
        path.write_bytes(path.read_bytes() + b'{"broken": 1\n')
    return found


@pytest.fixture
def other_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Goes on on a machine that has never seen any folder of scores."""

    def move() -> None:
        monkeypatch.setenv("SALIENT_CACHE", str(tmp_path / f"cache-{random.random()}"))

    return move


# --- what is there -------------------------------------------------------------------------------


def at(url: str) -> ObjectLocation:
    found = locate(url)
    assert isinstance(found, ObjectLocation)
    return found


def paths(url: str) -> list[str]:
    return [meta.path for meta in at(url).list()]


def table_at(url: str, path: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(at(url).get(path)[0]))


def globbed(url: str) -> list[str]:
    """Ids as a reader finds them that knows of nothing but ``date=*/*.parquet``."""
    found = [table_at(url, path) for path in paths(url) if path.startswith("date=")]
    return sorted((id for table in found for id in table["id"].to_pylist()), key=int)


def committed(url: str) -> list[str]:
    """Ids by the commits, wherever their parts lie."""
    found, live = [], Parts.of(CommitLog(at(url))).live
    for path, one in live.items():
        if path.startswith("date="):
            try:
                table = table_at(url, path)
            except FileNotFoundError:
                table = table_at(url, one.staged)
            assert len(table) == one.rows
            found += table["id"].to_pylist()
    return sorted(found, key=int)


def check_whole(url: str, num_ids: int = NUM_TWEETS, num_lines: int = NUM_LINES) -> None:
    """Every id and line is there once, for any reader; nothing else is in a place of scores."""
    expected = [str(i) for i in range(num_ids)]
    assert committed(url) == expected
    assert globbed(url) == expected
    live = Parts.of(CommitLog(at(url))).live
    there = {path for path in paths(url) if path.startswith(("date=", "_quarantine/"))}
    assert there == set(live)
    lines = [path for path in live if path.startswith("_quarantine")]
    assert sum(len(table_at(url, path)) for path in lines) == num_lines


def check_subset(url: str) -> None:
    """What a reader sees at any moment: no id twice, and nothing that is not committed."""
    seen = globbed(url)
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(committed(url))


# --- deaths --------------------------------------------------------------------------------------


class Died(BaseException):
    """Ends a run wherever it is, as a kill does."""


@contextmanager
def dying_at(number: int) -> Iterator[list[str]]:
    """Die at a step; yields the steps that were passed."""
    passed: list[str] = []

    def watch(name: str) -> None:
        if not name.endswith(("put", "copy", "delete")):
            return  # of this machine's disk
        passed.append(name)
        if len(passed) == number:
            raise Died

    durable.watch_steps(watch)
    try:
        yield passed
    except Died:
        pass
    finally:
        durable.watch_steps(None)


def test_a_run_that_dies_at_any_verb_is_completed(
    dumps: list[Path], memory_bucket: str, other_machine: Callable[[], None]
) -> None:
    """Before and after each put, copy and delete: after an unanswered one it has happened."""
    number, ended, url = 0, False, memory_bucket
    while not ended:
        number += 1
        at(url).delete(paths(url))  # a ledger of another folder's, which is cheaper than none
        with dying_at(number) as passed:
            run_without_model(dumps, url)
        ended = len(passed) < number
        if len(paths(url)):
            check_subset(url)
        if number % 4 == 1:
            other_machine()
        run_without_model(dumps, url)
        check_whole(url)
        if number % 6 == 0 or ended:
            assert run_without_model(dumps, url).read == 0
    assert number > 40


def test_runs_that_die_one_after_another_are_completed(
    dumps: list[Path], memory_bucket: str, other_machine: Callable[[], None]
) -> None:
    for seed in range(8):
        draw, url = random.Random(seed), f"{memory_bucket}/{seed}"
        for _ in range(6):
            with dying_at(draw.randrange(1, 50)):
                run_without_model(draw.sample(dumps, 2), url)
            if draw.random() < 0.5:
                other_machine()
        run_without_model(dumps, url)
        check_whole(url)


def test_lost_answers_lose_and_double_nothing(
    dumps: list[Path], bucket: str, fault_proxy: FaultProxy
) -> None:
    """A real server that acts, and whose answers to writing get lost a third of the time."""
    fault_proxy.plan(Fault("lose", method="PUT|POST|DELETE", share=0.3, times=None))
    fault_proxy.plan(Fault("answer", share=0.1, times=None, status=503))
    for _ in range(3):
        run_without_model(dumps, bucket)
        check_whole(bucket)


def score_and_be_killed(
    dumps: Sequence[Path], url: str, environment: dict[str, str], step: int
) -> None:
    """Runs in a process of its own: score, and be killed at a step."""
    os.environ.update(environment)
    passed = itertools.count(1)

    def watch(name: str) -> None:
        if name.endswith(("put", "copy", "delete")) and next(passed) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    durable.watch_steps(watch)
    run_without_model(dumps, url)


@pytest.mark.slow
def test_200_kills_of_8_racing_processes_lose_and_double_nothing(
    dumps: list[Path], bucket: str, bucket_server: BucketServer, own_cache: Path
) -> None:
    draw, kills, number = random.Random(0), 0, 0
    while kills < 200:
        number += 1
        url = f"{bucket}/{number}"
        for _ in range(3):
            processes = []
            for machine in range(8):
                cache = {"SALIENT_CACHE": str(own_cache / f"{machine}")}
                environment = bucket_server.environment() | cache
                what = draw.sample(dumps, 2), url, environment, draw.randrange(1, 14)
                processes.append(start(score_and_be_killed, *what))
            for process in processes:
                process.join()
                assert process.exitcode in (0, -signal.SIGKILL)
                kills += process.exitcode != 0
            check_subset(url)
        run_without_model(dumps, url)
        check_whole(url)
        assert run_without_model(dumps, url).read == 0
        print(f"{kills} kills in {number} folders")


# --- races ---------------------------------------------------------------------------------------


def test_machines_that_score_the_same_dumps_at_a_time_write_every_id_once(
    dumps: list[Path], memory_bucket: str
) -> None:
    for number in range(3):
        url, start = f"{memory_bucket}/{number}", threading.Barrier(4)

        def score(seed: int, url: str = url, start: threading.Barrier = start) -> int:
            start.wait()
            return run_without_model(random.Random(seed).sample(dumps, 2), url).read

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(score, range(4)))
        check_whole(url)
        assert run_without_model(dumps, url).read == 0


@contextmanager
def between(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, act: Callable[[int], None]
) -> Iterator[None]:
    """Do something, of another machine, before each call of a method but those it makes itself."""
    plain, calls, inside = getattr(owner, name), 0, False

    def method(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal calls, inside
        if not inside:
            calls, inside = calls + 1, True
            try:
                act(calls)
            finally:
                inside = False
        return plain(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, method)
        yield


def test_who_loses_the_race_for_a_commit_leaves_out_what_the_first_wrote(
    dumps: list[Path], memory_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another scores the other dump whole, at the very moment of each commit in turn."""
    for moment in range(1, 5):
        url = f"{memory_bucket}/{moment}"

        def act(number: int, moment: int = moment, url: str = url) -> None:
            if number == moment:
                run_without_model([dumps[1]], url)

        with between(monkeypatch, CommitLog, "create", act):
            run_without_model(dumps, url)
        check_whole(url)
        assert not [path for path in paths(url) if path.startswith("_staged")]


def test_a_slow_writer_wins_though_another_commits_often(
    dumps: list[Path], memory_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever loses races puts each part once, and copies it for each try."""
    run_without_model([dumps[0]], memory_bucket)
    with open_bucket(memory_bucket) as fast:
        path = next(path for path in fast.parts() if path.startswith("date="))
        row, staged = fast.read_table(path).slice(0, 1), list[str]()

        def act(number: int) -> None:
            if number < 5:
                fast.refresh()
                one = row.set_column(0, "id", pa.array([str(1000 + number)]))
                part = fast.stage("date=2021-01-01", one)
                assert fast.append("score", [part])
                fast.settle([part])

        with (
            between(monkeypatch, CommitLog, "create", act),
            between(monkeypatch, BucketScores, "stage", lambda _: staged.append("once")),
        ):
            run_without_model([dumps[1]], memory_bucket)
    assert len(staged) == 4 + 3  # of the other, and two dates and lines
    assert len(committed(memory_bucket)) == NUM_TWEETS + 4
    assert not [path for path in paths(memory_bucket) if path.startswith("_staged")]


def test_who_was_first_counts_rows_as_scored(
    dumps: list[Path], memory_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the reports of both, and in what later runs say of the file: each row once."""
    for gone in (False, True):
        url, others = f"{memory_bucket}/{gone}", list[Any]()

        def act(number: int, gone: bool = gone, url: str = url, others: list[Any] = others) -> None:
            if number == 2:
                others.append(run_without_model([dumps[0]], url))
                if gone:
                    with open_bucket(url) as scores:
                        delete(scores, ["5"])

        with between(monkeypatch, CommitLog, "create", act):
            found = run_without_model([dumps[0]], url).to_dict()
        assert others[0].scored + found["scored"] == 40 and others[0].scored > 20
        assert (found["filtered_by"] == {"deleted": 1}) == gone
        assert found["read"] == 41 and found["already_scored"] == others[0].scored - gone


def test_a_commit_that_names_another_object_than_a_part_is_refused(memory_bucket: str) -> None:
    for names in ({"path": SCORE_CARD}, {"replaces": SCORE_CARD}):
        one = replace(Added("date=2021-01-01/part-1.parquet", 1, 0), **names)
        content = Commit("score", "w", b"s" * 32, adds=(one,)).encoded()
        with pytest.raises(ScoreError, match=r"'_salient\.json' is no path of a part"):
            Commit.decoded(content, where="x")


def delete(scores: BucketScores, ids: Sequence[str]) -> None:
    """As a deletion does it: parts are rewritten, and the ids are not to come back."""
    while True:
        scores.refresh()
        staged, removes = [], []
        for path in scores.parts():
            table = scores.read_table(path)
            if path.startswith("date=") and (gone := set(table["id"].to_pylist()) & set(ids)):
                keep = pa.array([id not in gone for id in table["id"].to_pylist()])
                removes.append(path)
                if pa.compute.any(keep).as_py():
                    partition = path.partition("/")[0]
                    staged.append(scores.stage(partition, table.filter(keep), replaces=path))
        keys = [scores.digests.of_key(id_key(one)) for one in ids]
        if scores.append("delete", staged, removes=removes, deleted=keys):
            scores.settle()
            return


def test_deleted_ids_do_not_come_back_whenever_they_are_deleted(
    dumps: list[Path], memory_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even those that are scored and staged already, and not yet committed."""
    gone, moments = [str(i) for i in range(NUM_TWEETS - 10, NUM_TWEETS)], list[int]()
    for moment in range(2, 5):
        url = f"{memory_bucket}/{moment}"

        def act(number: int, moment: int = moment, url: str = url) -> None:
            if number == moment:
                moments.append(moment)
                with open_bucket(url) as scores:
                    delete(scores, gone)

        with between(monkeypatch, CommitLog, "create", act):
            run_without_model(dumps, url)
        check_whole(url, NUM_TWEETS - 10)
        assert run_without_model(dumps, url).read == 0
    assert moments == [2, 3, 4]


class Late(ObjectLocation):
    """Copies what it has read before a deletion came; then it may die."""

    deleted: list[str]
    dies = False

    def copy(self, source: str, target: str) -> None:
        content = self.get(source)[0]
        if not self.deleted and target.startswith("date="):
            self.deleted.append(target)
            ids = table_at(self.address, source)["id"].to_pylist()
            with open_bucket(self.address) as scores:
                delete(scores, ids)
        self.put(target, content)
        if self.dies:
            raise Died


def test_who_copies_a_part_late_does_not_bring_it_back(
    dumps: list[Path], memory_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deletion comes between the commit and the copy; then also the copier's death."""
    for dies in (False, True):
        url = f"{memory_bucket}/{dies}"

        deleted: list[str] = []
        run_without_model([dumps[0]], url)
        with pytest.raises(Died) if dies else monkeypatch.context(), open_bucket(url) as scores:
            table = table_at(url, next(path for path in scores.parts() if path[:5] == "date="))
            rows = table.set_column(0, "id", pa.array([str(900 + i) for i in range(len(table))]))
            scores.refresh()
            staged = scores.stage("date=2021-01-09", rows)
            assert scores.append("score", [staged])
            late = Late(url)
            late.deleted, late.dies, scores.location = deleted, dies, late
            scores.settle([staged])
        assert len(deleted) == 1 and (deleted[0] in paths(url)) == dies
        run_without_model(dumps, url)
        check_whole(url)


# --- other writers' traces -----------------------------------------------------------------------


def test_what_was_staged_before_another_commit_is_never_committed(memory_bucket: str) -> None:
    """So it may be deleted once that commit is there, whoever staged it and still lives."""
    table = pa.table({"id": ["7"], "text_hash": ["0" * 32], "source_file": ["a"]})
    with open_bucket(memory_bucket) as scores, open_bucket(memory_bucket) as late:
        scores.begin()
        late.refresh()
        early = late.stage("date=x", table)
        assert early.added.staged in paths(memory_bucket)
        assert scores.append("repair")
        assert not late.append("score", [early])
        assert early.added.staged not in paths(memory_bucket)
        late.refresh()
        with pytest.raises(AssertionError, match="staged before the last refresh"):
            late.append("score", [early])


def test_inputs_are_read_again_where_another_wrote_other_texts_meanwhile(
    tmp_path: Path, memory_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of two texts under one id counts is said once both are there."""
    for name, text in (("a", "dog"), ("b", "cat")):
        (tmp_path / f"{name}.csv").write_text(f"id,text\n7,{text}\n8,same\n")
    inputs = [tmp_path / f"{name}.csv" for name in "ab"]

    def act(number: int) -> None:
        if number == 2:
            run_without_model([inputs[1]], memory_bucket)

    with between(monkeypatch, CommitLog, "create", act):
        run_without_model([inputs[0]], memory_bucket)
    assert globbed(memory_bucket) == ["7", "8"]
    again = run_without_model(inputs, memory_bucket)
    assert again.counts()["quarantined/scored before with another text"] == 1
    assert again.read == 2 and run_without_model(inputs, memory_bucket).read == 0


def test_ids_that_may_come_back_are_not_missed_by_who_was_reading(
    dumps: list[Path], memory_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deletion is lifted while a run, that has left its ids out, ends: its files do not count as
    read."""
    run_without_model([dumps[0]], memory_bucket)
    with open_bucket(memory_bucket) as scores:
        delete(scores, ["55"])

    def act(number: int) -> None:
        if number == 1:
            with open_bucket(memory_bucket) as scores:
                key = scores.digests.of_key(55)
                assert scores.append("lift", lifted=[key], forgets_inputs=True)

    with between(monkeypatch, CommitLog, "create", act):
        run_without_model(dumps, memory_bucket)
    run_without_model(dumps, memory_bucket)
    check_whole(memory_bucket)


# --- caches --------------------------------------------------------------------------------------


def test_a_cache_of_another_folder_or_a_damaged_one_is_made_anew(
    dumps: list[Path], memory_bucket: str, own_cache: Path
) -> None:
    run_without_model(dumps, memory_bucket)
    index = next(own_cache.glob("scores/*/0/_ledger.sqlite"))
    content = bytearray(index.read_bytes())
    content[len(content) // 2] ^= 255
    index.write_bytes(content)
    assert run_without_model(dumps, memory_bucket).read == 0
    at(memory_bucket).delete(paths(memory_bucket))
    assert run_without_model(dumps, memory_bucket).scored == NUM_TWEETS
    check_whole(memory_bucket)
    at(memory_bucket).delete(paths(memory_bucket))
    assert run_without_model(dumps[:1], memory_bucket, dry_run=True).scored == 40
    assert paths(memory_bucket) == []


def test_a_home_without_file_locks_is_done_without(
    dumps: list[Path], memory_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("pipeline.scoring.bucketledger.fcntl.flock", refuse)
    run_without_model(dumps, memory_bucket)
    check_whole(memory_bucket)


def test_a_missing_commit_is_said(
    dumps: list[Path], memory_bucket: str, other_machine: Any
) -> None:
    run_without_model(dumps, memory_bucket)
    at(memory_bucket).delete([commit_path(2)])
    other_machine()
    with pytest.raises(ScoreError, match=r"00000002\.arrow: no such commit; restore"):
        run_without_model(dumps, memory_bucket)


def test_commits_show_when_they_were_damaged(memory_bucket: str) -> None:
    commit = Commit(
        "score", "w" * 16, b"s" * 32, rows=Digests(b"s" * 32).rows(0, [(1, 2), ("a", 3)])
    )
    content = commit.encoded()
    assert Commit.decoded(content, where="x").rows.equals(commit.rows)
    noticed = 0
    for place in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[place] ^= 4
        try:
            found = Commit.decoded(bytes(damaged), where="x")
        except ScoreError:
            noticed += 1
        else:
            assert replace(found, rows=commit.rows) == replace(commit, rows=commit.rows)
            assert found.rows.equals(commit.rows)
    assert noticed


# --- the folder ----------------------------------------------------------------------------------


def test_dry_runs_write_nothing_and_texts_are_taken_out_where_none_are_kept(
    dumps: list[Path], memory_bucket: str
) -> None:
    run_without_model([dumps[0]], memory_bucket)
    before = {meta.path: meta.etag for meta in at(memory_bucket).list()}
    assert run_without_model(dumps, memory_bucket, dry_run=True).counts()["scored"] == 20
    assert {meta.path: meta.etag for meta in at(memory_bucket).list()} == before
    run_without_model(dumps, memory_bucket, keep_text=False)
    check_whole(memory_bucket)
    lines = [path for path in paths(memory_bucket) if path.startswith("_quarantine")]
    assert all("broken" not in str(table_at(memory_bucket, path).to_pydict()) for path in lines)
    assert read_score_card(memory_bucket)["keep_text"] is False  # type: ignore[index]


def test_texts_are_also_taken_out_of_what_was_set_aside_or_staged(
    dumps: list[Path], memory_bucket: str
) -> None:
    """Damaged lines by a repair, and lines of a writer that died before its commit."""
    run_without_model([dumps[0]], memory_bucket)
    lines = next(path for path in paths(memory_bucket) if path.startswith("_quarantine"))
    content = at(memory_bucket).read(lines)
    at(memory_bucket).put("_quarantine/_damaged/_quarantine.part-1.parquet-w.damaged", content)
    at(memory_bucket).put("_staged/part-00000000000000000000.parquet", content)
    run_without_model(dumps, memory_bucket, keep_text=False)
    check_whole(memory_bucket)
    assert not [path for path in paths(memory_bucket) if path.startswith("_staged/")]


def test_other_heads_and_other_folders_are_refused(
    dumps: list[Path], memory_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act(number: int) -> None:
        if number == 1:
            run_without_model([dumps[0]], memory_bucket)

    with (
        between(monkeypatch, ObjectLocation, "create", act),
        pytest.raises(WrongPlace, match="holds scores of other heads"),
        open_scores(memory_bucket, {**CARD, "fingerprint": "others"}, buffer_rows=20),
    ):
        pass
    with (
        pytest.raises(WrongPlace, match="a Delta table is written on a disk only"),
        open_scores(memory_bucket, CARD, buffer_rows=20, out_format="delta"),
    ):
        pass
    for name in ("date=2021-01-01/part-1.parquet", "zarr.json", ".salient/snapshots/000000.json"):
        location = at(f"{memory_bucket}-{len(name)}")
        location.put(name, b"x")
        with pytest.raises(WrongPlace, match="choose"):
            check_place(location.address)
    with pytest.raises(WrongPlace, match="scores are not written there"):
        check_place("https://host/scores")


def test_the_facts_of_two_runs_that_begin_at_a_time_are_both_in_the_card(
    memory_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    when = datetime(2021, 1, 1, tzinfo=UTC)

    def opened(engine: str) -> None:
        with open_scores(memory_bucket, CARD, buffer_rows=9, origin={"engine": engine}, at=when):
            pass

    def act(number: int) -> None:
        if number == 1:
            opened("second")

    opened("first")
    with between(monkeypatch, ObjectLocation, "replace", act):
        opened("third")
    changes = [one["what"]["engine"] for one in read_score_card(memory_bucket)["changes"]]  # type: ignore[index]
    assert changes == [["first", "second"], ["second", "third"]]


def test_the_command_scores_a_bucket_into_a_bucket_as_a_folder_into_a_folder(
    dumps: list[Path], bucket: str, tiny_bert: Path, tmp_path: Path, other_machine: Any
) -> None:
    heads = write_heads(tmp_path / "heads", tiny_bert)
    for path in dumps:
        at(f"{bucket}/dumps").put(f"{path.name}.jsonl", path.read_bytes())
    words = ["--heads", str(heads[0]), "--max-errors", "1", "--quiet"]
    assert run_command(["score", *map(str, dumps), "--out", str(tmp_path / "out"), *words]) == 0
    url = f"{bucket}/scores"
    command = ["score", f"{bucket}/dumps/*.jsonl", "--out", url, *words]
    assert run_command([*command, "--dry-run"]) == 0 and paths(url) == []
    assert run_command(command) == 0
    check_whole(url)
    tables = [table_at(url, path) for path in paths(url) if path.startswith("date=")]
    expected = scores(tmp_path / "out").drop_columns("source_file")
    found = pa.concat_tables(tables).sort_by("id").drop_columns("source_file")
    assert_same_scores(found, expected)
    before, card = paths(url), at(url).head(SCORE_CARD)
    assert {path.partition("/")[0] for path in before} >= {SCORE_CARD, "_commits", "_runs"}
    other_machine()
    assert run_command(command) == 0
    assert at(url).head(SCORE_CARD) == card  # which says the same, so nobody races for it
    assert [path for path in paths(url) if not path.startswith("_runs/")] == [
        path for path in before if not path.startswith("_runs/")
    ]
