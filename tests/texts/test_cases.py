"""Files as people have them, each of a kind that was once not read rightly, and what is in them.

They are made up. What is no post is left out or bad with a reason, and never a text.
"""

from __future__ import annotations

import json
import pprint
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from pipeline.errors import CorpusError
from pipeline.texts.inputs import InputOptions, detect, read_blocks, settled
from tests.builders.dumps import v1
from tests.builders.paths import ROOT

CASES = ROOT / "tests" / "data" / "cases"
FIRST = "Finally a train on time, what a morning"
NUMBERED: dict[str, Any] = {"text": "6", "id": "2", "time": "3", "encoding": "cp1252"}
"""Columns of a file without a header."""


class Case(NamedTuple):
    """What is in a file."""

    rows: int
    left_out: int = 0
    refused: str = ""
    """Why nothing of it is read."""
    options: Mapping[str, Any] = MappingProxyType({})
    id: str = "9000000000000000"
    """Of its first post."""
    text: str = FIRST


KINDS = {
    "gnip_powertrack.txt": Case(4, left_out=1),
    "bluesky_jetstream.jsonl": Case(
        3, left_out=3, id="at://did:plc:abcdefghijklmnopqrstuv00/app.bsky.feed.post/3lxyz0"
    ),
    "mastodon_statuses.json": Case(3, id="114000000000000000"),
    "mastodon_outbox.json": Case(
        1,
        left_out=1,
        id="https://example.social/users/a/statuses/1",
        text="Counting days to the concert!!!",
    ),
    "tweets.js": Case(3),
    "note-tweet.js": Case(1, id="9000000000000031"),
    "graphql_timeline.json": Case(3, left_out=1),
    "elasticdump.jsonl": Case(3),
    "map_by_id.json": Case(3),
    "day.zip": Case(6),
    "day.jsonl.xz": Case(6),
    "month_of_tars.tar": Case(6),
    "json_seq.json-seq": Case(3),
    "delimited_length.json": Case(3),
    "concatenated.json": Case(3),
    "cr_only.jsonl": Case(3),
    "utf16.jsonl": Case(3),
    "keep_alives.jsonl": Case(2),
    "python_repr.txt": Case(3),
    "sentiment140.csv": Case(6, options=NUMBERED, id="1467810369"),
    "twint.csv": Case(6),
    "snscrape.jsonl": Case(3),
    "airline.csv": Case(6),
    "float_ids.csv": Case(0, refused="so different ids may have become equal"),
    "4cat_ndjson.ndjson": Case(2),
}


def read(name: str, **options: Any) -> tuple[list[dict[str, Any]], Counter[str], list[str]]:
    """Rows, counts, and the reasons of what is bad."""
    path, own = CASES / name, InputOptions(**options)
    kind = detect(path, own)
    own = settled(path, kind, own)
    rows: list[dict[str, Any]] = []
    reasons: list[str] = []
    counts: Counter[str] = Counter()
    for block in read_blocks(path, kind, own):
        rows += block.rows.to_pylist()
        reasons += block.bad["reason"].to_pylist()
        counts += block.counts
    return rows, counts, reasons


def test_all_are_tried() -> None:
    assert {path.name for path in CASES.iterdir()} == {*KINDS}


@pytest.mark.parametrize("name", KINDS)
def test_what_is_in_a_file(name: str) -> None:
    case = KINDS[name]
    if case.refused:
        with pytest.raises(CorpusError, match=case.refused):
            read(name)
        return
    rows, counts, reasons = read(name, **case.options)
    left_out = sum(count for key, count in counts.items() if key.startswith("filtered/"))
    assert (len(rows), left_out, reasons) == (case.rows, case.left_out, [])
    assert counts["read"] == case.rows + case.left_out
    assert len({row["id"] for row in rows}) == case.rows
    assert not any("{" in row["text"] or "}" in row["text"] for row in rows)
    assert rows[0]["id"] == case.id
    assert rows[0]["text"].startswith(case.text)


def test_languages_and_times_are_found() -> None:
    rows, *_ = read("twint.csv")
    assert Counter(row["lang"] for row in rows) == {"en": 3, "de": 3}
    since = datetime(2026, 11, 4, tzinfo=UTC).timestamp()
    for name in ("airline.csv", "sentiment140.csv", "twint.csv"):
        rows, *_ = read(name, **KINDS[name].options)
        assert all(row["created_at"] for row in rows), name
    rows, *_ = read("airline.csv")
    assert sum(row["created_at"] >= since for row in rows) == 3


@pytest.mark.parametrize("name", KINDS)
def test_nothing_of_json_is_a_plain_text(name: str) -> None:
    """Also where somebody says that it is one."""
    if name.endswith(".csv"):
        return
    path, options = CASES / name, InputOptions(format="text")
    texts = []
    try:
        for block in read_blocks(path, "text", settled(path, "text", options)):
            texts += block.rows["text"].to_pylist()
    except CorpusError:
        pass
    assert not texts


OTHERS = {
    "events": "event: update\ndata: {}\n\nevent: delete\ndata: 17\n\n:thump\ndata: {}\n\n",
    "keys": "9000\t{}\n9001\t{}\n",
    "log": "2026-11-04 09:00:00 INFO {}\n2026-11-04 09:00:01 INFO {}\n",
    "marks": "{}\n\ufeff{}\n",
    "commas": "{},{}",
}
"""Of the same kinds, with two posts."""
WRITTEN: dict[str, Callable[[dict[str, Any]], str]] = {
    "JSON of JSON": lambda post: json.dumps(json.dumps(post)),
    "bytes": lambda post: repr(json.dumps(post).encode()),
    "Python 2": lambda post: (
        repr(post).replace("'", "u'").replace("u':", "':").replace("u',", "',")
    ),
    "OrderedDict": lambda post: f"OrderedDict({[*post.items()]})",
    "Status": lambda post: f"Status(_api=<tweepy.api.API object at 0x7f>, _json={post}, id=1)",
    "a pair": lambda post: repr((9, post)),
    "pprint": lambda post: pprint.pformat(post, width=40),
}
"""What writes a post on its line, or over lines."""
LINES = {
    **{name: data.replace("{}", "%s") for name, data in OTHERS.items()},
    **dict.fromkeys(WRITTEN, "%s\n%s\n"),
}


@pytest.mark.parametrize("name", LINES)
def test_other_members_of_the_kinds(name: str, tmp_path: Path) -> None:
    write, path = WRITTEN.get(name, json.dumps), tmp_path / "a.txt"
    posts = [write(v1(number, text=f"tea {number}")) for number in range(2)]
    path.write_text(LINES[name] % tuple(posts), "utf-8")
    kind = detect(path, InputOptions())
    rows = [
        row for block in read_blocks(path, kind, InputOptions()) for row in block.rows.to_pylist()
    ]
    assert [(row["id"], row["text"]) for row in rows] == [
        (v1(number)["id_str"], f"tea {number}") for number in range(2)
    ]
    options = InputOptions(format="text")
    with pytest.raises(CorpusError, match=r"a\.txt: is JSON"):
        list(read_blocks(path, "text", options))
    texts = "\n".join(["tea", "so {lol}", 'he has {"a": 1} again', *["rain"] * 30])
    path.write_text(f"{texts}\n{LINES[name] % tuple(posts)}", "utf-8")
    found = [
        text
        for block in read_blocks(path, "text", options)
        for text in block.rows["text"].to_pylist()
    ]
    assert [text for text in found if "tweet" in text or "id_str" in text] == []
    assert found[:33] == texts.split("\n")
