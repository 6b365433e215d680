"""Files to score -> blocks of rows, by a table of readers; which one is told from the content.

    kind = detect(path, options)                # "tweets", "csv", "parquet", ...
    for block in read_blocks(path, kind, options):
        block.rows       # id, text, text_hash, created_at, lang, is_retweet, source_file, line
        block.bad        # what could not be read, with file, line and reason
        block.counts     # read = rows + notices + bad; retweets, recovered, long, cut

Dumps of tweets come in any layout and packing (``pipeline.texts.dumps``); any other file is one of
texts with named columns (``pipeline.texts.rows``): ``id``, ``created_at`` and ``lang`` are used
where it has them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config import NormaliseConfig
from pipeline.errors import CorpusError
from pipeline.texts.blocks import Layout
from pipeline.texts.containers import Refused, StreamBreak, members, readable, split_place
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
    """Columns of files of texts; default ``text``, and ``id`` if there is one. Giving either says
    that the files are no dumps of tweets."""
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
        return bool(self.text or self.id or self.columns or self.delimiter)


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
    return detect_format(path, text=options.text or "text", layout=options.layout)


def read_blocks(path: Path, kind: str, options: InputOptions) -> Iterator[InputBlock]:
    """One input file as blocks of at most ``options.block_rows`` rows, in bounded memory.

    Raises:
        CorpusError, DumpError: the file cannot be read as its kind. Damage within it is in
            ``bad``.
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


def input_key(path: Path, content: str, kind: str, options: InputOptions, **others: Any) -> str:
    """What makes reading a file again futile: its bytes, and all that its rows depend on.

    Args:
        path: its name counts where ids may be made of it, and of an archive which file it is.
        content: from :func:`content_digest`.
        kind: from :func:`detect`.
        options: columns and normalisation.
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


_DUMP_COUNTS = ("read", "retweets", "recovered", "long", "cut")


def _read_texts(path: Path, options: InputOptions, *, format: str) -> Iterator[InputBlock]:
    def column(name: str) -> str | None:
        return name if _has_column(path, name, options, format=format) else None

    check_encoding(path, options.encoding, format)
    bad: list[dict[str, Any]] = []
    name = readable(path.name)

    def on_bad(line: int, reason: str, excerpt: str) -> None:
        bad.append({"source_file": name, "line": line, "reason": reason, "excerpt": excerpt})
        if len(bad) == _MAX_BAD:
            raise CorpusError(
                f"{path}: {len(bad)} rows cannot be read as {format}, the last of them line {line}:"
                f" {reason}; is it another format? (--format {', '.join(INPUT_FORMATS)})"
            )

    def block(rows: pa.Table) -> InputBlock:
        unread = pa.Table.from_pylist(bad, schema=QUARANTINE_SCHEMA)
        bad.clear()
        return InputBlock(rows, unread, Counter(read=len(rows) + len(unread)))

    failure: CorpusError | None = None
    try:
        for table in read_texts(
            path,
            text=options.text or "text",
            id=options.id or column("id"),
            time=column("created_at"),
            lang=column("lang"),
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
    if failure is not None:
        raise failure


def _has_column(path: Path, name: str, options: InputOptions, *, format: str) -> bool:
    """Whether a file has a column; of JSON lines, whether one of the first block has it."""
    if format == "text":
        return False
    num_bad = 0

    def on_bad(line: int, reason: str, excerpt: str) -> None:
        nonlocal num_bad
        num_bad += 1
        if num_bad == _MAX_BAD:
            raise CorpusError(f"{path}: {num_bad} rows cannot be read as {format}")

    blocks = read_rows(
        path,
        [name],
        format=format,
        block_rows=options.block_rows,  # as many as the reader looks for its columns in
        on_bad=on_bad,
        max_line_bytes=options.max_line_bytes,
        layout=options.layout,
    )
    try:
        next(blocks, None)
    except CorpusError:
        return False
    return True


READERS: dict[str, Callable[[Path, InputOptions], Iterator[InputBlock]]] = {
    TWEETS: _read_tweets,
    **{
        format: partial(_read_texts, format=format)
        for format in ("csv", "tsv", "jsonl", "parquet", "arrow", "text")
    },
}
"""Kind of file -> reader; a new one is a row here and in :func:`detect`."""
INPUT_FORMATS = ("auto", *READERS)
