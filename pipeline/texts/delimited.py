"""Files of lines: CSV and TSV, with a header or without, and plain lines.

Of a file without a header the columns have names from outside (``Layout.columns``), or are their
numbers, counted from 1: where ``"6"`` is wanted, no column is called so, and the first row does not
look like a header.
"""

from __future__ import annotations

import csv
import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pipeline.errors import CorpusError
from pipeline.texts.blocks import Blocks, RowBlock, Wanted, missing_column, text_lines
from pipeline.texts.framing import excerpt, is_json_like, too_long
from pipeline.texts.timestamps import parse_time
from pipeline.texts.usual import USUAL, plain

MAX_FIELD_CHARS = 1 << 24
"""A longer CSV field means a quote that is never closed."""
DELIMITERS = ",;\t|"
_SNIFF_CHARS = 1 << 20
_SNIFF_LINES = 500
_QUOTED_FIELD = re.compile(r'(?:(?<=\t)|^)"(?:[^"]|"")*"(?=\t|\r?\n|$)')
_HIDDEN_CR = "\udc0d"  # in no text: lines are strict UTF-8
_SEPARATOR = re.compile(r"sep=(.)", re.I)
"""A line before the header in which Excel says the delimiter."""
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?")
_LONG_NAME = 60
_SHOWN_CHARS = 24
_SHOWN_FIELDS = 12
_COLUMN_NUMBER = re.compile(r"[1-9]\d{0,3}", re.ASCII)
_OF_POSTS = re.compile(r"https?://|@\w+\b")

csv.field_size_limit(MAX_FIELD_CHARS)


class _Record(Iterator[str]):
    """Lines for ``csv.reader``, which gives up a record that goes over too many of them.

    Anyone of its lines and fields may be short, so that neither limit ends it.
    """

    def __init__(self, source: Iterator[str], max_chars: int) -> None:
        self._source = source
        self._max_chars = max_chars
        self._lines: list[str] = []
        self._again: deque[str] = deque()
        self.start = 1
        """Number of the record's first line."""
        self.num_chars = 0
        """Of the record so far."""
        self.hides_cr = False
        """Whether carriage returns within its lines are hidden from ``csv.reader``, which takes
        them for line ends."""

    def begin(self) -> None:
        """The next line starts a record."""
        self.start += len(self._lines)
        self._lines = []
        self.num_chars = 0
        self.hides_cr = False

    def give_back(self) -> None:
        """The record cannot be read: its lines but the first are records of their own.

        A quote that is never closed takes all lines up to the end, or to the limit.
        """
        self._again.extendleft(reversed(self._lines[1:]))
        del self._lines[1:]

    def __next__(self) -> str:
        if self.num_chars > self._max_chars:
            raise csv.Error(too_long(self._max_chars))
        line = self._again.popleft() if self._again else next(self._source)
        self._lines.append(line)
        self.num_chars += len(line)
        return self._without_cr(line) if "\r" in line else line

    def _without_cr(self, line: str) -> str:
        body = line.rstrip("\r\n")
        if "\r" not in body:
            return line
        self.hides_cr = True
        return body.replace("\r", _HIDDEN_CR) + line[len(body) :]


