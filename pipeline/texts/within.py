"""JSON that shares its line with something else: behind a key or a time, in a string, in an event.

    loads(b'9000\\t{"id": 1}')           # {"id": 1}, as Kafka and Hive write it
    loads(b'"{\\"id\\": 1}"')           # {"id": 1}: JSON that was written as JSON once more
    what_within(b'look: {"a": 1} lol')   # None: a text

Server-sent events (``event: update``, ``data: {…}``), as a stream gives them, are
:func:`from_events`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any

from pipeline.texts import pythonic, values
from pipeline.texts.containers import StreamBreak
from pipeline.texts.scanning import CutOff, read_object
from pipeline.texts.values import Unreadable, Value, excerpt, lines, too_long

_OBJECT = re.compile(rb"""(?:\[\s*+)?\{\s*+(?:"[^"\\]{1,200}"|u?'[^'\\]{1,200}')\s*+:""")
_MOST_BEFORE = 300
_EVENT, _KEY, _TIME = "in the data of an event", "behind a key and a tab", "behind a time"
_BEFORE = {
    _EVENT: re.compile(rb"data:\s{0,9}+"),
    _KEY: re.compile(rb"[^\s{]{1,200}+\t\s{0,9}+"),
    _TIME: re.compile(
        rb"[^\t,;{}\"]{0,60}?\d\d:\d\d(?::\d\d)?+(?:[.,]\d{1,9}+)?+[^\t,;{}\"]{0,100}+\t?"
    ),
}
"""What stands before an object on its line, in words -> its form."""
_STRING = re.compile(
    rb"""[bBuU]?(["'])[\s\[]{0,9}+\{\s{0,9}+\\{0,3}["']{1,2}[^"'\\]{1,200}\\{0,3}["']{1,2}\s{0,9}+:"""
)
_MEMBER = re.compile(
    rb"""(?:"[A-Za-z_@$][\w@$.-]{0,200}"|u?'[A-Za-z_@$][\w@$.-]{0,200}')\s*+:\s*+"""
    rb"""(?:(?:u?"[^"\\]*+(?:\\.[^"\\]*+)*+"|u?'[^'\\]*+(?:\\.[^'\\]*+)*+'"""
    rb"""|-?\d[\d.eE+-]{0,40}|true|false|null|True|False|None|[{\[]{1,9}+)"""
    rb"""\s*+,?\s*+\Z|["'\d{\[tfnTFN-].*[,{\[]\s*+\Z)""",
    re.S,
)
_BRACKETS = re.compile(rb"[{\[]|[}\]]{1,8}+[,;]?|\}\)[,;]?")
_FIELD = re.compile(rb"(event|data|id|retry)(?::[ ]?|\Z)|:")
_EVENTS_OF_POSTS = ("", "message", "update", "create", "commit", "post", "add")
_BOM = b"\xef\xbb\xbf"


def loads(line: bytes) -> Any:
    """The value in a line, JSON or Python's, that stands behind something else or in a string.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    if _STRING.match(line):
        text = _unquoted(line)
        return values.loads(text) if not pythonic.is_pythonic(text) else pythonic.loads(text)
    if (found := _behind(line)) is None:
        raise ValueError("not JSON: Expecting value")
    data = line[found[1] :]
    return pythonic.loads(data) if pythonic.is_pythonic(data) else values.loads(data)


def holds_value(line: bytes) -> bool:
    """Whether :func:`loads` reads it, and gives an object or a list."""
    try:
        return isinstance(loads(line), dict | list)
    except ValueError:
        return False


def what_within(line: bytes) -> str | None:
    """What a line is that has JSON in it and is no text that somebody wrote, in words.

    An object behind a key, a time or ``data:`` is one; behind other words if it ends the line and
    is more than the words before it. What has words behind its object is a text.
    """
    line = line.strip()
    if (quoted := _STRING.match(line)) and line.rstrip(b",;").endswith(
        (b"}" + quoted[1], b"]" + quoted[1])
    ):
        return "JSON in a string"
    if _MEMBER.match(line) or _BRACKETS.fullmatch(line):
        return "a line of printed JSON"
    if (found := _behind(line)) is not None:
        return f"JSON {found[0]}" if _goes_on(line, found[1]) is not True else None
    start = _OBJECT.search(line, 0, _MOST_BEFORE)
    if start is None or start.start() == 0 or not line.endswith((b"}", b"}]")):
        return None
    if len(line) - start.start() <= start.start() or _goes_on(line, start.start()):
        return None
    return "JSON behind other words"


def _behind(line: bytes) -> tuple[str, int] | None:
    """What an object of a line stands behind, in words, and where the object begins."""
    start = _OBJECT.search(line, 0, _MOST_BEFORE)
    if start is None:
        return None
    before = line[: start.start()]
    found = next((what for what in _BEFORE if _BEFORE[what].fullmatch(before)), None)
    return None if found is None else (found, start.start())


def _goes_on(line: bytes, at: int) -> bool | None:
    """Whether words stand behind the object here; None if it has no end or is damaged."""
    data = line[at:]
    try:
        text = (pythonic.as_json(data) if pythonic.is_pythonic(data) else data).decode()
        start = text.index("{")
        _, end = read_object(text, start)
    except (CutOff, ValueError):
        return None
    return bool(text[end:].strip(" \t\r\n,;)]}'\""))


def _unquoted(line: bytes) -> bytes:
    """What a string holds, as JSON, Python or CSV writes it.

    Raises:
        ValueError: it has no end.
    """
    data = line.strip().rstrip(b",;")
    if data.startswith(b'"') and data.count(b'""') and b'\\"' not in data:
        return data[1:-1].replace(b'""', b'"')
    if data.startswith(b'"'):
        try:
            value = values.loads(data)
        except ValueError:
            if not data.endswith((b'}"', b']"')):
                raise
            return data[1:-1]  # "{'a': 1}"
    else:
        try:
            value = ast.literal_eval(data.decode())
        except (SyntaxError, MemoryError, RecursionError):
            raise ValueError("not JSON: a string that has no end") from None
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("not JSON: no string")
    return value.encode("utf-8", "surrogatepass")


def is_events(head: bytes) -> bool:
    """Whether a stream that begins so is one of server-sent events, some with JSON."""
    some = [line.strip().removeprefix(_BOM) for line in head.split(b"\n", 65)[:64]]
    some = [line for line in some[: -1 if len(some) > 1 else None] if line]
    fields = sum(_FIELD.match(line) is not None for line in some)
    return 2 * fields > len(some) and any(
        (found := _behind(line)) is not None and found[0] == _EVENT for line in some
    )


def from_events(chunks: Iterator[bytes], max_bytes: int) -> Iterator[Value | Unreadable]:
    """The data of server-sent events; of events that bring no post, with their names.

    ``{"event": "delete", "payload": 17}`` is how the same stream says it elsewhere.
    """
    name, first, number, size = "", 1, 0, 0
    data: list[bytes] = []
    try:
        for line in lines(chunks, max_bytes=max_bytes):
            number, text = line.number, line.data.strip().removeprefix(_BOM)
            found = _FIELD.match(text)
            field = (found[1] or b"").decode() if found else None
            if line.cut or (text and field is None):
                reason = too_long(max_bytes) if line.cut else "no field of a server-sent event"
                yield Unreadable(number, reason, excerpt(text))
            elif not text:
                yield from _event(name, b"\n".join(data), first)
                name, data, size = "", [], 0
            elif field == "event":
                yield from _event(name, b"\n".join(data), first)
                name, data, size = text[found.end() :].decode("utf-8", "replace"), [], 0  # type: ignore[union-attr]
            elif field == "data":
                piece = text[found.end() :].strip()  # type: ignore[union-attr]
                if data and piece.startswith((b"{", b"[")) and _is_whole(data):
                    yield from _event(name, b"\n".join(data), first)
                    data, size = [], 0
                first = first if data else number
                size += len(piece)
                if size > max_bytes and data:
                    yield Unreadable(first, too_long(max_bytes), excerpt(data[0]))
                    data, size = [], 0
                else:
                    data.append(piece)
    except StreamBreak as error:
        yield Unreadable(number + 1, str(error), excerpt(b"\n".join(data)), breaks=True)
    else:
        yield from _event(name, b"\n".join(data), first)


def _is_whole(data: list[bytes]) -> bool:
    """Whether the data so far is all of an event whose end is not marked."""
    return data[0].startswith((b"{", b"[")) and data[-1].endswith((b"}", b"]"))


def _event(name: str, data: bytes, line: int) -> Iterator[Value | Unreadable]:
    if not data or data in (b"null", b"[DONE]"):
        return
    try:
        value = values.loads(data)
    except ValueError as error:
        if data.startswith((b"{", b"[")) or name in _EVENTS_OF_POSTS:
            yield Unreadable(line, str(error), excerpt(data))
            return
        value = data.decode("utf-8", "replace")
    if name not in _EVENTS_OF_POSTS:
        value = {"event": name, "payload": value}
    yield from (Value(line, one) for one in (value if isinstance(value, list) else [value]))
