"""Which files are taken for dumps of posts, and what lies beside posts in archives."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.texts import dumps
from pipeline.texts.choosing import TWEETS, InputOptions
from pipeline.texts.inputs import detect, read_blocks
from tests.builders.dumps import jsonl, v1
from tests.builders.framed import tar, zipped
from tests.builders.posts import at_uri

PACK = pytest.mark.parametrize("pack", [zipped, tar])
STAMP = {"created_at": "Wed Nov 04 09:00:00 +0000 2026"}


def counted(path: Path, data: bytes) -> tuple[str, Counter[str]]:
    """What a file is, and what becomes of its records."""
    path.write_bytes(data)
    options, counts = InputOptions(), Counter[str]()
    kind = detect(path, options)
    for block in read_blocks(path, kind, options):
        counts.update(rows=len(block.rows), bad=len(block.bad))
        counts.update({name: n for name, n in block.counts.items() if name.startswith("filtered/")})
    return kind, +counts


def archived(kind: str, records: list[Any]) -> bytes:
    return f"window.YTD.{kind}.part0 = {json.dumps(records, indent=2)}".encode()


@PACK
def test_an_account_archive(tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]) -> None:
    header = {"tweet_id": "5", "user_id": "1", **STAMP}
    files = {
        "Your archive.html": b"<!doctype html>\n<html></html>\n",
        "assets/js/main.js": b'(self.x=self.x||[]).push([[1],{"a":(e,t)=>{var n=[{"b":1}]}}]);',
        "assets/fonts/x.woff": b"wOFF\x00\n[{",
        "data/README.txt": b"Hello.\n",
        "data/account.js": archived("account", [{"account": {"accountId": "1"}}]),
        "data/ad-impressions.js": archived(
            "ad_impressions", [{"ad": {"x": n}} for n in range(300)]
        ),
        "data/manifest.js": b'window.__THAR_CONFIG = {"userInfo": {"accountId": "1"}}',
        "data/tweet-headers.js": archived("tweet_headers", [{"tweet": header}]),
        "data/tweets.js": archived("tweets", [{"tweet": v1(n)} for n in range(3)]),
        "data/tweets_media/1.jpg": b"\xff\xd8\xff\n\n[{\n",
    }
    assert counted(tmp_path / "a", pack(files)) == (
        TWEETS,
        Counter(
            {
                "rows": 3,
                "filtered/archive: ad": 300,
                "filtered/archive: account": 1,
                "filtered/archive: manifest": 1,
                "filtered/archive: tweet header": 1,
                "filtered/file without posts": 5,
            }
        ),
    )


@PACK
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("README", b"Hello.\n"), ("a/SHA256SUMS", b"00  x.jsonl\n"), ("LICENSE.txt", b"CC0\n"),
        ("avatar", b"\x89PNG\r\n\x1a\n\x00\n{\n"), ("a.ico", b"\0\1" * 9999),
        ("media/1", b"\x00\x00\x00\x20ftypmp42\n[\n"),
    ],
)  # fmt: skip
def test_notes_and_pictures_beside_posts(
    tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes], name: str, data: bytes
) -> None:
    found = counted(tmp_path / "a", pack({name: data, "b.jsonl": jsonl([v1(0), v1(1)])}))
    assert found == (TWEETS, Counter({"rows": 2, "filtered/file without posts": 1}))
    for beside in (b"id,text\n1,tea\n", b"\x00\x01\x02"):  # posts of some kind, for all we know
        data = pack({"a.csv": beside, "b.jsonl": jsonl([v1(0), v1(1)])})
        assert counted(tmp_path / "a", data) == (TWEETS, Counter(rows=2, bad=1))
    data = pack({"notes.txt": jsonl([v1(0)]), "b.jsonl": jsonl([v1(1)])})
    assert counted(tmp_path / "a", data) == (TWEETS, Counter(rows=2))


@PACK
def test_a_file_of_others_before_the_posts(
    tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    others = jsonl([{"kind": n} for n in range(300)])
    data = pack({"a.jsonl": others, "b.jsonl": jsonl([v1(0), v1(1)])})
    assert counted(tmp_path / "a", data) == (TWEETS, Counter(rows=2, bad=300))


@PACK
def test_a_file_in_another_encoding_costs_itself(
    tmp_path: Path, pack: Callable[[dict[str, bytes]], bytes]
) -> None:
    wide = jsonl([v1(0)]).decode().encode("utf-16-le")
    data = pack({"a.jsonl": wide, "b.jsonl": jsonl([v1(1), v1(2)]), "c.jsonl": jsonl([v1(3)])})
    assert counted(tmp_path / "a", data) == (TWEETS, Counter(rows=3, bad=1))


@pytest.mark.parametrize(
    ("record", "others"),
    [
        ({"item_id": "1", "data": v1(0)}, [{"item_id": "2", "data": {"desc": "x"}}] * 3),
        (v1(0), [{"settings": {}}, {"mappings": {}}]),
    ],
)
def test_some_posts_among_others(tmp_path: Path, record: Any, others: list[Any]) -> None:
    kind, counts = counted(tmp_path / "a.jsonl", jsonl([*others, record]))
    assert (kind, counts) == (TWEETS, Counter(rows=1, bad=len(others)))


def test_lines_between_those_of_a_bulk_file(tmp_path: Path) -> None:
    data = jsonl([{"create": {}}, v1(0), {"index": {"_id": "1"}}, v1(1)])
    expected = Counter({"rows": 2, "filtered/bulk action": 2})
    assert counted(tmp_path / "a", data) == (TWEETS, expected)


def test_rows_whose_ids_are_digits_by_chance(tmp_path: Path) -> None:
    ids = ["12", "a3", "b4", "15", "c6"]
    data = jsonl([{"id": id, "text": f"tea {id}"} for id in ids])
    assert counted(tmp_path / "a.jsonl", data) == ("jsonl", Counter(rows=5))


@pytest.mark.parametrize(
    "others",
    [
        {"results": []}, {"data": []}, {"posts": [{"x": 1}]}, {"data": {"x": 1}},
        {"meta": {"x": 1}}, {"errors": []}, {"entries": []}, {"instructions": []}, {"event": "x"},
        {"limit": 5}, {"warning": "x"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("ids", [True, False])
def test_texts_are_scored_whatever_is_beside_them(
    tmp_path: Path, others: dict[str, Any], ids: bool
) -> None:
    rows = [{**({"id": str(n)} if ids else {}), "text": f"tea {n}", **others} for n in range(3)]
    assert counted(tmp_path / "a.jsonl", jsonl(rows))[1] == Counter(rows=3)
    rows = [{"tweet": f"tea {n}", **others} for n in range(3)]
    assert counted(tmp_path / "a.jsonl", jsonl(rows))[1] == Counter(rows=3)


@pytest.mark.parametrize(
    "row",
    [
        {"event": "flood", "message": "tea"}, {"warning": {"code": 1}, "message": "tea"},
        {"friends": [1], "message": "tea"}, {"errors": None, "message": "tea"},
        {"__typename": "Comment", "text": "tea"}, {"posts": [], "caption": "tea"},
        {"did": "did:x", "time_us": 5, "text": "tea"}, {"meta": {}, "comment": "tea"},
    ],
)  # fmt: skip
def test_rows_that_look_like_messages(tmp_path: Path, row: dict[str, Any]) -> None:
    found = counted(tmp_path / "a.jsonl", jsonl([{"n": n, **row} for n in range(3)]))
    assert found == ("jsonl", Counter(rows=3))


def test_answers_without_posts(tmp_path: Path) -> None:
    answers = [{"tweets": [], "status": "success", "message": "success"}] * 3
    assert counted(tmp_path / "a.json", jsonl(answers))[0] == TWEETS


def test_rows_of_an_id_and_a_text_may_be_of_any_network(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    ids = ["5", "123456789012", "1467810369000000000"]
    path.write_bytes(jsonl([{"id": id, "text": f"tea {id}"} for id in ids]))
    (block,) = read_blocks(path, detect(path, InputOptions()), InputOptions())
    assert block.rows["platform"].to_pylist() == [None, None, "twitter"]
    times = block.rows["created_at"].to_pylist()
    assert times[:2] == [None, None] and times[2] is not None


@pytest.mark.parametrize("key", ["id", "uri"])
def test_bare_records_under_their_uris(tmp_path: Path, key: str) -> None:
    bare = {"$type": "app.bsky.feed.post", "text": "tea", "createdAt": "2026-11-04T09:00:00Z"}
    by_uri = {at_uri(n): {**bare, **({"uri": at_uri(n)} if key == "uri" else {})} for n in range(3)}
    path = tmp_path / "a.json"
    assert counted(path, json.dumps(by_uri, indent=1).encode()) == (TWEETS, Counter(rows=3))
    (block,) = read_blocks(path, TWEETS, InputOptions())
    assert block.rows["id"].to_pylist() == list(by_uri)
    assert set(block.rows["platform"].to_pylist()) == {"bluesky"}


def test_half_a_surrogate_pair_in_any_field(tmp_path: Path) -> None:
    half = "\ud800"
    records = [
        {"subreddit": "a", "body": "hi", "id": "x", "name": half},
        {"subreddit": "a", "body": "hi", "id": "y", "author": half},
        {**v1(1), "lang": half},
        {
            "did": "did:x" + half,
            "commit": {
                "operation": "create",
                "collection": "app.bsky.feed.post",
                "rkey": "k",
                "record": {"text": "a", "langs": [half]},
            },
        },
    ]
    assert counted(tmp_path / "a", jsonl(records)) == (TWEETS, Counter(rows=4))


def test_a_table_is_not_read_to_its_end_to_see_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def counting(chunks: Any, **options: Any) -> Any:
        def passed() -> Any:
            for chunk in chunks:
                read.append(len(chunk))
                yield chunk

        return original(passed(), **options)

    original = dumps.json_values
    monkeypatch.setattr(dumps, "json_values", counting)
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,text\n" + b"".join(b"%d,some words of tea\n" % n for n in range(200_000)))
    assert detect(path, InputOptions()) == "csv"
    assert 0 < sum(read) <= dumps.HEAD_BYTES < path.stat().st_size
