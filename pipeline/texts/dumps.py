"""Tweet dumps -> blocks of one Arrow table, with a quarantine for what cannot be read.

``read_dump`` takes any of the formats that Twitter's interfaces and archives have produced, as JSON
lines, arrays or printed JSON, plain or packed or in a tar (``pipeline.texts.containers``), and
tells them apart record by record (``pipeline.texts.records``). Every record is accounted for: in
the sum over all blocks, ``read = tweets + notices + quarantined``.

    for block in read_dump("2021-01-01.json.bz2"):
        block.table       # id, text, text_hash, created_at, lang, author_id, is_retweet, ...
        block.quarantine  # source_file, line, reason, excerpt
        block.counts      # read, tweets, notices, quarantined, retweets, recovered, long, cut

Memory is bounded by ``block_rows`` tweets (fewer where their texts are very long) and one JSON
value: a line, or one element of an array of any length.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from pipeline.config import NormaliseConfig
from pipeline.errors import DumpError
from pipeline.texts.blocks import BLOCK_CHARS
from pipeline.texts.containers import StreamBreak, members, readable
from pipeline.texts.framing import MAX_LINE_BYTES, Unreadable, json_values
from pipeline.texts.normalise import normaliser
from pipeline.texts.records import Notice, Reading, Tweet, read_record
from store import text_hash

BLOCK_ROWS = 4096
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
    a cut one; ``cut`` texts that stay so. ``notices`` counts the notices by kind. ``broken`` says
    of the last block why nothing comes after it, though the dump should go on.
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
) -> Iterator[DumpBlock]:
    """Stream a dump of tweets.

    A retweet has the full text of the tweet that it repeats, without ``RT @name:``, so that both
    have the same ``text_hash``. Times that are missing are those in the tweet's id.

    Args:
        path: a file of JSON in any layout, packed (gz, bz2, xz, zst) or not, or a tar of them.
        block_rows: most tweets in a block.
        normalise: as in training; default: all of it.
        max_line_bytes: a longer line or value goes to the quarantine.

    Raises:
        DumpError: the file cannot be opened. Damage inside it is quarantined.
    """
    path = Path(path)
    if path.is_dir():
        raise DumpError(f"{path}: is a folder; name the dump files in it")
    builder = _BlockBuilder(block_rows, normaliser(normalise or NormaliseConfig()))
    member_name, broken = readable(path.name), None
    try:
        for member in members(path):
            member_name = member.name
            for item in json_values(member.chunks, max_bytes=max_line_bytes):
                readings = [item] if isinstance(item, Unreadable) else read_record(item.value)
                if isinstance(item, Unreadable) and item.breaks:
                    broken = item.reason
                for reading in readings:
                    builder.add(reading, member_name, item.line)
                    if builder.is_full:
                        yield builder.take()
    except StreamBreak as error:
        broken = str(error)
        builder.add(Unreadable(1, broken, ""), member_name, 1)
    except OSError as error:
        raise DumpError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not builder.is_empty:
        yield replace(builder.take(), broken=broken)


class _BlockBuilder:
    """Collects readings until they make a block."""

    def __init__(self, block_rows: int, clean: Callable[[str], str]) -> None:
        self._block_rows = block_rows
        self._clean = clean
        self._reset()

    def _reset(self) -> None:
        self._tweets: list[tuple[Tweet, str, int]] = []
        self._bad: list[tuple[str, int, str, str]] = []
        self._num_chars = 0
        self._counts: Counter[str] = Counter()
        self._notices: Counter[str] = Counter()

    @property
    def is_full(self) -> bool:
        count = max(len(self._tweets), len(self._bad))
        return count >= self._block_rows or self._num_chars > BLOCK_CHARS

    @property
    def is_empty(self) -> bool:
        return not self._counts

    def add(self, reading: Reading, source_file: str, line: int) -> None:
        self._counts["read"] += 1
        if isinstance(reading, Tweet):
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
        table = pa.table(
            {
                "id": [tweet.id for tweet, _, _ in self._tweets],
                "text": texts,
                "text_hash": [text_hash(text) for text in texts],
                "created_at": [tweet.created_at for tweet, _, _ in self._tweets],
                "lang": [tweet.lang for tweet, _, _ in self._tweets],
                "author_id": [tweet.author_id for tweet, _, _ in self._tweets],
                "is_retweet": [tweet.is_retweet for tweet, _, _ in self._tweets],
                "source_file": [source_file for _, source_file, _ in self._tweets],
                "line": [line for _, _, line in self._tweets],
            },
            schema=TWEETS_SCHEMA,
        )
        columns = zip(*self._bad, strict=True) if self._bad else ((), (), (), ())
        quarantine = pa.table(
            dict(zip(QUARANTINE_SCHEMA.names, map(list, columns), strict=True)),
            schema=QUARANTINE_SCHEMA,
        )
        names = ("read", "tweets", "notices", "quarantined", "retweets", "recovered", "long", "cut")
        counts = {name: self._counts[name] for name in names}
        block = DumpBlock(table, quarantine, counts, dict(self._notices))
        self._reset()
        return block
