"""Dumps of tweets, made up, mutated and real, and what scoring leaves of them.

v1(3, text="tea"), v2(3), v2_page()         # objects
jsonl([v1(0), v1(1)])                       # as a file
scores(folder), quarantine(folder)          # a folder of scores
"""

from __future__ import annotations

import bz2
import gzip
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from pipeline.scoring.parts import row_files
from pipeline.texts.dumps import QUARANTINE_SCHEMA, TWEETS_SCHEMA, DumpBlock, read_dump
from tests.builders.paths import SHARED

RAW = SHARED / "raw_tweets"
needs_raw = pytest.mark.skipif(not RAW.exists(), reason="no ../shared/data/raw_tweets here")

FULL = "a long tale of tea and rain " * 8 + "with an end"
CUT = FULL[:120] + "…"
FIRST_ID = 1344908468193435649
"""Beyond 2**53: a float would change it."""


def v1(number: int = 0, **extra: Any) -> dict[str, Any]:
    id = FIRST_ID + number
    return {
        "created_at": "Fri Jan 01 07:29:00 +0000 2021",
        "id": id,
        "id_str": str(id),
        "text": f"tea &amp; rain {number} @anna",
        "truncated": False,
        "user": {"id": 12, "id_str": "12", "screen_name": "blue_otter1"},
        "lang": "en",
        **extra,
    }


def v2(number: int = 0, **extra: Any) -> dict[str, Any]:
    return {
        "text": f"tea &amp; rain {number} @anna",
        "id": str(FIRST_ID + number),
        "author_id": "12",
        "lang": "en",
        "created_at": "2021-01-01T07:29:00.000Z",
        **extra,
    }


