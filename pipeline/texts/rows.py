"""Files of texts with named columns (CSV, TSV, JSONL, Parquet, Arrow, lines) as blocks of strings.

``read_texts`` streams one unlabelled file for scoring; ``read_rows`` is what both it and the corpus
read with: the wanted columns as strings, whatever they were, with the line of every row.
The readers themselves are in ``pipeline.texts.formats``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.config import NormaliseConfig
from pipeline.errors import CorpusError
from pipeline.texts.blocks import Layout, OnBad, RowBlock, Wanted, strict
from pipeline.texts.charsets import is_utf8
from pipeline.texts.containers import StreamBreak, members, readable
from pipeline.texts.delimited import json_like, not_a_text
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
from pipeline.texts.objects import ObjectPath, as_path
from pipeline.texts.timestamps import TIME_FORMATS, parse_time, parse_time_apart, time_trouble
from pipeline.texts.usual import AND
from store import text_hash

BLOCK_ROWS = 65_536
_FLOAT_ID = re.compile(r"\d++(?:[.,]\d*+)?[eE]\+\d{1,3}|\d(?:[.,]\d*+)?[eE]\d{1,2}|(\d++)\.0*+")
"""How spreadsheets and data frames write long numbers; the last one is exact where it is short."""
_QUOTED_ID = re.compile(r'="(.*)"|"(\d+)"|\'(\d.*)')
"""How spreadsheets are told that a number is a text."""
_NO_IDS = frozenset(("nan", "none", "null", "<na>", "nat"))
_EXACT_FLOAT = 1 << 53
_SURE_DIGITS = 15
"""Of a number in a spreadsheet; it writes zeros for the others."""
_ENOUGH_ZEROS = 12


TEXTS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("text_hash", pa.string()),
        ("created_at", pa.int64()),
        ("lang", pa.string()),
        ("author_id", pa.string()),
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
    author: str | None = None,
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
        text, id, time, lang, author: the columns, by name, or by number where there is no header;
            without ``id``, ids are ``<file's stem>:<line>``; ``date + time`` are read as one time.
        format: a key of ``FORMATS``, or ``auto``.
        normalise: as in training; default: all of it.
        block_rows: most rows in a block.
        on_bad: told of rows that cannot be read (line, reason, beginning), and of texts that are
            none but JSON; default: raise.
        max_line_bytes: a longer line or row cannot be read.
        layout: encoding, and names of the columns of a file without a header, its delimiter.

    Yields:
        Tables of ``TEXTS_SCHEMA``; ``text`` is normalised, ``text_hash`` is its hash, a missing
        text is the empty text, a time that cannot be read is null.

    Raises:
        CorpusError: the file or a column is missing, the file is empty, ids have lost digits, or a
            row cannot be read.
    """
    path = as_path(path)
    columns = _Columns(text, id, time, lang, author)
    clean = normaliser(normalise or NormaliseConfig())
    made = MadeIds(file_stem(path))
    if format == "auto":
        format = detect_format(path, text=text, layout=layout)
    tell = on_bad or strict(path)
    for block in read_rows(
        path,
        columns.names,
        format=format,
        block_rows=block_rows,
        on_bad=on_bad,
        max_line_bytes=max_line_bytes,
        layout=layout,
    ):
        if id is not None:
            check_ids(path, block.columns[id], block)
        block = _with_texts(block, text, tell)
        raw = [value or "" for value in block.columns[text]]
        known = {value: clean(value) for value in set(raw)}  # rows of one text are common
        texts = [known[value] for value in raw]
        hashes = {value: text_hash(value) for value in set(texts)}
        none: list[str | None] = [None] * len(texts)
        own = none if id is None else [*map(plain_id, block.columns[id])]
        places = made.of(block.lines)
        yield pa.table(
            {
                "id": [one or place for one, place in zip(own, places, strict=True)],
                "text": texts,
                "text_hash": [hashes[one] for one in texts],
                "created_at": columns.times(block),
                "lang": none if lang is None else block.columns[lang],
                "author_id": none if author is None else block.columns[author],
                "source_file": [readable(path.name)] * len(texts),
                "line": block.lines,
            },
            schema=TEXTS_SCHEMA,
        )


@dataclass(frozen=True)
class _Columns:
    """The columns of a table that are read; a time may be several, with `` + `` between them."""

    text: str
    id: str | None
    time: str | None
    lang: str | None
    author: str | None

    @property
    def names(self) -> list[str]:
        """All of them, the text first."""
        others = (self.id, *self._times, self.lang, self.author)
        return [self.text, *(name for name in others if name is not None)]

    @property
    def _times(self) -> list[str]:
        return [] if self.time is None else self.time.split(AND)

    def times(self, block: RowBlock) -> list[int | None]:
        """Seconds since 1970 of a block's rows; None where there is no time, or none to be read."""
        if not self._times:
            return [None] * len(block.lines)
        parts = list(zip(*(block.columns[name] for name in self._times), strict=True))
        if len(self._times) == 1:
            return [None if one is None else parse_time(one) for (one,) in parts]
        return [parse_time_apart(row) for row in parts]


