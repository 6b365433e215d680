"""Deletion and repair of scores in a bucket: whatever dies when, and whoever else is at work there,
nothing is lost, doubled or brought back."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.commands.line import run_command
from pipeline.errors import ConfigError, ScoreError
from pipeline.scoring.bucketscores import BucketScores, Staged, open_bucket
from pipeline.scoring.commitlog import Commit, CommitLog, Digests
from pipeline.scoring.deleted import DeletionReport
from pipeline.scoring.deletion import delete_scores
from pipeline.scoring.held import scores_at
from pipeline.scoring.parts import id_key
from pipeline.scoring.repair import repair_scores
from store.disk import ObjectLocation, durable, locate
from tests.builders.buckets import bucket, bucket_server, memory_bucket  # noqa: F401
from tests.builders.dumps import v1, write_tweets
from tests.builders.scoring import run_without_model

NUM_TWEETS = 24
IDS = [v1(i)["id_str"] for i in range(NUM_TWEETS + 4)]
OLD, LATE = IDS[:NUM_TWEETS], IDS[NUM_TWEETS:]
GONE = [IDS[0], IDS[7], LATE[1]]
"""Of two parts, and one that comes with a late file."""
BROKEN = IDS[7]
CHANGES = ("before put", "before copy", "before delete")
_numbers = itertools.count()


class Died(BaseException):
    """A process died; what it had begun stays as it is."""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """A machine that has never seen a folder; calling it goes to another one."""
    numbers = itertools.count()

    def another() -> None:
        monkeypatch.setenv("SALIENT_CACHE", str(tmp_path / f"machine-{next(numbers)}"))

    another()
    yield another
    durable.watch_steps(None)


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dumps")
    days = [f"Fri Jan {1 + i % 2:02d} 07:29:00 +0000 2021" for i in range(len(IDS))]
    tweets = [v1(i, created_at=day, user={"id_str": f"10{i % 4}"}) for i, day in enumerate(days)]
    write_tweets(root / "day", tweets[:NUM_TWEETS])
    line = b'{"id_str": "' + BROKEN.encode() + b'", "text": "oh no\n' + b'{"id_str": "99", "te\n'
    (root / "day").write_bytes((root / "day").read_bytes() + line)
    write_tweets(root / "late", [*tweets[:2], *tweets[NUM_TWEETS:]])
    return root


@pytest.fixture
def made(dumps: Path, memory_bucket: str) -> str:  # noqa: F811
    """Scores of the dump, in memory."""
    assert run_without_model([dumps / "day"], memory_bucket).scored == NUM_TWEETS
    return memory_bucket


def copy_of(address: str) -> str:
    """Another bucket with the same objects."""
    target = f"memory://copy-{next(_numbers)}/scores"
    source, copy = locate(address), locate(target)
    for one in source.list(""):
        copy.put(one.path, source.read(one.path))
    return target


def die_at(step: int, work: Callable[[], object]) -> bool:
    """Do something, and die at its ``step``-th change of the bucket; whether it came so far."""
    steps = itertools.count()

    def watch(name: str) -> None:
        if name in CHANGES and next(steps) >= step:  # who is dead does nothing any more
            raise Died

    durable.watch_steps(watch)
    try:
        work()
    except Died:
        return True
    finally:
        durable.watch_steps(None)
    return False


def meet_at(step: int, work: Callable[[], object], other: Callable[[], object]) -> bool:
    """Do something, and something else in between, before its ``step``-th change of the bucket."""
    steps, met = itertools.count(), []

    def watch(name: str) -> None:
        if name in CHANGES and next(steps) == step:
            durable.watch_steps(None)
            met.append(other())

    durable.watch_steps(watch)
    try:
        work()
    finally:
        durable.watch_steps(None)
    return bool(met)


def ids_in(address: str) -> list[str]:
    """The ids that Salient's readers see, sorted; each as often as it is there."""
    columns = ("id", "created_at", "source_file", "text_hash", "fingerprint", "of")
    tables = scores_at(address).tables(columns)
    return sorted(one for table in tables for one in table["id"].to_pylist())


def ids_in_place(address: str) -> list[str]:
    """The ids that a program sees that reads all that lies in ``date=…``."""
    found = []
    location = locate(address)
    for one in location.list(""):
        if one.path.startswith("date="):
            found += pq.read_table(pa.BufferReader(location.read(one.path)))["id"].to_pylist()
    return sorted(found)


def rest(ids: Iterable[str], gone: Iterable[str] = GONE) -> list[str]:
    return sorted(set(ids) - set(gone))