def jsonl(values: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


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
        shapes = {name for name in block.counts if name.startswith("shape/")}
        counts.update({name: block.counts[name] for name in block.counts.keys() - shapes})
        named = sum(block.counts[name] for name in shapes)
        assert named == block.counts["tweets"] + block.counts["notices"]
    assert counts["read"] == counts["tweets"] + counts["notices"] + counts["quarantined"]
    return counts


def rows(blocks: Iterable[DumpBlock]) -> list[dict[str, Any]]:
    return [row for block in blocks for row in block.table.to_pylist()]


def bad(blocks: Iterable[DumpBlock]) -> list[dict[str, Any]]:
    return [row for block in blocks for row in block.quarantine.to_pylist()]


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


def v2_page() -> dict[str, Any]:
    def retweet(number: int, of: int, text: str) -> dict[str, Any]:
        return v2(
            number, text=text, referenced_tweets=[{"type": "retweeted", "id": str(FIRST_ID + of)}]
        )

    return {
        "data": [
            v2(0),
            retweet(1, 50, f"RT @b: {CUT}"),
            retweet(2, 0, "RT @b: " + v2(0)["text"]),
            retweet(3, 99, f"RT @b: {CUT}"),
            v2(4, referenced_tweets=[{"type": "quoted", "id": str(FIRST_ID + 50)}]),
            v2(5, text=CUT, note_tweet={"text": FULL}),
            retweet(6, 51, f"RT @b: {CUT}"),
            "no tweet",
            {"id": "7"},
        ],
        "includes": {
            "tweets": [v2(50, text=FULL), v2(51, text=CUT, note_tweet={"text": FULL})],
            "users": [],
        },
        "errors": [{"title": "Forbidden"}],
        "meta": {"result_count": 9},
    }


REAL_COUNTS = {
    "stream_v1_part.json.bz2": Counter(
        read=1700, tweets=1542, notices=158, retweets=821, recovered=195, long=72
    ),
    "rest_v1_extended.jsonl.gz": Counter(read=800, tweets=800, retweets=153, recovered=75),
    "v2_pages_a.jsonl": Counter(read=500, tweets=500, retweets=367, recovered=322),
    "v2_pages_b.jsonl": Counter(read=300, tweets=300, retweets=242, recovered=226),
}


def real_objects(name: str) -> list[dict[str, Any]]:
    opener = {".bz2": bz2.open, ".gz": gzip.open}.get(Path(name).suffix, open)
    with opener(RAW / name, "rb") as file:
        return [json.loads(line) for line in file if line.strip()]


def independent_counts(name: str) -> Counter[str]:
    """Tweets, notices and retweets counted by plain loops over the parsed lines."""
    counts: Counter[str] = Counter()
    for value in real_objects(name):
        if "data" in value:
            full = {tweet["id"]: tweet["text"] for tweet in value["includes"]["tweets"]}
            for tweet in value["data"]:
                counts["read"] += 1
                counts["tweets"] += 1
                for reference in tweet.get("referenced_tweets", []):
                    if reference["type"] == "retweeted":
                        counts["retweets"] += 1
                        own = tweet["text"].split(": ", 1)[1]
                        counts["recovered"] += own != full[reference["id"]]
            continue
        counts["read"] += 1
        if "delete" in value:
            counts["notices"] += 1
            continue
        counts["tweets"] += 1
        if "retweeted_status" in value:
            counts["retweets"] += 1
            original = value["retweeted_status"]
            text = original.get("full_text") or original["text"]
            text = original.get("extended_tweet", {}).get("full_text", text)
            own = value.get("full_text") or value["text"]
            counts["recovered"] += own != f"RT @{original['user']['screen_name']}: {text}"
        elif "extended_tweet" in value:
            counts["long"] += 1
    return counts


MADE_UP = [
    v1(0),
    v1(1, text=CUT, truncated=True, extended_tweet={"full_text": FULL}),
    v1(2, text=f"RT @b: {CUT}", retweeted_status=v1(1, text=FULL)),
    {"delete": {"status": {"id": 1, "id_str": "1"}}},
    v2_page(),
    {"data": v2(3), "includes": {"tweets": [v2(4)]}},
    {"statuses": [v1(5), v1(6)]},
    v2(7, referenced_tweets=[{"type": "retweeted", "id": "1"}]),
]


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=True),
    st.text(max_size=5),
    st.just("\ud83d"),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.none(), max_size=2),
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) within a JSON value."""
    found: list[tuple[Any, Any]] = []
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    for key in keys:
        found.append((value, key))
        found += places(value[key])
    return found


@st.composite
def mutated(draw: st.DrawFn, objects: list[Any]) -> Any:
    value = json.loads(json.dumps(draw(st.sampled_from(objects))))
    for _ in range(draw(st.integers(0, 4))):
        spots = places(value)
        if not spots:
            break
        container, key = spots[draw(st.integers(0, len(spots) - 1))]
        action = draw(st.sampled_from(["replace", "delete", "swap"]))
        if action == "delete" and isinstance(container, dict):
            del container[key]
        elif action == "swap":
            other, other_key = spots[draw(st.integers(0, len(spots) - 1))]
            container[key] = json.loads(json.dumps(other[other_key]))
        else:
            container[key] = draw(ODD)
    return value


def some_real_objects() -> list[Any]:
    return (
        [value for name in REAL_COUNTS for value in real_objects(name)[:40]] if RAW.exists() else []
    )


# A longer search: HYPOTHESIS_PROFILE=nightly SALIENT_FUZZ_EXAMPLES=3000 pytest
# tests/texts/test_dumps.py
fuzz = settings(
    max_examples=int(os.environ.get("SALIENT_FUZZ_EXAMPLES", "150")),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def write_tweets(path: Path, tweets: Iterable[Any]) -> Path:
    path.write_bytes(jsonl(tweets))
    return path


def scores(folder: Path) -> pa.Table:
    """All rows of a folder of scores, by id."""
    tables = [pq.read_table(file, partitioning=None) for file in row_files(folder)]
    return pa.concat_tables(tables).sort_by("id")


def quarantine(folder: Path) -> list[dict[str, Any]]:
    """All quarantined lines."""
    return [
        row
        for file in sorted(folder.glob("_quarantine/*.parquet"))
        for row in pq.read_table(file, partitioning=None).to_pylist()
    ]


def assert_same_scores(found: pa.Table, expected: pa.Table) -> None:
    """The same rows once each; texts computed beside others may differ by rounding."""
    assert found["id"].to_pylist() == expected["id"].to_pylist()
    for name in expected.column_names:
        if pa.types.is_floating(expected[name].type):
            np.testing.assert_allclose(
                found[name].to_numpy(), expected[name].to_numpy(), atol=2e-3, rtol=1e-3
            )
        elif name not in ("source_file", "mood"):
            assert found[name].equals(expected[name]), name
