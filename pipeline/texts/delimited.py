"""Files of lines: CSV and TSV, with a header or without, and plain lines."""

from __future__ import annotations

import csv
import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.errors import CorpusError
from pipeline.texts.blocks import Blocks, RowBlock, Wanted, missing_column, text_lines
from pipeline.texts.framing import excerpt, too_long

MAX_FIELD_CHARS = 1 << 24
"""A longer CSV field means a quote that is never closed."""
DELIMITERS = ",;\t|"
_SNIFF_CHARS = 1 << 20
_SNIFF_LINES = 500
_QUOTED_FIELD = re.compile(r'(?:(?<=\t)|^)"(?:[^"]|"")*"(?=\t|\r?\n|$)')
_HIDDEN_CR = "\udc0d"  # in no text: lines are strict UTF-8
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?")
_LONG_NAME = 60

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
    record = _Record(text_lines(path, wanted), wanted.max_line_bytes)
    reader = csv.reader(
        record,
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE,
        strict=True,
    )
    given = list(wanted.layout.columns)
    names = given
    places: list[int] = []
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
        if not row:
            continue
        if not places:
            if not given:
                names = [name.strip() for name in row]
            places = _places(path, wanted.columns, names, row, start=start, given=bool(given))
            num_fields = len(names)
            if not given:
                continue
        if record.hides_cr:
            row = [value.replace(_HIDDEN_CR, "\r") for value in row]
        if len(row) != num_fields or (record.hides_cr and num_fields == 1):
            reason = _misfit(row, names, delimiter, given=bool(given), cr=record.hides_cr)
            wanted.on_bad(start, reason, excerpt(delimiter.join(row)))
            continue
        if rows.add([row[at] for at in places], start, record.num_chars):
            yield from rows.block()
    yield from rows.block()


def _places(
    path: Path,
    columns: Sequence[str],
    names: Sequence[str],
    row: Sequence[str],
    *,
    start: int,
    given: bool,
) -> list[int]:
    """Where the wanted columns stand, once the first row is known.

    Raises:
        CorpusError: a column is not there, the first row is no header, or it is one though the
            names are given.
    """
    if given and [name.strip().casefold() for name in row] == [one.casefold() for one in names]:
        raise CorpusError(
            f"{path}: line {start}: is a header with the names that `columns` gives; leave columns"
            " out"
        )
    if any(_HIDDEN_CR in name for name in names):
        raise CorpusError(
            f"{path}: line {start}: the header holds a carriage return, so lines end in different"
            " ways; save the file with one kind of line end"
        )
    for column in columns:
        if column not in names:
            remedy = ""
            if not given and _looks_like_data(row):
                remedy = (
                    f"line {start} looks like a row of data: for a file without a header set"
                    f" columns = [...] with the names of its {len(row)} columns"
                )
            if not given and re.fullmatch(r"sep=.?", names[0]):
                remedy = f"line {start} is Excel's, not the header; delete it"
            raise missing_column(path, column, map(_short, names), remedy=remedy)
        if names.count(column) > 1:
            raise CorpusError(
                f"{path}: line {start}: {names.count(column)} columns are called {column!r}; give"
                " each another name"
            )
    return [names.index(column) for column in columns]


def _short(name: str) -> str:
    return name if len(name) <= _LONG_NAME else f"{name[:_LONG_NAME]}…"


def _looks_like_data(row: Sequence[str]) -> bool:
    """Whether a first row holds numbers or texts, rather than names."""
    return any(_NUMBER.fullmatch(one.strip()) or len(one) > _LONG_NAME for one in row)


def _misfit(
    row: Sequence[str], names: Sequence[str], delimiter: str, *, given: bool, cr: bool
) -> str:
    """Why a row is none of its table's."""
    if len(row) == len(names):
        return (
            "holds a carriage return, which may be text or the end of a row; write one kind of"
            " line end, or quote the text"
        )
    expected = f"`columns` names {len(names)}" if given else f"the header has {len(names)}"
    remedy = (
        "it holds a carriage return, which is no line end in this file: write one kind of line end"
        if cr
        else f"quote a field that contains the delimiter {delimiter!r}, or set delimiter if it is"
        " another one"
    )
    return f"wrong number of fields: {len(row)}, {expected}; {remedy}"


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
    found = [one for one in DELIMITERS if one in first] or [","]
    if not (count := len(wanted.layout.columns)):
        return found[0]
    lines, num_chars = [first.replace("\r", "")], len(first)
    for line in rest:
        if len(lines) == _SNIFF_LINES or (num_chars := num_chars + len(line)) > _SNIFF_CHARS:
            break
        lines.append(line.replace("\r", ""))
    num_fitting = {one: _num_rows(lines, one, count) for one in found}
    most = max(num_fitting.values())
    best = [one for one in found if num_fitting[one] == most]
    if most and len(best) > 1:
        raise CorpusError(
            f"{path}: {' and '.join(map(repr, best))} both part its rows into the {count} fields"
            f" that `columns` names; set delimiter, as in delimiter = {json.dumps(best[0])}"
        )
    return best[0]


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


def read_lines(path: Path, wanted: Wanted) -> Iterator[RowBlock]:
    """A text per line."""
    if len(wanted.columns) > 1:
        others = list(wanted.columns[1:])
        raise CorpusError(f"{path}: plain lines hold texts only, no columns {others}")
    rows = Blocks(wanted)
    for number, line in enumerate(text_lines(path, wanted), 1):
        if rows.add([line.rstrip("\r\n")], number, len(line)):
            yield from rows.block()
    yield from rows.block()
