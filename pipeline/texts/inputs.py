"""Files to score -> blocks of rows, by a table of readers; which one is told from the content.

    kind = detect(path, options)                # "tweets", "csv", "parquet", ...
    for block in read_blocks(path, kind, options):
        block.rows       # id, text, text_hash, created_at, lang, is_retweet, source_file, line
        block.bad        # what could not be read, with file, line and reason
        block.counts     # read = rows + notices + bad; retweets, recovered, long, cut

Dumps of tweets come in any layout and packing (``pipeline.texts.dumps``); any other file is one of
texts with named columns (``pipeline.texts.rows``): those that the options name, else of the usual
ones the first that it has (:func:`settled`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config import CorpusSource, NormaliseConfig
from pipeline.errors import CorpusError
from pipeline.texts.blocks import Layout, MissingColumn, RowBlock
from pipeline.texts.containers import Refused, StreamBreak, is_break, members, readable, split_place
from pipeline.texts.dumps import QUARANTINE_SCHEMA, read_dump
from pipeline.texts.formats import detect_format, file_stem
from pipeline.texts.framing import MAX_LINE_BYTES, Value, json_values
from pipeline.texts.records import Notice, Tweet, read_record
from pipeline.texts.rows import EmptyFile, check_encoding, read_rows, read_texts

TWEETS = "tweets"
ROWS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("text_hash", pa.string()),
        ("created_at", pa.int64()),
        ("lang", pa.string()),
        ("is_retweet", pa.bool_()),
        ("source_file", pa.string()),
        ("line", pa.int64()),
    ]
)
READING = 1
"""Raised when a file is to be read again by a newer version that finds more in it."""
USUAL: Mapping[str, tuple[str, ...]] = {
    "text": ("text",),
    "id": ("id",),
    "time": ("created_at",),
    "lang": ("lang",),
}
"""What is read of a file of texts -> columns that it is looked for in."""
_VOTES = 200
_MAX_VALUES = 10_000
_MAX_BAD = 100_000


@dataclass(frozen=True)
class InputOptions:
    """How input files are read."""

    format: str = "auto"
    """One of ``INPUT_FORMATS``."""
    text: str | None = None
    id: str | None = None
    time: str | None = None
    lang: str | None = None
    """Columns of files of texts, which must be there; default the first of ``usual`` that is.
    Giving any says that the files are no dumps of tweets."""
    usual: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: USUAL)
    """Of each of the four above, columns that are read where a file has them; of the texts at least
    one."""
    normalise: NormaliseConfig = field(default_factory=NormaliseConfig)
    block_rows: int = 4096
    max_line_bytes: int = MAX_LINE_BYTES
    """A longer line, row or JSON value cannot be read."""
    encoding: str | None = None
    """Of files of texts; default UTF-8, or as the byte order mark says."""
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
        named = (self.text, self.id, self.time, self.lang, self.columns, self.delimiter)
        return any(named)

    @property
    def read(self) -> dict[str, str | None]:
        """The four columns that are named."""
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


@dataclass(frozen=True)
class InputBlock:
    """A stretch of an input file; ``counts`` add up over blocks."""

    rows: pa.Table
    bad: pa.Table = field(default_factory=QUARANTINE_SCHEMA.empty_table)
    counts: Counter[str] = field(default_factory=Counter)


def detect(path: Path, options: InputOptions) -> str:
    """The key of ``READERS`` for a file.

    Raises:
        CorpusError: the file cannot be opened, or its format cannot be told.
    """
    if options.format != "auto":
        return options.format
    if not options.names_columns and _holds_tweets(path, options):
        return TWEETS
    for text in _texts_of(options):
        format = detect_format(path, text=text, layout=options.layout, choices=INPUT_FORMATS[1:])
        if format != "text":
            break
    return format


def _texts_of(options: InputOptions) -> tuple[str, ...]:
    return (options.text,) if options.text else options.usual["text"]


def settled(path: Path, kind: str, options: InputOptions) -> InputOptions:
    """The options with the columns that are read of a file: named ones, else the usual ones it has.

    Raises:
        CorpusError: its beginning cannot be read, so that nobody knows which it has.
    """
    if kind == TWEETS or not options.usual:
        return options
    first, *others = _texts_of(options)
    columns: dict[str, Any] = {**options.read, "text": first}
    for name, usual in options.usual.items() if kind != "text" else ():
        if getattr(options, name) is None and (name != "text" or others):
            columns[name] = _first_there(path, usual, options, format=kind) or columns[name]
    return replace(options, **columns, usual={})


def check_input(path: Path, kind: str, options: InputOptions) -> None:
    """Look at the first row of a file.

    Args:
        path, kind: the file.
        options: from :func:`settled`.

    Raises:
        CorpusError: it lacks a column, or cannot be read as its kind.
    """
    if kind == TWEETS:
        return
    check_encoding(path, options.encoding, kind)
    names = [name for name in options.read.values() if name]
    with suppress(EmptyFile):
        next(_rows(path, names, options, format=kind), None)


def read_blocks(path: Path, kind: str, options: InputOptions) -> Iterator[InputBlock]:
    """One input file as blocks of at most ``options.block_rows`` rows, in bounded memory.

    Raises:
        CorpusError, DumpError: the file cannot be read as its kind, or, after all that can be
            read of it, it breaks off before its end. Other damage within it is in ``bad``.
    """
    return READERS[kind](path, options)


def content_digest(path: Path) -> str:
    """sha256 of a file's bytes, as by ``sha256sum``; of a file in a zip archive the archive's.

    Raises:
        CorpusError: the file cannot be read.
    """
    try:
        with split_place(path)[0].open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror or error}") from None


def input_key(
    path: Path,
    content: str,
    kind: str,
    options: InputOptions,
    *,
    columns: Mapping[str, str | None] | None = None,
    **others: Any,
) -> str:
    """What makes reading a file again futile: its bytes, and all that its rows depend on.

    Args:
        path: its name counts where ids may be made of it, and of an archive which file it is.
        content: from :func:`content_digest`.
        kind: from :func:`detect`.
        options: columns and normalisation.
        columns: that are read of it, from :func:`settled`.
        others: further JSON values that decide which rows are scored.
    """
    facts = {
        "reading": READING,
        "content": content,
        "kind": kind,
        "text": options.text,
        "id": options.id,
        "stem": None if kind == TWEETS else file_stem(path),
        "normalise": options.normalise.model_dump(),
        **others,
    }
    # Only what once could not be: the keys of earlier versions stay as they are.
    if read := {
        name: column
        for name, column in (columns or {}).items()
        if column not in (None, USUAL[name][0], facts.get(name))
    }:
        facts["read"] = read
    if (inside := split_place(path)[1]) is not None:
        facts["inside"] = inside
    if options.max_line_bytes != MAX_LINE_BYTES:  # not there before it could be set
        facts["max_line_bytes"] = options.max_line_bytes
    if options.encoding is not None:
        facts["encoding"] = options.encoding
    if options.columns:
        facts["columns"] = list(options.columns)
    if options.delimiter is not None:
        facts["delimiter"] = options.delimiter
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _holds_tweets(path: Path, options: InputOptions) -> bool:
    """Whether most of the first JSON values are tweets or notices, or there is nothing at all."""
    tweets = others = num_values = 0
    try:
        for member in members(path):
            for item in json_values(member.chunks, max_bytes=options.max_line_bytes):
                num_values += 1
                if isinstance(item, Value):
                    for reading in read_record(item.value):
                        is_one = isinstance(reading, Tweet | Notice)
                        tweets, others = tweets + is_one, others + (not is_one)
                if tweets + others >= _VOTES or num_values >= _MAX_VALUES:
                    return tweets > others
    except Refused as error:
        raise CorpusError(f"{path}: {error}; {error.remedy}") from None
    except StreamBreak:
        pass
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror or error}") from None
    return tweets > others or not num_values


def _read_tweets(path: Path, options: InputOptions) -> Iterator[InputBlock]:
    blocks = read_dump(
        path,
        normalise=options.normalise,
        block_rows=options.block_rows,
        max_line_bytes=options.max_line_bytes,
    )
    for block in blocks:
        counts = Counter({name: block.counts[name] for name in _DUMP_COUNTS})
        counts.update({f"filtered/{kind}": count for kind, count in block.notices.items()})
        yield InputBlock(block.table.select(ROWS_SCHEMA.names), block.quarantine, counts)
        if block.broken is not None:
            raise _broken_off(path, block.broken)


_DUMP_COUNTS = ("read", "retweets", "recovered", "long", "cut")


def _read_texts(path: Path, options: InputOptions, *, format: str) -> Iterator[InputBlock]:
    options = settled(path, format, options)
    check_encoding(path, options.encoding, format)
    bad: list[dict[str, Any]] = []
    name, broken = readable(path.name), ""

    def on_bad(line: int, reason: str, excerpt: str) -> None:
        nonlocal broken
        broken = reason if is_break(reason) else broken
        bad.append({"source_file": name, "line": line, "reason": reason, "excerpt": excerpt})
        if len(bad) == _MAX_BAD:
            raise _another_format(path, format, line, reason)

    def block(rows: pa.Table) -> InputBlock:
        unread = pa.Table.from_pylist(bad, schema=QUARANTINE_SCHEMA)
        bad.clear()
        return InputBlock(rows, unread, Counter(read=len(rows) + len(unread)))

    failure: CorpusError | None = None
    try:
        for table in read_texts(
            path,
            text=options.text or "text",
            id=options.id,
            time=options.time,
            lang=options.lang,
            format=format,
            normalise=options.normalise,
            block_rows=options.block_rows,
            on_bad=on_bad,
            max_line_bytes=options.max_line_bytes,
            layout=options.layout,
        ):
            unknown = pa.nulls(len(table), pa.bool_())
            yield block(table.append_column("is_retweet", unknown).select(ROWS_SCHEMA.names))
    except EmptyFile:
        pass  # a quiet day
    except CorpusError as error:
        failure = error
    if bad:
        yield block(ROWS_SCHEMA.empty_table())
    if failure is None and broken:
        failure = _broken_off(path, broken)
    if failure is not None:
        raise failure


def _broken_off(path: Path, reason: str) -> CorpusError:
    """The error for a file that ends before its end, when all that is before that has been read."""
    return CorpusError(
        f"{path}: {reason}; what comes before that is read, the rest is not there: fetch the file"
        " again, or unpack what is left of it into another"
    )


def _first_there(
    path: Path, names: Sequence[str], options: InputOptions, *, format: str
) -> str | None:
    """The first of some columns that a file has; of JSON lines, that one of the first block has.

    Raises:
        CorpusError: that cannot be told. To go on without a column that is there would make up ids.
    """
    for name in names:
        with suppress(MissingColumn, EmptyFile):
            next(_rows(path, [name], options, format=format), None)
            return name
    return None


def _rows(
    path: Path, names: Sequence[str], options: InputOptions, *, format: str
) -> Iterator[RowBlock]:
    """Some columns of a file, of which nothing but the beginning is wanted."""
    num_bad = 0

    def on_bad(line: int, reason: str, excerpt: str) -> None:
        nonlocal num_bad
        num_bad += 1
        if num_bad == _MAX_BAD:
            raise _another_format(path, format, line, reason)

    return read_rows(
        path,
        names,
        format=format,
        # Of JSON lines as many as the reader looks for its columns in.
        block_rows=options.block_rows if format == "jsonl" else 1,
        on_bad=on_bad,
        max_line_bytes=options.max_line_bytes,
        layout=options.layout,
    )


def _another_format(path: Path, format: str, line: int, reason: str) -> CorpusError:
    return CorpusError(
        f"{path}: {_MAX_BAD} rows cannot be read as {format}, the last of them line {line}:"
        f" {reason}; is it another format? (--format {', '.join(INPUT_FORMATS)})"
    )


READERS: dict[str, Callable[[Path, InputOptions], Iterator[InputBlock]]] = {
    TWEETS: _read_tweets,
    **{
        format: partial(_read_texts, format=format)
        for format in ("csv", "tsv", "jsonl", "parquet", "arrow", "text")
    },
}
"""Kind of file -> reader; a new one is a row here and in :func:`detect`."""
INPUT_FORMATS = ("auto", *READERS)
