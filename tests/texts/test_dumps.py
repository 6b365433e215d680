"""Tweets of every kind: full texts, exact ids, and nothing unaccounted for."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from pipeline.config import NormaliseConfig
from pipeline.errors import DumpError
from pipeline.texts.dumps import read_dump
from pipeline.texts.framing import Unreadable
from pipeline.texts.records import read_record
from pipeline.texts.twitter import NOTICES
from store import text_hash
from tests.builders.dumps import (
    CUT,
    FIRST_ID,
    FULL,
    MADE_UP,
    RAW,
    REAL_COUNTS,
    bad,
    dump,
    fuzz,
    independent_counts,
    jsonl,
    mutated,
    needs_raw,
    real_objects,
    rows,
    some_real_objects,
    totals,
    v1,
    v2,
    v2_page,
)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DumpError, match="No such file"):
        list(read_dump(tmp_path / "none.jsonl"))
    with pytest.raises(DumpError, match="is a folder"):
        list(read_dump(tmp_path))


@pytest.mark.parametrize("data", [b"", b"\n\n", b"[]", b"[\n]\n", gzip.compress(b"")])
def test_nothing_in_it(tmp_path: Path, data: bytes) -> None:
    assert dump(tmp_path / "a", data) == []


# --- v1.1 -----------------------------------------------------------------------------------------


def one(value: Any) -> dict[str, Any]:
    """The single tweet of a value, as a row."""
    (tweet,) = read_record(value)
    return dict(tweet._asdict())


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
        "platform": "twitter",
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


# --- v2 -------------------------------------------------------------------------------------------


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


# --- real dumps -----------------------------------------------------------------------------------


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


# --- fuzz -----------------------------------------------------------------------------------------


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
