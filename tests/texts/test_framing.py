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

from pipeline.texts import scanning
from pipeline.texts.framing import is_json_like, json_values
from pipeline.texts.scanning import CutOff, indent_after, next_start, read_object
from pipeline.texts.values import Unreadable, Value, lines
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
    assert totals(blocks) == Counter(read=10, tweets=4, quarantined=6)
    assert [row["line"] for row in rows(blocks)] == [1, 3, 9, 11]
    assert [row["line"] for row in bad(blocks)] == [2, 4, 5, 7, 8, 10]  # null is nothing
    reasons = [row["reason"] for row in bad(blocks)]
    assert reasons[2] == "not UTF-8: byte 0xFF"
    assert reasons[3] == "not JSON: nested too deeply"
    assert reasons[5] == "not a tweet: its keys are unknown"
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


def read(data: bytes, **options: int) -> list[object]:
    """Values, and the reasons of what is none."""
    items = json_values((data[at : at + 4096] for at in range(0, len(data), 4096)), **options)
    return [item.value if isinstance(item, Value) else item.reason for item in items]


A, B = {"id": 1, "text": "é{"}, {"id": 2}


@pytest.mark.parametrize(
    "data",
    [
        'var x = [{a}, {b}];',
        'window.YTD.tweets.part0 = [\n{a},\n{b}\n]\n',
        'Grailbird.data.tweets_2013_05 = \n [{a}, {b}]',
        'cb([{a},{b}]);',
        '/**/ jQuery1_2({a}); jQuery1_2({b});',
        "const x = {a};\nlet y = {b};\n",
        'window.a = [ {a} ]\nwindow.b = [ {b} ]',
        ")]}',\nx = [{a}, {b}]",
        "[{a}][{b}]",
        "{a} {b}",
        "{a}\n\n{b}{a}",
        '{"17": {a}, "18": {b}}',
        '{\n  "17": {a},\n  "18": {b}\n}\n',
        '{"at://did:plc:a/app.bsky.feed.post/1": {a}, "https://a.example/1": {b}}',
        '{"6f1c2b7e-5a51-4b6e-9a59-9d6c0a8f1d11": {a}, "tweet-9000000000000000": {b}}',
        '{"17": [{a}, {b}]}',
        '{"17": {a}}\n{"18": {b}}\n',
        "\x1e{a}\n\x1e{b}\n",
        "\x1e\n{a}\n\x1e\n{b}",
        "\x1e{a}\n{b}\n",
        "null\n{a}\n\nnull\nnull\n{b}\nnull",
        "[{a}, null, {b}]",
        "{a}\r{b}\r",
        "{a}\n\ufeff{b}\n",
        "[{a}]\n\ufeff[{b}]",
        "{a},{b}",
        "{a}, {b},",
        "data: {a}\ndata: {b}\n",
        "event: update\ndata: {a}\n\n:thump\n\nid: 7\nevent: update\ndata: {b}\n\n",
        "event: update\r\ndata:{a}\r\n\r\nretry: 9\r\n\r\ndata:{b}",
        "9000\t{a}\n9001\t{b}\n",
        "2026-11-04T09:00:00Z\t{a}\n2026-11-04T09:00:01Z\t{b}\n",
        "2026-11-04 09:00:00,123 - a.b - INFO - {a}\n2026-11-04 09:00:00,124 - a.b - INFO - {b}",
        "[2026-11-04T09:00:00.123Z] {a}\n[2026-11-04T09:00:00.124Z] {b}\n",
        "Nov  4 09:00:00 host a[1]: {a}\nNov 14 09:00:00 host a[1]: {b}\n",
        "{a}\n9000\t{b}\n",
    ],
)  # fmt: skip
def test_framings_as_people_have_them(data: str) -> None:
    filled = data.replace("{a}", json.dumps(A)).replace("{b}", json.dumps(B))
    assert read(filled.encode())[:2] == [A, B]
    assert len(read(filled.encode())) == data.count("{a}") + data.count("{b}")


def test_a_map_gives_ids_to_records_without_one() -> None:
    data = b'{"9000000000000000": {"text": "a"}, "17": {"text": "b"}, "meta": {"n": 1}, "n": 3}'
    assert read(data) == [
        {"id": "9000000000000000", "text": "a"}, {"text": "b"}, {"n": 1}, "not a JSON object"
    ]  # fmt: skip
    assert read(b'{"user": {"id": 1}, "id": 2}') == [{"user": {"id": 1}, "id": 2}]


