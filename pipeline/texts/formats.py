"""Readers of the file formats that hold texts: one function per format, listed in ``FORMATS``.

A reader takes a path, and in a ``Wanted`` the columns, the number of rows at a time and the longest
line, and yields ``RowBlock``s of strings. What is wrong with a single row goes to ``on_bad``, which
raises or takes note; the reader then goes on with the next row. What is wrong with the whole file
is a ``CorpusError``.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import CorpusError, did_you_mean
from pipeline.texts.containers import StreamBreak, members, peek, readable, unpacked
from pipeline.texts.framing import (
    MAX_LINE_BYTES,
    Line,
    Unreadable,
    excerpt,
    json_values,
    lines,
    shown,
    too_long,
)
from pipeline.texts.normalise import join_surrogates

OnBad = Callable[[int, str, str], None]
"""Told of a row that cannot be read: line, reason, the beginning of the row."""
TEXTS_ENDING, LABELS_ENDING = "_text.txt", "_labels.txt"
MAX_FIELD_CHARS = 1 << 24
"""A longer CSV field means a quote that is never closed."""
BLOCK_CHARS = 1 << 26
"""A block of rows ends early where its values are so long together."""
_SNIFF_CHARS = 1 << 20
_QUOTED_FIELD = re.compile(r'(?:(?<=\t)|^)"(?:[^"]|"")*"(?=\t|\r?\n|$)')
_EXACT_FLOAT = 1 << 53
_SHOWN_NAMES = 1000

csv.field_size_limit(MAX_FIELD_CHARS)


@dataclass(frozen=True)
class RowBlock:
    """Some rows of a file: the wanted columns as strings (None for null), and their lines."""

    columns: dict[str, list[str | None]]
    lines: list[int]


@dataclass(frozen=True)
class Wanted:
    """What is read of a file."""

    columns: tuple[str, ...]
    block_rows: int
    on_bad: OnBad
    max_line_bytes: int = MAX_LINE_BYTES


class _Rows:
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


def missing_column(path: str | Path, column: str, found: Iterable[str]) -> CorpusError:
    """The error for a column that a file lacks; names those it has and the closest."""
    names = list(dict.fromkeys(found))
    hint = did_you_mean(column, names)
    shown = ", ".join(repr(name) for name in names[:30])
    return CorpusError(
        f"{path}: no column {column!r}{hint and f'; {hint}'}; the columns are {shown or 'none'}"
    )


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
    return [as_text(value) for value in column.to_pylist()]


def strict(path: str | Path) -> OnBad:
    """Raise a ``CorpusError`` at the first row that cannot be read."""

    def on_bad(line: int, reason: str, excerpt: str) -> NoReturn:
        raise CorpusError(f"{path}: line {line}: {reason}")

    return on_bad


def _text_lines(path: Path, wanted: Wanted) -> Iterator[str]:
    """The lines of an unpacked file as text, line feeds kept, without byte order mark.

    A line that cannot be read is empty, which keeps the count.
    """
    for member in members(path):
        last = Line(1, b"")
        try:
            for line in lines(member.chunks, max_bytes=wanted.max_line_bytes):
                last = line
                if line.ended:
                    yield _line_text(path, line, wanted) + "\n"
        except StreamBreak as error:
            wanted.on_bad(last.number, f"{error}; {error.remedy}", excerpt(last.data))
            return
        if not last.ended:
            yield _line_text(path, last, wanted)


def _line_text(path: Path, line: Line, wanted: Wanted) -> str:
    data = line.data
    if line.number == 1:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise CorpusError(f"{path}: is UTF-16; save it as UTF-8")
        data = data.removeprefix(b"\xef\xbb\xbf")
    if line.cut:
        wanted.on_bad(line.number, too_long(wanted.max_line_bytes), excerpt(data))
        return ""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = (
            f"not UTF-8: byte 0x{data[error.start]:02x} at position {error.start + 1}; "
            "convert the file to UTF-8 (for example with iconv -f latin1 -t utf-8)"
        )
        wanted.on_bad(line.number, reason, excerpt(data))
        return ""


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

    def begin(self) -> None:
        """The next line starts a record."""
        self.start += len(self._lines)
        self._lines = []
        self.num_chars = 0

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
        return line


def _read_delimited(
    path: Path, wanted: Wanted, *, delimiter: str, quoting: bool
) -> Iterator[RowBlock]:
    # The csv module, not Arrow's reader: texts hold quotes, line breaks and stray delimiters, and
    # its records carry the line number that an error message needs.
    record = _Record(_text_lines(path, wanted), wanted.max_line_bytes)
    reader = csv.reader(
        record,
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE,
        strict=True,
    )
    header: list[str] | None = None
    places: list[int] = []
    rows = _Rows(wanted)
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
        if header is None:
            header = [name.strip() for name in row]
            for column in wanted.columns:
                if column not in header:
                    raise missing_column(path, column, header)
            places = [header.index(column) for column in wanted.columns]
            continue
        if len(row) != len(header):
            reason = (
                f"wrong number of fields: {len(row)}, the header has {len(header)}; "
                f"quote a field that contains the delimiter {delimiter!r}"
            )
            wanted.on_bad(start, reason, excerpt(delimiter.join(row)))
            continue
        if rows.add([row[at] for at in places], start, record.num_chars):
            yield from rows.block()
    yield from rows.block()


def _read_csv(path: Path, wanted: Wanted) -> Iterator[RowBlock]:
    header = next(_text_lines(path, _quietly(wanted)), "")
    delimiter = next((one for one in ",;\t|" if one in header), ",")
    return _read_delimited(path, wanted, delimiter=delimiter, quoting=True)


def _quietly(wanted: Wanted) -> Wanted:
    """For a look at a file before it is read: nobody is told of bad rows twice."""
    return replace(wanted, on_bad=lambda *_: None)


def _read_tsv(path: Path, wanted: Wanted) -> Iterator[RowBlock]:
    quoting = _is_quoted_tsv(path, wanted)
    return _read_delimited(path, wanted, delimiter="\t", quoting=quoting)


def _is_quoted_tsv(path: Path, wanted: Wanted) -> bool:
    """Whether quotes in a TSV wrap fields (as csv writers do) or belong to the text (as in tweets).

    They wrap fields if all quotes of the first megabyte do; a single stray one says they are text.
    """
    raw: list[str] = []

    def recorded() -> Iterator[str]:
        for line in _text_lines(path, _quietly(wanted)):
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


def _read_jsonl(path: Path, wanted: Wanted) -> Iterator[RowBlock]:
    rows, lacking = _Rows(wanted), dict.fromkeys(wanted.columns)
    found: dict[str, None] = {}
    num_rows = 0
    for line, record in _json_records(path, wanted):
        num_rows += 1
        if num_rows <= wanted.block_rows and lacking:
            lacking = {name: None for name in lacking if name not in record}
            if len(found) < _SHOWN_NAMES:
                found.update(dict.fromkeys(record))
        if num_rows == wanted.block_rows and lacking:
            break
        try:
            values = [_joined(as_text(record.get(name))) for name in wanted.columns]
        except RecursionError:
            wanted.on_bad(line, "nested too deeply", "")
            continue
        if rows.add(values, line, _num_chars(values)):
            yield from rows.block()
    if num_rows and lacking:
        raise missing_column(path, next(iter(lacking)), found)
    yield from rows.block()


def _num_chars(values: Sequence[str | None]) -> int:
    return sum(len(value) for value in values if value)


def _joined(value: str | None) -> str | None:
    return None if value is None else join_surrogates(value)


def _json_records(path: Path, wanted: Wanted) -> Iterator[tuple[int, dict[str, Any]]]:
    for member in members(path):
        for item in json_values(member.chunks, max_bytes=wanted.max_line_bytes):
            if isinstance(item, Unreadable):
                wanted.on_bad(item.line, item.reason, item.excerpt)
            elif isinstance(item.value, dict):
                yield item.line, item.value
            else:
                beginning = shown(item.value)
                wanted.on_bad(item.line, f"not a JSON object: {beginning[:40]}", beginning)


def _read_parquet(path: Path, wanted: Wanted) -> Iterator[RowBlock]:
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
        for column in wanted.columns:
            if column not in schema.names:
                raise missing_column(path, column, schema.names)
        texts = [name for name in wanted.columns if _is_text(schema.field(name).type)]
        yield from _parquet_blocks(path, wanted, texts)
    except (pa.ArrowException, KeyError, ValueError, OverflowError) as error:
        # The others: two columns of one name, an unknown time zone, a time beyond the year 9999.
        reason = excerpt(str(error).partition("\n")[0])
        raise CorpusError(f"{path}: is not a readable Parquet file: {reason}") from None


def _parquet_blocks(path: Path, wanted: Wanted, texts: list[str]) -> Iterator[RowBlock]:
    # Values that repeat, as a dictionary page has them, stay one value each: a page of one long
    # text may stand for a million rows.
    rows, start = _Rows(wanted), 1
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        for group in range(file.num_row_groups):
            facts = file.metadata.row_group(group)
            row_bytes = max(facts.total_byte_size, 0) // max(facts.num_rows, 1) + 1
            for batch in file.iter_batches(
                batch_size=max(1, min(wanted.block_rows, BLOCK_CHARS // row_bytes)),
                row_groups=[group],
                columns=list(wanted.columns),
            ):
                columns = [_parquet_values(batch.column(name), wanted) for name in wanted.columns]
                for line, values in enumerate(zip(*columns, strict=True), start):
                    bad = next((one for one in values if isinstance(one, Unreadable)), None)
                    if bad is not None:
                        wanted.on_bad(line, bad.reason, bad.excerpt)
                        continue
                    read = [one for one in values if not isinstance(one, Unreadable)]
                    if rows.add(read, line, _num_chars(read)):
                        yield from rows.block()
                start += batch.num_rows
    yield from rows.block()


def _parquet_values(column: pa.Array, wanted: Wanted) -> list[str | Unreadable | None]:
    """A column's values as strings; what is no UTF-8, or too long, as what is wrong with it."""
    if not pa.types.is_dictionary(column.type):
        return list(as_texts(column))
    used, places = np.unique(pc.fill_null(column.indices, -1).to_numpy(), return_inverse=True)
    values = column.dictionary.take(pa.array(np.maximum(used, 0)[used >= 0]))
    known: list[str | Unreadable | None] = [None] * int((used < 0).sum())
    if _is_text(values.type):
        known += [_decoded(one, wanted) for one in values.cast(pa.large_binary()).to_pylist()]
    else:
        known += as_texts(values)
    return [known[place] for place in places]


