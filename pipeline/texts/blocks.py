"""What every reader of files takes and gives: the wanted columns in, blocks of strings out.

A reader is a function of a path and a :class:`Wanted` that yields :class:`RowBlock`s of strings;
``pipeline.texts.formats`` lists them. What is wrong with a single row goes to ``on_bad``, which
raises or takes note; the reader then goes on with the next row. What is wrong with the whole file
is a ``CorpusError``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from pipeline.errors import CorpusError, did_you_mean
from pipeline.texts.charsets import as_utf8, stray_byte
from pipeline.texts.containers import Member, StreamBreak, members
from pipeline.texts.framing import MAX_LINE_BYTES, Line, excerpt, lines, too_long

OnBad = Callable[[int, str, str], None]
"""Told of a row that cannot be read: line, reason, the beginning of the row."""
BLOCK_CHARS = 1 << 26
"""A block of rows ends early where its values are so long together."""
_EXACT_FLOAT = 1 << 53
_EXACT = {pa.float16(): 1 << 11, pa.float32(): 1 << 24}
"""Whole numbers up to which narrower floats hold all of them."""


@dataclass(frozen=True)
class RowBlock:
    """Some rows of a file: the wanted columns as strings (None for null), and their lines."""

    columns: dict[str, list[str | None]]
    lines: list[int]


@dataclass(frozen=True)
class Layout:
    """What a file does not say of itself."""

    encoding: str | None = None
    """A Python text codec; None: UTF-8, or as the byte order mark says."""
    columns: tuple[str, ...] = ()
    """Names for the columns of a CSV or TSV file without a header."""
    delimiter: str | None = None
    """Between the fields of a CSV file; None: as its first rows tell."""


@dataclass(frozen=True)
class Wanted:
    """What is read of a file; the column of the text comes first."""

    columns: tuple[str, ...]
    block_rows: int
    on_bad: OnBad
    max_line_bytes: int = MAX_LINE_BYTES
    layout: Layout = Layout()

    def quietly(self) -> Wanted:
        """For a look at a file before it is read: nobody is told of bad rows twice."""
        return replace(self, on_bad=lambda *_: None)


class Blocks:
    """Rows on their way to a block: of so many rows, or fewer where they are long."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._rows: list[Sequence[str | None]] = []
        self._lines: list[int] = []
        self._num_chars = 0

    def add(self, values: Sequence[str | None], line: int, num_chars: int) -> bool:
        """Take the wanted values of a row, of so many characters; whether that makes a block."""
        self._rows.append(values)
        self._lines.append(line)
        self._num_chars += num_chars
        return len(self._rows) >= self._wanted.block_rows or self._num_chars > BLOCK_CHARS

    def block(self) -> Iterator[RowBlock]:
        """The rows since the last block as one, if there are any."""
        if self._rows:
            columns = map(list, zip(*self._rows, strict=True))
            yield RowBlock(dict(zip(self._wanted.columns, columns, strict=True)), self._lines)
            self._rows, self._lines, self._num_chars = [], [], 0


class MissingColumn(CorpusError):
    """A file lacks ``column``; ``columns`` are those that it has, ``is_data`` where the first row
    looks like one of data, not like their names."""

    def __init__(
        self, message: str, column: str, columns: Sequence[str], *, is_data: bool = False
    ) -> None:
        super().__init__(message)
        self.column, self.columns, self.is_data = column, tuple(columns), is_data


def missing_column(
    path: str | Path,
    column: str,
    found: Iterable[str],
    *,
    remedy: str = "",
    is_data: bool = False,
) -> MissingColumn:
    """The error for a column that a file lacks; names those it has and the closest."""
    names = list(dict.fromkeys(found))
    nested = next((name for name in names if name.endswith(f".{column}")), None)
    hint = f"did you mean {nested!r}?" if nested else did_you_mean(column, names)
    shown = ", ".join(repr(name) for name in names[:30])
    said = f"{hint and f'; {hint}'}; the columns are {shown or 'none'}" if not is_data else ""
    return MissingColumn(
        f"{path}: no column {column!r}{said}{remedy and f'; {remedy}'}",
        column,
        names,
        is_data=is_data,
    )


def num_chars(values: Sequence[str | None]) -> int:
    """How long values are together."""
    return sum(len(value) for value in values if value)


def as_text(value: Any) -> str | None:
    """One value as a string: ``1`` for 1 and 1.0, ``true`` for True, None for null and NaN."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() and abs(value) < _EXACT_FLOAT else repr(value)
    if isinstance(value, dict | list):
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return str(value)


def as_texts(column: pa.ChunkedArray | pa.Array) -> list[str | None]:
    """A column of any Arrow type as strings, each value as by ``as_text``."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return as_texts(column.cast(kind.value_type))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        column = column.cast(pa.string())  # strings of writers that do not mark them as UTF-8
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return [None if one is None else one.isoformat() for one in column.to_pylist()]
    if (exact := _EXACT.get(kind)) is not None:
        return [_narrow(one, exact) for one in column.to_pylist()]
    return [as_text(value) for value in column.to_pylist()]


def _narrow(value: float | None, exact: int) -> str | None:
    """A float of fewer digits, which are seen to be lost: 16777218.0 is ``1.6777218e+07``."""
    if value is None or not math.isfinite(value) or abs(value) < exact:
        return as_text(value)
    return str(np.format_float_scientific(np.float32(value)))


def strict(path: str | Path) -> OnBad:
    """Raise a ``CorpusError`` at the first row that cannot be read."""

    def on_bad(line: int, reason: str, excerpt: str) -> NoReturn:
        raise CorpusError(f"{path}: line {line}: {reason}")

    return on_bad


def text_lines(path: Path, wanted: Wanted, *, header: bool = False) -> Iterator[str]:
    """The lines of an unpacked file as text, line feeds kept, without byte order mark.

    A line that cannot be read is empty, which keeps the count. With ``header`` every file of a tar
    begins with the names of its columns, of which those of the first come out.

    Raises:
        CorpusError: files of a tar have different headers.
    """
    first = ""
    for member in members(path):
        own = _member_lines(member, wanted)
        line = next(own, "") if header else ""
        if first and line and line.rstrip() != first.rstrip():
            raise CorpusError(
                f"{path}: {member.name} has other columns than the file before it; unpack it, and"
                " name the files in it"
            )
        if line:
            yield "\n" if first else line
            first = first or line
        if (yield from own):
            return


def _member_lines(member: Member, wanted: Wanted) -> Generator[str, None, bool]:
    """The lines of one file; at last whether it breaks off."""
    last, wide = Line(1, b""), False
    try:
        chunks = as_utf8(member.chunks, wanted.layout.encoding)
        for line in lines(chunks, max_bytes=wanted.max_line_bytes):
            last = line
            _, data, cut, ended = line
            if ended:
                try:
                    text = _line_text(line, wide, wanted) if cut else data.decode("utf-8")
                except UnicodeDecodeError:
                    text = _line_text(line, wide, wanted)
                yield text + "\n"
                wide = wide or not data.isascii()
    except StreamBreak as error:
        wanted.on_bad(last.number, f"{error}; {error.remedy}", excerpt(last.data))
        return True
    if not last.ended:
        yield _line_text(last, wide, wanted)
    return False


def _line_text(line: Line, wide: bool, wanted: Wanted) -> str:
    data = line.data
    if line.cut:
        wanted.on_bad(line.number, too_long(wanted.max_line_bytes), excerpt(data))
        return ""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = stray_byte(data, error, encoding=wanted.layout.encoding, wide=wide)
        wanted.on_bad(line.number, reason, excerpt(data))
        return ""
