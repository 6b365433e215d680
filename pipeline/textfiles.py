"""Files of texts with named columns (CSV, TSV, JSONL, Parquet, plain lines) as blocks of strings.

``read_texts`` streams one unlabelled file for scoring; ``read_rows`` is what both it and the corpus
read with: the wanted columns as strings, whatever they were, with the line of every row.
``FORMATS`` lists the readers; a new format is one function and one row.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import NormaliseConfig
from pipeline.errors import CorpusError
from pipeline.normalise import join_surrogates, normaliser
from pipeline.streams import StreamBreak, lines, members, peek, unpacked
from pipeline.timestamps import FORMATS as TIME_FORMATS
from pipeline.timestamps import parse_time
from store import text_hash

BLOCK_ROWS = 65_536
MAX_FIELD_CHARS = 1 << 24
"""A longer CSV field means a quote that is never closed."""
_SNIFF_CHARS = 1 << 20
_QUOTED_FIELD = re.compile(r'(?:(?<=\t)|^)"(?:[^"]|"")*"(?=\t|\r?\n|$)')
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
_TEXTS, _LABELS = "_text.txt", "_labels.txt"
_PACKED = {".gz", ".bz2", ".zst"}
_FLOAT_ID = re.compile(r"\d(?:\.\d*)?[eE]\+?\d+")
_EXACT_FLOAT = 1 << 53

TEXTS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("text_hash", pa.string()),
        ("created_at", pa.int64()),
        ("source_file", pa.string()),
        ("line", pa.int64()),
    ]
)

csv.field_size_limit(MAX_FIELD_CHARS)


@dataclass(frozen=True)
class RowBlock:
    """Some rows of a file: the wanted columns as strings (None for null), and their lines."""

    columns: dict[str, list[str | None]]
    lines: list[int]


def read_texts(
    path: str | Path,
    *,
    text: str = "text",
    id: str | None = None,
    time: str | None = None,
    format: str = "auto",
    normalise: NormaliseConfig | None = None,
    block_rows: int = BLOCK_ROWS,
) -> Iterator[pa.Table]:
    """Stream a file of unlabelled texts in blocks of at most ``block_rows`` rows.

    Args:
        path: CSV, TSV, JSONL, Parquet, or ``.txt`` with one text per line; gz, bz2 and zst too.
        text, id, time: the columns; without ``id``, ids are ``<file's stem>:<line>``.
        format: a key of ``FORMATS``, or ``auto``.
        normalise: as in training; default: all of it.

    Yields:
        Tables of ``TEXTS_SCHEMA``; ``text`` is normalised, ``text_hash`` is its hash, a missing
        text is the empty text, a time that cannot be read is null.

    Raises:
        CorpusError: the file or a column is missing, the file is empty, or a row cannot be read.
    """
    path = Path(path)
    clean = normaliser(normalise or NormaliseConfig())
    stem = file_stem(path)
    if format == "auto":
        format = detect_format(path, text=text)
    wanted = [text, *(name for name in (id, time) if name is not None)]
    for block in read_rows(path, wanted, format=format, block_rows=block_rows):
        texts = [clean(value or "") for value in block.columns[text]]
        none: list[str | None] = [None] * len(texts)
        ids = none if id is None else exact_ids(path, block.columns[id], block.lines)
        times = none if time is None else block.columns[time]
        yield pa.table(
            {
                "id": [one or f"{stem}:{line}" for one, line in zip(ids, block.lines, strict=True)],
                "text": texts,
                "text_hash": [text_hash(one) for one in texts],
                "created_at": [None if one is None else parse_time(one) for one in times],
                "source_file": [path.name] * len(texts),
                "line": block.lines,
            },
            schema=TEXTS_SCHEMA,
        )


def read_rows(
    path: str | Path, columns: Sequence[str], *, format: str = "auto", block_rows: int = BLOCK_ROWS
) -> Iterator[RowBlock]:
    """Stream the named columns of a file as strings, in blocks of at most ``block_rows`` rows.

    ``line`` is the line of the file, for Parquet the row; both start at 1. In JSONL a column may be
    absent from single rows, but not from the whole first block.

    Raises:
        CorpusError: no such file or column, empty file, or a row that cannot be read; names the
        line.
    """
    path = Path(path)
    if format == "auto":
        format = detect_format(path)
    if format not in FORMATS:
        raise CorpusError(f"{path}: no format {format!r}; the formats are {', '.join(FORMATS)}")
    if path.is_dir():
        raise CorpusError(f"{path}: is a folder; name a file in it")
    num_rows = 0
    try:
        for block in FORMATS[format](path, tuple(dict.fromkeys(columns)), block_rows):
            num_rows += len(block.lines)
            yield block
    except StreamBreak as error:
        raise CorpusError(f"{path}: {error}; get the whole file again") from None
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror or error}") from None
    if num_rows == 0:
        raise CorpusError(f"{path}: is empty; it has no rows of data")


def detect_format(path: str | Path, *, text: str | None = None) -> str:
    """The key of ``FORMATS`` that a file's name and first bytes speak for.

    A file of tab-separated columns may be called ``.txt``; with ``text`` given, only if it has that
    column, and other ``.txt`` files are plain lines.

    Raises:
        CorpusError: no such file, or the format cannot be told.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head, _ = peek(unpacked(iter(lambda: file.read(1 << 16), b"")), 1 << 16)
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such file") from None
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror}") from None
    if head[:4] == b"PAR1":
        return "parquet"
    head = head.removeprefix(b"\xef\xbb\xbf")
    first = head.lstrip().partition(b"\n")[0].rstrip(b"\r")
    suffix = _suffix(path)
    if text is None and path.name.endswith(_TEXTS) and _labels_beside(path).exists():
        return "tweeteval"
    if suffix == ".txt" and text is not None:
        names = [name.strip() for name in first.decode("utf-8", "replace").split("\t")]
        return "tsv" if len(names) > 1 and text in names else "txt"
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
    return path.name