def _decoded(value: bytes | None, wanted: Wanted) -> str | Unreadable | None:
    if value is None:
        return None
    if len(value) > wanted.max_line_bytes:
        return Unreadable(0, too_long(wanted.max_line_bytes), excerpt(value))
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        return Unreadable(0, f"not UTF-8: byte 0x{value[error.start]:02x}", excerpt(value))


def _is_text(kind: pa.DataType) -> bool:
    return any(
        test(kind)
        for test in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_binary,
            pa.types.is_large_binary,
        )
    )


def _read_lines(path: Path, wanted: Wanted) -> Iterator[RowBlock]:
    if len(wanted.columns) > 1:
        others = list(wanted.columns[1:])
        raise CorpusError(f"{path}: plain lines hold texts only, no columns {others}")
    rows = _Rows(wanted)
    for number, line in enumerate(_text_lines(path, wanted), 1):
        if rows.add([line.rstrip("\r\n")], number, len(line)):
            yield from rows.block()
    yield from rows.block()


def labels_beside(path: Path) -> Path:
    """The file of labels that belongs to a TweetEval file of texts."""
    return path.with_name(path.name.removesuffix(TEXTS_ENDING) + LABELS_ENDING)


def _read_tweeteval(path: Path, wanted: Wanted) -> Iterator[RowBlock]:
    """``*_text.txt`` with ``*_labels.txt`` (and ``mapping.txt``) beside it: columns text, label."""
    for column in wanted.columns:
        if column not in ("text", "label"):
            raise missing_column(path, column, ("text", "label"))
    labels_path = labels_beside(path)
    if not path.name.endswith(TEXTS_ENDING) or not labels_path.exists():
        raise CorpusError(
            f"{path}: not of the TweetEval layout, which is a file of texts named *{TEXTS_ENDING} "
            f"with its labels beside it in *{LABELS_ENDING}; looked for {labels_path.name}"
        )
    names = _tweeteval_mapping(path.with_name("mapping.txt"))
    texts = [line.rstrip("\r\n") for line in _all_lines(path)]
    labels = [line.strip() for line in _all_lines(labels_path)]
    if len(texts) != len(labels):
        raise CorpusError(
            f"{path}: {len(texts)} texts, but {labels_path.name} has {len(labels)} labels"
        )
    if names is not None:
        for line, label in enumerate(labels, 1):
            if label and label not in names:
                raise CorpusError(
                    f"{labels_path}: line {line}: label {label!r} is not in mapping.txt, "
                    f"which has {', '.join(names)}"
                )
        labels = [names[label] if label else "" for label in labels]
    data: dict[str, list[str]] = {"text": texts, "label": labels}
    for start in range(0, len(texts), wanted.block_rows):
        stop = min(start + wanted.block_rows, len(texts))
        yield RowBlock(
            {name: [*data[name][start:stop]] for name in wanted.columns},
            list(range(start + 1, stop + 1)),
        )


