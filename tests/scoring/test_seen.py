"""Files that are known by name and state are not read again; all others are."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.scoring import batch
from pipeline.scoring.seen import SEEN, Seen, SeenFiles, state_of
from pipeline.texts.inputs import content_digest
from store.disk.filestate import SETTLED_NS, FileState
from store.tables import write_table
from tests.builders.dumps import jsonl, scores, v1, write_tweets
from tests.builders.scoring import run_without_model

OLD_NS = 10**18
LATER_NS = 2**62
"""When no file has just been changed."""
FOUND = Seen("c", "tweets", "a", "k")


class Hashed(list[str]):
    """Names of the files whose bytes were looked at."""

    def take(self) -> list[str]:
        names = list(self)
        self.clear()
        return names


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Hashed:
    names = Hashed()

    def digest(path: Path) -> str:
        names.append(path.name)
        return content_digest(path)

    monkeypatch.setattr(batch, "content_digest", digest)
    monkeypatch.setattr(batch, "now_ns", lambda: LATER_NS)
    return names


def old(path: Path, ns: int = OLD_NS) -> Path:
    os.utime(path, ns=(ns, ns))
    return path


def test_what_is_noted_is_found_again(tmp_path: Path) -> None:
    path = old(write_tweets(tmp_path / os.fsdecode(b"d\xe9"), [v1(0)]))
    state, seen = state_of(path), SeenFiles()
    assert seen.find(path, state) is None
    seen.note(path, state, FOUND, looked_at_ns=LATER_NS)
    seen.save(tmp_path)
    again = SeenFiles.load(tmp_path)
    assert again.find(path, state) == FOUND == again.find(Path(os.path.relpath(path)), state)
    assert again.find(tmp_path / "e", state) is None
    for name, value in state._asdict().items():
        assert again.find(path, state._replace(**{name: value + 1})) is None
    assert SeenFiles.load(tmp_path, trust=False).find(path, state) is None
    before = (tmp_path / SEEN).stat().st_mtime_ns
    again.note(path, state, FOUND, looked_at_ns=LATER_NS)
    again.save(tmp_path)
    assert (tmp_path / SEEN).stat().st_mtime_ns == before, "nothing new"
    path.unlink()
    again.note(tmp_path / SEEN, state, FOUND, looked_at_ns=LATER_NS)
    again.save(tmp_path)
    assert SeenFiles.load(tmp_path).find(path, state) is None, "what is gone is forgotten"


def test_any_inode_is_kept(tmp_path: Path) -> None:
    path, seen = write_tweets(tmp_path / "d", [v1(0)]), SeenFiles()
    state = state_of(path)._replace(inode=2**64 - 1)
    seen.note(path, state, FOUND, looked_at_ns=LATER_NS)
    seen.save(tmp_path)
    assert SeenFiles.load(tmp_path).find(path, state) == FOUND


@pytest.mark.parametrize("later_ns", [-1, 0, SETTLED_NS])
@pytest.mark.parametrize("times", [(OLD_NS, 0), (0, OLD_NS)])
def test_a_file_changed_just_now_is_not_noted(
    tmp_path: Path, later_ns: int, times: tuple[int, int]
) -> None:
    path, state, seen = tmp_path / "d", FileState(1, *times, 2), SeenFiles()
    seen.note(path, state, FOUND, looked_at_ns=OLD_NS + later_ns)
    assert seen.find(path, state) is None
    seen.note(path, state, FOUND, looked_at_ns=OLD_NS + SETTLED_NS + 1)
    assert seen.find(path, state) == FOUND


@pytest.mark.parametrize(
    "wrong", [{"path": "text"}, {"key": None}, {"size": "many"}, {"inode": 1.5}], ids=str
)
def test_a_table_of_other_types_is_as_none(tmp_path: Path, wrong: dict[str, object]) -> None:
    row = {"path": b"/d", **FileState(1, 2, 3, 4)._asdict(), **asdict(FOUND), **wrong}
    write_table(tmp_path / SEEN, pa.Table.from_pylist([row]))
    said: list[str] = []
    seen = SeenFiles.load(tmp_path, say=said.append)
    if wrong == {"path": "text"}:  # reads as the bytes of a name
        assert not said
    else:
        assert len(said) == 1 and "hashed once more" in said[0]
    path = write_tweets(tmp_path / "d", [v1(0)])
    seen.note(path, state_of(path), FOUND, looked_at_ns=LATER_NS)
    seen.save(tmp_path)
    assert SeenFiles.load(tmp_path).find(path, state_of(path)) == FOUND


@pytest.mark.parametrize("content", [b"", b"PAR1", None])
def test_a_damaged_or_lost_table_costs_only_hashing(
    tmp_path: Path, hashed: Hashed, content: bytes | None
) -> None:
    inputs = [old(write_tweets(tmp_path / name, [v1(i)])) for i, name in enumerate("ab")]
    run_without_model(inputs, tmp_path / "out", note=True)
    assert hashed.take() == ["a", "b"]
    if content is None:
        (tmp_path / "out" / SEEN).unlink()
    else:
        (tmp_path / "out" / SEEN).write_bytes(content)
    for expected in (["a", "b"], []):
        report = run_without_model(inputs, tmp_path / "out", 0, note=True)
        assert report.to_dict()["inputs"]["unchanged"] == 2 and hashed.take() == expected


def test_only_files_that_changed_are_hashed(tmp_path: Path, hashed: Hashed) -> None:
    out = tmp_path / "out"
    inputs = [old(write_tweets(tmp_path / name, [v1(i)])) for i, name in enumerate("abc")]
    run_without_model(inputs, out)  # a folder of an earlier version knows ledgers only
    assert hashed.take() == ["a", "b", "c"]
    for expected in (["a", "b", "c"], []):
        assert run_without_model(inputs, out, 0, note=True).read == 0
        assert hashed.take() == expected
    old(write_tweets(inputs[0], [v1(0), v1(7)]), OLD_NS + 1)  # grown
    old(inputs[1], OLD_NS + 5)  # touched
    moved = inputs[2].rename(tmp_path / "moved")
    report = run_without_model([inputs[0], inputs[1], moved], out, note=True)
    assert hashed.take() == ["a", "b", "moved"]
    assert (report.scored, report.to_dict()["inputs"]["unchanged"]) == (1, 2)
    assert run_without_model([inputs[0], inputs[1], moved], out, 0, note=True).read == 0
    assert hashed.take() == []
    assert scores(out)["id"].to_pylist() == sorted(v1(i)["id_str"] for i in (0, 1, 2, 7))


def test_a_rewrite_that_keeps_size_and_time_is_seen(tmp_path: Path, hashed: Hashed) -> None:
    out, path = tmp_path / "out", old(write_tweets(tmp_path / "a", [v1(0)]))
    run_without_model([path], out, note=True)
    before = path.stat()
    new = old(write_tweets(tmp_path / "new", [v1(1)]))  # as `cp -p` and `rsync --times` do
    os.replace(new, path)
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    hashed.take()
    assert run_without_model([path], out, note=True).scored == 1
    assert hashed.take() == ["a"] and len(scores(out)) == 2
    run_without_model([path], out, 0, note=True)
    assert hashed.take() == []
    run_without_model([path], out, 0, note=True, trust=False)
    assert hashed.take() == ["a"]


def test_what_is_read_is_recorded_by_its_own_bytes(
    tmp_path: Path, hashed: Hashed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other rows are wanted of a file that was rewritten unnoticed; its old bytes come back."""
    first, second = jsonl([v1(0)]), jsonl([v1(1)])
    out, path = tmp_path / "out", tmp_path / "a"
    path.write_bytes(first)
    for module in ("batch", "seen"):
        monkeypatch.setattr(
            f"pipeline.scoring.{module}.state_of",
            lambda path: FileState(len(first), OLD_NS, OLD_NS, 1),
        )
    run_without_model([path], out, note=True)
    path.write_bytes(second)
    assert run_without_model([path], out, 0, note=True).read == 0
    assert run_without_model([path], out, note=True, languages=["en"]).scored == 1
    (tmp_path / "b").write_bytes(first)
    report = run_without_model([tmp_path / "b"], out, note=True, languages=["en"])
    assert report.inputs[0].state == "read", "these bytes were not read under this filter"