def _suffix(path: Path) -> str:
    suffixes = [one.lower() for one in path.suffixes]
    while suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def missing_column(path: str | Path, column: str, found: Iterable[str]) -> CorpusError:
    """The error for a column that a file lacks; names those it has and the closest."""
    names = list(dict.fromkeys(found))
    close = get_close_matches(column.lower(), [name.lower() for name in names], n=1)
    hint = next((f"; did you mean {name!r}?" for name in names if [name.lower()] == close), "")
    shown = ", ".join(repr(name) for name in names[:30])
    return CorpusError(f"{path}: no column {column!r}{hint}; the columns are {shown or 'none'}")


def exact_ids(path: str | Path, ids: list[str | None], at: list[int]) -> list[str | None]:
    """``ids`` without surrounding blanks, empty ones as None.

    Raises:
        CorpusError: an id in floating-point notation; its last digits are lost.
    """
    out = [(value or "").strip() or None for value in ids]
    for value, line in zip(out, at, strict=True):
        if value is not None and _FLOAT_ID.fullmatch(value):
            raise CorpusError(
                f"{path}: line {line}: id {value!r} went through a float and lost digits; "
                "write ids as strings, or leave out the id column"
            )
    return out


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
        return orjson.dumps(value).decode()
    return str(value)


def as_texts(column: pa.ChunkedArray | pa.Array) -> list[str | None]:
    """A column of any Arrow type as strings, each value as by ``as_text``."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return as_texts(column.cast(kind.value_type))
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return [None if one is None else one.isoformat() for one in column.to_pylist()]
    return [as_text(value) for value in column.to_pylist()]


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of an unpacked file as text, line feeds kept, without byte order mark."""
    for member in members(path):
        for line in lines(member.chunks):
            data = line.data
            if line.number == 1:
                if data.startswith((b"\xff\xfe", b"\xfe\xff")):
                    raise CorpusError(f"{path}: is UTF-16; save it as UTF-8")
                data = data.removeprefix(b"\xef\xbb\xbf")
            if line.cut:
                raise CorpusError(f"{path}: line {line.number} is longer than {len(data)} bytes")
            try:
                yield line.number, data.decode("utf-8") + ("\n" if line.ended else "")
            except UnicodeDecodeError as error:
                raise CorpusError(
                    f"{path}: line {line.number} is not UTF-8: byte 0x{data[error.start]:02x} at "
                    f"position {error.start + 1}; convert the file to UTF-8 "
                    "(for example with iconv -f latin1 -t utf-8)"
                ) from None


def _read_delimited(
    path: Path, columns: tuple[str, ...], block_rows: int, *, delimiter: str, quoting: bool
) -> Iterator[RowBlock]:
    # The csv module, not Arrow's reader: texts hold quotes, line breaks and stray delimiters, and
    # its records carry the line number that an error message needs.
    reader = csv.reader(
        (line for _, line in _text_lines(path)),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quoting else csv.QUOTE_NONE,
        strict=True,
    )
    at = 0
    try:
        header = [name.strip() for name in next(reader, [])]
        for column in columns:
            if column not in header:
                if not header:
                    raise CorpusError(f"{path}: is empty; it has not even a header line")
                raise missing_column(path, column, header)
        places = [header.index(column) for column in columns]
        rows: list[list[str]] = []
        starts: list[int] = []
        at = reader.line_num
        for row in reader:
            if row:
                if len(row) != len(header):
                    raise CorpusError(
                        f"{path}: line {at + 1} has {len(row)} fields, the header has "
                        f"{len(header)}; quote a field that contains the delimiter {delimiter!r}"
                    )
                rows.append(row)
                starts.append(at + 1)
                if len(rows) == block_rows:
                    yield _delimited_block(columns, places, rows, starts)
                    rows, starts = [], []
            at = reader.line_num
        if rows:
            yield _delimited_block(columns, places, rows, starts)
    except csv.Error as error:
        raise CorpusError(
            f"{path}: the row that starts on line {at + 1} cannot be read: {error}; "
            "a quote inside a quoted field is written twice"
        ) from None