def _all_lines(path: Path) -> Iterator[str]:
    return _text_lines(path, Wanted((), 1, strict(path)))


def _tweeteval_mapping(path: Path) -> dict[str, str] | None:
    if not path.exists():
        return None
    pairs = [line.split(maxsplit=1) for line in _all_lines(path) if line.strip()]
    if not all(len(pair) == 2 for pair in pairs):
        raise CorpusError(f"{path}: every line needs a number and a name")
    return {number: name.strip() for number, name in pairs}


FORMATS: dict[str, Callable[[Path, Wanted], Iterator[RowBlock]]] = {
    "csv": _read_csv,
    "tsv": _read_tsv,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "text": _read_lines,
    "tweeteval": _read_tweeteval,
}
"""Format -> its reader."""
_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_PACKED = {".gz", ".bz2", ".xz", ".zst"}


def detect_format(path: str | Path, *, text: str | None = None) -> str:
    """The key of ``FORMATS`` that a file's name and first bytes speak for.

    A file of tab-separated columns may be called ``.txt``; with ``text`` given, only if it has that
    column, and other ``.txt`` files are plain lines of ``text``.

    Raises:
        CorpusError: no such file, or the format cannot be told.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head, _ = peek(unpacked(iter(lambda: file.read(1 << 16), b"")), 1 << 16)
    except FileNotFoundError:
        raise CorpusError(
            f"{path}: no such file; check the path (relative to the configuration)"
        ) from None
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror}") from None
    if head[:4] == b"PAR1":
        return "parquet"
    head = head.removeprefix(b"\xef\xbb\xbf")
    first = head.lstrip().partition(b"\n")[0].rstrip(b"\r")
    suffix = _suffix(path)
    if text is None and path.name.endswith(TEXTS_ENDING):
        return "tweeteval"
    if suffix == ".txt" and text is not None:
        names = [name.strip() for name in first.decode("utf-8", "replace").split("\t")]
        return "tsv" if len(names) > 1 and text in names else "text"
    if (named := _SUFFIXES.get(suffix)) is not None:
        return "tsv" if named == "csv" and b"\t" in first and b"," not in first else named
    if first[:1] in (b"{", b"["):
        return "jsonl"
    if b"\t" in first:
        return "tsv"
    if b"," in first or not first:
        return "csv"
    raise CorpusError(
        f"{path}: cannot tell the format from the name or the first line; "
        f"set format to one of {', '.join(FORMATS)}"
    )


def file_stem(path: str | Path) -> str:
    """A file's name without the suffixes of format and packing: ``a.jsonl.gz`` -> ``a``."""
    path = Path(path)
    while path.suffix.lower() in _PACKED or path.suffix.lower() in {*_SUFFIXES, ".txt"}:
        path = path.with_suffix("")
    return readable(path.name)


def _suffix(path: Path) -> str:
    suffixes = [one.lower() for one in path.suffixes]
    while suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""
