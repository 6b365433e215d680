"""Any shape in any framing, container and encoding: a record is a row, left out, or bad."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import CorpusError
from pipeline.texts.framing import json_values
from pipeline.texts.inputs import TWEETS, InputOptions, detect, read_blocks, settled
from pipeline.texts.recognition import recognised
from pipeline.texts.values import Value
from tests.builders.dumps import v1, v2
from tests.builders.framed import FRAMED, NAMES, PACKED, framed, tar, zipped

NUM_POSTS = 4
TEXTS = ["Finally a train, what a café", "Rain 😒 {all} [week]", 'he said "}{"', "so"]


def _bluesky(number: int, text: str) -> dict[str, Any]:
    record = {"$type": "app.bsky.feed.post", "createdAt": "2026-11-04T09:00:00Z", "text": text}
    commit = {"operation": "create", "collection": "app.bsky.feed.post", "rkey": f"3l{number}"}
    return {"did": "did:plc:abc", "kind": "commit", "commit": {**commit, "record": record}}


def _mastodon(number: int, text: str) -> dict[str, Any]:
    own = {"id": str(114 * 10**15 + number), "created_at": "2026-11-04T09:00:00Z"}
    account = {"id": "5", "acct": "a@example.org"}
    return {**own, "content": text, "language": "en", "account": account, "reblog": None}


def _gnip(number: int, text: str) -> dict[str, Any]:
    id = f"tag:search.twitter.com,2005:{9 * 10**15 + number}"
    facts = {"objectType": "activity", "verb": "post", "postedTime": "2026-11-04T09:00:00.000Z"}
    return {"id": id, **facts, "body": text, "actor": {"id": "id:twitter.com:7"}}


SHAPES: dict[str, Callable[[int, str], dict[str, Any]]] = {
    "v1.1": lambda number, text: v1(number, text=text),
    "v2": lambda number, text: v2(number, text=text),
    "archive": lambda number, text: {
        "tweet": {"id_str": str(9 * 10**15 + number), "full_text": text}
    },
    "gnip": _gnip,
    "bluesky": _bluesky,
    "mastodon": _mastodon,
}
FRAMINGS = ["lines", "sequence", "counted", "glued", "array", "map"]
CONTAINERS = ["plain", "gz", "zst", "zip", "gz in tar in tar", "tar in zip"]
NOTICE = {"delete": {"status": {"id": 1, "id_str": "1"}}}


def with_damage(shape: str) -> list[str]:
    """Four posts, a notice, and, in the middle, a post that is no JSON."""
    make = SHAPES[shape]
    records = [json.dumps(make(i, text), ensure_ascii=False) for i, text in enumerate(TEXTS)]
    damaged = json.dumps(make(9, "bad")).replace('": ', '" ', 1)
    return [*records[:2], damaged, json.dumps(NOTICE), *records[2:]]


def counted(path: Path, options: InputOptions | None = None) -> Counter[str]:
    """How many records were read, and what became of them."""
    options = options or InputOptions()
    kind = detect(path, options)
    assert kind == TWEETS
    counts: Counter[str] = Counter()
    for block in read_blocks(path, kind, options):
        left_out = [count for name, count in block.counts.items() if name.startswith("filtered/")]
        counts.update(rows=len(block.rows), bad=len(block.bad), filtered=sum(left_out))
        counts["read"] += block.counts["read"]
    assert counts["read"] == counts["rows"] + counts["filtered"] + counts["bad"]
    return counts


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_in_every_framing_in_every_container(
    shape: str, framing: str, tmp_path: Path
) -> None:
    data = FRAMED[framing](with_damage(shape))
    for container in CONTAINERS:
        path = tmp_path / container
        path.write_bytes(PACKED[container](data))
        assert counted(path) == Counter(read=6, rows=4, filtered=1, bad=1), container
    rows = [
        row for block in read_blocks(path, TWEETS, InputOptions()) for row in block.rows.to_pylist()
    ]
    assert len({row["id"] for row in rows}) == NUM_POSTS
    assert [row["text"] for row in rows] == TEXTS


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("framing", ["lines", "lines with CR", "array", "map", "script", "glued"])
def test_marked_encodings(framing: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(FRAMED[framing](with_damage("v1.1")).decode().encode(encoding))
    assert counted(path)["rows"] == NUM_POSTS
    assert recognised(path, InputOptions()).encoding.startswith(encoding[:5])


def test_a_named_encoding(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(framed("lines", [v1(0, text="café")]).decode().encode("cp1252"))
    options = InputOptions(encoding="cp1252")
    (block,) = read_blocks(path, detect(path, options), options)
    assert block.rows["text"].to_pylist() == ["café"]
    assert recognised(path, options).encoding == "cp1252"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("container", PACKED)
def test_what_is_recognised(name: str, container: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(PACKED[container](framed(name, [v1(i) for i in range(3)])))
    found = recognised(path, InputOptions())
    assert found.is_json and found.encoding == "utf-8"
    assert found.container.partition(",")[0] == container
    assert counted(path)["rows"] == 3


@pytest.mark.parametrize(
    "data", [b"[1] is a list\n{lol}\n", b"a,b\n1,2\n", b"", b"null\n", b"tea\n", b"id\ttext\n"]
)
def test_what_is_no_json(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(data)
    assert not recognised(path, InputOptions()).is_json


def test_several_files_in_an_archive(tmp_path: Path) -> None:
    files = {f"{i}.json": framed("lines", [v1(i)]) for i in range(3)}
    odd = {"Your archive.html": b"<html>\n<body>\n</html>\n", "a.jpg": b"\xff\xd8\xff\n" * 99}
    for pack in (zipped, tar):
        path = tmp_path / pack.__name__
        path.write_bytes(pack({**odd, **files}))
        assert counted(path) == Counter(read=5, rows=3, filtered=2)  # each odd file once
    assert recognised(tmp_path / "zipped", InputOptions()).is_json
    assert counted(tmp_path / "zipped" / "1.json") == Counter(read=1, rows=1)


def test_a_file_in_another_encoding_costs_itself(tmp_path: Path) -> None:
    files = {f"{i}.json": framed("lines", [v1(i)]) for i in range(3)}
    for wide in ("utf-16-le", "utf-32-be"):
        odd = {"0.json": framed("lines", [v1(9)]).decode().encode(wide)}
        for pack in (zipped, tar):
            path = tmp_path / pack.__name__
            path.write_bytes(pack({**odd, "a.json": files["0.json"], "b.json": files["1.json"]}))
            assert counted(path) == Counter(read=3, rows=2, bad=1)
            assert recognised(path, InputOptions()).is_json
        path = tmp_path / "a.json"
        path.write_bytes(odd["0.json"])
        with pytest.raises(CorpusError, match=f'set encoding = "{wide}"'):
            recognised(path, InputOptions())


def test_an_encoding_that_nobody_knows(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(framed("lines", [v1(0)]))
    for name in ("klingon", "hex"):
        with pytest.raises(CorpusError, match=f"encoding = '{name}' is none that Python knows"):
            detect(path, InputOptions(encoding=name))


def test_tables_in_a_tar_have_a_header_each(tmp_path: Path) -> None:
    path, options = tmp_path / "a.tar", InputOptions()
    path.write_bytes(tar({"a.csv": b"id,text\n1,x\n", "b.csv": b"id,text\n2,y\n"}))
    own = settled(path, "csv", options)
    rows = [row for block in read_blocks(path, "csv", own) for row in block.rows.to_pylist()]
    assert [(row["id"], row["line"]) for row in rows] == [("1", 2), ("2", 4)]
    path.write_bytes(tar({"a.csv": b"id,text\n1,x\n", "b.csv": b"text,id\ny,2\n"}))
    with pytest.raises(CorpusError, match=r"a\.tar:b\.csv has other columns than the file before"):
        list(read_blocks(path, "csv", own))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip
RECORDS = st.lists(st.dictionaries(st.text(max_size=4), JSON, max_size=4), min_size=2, max_size=6)


@given(st.sampled_from(NAMES), RECORDS, st.booleans(), st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_records_come_back_equal_and_in_order(
    name: str, records: list[dict[str, Any]], ascii_only: bool, step: int
) -> None:
    records = [{"id": number, **record} for number, record in enumerate(records)]
    data = framed(name, records, ascii_only=ascii_only)
    items = json_values(iter([data[at : at + step] for at in range(0, len(data), step)]))
    assert [item.value if isinstance(item, Value) else item for item in items] == records


@pytest.mark.parametrize("framing", FRAMINGS)
def test_damage_costs_one_record(framing: str) -> None:
    records = [json.dumps(v1(i)) for i in range(30)]
    for number, damage in ((0, '"": }'), (12, '"'), (29, '"'), (3, "\x00")):
        spoiled = [*records]
        at = len(spoiled[number]) // 2
        spoiled[number] = spoiled[number][:at] + damage + spoiled[number][at:]
        values = [
            item
            for item in json_values(iter([FRAMED[framing](spoiled)]))
            if isinstance(item, Value)
        ]
        assert len(values) == 29, (number, damage)