def _delimited_block(
    columns: tuple[str, ...], places: list[int], rows: list[list[str]], starts: list[int]
) -> RowBlock:
    return RowBlock(
        {name: [row[at] for row in rows] for name, at in zip(columns, places, strict=True)}, starts
    )


def _read_csv(path: Path, columns: tuple[str, ...], block_rows: int) -> Iterator[RowBlock]:
    header = next((line for _, line in _text_lines(path)), "")
    delimiter = next((one for one in ",;\t|" if one in header), ",")
    return _read_delimited(path, columns, block_rows, delimiter=delimiter, quoting=True)


def _read_tsv(path: Path, columns: tuple[str, ...], block_rows: int) -> Iterator[RowBlock]:
    return _read_delimited(path, columns, block_rows, delimiter="\t", quoting=_is_quoted_tsv(path))


def _is_quoted_tsv(path: Path) -> bool:
    """Whether quotes in a TSV wrap fields (as csv writers do) or belong to the text (as in tweets).

    They wrap fields if all quotes of the first megabyte do; a single stray one says they are text.
    """
    raw: list[str] = []

    def recorded() -> Iterator[str]:
        for _, line in _text_lines(path):
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


def _read_jsonl(path: Path, columns: tuple[str, ...], block_rows: int) -> Iterator[RowBlock]:
    records = _json_records(path)
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
            {name: [_clean(as_text(row.get(name))) for row in rows] for name in columns},
            [line for line, _ in chunk],
        )


def _clean(value: str | None) -> str | None:
    return None if value is None else join_surrogates(value)


def _json_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _text_lines(path):
        if not (text := line.strip()):
            continue
        if number == 1 and text[0] == "[":
            yield from _json_array(path)
            return
        value = _loads(path, number, text)
        if not isinstance(value, dict):
            raise CorpusError(f"{path}: line {number} is not a JSON object but {text[:40]!r}")
        yield number, value


def _json_array(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = _loads(path, 1, "".join(line for _, line in _text_lines(path)))
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise CorpusError(f"{path}: element {number} of the array is not an object")
        yield number, row


def _loads(path: Path, number: int, text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(text)  # NaN and lone surrogate escapes, which many writers produce
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{path}: line {number} is not JSON: {error}") from None


def _read_parquet(path: Path, columns: tuple[str, ...], block_rows: int) -> Iterator[RowBlock]:
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
    except pa.ArrowException as error:
        first_line = str(error).partition("\n")[0]
        raise CorpusError(f"{path}: is not a readable Parquet file: {first_line}") from None


def _read_lines(path: Path, columns: tuple[str, ...], block_rows: int) -> Iterator[RowBlock]:
    if len(columns) > 1:
        raise CorpusError(f"{path}: plain lines hold texts only, no columns {list(columns[1:])}")
    source = _text_lines(path)
    while chunk := list(islice(source, block_rows)):
        yield RowBlock(
            {columns[0]: [line.rstrip("\r\n") for _, line in chunk]},
            [number for number, _ in chunk],
        )


def _labels_beside(path: Path) -> Path:
    return path.with_name(path.name.removesuffix(_TEXTS) + _LABELS)


def _read_tweeteval(path: Path, columns: tuple[str, ...], block_rows: int) -> Iterator[RowBlock]:
    """``*_text.txt`` with ``*_labels.txt`` (and ``mapping.txt``) beside it: columns text, label."""
    for column in columns:
        if column not in ("text", "label"):
            raise missing_column(path, column, ("text", "label"))
    labels_path = _labels_beside(path)
    if not path.name.endswith(_TEXTS) or not labels_path.exists():
        raise CorpusError(
            f"{path}: not of the TweetEval layout, which is a file of texts named *{_TEXTS} "
            f"with its labels beside it in *{_LABELS}"
        )
    names = _tweeteval_mapping(path.with_name("mapping.txt"))
    texts = [line.rstrip("\r\n") for _, line in _text_lines(path)]
    labels = [line.strip() for _, line in _text_lines(labels_path)]
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
    pairs = [line.split(maxsplit=1) for _, line in _text_lines(path) if line.strip()]
    if not all(len(pair) == 2 for pair in pairs):
        raise CorpusError(f"{path}: every line needs a number and a name")
    return {number: name.strip() for number, name in pairs}


FORMATS: dict[str, Callable[[Path, tuple[str, ...], int], Iterator[RowBlock]]] = {
    "csv": _read_csv,
    "tsv": _read_tsv,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "txt": _read_lines,
    "tweeteval": _read_tweeteval,
}
"""Format -> reader of (path, columns, rows per block)."""


def unreadable_time(path: str | Path, line: int, column: str, value: str) -> CorpusError:
    """The error for a time of a labelled row that is none."""
    return CorpusError(f"{path}: line {line}: {column} {value!r} is no time; write {TIME_FORMATS}")
