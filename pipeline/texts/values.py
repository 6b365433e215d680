"""What is read of a stream of bytes: its lines, JSON values, and what could not be read.

``lines(chunks)`` cuts a stream at its line feeds, or at another mark, whatever stands between, and
``loads`` reads one JSON value. ``excerpt`` and ``shown`` say in a line what something is.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from pipeline.config import ScoreConfig
from pipeline.texts.containers import StreamBreak
from pipeline.texts.normalise import join_surrogates

MAX_LINE_BYTES: int = ScoreConfig.model_fields["max_line_bytes"].default
"""Of a line, or of a JSON value that goes over several."""
EXCERPT_CHARS = 200


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


class Line(NamedTuple):
    """One line without its line feed; ``cut`` where it was longer than allowed, not ``ended`` where
    the stream stopped before a line feed."""

    number: int
    data: bytes
    cut: bool = False
    ended: bool = True


def lines(
    chunks: Iterable[bytes], *, max_bytes: int = MAX_LINE_BYTES, end: bytes = b"\n"
) -> Iterator[Line]:
    """The lines of a stream, split at ``end`` only; numbers start at 1.

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
        first, *others = chunk.split(end)
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