def _read_delimited(
    path: Path, wanted: Wanted, *, delimiter: str, quoting: bool
) -> Iterator[RowBlock]:
    # The csv module, not Arrow's reader: texts hold quotes, line breaks and stray delimiters, and
    # its records carry the line number that an error message needs.
    has_header = not wanted.layout.columns and not all(map(str.isdecimal, wanted.columns))
    record = _Record(text_lines(path, wanted, header=has_header), wanted.max_line_bytes)
    reader = csv.reader(
        record,
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE,
        strict=True,
    )
    given = list(wanted.layout.columns)
    names, named = given, f"`columns` names {len(given)}"
    places: list[int] = []
    header: list[str] = []
    num_fields = 0
    rows = Blocks(wanted)
    while True:
        record.begin()
        start = record.start
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            record.give_back()
            reason = f"{error}; a quote inside a quoted field is written twice"
            wanted.on_bad(start, f"the row that starts here cannot be read: {reason}", "")
            continue
        if not row or (not places and _SEPARATOR.fullmatch(delimiter.join(row))):
            continue
        if row == header and len(header) > 1:  # of the second of two files in one
            wanted.on_bad(start, "is the header again", excerpt(delimiter.join(row)))
            continue
        if not places:
            is_header = not given and not _is_numbered(wanted.columns, row)
            if is_header:
                names, named = [name.strip() for name in row], f"the header has {len(row)}"
            elif not given:
                names = [str(number) for number in range(1, len(row) + 1)]
                named = f"line {start} has {len(row)}"
            found = _Header(start, given=bool(given), there=is_header)
            places = _places(path, wanted.columns, names, row, found)
            num_fields = len(names)
            if is_header:
                header = row
                continue
        if record.hides_cr:
            row = [value.replace(_HIDDEN_CR, "\r") for value in row]
        if len(row) != num_fields or (record.hides_cr and num_fields == 1):
            reason = _misfit(row, num_fields, delimiter, named=named, cr=record.hides_cr)
            wanted.on_bad(start, reason, excerpt(delimiter.join(row)))
            continue
        if rows.add([row[at] for at in places], start, record.num_chars):
            yield from rows.block()
    yield from rows.block()


@dataclass(frozen=True)
class _Header:
    """Where the names of columns come from: a file's first row, at a line; else the caller, or
    numbers."""

    line: int
    given: bool
    there: bool


def _places(
    path: Path,
    columns: Sequence[str],
    names: Sequence[str],
    row: Sequence[str],
    header: _Header,
) -> list[int]:
    """Where the wanted columns stand, once the first row is known.

    Raises:
        CorpusError: a column is not there, the first row is no header, or it is one though the
            names are given.
    """
    if header.given and [name.strip().casefold() for name in row] == [
        one.casefold() for one in names
    ]:
        raise CorpusError(
            f"{path}: line {header.line}: is a header with the names that `columns` gives; leave"
            " columns out"
        )
    if any(_HIDDEN_CR in name for name in names):
        raise CorpusError(
            f"{path}: line {header.line}: the header holds a carriage return, so lines end in"
            " different ways; save the file with one kind of line end"
        )
    for column in columns:
        if column not in names:
            is_data = header.there and looks_like_data(row)
            remedy = ""
            if is_data:
                remedy = _without_header(row, header.line)
            elif header.there and (number := _number(column)) and number <= len(row):
                remedy = (
                    f"line {header.line} looks like a header, and its column {column} is called"
                    f" {_short(names[number - 1])!r}: give that; if it is a row of data, set"
                    f" columns = [...] with the names of its {len(row)} columns"
                )
            elif header.there and not any(plain(name) in _USUAL for name in names):
                remedy = (
                    f"if line {header.line} is no header but a row of data, name columns by number,"
                    f" from 1, as --text {len(row)}"
                )
            raise missing_column(path, column, map(_short, names), remedy=remedy, is_data=is_data)
        if names.count(column) > 1:
            raise CorpusError(
                f"{path}: line {header.line}: {names.count(column)} columns are called {column!r};"
                " give each another name"
            )
    return [names.index(column) for column in columns]


def _number(column: str) -> int | None:
    """The number that a column is wanted by; None for a name."""
    return int(column) if _COLUMN_NUMBER.fullmatch(column) else None


def _is_numbered(columns: Sequence[str], row: Sequence[str]) -> bool:
    """Whether columns are wanted by number, and a first row is no header."""
    names = [name.strip() for name in row]
    asked = any(_number(one) is not None and one not in names for one in columns)
    return asked and not _looks_like_header(names)


def _looks_like_header(names: Sequence[str]) -> bool:
    """Whether a first row holds names: of a text, or others where none is data, or single words."""
    if any(plain(name) in _TEXT for name in names):
        return True
    if looks_like_data(names):
        return False
    return any(plain(name) in _USUAL for name in names) or not any(" " in name for name in names)


_TEXT = {plain(name) for name in USUAL["text"]}
_USUAL = {plain(name) for names in USUAL.values() for name in names}


