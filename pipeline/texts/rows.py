"""Files of texts with named columns (CSV, TSV, JSONL, Parquet, Arrow, lines) as blocks of strings.

``read_texts`` streams one unlabelled file for scoring; ``read_rows`` is what both it and the corpus
read with: the wanted columns as strings, whatever they were, with the line of every row.
The readers themselves are in ``pipeline.texts.formats``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from pipeline.config import NormaliseConfig
from pipeline.errors import CorpusError
from pipeline.texts.blocks import Layout, OnBad, RowBlock, Wanted, strict
from pipeline.texts.charsets import is_utf8
from pipeline.texts.containers import StreamBreak, members, readable
from pipeline.texts.formats import (
    BINARY,
    FOLDERS,
    FORMATS,
    HEADERLESS,
    PLAIN,
    detect_format,
    file_stem,
)
from pipeline.texts.framing import MAX_LINE_BYTES, excerpt
from pipeline.texts.normalise import normaliser
from pipeline.texts.timestamps import TIME_FORMATS, parse_time
from store import text_hash

BLOCK_ROWS = 65_536
_FLOAT_ID = re.compile(r"\d(?:\.\d*)?[eE]\+?\d+")

TEXTS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("text_hash", pa.string()),
        ("created_at", pa.int64()),
        ("lang", pa.string()),
        ("source_file", pa.string()),
        ("line", pa.int64()),
    ]
)


def read_texts(
    path: str | Path,
    *,
    text: str = "text",
    id: str | None = None,
    time: str | None = None,
    lang: str | None = None,
    format: str = "auto",
    normalise: NormaliseConfig | None = None,
    block_rows: int = BLOCK_ROWS,
    on_bad: OnBad | None = None,
    max_line_bytes: int = MAX_LINE_BYTES,
    layout: Layout = PLAIN,
) -> Iterator[pa.Table]:
    """Stream a file of unlabelled texts in blocks of at most ``block_rows`` rows.

    Args:
        path: CSV, TSV, JSONL, Parquet, Arrow, or ``.txt`` with one text per line; text files also
            in gz, bz2, xz and zst, or alone in a zip archive.
        text, id, time, lang: the columns; without ``id``, ids are ``<file's stem>:<line>``.
        format: a key of ``FORMATS``, or ``auto``.
        normalise: as in training; default: all of it.
        block_rows: most rows in a block.
        on_bad: told of rows that cannot be read (line, reason, beginning); default: raise.
        max_line_bytes: a longer line or row cannot be read.
        layout: encoding, and names of the columns of a file without a header, its delimiter.

    Yields:
        Tables of ``TEXTS_SCHEMA``; ``text`` is normalised, ``text_hash`` is its hash, a missing
        text is the empty text, a time that cannot be read is null.

    Raises:
        CorpusError: the file or a column is missing, the file is empty, or a row cannot be read.
    """
    path = Path(path)
    clean = normaliser(normalise or NormaliseConfig())
    made = MadeIds(file_stem(path))
    if format == "auto":
        format = detect_format(path, text=text, layout=layout)
    wanted = [text, *(name for name in (id, time, lang) if name is not None)]
    for block in read_rows(
        path,
        wanted,
        format=format,
        block_rows=block_rows,
        on_bad=on_bad,
        max_line_bytes=max_line_bytes,
        layout=layout,
    ):
        if id is not None and on_bad is not None:
            block = _with_exact_ids(block, id, on_bad)
        raw = [value or "" for value in block.columns[text]]
        known = {value: clean(value) for value in set(raw)}  # rows of one text are common
        texts = [known[value] for value in raw]
        hashes = {value: text_hash(value) for value in set(texts)}
        none: list[str | None] = [None] * len(texts)
        ids = none if id is None else exact_ids(path, block.columns[id], block.lines)
        times = none if time is None else block.columns[time]
        places = made.of(block.lines)
        yield pa.table(
            {
                "id": [one or place for one, place in zip(ids, places, strict=True)],
                "text": texts,
                "text_hash": [hashes[one] for one in texts],
                "created_at": [None if one is None else parse_time(one) for one in times],
                "lang": none if lang is None else block.columns[lang],
                "source_file": [readable(path.name)] * len(texts),
                "line": block.lines,
            },
            schema=TEXTS_SCHEMA,
        )


class MadeIds:
    """Ids of a file's rows, which have none: its name and their line, ``day:7``.

    Of several rows on one line, as in a JSON array without line ends, the second is ``day:1.2``.
    """

    def __init__(self, stem: str) -> None:
        self._stem, self._line, self._count = stem, 0, 0

    def of(self, lines: Sequence[int]) -> list[str]:
        """Ids of the next rows, in the file's order."""
        ids = []
        for line in lines:
            self._count = self._count + 1 if line == self._line else 1
            self._line = line
            ids.append(f"{self._stem}:{line}" + (f".{self._count}" if self._count > 1 else ""))
        return ids


