"""Dumps of posts -> blocks of one Arrow table, with a quarantine for what cannot be read.

``read_dump`` takes posts of any network in the shapes that its interfaces, its archives and usual
tools give them, in any framing and container, and tells the shapes apart record by record
(``pipeline.texts.records``). Every record is accounted for: in
the sum over all blocks, ``read = tweets + notices + quarantined``.

    for block in read_dump("2021-01-01.json.bz2"):
        block.table       # id, text, text_hash, created_at, lang, author_id, platform, ...
        block.quarantine  # source_file, line, reason, excerpt
        block.counts      # read, tweets, notices, quarantined, retweets, ..., shape/NAME

Memory is bounded by ``block_rows`` tweets (fewer where their texts are very long) and one JSON
value: a line, or one element of an array of any length.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config import NormaliseConfig
from pipeline.errors import DumpError
from pipeline.texts.beside import is_beside
from pipeline.texts.blocks import BLOCK_CHARS
from pipeline.texts.charsets import as_utf8
from pipeline.texts.containers import Member, StreamBreak, members, peek, readable
from pipeline.texts.framing import (
    HEAD_BYTES,
    MAX_LINE_BYTES,
    Unreadable,
    Value,
    framing_of,
    json_values,
)
from pipeline.texts.normalise import join_surrogates, normaliser
from pipeline.texts.objects import ObjectPath, as_path
from pipeline.texts.records import Notice, Post, Reading, read_shaped
from store import text_hash

BLOCK_ROWS = 4096
_LOOK_BYTES = 1 << 17
_ARCHIVES = frozenset(("tar", "zip"))
TWEETS_SCHEMA = pa.schema(
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
QUARANTINE_SCHEMA = pa.schema(
    [
        ("source_file", pa.string()),
        ("line", pa.int64()),
        ("reason", pa.string()),
        ("excerpt", pa.string()),
    ]
)


@dataclass(frozen=True)
class DumpBlock:
    """A stretch of a dump.

    ``table`` has at most ``block_rows`` tweets (``TWEETS_SCHEMA``), ``quarantine`` what could not
    be read (``QUARANTINE_SCHEMA``). ``counts`` adds up over blocks: ``read``, ``tweets``,
    ``notices`` and ``quarantined`` records; ``retweets``; ``recovered`` retweets whose own text
    lacks something and whose full text was found; ``long`` tweets whose full text was found beside
    a cut one; ``cut`` texts that stay so; ``shape/NAME`` posts and notices of each shape, by the
    names of ``pipeline.texts.records.READERS``. ``notices`` counts the notices by kind. ``broken``
    says of the last block why nothing comes after it, though the dump should go on.
    """

    table: pa.Table
    quarantine: pa.Table
    counts: dict[str, int]
    notices: dict[str, int]
    broken: str | None = None


def read_dump(
    path: str | Path,
    *,
    block_rows: int = BLOCK_ROWS,
    normalise: NormaliseConfig | None = None,
    max_line_bytes: int = MAX_LINE_BYTES,
    encoding: str | None = None,
) -> Iterator[DumpBlock]:
    """Stream a dump of tweets.

    A retweet has the full text of the tweet that it repeats, without ``RT @name:``, so that both
    have the same ``text_hash``. Times that are missing are those in the tweet's id.

    Args:
        path: a file of JSON in any layout, packed (gz, bz2, xz, zst) or not, or a tar of them.
        block_rows: most tweets in a block.
        normalise: as in training; default: all of it.
        max_line_bytes: a longer line or value goes to the quarantine.
        encoding: a Python text codec; default UTF-8, or as the byte order mark says.

    Raises:
        DumpError: the file cannot be opened. Damage inside it is quarantined.
    """
    path = as_path(path)
    if not isinstance(path, ObjectPath) and path.is_dir():
        raise DumpError(f"{path}: is a folder; name the dump files in it")
    builder = _BlockBuilder(block_rows, normaliser(normalise or NormaliseConfig()))
    member_name, broken = readable(path.name), None
    try:
        for member in members(path, several=True):
            member_name = member.name
            for item in values_of(member, max_bytes=max_line_bytes, encoding=encoding):
                shaped: Iterable[tuple[str, Reading]]
                if isinstance(item, Value):
                    shaped = read_shaped(item.value)
                else:
                    shaped = (("", item),)
                    if isinstance(item, Unreadable) and item.breaks:
                        broken = item.reason
                line = 1 if isinstance(item, Notice) else item.line
                for shape, reading in shaped:
                    builder.add(reading, member_name, line, shape)
                    if builder.is_full:
                        yield builder.take()
    except StreamBreak as error:
        broken = str(error)
        builder.add(Unreadable(1, broken, ""), member_name, 1)
    except OSError as error:
        raise DumpError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not builder.is_empty:
        yield replace(builder.take(), broken=broken)


def _joined(value: str | None) -> str | None:
    return None if value is None else join_surrogates(value)


def values_of(
    member: Member, *, max_bytes: int, encoding: str | None, only_look: bool = False
) -> Iterator[Value | Unreadable | Notice]:
    """The JSON values of one file of a dump; one notice for a page or picture of an archive.

    Args:
        member: the file.
        max_bytes: a longer value is unreadable.
        encoding: a Python text codec; None: UTF-8, or what the byte order mark says.
        only_look: of a file that is no JSON read no more than the beginning.
    """
    chunks, framing = member.chunks, ""
    is_inside = not _ARCHIVES.isdisjoint(member.packing)
    if only_look or is_inside:
        head, chunks = peek(chunks, HEAD_BYTES)
        decoded, refused = head, None
        try:
            decoded, _ = peek(as_utf8(iter([head]), encoding), HEAD_BYTES)
            framing = framing_of(decoded)
        except StreamBreak as error:
            refused = f"{error}; {error.remedy}"
        if is_inside and head and is_beside(member.name, decoded, framing):
            yield Notice("file without posts")
            return
        if refused is not None:  # what is behind it in an archive can be read
            yield Unreadable(1, refused, "", breaks=not is_inside)
            return
        if only_look and not framing:
            chunks = iter([head[:_LOOK_BYTES]])
    yield from json_values(chunks, max_bytes=max_bytes, encoding=encoding)


class _BlockBuilder:
    """Collects readings until they make a block."""

    def __init__(self, block_rows: int, clean: Callable[[str], str]) -> None:
        self._block_rows = block_rows
        self._clean = clean
        self._reset()

    def _reset(self) -> None:
        self._tweets: list[tuple[Post, str, int]] = []
        self._bad: list[tuple[str, int, str, str]] = []
        self._num_chars = 0
        self._counts: Counter[str] = Counter()
        self._notices: Counter[str] = Counter()
        self._shapes: Counter[str] = Counter()

    @property
    def is_full(self) -> bool:
        count = max(len(self._tweets), len(self._bad))
        return count >= self._block_rows or self._num_chars > BLOCK_CHARS

    @property
    def is_empty(self) -> bool:
        return not self._counts

    def add(self, reading: Reading, source_file: str, line: int, shape: str = "") -> None:
        self._counts["read"] += 1
        if shape and not isinstance(reading, Unreadable):
            self._shapes[shape] += 1
        if isinstance(reading, Post):
            self._tweets.append((reading, source_file, line))
            self._num_chars += len(reading.text)
            self._counts["tweets"] += 1
            self._counts["retweets"] += reading.is_retweet
            if reading.found:
                self._counts[reading.found] += 1
        elif isinstance(reading, Notice):
            self._counts["notices"] += 1
            self._notices[reading.kind] += 1
        else:
            self._bad.append((source_file, line, reading.reason, reading.excerpt))
            self._counts["quarantined"] += 1

    def take(self) -> DumpBlock:
        texts = [self._clean(tweet.text) for tweet, _, _ in self._tweets]
        data: dict[str, list[Any]] = {
            "id": [tweet.id for tweet, _, _ in self._tweets],
            "text": texts,
            "text_hash": [text_hash(text) for text in texts],
            "created_at": [tweet.created_at for tweet, _, _ in self._tweets],
            "lang": [tweet.lang for tweet, _, _ in self._tweets],
            "author_id": [tweet.author_id for tweet, _, _ in self._tweets],
            "is_retweet": [tweet.is_retweet for tweet, _, _ in self._tweets],
            "source_file": [source_file for _, source_file, _ in self._tweets],
            "line": [line for _, _, line in self._tweets],
            "platform": [tweet.platform for tweet, _, _ in self._tweets],
        }
        try:
            table = pa.table(data, schema=TWEETS_SCHEMA)
        except UnicodeEncodeError:  # half a surrogate pair in an id, a language or an author
            joined = {name: [*map(_joined, data[name])] for name in ("id", "lang", "author_id")}
            table = pa.table({**data, **joined}, schema=TWEETS_SCHEMA)
        columns = zip(*self._bad, strict=True) if self._bad else ((), (), (), ())
        quarantine = pa.table(
            dict(zip(QUARANTINE_SCHEMA.names, map(list, columns), strict=True)),
            schema=QUARANTINE_SCHEMA,
        )
        names = ("read", "tweets", "notices", "quarantined", "retweets", "recovered", "long", "cut")
        counts = {name: self._counts[name] for name in names}
        counts |= {f"shape/{name}": number for name, number in self._shapes.items()}
        block = DumpBlock(table, quarantine, counts, dict(self._notices))
        self._reset()
        return block