def looks_like_data(row: Sequence[str]) -> bool:
    """Whether a first row holds numbers, times or texts, rather than names."""
    return any(
        _NUMBER.fullmatch(field)
        or len(field) > _LONG_NAME
        or _OF_POSTS.match(field)
        or parse_time(field) is not None
        for field in map(str.strip, row)
    )


def _without_header(row: Sequence[str], start: int) -> str:
    """What to do about a file without a header: its columns by number, with what line 1 holds."""
    fields = [field.strip() for field in row]
    shown = ", ".join(
        f"{number} {field[:_SHOWN_CHARS]!r}{'…' * (len(field) > _SHOWN_CHARS)}"
        for number, field in enumerate(fields[:_SHOWN_FIELDS], 1)
    )
    more = f" and {len(row) - _SHOWN_FIELDS} more" * (len(row) > _SHOWN_FIELDS)
    numbers = {number: field for number, field in enumerate(fields, 1) if _NUMBER.fullmatch(field)}
    times = [n for n, field in enumerate(fields, 1) if n not in numbers and _is_time(field)]
    texts = {n: f for n, f in enumerate(fields, 1) if n not in numbers and n not in times}
    text = max(texts, key=lambda number: len(texts[number]), default=len(row))
    guessed = f"--text {text}"
    if longest := max(numbers, key=lambda number: len(numbers[number]), default=0):
        guessed += f" --id {longest}" * (len(numbers[longest]) > 5)
    guessed += f" --time {times[0]}" if times else ""
    return (
        f"line {start} looks like a row of data: of a file without a header name columns by number,"
        f' from 1, as {guessed} (in a configuration text = "{text}"), or set columns = [...]'
        f" with the names of its {len(row)} columns; line {start} holds {shown}{more}"
    )


def _is_time(field: str) -> bool:
    return parse_time(field) is not None


def _short(name: str) -> str:
    return name if len(name) <= _LONG_NAME else f"{name[:_LONG_NAME]}…"


def _misfit(row: Sequence[str], expected: int, delimiter: str, *, named: str, cr: bool) -> str:
    """Why a row is none of its table's."""
    if len(row) == expected:
        return (
            "holds a carriage return, which may be text or the end of a row; write one kind of"
            " line end, or quote the text"
        )
    remedy = (
        "it holds a carriage return, which is no line end in this file: write one kind of line end"
        if cr
        else f"quote a field that contains the delimiter {delimiter!r}, or set delimiter if it is"
        " another one"
    )
    return f"wrong number of fields: {len(row)}, {named}; {remedy}"


def read_csv(path: Path, wanted: Wanted) -> Iterator[RowBlock]:
    """Fields between commas, semicolons, tabs or bars: the first of these that the header has, or,
    without a header, the one that makes as many fields as there are names."""
    delimiter = wanted.layout.delimiter or _delimiter(path, wanted)
    return _read_delimited(path, wanted, delimiter=delimiter, quoting=True)


def _delimiter(path: Path, wanted: Wanted) -> str:
    """What stands between the fields of a file.

    Raises:
        CorpusError: it has no header, and its rows do not tell.
    """
    rest = text_lines(path, wanted.quietly())
    first = next(rest, "")
    if (said := _SEPARATOR.fullmatch(first.rstrip("\r\n"))) is not None:
        return said.group(1)
    found = [one for one in DELIMITERS if one in first] or [","]
    if not (count := len(wanted.layout.columns)):
        fields = _fields(first, found[0])
        numbers = list(filter(None, map(_number, wanted.columns)))
        if len(found) == 1 or not (numbers or looks_like_data(fields)):
            return found[0]
        return _steadiest([first, *_beginning(rest)], found, max(numbers, default=2))
    lines = [first.replace("\r", ""), *_beginning(rest)]
    num_fitting = {one: _num_rows(lines, one, count) for one in found}
    most = max(num_fitting.values())
    best = [one for one in found if num_fitting[one] == most]
    if most and len(best) > 1:
        raise CorpusError(
            f"{path}: {' and '.join(map(repr, best))} both part its rows into the {count} fields"
            f" that `columns` names; set delimiter, as in delimiter = {json.dumps(best[0])}"
        )
    return best[0]


