"""Readers of the file formats that hold texts: one function per format, listed in ``FORMATS``.

A reader takes a path, the columns that are wanted and a number of rows, and yields ``RowBlock``s
of strings. What is wrong with a single row goes to ``on_bad``, which raises or takes note; the
reader then goes on with the next row. What is wrong with the whole file is a ``CorpusError``.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import CorpusError, did_you_mean
from pipeline.texts.containers import StreamBreak, members, peek, readable, unpacked
from pipeline.texts.framing import Line, Unreadable, excerpt, json_values, lines
from pipeline.texts.normalise import join_surrogates

OnBad = Callable[[int, str, str], None]
"""Told of a row that cannot be read: line, reason, the beginning of the row."""
TEXTS_ENDING, LABELS_ENDING = "_text.txt", "_labels.txt"
MAX_FIELD_CHARS = 1 << 24
"""A longer CSV field means a quote that is never closed."""
_SNIFF_CHARS = 1 << 20
_QUOTED_FIELD = re.compile(r'(?:(?<=\t)|^)"(?:[^"]|"")*"(?=\t|\r?\n|$)')
_EXACT_FLOAT = 1 << 53

csv.field_size_limit(MAX_FIELD_CHARS)


@dataclass(frozen=True)
class RowBlock:
    """Some rows of a file: the wanted columns as strings (None for null), and their lines."""

    columns: dict[str, list[str | None]]
    lines: list[int]


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


def _text_lines(path: Path, on_bad: OnBad) -> Iterator[str]:
    """The lines of an unpacked file as text, line feeds kept, without byte order mark.

    A line that cannot be read is empty, which keeps the count.
    """
    for member in members(path):
        last = Line(1, b"")
        try:
            for line in lines(member.chunks):
                last = line
                if line.ended:
                    yield _line_text(path, line, on_bad) + "\n"
        except StreamBreak as error:
            on_bad(last.number, f"{error}; get the whole file again", excerpt(last.data))
            return
        if not last.ended:
            yield _line_text(path, last, on_bad)


def _line_text(path: Path, line: Line, on_bad: OnBad) -> str:
    data = line.data
    if line.number == 1:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise CorpusError(f"{path}: is UTF-16; save it as UTF-8")
        data = data.removeprefix(b"\xef\xbb\xbf")
    if line.cut:
        on_bad(line.number, f"longer than {len(data)} bytes", excerpt(data))
        return ""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        reason = (
            f"not UTF-8: byte 0x{data[error.start]:02x} at position {error.start + 1}; "
            "convert the file to UTF-8 (for example with iconv -f latin1 -t utf-8)"
        )
        on_bad(line.number, reason, excerpt(data))
        return ""


def _read_delimited(
    path: Path,
    columns: tuple[str, ...],
    block_rows: int,
    on_bad: OnBad,
    *,
    delimiter: str,
    quoting: bool,
) -> Iterator[RowBlock]:
    # The csv module, not Arrow's reader: texts hold quotes, line breaks and stray delimiters, and
    # its records carry the line number that an error message needs.
    reader = csv.reader(
        _text_lines(path, on_bad),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE,
        strict=True,
    )
    header: list[str] | None = None
    places: list[int] = []
    rows: list[list[str]] = []
    starts: list[int] = []
    while True:
        start = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            reason = f"{error}; a quote inside a quoted field is written twice"
            on_bad(start, f"the row that starts here cannot be read: {reason}", "")
            continue
        if not row:
            continue
        if header is None:
            header = [name.strip() for name in row]
            for column in columns:
                if column not in header:
                    raise missing_column(path, column, header)
            places = [header.index(column) for column in columns]
            continue
        if len(row) != len(header):
            reason = (
                f"wrong number of fields: {len(row)}, the header has {len(header)}; "
                f"quote a field that contains the delimiter {delimiter!r}"
            )
            on_bad(start, reason, excerpt(delimiter.join(row)))
            continue
        rows.append(row)
        starts.append(start)
        if len(rows) == block_rows:
            yield _delimited_block(columns, places, rows, starts)
            rows, starts = [], []
    if rows:
        yield _delimited_block(columns, places, rows, starts)


def _delimited_block(
    columns: tuple[str, ...], places: list[int], rows: list[list[str]], starts: list[int]
) -> RowBlock:
    return RowBlock(
        {name: [row[at] for row in rows] for name, at in zip(columns, places, strict=True)}, starts
    )


def _read_csv(
    path: Path, columns: tuple[str, ...], block_rows: int, on_bad: OnBad
) -> Iterator[RowBlock]:
    header = next(_text_lines(path, lambda *_: None), "")
    delimiter = next((one for one in ",;\t|" if one in header), ",")
    return _read_delimited(path, columns, block_rows, on_bad, delimiter=delimiter, quoting=True)


def _read_tsv(
    path: Path, columns: tuple[str, ...], block_rows: int, on_bad: OnBad
) -> Iterator[RowBlock]:
    quoting = _is_quoted_tsv(path)
    return _read_delimited(path, columns, block_rows, on_bad, delimiter="\t", quoting=quoting)


def _is_quoted_tsv(path: Path) -> bool:
    """Whether quotes in a TSV wrap fields (as csv writers do) or belong to the text (as in tweets).

    They wrap fields if all quotes of the first megabyte do; a single stray one says they are text.
    """
    raw: list[str] = []

    def recorded() -> Iterator[str]:
        for line in _text_lines(path, lambda *_: None):
            raw.append(line)
            yield line

    reader = csv.reader(recorded(), delimiter="\t", strict=True)
    widths: set[int] = set()
    any_quoted = False
    num_chars = 0
    try:
        for row in reader:
            record = "".join(raw)
            raw.clear()
            num_chars += len(record)
            if row:
                widths.add(len(row))
            unquoted = _QUOTED_FIELD.sub("", record)
            any_quoted = any_quoted or len(unquoted) < len(record)
            if '"' in unquoted or len(widths) > 1:
                return False
            if num_chars > _SNIFF_CHARS:
                break
    except csv.Error:
        return False
    return any_quoted


def _read_jsonl(
    path: Path, columns: tuple[str, ...], block_rows: int, on_bad: OnBad
) -> Iterator[RowBlock]:
    records = _json_records(path, on_bad)
    first = True
    while chunk := list(islice(records, block_rows)):
        rows = [row for _, row in chunk]
        if first:
            for column in columns:
                if not any(column in row for row in rows):
                    found = (name for row in rows[:1000] for name in row)
                    raise missing_column(path, column, found)
            first = False
        yield RowBlock(
            {name: [_joined(as_text(row.get(name))) for row in rows] for name in columns},
            [line for line, _ in chunk],
        )


def _joined(value: str | None) -> str | None:
    return None if value is None else join_surrogates(value)


def _json_records(path: Path, on_bad: OnBad) -> Iterator[tuple[int, dict[str, Any]]]:
    for member in members(path):
        for item in json_values(member.chunks):
            if isinstance(item, Unreadable):
                on_bad(item.line, item.reason, item.excerpt)
            elif isinstance(item.value, dict):
                yield item.line, item.value
            else:
                beginning = excerpt(repr(item.value))
                on_bad(item.line, f"not a JSON object: {beginning[:40]}", beginning)


def _read_parquet(
    path: Path, columns: tuple[str, ...], block_rows: int, on_bad: OnBad
) -> Iterator[RowBlock]:
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            for column in columns:
                if column not in names:
                    raise missing_column(path, column, names)
            start = 1
            for batch in file.iter_batches(batch_size=block_rows, columns=list(columns)):
                block = {name: as_texts(batch.column(name)) for name in columns}
                yield RowBlock(block, list(range(start, start + batch.num_rows)))
                start += batch.num_rows
    except (pa.ArrowException, KeyError, ValueError, OverflowError) as error:
        # The others: two columns of one name, an unknown time zone, a time beyond the year 9999.
        first_line = str(error).partition("\n")[0]
        raise CorpusError(f"{path}: is not a readable Parquet file: {first_line}") from None


def _read_lines(
    path: Path, columns: tuple[str, ...], block_rows: int, on_bad: OnBad
) -> Iterator[RowBlock]:
    if len(columns) > 1:
        raise CorpusError(f"{path}: plain lines hold texts only, no columns {list(columns[1:])}")
    source = enumerate(_text_lines(path, on_bad), 1)
    while chunk := list(islice(source, block_rows)):
        yield RowBlock(
            {columns[0]: [line.rstrip("\r\n") for _, line in chunk]},
            [number for number, _ in chunk],
        )


def labels_beside(path: Path) -> Path:
    """The file of labels that belongs to a TweetEval file of texts."""
    return path.with_name(path.name.removesuffix(TEXTS_ENDING) + LABELS_ENDING)


def _read_tweeteval(
    path: Path, columns: tuple[str, ...], block_rows: int, on_bad: OnBad
) -> Iterator[RowBlock]:
    """``*_text.txt`` with ``*_labels.txt`` (and ``mapping.txt``) beside it: columns text, label."""
    for column in columns:
        if column not in ("text", "label"):
            raise missing_column(path, column, ("text", "label"))
    labels_path = labels_beside(path)
    if not path.name.endswith(TEXTS_ENDING) or not labels_path.exists():
        raise CorpusError(
            f"{path}: not of the TweetEval layout, which is a file of texts named *{TEXTS_ENDING} "
            f"with its labels beside it in *{LABELS_ENDING}; looked for {labels_path.name}"
        )
    names = _tweeteval_mapping(path.with_name("mapping.txt"))
    texts = [line.rstrip("\r\n") for line in _text_lines(path, strict(path))]
    labels = [line.strip() for line in _text_lines(labels_path, strict(labels_path))]
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
    for start in range(0, len(texts), block_rows):
        stop = min(start + block_rows, len(texts))
        yield RowBlock(
            {name: [*data[name][start:stop]] for name in columns}, list(range(start + 1, stop + 1))
        )


def _tweeteval_mapping(path: Path) -> dict[str, str] | None:
    if not path.exists():
        return None
    pairs = [line.split(maxsplit=1) for line in _text_lines(path, strict(path)) if line.strip()]
    if not all(len(pair) == 2 for pair in pairs):
        raise CorpusError(f"{path}: every line needs a number and a name")
    return {number: name.strip() for number, name in pairs}


FORMATS: dict[str, Callable[[Path, tuple[str, ...], int, OnBad], Iterator[RowBlock]]] = {
    "csv": _read_csv,
    "tsv": _read_tsv,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "text": _read_lines,
    "tweeteval": _read_tweeteval,
}
"""Format -> reader of (path, columns, rows per block, what to do with bad rows)."""
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
_PACKED = {".gz", ".bz2", ".zst"}


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
