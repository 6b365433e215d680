"""JSON values one after another from a stream of bytes, whatever the layout, in bounded memory.

``json_values(chunks)`` takes JSON lines (a value per line) as well as values over many lines:
pretty printed ones, and arrays of any length, whose elements come out one by one. The layout is
told from the beginning of the stream. What cannot be read comes out as ``Unreadable``, in its
place, and reading goes on behind it: at the next line of JSON lines, or in a printed array at the
next element that starts a line. Numbers keep all their digits.

Memory holds one value at a time (one element of an array) and at most ``max_bytes`` of it; a longer
one is unreadable. An object is one value, however many tweets it lists.

``lines(chunks)`` cuts a stream at its line feeds, whatever the lines hold.
"""

from __future__ import annotations

import codecs
import json
import re
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from pipeline.config import ScoreConfig
from pipeline.texts.containers import StreamBreak, peek
from pipeline.texts.normalise import join_surrogates

MAX_LINE_BYTES: int = ScoreConfig.model_fields["max_line_bytes"].default
"""Of a line, or of a JSON value that goes over several."""
EXCERPT_CHARS = 200
_BOM = b"\xef\xbb\xbf"
_HEAD_BYTES = 1 << 20
_HEAD_LINES = 16
_FILL_CHARS = 1 << 20
_NEAR_END = 16  # characters in which a literal, number or escape may be cut
_MAX_INDENT = 1000
_parse = json.JSONDecoder().raw_decode
_SEPARATORS = re.compile(r"[\s,\[\]\x1e\ufeff]*")
_NOT_BLANK = re.compile(r"[^ \t]")
_SCALAR = re.compile(r"[^,\[\]{}\n]*")
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True)
class Value:
    """A JSON value and the line it starts on."""

    line: int
    value: Any


@dataclass(frozen=True)
class Unreadable:
    """A place where no value could be read, why, and how it begins; ``breaks`` if the stream ends
    there before its end."""

    line: int
    reason: str
    excerpt: str
    breaks: bool = False


def json_values(
    chunks: Iterator[bytes], *, max_bytes: int = MAX_LINE_BYTES
) -> Iterator[Value | Unreadable]:
    """The values of a stream in order; elements of top-level arrays count as values.

    A stream that breaks (``StreamBreak``) ends with one ``Unreadable`` that gives the reason.
    """
    head, chunks = peek(chunks, _HEAD_BYTES)
    if _has_value_per_line(head.removeprefix(_BOM).lstrip()):
        for item in _from_lines(chunks, max_bytes):
            if isinstance(item, Value) and isinstance(item.value, list):
                for element in item.value:
                    yield Value(item.line, element)
            else:
                yield item
    else:
        yield from _Scanner(chunks, max_bytes).values()


class _Shown(reprlib.Repr):
    """Short and of bounded work, whatever it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxlong = self.maxother = EXCERPT_CHARS
        self.maxdict = self.maxlist = 8


def shown(value: Any) -> str:
    """A JSON value as Python writes it, cut where it is long or deep."""
    return excerpt(_Shown().repr(value))


def too_long(max_bytes: int) -> str:
    """Why a line, a row or a value is not read whole."""
    return f"longer than max_line_bytes = {max_bytes}"


def excerpt(text: str | bytes) -> str:
    """The beginning of what could not be read, fit for a table."""
    if isinstance(text, bytes):
        text = text[: 4 * EXCERPT_CHARS].decode("utf-8", "replace")
    return join_surrogates(text[:EXCERPT_CHARS])


def loads(data: bytes) -> Any:
    """One JSON value.

    Raises:
        ValueError: not JSON, not UTF-8, or nested too deeply; with a short reason.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        # The slower parser also takes NaN, and escapes of half a surrogate pair.
        return json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte 0x{data[error.start]:02X}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg}") from None
    except RecursionError:
        raise ValueError("not JSON: nested too deeply") from None


def _has_value_per_line(head: bytes) -> bool:
    """Whether a stream that begins so has a value per line, rather than values over many lines."""
    first, *others = head.split(b"\n")
    if not others:  # one line, or a first line beyond the head: only an array can be cut up
        return not first.startswith(b"[")
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