def _beginning(lines: Iterator[str]) -> Iterator[str]:
    num_chars = 0
    for line in islice(lines, _SNIFF_LINES - 1):
        if (num_chars := num_chars + len(line)) > _SNIFF_CHARS:
            return
        yield line.replace("\r", "")


def _fields(line: str, delimiter: str) -> list[str]:
    """The fields of a first line, as far as it can be read by itself."""
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _steadiest(lines: Sequence[str], found: Sequence[str], at_least: int) -> str:
    """The delimiter that parts most rows of a file without a header into the first one's number of
    fields, of which there are so many at least."""
    counts = {one: len(_fields(lines[0], one)) for one in found}
    return max(
        found,
        key=lambda one: _num_rows(lines, one, counts[one]) if counts[one] >= at_least else -1,
    )


def _num_rows(lines: Sequence[str], delimiter: str, num_fields: int) -> int:
    """How many rows of some lines have so many fields."""
    num_rows, rows = 0, csv.reader(lines, delimiter=delimiter)
    try:
        for row in rows:
            num_rows += len(row) == num_fields
    except csv.Error:  # told where the rows are read
        pass
    return num_rows


def read_tsv(path: Path, wanted: Wanted) -> Iterator[RowBlock]:
    """Fields between tabs; quotes wrap fields or are text, as :func:`_is_quoted_tsv` tells."""
    quoting = _is_quoted_tsv(path, wanted)
    return _read_delimited(path, wanted, delimiter="\t", quoting=quoting)


def _is_quoted_tsv(path: Path, wanted: Wanted) -> bool:
    """Whether quotes in a TSV wrap fields (as csv writers do) or belong to the text (as in tweets).

    They wrap fields if all quotes of the first megabyte do; a single stray one says they are text.
    """
    raw: list[str] = []

    def recorded() -> Iterator[str]:
        for line in text_lines(path, wanted.quietly()):
            raw.append(line)
            yield line

    record = _Record(recorded(), wanted.max_line_bytes)
    reader = csv.reader(record, delimiter="\t", strict=True)
    widths: set[int] = set()
    any_quoted = False
    num_chars = 0
    try:
        for row in reader:
            text = "".join(raw)
            raw.clear()
            record.begin()
            num_chars += len(text)
            if row:
                widths.add(len(row))
            unquoted = _QUOTED_FIELD.sub("", text)
            any_quoted = any_quoted or len(unquoted) < len(text)
            if '"' in unquoted or len(widths) > 1:
                return False
            if num_chars > _SNIFF_CHARS:
                break
    except csv.Error:
        return False
    return any_quoted


def json_like(text: str) -> str | None:
    """What a text is that is no text but JSON, or Python's way of writing it; None for others."""
    if (
        "{" not in text
        and "[" not in text
        and '"' not in text[:_FIRST_CHARS]
        and text.lstrip()[:1] not in ("}", "]", "'")
    ):
        return None
    return is_json_like(text[:_LOOKED_AT].encode("utf-8", "surrogatepass"))


_FIRST_CHARS = 16
_LOOKED_AT = 1 << 16


def not_a_text(what: str) -> str:
    """Why a row whose text is JSON is not scored."""
    return f"no text but {what}; read it as what it is (--format auto, tweets or jsonl)"


def read_lines(path: Path, wanted: Wanted) -> Iterator[RowBlock]:
    """A text per line."""
    if len(wanted.columns) > 1:
        others = list(wanted.columns[1:])
        raise CorpusError(f"{path}: plain lines hold texts only, no columns {others}")
    rows = Blocks(wanted)
    for number, line in enumerate(text_lines(path, wanted), 1):
        text = line.rstrip("\r\n")
        if (what := json_like(text)) is not None:
            wanted.on_bad(number, not_a_text(what), excerpt(text))
        elif rows.add([text], number, len(line)):
            yield from rows.block()
    yield from rows.block()
