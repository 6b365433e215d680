"""Which columns of a file of texts are read, and all else that is said of how files are read.

    own = settled(path, "csv", options)     # the options with the columns that this file has
    columns_line(own)                       # "columns: text = 'tweet', id = 'id'; none for ..."

They are those that the options name, else those that are called as tools call them
(``pipeline.texts.usual``) and hold what they should in the first rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pipeline.config import CorpusSource, NormaliseConfig
from pipeline.errors import CorpusError, listed
from pipeline.texts.blocks import Layout, MissingColumn, RowBlock
from pipeline.texts.framing import MAX_LINE_BYTES
from pipeline.texts.rows import EmptyFile, check_encoding, check_ids, is_float, plain_id, read_rows
from pipeline.texts.timestamps import TIME_FORMATS, parse_time, parse_time_apart, time_trouble
from pipeline.texts.usual import AND, USUAL, fitting

TWEETS = "tweets"
ROW_FORMATS = ("csv", "tsv", "jsonl", "parquet", "arrow", "text")
INPUT_FORMATS = ("auto", TWEETS, *ROW_FORMATS)
MAX_BAD = 100_000
_LOOKED_AT = 256
"""Rows of a table that a choice among columns goes by; of JSON lines, which may lack any, more."""
_SHOWN_CHARS = 40
_NO_COLUMN = "\x00"


@dataclass(frozen=True)
class InputOptions:
    """How input files are read."""

    format: str = "auto"
    """One of ``INPUT_FORMATS``."""
    text: str | None = None
    id: str | None = None
    time: str | None = None
    lang: str | None = None
    author: str | None = None
    """Columns of files of texts, which must be there: by name, or by number, from 1, where there is
    no header; of a time also ``date + time``. Default: of ``usual`` the first that fits. Giving any
    says that the files are no dumps of posts."""
    usual: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: USUAL)
    """Of each of the five above, how columns are called that are read where a file has them; of the
    texts at least one."""
    passed_over: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Of a settled file, the columns that would have fitted too."""
    unread: str = ""
    """Of a settled file, what is wrong with its times."""
    normalise: NormaliseConfig = field(default_factory=NormaliseConfig)
    block_rows: int = 4096
    max_line_bytes: int = MAX_LINE_BYTES
    """A longer line, row or JSON value cannot be read."""
    encoding: str | None = None
    """Of all files; default UTF-8, or as the byte order mark says."""
    detect_language: bool = False
    """Find the language of rows that do not say it."""
    columns: tuple[str, ...] = ()
    """Names for the columns of CSV and TSV files without a header, which are no dumps of tweets."""
    delimiter: str | None = None
    """Of CSV files; default as their first rows tell."""

    @property
    def layout(self) -> Layout:
        """What files of texts do not say of themselves."""
        return Layout(self.encoding, self.columns, self.delimiter)

    @property
    def names_columns(self) -> bool:
        """Whether files are said to be of texts in columns."""
        return any((*self.read.values(), self.columns, self.delimiter))

    @property
    def read(self) -> dict[str, str | None]:
        """Use -> the column that is named for it."""
        return {name: getattr(self, name) for name in USUAL}

    def to_dict(self) -> dict[str, Any]:
        """All that tells what is read, as JSON."""
        facts = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**facts, "normalise": self.normalise.model_dump(), "usual": dict(self.usual)}


def usual_columns(corpus: Sequence[CorpusSource]) -> dict[str, tuple[str, ...]]:
    """What is read of a file of texts -> columns that it is looked for in: a corpus's own first."""
    own = {name: [getattr(one, name, None) for one in corpus] for name in USUAL}
    return {
        name: tuple(dict.fromkeys([*filter(None, own[name]), *usual]))
        for name, usual in USUAL.items()
    }


def settled(path: Path, kind: str, options: InputOptions) -> InputOptions:
    """The options with the columns that are read of a file: named ones, else the usual ones it has.

    Of several that are called as a use's columns are, the likeliest is taken that holds what it
    should in the first rows: texts, ids with all their digits, times that can be read.

    Raises:
        CorpusError: its beginning cannot be read, so that nobody knows which it has.
    """
    if kind == TWEETS or not options.usual:
        return options
    columns: dict[str, Any] = {**options.read, "text": texts_of(options)[0]}
    passed_over: dict[str, tuple[str, ...]] = {}
    names, is_data = columns_of(path, options, format=kind) if kind != "text" else ((), False)
    for use in options.usual:
        if getattr(options, use) is not None:
            continue
        found = _fitting(path, use, names, options, format=kind)
        if use == "text" and is_data and not found:
            break  # words of a first row are no names
        columns[use] = _first_fit(path, use, found, options, format=kind) or columns[use]
        if len(found) > 1:
            passed_over[use] = tuple(one for one in found if one != columns[use])
    own = replace(options, **columns, usual={}, passed_over=passed_over)
    return replace(own, unread=_trouble(path, own, format=kind))


def columns_line(options: InputOptions) -> str:
    """What is read of a file of texts, for people.

    ``columns: text = 'tweet', id = 'id', time = 'created_at' (not 'date'); none for lang, author``

    Args:
        options: from :func:`settled`.
    """
    named, none = [], []
    for use, column in options.read.items():
        if column is None:
            none.append(use)
            continue
        others = listed(map(repr, options.passed_over.get(use, ())), most=3)
        named.append(f"{use} = {column!r}{others and f' (not {others})'}")
    lacks = f"; none for {', '.join(none)}" if none else ""
    return f"columns: {', '.join(named)}{lacks}{options.unread and f'; {options.unread}'}"


