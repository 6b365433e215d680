"""JSON values one after another from a stream of bytes, however framed, in bounded memory.

``json_values(chunks)`` tells from the beginning of the stream which row of ``FRAMINGS`` it has:
JSON lines (also such that end in carriage returns, and Python's ``str(dict)``), lines with a key or
a time before the JSON, or with JSON in a string, server-sent events, text sequences of RFC 7464, a
count of bytes before each record, arrays of any length and printed values (also behind
``window.x = ``), records one after another, or a map of ids to records. Elements of arrays and
entries of maps come out one by one. What cannot be read comes out as ``Unreadable``, in its place,
and reading goes on behind it. Blank lines and ``null``, which keep connections alive, are nothing.
Numbers keep all their digits.

Memory holds one value at a time and at most ``max_bytes`` of it; a longer one is unreadable. An
object is one value, however many posts it lists, unless it is longer than that.

``is_json_like(line)`` says of a line of a text file what it is, if it is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pipeline.texts import pythonic, within
from pipeline.texts.charsets import as_utf8
from pipeline.texts.containers import StreamBreak, peek
from pipeline.texts.counted import COUNT, from_counted
from pipeline.texts.pythonic import is_pythonic, pythonic_kind
from pipeline.texts.scanning import LIST_IN_OBJECT, CutOff, Scanner, is_id, read_object
from pipeline.texts.values import (
    EXCERPT_CHARS,
    MAX_LINE_BYTES,
    Line,
    Unreadable,
    Value,
    excerpt,
    lines,
    loads,
    shown,
    too_long,
)
from pipeline.texts.within import from_events, holds_value, is_events, what_within

__all__ = [
    "EXCERPT_CHARS",
    "FRAMINGS",
    "MAX_LINE_BYTES",
    "Framing",
    "Line",
    "Unreadable",
    "Value",
    "excerpt",
    "framing_of",
    "is_json_like",
    "json_values",
    "lines",
    "loads",
    "shown",
    "too_long",
]

_BOM = b"\xef\xbb\xbf"
_MARKS = re.compile(rb"(?:\xef\xbb\xbf\s*+)++")
_RS = b"\x1e"
HEAD_BYTES = 1 << 20
"""Of a stream, that its framing is told from."""
_HEAD_LINES = 16
_COUNTED = re.compile(rb"(?:^|[\n}\]])\d{1,12}[ \t]*\r?\n\s{0,100}[{\[]")
_AT_LINE_START = re.compile(rb"(?:^|\n)[{\[]")
_OBJECTS = re.compile(rb"[\[\s]*\{\s*(?:[\"'}]|$)|\[\s*\]")
_SEQUENCE = re.compile(rb"\x1e[ \t\r\n]{0,100}[{\[]")
_GLUED = re.compile(rb"\}[ \t]*\{\s{0,100}\"")
_SCRIPT = re.compile(
    rb"(?:/\*[^*]{0,200}\*/|\)\]\}',?|while\(1\);|for\(;;\);|\s)*+"
    rb"(?:(?:var|let|const|export|default|return)\s++)*+"
    rb"[A-Za-z_$][\w$.\[\]'\"]{0,300}\s*+[=(]\s*+(?:\(\s*+)*+[{\[]\s*+(?:[\"'{\[\]}]|$)"
)
_MAP = re.compile(rb'\{\s*+"([^"\\\n]{1,1000})"\s*+:\s*+(?:\[\s*+)?\{\s*+"')
_JSON_BEGINS = re.compile(
    rb"(?:^|[\n\r\x1e\[,])[ \t]{0,100}(?:\{\s{0,100}[\"']\w|[\[{]\s{0,9}(?:\n|\Z|\{))"
)
_SEVERAL = re.compile(rb"\}\s{0,100}\{\s{0,100}\"")
_LIKE_OBJECT = re.compile(rb'[\s\[]*+\{\s*+"[^"\\]{0,1000}"\s*+:')
_LIKE_SCRIPT = re.compile(
    rb"(?:(?:var|let|const)\s++[\w$]++|[\w$]++(?:\.[\w$]++)++)\s*+=\s*+[\[{]"
    rb"|[\w$.]++\s*+[=(]\s*+(?:\[\s*+)?\{\s*+\"[^\"\\]{0,1000}\"\s*+:"
)
_NEXT_ON_LINE = re.compile(r"\s*+,\s*+\{")
_PYTHON_BEGINS = re.compile(rb"\n\[?\{(?:u?'|\d{1,20}: ?[{\[]?u?')")
_ONE_LONG = re.compile(LIST_IN_OBJECT.encode(), re.S)


@dataclass(frozen=True)
class Framing:
    """How values follow one another in a stream.

    Attributes:
        name: as reports say it.
        matches: whether a stream that begins so, without blanks before, has it.
        read: its values, none of more than so many bytes.
    """

    name: str
    matches: Callable[[bytes], bool]
    read: Callable[[Iterator[bytes], int], Iterator[Value | Unreadable]]


def json_values(
    chunks: Iterator[bytes], *, max_bytes: int = MAX_LINE_BYTES, encoding: str | None = None
) -> Iterator[Value | Unreadable]:
    """The values of a stream in order; elements of top-level arrays, and entries of maps of ids to
    records, count as values, and ``null`` as none.

    A stream that breaks (``StreamBreak``) ends with one ``Unreadable`` that gives the reason.

    Args:
        chunks: of one unpacked file.
        max_bytes: a longer value is unreadable.
        encoding: a Python text codec; None: UTF-8, or what the byte order mark says.
    """
    try:
        chunks = as_utf8(chunks, encoding)
    except StreamBreak as error:
        yield Unreadable(1, f"{error}; {error.remedy}", "")  # this file; others may be read
        return
    head, chunks = peek(chunks, HEAD_BYTES)
    begins = _begins(head)
    framing = next(one for one in FRAMINGS if one.matches(begins))
    yield from framing.read(chunks, max_bytes)


def framing_of(head: bytes) -> str:
    """The name of the framing of a stream of JSON that begins so, in UTF-8; "" of others."""
    begins = _begins(head)
    framing = next(one for one in FRAMINGS if one.matches(begins))
    if framing.name == LINES:
        some = _first_lines(begins)
        return LINES if 2 * sum(map(bool, map(is_json_like, some))) > len(some) else ""
    if framing.name in (ARRAY, PRINTED) and not _OBJECTS.match(begins):
        return ""
    return framing.name if framing.name != NONE else ""


def is_json_like(line: bytes) -> str | None:
    """What a line is if it is JSON, or a part of it, and no text that somebody wrote; in words.

    ``[1] is a list`` and ``{lol}`` are texts.
    """
    data = line.lstrip(b" \t\r\n\x1e\xef\xbb\xbf")
    if (what := pythonic_kind(data)) is not None:
        return what
    if _LIKE_OBJECT.match(data):
        return "a JSON object" if data.startswith(b"{") else "an array of JSON objects"
    if _LIKE_SCRIPT.match(data):
        return "JSON behind JavaScript"
    return what_within(data)


def _begins(head: bytes) -> bytes:
    return head.removeprefix(_BOM).lstrip()


def _is_sequence(head: bytes) -> bool:
    if _RS not in head:
        return False
    return len(_SEQUENCE.findall(head)) >= max(1, len(_AT_LINE_START.findall(head)))


def _is_counted(head: bytes) -> bool:
    if not COUNT.match(head):
        return False
    return 2 * len(_COUNTED.findall(head)) > len(_AT_LINE_START.findall(head))


def _is_script(head: bytes) -> bool:
    return _SCRIPT.match(head) is not None


def _is_map(head: bytes) -> bool:
    found = _MAP.match(head)
    return found is not None and is_id(found.group(1).decode("utf-8", "replace"))


def _is_glued(head: bytes) -> bool:
    if not head.startswith(b"{"):
        return False
    if b"\n" not in head.rstrip() and _has_next_on_line(head):
        return True
    return len(_GLUED.findall(head)) > head.count(b"\n{")


def _has_next_on_line(data: bytes) -> bool:
    """Whether another object stands behind the first, and a comma."""
    text = data.decode("utf-8", "replace")
    try:
        _, end = read_object(text, 0)
    except (CutOff, ValueError):
        return False
    return _NEXT_ON_LINE.match(text, end) is not None


def _has_value_per_line(head: bytes) -> bool:
    """Whether a stream that begins so has a value per line, rather than values over many lines."""
    first, *others = head.split(b"\n")
    if not others:  # one line, or a first line beyond the head: only an array can be cut up
        return not first.startswith(b"[") and not (
            len(head) > HEAD_BYTES // 2 and _ONE_LONG.match(head)
        )
    try:
        loads(first)
    except ValueError as error:
        if not first.startswith((b"{", b"[")) or "string" in str(error):
            return True  # damaged: values over many lines never break a line within a string
        whole = sum(_is_object(line) for line in others[:_HEAD_LINES])
        return whole >= (2 if first.rstrip().endswith((b"{", b"[", b",", b":")) else 1)
    return True


def _is_object(line: bytes) -> bool:
    if not line.startswith(b"{"):
        return False
    try:
        return bool(loads(line))
    except ValueError:
        return False


def _first_lines(head: bytes) -> list[bytes]:
    """Of a stream that begins so, without what says nothing."""
    some = [line.strip() for line in head.split(b"\n", _HEAD_LINES)[:_HEAD_LINES]]
    return [line for line in some if line not in (b"", b"null")]


def _has_json_within(head: bytes) -> bool:
    some = _first_lines(head)
    return 2 * sum(map(holds_value, some)) > len(some)


def _has_python(head: bytes) -> bool:
    if not head.startswith((b"{", b"[")):
        some = _first_lines(head)
        return 2 * sum(map(is_pythonic, some)) > len(some)
    at_starts = b"\n" + head
    num_lines = at_starts.count(b"\n{") + at_starts.count(b"\n[")
    return 2 * len(_PYTHON_BEGINS.findall(at_starts)) > num_lines


def _has_none(head: bytes) -> bool:
    return not head.startswith((b"{", b"[")) and not _JSON_BEGINS.search(head)


def _from_lines(
    chunks: Iterator[bytes],
    max_bytes: int,
    *,
    end: bytes = b"\n",
    parse: Callable[[bytes], Any] = loads,
    joined: bool = False,
) -> Iterator[Value | Unreadable]:
    """A value between each two marks; of an array its elements.

    With ``joined`` a line that begins with a blank belongs to the one before.
    """
    number, next_number, unfinished = 1, 1, b""
    try:
        found = lines(chunks, max_bytes=max_bytes, end=end)
        for line in _joined(found, max_bytes) if joined else found:
            number = line.number if end == b"\n" else next_number
            next_number += line.data.count(b"\n") if end != b"\n" else 0
            data = line.data.strip()
            if not data:
                continue
            if number == 1:
                data = data.removeprefix(_BOM).strip()
            if line.cut:
                yield Unreadable(number, too_long(max_bytes), excerpt(data))
                continue
            try:
                value = parse(data)
            except ValueError as error:
                # Whether the file ends or breaks in a line is known only afterwards.
                if not line.ended and _is_cut(data, error):
                    unfinished = data
                else:
                    yield from _mended(data, str(error), number)
                continue
            if type(value) is list:
                for element in value:
                    if element is not None:
                        yield Value(number, element)
            elif type(value) is str and value.lstrip().startswith(("{", "[")):
                yield from _mended(data, "not a JSON object", number)
            elif value is not None:
                yield Value(number, value)
    except StreamBreak as error:
        yield Unreadable(number, str(error), excerpt(unfinished), breaks=True)
    else:
        if unfinished:
            yield Unreadable(number, "not JSON: the file ends within a value", excerpt(unfinished))


def _joined(found: Iterator[Line], max_bytes: int) -> Iterator[Line]:
    """Lines with those behind them that go on."""
    last: list[Line] = []
    size = 0
    broken: StreamBreak | None = None
    try:
        for line in found:
            if last and not (line.data.startswith((b" ", b"\t")) and size < max_bytes):
                yield _one(last, max_bytes)
                last, size = [], 0
            last.append(line)
            size += len(line.data)
    except StreamBreak as error:
        broken = error
    if last:
        yield _one(last, max_bytes)
    if broken is not None:
        raise broken


def _one(parts: list[Line], max_bytes: int) -> Line:
    data = b"\n".join(one.data for one in parts)
    cut = any(one.cut for one in parts) or len(data) > max_bytes
    return Line(parts[0].number, data[:max_bytes], cut, parts[-1].ended)


def _is_cut(data: bytes, error: ValueError) -> bool:
    """Whether a last line that is no JSON may be the beginning of some."""
    if data.startswith(_BOM) or is_pythonic(data) or holds_value(data):
        return False
    return not _SEVERAL.search(data) and "Extra data" not in str(error)


def _mended(data: bytes, reason: str, number: int) -> Iterator[Value | Unreadable]:
    """What there is in a line that is no JSON: several objects, Python's dicts, JSON behind a
    second byte order mark, or with something around it."""
    if marks := _MARKS.match(data):
        for item in _from_lines(iter([data[marks.end() :]]), len(data)):
            yield replace(item, line=number)
        return
    kind = pythonic_kind(data)
    try:
        value = pythonic.loads(data) if kind else within.loads(data)
    except ValueError:
        if kind:
            yield Unreadable(number, f"{kind} that has no form in JSON", excerpt(data))
        elif _SEVERAL.search(data) or (data.startswith(b"{") and "Extra data" in reason):
            yield from Scanner(iter([data]), len(data), line=number).values()
        else:
            yield Unreadable(number, reason, excerpt(data))
        return
    for one in value if isinstance(value, list) else [value]:
        yield Value(number, one)


def _loads_python(data: bytes) -> Any:
    return pythonic.loads(data) if is_pythonic(data) else loads(data)


def _loads_object(data: bytes) -> Any:
    if not data.startswith((b"{", b"[")):
        raise ValueError("not JSON")
    return loads(data)


def _from_python(chunks: Iterator[bytes], max_bytes: int) -> Iterator[Value | Unreadable]:
    return _from_lines(chunks, max_bytes, parse=_loads_python, joined=True)


def _from_within(chunks: Iterator[bytes], max_bytes: int) -> Iterator[Value | Unreadable]:
    return _from_lines(chunks, max_bytes, parse=within.loads)


def _from_sequence(chunks: Iterator[bytes], max_bytes: int) -> Iterator[Value | Unreadable]:
    return _from_lines(chunks, max_bytes, end=_RS)


def _from_others(chunks: Iterator[bytes], max_bytes: int) -> Iterator[Value | Unreadable]:
    """Of a file that is no JSON: that, and what looks like values all the same."""
    told = False
    for item in _from_lines(chunks, max_bytes, parse=_loads_object):
        if isinstance(item, Value):
            is_one, beginning = isinstance(item.value, dict), shown(item.value)
        else:
            beginning = item.excerpt
            is_one = item.breaks or beginning.startswith("{")
        if is_one:
            yield item
        elif not told:
            told = True
            yield Unreadable(item.line, "not JSON, as all lines here that are no object", beginning)


def _scanned(
    *, keyed: bool = False, scripted: bool = False
) -> Callable[[Iterator[bytes], int], Iterator[Value | Unreadable]]:
    def read(chunks: Iterator[bytes], max_bytes: int) -> Iterator[Value | Unreadable]:
        return Scanner(chunks, max_bytes, keyed=keyed, scripted=scripted).values()

    return read


LINES, ARRAY, PRINTED, NONE = "JSON lines", "array", "printed JSON", "no JSON"
FRAMINGS: tuple[Framing, ...] = (
    Framing("text sequences (RFC 7464)", _is_sequence, _from_sequence),
    Framing("server-sent events", is_events, from_events),
    Framing("lines with JSON in them", _has_json_within, _from_within),
    Framing("byte counts before records", _is_counted, from_counted),
    Framing("lines of Python's repr", _has_python, _from_python),
    Framing("JSON behind JavaScript", _is_script, _scanned(scripted=True)),
    Framing("map of ids to records", _is_map, _scanned(keyed=True)),
    Framing("records one after another", _is_glued, _scanned()),
    Framing(NONE, _has_none, _from_others),
    Framing(LINES, _has_value_per_line, _from_lines),
    Framing(ARRAY, lambda head: head.startswith(b"["), _scanned()),
    Framing(PRINTED, lambda head: True, _scanned()),
)
"""Tried in this order; a new one is a row here."""
