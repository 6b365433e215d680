"""Objects of a bucket are read as files of a disk are, whatever becomes of requests on the way."""

from __future__ import annotations

import gzip
import hashlib
import io
import itertools
import json
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pipeline.config import CorpusSource, NormaliseConfig, SplitConfig, TaskConfig
from pipeline.errors import ConfigError, CorpusError, DumpError, InputError, ScoreError
from pipeline.scoring.files import ScoreOptions
from pipeline.scoring.following import Following, follow_files
from pipeline.scoring.inputs import check_apart, check_inputs, find_inputs
from pipeline.scoring.place import WrongPlace
from pipeline.texts import Filters, readahead
from pipeline.texts.choosing import InputOptions, settled
from pipeline.texts.containers import split_place
from pipeline.texts.corpus import Corpus, load_corpus
from pipeline.texts.inputs import content_digest, detect, input_key, read_blocks
from pipeline.texts.objects import ObjectPath, as_path
from pipeline.texts.readahead import AHEAD, PIECE_BYTES, InputChanged, InputUnreached, ObjectFile
from pipeline.texts.recognition import recognised
from pipeline.texts.rows import read_texts
from store.disk import FileState, Meta, ObjectChanged, ObjectLocation, locate
from store.errors import StoreBusy, TryAgain
from tests.builders.dumps import scores, v1
from tests.builders.faults import Fault, FaultProxy
from tests.builders.framed import NAMES, PACKED, framed, zipped
from tests.builders.heads import write_heads
from tests.builders.scoring import run_without_model

TASKS = [TaskConfig(name="mood", type="classification")]
MOOD = {"mood": "label"}
POSTS = [v1(number, text=f"Rain 😒 and café {number} " + "x" * number) for number in range(30)]


def put(url: str, files: Mapping[str, bytes]) -> None:
    location = locate(url)
    assert isinstance(location, ObjectLocation)
    for name, data in files.items():
        location.put(name, data)


def both(tmp_path: Path, url: str, name: str, data: bytes) -> tuple[Path, Path]:
    """The same file on the disk and in a bucket."""
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(data)
    put(url, {name: data})
    return tmp_path / name, as_path(f"{url}/{name}")


def all_of(path: Path, options: InputOptions | None = None) -> Any:
    """What scoring finds in a file, and how it knows it again."""
    options = options or InputOptions(block_rows=7)
    kind, digest = detect(path, options), content_digest(path)
    own = settled(path, kind, options)
    found, rows, bad, counts, problem = None, [], [], [], ""
    try:
        found = recognised(path, options)
        for block in read_blocks(path, kind, own):
            rows += block.rows.to_pylist()
            bad += block.bad.to_pylist()
            counts.append(block.counts)
    except (CorpusError, DumpError) as error:
        problem = str(error).replace(str(path), "")
    return kind, digest, input_key(path, digest, kind, options), found, rows, bad, counts, problem


# --- the same as on a disk ----------------------------------------------------------------------