def _from_lines(chunks: Iterator[bytes], max_bytes: int) -> Iterator[Value | Unreadable]:
    number, unfinished = 0, b""
    try:
        for line in lines(chunks, max_bytes=max_bytes):
            number = line.number
            data = (line.data.removeprefix(_BOM) if number == 1 else line.data).strip()
            if not data:
                continue
            if line.cut:
                yield Unreadable(number, too_long(max_bytes), excerpt(data))
                continue
            try:
                value = loads(data)
            except ValueError as error:
                if not line.ended:  # whether the file ends or breaks here is known only afterwards
                    unfinished = data
                    continue
                yield Unreadable(number, str(error), excerpt(data))
            else:
                yield Value(number, value)
    except StreamBreak as error:
        yield Unreadable(max(number, 1), str(error), excerpt(unfinished), breaks=True)
    else:
        if unfinished:
            yield Unreadable(number, "not JSON: the file ends within a value", excerpt(unfinished))


class CutOff(Exception):
    """The text ends within a value."""


def read_object(text: str, at: int) -> tuple[Any, int]:
    """The object that starts at a place of a text, and where it ends.

    ``read_object('[{"a": 1}, 2]', 1)`` is ``({"a": 1}, 9)``.

    Raises:
        CutOff: the text ends first; more of it may make the object whole.
        ValueError: it is damaged; with a short reason.
    """
    try:
        return _parse(text, at)
    except json.JSONDecodeError as error:
        # {"a": "b                the string began anywhere
        # {"a": 1, "b": tr        the parser stumbles where the literal begins
        if error.msg.startswith("Unterminated string") or error.pos >= len(text) - _NEAR_END:
            raise CutOff from None
        # {"a": "b" c", "d": 1}   well before the end
        raise ValueError(f"not JSON: {error.msg}") from None
    except ValueError as error:  # {"a": 999…}  with thousands of digits
        raise ValueError(f"not JSON: {error}") from None
    except RecursionError:  # {"a": [[[…
        raise ValueError("not JSON: nested too deeply") from None


def indent_after(separators: str) -> int | None:
    """How far a value is indented that follows these; None within a line.

    Tabs and blanks count, commas and brackets do not: ``",\\n  "`` is 2, ``"\\n, "`` is 1, and
    ``", "`` is None.
    """
    _, newline, indent = separators.rpartition("\n")
    return len(_NOT_BLANK.sub("", indent)) if newline else None


def next_start(text: str, at: int, indent: int) -> int | None:
    """Where to go on behind a damaged object: at a ``{`` that starts a line as that object did.

    An object inside the damaged one is indented further, and a ``{`` inside a string stands in the
    middle of a line, so that neither is taken for the next.

    Args:
        text: with the damaged object.
        at: begin to look here, behind the object's own ``{``.
        indent: of the damaged object.

    Returns:
        Place of the ``{``; None if there is none yet.
    """
    match = re.compile(_start_pattern(indent)).search(text, at)
    return match.end() - 1 if match else None


def _start_pattern(indent: int) -> str:
    blanks = rf"[ \t]{{{indent}}}"
    # [
    #   {
    #     "id": 1 "user": {     damaged, and this one is further in
    #       "id": 9
    #     }
    #   },
    #   {"id": 2}               the next; with commas first:   ,{"id": 2}
    # ]
    own_line = rf"{blanks}[\[,]?"
    # [ {"id": 1 "lang": "en"}  damaged, one blank in
    # , {"id": 2}               the next, one blank behind its comma
    # ]
    comma_first = rf"[\[,]{blanks}"
    return rf"\n(?:{own_line}|{comma_first}){{"


