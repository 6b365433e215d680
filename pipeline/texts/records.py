"""One JSON value of a tweet dump -> the tweets and notices in it, by the table ``READERS``.

``read_record(value)`` tries the kinds of records in the table's order. Ids keep all their digits,
and texts are the full ones wherever the record holds them: beside a cut text, in the tweet that a
retweet repeats, or among a page's included tweets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from pipeline.texts.framing import Unreadable, excerpt, shown
from pipeline.texts.normalise import join_surrogates
from pipeline.texts.timestamps import parse_time, snowflake_seconds

NOTICES = frozenset(
    {
        "delete", "scrub_geo", "limit", "status_withheld", "user_withheld", "disconnect", "warning",
        "friends", "friends_str", "event", "user_delete", "user_undelete", "user_suspend",
        "user_protect", "control",
    }
)  # fmt: skip
"""Keys of the messages of v1.1 streams that are no tweets."""
_CUT_END = "…"


@dataclass(frozen=True)
class Tweet:
    """What we keep of one tweet; the text as Twitter gave it, in full where that could be found."""

    id: str
    text: str
    created_at: int | None
    lang: str | None
    author_id: str | None
    is_retweet: bool = False
    found: str = ""
    """``recovered``, ``long``, ``cut``, or nothing of note about the text."""


@dataclass(frozen=True)
class Notice:
    """A record that is no tweet and is not meant to be one."""

    kind: str


class BadRecord(Exception):
    """A record that no reader can make a tweet of; the message says why."""


Record = Mapping[str, Any]
Reading = Tweet | Notice | Unreadable


def read_record(value: Any) -> Iterator[Reading]:
    """The tweets and notices of one JSON value; what cannot be read comes out as ``Unreadable``."""
    if isinstance(value, dict):
        for reader in READERS:
            if reader.matches(value):
                yield from reader.read(value)
                return
        keys = ", ".join(excerpt(key) for key in list(value)[:8])
        reason = f"not a tweet: its keys are {keys or 'none'}"
    else:
        reason = f"not a tweet but a JSON {type(value).__name__}"
    yield Unreadable(0, excerpt(reason), _excerpt(value))


@dataclass(frozen=True)
class RecordReader:
    """One kind of record: whether a JSON object is one, and what is in it."""

    name: str
    matches: Callable[[Record], bool]
    read: Callable[[Record], Iterator[Reading]]


def _each(values: Any, read: Callable[[Record], Tweet | Notice], *, what: str) -> Iterator[Reading]:
    """Read every record of a list; a bad one does not spoil the others."""
    if not values:
        yield Notice(f"{what} without tweets")
        return
    for value in values:
        yield _guarded(value, read)


def _guarded(value: Any, read: Callable[[Record], Tweet | Notice]) -> Reading:
    try:
        if not isinstance(value, dict):
            raise BadRecord(f"not a tweet but a JSON {type(value).__name__}")
        return read(value)
    except BadRecord as error:
        return Unreadable(0, str(error), _excerpt(value))


def _excerpt(value: Any) -> str:
    try:
        return excerpt(orjson.dumps(value))
    except (orjson.JSONEncodeError, TypeError):  # half a surrogate pair, or a number beyond 64 bits
        pass
    return shown(value)


def _is_notice(value: Record) -> bool:
    return not value.keys().isdisjoint(NOTICES) and value.keys().isdisjoint(
        ("id", "id_str", "text", "full_text", "data")
    )


def _read_notice(value: Record) -> Iterator[Reading]:
    yield Notice(next(key for key in value if key in NOTICES))


def _read_statuses(value: Record) -> Iterator[Reading]:
    return _each(value["statuses"], _v1_tweet, what="page")


def _read_v1(value: Record) -> Iterator[Reading]:
    yield _guarded(value, _v1_tweet)


def _v1_tweet(value: Record) -> Tweet:
    if _is_notice(value):
        raise BadRecord("a notice where a tweet belongs")
    id = _id(value, "id_str", "id")
    own, found = _v1_text(value)
    original = value.get("retweeted_status")
    text = own
    if isinstance(original, dict):
        text, found = _v1_text(original)
        if text is None:
            text, found = own, "cut" if own is not None and own.endswith(_CUT_END) else ""
        elif found != "cut":
            found = "recovered" if _is_cut(own, text) else ""
    if text is None:
        raise BadRecord("no text")
    user = value.get("user")
    return Tweet(
        id=id,
        text=text,
        created_at=_time(id, value.get("created_at"), value.get("timestamp_ms")),
        lang=_lang(value),
        author_id=_optional_id(user, "id_str", "id") if isinstance(user, dict) else None,
        is_retweet=isinstance(original, dict),
        found=found,
    )


def _v1_text(value: Record) -> tuple[str | None, str]:
    """The fullest text of a v1.1 tweet by itself, and what there is to say about it."""
    extended = value.get("extended_tweet")
    if isinstance(extended, dict) and isinstance(extended.get("full_text"), str):
        return extended["full_text"], "long"
    if isinstance(value.get("full_text"), str):
        return value["full_text"], ""
    text = value.get("text")
    if not isinstance(text, str):
        return None, ""
    return text, "cut" if value.get("truncated") is True else ""


def _read_v2_page(value: Record) -> Iterator[Reading]:
    known = _included(value)
    for tweet in value["data"]:
        if isinstance(tweet, dict):
            known.setdefault(_name(tweet), tweet)
    return _each(value["data"], lambda tweet: _v2_tweet(tweet, known), what="page")


def _read_v2_one(value: Record) -> Iterator[Reading]:
    known = _included(value)
    yield _guarded(value["data"], lambda tweet: _v2_tweet(tweet, known))


def _read_v2_empty(value: Record) -> Iterator[Reading]:
    yield Notice("errors" if "errors" in value else "page without tweets")


def _read_v2_flat(value: Record) -> Iterator[Reading]:
    yield _guarded(value, lambda tweet: _v2_tweet(tweet, {}))


def _included(value: Record) -> dict[str, Record]:
    includes = value.get("includes")
    tweets = includes.get("tweets") if isinstance(includes, dict) else None
    if not isinstance(tweets, list):
        return {}
    return {_name(tweet): tweet for tweet in tweets if isinstance(tweet, dict)}


def _name(value: Record) -> str:
    """What another tweet of the page calls this one by; empty where that is no id."""
    id = value.get("id")
    return str(id) if isinstance(id, str | int) else ""


def _v2_tweet(value: Record, known: Mapping[str, Record]) -> Tweet:
    id = _id(value, "id")
    text, found = _v2_text(value)
    retweeted = _v2_retweeted(value)
    if retweeted is not None:
        original = known.get(_name(retweeted), retweeted)
        full, _ = _v2_text(original)
        if full is not None:
            text, found = full, "recovered" if _is_cut(text, full) else ""
        elif text is not None and text.endswith(_CUT_END):
            found = "cut"
    if text is None:
        raise BadRecord("no text")
    author = value.get("author")
    return Tweet(
        id=id,
        text=text,
        created_at=_time(id, value.get("created_at")),
        lang=_lang(value),
        author_id=_optional_id(value, "author_id")
        or (_optional_id(author, "id") if isinstance(author, dict) else None),
        is_retweet=retweeted is not None,
        found=found,
    )


def _v2_text(value: Record) -> tuple[str | None, str]:
    note = value.get("note_tweet")
    if isinstance(note, dict) and isinstance(note.get("text"), str):
        return note["text"], "long"
    text = value.get("text")
    return (text, "") if isinstance(text, str) else (None, "")


def _v2_retweeted(value: Record) -> Record | None:
    references = value.get("referenced_tweets")
    if not isinstance(references, list):
        return None
    for reference in references:
        if isinstance(reference, dict) and reference.get("type") == "retweeted":
            return reference
    return None


def _is_cut(own: str | None, full: str) -> bool:
    """Whether a retweet's own text lacks some of the full one."""
    return own is not None and not own.endswith(full)