@pytest.mark.parametrize("container", PACKED)
def test_every_framing_in_every_container(
    container: str, tmp_path: Path, memory_bucket: str
) -> None:
    for name in NAMES if container in ("plain", "gz", "zip") else ["lines", "array"]:
        data = PACKED[container](framed(name, POSTS))
        here, there = both(tmp_path, memory_bucket, f"{name}/day.json", data)
        assert all_of(there) == all_of(here), name
        cut = data[: len(data) * 2 // 3]
        here, there = both(tmp_path, memory_bucket, f"{name}/cut.json", cut)
        assert all_of(there) == all_of(here), name


def table_files() -> dict[str, bytes]:
    table = pa.table(
        {"id": [f"7{n}" for n in range(500)], "text": [f"tëxt {n % 90}" for n in range(500)]}
    )
    parquet, file, stream = io.BytesIO(), io.BytesIO(), io.BytesIO()
    pq.write_table(table, parquet, row_group_size=120)
    for sink, new in ((file, pa.ipc.new_file), (stream, pa.ipc.new_stream)):
        with new(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=64)
    rows = table.to_pylist()
    csv = "id,text\n" + "".join(f"{row['id']},{row['text']}\n" for row in rows)
    return {
        "a.parquet": parquet.getvalue(),
        "a.arrow": file.getvalue(),
        "a.arrows": stream.getvalue(),
        "a.csv": csv.encode(),
        "a.csv.gz": PACKED["gz"](csv.encode()),
        "a.tsv": csv.replace(",", "\t").encode(),
        "a.jsonl.zst": PACKED["zst"]("\n".join(map(json.dumps, rows)).encode()),
        "a.txt": "\n".join(row["text"] for row in rows).encode(),
        "latin.csv": csv.encode("latin-1"),
        "odd #%25+é.csv": csv.encode(),
    }


def test_tables(tmp_path: Path, memory_bucket: str) -> None:
    for name, data in table_files().items():
        here, there = both(tmp_path, memory_bucket, name, data)
        options = InputOptions(encoding="latin-1" if name.startswith("latin") else None)
        assert all_of(there, options) == all_of(here, options), name
    archive = zipped({"x/a.csv": table_files()["a.csv"], "b.csv": b"id,text\n1,so\n"})
    here, there = both(tmp_path, memory_bucket, "sets.zip", archive)
    assert all_of(there / "b.csv") == all_of(here / "b.csv")
    assert list(read_texts(str(there / "b.csv"))) == list(read_texts(here / "b.csv"))
    with pytest.raises(CorpusError, match=r"memory://.*sets.zip: holds 2 files: x/a.csv"):
        list(read_texts(there))


def corpus_of(source: CorpusSource) -> Corpus:
    return load_corpus(
        [source], TASKS, normalise=NormaliseConfig(), seed=0, split_fractions=SplitConfig()
    )


def test_labelled_sets(tmp_path: Path, memory_bucket: str) -> None:
    draw, words = random.Random(0), [f"word{number}" for number in range(99)]
    texts = [" ".join(draw.sample(words, 9)) for _ in range(60)]
    rows = [f"{text},{'neg' if n % 2 else 'pos'}\n" for n, text in enumerate(texts)]
    files = {
        "te/train_text.txt": "\n".join(texts).encode(),
        "te/train_labels.txt": b"1\n0\n" * 30,
        "te/mapping.txt": b"0\tneg\n1\tpos\n",
        "parts/1.csv": "".join(["text,label\n", *rows[:20]]).encode(),
        "parts/2.csv": "".join(["text,label\n", *rows[20:]]).encode(),
        "parts/_SUCCESS": b"",
        **{f"classes/{'neg' if n % 2 else 'pos'}/{n}.txt": t.encode() for n, t in enumerate(texts)},
    }
    for name, data in files.items():
        both(tmp_path / "data", memory_bucket, name, data)  # made ids begin with the folder
    sources = [
        CorpusSource(path="{}/te", labels=MOOD),
        CorpusSource(path="{}/parts", labels=MOOD),
        CorpusSource(path="{}/parts/?.csv", labels=MOOD),
        CorpusSource(path="{}/classes", format="folders", labels={"mood": "folder"}),
    ]
    for source in sources:
        corpora = []
        for root in (str(tmp_path / "data"), memory_bucket):
            own = source.model_copy(update={"path": str(source.path).format(root)})
            corpora.append(corpus_of(own))
        assert corpora[0].samples.equals(corpora[1].samples)
    with pytest.raises(CorpusError, match="no file has such a name"):
        corpus_of(sources[1].model_copy(update={"path": f"{memory_bucket}/*.tsv"}))
    with pytest.raises(CorpusError, match=r"memory://.*/none.csv: no such file"):
        corpus_of(sources[1].model_copy(update={"path": f"{memory_bucket}/none.csv"}))


# --- which objects are meant --------------------------------------------------------------------

NAMES_THERE = st.sampled_from(
    ["a", "ab", "b.csv", "a.csv", ".h", "_s", "README.md", "x.csv.tmp", "a-1.csv", "[z]", "d.gz"]
)
KEYS = st.sets(st.lists(NAMES_THERE, min_size=1, max_size=3).map("/".join), min_size=1, max_size=8)
PATTERNS = st.lists(
    st.sampled_from(["*", "a*", "?", "**", "*.csv", "[ab]*", "a", "ab", ".*", "_s", "[!a]*"]),
    min_size=1,
    max_size=3,
).map("/".join)


def names_of(root: str, pattern: str) -> list[str] | str:
    said: list[str] = []
    try:
        paths = find_inputs([Path(f"{root}/{pattern}")], say=said.append)
    except ConfigError as error:
        return str(error).replace(f"{root}/", "")
    return [*(str(path).removeprefix(f"{root}/") for path in paths), said[-1:]]  # type: ignore[list-item]


@settings(max_examples=80)
@given(keys=KEYS, pattern=PATTERNS, sign=st.sampled_from(["", "_salient.json", "run.json"]))
@example(keys={"a/b.csv", "a.csv", "ab/a/a.csv"}, pattern="**", sign="")
@example(keys={"a/b.csv", "a.csv", "ab/a/a.csv"}, pattern="a*", sign="run.json")
def test_patterns_are_those_of_a_disk(
    keys: set[str],
    pattern: str,
    sign: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    root = tmp_path_factory.mktemp("globs")
    url = f"memory://{root.name}-{random.Random(repr((keys, pattern, sign))).random()}/data"
    whole = {key for key in keys if not any(other.startswith(f"{key}/") for other in keys)}
    whole |= {f"{next(iter(sorted(whole))).rpartition('/')[0] or 'own'}/{sign}"} if sign else set()
    for key in whole:
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(b"text\nso\n")
    assume(split_place(root / pattern)[1] is None)  # a file in a file that is no archive
    put(url, dict.fromkeys(whole, b"text\nso\n"))
    here, there = names_of(str(root), pattern), names_of(url, pattern)
    drop_said = pattern != "" and isinstance(here, list) and isinstance(there, list)
    if drop_said and isinstance(here, list) and isinstance(there, list):
        assert here[:-1] == there[:-1]
    else:
        assert isinstance(here, str) and isinstance(there, str)
    # A folder, too, with or without its slash.
    for folder in {key.partition("/")[0] for key in whole if "/" in key}:
        here, there = names_of(str(root), folder), names_of(url, f"{folder}/")
        if isinstance(here, list) and isinstance(there, list):
            assert here[:-1] == there[:-1]
        else:
            assert here == str(there).rstrip("/")


def test_what_is_not_there_is_said(memory_bucket: str) -> None:
    put(memory_bucket, {"2026/11/01.jsonl.gz": b"", "2026/11": b"", "out/_salient.json": b"{}"})
    one = f"{memory_bucket}/2026/11/01.jsonl.gz"
    assert [str(path) for path in find_inputs([Path(one)])] == [one]
    assert [str(path) for path in find_inputs([Path(f"{memory_bucket}/2026/*/*")])] == [one]
    assert [str(path) for path in find_inputs([Path(memory_bucket)])] == [one]
    for pattern, match in (
        ("2026/12/*.gz", r"2026/12/\*.gz: no such input file; no name matches the pattern"),
        ("2026/10.jsonl", "2026/10.jsonl: no such input file"),
        ("out", "holds scores, no texts to score"),
        ("out/*.json", "fits no file to score"),
    ):
        with pytest.raises(ConfigError, match=match):
            find_inputs([Path(f"{memory_bucket}/{pattern}")])
    with pytest.raises(InputError, match="an address holds no user"):
        find_inputs([Path("s3://me:secret@bucket/x")])
    with pytest.raises(CorpusError, match="addresses with a query") as raised:
        find_inputs([Path("https://host/day.jsonl?X-Amz-Signature=5ec2e7")])
    assert "5ec2e7" not in str(raised.value)
    with pytest.raises(WrongPlace, match="is the folder of files to score"):
        check_apart([Path(f"{memory_bucket}/2026")], Path(f"{memory_bucket}/2026"))
    with pytest.raises(WrongPlace, match="holds the folder"):
        check_apart([Path(f"{memory_bucket}/2026/11")], Path(f"{memory_bucket}/2026"))


def test_the_state_of_an_object_is_that_of_its_content(memory_bucket: str) -> None:
    put(memory_bucket, {"a.csv": b"text\nso\n"})
    path = ObjectPath(f"{memory_bucket}/a.csv")
    before = FileState.of(path)
    assert before == FileState.of(path) and before.is_settled(time.time_ns())
    put(memory_bucket, {"a.csv": b"text\nno\n"})
    assert FileState.of(path) != before


def test_a_followed_bucket_gives_objects_as_soon_as_they_are_seen(
    memory_bucket: str, tmp_path: Path, tiny_bert: Path
) -> None:
    texts = {"d/a.csv": b"text\nso\n", "b.csv": b"text\nno\nyes\n", "d/_x.csv": b"text\nso\n"}
    put(memory_bucket, texts)
    report = follow_files(
        Path(memory_bucket),
        output=tmp_path / "out",
        options=ScoreOptions(heads=write_heads(tmp_path / "heads", tiny_bert)),
        following=Following(quiet_s=3600, until_idle=True),
    )
    assert (report.rounds, report.scored, report.failed) == (1, 3, {})
    assert set(scores(tmp_path / "out")["id"].to_pylist()) == {"a:2", "b:2", "b:3"}


# --- requests that fail -------------------------------------------------------------------------


class Faulty:
    """A location of one object that resets, cuts short and gives nothing, by chance."""

    address = "made://bucket"

    def __init__(self, data: bytes, seed: int = 0, *, faults: float = 0.5) -> None:
        self.data, self.etag = data, hashlib.md5(data).hexdigest()
        self.asked: list[tuple[int, int]] = []
        self.now = self.most = 0
        self.pause_s = 0.0
        self._chance, self._faults = random.Random(seed), faults
        self._lock = threading.Lock()

    def head(self, path: str) -> Meta:
        return Meta(path, len(self.data), self.etag, 0.0)

    def read_range(self, path: str, start: int, stop: int, *, etag: str | None = None) -> bytes:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.asked.append((start, stop))
            fault, part = self._chance.random(), self._chance.random()
        try:
            if etag != self.etag:
                raise ObjectChanged("is another")
            if fault < self._faults / 3:
                raise StoreBusy("reset by peer")
            if fault < self._faults / 2:
                return b""
            if fault < self._faults:
                stop = start + int((stop - start) * part)
            return self.data[start:stop]
        finally:
            time.sleep(self.pause_s)
            with self._lock:
                self.now -= 1


STEPS = st.lists(
    st.one_of(
        st.integers(0, 3000).map(lambda size: ("read", size)),
        st.integers(0, 9000).map(lambda at: ("seek", at)),
        st.integers(-500, 0).map(lambda at: ("end", at)),
    ),
    max_size=12,
)


@settings(max_examples=150)
@given(size=st.integers(0, 9000), steps=STEPS, seed=st.integers(0, 999))
def test_no_byte_is_lost_or_doubled(size: int, steps: list[tuple[str, int]], seed: int) -> None:
    data = random.Random(seed).randbytes(size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readahead, "FIRST_BYTES", 64)
        patch.setattr(readahead, "PIECE_BYTES", 512)
        with ObjectFile(Faulty(data, seed), "x", delays_s=(0.0,) * 60) as file:
            plain = io.BytesIO(data)
            for what, value in [*steps, ("read", -1)]:
                if what == "read":
                    assert file.read(value) == plain.read(value)
                elif what == "seek" or size + value >= 0:
                    whence = os.SEEK_SET if what == "seek" else os.SEEK_END
                    assert file.seek(value, whence) == plain.seek(value, whence)
                assert file.tell() == plain.tell()


def test_ranges_are_read_ahead_and_memory_is_bounded() -> None:
    location = Faulty(bytes(12 * PIECE_BYTES), faults=0)
    location.pause_s = 0.01
    with ObjectFile(location, "x") as file:
        file.read(1000)
        assert location.asked == [(0, readahead.FIRST_BYTES)]  # a look is one small request
        while file.read(1 << 16):
            begun = max(start for start, _ in location.asked)
            assert begun <= file.tell() + (AHEAD + 1) * PIECE_BYTES
    assert 1 < location.most <= AHEAD + 1
    assert sum(stop - start for start, stop in location.asked) == len(location.data)


def test_an_object_that_changes_is_noticed() -> None:
    location = Faulty(bytes(4 * PIECE_BYTES), faults=0)
    file = ObjectFile(location, "x")
    assert len(file.read(1000)) == 1000
    location.etag = "2"
    with pytest.raises(InputChanged, match=r"made://bucket/x: changed while it was read"):
        file.read()


def test_a_server_that_stays_away_is_no_damage(tmp_path: Path, memory_bucket: str) -> None:
    """Whatever is read when it goes, it is said to be away, and is not quarantined."""
    for container in PACKED:
        data = PACKED[container](framed("lines", POSTS * 3))
        _, there = both(tmp_path, memory_bucket, "day.json", data)
        for left in range(0, 12, 2):
            calls = iter(range(left))

            def read_range(
                self: ObjectLocation,
                path: str,
                start: int,
                stop: int,
                *,
                etag: str | None = None,
                calls: Iterator[int] = calls,
            ) -> bytes:
                if next(calls, None) is None:
                    raise StoreBusy("cannot be reached now")
                return self.get(path)[0][start:stop]

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ObjectLocation, "read_range", read_range)
                patch.setattr(ObjectFile.__init__, "__kwdefaults__", {"delays_s": ()})
                patch.setattr(readahead, "FIRST_BYTES", 256)
                bad = 0
                with pytest.raises(InputUnreached, match="cannot be reached now") as raised:
                    for block in read_blocks(there, "tweets", InputOptions(block_rows=4)):
                        bad += len(block.bad)
                    while True:  # there were enough
                        there.read_bytes()
                assert not bad and isinstance(raised.value, TryAgain)


def test_one_that_cannot_be_reached_is_tried_again_later(
    memory_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(self: ObjectLocation, path: str, *_: Any, **__: Any) -> Meta:
        raise StoreBusy(f"{path}: cannot be reached now")

    put(memory_bucket, {"a.csv": b"text\nso\n"})
    monkeypatch.setattr(ObjectLocation, "head", away)
    with pytest.raises(TryAgain):
        check_inputs([as_path(f"{memory_bucket}/a.csv")], InputOptions(), Filters())


# --- a server -----------------------------------------------------------------------------------


def dump_of(numbers: range) -> bytes:
    texts = {number: random.Random(number).randbytes(40).hex() for number in numbers}
    return gzip.compress(framed("lines", [v1(n, text=text) for n, text in texts.items()]))


def test_scores_of_a_bucket_behind_a_bad_network_are_those_of_a_disk(
    fault_proxy: FaultProxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many answers are cut, refused or never come: no line is lost or there twice."""
    monkeypatch.setattr(readahead, "FIRST_BYTES", 1 << 10)
    monkeypatch.setattr(readahead, "PIECE_BYTES", 1 << 11)
    for day in range(3):
        both(
            tmp_path / "dumps",
            bucket,
            f"2026/{day}.jsonl.gz",
            dump_of(range(day * 90, 99 * day + 99)),
        )
    here = find_inputs([tmp_path / "dumps"])
    fault_proxy.plan(
        Fault("cut", method="GET", key=r"\.gz", share=0.15, times=None),
        Fault("answer", share=0.1, times=None),
        Fault("reset", share=0.1, times=None),
    )
    there = find_inputs([Path(f"{bucket}/2026/*.jsonl.gz")])
    assert [path.name for path in there] == [path.name for path in here]
    run_without_model(here, tmp_path / "of_disk")
    run_without_model(there, tmp_path / "of_bucket")
    assert sum(fault_proxy.faults.values()) > 10
    assert scores(tmp_path / "of_bucket").equals(scores(tmp_path / "of_disk"))
    # The same bytes are the same input, wherever they lie.
    again = run_without_model(there, tmp_path / "of_disk")
    assert {one.state for one in again.inputs} == {"unchanged"}


def test_an_object_replaced_while_it_is_scored_is_scored_anew_the_next_time(
    fault_proxy: FaultProxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readahead, "FIRST_BYTES", 1 << 10)
    monkeypatch.setattr(readahead, "PIECE_BYTES", 1 << 10)
    put(bucket, {"day.jsonl.gz": dump_of(range(200))})
    (path,) = find_inputs([Path(f"{bucket}/*.gz")])
    gets, last = itertools.count(), [-1]

    def replace(method: str, key: str) -> None:
        if next(gets) == last[0] - 2:
            fault_proxy.clear()
            put(bucket, {"day.jsonl.gz": dump_of(range(100, 300))})

    fault_proxy.plan(Fault("call", method="GET", key="day.jsonl.gz", times=None, call=replace))
    run_without_model([path], tmp_path / "never")
    last[0], gets = next(gets), itertools.count()
    report = run_without_model([path], tmp_path / "out")
    (one,) = report.inputs
    assert one.state == "failed" and "day.jsonl.gz: changed while it was read" in str(one.problem)
    report = run_without_model([path], tmp_path / "out")
    assert [one.state for one in report.inputs] == ["read"]
    ids = scores(tmp_path / "out")["id"].to_pylist()
    assert len(ids) == len(set(ids)) and len(ids) in range(200, 301)
    assert run_without_model([path], tmp_path / "out").inputs[0].state == "unchanged"


def test_an_unchanged_object_is_not_read_again(
    fault_proxy: FaultProxy, bucket: str, tmp_path: Path
) -> None:
    put(bucket, {"day.jsonl.gz": dump_of(range(50))})
    (path,) = find_inputs([Path(f"{bucket}/day.jsonl.gz")])
    run_without_model([path], tmp_path / "out", note=True)
    fault_proxy.reset_counts()
    report = run_without_model([path], tmp_path / "out", note=True)
    assert report.inputs[0].state == "unchanged"
    assert fault_proxy.requests == {"HEAD": 1}


def test_a_small_object_is_fetched_once(
    fault_proxy: FaultProxy, bucket: str, tmp_path: Path
) -> None:
    """However often it is looked into; looked at before and after."""
    put(bucket, {f"{n}.jsonl.gz": dump_of(range(9 * n, 9 * n + 9)) for n in range(3)})
    given = find_inputs([Path(f"{bucket}/*.gz")])
    fault_proxy.reset_counts()
    run_without_model(given, tmp_path / "out")
    assert fault_proxy.requests == {"HEAD": 6, "GET": 3}
    # What is written in its place is not taken for it.
    put(bucket, {"1.jsonl.gz": dump_of(range(40, 60))})
    run_without_model(given, tmp_path / "out")
    assert len(scores(tmp_path / "out")) == 27 + 20


def test_folders_that_a_console_made_are_no_files(bucket: str) -> None:
    """Empty objects whose names end with a slash, which no other request says."""
    import boto3

    put(bucket, {"2026/11/01.jsonl": b"", "2026/11/02.jsonl": dump_of(range(3))})
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    for key in ("data/2026/", "data/2026/11/", "data/2026/12/"):
        client.put_object(Bucket=bucket.split("/")[2], Key=key, Body=b"")
    want = [f"{bucket}/2026/11/{name}" for name in ("01.jsonl", "02.jsonl")]
    for folder in ("2026", "2026/*", "2026/**", "2026/11/*"):
        assert [str(path) for path in find_inputs([Path(f"{bucket}/{folder}")])] == want


def test_a_run_that_ends_within_an_object_is_gone_on_with(
    memory_bucket: str, tmp_path: Path
) -> None:
    put(memory_bucket, {"day.jsonl.gz": dump_of(range(150))})
    given = find_inputs([Path(f"{memory_bucket}/day.jsonl.gz")])
    for stop in (3, 5, 4):
        with pytest.raises(ScoreError, match="stopped"):
            run_without_model(given, tmp_path / "out", stop)
    run_without_model(given, tmp_path / "out")
    run_without_model(given, tmp_path / "at_once")
    assert scores(tmp_path / "out").equals(scores(tmp_path / "at_once"))
