"""One JSON value of a dump -> the posts and notices in it, by the table ``READERS``.

``read_record(value)`` tries the shapes of records in the table's order. ``read_shaped`` also says
of which shape each was: ``v1.1 tweet``, or ``v1.1 tweet in elasticdump`` where another tool's
record is around it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.texts import (
    accounts,
    bluesky,
    gnip,
    graphql,
    mastodon,
    scrapers,
    twitter,
    wrappers,
)
from pipeline.texts.posts import (
    NO_TEXT,
    PLATFORMS,
    BadRecord,
    Inner,
    Notice,
    Post,
    Reading,
    RecordReader,
    may_be_row,
    not_known,
    unreadable,
)

__all__ = [
    "PLATFORMS",
    "READERS",
    "BadRecord",
    "Notice",
    "Post",
    "Reading",
    "RecordReader",
    "Votes",
    "read_record",
    "read_shaped",
]

MAX_WRAPPERS = 6
"""Records around a record."""
_MOST_OTHERS = 4


def read_record(value: Any) -> Iterator[Reading]:
    """The posts and notices of one JSON value; what cannot be read comes out as ``Unreadable``."""
    for _, reading in read_shaped(value):
        yield reading


def read_shaped(value: Any, *, num_around: int = 0) -> Iterator[tuple[str, Reading]]:
    """The same, each with the name of its shape; empty where that is not known."""
    if isinstance(value, dict):
        for reader in READERS:
            if reader.matches(value):
                name = reader.name
                for item in reader.read(value):
                    if isinstance(item, Inner):
                        yield from _read_inner(item.value, name, num_around + 1)
                    else:
                        yield name, item
                return
        reason = not_known(value)
    elif value is None:
        yield "keep-alive", Notice("keep-alive")
        return
    else:
        reason = f"not a tweet but a JSON {type(value).__name__}"
    yield "", unreadable(reason, value)


class Votes:
    """Whether a file is one of posts, by its first values.

    Its records that are none may be many where the others are posts for sure, of which a table
    would have neither the right ids nor the texts; rows of an id and a text may be of any table.
    """

    def __init__(self) -> None:
        self._posts = self._sure = self._others = 0

    @property
    def number(self) -> int:
        """How many records there were."""
        return self._posts + self._others

    @property
    def are_posts(self) -> bool:
        """Whether the file is to be read as posts."""
        most = self._others if not self._sure else self._others // _MOST_OTHERS
        return self._posts > most

    def add(self, value: Any) -> None:
        """Look at one JSON value."""
        for shape, reading in read_shaped(value):
            if isinstance(reading, Notice) and _is_row(value, reading):
                self._others += 1
            elif isinstance(reading, Post | Notice):
                self._posts += 1
                is_any = shape.startswith(twitter.ID_AND_TEXT)
                self._sure += isinstance(reading, Post) and not is_any
            else:
                self._others += 1


def _is_row(value: Any, notice: Notice) -> bool:
    """Whether what is taken for a notice may be the row of a table."""
    if notice.kind == NO_TEXT:
        return False
    return may_be_row(value, answer=notice.kind.startswith("page without"))


def _read_inner(value: Any, around: str, num_around: int) -> Iterator[tuple[str, Reading]]:
    if num_around > MAX_WRAPPERS:
        yield "", unreadable(f"more than {MAX_WRAPPERS} records around one another", value)
        return
    for name, reading in read_shaped(value, num_around=num_around):
        yield f"{name} in {around}" if name and " in " not in name else name, reading


READERS: tuple[RecordReader, ...] = (
    *twitter.FIRST,
    *mastodon.STREAM,
    *twitter.NOTICE,
    *bluesky.STREAM,
    *wrappers.DATABASES,
    *twitter.NEXT,
    *accounts.FIRST,
    *gnip.READERS,
    *mastodon.READERS,
    *scrapers.READERS,
    *bluesky.READERS,
    *accounts.READERS,
    *wrappers.READERS,
    *graphql.READERS,
    *twitter.LAST,
    *wrappers.MAPS,
)
"""The shapes of records, tried in this order; a new one is a row here."""