class EmptyFile(CorpusError):
    """A file without rows: no ground to train on, and nothing to score."""


def read_rows(
    path: str | Path,
    columns: Sequence[str],
    *,
    format: str = "auto",
    block_rows: int = BLOCK_ROWS,
    on_bad: OnBad | None = None,
    max_line_bytes: int = MAX_LINE_BYTES,
    layout: Layout = PLAIN,
) -> Iterator[RowBlock]:
    """Stream the named columns of a file as strings, in blocks of at most ``block_rows`` rows.

    ``line`` is the line of the file, for Parquet the row; both start at 1. In JSONL a column may be
    absent from single rows, but not from the whole first block. Rows that cannot be read, as those
    of a line longer than ``max_line_bytes``, are told to ``on_bad`` (line, reason, beginning) and
    left out; without it, the first one is an error. ``layout`` has the encoding, and the names of
    the columns of a file without a header.

    Raises:
        CorpusError: no such file or column, empty file, or a row that cannot be read; names the
        line.
    """
    path = Path(path)
    if format == "auto":
        format = detect_format(path, layout=layout)
    if format not in FORMATS:
        raise CorpusError(f"{path}: no format {format!r}; the formats are {', '.join(FORMATS)}")
    if path.is_dir() and format != FOLDERS:
        raise CorpusError(f"{path}: is a folder; name a file in it")
    check_layout(path, format, layout)
    num_rows, raise_or_note = 0, on_bad or strict(path)

    def counted(line: int, reason: str, excerpt: str) -> None:
        nonlocal num_rows
        raise_or_note(line, reason, excerpt)
        num_rows += 1

    wanted = Wanted(tuple(dict.fromkeys(columns)), block_rows, counted, max_line_bytes, layout)
    try:
        for block in FORMATS[format](path, wanted):
            num_rows += len(block.lines)
            yield block
    except StreamBreak as error:
        raise CorpusError(f"{path}: {error}; {error.remedy}") from None
    except OSError as error:
        reason = error.strerror or excerpt(str(error).partition("\n")[0])
        raise CorpusError(f"{path}: cannot be read: {reason}") from None
    if num_rows == 0:
        raise EmptyFile(f"{path}: is empty; it has no rows of data")


def check_layout(path: Path, format: str, layout: Layout) -> None:
    """Refuse a layout that a file of this format cannot have.

    Raises:
        CorpusError: names of columns, or a delimiter, for another format than CSV and TSV, or an
            encoding of one that says itself which it has.
    """
    if layout.columns and format not in HEADERLESS:
        raise CorpusError(
            f"{path}: is read as {format}, which names its columns itself; leave columns out, or"
            f" set format to one of {', '.join(HEADERLESS)}"
        )
    if layout.delimiter is not None and format not in HEADERLESS:
        raise CorpusError(
            f"{path}: is read as {format}, which has no delimiter; leave delimiter out, or set"
            ' format = "csv"'
        )
    if format == "tsv" and layout.delimiter not in (None, "\t"):
        raise CorpusError(
            f"{path}: is read as tsv, whose delimiter is a tab, not {layout.delimiter!r}; set"
            ' format = "csv"'
        )
    if layout.encoding is not None and format in BINARY:
        raise CorpusError(f"{path}: is {format}, which has no other encoding; leave encoding out")


def check_encoding(path: Path, encoding: str | None, format: str) -> None:
    """Refuse to read UTF-8 as something else.

    Raises:
        CorpusError: the file is UTF-8 from end to end, and not ASCII only.
    """
    if encoding is None or format in (*BINARY, FOLDERS):
        return
    try:
        garbled = any(is_utf8(member.chunks, encoding=encoding) for member in members(path))
    except (StreamBreak, OSError):
        return  # told where the rows are read
    if garbled:
        raise CorpusError(
            f"{path}: is UTF-8, and encoding = {encoding!r} would garble it; leave encoding out"
        )


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


def _with_exact_ids(block: RowBlock, column: str, on_bad: OnBad) -> RowBlock:
    """The block without the rows whose id lost digits, which ``on_bad`` is told of."""
    ids = block.columns[column]
    kept = []
    for at, (value, line) in enumerate(zip(ids, block.lines, strict=True)):
        if value is not None and _FLOAT_ID.fullmatch(value.strip()):
            on_bad(line, f"no exact id: {value!r} went through a float and lost digits", "")
        else:
            kept.append(at)
    if len(kept) == len(ids):
        return block
    columns = {name: [values[at] for at in kept] for name, values in block.columns.items()}
    return RowBlock(columns, [block.lines[at] for at in kept])


def unreadable_time(path: str | Path, line: int, column: str, value: str) -> CorpusError:
    """The error for a time of a labelled row that is none."""
    return CorpusError(f"{path}: line {line}: {column} {value!r} is no time; write {TIME_FORMATS}")