class MadeIds:
    """Ids of a file's rows, which have none: its name and their line, ``day:7``.

    Of several rows on one line, as in a JSON array without line ends, the second is ``day:1.2``;
    of the second file in a tar, whose lines are counted anew, the first is ``day/2:1``.
    """

    def __init__(self, stem: str) -> None:
        self._stem, self._line, self._count, self._num_files = stem, 0, 0, 1

    def of(self, lines: Sequence[int]) -> list[str]:
        """Ids of the next rows, in the file's order."""
        ids = []
        for line in lines:
            self._count = self._count + 1 if line == self._line else 1
            if line < self._line:
                self._num_files += 1
                self._stem = f"{self._stem.rpartition('/')[0] or self._stem}/{self._num_files}"
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
    path = as_path(path)
    if format == "auto":
        format = detect_format(path, layout=layout)
    if format not in FORMATS:
        raise CorpusError(f"{path}: no format {format!r}; the formats are {', '.join(FORMATS)}")
    if format != FOLDERS and not isinstance(path, ObjectPath) and path.is_dir():
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
        several = members(path, several=True)
        garbled = any(is_utf8(member.chunks, encoding=encoding) for member in several)
    except (StreamBreak, OSError):
        return  # told where the rows are read
    if garbled:
        raise CorpusError(
            f"{path}: is UTF-8, and encoding = {encoding!r} would garble it; leave encoding out"
        )


def exact_ids(path: str | Path, ids: list[str | None], at: list[int]) -> list[str | None]:
    """``ids`` as by :func:`plain_id`.

    Raises:
        CorpusError: an id in floating-point notation; its last digits are lost.
    """
    out = [*map(plain_id, ids)]
    for value, line in zip(out, at, strict=True):
        if value is not None and is_float(value):
            raise _lost_digits(path, line, value)
    return out


def plain_id(value: str | None) -> str | None:
    """An id without what tools wrote around it; None for none.

    Blanks, ``="17"`` and ``'17`` of spreadsheets, ``17.0`` of data frames whose column has gaps, as
    long as a float holds all the digits, and ``nan`` of the gaps.
    """
    id = (value or "").strip()
    if id.isdigit():
        return id
    if (match := _QUOTED_ID.fullmatch(id)) is not None:
        id = next(filter(None, match.groups()), "").strip()
    if not id or id.lower() in _NO_IDS:
        return None
    match = _FLOAT_ID.fullmatch(id)
    return match.group(1) if match and match.group(1) and not is_float(id) else id


def is_float(id: str) -> bool:
    """Whether an id went through a float, and may have lost digits by it.

    ``9.0E+15`` did, and so did ``9007199254740994.0``; ``2.0`` has all of its digits.
    """
    match = _FLOAT_ID.fullmatch(id)
    whole = match.group(1) if match else None
    return match is not None and (whole is None or int(whole[:20]) >= _EXACT_FLOAT)


def check_ids(path: str | Path, ids: list[str | None], block: RowBlock) -> None:
    """Refuse a file some of whose ids may have become equal.

    Args:
        path: names the file.
        ids: a block's.
        block: the rows, the text first.

    Raises:
        CorpusError: an id in floating-point notation, or a spreadsheet's zeros in the place of the
            last digits of all.
    """
    ids = exact_ids(path, ids, block.lines)
    long = [one for one in ids if one and len(one) > _SURE_DIGITS]
    numbers = {one for one in long if one.isascii() and one.isdigit()}
    if numbers and all(set(one[_SURE_DIGITS:]) == {"0"} for one in numbers):
        num_zeros = sum(len(one) - _SURE_DIGITS for one in numbers)
        repeated = _repeated(ids, next(iter(block.columns.values())), numbers)
        if repeated is not None or (len(numbers) > 2 and num_zeros >= _ENOUGH_ZEROS):
            value = repeated or next(one for one in long if one in numbers)
            line = next(
                at for one, at in zip(ids, block.lines, strict=True) if value in (one or "")
            )
            raise _lost_digits(path, line, value)


def _repeated(
    ids: list[str | None], texts: list[str | None], numbers: Collection[str]
) -> str | None:
    """A number that is the id of two different texts."""
    known: dict[str, str | None] = {}
    for id, text in zip(ids, texts, strict=True):
        if id in numbers and id is not None and known.setdefault(id, text) != text:
            return id
    return None


def _lost_digits(path: str | Path, line: int, value: str) -> CorpusError:
    return CorpusError(
        f"{path}: line {line}: id {value!r} went through a float and lost digits, so different ids"
        " may have become equal: write ids as strings (in a spreadsheet format the column as text"
        " before the file is opened), or name another id column, or leave out the id column"
    )


def _with_texts(block: RowBlock, column: str, on_bad: OnBad) -> RowBlock:
    """The block without the rows whose text is JSON, which ``on_bad`` is told of."""
    found = {
        at: what
        for at, text in enumerate(block.columns[column])
        if text and (what := json_like(text)) is not None
    }
    if not found:
        return block
    for at, what in found.items():
        on_bad(block.lines[at], not_a_text(what), excerpt(block.columns[column][at] or ""))
    kept = [at for at in range(len(block.lines)) if at not in found]
    columns = {name: [values[at] for at in kept] for name, values in block.columns.items()}
    return RowBlock(columns, [block.lines[at] for at in kept])


def unreadable_time(path: str | Path, line: int, column: str, value: str) -> CorpusError:
    """The error for a time of a labelled row that is none."""
    why = time_trouble(value) or f"is no time; write {TIME_FORMATS}"
    return CorpusError(f"{path}: line {line}: {column} {value!r} {why}")