@pytest.mark.parametrize("wrong", ["30", "7", "999", "99999999999", "0", "1"])
def test_a_wrong_count_costs_nothing_but_where_the_record_is_damaged(wrong: str) -> None:
    one = json.dumps(A, ensure_ascii=False)
    good = f"{len(one.encode()) + 2}\r\n{one}\r\n"
    assert read((good * 3 + f"{wrong}\r\n{one}\r\n" + good * 3).encode()) == [A] * 7
    found = read((good * 3 + f"{wrong}\r\n{one[:-2]}\r\n" + good * 3).encode())
    assert found.count(A) == 6 and len(found) == 7
    for over in range(4):  # some count what is around the record, or nothing stands there
        counted = f"{len(one.encode()) + over}\n{one}\n"
        assert read((counted * 5).encode()) == [A] * 5
    assert read((good.rstrip() * 5).encode()) == [A] * 5
    in_characters = f"{len(one) + 2}\r\n{one}\r\n"
    assert read((good + in_characters * 3 + good).encode()) == [A] * 5
    assert read((good * 3 + good[:20]).encode()) == [
        A,
        A,
        A,
        "not JSON: the file ends within a value",
    ]


def test_an_object_that_is_too_long_is_gone_into() -> None:
    items = [{"id": str(i), "type": "Create", "object": {"content": "x" * 90}} for i in range(9000)]
    outbox = {"@context": "https://a.example", "totalItems": 9000, "orderedItems": items}
    for indent in (None, 2):
        data = json.dumps(outbox, indent=indent).encode()
        assert len(data) > 1 << 20
        assert read(data) == [outbox]
        assert read(data, max_bytes=1 << 19) == items


def test_records_behind_damage_need_not_look_like_it() -> None:
    for between in ("", ", "):
        data = between.join(['{"id": 1}', '{"id": 2}', '{"id" 3, "a": [{"b": 1}]}', '{"c": {}}'])
        found = read(f"[{data}]".encode())
        assert (found[:2], found[3:]) == ([{"id": 1}, {"id": 2}], [{"c": {}}])


@pytest.mark.parametrize(
    "value",
    [
        {"a": "it's", "b": 'say "so"', "c": "both ' and \"", "d": "\\ \n\x1b\x7f\u200b\U000e0001"},
        {"a": [True, False, None, (1, (2,), ())], "b": "None, True: (x,)", "c": -1.5e-9},
        {"a": "é 😀", "b": {"c": {}}, "d": []},
    ],
)  # fmt: skip
def test_dicts_as_python_writes_them(value: dict[str, object]) -> None:
    tuples_as_lists = json.loads(json.dumps(value))
    assert read(f"{value}\n{value}\n".encode()) == [tuples_as_lists] * 2


@pytest.mark.parametrize(
    "bad",
    ["datetime.datetime(2026, 1, 1, tzinfo=x)", "<a at 1>", "open('x')", "a.b", "1 +", "2 * 3"],
)
def test_what_python_writes_and_json_has_not(bad: str) -> None:
    good = "{'a': 1}\n"
    found = read(f"{good}{{'a': {bad}}}\n{good}".encode())
    assert found == [{"a": 1}, "Python's repr of a dict that has no form in JSON", {"a": 1}]


PYTHON = [
    "{{u'id': 1, u'text': u'\\xe9{{'}}\n{{u'id': 2L}}\n",
    "{{u'id': 1L, u'text': u\"\\xe9{{\"}}\n{{'id': 2}}\n",
    "OrderedDict([('id', 1), ('text', 'é{{')])\nOrderedDict([('id', 2)])\n",
    "OrderedDict({a})\nOrderedDict({b})\n",
    "Status(_api=<a.API object at 0x7f>, _json={a}, id=1)\nStatus(_api=<x>, _json={b}, id=2)\n",
    "(1, {a})\n(2, {b})\n",
    "[{a}, {b}]\n",
    "{{'id': 1,\n 'text': 'é'\n         '{{'}}\n{{'id': 2}}\n",
    "[{{'id': 1,\n  'text': 'é{{'}},\n {{'id': 2}}]\n",
]


def test_an_array_without_its_end() -> None:
    end = "not JSON: the file ends within an array"
    for data in ("[{a}, {b}", "[\n{a},\n{b},\n", "x = [{a},{b}"):
        filled = data.replace("{a}", json.dumps(A)).replace("{b}", json.dumps(B))
        assert read(filled.encode()) == [A, B, end]
    assert read(b"[" * 5000) == [end]


@pytest.mark.parametrize("data", PYTHON)
def test_other_ways_of_python(data: str) -> None:
    assert [*map(dict, read(data.format(a=A, b=B).encode()))][:2] == [A, B]  # type: ignore[call-overload]


def test_strings_with_json_in_them() -> None:
    one, other = json.dumps(A), json.dumps(B)
    for write in (
        json.dumps,
        repr,
        lambda text: repr(text.encode()),
        lambda text: f'u"{text!r}"'[2:-1],
    ):
        assert read(f"{write(one)}\n{write(other)}\n".encode()) == [A, B]
    in_csv = '"{""id"": 1}"\n"{\'id\': 2}"\n'
    assert read(in_csv.encode()) == [{"id": 1}, {"id": 2}]
    assert read(b'{"id": 1}\n"{\\"id\\": 2}"\n"{lol}"\n') == [
        {"id": 1},
        {"id": 2},
        "not a JSON object",
    ]