def delete(address: str, ids: Sequence[str] = GONE) -> DeletionReport:
    return delete_scores(address, ids)


def check_settled(address: str, expected: list[str]) -> None:
    """All is in its place, once, and no digest of what is gone is left in any commit."""
    assert repair_scores(address, grace_s=0).to_dict()["set_aside"] == []
    assert ids_in(address) == ids_in_place(address) == expected
    location = locate(address)
    assert not [one.path for one in location.list("_staged")]
    assert not digests_kept(address, set(IDS) - set(expected))
    assert not [one for one in scores_at(address).parts.removed if one in _objects(address)]


def digests_kept(address: str, ids: Iterable[str]) -> list[str]:
    """Those of some ids whose digests stand in a commit as those of rows."""
    log = CommitLog(locate(address))
    commits = [log.read(number) for number, _ in log.newer(0)]
    rows = [row for one in commits for row in one.rows.to_pylist() if row["part"] >= 0]
    there, digests = {row["key"] for row in rows}, Digests(commits[0].salt)
    return [one for one in ids if digests.of_key(id_key(one)) in there]


def _objects(address: str) -> set[str]:
    return {one.path for one in locate(address).list("")}


def test_a_deletion_does_what_it_does_on_a_disk(
    made: str, dumps: Path, tmp_path: Path, machine: Callable[[], None]
) -> None:
    run_without_model([dumps / "day"], tmp_path / "out")
    told = delete_scores(made, GONE, dry_run=True)
    assert ids_in(made) == ids_in_place(made) == sorted(OLD)
    disk, report = delete_scores(tmp_path / "out", GONE), delete(made)
    for name in ("ids", "found", "lines", "files", "listed", "missing"):
        assert getattr(report, name) == getattr(disk, name), name
        assert getattr(told, name) == getattr(disk, name), name
    assert (report.found, report.lines, report.missing) == (2, 1, (LATE[1],))
    assert not digests_kept(made, GONE) and digests_kept(made, OLD) == rest(OLD)
    check_settled(made, rest(OLD))
    # Nothing is read again, and nothing comes back: here, on another machine, from a late file.
    assert run_without_model([dumps / "day"], made).to_dict()["inputs"]["unchanged"] == 1
    machine()
    found = run_without_model([dumps / "late"], made).to_dict()
    assert found["filtered_by"] == {"deleted": 2} and found["scored"] == len(LATE) - 1
    check_settled(made, rest(IDS))
    assert delete(made).found == 0 and repair_scores(made).is_sound
    # Until that is lifted.
    lifted = delete_scores(made, [IDS[0], "7"], forget=True)
    assert (lifted.forgotten, lifted.listed, lifted.missing) == (1, 2, ("7",))
    assert run_without_model([dumps / "day", dumps / "late"], made).scored == 1
    assert ids_in(made) == rest(IDS, GONE[1:])


def test_authors_are_found_in_the_dumps(made: str, dumps: Path) -> None:
    whole = dumps / "late"
    with pytest.raises(ConfigError, match="name the dumps too"):
        delete_scores(made, authors=["100"])
    report = delete_scores(made, authors=["100"], dumps=[whole])
    assert (report.found, report.ids) == (1, 2)
    assert ids_in(made) == rest(OLD, [IDS[0]])


@pytest.mark.parametrize("other_machine", [False, True])
def test_a_deletion_dies_at_every_step(
    made: str, dumps: Path, machine: Callable[[], None], other_machine: bool
) -> None:
    for step in itertools.count():
        address = copy_of(made)
        died = die_at(step, partial(delete, address))
        # All of it counts, or nothing.
        assert ids_in(address) in (sorted(OLD), rest(OLD))
        if other_machine:
            machine()
        # Whoever comes next: a run with a late file, and the deletion again.
        run_without_model([dumps / "day", dumps / "late"], address)
        delete(address)
        assert ids_in(address) == ids_in_place(address) == rest(IDS)
        check_settled(address, rest(IDS))
        if not died:
            break
    assert step > 6


def test_a_deletion_that_died_after_its_commit_is_ended_by_the_next_command(
    made: str, dumps: Path, machine: Callable[[], None]
) -> None:
    ended = 0
    for step in itertools.count():
        address = copy_of(made)
        died = die_at(step, partial(delete, address))
        if ids_in(address) == rest(OLD):
            machine()
            run_without_model([dumps / "day"], address)
            assert ids_in_place(address) == rest(OLD)
            ended += 1
        if not died:
            break
    assert ended > 3


