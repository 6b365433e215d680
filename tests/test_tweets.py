"""Tweet dumps: every format and packing, full texts, exact ids, and nothing unaccounted for."""

import bz2
import gzip
import io
import json
import os
import random
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import NormaliseConfig
from pipeline.errors import DumpError
from pipeline.jsonstream import Unreadable, Value, json_values
from pipeline.records import NOTICES, READERS, read_record
from pipeline.streams import CHUNK_BYTES, StreamBreak, lines, unpacked
from pipeline.tweets import QUARANTINE_SCHEMA, TWEETS_SCHEMA, DumpBlock, read_dump
from store import text_hash
from tests.made_dumps import (
    CUT,
    FIRST_ID,
    FULL,
    MADE_UP,
    RAW,
    REAL_COUNTS,
    independent_counts,
    jsonl,
    mutated,
    needs_raw,
    real_objects,
    some_real_objects,
    v1,
    v2,
    v2_page,
)


def dump(path: Path, data: bytes, **options: Any) -> list[DumpBlock]:
    path.write_bytes(data)
    return list(read_dump(path, **options))


def totals(blocks: Iterable[DumpBlock]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for block in blocks:
        assert block.table.schema == TWEETS_SCHEMA
        assert block.quarantine.schema == QUARANTINE_SCHEMA
        assert block.table.num_rows == block.counts["tweets"]
        assert block.quarantine.num_rows == block.counts["quarantined"]
        assert sum(block.notices.values()) == block.counts["notices"]
        counts.update(block.counts)
    assert counts["read"] == counts["tweets"] + counts["notices"] + counts["quarantined"]
    return counts


def rows(blocks: Iterable[DumpBlock]) -> list[dict[str, Any]]:
    return [row for block in blocks for row in block.table.to_pylist()]


def bad(blocks: Iterable[DumpBlock]) -> list[dict[str, Any]]:
    return [row for block in blocks for row in block.quarantine.to_pylist()]


# --- formats and packings -----------------------------------------------------------------------

LAYOUTS: dict[str, Callable[[list[dict[str, Any]]], bytes]] = {
    "lines": jsonl,
    "lines with blank ones and \\r\\n": lambda tweets: b"\r\n\r\n".join(
        json.dumps(tweet).encode() for tweet in tweets
    ),
    "byte order mark": lambda tweets: b"\xef\xbb\xbf" + jsonl(tweets),
    "array": lambda tweets: json.dumps(tweets).encode(),
    "printed array": lambda tweets: json.dumps(tweets, indent=2).encode(),
    "array with a tweet per line": lambda tweets: (
        b"[\n" + b",\n".join(json.dumps(tweet).encode() for tweet in tweets) + b"\n]\n"
    ),
    "array, comma first": lambda tweets: (
        b"[" + b"\n,".join(json.dumps(tweet).encode() for tweet in tweets) + b"]"
    ),
    "printed one after another": lambda tweets: b"\n".join(
        json.dumps(tweet, indent=1).encode() for tweet in tweets
    ),
    "an array per line": lambda tweets: jsonl([tweets[:3], tweets[3:]]),
    "statuses": lambda tweets: json.dumps({"statuses": tweets, "search_metadata": {}}).encode(),
    "printed statuses": lambda tweets: json.dumps({"statuses": tweets}, indent="\t").encode(),
    "statuses, a tweet per line": lambda tweets: (
        b'{"statuses": [\n' + b",\n".join(json.dumps(tweet).encode() for tweet in tweets) + b"\n]}"
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_layouts(tmp_path: Path, layout: str, ascii_only: bool) -> None:
    tweets = [v1(i, text=f'"quoted" {{braces}} [{i}] \\ \n é 😀') for i in range(10)]
    data = LAYOUTS[layout](tweets)
    if not ascii_only:
        data = (
            json.dumps(json.loads(data), ensure_ascii=False).encode() if layout == "array" else data
        )
    blocks = dump(tmp_path / "dump", data, block_rows=4)
    assert totals(blocks)["tweets"] == totals(blocks)["read"] == 10
    assert [row["id"] for row in rows(blocks)] == [tweet["id_str"] for tweet in tweets]
    assert [row["text"] for row in rows(blocks)] == [tweet["text"] for tweet in tweets]
    assert all(block.table.num_rows <= 4 for block in blocks)
    assert rows(blocks)[0]["line"] <= 2


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "zst": zst,
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_packings(tmp_path: Path, packing: str) -> None:
    pack = PACKINGS[packing]
    tweets = [v1(i) for i in range(50)]
    plain = rows(dump(tmp_path / "same", jsonl(tweets)))
    assert rows(dump(tmp_path / "same", pack(jsonl(tweets)))) == plain
    two_parts = pack(jsonl(tweets[:20])) + pack(jsonl(tweets[20:]))
    assert rows(dump(tmp_path / "same", two_parts)) == plain
    assert rows(dump(tmp_path / "same", pack(jsonl(tweets)) + b"\0" * 512)) == plain


@pytest.mark.parametrize("outer", ["plain", *PACKINGS])
def test_tar_of_packed_files(tmp_path: Path, outer: str) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("2021/01"))
        for number, pack in enumerate([bytes, *PACKINGS.values()]):
            data = pack(jsonl([v1(10 * number + i) for i in range(10)]))
            entry = tarfile.TarInfo(f"2021/01/{number:02d}.json")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    data = file.getvalue() if outer == "plain" else PACKINGS[outer](file.getvalue())
    blocks = dump(tmp_path / "month.tar", data, block_rows=7)
    assert totals(blocks)["tweets"] == totals(blocks)["read"] == 40
    assert rows(blocks)[15]["source_file"] == "month.tar:2021/01/01.json"
    assert rows(blocks)[15]["line"] == 6


# --- breaks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("layout", ["lines", "array"])
def test_rows_before_a_break_are_kept(tmp_path: Path, packing: str, layout: str) -> None:
    order = random.Random(0)
    noise = [v1(i, text="".join(order.choices("abcdefgh ", k=200))) for i in range(3000)]
    data = PACKINGS[packing](LAYOUTS[layout](noise))
    blocks = dump(tmp_path / "broken", data[: len(data) * 4 // 5])
    counts = totals(blocks)
    assert 1000 < counts["tweets"] < 2900
    assert counts["quarantined"] == 1
    (row,) = bad(blocks)
    assert row["reason"] == f"{packing} breaks off before its end"
    kept = rows(blocks)
    assert [row["id"] for row in kept] == [tweet["id_str"] for tweet in noise[: len(kept)]]


def test_last_line_of_a_broken_file_is_kept_if_whole(tmp_path: Path) -> None:
    data = jsonl([v1(0), v1(1)])
    assert totals(dump(tmp_path / "a", data[:-1]))["tweets"] == 2
    blocks = dump(tmp_path / "a", data[:-20])
    assert totals(blocks) == Counter(read=2, tweets=1, quarantined=1) + Counter()
    assert bad(blocks)[0]["reason"] == "not JSON: the file ends within a value"
    assert bad(blocks)[0]["line"] == 2


def test_damage_inside_packed_data(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(jsonl([v1(i) for i in range(5000)])))
    data[len(data) // 2] ^= 255
    blocks = dump(tmp_path / "a", bytes(data))
    counts = totals(blocks)
    assert counts["tweets"] > 100
    assert bad(blocks)[-1]["reason"].startswith("damaged gz")


@pytest.mark.parametrize("outer", ["plain", "gz"])
def test_broken_tar(tmp_path: Path, outer: str) -> None:
    data = jsonl([v1(i) for i in range(100)])
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for number in range(3):
            entry = tarfile.TarInfo(f"{number}.json")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    in_second_file = file.getvalue()[: 3 * 512 + len(data) * 3 // 2]
    between_files = file.getvalue()[: 512 + -(-len(data) // 512) * 512 + 100]
    if outer == "gz":
        in_second_file, between_files = (
            gzip.compress(part, 0)[:-8] for part in (in_second_file, between_files)
        )
    blocks = dump(tmp_path / "a.tar", in_second_file)
    counts = totals(blocks)
    assert 140 <= counts["tweets"] <= 150
    (row,) = bad(blocks)
    assert row["source_file"] == "a.tar:1.json"
    assert "gz breaks off" in row["reason"] or "damaged tar" in row["reason"]
    counts = totals(dump(tmp_path / "a.tar", between_files))
    assert (counts["tweets"], counts["quarantined"]) == (100, 1)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DumpError, match="No such file"):
        list(read_dump(tmp_path / "none.jsonl"))
    with pytest.raises(DumpError, match="is a folder"):
        list(read_dump(tmp_path))


@pytest.mark.parametrize("data", [b"", b"\n\n", b"[]", b"[\n]\n", gzip.compress(b"")])
def test_nothing_in_it(tmp_path: Path, data: bytes) -> None:
    assert dump(tmp_path / "a", data) == []


# --- damaged lines ------------------------------------------------------------------------------


def test_damaged_lines_are_quarantined_in_place(tmp_path: Path) -> None:
    good = [json.dumps(v1(i)).encode() for i in range(6)]
    parts = [
        good[0],
        good[1][:80],
        good[2],
        b"\xff\xfe" + good[3],
        good[3].replace(b"tea", b"t\xffa"),
        b"null",
        b"[" * 100_000,
        b'{"id": ' + b"9" * 5000 + b"}",
        good[4],
        b'{"unknown": ' + b"[" * 1000 + b"]" * 1000 + b"}",
        good[5],
    ]
    blocks = dump(tmp_path / "a", b"\n".join(parts))
    assert totals(blocks) == Counter(read=11, tweets=4, quarantined=7)
    assert [row["line"] for row in rows(blocks)] == [1, 3, 9, 11]
    assert [row["line"] for row in bad(blocks)] == [2, 4, 5, 6, 7, 8, 10]
    reasons = [row["reason"] for row in bad(blocks)]
    assert reasons[2] == "not UTF-8: byte 0xff"
    assert reasons[3] == "not a tweet but a JSON NoneType"
    assert reasons[4] == "not JSON: nested too deeply"
    assert reasons[6] == "not a tweet: its keys are unknown"
    assert bad(blocks)[0]["excerpt"].startswith('{"created_at"')


@pytest.mark.parametrize("first", [b'{"id": 1, "text": "cut he', b'{"id": 1,', b"<html>", b"\xff"])
def test_a_damaged_first_line_does_not_hide_the_layout(tmp_path: Path, first: bytes) -> None:
    blocks = dump(tmp_path / "a", first + b"\n" + jsonl(v1(i) for i in range(20)))
    assert totals(blocks) == Counter(read=21, tweets=20, quarantined=1)


@pytest.mark.parametrize("layout", ["printed array", "array with a tweet per line"])
@pytest.mark.parametrize("damage", ["brace", "quote", "byte"])
def test_damage_in_an_array_costs_one_element(tmp_path: Path, layout: str, damage: str) -> None:
    tweets = [v1(i, text=f"number {i} here") for i in range(30)]
    data = LAYOUTS[layout](tweets)
    at = data.index(b'"number 12 here"')
    if damage == "brace":
        data = data[:at] + b"}" + data[at:]
    elif damage == "quote":
        data = data[:at] + data[at + 1 :]
    else:
        data = data[: at + 2] + b"\xff" + data[at + 3 :]
    blocks = dump(tmp_path / "a", data)
    assert totals(blocks) == Counter(read=30, tweets=29, quarantined=1)
    (row,) = bad(blocks)
    assert row["line"] == data[:at].count(b"\n", 0, data.rindex(b"created_at", 0, at)) + (
        0 if layout == "printed array" else 1
    )


def test_a_damaged_element_longer_than_what_is_read_at_a_time() -> None:
    order = random.Random(0)
    words = order.choices(["tea", "rain", "bus"], k=900_000)
    tweets = [v1(0), v1(1, text=" ".join(words)), *[v1(i) for i in range(2, 40)]]
    data = json.dumps(tweets, indent=2).encode()
    at = data.rindex(b'"', 0, data.index(" ".join(words[:20]).encode()))
    damaged = data[:at] + b"}" + data[at:]
    for step in (1 << 16, 999):
        chunks = iter([damaged[i : i + step] for i in range(0, len(damaged), step)])
        items = list(json_values(chunks))
        assert [type(item) for item in items] == [Value, Unreadable, *[Value] * 38]
        before = damaged[: damaged.index(b"rain 2 @anna")]
        assert items[2].line == before.count(b"\n") - 3
        assert isinstance(items[2], Value) and items[2].value == tweets[2]


def test_a_value_beyond_the_limit_is_not_kept_in_memory() -> None:
    long_line = b'{"id": 1, "text": "' + b"x" * 50_000 + b'"}\n'
    items = list(json_values(iter([jsonl([v1(0)]), long_line, jsonl([v1(1)])]), max_bytes=10_000))
    assert [type(item) for item in items] == [Value, Unreadable, Value]
    array = b"[" + b",".join([jsonl([v1(0)]), *[long_line] * 60, jsonl([v1(1)])]) + b"]"
    items = list(json_values(iter([array]), max_bytes=10_000_000))
    assert sum(isinstance(item, Value) for item in items) == 62


def array_chunks(count: int) -> Iterator[bytes]:
    yield b"["
    for number in range(count):
        yield json.dumps(v1(number, text=FULL)).encode() + b","
    yield b"{}]"


def test_a_huge_array_is_read_as_it_comes() -> None:
    taken = 0

    def counted() -> Iterator[bytes]:
        nonlocal taken
        for chunk in array_chunks(20_000):
            taken += len(chunk)
            yield chunk

    size, ahead = len(json.dumps(v1(0, text=FULL))), 0
    for number, item in enumerate(json_values(counted())):
        assert isinstance(item, Value)
        ahead = max(ahead, taken - number * size)
    assert number == 20_000
    assert taken > 9_000_000
    assert ahead < 3_000_000


def test_lines_are_cut_at_line_feeds_only() -> None:
    text = "a\u2028b\x85c\rd\x0b"
    (line,) = lines([text.encode(), b"\n"])
    assert line.data.decode() == text
    assert [line.number for line in lines([b"a\nb", b"c\n\nd"])] == [1, 2, 3, 4]


@given(data=st.binary(max_size=60), cuts=st.lists(st.integers(0, 60), max_size=5))
def test_lines_do_not_depend_on_chunks(data: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    chunks = [data[a:b] for a, b in pairwise(places)]
    assert list(lines(chunks)) == list(lines([data]))
    assert b"\n".join(line.data for line in lines(chunks)) == data.removesuffix(b"\n")


@given(data=st.binary(max_size=200), prefix=st.sampled_from([b"", b"\x1f\x8b\x08", b"BZh91AY&SY"]))
def test_unpacking_never_fails_otherwise(data: bytes, prefix: bytes) -> None:
    try:
        for _ in unpacked(iter([prefix + data])):
            pass
    except StreamBreak:
        pass


# --- v1.1 ---------------------------------------------------------------------------------------


def one(value: Any) -> dict[str, Any]:
    """The single tweet of a value, as a row."""
    (tweet,) = read_record(value)
    return dict(vars(tweet))


def reason(value: Any) -> str:
    (item,) = read_record(value)
    assert isinstance(item, Unreadable)
    return item.reason


def test_v1_tweet(tmp_path: Path) -> None:
    (row,) = rows(dump(tmp_path / "a.json", jsonl([v1(3)])))
    assert row == {
        "id": "1344908468193435652",
        "text": "tea & rain 3 @user",
        "text_hash": text_hash("tea & rain 3 @user"),
        "created_at": 1609486140,
        "lang": "en",
        "author_id": "12",
        "is_retweet": False,
        "source_file": "a.json",
        "line": 1,
    }
    raw = NormaliseConfig(html_unescape=False, users=False, urls=False)
    (row,) = rows(dump(tmp_path / "a.json", jsonl([v1(3)]), normalise=raw))
    assert row["text"] == "tea &amp; rain 3 @anna"


@pytest.mark.parametrize("kind", sorted(NOTICES))
def test_notices(tmp_path: Path, kind: str) -> None:
    blocks = dump(tmp_path / "a", jsonl([{kind: {"status": {"id": 1}}}, v1()]))
    assert totals(blocks) == Counter(read=2, tweets=1, notices=1)
    assert blocks[0].notices == {kind: 1}


def test_full_text_of_long_tweets() -> None:
    long = v1(text=CUT, truncated=True, extended_tweet={"full_text": FULL})
    assert one(long)["text"] == FULL
    assert one(long)["found"] == "long"
    rest = v1(full_text=FULL, display_text_range=[0, 20])
    del rest["text"]
    assert one(rest)["text"] == FULL
    assert one(v1(text=CUT, truncated=True))["found"] == "cut"


@pytest.mark.parametrize(
    "original",
    [
        v1(1, text=CUT, truncated=True, extended_tweet={"full_text": FULL}),
        {**v1(1), "full_text": FULL},
        v1(1, text=FULL),
    ],
)
def test_full_text_of_retweets(original: dict[str, Any]) -> None:
    retweet = one(v1(2, text=f"RT @blue_otter1: {CUT}", retweeted_status=original))
    assert retweet["text"] == FULL == one(original)["text"]
    assert retweet["is_retweet"]
    assert retweet["found"] == "recovered"
    short = v1(1, text="short")
    whole = one(v1(2, text="RT @blue_otter1: short", retweeted_status=short))
    assert (whole["text"], whole["found"]) == ("short", "")
    cut = one(v1(2, text="RT @b: x…", retweeted_status=v1(1, text=CUT, truncated=True)))
    assert (cut["text"], cut["found"]) == (CUT, "cut")


def test_quotes_keep_their_own_text() -> None:
    quote = one(v1(2, text="look", quoted_status=v1(1), is_quote_status=True))
    assert (quote["text"], quote["is_retweet"]) == ("look", False)


def test_ids_are_exact(tmp_path: Path) -> None:
    ids = [2**53 + 1, 2**63 - 1, 2**64 - 1]
    only_numbers = [v1(id=id) for id in ids]
    for tweet in only_numbers:
        del tweet["id_str"]
    blocks = dump(tmp_path / "a", jsonl(only_numbers))
    assert [row["id"] for row in rows(blocks)] == list(map(str, ids))
    printed = dump(tmp_path / "a", json.dumps(only_numbers, indent=1).encode())
    assert [row["id"] for row in rows(printed)] == list(map(str, ids))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"id_str": None, "id": 1.3449084681934356e18}, "its digits are lost"),
        ({"id_str": None, "id": None}, "no id"),
        ({"id_str": "12a"}, "no tweet id: id_str is '12a'"),
        ({"id_str": True}, "no tweet id: id_str is True"),
        ({"id_str": "١٢"}, "no tweet id: id_str is"),
        ({"text": None}, "no text"),
        ({"text": 5}, "no text"),
    ],
)
def test_bad_tweets(change: dict[str, Any], expected: str) -> None:
    assert expected in reason(v1(**change))


def test_times() -> None:
    assert one(v1(created_at="nonsense", timestamp_ms="1609486140657"))["created_at"] == 1609486140
    assert one(v1(created_at=None))["created_at"] == 1609486140  # from the id
    assert one(v1(created_at=[1], id_str="20"))["created_at"] is None


def test_halves_of_surrogate_pairs(tmp_path: Path) -> None:
    data = jsonl([v1(text="a \ud83d b", lang="\udc00")]) + jsonl([v1(text="😀")])
    assert b"\\ud83d b" in data
    assert [row["text"] for row in rows(dump(tmp_path / "a", data))] == ["a \ufffd b", "😀"]


# --- v2 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("indent", [None, 2])
def test_v2_page(tmp_path: Path, indent: int | None) -> None:
    blocks = dump(tmp_path / "a", json.dumps(v2_page(), indent=indent).encode(), block_rows=3)
    assert totals(blocks) == Counter(
        read=9, tweets=7, quarantined=2, retweets=4, recovered=2, long=1, cut=1
    )
    texts = [row["text"] for row in rows(blocks)]
    assert texts == ["tea & rain 0 @user", FULL, texts[0], f"RT @user: {CUT}", *texts[4:]]
    assert texts[5] == texts[6] == FULL
    assert [row["reason"] for row in bad(blocks)] == ["not a tweet but a JSON str", "no text"]
    first = rows(blocks)[0]
    assert (first["created_at"], first["author_id"], first["line"]) == (1609486140, "12", 1)


def test_v2_flat_and_stream() -> None:
    reference = {"type": "retweeted", **v2(9, text=FULL)}
    flat = v2(1, text=f"RT @b: {CUT}", referenced_tweets=[reference], author={"id": "7"})
    del flat["author_id"]
    assert one(flat)["text"] == FULL
    assert (one(flat)["author_id"], one(flat)["found"]) == ("7", "recovered")
    bare = {"type": "retweeted", "id": str(FIRST_ID + 9)}
    stream = {
        "data": v2(1, text=f"RT @b: {CUT}", referenced_tweets=[bare]),
        "includes": {"tweets": [v2(9, text=FULL)]},
        "matching_rules": [{"id": "1"}],
    }
    assert one(stream)["text"] == FULL
    assert one({"data": {"id": str(FIRST_ID), "text": "hi"}})["created_at"] == 1609486140
    assert one({"id": FIRST_ID, "text": "hi"})["id"] == str(FIRST_ID)


def test_v2_pages_without_tweets(tmp_path: Path) -> None:
    pages = [{"meta": {"result_count": 0}}, {"errors": [{"title": "x"}]}, {"data": [], "meta": {}}]
    blocks = dump(tmp_path / "a", jsonl([*pages, {"statuses": []}]))
    assert totals(blocks) == Counter(read=4, notices=4)


def test_readers_have_different_names() -> None:
    assert len({reader.name for reader in READERS}) == len(READERS)


# --- real dumps ---------------------------------------------------------------------------------


@needs_raw
@pytest.mark.parametrize("name", REAL_COUNTS)
def test_real_dumps_have_the_counts_of_an_independent_count(name: str) -> None:
    blocks = list(read_dump(RAW / name, block_rows=256))
    assert totals(blocks) == REAL_COUNTS[name] == independent_counts(name)
    for row in rows(blocks):
        assert row["id"].isdigit()
        assert row["author_id"] is not None
        assert 1_400_000_000 < row["created_at"] < 1_700_000_000
        assert "https://" not in row["text"]


@needs_raw
def test_real_dumps_in_other_layouts(tmp_path: Path) -> None:
    for name in REAL_COUNTS:
        expected = rows(read_dump(RAW / name))
        values = real_objects(name)
        for data in (json.dumps(values).encode(), json.dumps(values, indent=1).encode()):
            found = rows(dump(tmp_path / "a", data))
            for row in [*expected, *found]:
                row["source_file"] = row["line"] = None
            assert found == expected


# --- fuzz ---------------------------------------------------------------------------------------


def check_mutant(value: Any, tmp_path: Path) -> None:
    items = list(read_record(value))
    assert items
    blocks = dump(tmp_path / "fuzz", jsonl([v1(0), value, v1(1)]))
    counts = totals(blocks)
    assert counts["read"] == len(items) + 2
    ids = [row["id"] for row in rows(blocks)]
    assert ids[0] == v1(0)["id_str"] and ids[-1] == v1(1)["id_str"]
    printed = totals(dump(tmp_path / "fuzz", json.dumps([value], indent=1).encode()))
    if isinstance(value, dict):
        assert printed["read"] == len(items)


# More examples for a longer search: SALIENT_FUZZ_EXAMPLES=3000 pytest tests/test_tweets.py
fuzz = settings(
    max_examples=int(os.environ.get("SALIENT_FUZZ_EXAMPLES", "150")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@given(value=mutated(MADE_UP))
@fuzz
def test_mutated_made_up_objects(value: Any, tmp_path: Path) -> None:
    check_mutant(value, tmp_path)


@needs_raw
def test_mutated_real_objects(tmp_path: Path) -> None:
    objects = [value for value in some_real_objects() if len(json.dumps(value)) < 20_000]

    @given(value=mutated(objects))
    @fuzz
    def check(value: Any) -> None:
        check_mutant(value, tmp_path)

    check()


@given(
    layout=st.sampled_from(sorted(LAYOUTS)),
    cut=st.floats(0, 1),
    noise=st.binary(max_size=8),
    replaced=st.integers(0, 30),
)
@fuzz
def test_damaged_bytes(
    layout: str, cut: float, noise: bytes, replaced: int, tmp_path: Path
) -> None:
    data = LAYOUTS[layout]([v1(i) for i in range(8)])
    at = int(cut * len(data))
    blocks = dump(tmp_path / "fuzz", data[:at] + noise + data[at + replaced :], block_rows=3)
    counts = totals(blocks)
    if not noise and not replaced:
        assert counts["tweets"] == 8
    if layout == "lines" and b"[" not in noise:
        lines_left = (data[:at] + noise + data[at + replaced :]).split(b"\n")
        assert counts["read"] == sum(bool(line.strip()) for line in lines_left)
        assert counts["tweets"] >= 6


@given(data=st.binary(max_size=200))
@fuzz
def test_any_bytes(data: bytes, tmp_path: Path) -> None:
    totals(dump(tmp_path / "fuzz", data))


@given(data=st.text(alphabet='{}[],:"\\\n 1aeu', max_size=60))
@fuzz
def test_anything_like_json(data: str, tmp_path: Path) -> None:
    blocks = dump(tmp_path / "fuzz", data.encode())
    totals(blocks)
    if data.strip(" \n,[]"):
        assert blocks


def test_chunks_are_small() -> None:
    assert CHUNK_BYTES <= 1 << 20
    assert pa.table({name: [] for name in TWEETS_SCHEMA.names}, schema=TWEETS_SCHEMA).schema.names[
        :3
    ] == ["id", "text", "text_hash"]
