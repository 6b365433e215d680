"""Records with a count of bytes before each, as streams of ``delimited=length`` give them.

    232
    {"created_at": …}
                            a blank line, which keeps the connection alive
    245
    …

A count that is wrong, or is one of characters, costs nothing where the record behind it is whole;
behind a damaged record reading goes on at the next count that a record follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pipeline.texts.containers import StreamBreak
from pipeline.texts.scanning import CutOff, read_object
from pipeline.texts.values import EXCERPT_CHARS, Unreadable, Value, excerpt, loads, too_long

COUNT = re.compile(rb"(\d{1,12})[ \t]*\r?\n")
_NEXT_COUNT = re.compile(rb"\s*+" + COUNT.pattern)
_NEXT = re.compile(rb"[\n}\]](\d{1,12}[ \t]*\r?\n\s{0,16}[{\[])")
_BLANKS = re.compile(rb"\s*+")
_LOOKED_AT = 1 << 12  # bytes, of a record whose count is wrong, and some times its count
_KEPT_BYTES = 64  # in which a count may be cut


class _Buffer:
    """The bytes of a stream around the present place ``at``, and the number of its line."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._ended = False
        self.data, self.at, self.line = b"", 0, 1
        self.broken: StreamBreak | None = None

    def has(self, num_bytes: int) -> bool:
        """Whether there are so many bytes from here on; reads them."""
        size = len(self.data) - self.at
        if size >= num_bytes:
            return True
        parts, self.at = [self.data[self.at :]], 0
        while size < num_bytes and not self._ended:
            try:
                parts.append(next(self._chunks))
                size += len(parts[-1])
            except StopIteration:
                self._ended = True
            except StreamBreak as error:
                self._ended, self.broken = True, error
        self.data = b"".join(parts)
        return size >= num_bytes

    def go(self, to: int) -> None:
        """Go to a place of ``data``."""
        self.line += self.data.count(b"\n", self.at, to)
        self.at = to

    def skip_blanks(self) -> bool:
        """Whether anything comes behind the blanks here."""
        while True:
            blanks = _BLANKS.match(self.data, self.at)
            assert blanks is not None
            self.go(blanks.end())
            if self.at < len(self.data):
                return True
            if not self.has(1):
                return False

    def skip_record(self) -> None:
        """Go to the next count that a record follows."""
        while (found := _NEXT.search(self.data, self.at)) is None:
            self.go(max(self.at, len(self.data) - _KEPT_BYTES))
            if not self.has(_KEPT_BYTES + 1):
                self.go(len(self.data))
                return
        self.go(found.start(1))


def from_counted(chunks: Iterator[bytes], max_bytes: int) -> Iterator[Value | Unreadable]:
    """The records of a stream that has a count of bytes before each."""
    buffer = _Buffer(chunks)
    while True:
        yield from _whole_records(buffer, max_bytes)
        if not buffer.skip_blanks():
            break
        buffer.has(_KEPT_BYTES)
        line, behind = buffer.line, 0
        try:
            count = COUNT.match(buffer.data, buffer.at)
            if count is None:
                raise ValueError("no count of bytes before it")
            behind = count.end() - buffer.at
            value, size = _record(buffer, behind, int(count[1]), max_bytes)
        except ValueError as error:
            start = buffer.at + behind
            beginning = buffer.data[start : start + 4 * EXCERPT_CHARS]
            buffer.skip_record()
            broken = buffer.broken if buffer.at == len(buffer.data) else None
            if broken is not None:
                buffer.broken = None
            bad = str(broken or error)
            yield Unreadable(
                line + (behind > 0), bad, excerpt(beginning), breaks=broken is not None
            )
            continue
        buffer.go(buffer.at + behind + size)
        for one in value if isinstance(value, list) else [value]:
            if one is not None:
                yield Value(line + 1, one)
    if buffer.broken is not None:
        yield Unreadable(buffer.line, str(buffer.broken), "", breaks=True)


def _whole_records(buffer: _Buffer, max_bytes: int) -> Iterator[Value]:
    """The objects from here on that are in the buffer as their counts say: nearly all."""
    data, at, line = buffer.data, buffer.at, buffer.line
    while (count := _NEXT_COUNT.match(data, at)) is not None:
        start, size = count.end(), int(count[1])
        if size > max_bytes or start + size > len(data):
            break
        try:
            value = loads(data[start : start + size])
        except ValueError:
            break
        if not isinstance(value, dict):
            break
        line += data.count(b"\n", at, start)
        yield Value(line, value)
        line += data.count(b"\n", start, start + size)
        at = start + size
        buffer.at, buffer.line = at, line


def _record(buffer: _Buffer, behind: int, size: int, max_bytes: int) -> tuple[Any, int]:
    """The value that a count stands before, and how many bytes it has.

    Raises:
        ValueError: there is none of that size, and no object.
    """
    if size > max_bytes:
        if (found := _object(buffer, behind, _LOOKED_AT)) is not None:
            return found
        raise ValueError(too_long(max_bytes))
    whole = buffer.has(behind + size)
    start = buffer.at + behind
    data = buffer.data[start : start + size]
    try:
        value = loads(data) if data.strip() else None
        if value is not None or size > 1:
            return value, size
        raise ValueError("not JSON: Expecting value")
    except ValueError as error:
        reach = min(max(4 * size, _LOOKED_AT), max_bytes)
        if (found := _object(buffer, behind, reach)) is not None:
            return found
        if not whole:
            raise ValueError("not JSON: the file ends within a value") from None
        raise ValueError(f"{error}, or its count of bytes, {size}, is wrong") from None


def _object(buffer: _Buffer, behind: int, reach: int) -> tuple[Any, int] | None:
    """The object here, if one is whole in so many bytes, and how many it has."""
    buffer.has(behind + reach)
    start = buffer.at + behind
    text = buffer.data[start : start + reach].decode("utf-8", "surrogateescape")
    if not text.lstrip().startswith("{"):
        return None
    try:
        _, end = read_object(text, text.index("{"))
        data = text[:end].encode("utf-8", "surrogateescape")
        return loads(data), len(data)
    except (CutOff, ValueError):
        return None