def check_input(path: Path, kind: str, options: InputOptions) -> None:
    """Look at the first rows of a file.

    Args:
        path, kind: the file.
        options: from :func:`settled`.

    Raises:
        CorpusError: it lacks a column, cannot be read as its kind, or its ids lost digits.
    """
    check_encoding(path, options.encoding, kind)
    if kind == TWEETS:
        return
    with suppress(EmptyFile):
        block = next(_rows(path, _named(options), options, format=kind), None)
        if block is not None and options.id is not None:
            check_ids(path, block.columns[options.id], block)


def texts_of(options: InputOptions) -> tuple[str, ...]:
    """How the column of the texts may be called, the likeliest first."""
    return (options.text,) if options.text else options.usual["text"]


def _named(options: InputOptions) -> list[str]:
    """The columns that options name, each for itself."""
    return [name for column in options.read.values() if column for name in column.split(AND)]


def are_mended(path: Path, options: InputOptions, *, format: str) -> bool:
    """Whether some of the first ids are not kept as they are written."""
    if options.id is None:
        return False
    block = next(_rows(path, [options.id], options, format=format), None)
    ids = [] if block is None else block.columns[options.id]
    return any(plain_id(one) != ((one or "").strip() or None) for one in ids)


def columns_of(path: Path, options: InputOptions, *, format: str) -> tuple[tuple[str, ...], bool]:
    """The columns of a file (of JSON lines, of the first block), and whether its first row looks
    like one of data."""
    try:
        for _ in _rows(path, [_NO_COLUMN, *_named(options)], options, format=format):
            pass
    except MissingColumn as error:
        return error.columns, error.is_data
    except EmptyFile:
        pass
    return (), False


def _fitting(
    path: Path, use: str, names: Sequence[str], options: InputOptions, *, format: str
) -> list[str]:
    """The columns of a file that fit a use, the likeliest first."""
    usual = options.usual[use]
    # Names list no path that leads deeper.
    deep = [name for name in usual if format == "jsonl" and "." in name and name not in names]
    there = [name for name in deep if _is_there(path, name, options, format=format)]
    try:
        return fitting(use, [*names, *there], options.usual)
    except CorpusError as error:
        raise CorpusError(f"{path}: {error}") from None


def _is_there(path: Path, name: str, options: InputOptions, *, format: str) -> bool:
    with suppress(MissingColumn, EmptyFile):
        next(_rows(path, [name], options, format=format), None)
        return True
    return False


def _first_fit(
    path: Path, use: str, found: Sequence[str], options: InputOptions, *, format: str
) -> str | None:
    """The first of some columns that holds what it should; if none does, the first.

    Raises:
        CorpusError: that cannot be told. To go on without a column that is there would make up ids.
    """
    for name in found:
        parts = name.split(AND)
        try:
            block = next(_rows(path, parts, options, format=format), None)
        except EmptyFile:
            return None
        if block is None or _serves(use, [block.columns[one] for one in parts]):
            return name
    return found[0] if found else None


def _trouble(path: Path, options: InputOptions, *, format: str) -> str:
    """What is wrong with most of the first times of a file; "" for nothing, or without a time.

    A column that is not there is told elsewhere.
    """
    if options.time is None or format == "text":
        return ""
    block, parts = None, options.time.split(AND)
    with suppress(MissingColumn, EmptyFile):
        block = next(_rows(path, parts, options, format=format), None)
    columns = [] if block is None else [block.columns[one] for one in parts]
    rows = [" ".join(filter(None, row)).strip() for row in zip(*columns, strict=True)]
    if not any(rows) or _serves("time", columns):
        return ""
    value = next(one for one in rows if one and parse_time(one) is None)
    why = time_trouble(value) or f"is no time; write {TIME_FORMATS}"
    return f"most times are not known: {value[:_SHOWN_CHARS]!r} {why}"


def _serves(use: str, columns: Sequence[Sequence[str | None]]) -> bool:
    """Whether the first values of a column, or of several for one time, are what they should be."""
    rows = [row for row in zip(*columns, strict=True) if any((one or "").strip() for one in row)]
    if use == "id":
        return bool(rows) and not any(is_float(plain_id(row[0]) or "") for row in rows)
    if use == "time":
        read = parse_time_apart if len(columns) > 1 else lambda row: parse_time(row[0] or "")
        return sum(read(row) is not None for row in rows) * 2 > len(rows)
    return bool(rows)


def _rows(
    path: Path, names: Sequence[str], options: InputOptions, *, format: str
) -> Iterator[RowBlock]:
    """Some columns of a file, of which nothing but the beginning is wanted."""
    num_bad = 0

    def on_bad(line: int, reason: str, excerpt: str) -> None:
        nonlocal num_bad
        num_bad += 1
        if num_bad == MAX_BAD:
            raise another_format(path, format, line, reason)

    return read_rows(
        path,
        names,
        format=format,
        # Of JSON lines as many as the reader looks for its columns in.
        block_rows=options.block_rows if format == "jsonl" else _LOOKED_AT,
        on_bad=on_bad,
        max_line_bytes=options.max_line_bytes,
        layout=options.layout,
    )


def another_format(path: Path, format: str, line: int, reason: str) -> CorpusError:
    """The error for a file that is most likely none of its format."""
    return CorpusError(
        f"{path}: {MAX_BAD} rows cannot be read as {format}, the last of them line {line}:"
        f" {reason}; is it another format? (--format {', '.join(INPUT_FORMATS)})"
    )