class _Scanner:
    """Cuts values that go over many lines out of a stream, with the standard library's parser."""

    def __init__(self, chunks: Iterator[bytes], max_chars: int) -> None:
        self._chunks = chunks
        self._max_chars = max_chars
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text = ""
        self._at = 0
        self._line = 1
        self._indent: int | None = 0
        self._ended = False
        self._broken: StreamBreak | None = None

    def values(self) -> Iterator[Value | Unreadable]:
        while self._skip_separators():
            if self._text[self._at] == "{":
                yield self._next_object()
            else:
                yield self._next_scalar()
        if self._broken is not None:
            yield Unreadable(self._line, str(self._broken), "", breaks=True)

    def _fill(self, num_chars: int = _FILL_CHARS) -> bool:
        """Read on; False at the end of the stream."""
        if self._ended:
            return False
        parts = [self._text[self._at :]]
        self._at = 0
        try:
            while num_chars > 0:
                data = next(self._chunks)
                parts.append(self._decoder.decode(data))
                num_chars -= len(data)
        except StopIteration:
            self._ended = True
        except StreamBreak as error:
            self._ended, self._broken = True, error
        if self._ended:
            parts.append(self._decoder.decode(b"", final=True))
        self._text = "".join(parts)
        return True

    def _advance(self, to: int) -> None:
        self._line += self._text.count("\n", self._at, to)
        self._at = to

    def _skip_separators(self) -> bool:
        """Go to the next value and note its indentation, None within a line; False at the end."""
        start = self._line == 1 and self._at == 0
        passed = "\n" if start else ""
        while True:
            match = _SEPARATORS.match(self._text, self._at)
            assert match is not None
            passed = (passed + match.group())[-_MAX_INDENT:]
            self._advance(match.end())
            if self._at < len(self._text):
                break
            if not self._fill():
                return False
        self._indent = indent_after(passed)
        return True

    def _next_object(self) -> Value | Unreadable:
        wanted = _FILL_CHARS
        while True:
            try:
                value, end = read_object(self._text, self._at)
                break
            except CutOff:
                if len(self._text) - self._at > self._max_chars:
                    return self._give_up(too_long(self._max_chars))
                if not self._fill(wanted):
                    reason = str(self._broken or "not JSON: the file ends within a value")
                    self._broken = None
                    return self._give_up(reason)
                wanted *= 2  # a long value is parsed a few times only
            except ValueError as error:
                return self._give_up(str(error))
        item: Value | Unreadable = Value(self._line, value)
        if bad := _ESCAPED_BYTE.search(self._text, self._at, end):
            item = self._unreadable(f"not UTF-8: byte 0x{ord(bad.group()) - 0xDC00:02X}")
        self._advance(end)
        return item

    def _unreadable(self, reason: str) -> Unreadable:
        """The value at the present place as one that cannot be read."""
        beginning = self._text[self._at : self._at + EXCERPT_CHARS]
        return Unreadable(self._line, reason, excerpt(beginning))

    def _next_scalar(self) -> Unreadable:
        line, beginning = self._line, ""
        while True:
            match = _SCALAR.match(self._text, self._at)
            assert match is not None
            beginning = (beginning + match.group())[:EXCERPT_CHARS]
            self._advance(match.end())
            if self._at < len(self._text) or not self._fill():
                break
        if self._at < len(self._text) and self._text[self._at] == "}":
            beginning += "}"
            self._advance(self._at + 1)
        return Unreadable(line, "not a JSON object", excerpt(beginning))

    def _give_up(self, reason: str) -> Unreadable:
        """Leave a damaged object for the next one that starts a line as it did."""
        item, indent, start = self._unreadable(reason), self._indent or 0, self._at + 1
        while (found := next_start(self._text, start, indent)) is None:
            self._advance(max(start, len(self._text) - _MAX_INDENT))
            if not self._fill():
                self._advance(len(self._text))
                return item
            start = 0
        self._advance(found)
        self._indent = indent
        return item


class Line(NamedTuple):
    """One line without its line feed; ``cut`` where it was longer than allowed, not ``ended`` where
    the stream stopped before a line feed."""

    number: int
    data: bytes
    cut: bool = False
    ended: bool = True


def lines(chunks: Iterable[bytes], *, max_bytes: int = MAX_LINE_BYTES) -> Iterator[Line]:
    """The lines of a stream, split at line feeds only; numbers start at 1.

    A line longer than ``max_bytes`` comes with its first ``max_bytes`` and ``cut=True``. Where the
    stream breaks, the unfinished last line is handed out before ``StreamBreak`` is raised.
    """
    number, pending, size, cut = 1, [], 0, False
    broken: StreamBreak | None = None
    source = iter(chunks)
    while True:
        try:
            chunk = next(source)
        except StopIteration:
            break
        except StreamBreak as error:
            broken = error
            break
        first, *others = chunk.split(b"\n")
        for piece in others:
            pending.append(first)
            data = b"".join(pending)
            yield Line(number, data[:max_bytes], cut or len(data) > max_bytes)
            number, pending, size, cut = number + 1, [], 0, False
            first = piece
        if first and not cut:
            pending.append(first)
            size += len(first)
            cut = size > max_bytes
    if pending:
        yield Line(number, b"".join(pending)[:max_bytes], cut, ended=False)
    if broken is not None:
        raise broken