def test_values_that_json_has_not() -> None:
    line = (
        "Tweet(a=datetime.datetime(2026, 11, 4, 9, 0, tzinfo=datetime.timezone.utc), b=b'x',"
        " c=ObjectId('6f'), d={1, 2}, e=nan, f=-1, g=datetime.datetime(2026, 11, 4, 9, 0))\n"
    )
    assert read(line.encode() * 2) == 2 * [
        {
            "a": "2026-11-04T09:00:00+00:00", "b": "x", "c": "6f", "d": [1, 2], "e": None, "f": -1,
            "g": "2026-11-04T09:00:00",
        }
    ]  # fmt: skip


def test_events_that_bring_no_post_keep_their_names() -> None:
    data = 'event: delete\ndata: 114\n\nevent: x\ndata: {}\n\ndata: {\ndata: }\n\nlol\ndata: {"a\n'
    assert read(b'data: {"id": 2}\n\n' * 3 + data.encode()) == [
        B, B, B, {"event": "delete", "payload": 114}, {"event": "x", "payload": {}}, {},
        "no field of a server-sent event", "not JSON: Unterminated string starting at",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "unit",
    [
        '{"a" 1\n',
        '{"a" {],',
        '{"a": 1},{"a" {],',
        '"17": {"a" 1 ',
        '{"a":\n',
        '{"\n',
        '{"a" 1},',
        '{"a": "b\n',
    ],
)
def test_work_is_in_proportion_to_what_is_damaged(
    unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = 0

    def counted(text: str, at: int, end: int) -> int | None:
        nonlocal looked_at
        found = closed(text, at, end)
        looked_at += (found or end) - at
        return found

    def started(text: str, at: int, indent: int, end: int) -> int | None:
        nonlocal looked_at
        found = next_start(text, at, indent, end)
        looked_at += (found or end) - at
        return found

    closed, next_start = scanning.closed, scanning.next_start
    monkeypatch.setattr(scanning, "closed", counted)
    monkeypatch.setattr(scanning, "next_start", started)
    for begins in ('[\n{"a": 1},\n', '{"17": {"a": 1},'):
        looked_at, data = 0, begins + unit * (60_000 // len(unit))
        assert len(read(data.encode())) >= 2
        assert looked_at < (1 << 20) + 10 * len(data)


def test_a_list_of_posts_is_gone_into_wherever_it_is() -> None:
    items = [{"id": str(i), "text": "x" * 90} for i in range(20_000)]
    for whole in (
        {"data": items},
        {"meta": {"n": 1}, "statuses": items},
        {"hits": {"hits": items}},
    ):
        data = json.dumps(whole).encode()
        assert len(data) > 2 << 20
        assert read(data, max_bytes=1 << 19) == items


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"a": 1}', "a JSON object"),
        (' \x1e{"created_at": "Wed No', "a JSON object"),
        ('[{"a": 1}, {', "an array of JSON objects"),
        ("{'a': 1}", "Python's repr of a dict"),
        ("[{'a': None", "Python's repr of a dict"),
        ("window.YTD.tweets.part0 = [", "JSON behind JavaScript"),
        ('cb({"a": 1});', "JSON behind JavaScript"),
        ('  "id_str": "9",', "a line of printed JSON"),
        ("{u'a': u'b'}", "Python's repr of a dict"),
        ("OrderedDict([('a', 1)])", "Python's repr of a dict"),
        ("(9, {'a': 1})", "Python's repr of a dict"),
        ("Status(_api=<a>, _json={'a': 1}, id=2)", "Python's repr of an object"),
        ('data: {"a": 1}', "JSON in the data of an event"),
        ('data: {"a": "cut', "JSON in the data of an event"),
        ('9000\t{"a": 1}', "JSON behind a key and a tab"),
        ('2026-11-04T09:00:00Z {"a": 1}', "JSON behind a time"),
        ("2026-11-04 09:00:00 INFO {'a': 1}", "JSON behind a time"),
        ('look: {"a": 1}', "JSON behind other words"),
        ("tweet {'a': None}", "JSON behind other words"),
        ('"{\\"a\\": 1}"', "JSON in a string"),
        ('"{""a"": 1}"', "JSON in a string"),
        ("b'{\"a\": 1}'", "JSON in a string"),
        *((one, "a line of printed JSON") for one in ("{", "  },", "]", '"a": "b"', "'a': 1,")),
        *((one, None) for one in ("{lol}", "[1] is", "[]", "I = [", "haha({", '"No": he said', "")),
        *((one, None) for one in ('look: {"a": 1} lol', 'data: {"a": 1} lol', ":-}", "{'-'} lol")),
        *((one, None) for one in ("({'o'}) tired", '"Mood": tired', '"quoted {text}"', "f(x=1)")),
        *((one, None) for one in ('he said that {"a": 1}', "9\t{tea}", "at 09:00 {tea}", "{a: 1}")),
    ],
)  # fmt: skip
def test_lines_that_are_json(line: str, what: str | None) -> None:
    assert is_json_like(line.encode()) == what