def _id(value: Record, *keys: str) -> str:
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


def _optional_id(value: Record, *keys: str) -> str | None:
    try:
        return _id(value, *keys)
    except BadRecord:
        return None


def _lang(value: Record) -> str | None:
    lang = value.get("lang")
    return join_surrogates(lang) if isinstance(lang, str) else None


def _time(id: str, *values: Any) -> int | None:
    for value in values:
        if isinstance(value, str | int) and not isinstance(value, bool):
            seconds = parse_time(str(value))
            if seconds is not None:
                return seconds
    return snowflake_seconds(int(id)) if len(id) < 20 else None


READERS: tuple[RecordReader, ...] = (
    RecordReader("v1.1 notice", _is_notice, _read_notice),
    RecordReader(
        "v1.1 statuses", lambda value: isinstance(value.get("statuses"), list), _read_statuses
    ),
    RecordReader("v2 page", lambda value: isinstance(value.get("data"), list), _read_v2_page),
    RecordReader("v2 stream", lambda value: isinstance(value.get("data"), dict), _read_v2_one),
    RecordReader(
        "v1.1 tweet",
        lambda value: not value.keys().isdisjoint(("id_str", "full_text", "user")),
        _read_v1,
    ),
    RecordReader("v2 flat", lambda value: "id" in value and "text" in value, _read_v2_flat),
    RecordReader(
        "v2 page without tweets",
        lambda value: not value.keys().isdisjoint(("meta", "errors")) and "id" not in value,
        _read_v2_empty,
    ),
)
"""The kinds of records, tried in this order; a new one is a row here."""
