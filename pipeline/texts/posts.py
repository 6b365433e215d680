"""What a record of any network is made into, and what the readers of records share.

A reader (``RecordReader``) turns one JSON object into posts and notices. One that only unpacks what
others read yields ``Inner``, and ``pipeline.texts.records`` goes on with that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from pipeline.texts.framing import Unreadable, excerpt, shown
from pipeline.texts.normalise import join_surrogates
from pipeline.texts.timestamps import parse_time
from pipeline.texts.usual import USUAL

PLATFORMS = ("twitter", "bluesky", "mastodon", "reddit")
"""Networks; ``mastodon`` is all that speak ActivityPub, whatever software their servers run."""
CUT_END = "…"
NO_TEXT = "post without text"
_OF_ROWS = ("text", "full_text", "rawContent", "tweet", "tweet_text", "content", "body")
"""Keys of texts, which answers and messages of interfaces do not have."""
_LANGUAGE = re.compile(r"([A-Za-z]{2,3})(?:[-_][A-Za-z0-9_-]*)?")


class Post(NamedTuple):
    """What we keep of one post; the text as its network gave it, in full where that was found."""

    id: str
    text: str
    created_at: int | None
    lang: str | None
    author_id: str | None
    is_retweet: bool = False
    found: str = ""
    """``recovered``, ``long``, ``cut``, or nothing of note about the text."""
    platform: str | None = "twitter"
    """The network, one of ``PLATFORMS``; None where nothing says it."""


@dataclass(frozen=True)
class Notice:
    """A record that is no post to score and is not meant to be one."""

    kind: str
    """One of few words, whatever a file holds: they are counted one by one."""


@dataclass(frozen=True)
class Inner:
    """A value inside a record, to be read as a record itself."""

    value: Any


class BadRecord(Exception):
    """A record that no reader can make a post of; the message says why."""


Record = Mapping[str, Any]
Reading = Post | Notice | Unreadable


@dataclass(frozen=True)
class RecordReader:
    """One shape of record: whether a JSON object is of it, and what is in it."""

    name: str
    matches: Callable[[Record], Any]
    read: Callable[[Record], Iterable[Reading | Inner]]


def single(read: Callable[[Record], Post | Notice]) -> Callable[[Record], tuple[Reading]]:
    """The ``read`` of a shape with one post in a record."""
    return lambda value: (guarded(value, read),)


def each(values: Any, read: Callable[[Record], Post | Notice], *, what: str) -> Iterator[Reading]:
    """Read every record of a list; a bad one does not spoil the others."""
    if not values:
        yield Notice(f"{what} without tweets")
        return
    for value in values:
        yield guarded(value, read)


def guarded(value: Any, read: Callable[[Record], Post | Notice]) -> Reading:
    """One record; a bad one as ``Unreadable``."""
    try:
        if not isinstance(value, dict):
            raise BadRecord(f"not a tweet but a JSON {type(value).__name__}")
        return read(value)
    except BadRecord as error:
        return unreadable(str(error), value)


def unreadable(reason: str, value: Any) -> Unreadable:
    """A record that is quarantined."""
    return Unreadable(0, excerpt(reason), _excerpt(value))


def not_known(value: Record) -> str:
    """Why an object is quarantined that is of no shape."""
    keys = ", ".join(excerpt(key) for key in list(value)[:8])
    return f"not a tweet: its keys are {keys or 'none'}"


def _excerpt(value: Any) -> str:
    try:
        return excerpt(orjson.dumps(value))
    except (orjson.JSONEncodeError, TypeError):  # half a surrogate pair, or a number beyond 64 bits
        pass
    return shown(value)


def digits_id(value: Record, *keys: str) -> str:
    """A tweet's id, with all its digits.

    Raises:
        BadRecord: none of the keys has one.
    """
    for key in keys:
        found = value.get(key)
        if isinstance(found, str) and found.isascii() and found.isdigit():
            return found
        if isinstance(found, int) and not isinstance(found, bool) and found >= 0:
            return str(found)
        if isinstance(found, float):
            raise BadRecord(f"no exact id: {key} {found!r} is a float, its digits are lost")
        if found is not None:
            raise BadRecord(f"no tweet id: {key} is {shown(found)[:40]}")
    raise BadRecord("no id")


def any_id(value: Record, *keys: str) -> str:
    """The id of a post or person in whatever form a network gives it: digits, a URI, a URL.

    Raises:
        BadRecord: none of the keys has one.
    """
    for key in keys:
        found = value.get(key)
        if isinstance(found, str) and found:
            return join_surrogates(found)
        if found is not None:
            return digits_id(value, key)
    raise BadRecord("no id")


def optional(id: Callable[..., str], value: Any, *keys: str) -> str | None:
    """An id of a part that may be missing, such as the author."""
    if type(value) is not dict:
        return None
    try:
        return id(value, *keys)
    except BadRecord:
        return None


def string(value: Any, *keys: str) -> str | None:
    """The first string under some keys of what may be an object."""
    if isinstance(value, dict):
        for key in keys:
            if isinstance(found := value.get(key), str):
                return found
    return None


def time_of(*values: Any) -> int | None:
    """Seconds since 1970 of the first of some values that is a time."""
    for value in values:
        if isinstance(value, str | int) and not isinstance(value, bool):
            seconds = parse_time(str(value))
            if seconds is not None:
                return seconds
    return None


def language(value: Any) -> str | None:
    """A language tag's first part, as Twitter has it: ``en-US`` is ``en``."""
    if not isinstance(value, str) or not value:
        return None
    match = _LANGUAGE.fullmatch(value)
    return match.group(1).lower() if match else join_surrogates(value)


def is_row(value: Record) -> bool:
    """Whether an object has a text of its own, so that it is no page, answer or message."""
    return any(isinstance(value.get(key), str) for key in _OF_ROWS)


def may_be_row(value: Any, *, answer: bool = False) -> bool:
    """Whether an object has what a table may call its texts, as messages of interfaces do, too.

    Of an answer without posts ``message`` is the interface's: ``{"posts": [], "message": "ok"}``.
    """
    if not isinstance(value, dict):
        return False
    names = [name for name in USUAL["text"] if not (answer and name == "message")]
    return any(isinstance(one := value.get(name), str) and one.strip() for name in names)


def known(kind: Any, kinds: frozenset[str]) -> str:
    """A kind of notice that a record names itself, if it is a usual one."""
    return kind if isinstance(kind, str) and kind in kinds else "other"
