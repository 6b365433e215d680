"""Streams of bytes cut into JSON values: every layout, and the values around any damage."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.texts.framing import (
    CutOff,
    Unreadable,
    Value,
    indent_after,
    json_values,
    lines,
    next_start,
    read_object,
)
from tests.builders.dumps import FULL, LAYOUTS, bad, dump, fuzz, jsonl, rows, totals, v1


@pytest.mark.parametrize("before", ["", "[", '[{"id": 0}, '])
def test_an_object_ends_where_it_is_whole(before: str) -> None:
    text = before + '{"a": "}", "b": {"c": [1]}}'
    whole = json.loads(text[len(before) :])
    assert read_object(text + ", {}]", len(before)) == (whole, len(text))
    for end in range(len(before) + 1, len(text)):
        with pytest.raises(CutOff):
            read_object(text[:end], len(before))


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        ('{"a": "b" c", "d": 1}', "not JSON: Expecting ',' delimiter"),
        ('{"a": }', "not JSON: Expecting value"),
        ('{"a": ' + "9" * 5000 + "}", "not JSON: Exceeds the limit"),
        ('{"a": ' + "[" * 100_000, "not JSON: nested too deeply"),
    ],
)
def test_damage_is_told_from_an_end(damaged: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_object(damaged + ' and then some more text, and more {"of": "it"}', 0)


@pytest.mark.parametrize(
    ("separators", "indent"), [(",\n  ", 2), ("\n, ", 1), ("[\n\t", 1), ("\n", 0), (", ", None)]
)
def test_indentation_is_of_the_last_line(separators: str, indent: int | None) -> None:
    assert indent_after(separators) == indent


NEXT = '{"next": 1}'


@pytest.mark.parametrize(
    ("damaged", "indent"),
    [
        ('{"id": 1 "text": "a"},\n', 0),
        ('{"id": 1, "text": "a {" b"}\n,', 0),
        ('{\n    "id": 1 "user": {\n      "id": 9\n    }\n  },\n  ', 2),
        ('{"id": 1 "user": \n    {"id": 9}}\n  ,', 2),
        ('{"id": 1 "lang": "en"}\n, ', 1),
        ('{"id": 1 "lang": "en"}\n[ ', 1),
    ],
)
def test_reading_goes_on_at_the_next_of_the_same_indentation(damaged: str, indent: int) -> None:
    assert next_start(damaged + NEXT, 1, indent) == len(damaged)
    assert next_start(damaged, 1, indent) is None


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


def test_last_line_of_a_broken_file_is_kept_if_whole(tmp_path: Path) -> None:
    data = jsonl([v1(0), v1(1)])
    assert totals(dump(tmp_path / "a", data[:-1]))["tweets"] == 2
    blocks = dump(tmp_path / "a", data[:-20])
    assert totals(blocks) == Counter(read=2, tweets=1, quarantined=1) + Counter()
    assert bad(blocks)[0]["reason"] == "not JSON: the file ends within a value"
    assert bad(blocks)[0]["line"] == 2


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
    assert reasons[2] == "not UTF-8: byte 0xFF"
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
def test_any_bytes_are_accounted_for(data: bytes, tmp_path: Path) -> None:
    totals(dump(tmp_path / "fuzz", data))


@given(data=st.text(alphabet='{}[],:"\\\n 1aeu', max_size=60))
@fuzz
def test_anything_like_json_is_accounted_for(data: str, tmp_path: Path) -> None:
    blocks = dump(tmp_path / "fuzz", data.encode())
    totals(blocks)
    if data.strip(" \n,[]"):
        assert blocks
