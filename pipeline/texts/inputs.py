"""Files to score -> blocks of rows, by a table of readers; which one is told from the content.

    kind = detect(path, options)                # "tweets", "csv", "parquet", ...
    for block in read_blocks(path, kind, options):
        block.rows       # id, text, text_hash, created_at, lang, is_retweet, source_file, line,
                         # platform
        block.bad        # what could not be read, with file, line and reason
        block.counts     # read = rows + notices + bad; retweets, recovered, long, cut, shape/NAME

Dumps of posts come in any layout and packing (``pipeline.texts.dumps``); any other file is one of
texts with named columns (``pipeline.texts.rows``), which are chosen by ``pipeline.texts.choosing``.
What is JSON is never read as a text.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.errors import CorpusError
from pipeline.texts.choosing import (
    INPUT_FORMATS,
    MAX_BAD,
    ROW_FORMATS,
    TWEETS,
    InputOptions,
    another_format,
    are_mended,
    columns_of,
    settled,
    texts_of,
)
from pipeline.texts.containers import Refused, StreamBreak, is_break, members, readable, split_place
from pipeline.texts.dumps import QUARANTINE_SCHEMA, read_dump, values_of
from pipeline.texts.formats import detect_format, file_stem
from pipeline.texts.framing import MAX_LINE_BYTES, Value
from pipeline.texts.languages import language_detector
from pipeline.texts.recognition import recognised
from pipeline.texts.records import Votes
from pipeline.texts.rows import (
    EmptyFile,
    check_encoding,
    read_texts,
)
from pipeline.texts.usual import USUAL

ROWS_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("text_hash", pa.string()),
        ("created_at", pa.int64()),
        ("lang", pa.string()),
        ("author_id", pa.string()),
        ("is_retweet", pa.bool_()),
        ("source_file", pa.string()),
        ("line", pa.int64()),
        ("platform", pa.string()),
    ]
)
READING = 2
"""Raised when a file is to be read again by a newer version that finds more in it."""
_VOTES = 200
_MAX_VALUES = 10_000
_NO_JSON = ("text", "csv", "tsv")
"""Formats whose lines may be anything, and are not JSON."""


@dataclass(frozen=True)
class InputBlock:
    """A stretch of an input file; ``counts`` add up over blocks."""

    rows: pa.Table
    bad: pa.Table = field(default_factory=QUARANTINE_SCHEMA.empty_table)
    counts: Counter[str] = field(default_factory=Counter)


def detect(path: Path, options: InputOptions) -> str:
    """The key of ``READERS`` for a file.

    Raises:
        CorpusError: the file cannot be opened, its format cannot be told, or it is JSON and not
            what it is said to be.
    """
    _check_no_json(path, options.format, options)
    if options.format != "auto":
        return options.format
    if not options.names_columns and _holds_tweets(path, options):
        return TWEETS
    texts = texts_of(options)
    return detect_format(path, text=texts, layout=options.layout, choices=INPUT_FORMATS[1:])


def _check_no_json(path: Path, format: str, options: InputOptions) -> None:
    if format in _NO_JSON and (found := recognised(path, options)).is_json:
        raise CorpusError(
            f"{path}: is JSON ({found.framing}), and its lines are no texts to be read as {format};"
            f" leave --format out, or give --format {TWEETS} for posts, jsonl for rows of texts"
        )


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
    reading: int = READING,
    **others: Any,
) -> str:
    """What makes reading a file again futile: its bytes, and all that its rows depend on.

    Args:
        path: its name counts where ids may be made of it, and of an archive which file it is.
        content: from :func:`content_digest`.
        kind: from :func:`detect`.
        options: columns and normalisation.
        columns: that are read of it, from :func:`settled`.
        reading: of the version that reads it.
        others: further JSON values that decide which rows are scored.
    """
    facts = {
        "reading": reading,
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
        if name != "author" and column not in (None, USUAL[name][0], facts.get(name))
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
    if options.detect_language:
        facts["detect_language"] = True
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def earlier_key(
    path: Path, content: str, kind: str, options: InputOptions, **others: Any
) -> str | None:
    """The key of a table whose rows earlier versions gave other ids, since they did not know what
    its ids are called, or kept ``17.0`` as it is: read again, the rows would be there twice. None
    of any other file.

    Args:
        path, content, kind, options, others: as of :func:`input_key`.
    """
    if kind in (TWEETS, "text") or not options.usual:
        return None
    names, _ = columns_of(path, options, format=kind)
    known = {use: own[: own.index(USUAL[use][0]) + 1] for use, own in options.usual.items()}
    found = {use: next((one for one in known[use] if one in names), None) for use in known}
    read = {use: getattr(options, use) or column for use, column in found.items()}
    own = settled(path, kind, options)
    if read["text"] is None or (read["id"] == own.id and not are_mended(path, own, format=kind)):
        return None
    return input_key(path, content, kind, options, columns=read, reading=1, **others)


def _holds_tweets(path: Path, options: InputOptions) -> bool:
    """Whether the first JSON values are posts or notices, of an archive those of one of its files,
    or there is nothing at all."""
    num_values = 0
    try:
        for member in members(path, several=True):
            votes = Votes()
            for item in values_of(
                member,
                max_bytes=options.max_line_bytes,
                encoding=options.encoding,
                only_look=True,
            ):
                num_values += 1
                if isinstance(item, Value):
                    votes.add(item.value)
                if votes.number >= _VOTES or num_values >= _MAX_VALUES:
                    break
            if votes.are_posts or num_values >= _MAX_VALUES:
                return votes.are_posts
    except Refused as error:
        raise CorpusError(f"{path}: {error}; {error.remedy}") from None
    except StreamBreak:
        pass
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror or error}") from None
    return not num_values


def _read_tweets(path: Path, options: InputOptions) -> Iterator[InputBlock]:
    check_encoding(path, options.encoding, TWEETS)
    blocks = read_dump(
        path,
        normalise=options.normalise,
        block_rows=options.block_rows,
        max_line_bytes=options.max_line_bytes,
        encoding=options.encoding,
    )
    for block in blocks:
        counts = Counter({name: block.counts[name] for name in _DUMP_COUNTS})
        counts.update({f"filtered/{kind}": count for kind, count in block.notices.items()})
        counts.update({name: n for name, n in block.counts.items() if name.startswith(_SHAPE)})
        rows = _with_languages(block.table.select(ROWS_SCHEMA.names), options)
        yield InputBlock(rows, block.quarantine, counts)
        if block.broken is not None:
            raise _broken_off(path, block.broken)


_SHAPE = "shape/"
_DUMP_COUNTS = ("read", "retweets", "recovered", "long", "cut")


def _read_texts(path: Path, options: InputOptions, *, format: str) -> Iterator[InputBlock]:
    _check_no_json(path, format, options)
    options = settled(path, format, options)
    check_encoding(path, options.encoding, format)
    bad: list[dict[str, Any]] = []
    name, broken = readable(path.name), ""

    def on_bad(line: int, reason: str, excerpt: str) -> None:
        nonlocal broken
        broken = reason if is_break(reason) else broken
        bad.append({"source_file": name, "line": line, "reason": reason, "excerpt": excerpt})
        if len(bad) == MAX_BAD:
            raise another_format(path, format, line, reason)

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
            author=options.author,
            format=format,
            normalise=options.normalise,
            block_rows=options.block_rows,
            on_bad=on_bad,
            max_line_bytes=options.max_line_bytes,
            layout=options.layout,
        ):
            for unknown in ("is_retweet", "platform"):  # no table says them
                none = pa.nulls(len(table), ROWS_SCHEMA.field(unknown).type)
                table = table.append_column(unknown, none)
            yield block(_with_languages(table.select(ROWS_SCHEMA.names), options))
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


def _with_languages(rows: pa.Table, options: InputOptions) -> pa.Table:
    """The rows with a language where they say none and one is to be found."""
    if not options.detect_language:
        return rows
    find, texts = language_detector(), rows["text"].to_pylist()
    languages = [
        own if (own or "").strip() else find(text or "")
        for own, text in zip(rows["lang"].to_pylist(), texts, strict=True)
    ]
    place = rows.schema.get_field_index("lang")
    return rows.set_column(place, "lang", pa.array(languages, pa.string()))


READERS: dict[str, Callable[[Path, InputOptions], Iterator[InputBlock]]] = {
    TWEETS: _read_tweets,
    **{format: partial(_read_texts, format=format) for format in ROW_FORMATS},
}
"""Kind of file -> reader; a new table format is a row of ``choosing.ROW_FORMATS``."""