def test_scores_and_deletions_meet(made: str, dumps: Path) -> None:
    """At every step of either, the other goes its whole way."""
    for first in ("score", "delete"):
        for step in itertools.count():
            address = copy_of(made)
            works: dict[str, Callable[[], object]] = {
                "score": partial(run_without_model, [dumps / "late"], address),
                "delete": partial(delete, address),
            }
            work, other = works.pop(first), works.popitem()[1]
            met = meet_at(step, work, other)
            if not met:
                other()
            check_settled(address, rest(IDS))
            if not met:
                break
        assert step > 5


def test_a_slow_deletion_wins_though_another_commits_often(
    made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever loses races rewrites each part once, and copies it for each try."""
    create, stage = CommitLog.create, BucketScores.stage
    others, rewritten = iter(LATE), list[str]()

    def commit_first(self: CommitLog, number: int, commit: Commit) -> bool:
        if commit.kind == "delete" and (id := next(others, None)) is not None:
            with open_bucket(made) as scores:
                rows = scores.read_table(scores.parts()[0])
                one = rows.slice(0, 1).set_column(0, "id", pa.array([id]))
                assert scores.append("score", [scores.stage("date=2021-01-01", one)])
        return create(self, number, commit)

    def count(self: BucketScores, partition: str, table: pa.Table, **how: Any) -> Staged:
        rewritten.extend([partition] * ("replaces" in how))
        return stage(self, partition, table, **how)

    with monkeypatch.context() as patch:
        patch.setattr(CommitLog, "create", commit_first)
        patch.setattr(BucketScores, "stage", count)
        assert delete(made).found == 3
    assert len(rewritten) == 3  # of two dates, and of the lines; the late one was alone in its part
    check_settled(made, rest(IDS))


def test_deletions_meet(made: str) -> None:
    for step in itertools.count():
        address = copy_of(made)
        one, two = partial(delete, address, IDS[:2]), partial(delete, address, IDS[1:5])
        met = meet_at(step, one, two)
        check_settled(address, rest(OLD, IDS[: 5 if met else 2]))
        if not met:
            break
    assert step > 5


def test_a_repair_takes_nothing_from_who_is_at_work(made: str, dumps: Path) -> None:
    """Not even without a grace period: whoever has staged parts loses to its commit."""
    for step in itertools.count():
        address = copy_of(made)
        met = meet_at(
            step,
            partial(run_without_model, [dumps / "late"], address),
            partial(repair_scores, address, grace_s=0),
        )
        assert run_without_model([dumps / "late"], address).scored == 0
        check_settled(address, sorted(IDS))
        if not met:
            break
    assert step > 5


def test_what_a_repair_takes_for_a_leftover_is_never_committed(made: str, dumps: Path) -> None:
    """A scorer has staged a part, and commits it at any moment of a repair, or loses."""
    won = []
    for step in itertools.count():
        address = copy_of(made)
        with open_bucket(address) as scores:
            rows = scores.read_table(scores.parts()[0])
            late = rows.slice(0, 1).set_column(0, "id", pa.array(LATE[:1]))
            staged = scores.stage("date=2021-01-01", late)
            commit = partial(scores.append, "score", [staged])
            met = meet_at(step, partial(repair_scores, address, grace_s=0), commit)
            if met:
                won.append(scores.number > 0 and LATE[0] in ids_in(address))
        check_settled(address, sorted([*OLD, *LATE[:1]] if met and won[-1] else OLD))
        if not met:
            break
    assert True in won and False in won


def damage(address: str, *, remove: bool = False) -> str:
    """Change a byte of a part, or remove it."""
    location = locate(address)
    path = next(one.path for one in location.list("") if one.path.startswith("date="))
    content = bytearray(location.read(path))
    content[len(content) // 3] ^= 0x40
    if remove:
        location.delete([path])
    else:
        location.put(path, bytes(content))
    return path


@pytest.mark.parametrize("remove", [False, True])
def test_a_damaged_part_is_set_aside_and_its_rows_come_back(
    made: str, dumps: Path, remove: bool, machine: Callable[[], None]
) -> None:
    path = damage(made, remove=remove)
    with pytest.raises(ScoreError, match=r"salient score repair memory://"):
        ids_in(made)
    told = repair_scores(made, dry_run=True)
    report = repair_scores(made)
    assert [one.file for one in report.set_aside] == [path]
    assert told.set_aside[0].rows == report.set_aside[0].rows == NUM_TWEETS // 2
    assert report.read_again == ["day"]
    assert (": missing;" in str(report)) == remove
    aside = [one for one in _objects(made) if one.startswith("_quarantine/_damaged/")]
    assert aside == ([] if remove else [report.set_aside[0].moved_to])
    assert len(ids_in(made)) == NUM_TWEETS // 2 and repair_scores(made).is_sound
    machine()
    assert run_without_model([dumps / "day"], made).scored == NUM_TWEETS // 2
    check_settled(made, sorted(OLD))


def test_a_repair_dies_at_every_step(made: str, dumps: Path) -> None:
    damage(made)
    locate(made).put("_staged/part-0123456789abcdef0123.parquet", b"of a writer that died")
    locate(made).put("_runs/x.json", b"{")
    for step in itertools.count():
        address = copy_of(made)
        died = die_at(step, partial(repair_scores, address, grace_s=0))
        repair_scores(address, grace_s=0)
        assert repair_scores(address, grace_s=0).is_sound
        run_without_model([dumps / "day"], address)
        check_settled(address, sorted(OLD))
        if not died:
            break
    assert step > 5


def test_leftovers_go_once_they_are_old_and_strangers_are_named(made: str) -> None:
    location = locate(made)
    location.put("_staged/part-0123456789abcdef0123.parquet", b"of a writer that died")
    location.put("date=2021-01-01/mine.parquet", b"of somebody else")
    report = repair_scores(made)
    assert report.is_sound and "date=2021-01-01/mine.parquet" in str(report)
    assert "not committed yet: 1 part, left alone" in str(report)
    told = repair_scores(made, dry_run=True, grace_s=0)
    assert "staged and never committed: 1 part would be deleted" in str(told)
    assert repair_scores(made, grace_s=0).to_dict()["leftovers"] == 1
    assert "date=2021-01-01/mine.parquet" in _objects(made)
    assert not [one for one in _objects(made) if one.startswith("_staged")]


def test_what_is_committed_while_a_repair_looks_is_no_stranger(made: str, dumps: Path) -> None:
    found = []

    def say(line: str) -> None:
        if "reading 2 parts" in line or "reading 3 parts" in line:
            run_without_model([dumps / "late"], made)
            found.append(line)

    assert repair_scores(made, dry_run=True, say=say).strangers == [] and found


def test_a_repair_of_a_card_alone_and_one_whose_records_vanish(
    made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = f"{made}-card"
    locate(alone).put("_salient.json", locate(made).read("_salient.json"))
    for dry_run in (True, False, True):
        assert repair_scores(alone, dry_run=dry_run).is_sound
    locate(made).put("_runs/x.json", b"{")
    plain = ObjectLocation.copy

    def copy(self: ObjectLocation, source: str, target: str) -> None:
        self.delete([source])
        plain(self, source, target)

    monkeypatch.setattr(ObjectLocation, "copy", copy)
    assert repair_scores(made).is_sound


@pytest.mark.parametrize("content", [None, b"{"])
def test_a_repair_leaves_the_card_that_a_run_has_written_meanwhile(
    made: str, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    location, card = locate(made), locate(made).read("_salient.json")
    location.delete(["_salient.json"])
    if content is not None:
        location.put("_salient.json", content)
    name = "create" if content is None else "replace"
    plain = getattr(ObjectLocation, name)

    def method(self: ObjectLocation, path: str, *rest: Any) -> bool:
        if path == "_salient.json":
            location.put(path, card)
        return bool(plain(self, path, *rest))

    with monkeypatch.context() as patch:
        patch.setattr(ObjectLocation, name, method)
        assert repair_scores(made).mended == []
    assert location.read("_salient.json") == card


def test_a_deletion_takes_what_a_writer_that_died_has_staged(made: str, dumps: Path) -> None:
    """Also where all that is left to do is that; not what is committed and not yet in its place."""
    died = 0
    for step in itertools.count():
        address = copy_of(made)
        if not die_at(step, partial(run_without_model, [dumps / "late"], address)):
            break
        died += 1
        for _ in range(2):  # the second time nothing is listed anew
            delete(address, LATE)
            assert not [one for one in _objects(address) if one.startswith("_staged")]
            content = locate(made).read(next(p for p in _objects(made) if p.startswith("date=")))
            locate(address).put("_staged/part-0123456789abcdef0123.parquet", content)
        check_settled(address, sorted(OLD))
    assert died > 3


def test_readers_find_a_part_that_is_settled_between_two_looks(
    made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_bucket(made) as scores:
        rows = scores.read_table(scores.parts()[0])
        late = rows.slice(0, 1).set_column(0, "id", pa.array(LATE[:1]))
        staged = [scores.stage("date=2021-01-01", late)]
        assert scores.append("score", staged)
        plain = ObjectLocation.read

        def read(self: ObjectLocation, path: str, **options: Any) -> bytes:
            try:
                return plain(self, path, **options)
            except FileNotFoundError:
                scores.settle(staged)
                raise

        with monkeypatch.context() as patch:
            patch.setattr(ObjectLocation, "read", read)
            assert ids_in(made) == sorted([*OLD, LATE[0]])


def test_requests_do_not_grow_with_what_is_long_done(
    made: str, dumps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An opening deletes nothing again, a deletion and a reader fetch no commit twice."""
    held = scores_at(made)
    assert held.parts.live
    for one in OLD[:6]:
        delete(made, [one])
    asked: list[tuple[str, Any]] = []
    for name in ("get", "read", "read_range", "delete"):

        def method(self: Any, path: Any, *rest: Any, _plain: Any, _name: str, **how: Any) -> Any:
            path = path if isinstance(path, str) else list(path)
            if path:
                asked.append((_name, path))
            return _plain(self, path, *rest, **how)

        plain = getattr(ObjectLocation, name)
        monkeypatch.setattr(ObjectLocation, name, partialmethod(method, _plain=plain, _name=name))
    assert sum(len(one) for one in held.tables(["id"])) == len(OLD) - 6
    commits = [path for name, path in asked if name == "get" and path.startswith("_commits/")]
    assert len(commits) == len(set(commits))
    asked.clear()
    with open_bucket(made):
        assert not [path for name, path in asked if name == "delete"]
    asked.clear()
    delete(made, OLD[6:7])
    commits = [path for name, path in asked if name == "get" and path.startswith("_commits/")]
    assert len(set(commits)) <= 2  # the last, and the one that is scrubbed


def test_the_schema_is_read_from_the_end_of_a_part(
    made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = list(scores_at(made).schemas())
    assert len(expected) == 2 and all("text_hash" in one.names for one in expected)
    held = scores_at(made)
    assert held.parts.live
    monkeypatch.setattr("pipeline.scoring.held._TAIL_BYTES", 1000)  # too few: then all of it
    assert list(held.schemas()) == expected
    monkeypatch.undo()
    monkeypatch.setattr(ObjectLocation, "get", None)
    assert list(held.schemas()) == expected


def test_ids_come_from_an_object(made: str, capsys: pytest.CaptureFixture[str]) -> None:
    locate(made.rpartition("/")[0]).put("ids/gone.txt", "\n".join(IDS[:2]).encode())
    ids = f"{made.rpartition('/')[0]}/ids/gone.txt"
    assert run_command(["score", "delete", made, "--ids", ids, "-q"]) == 0
    assert ids_in(made) == rest(OLD, IDS[:2])
    assert run_command(["score", "delete", made, "--ids", f"{ids}-not", "-q"]) == 2
    assert "gone.txt-not: cannot be read" in capsys.readouterr().err


def test_the_card_is_made_again(made: str) -> None:
    locate(made).put("_salient.json", b"{")
    with pytest.raises(ScoreError, match=r"_salient\.json"):
        scores_at(made).card()
    assert repair_scores(made).mended == ["_salient.json"]
    card = scores_at(made).card()
    assert card is not None and card["fingerprint"] == "made"


def test_a_lost_answer_is_no_lost_race_though_the_commit_was_scrubbed(made: str) -> None:
    """The scorer's commit is there, its answer is lost, and a deletion rewrites it meanwhile."""
    with open_bucket(made) as scores:
        commit = scores.log.read(2)
        delete(made, OLD[:1])
        assert scores.log.read(2) != commit
        assert scores.log.create(2, commit)


def test_the_commands_take_addresses(
    bucket: str,  # noqa: F811
    dumps: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_without_model([dumps / "day"], bucket)
    words = ["score", "delete", bucket, "--id", IDS[0], "--json", "-q"]
    assert run_command([*words, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["found"] == 1
    assert run_command([*words, "--id", "12345"]) == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["found"] == 1 and "12345 is not in the scores" in told.err
    assert run_command(["score", "repair", bucket, "--json", "-q"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "sound"
    assert run_command(["inspect", bucket, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["rows"]) == ("scores", NUM_TWEETS - 1)
    for nothing in (f"{bucket}-not", "s3://no-such-bucket/scores"):
        assert run_command(["score", "repair", nothing, "-q"]) == 2
        said = capsys.readouterr().err
        assert nothing.removeprefix("s3://").partition("/")[0] in said and "Traceback" not in said
