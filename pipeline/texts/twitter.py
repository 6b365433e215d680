"""Tweets as Twitter's interfaces gave them (v1.1 and v2).

Ids keep all their digits, and texts are the full ones wherever a record holds them: beside a cut
text, in the tweet that a retweet repeats, or among a page's included tweets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.texts.normalise import join_surrogates
from pipeline.texts.posts import (
    CUT_END,
    BadRecord,
    Notice,
    Post,
    Reading,
    Record,
    RecordReader,
    digits_id,
    each,
    guarded,
    is_row,
    optional,
    single,
    time_of,
)
from pipeline.texts.timestamps import snowflake_seconds

NOTICES = frozenset(
    {
        "delete", "scrub_geo", "limit", "status_withheld", "user_withheld", "disconnect", "warning",
        "friends", "friends_str", "event", "user_delete", "user_undelete", "user_suspend",
        "user_protect", "control",
    }
)  # fmt: skip
"""Keys of the messages of v1.1 streams that are no tweets."""
_OTHERS = frozenset(
    (
        "_id", "__typename", "account", "legacy", "objectType", "rawContent", "record", "rest_id",
        "tweet_results", "uri",
    )
)  # fmt: skip
"""Keys of records that a page of another shape lists under ``data`` too."""
_TWEET_DIGITS = 15
ID_AND_TEXT = "id and text"
"""Name of the shape that rows of any table may have."""


def is_notice(value: Record) -> bool:
    """Whether a record is a message of a v1.1 stream that is no tweet."""
    return (
        not value.keys().isdisjoint(NOTICES)
        and value.keys().isdisjoint(("id", "id_str", "text", "full_text", "data"))
        and not is_row(value)
    )


def _read_notice(value: Record) -> Iterator[Reading]:
    yield Notice(next(key for key in value if key in NOTICES))


def _is_v1(value: Record) -> bool:
    return "id_str" in value and ("text" in value or "full_text" in value) and "_id" not in value


def v1_tweet(value: Record) -> Post:
    """A tweet of the v1.1 interface.

    Raises:
        BadRecord: it has no id or no text.
    """
    if is_notice(value):
        raise BadRecord("a notice where a tweet belongs")
    id = digits_id(value, "id_str", "id")
    own, found = _v1_text(value)
    original = value.get("retweeted_status")
    text = own
    if isinstance(original, dict):
        text, found = fuller(own, *_v1_text(original))
    if text is None:
        raise BadRecord("no text")
    user = value.get("user")
    return Post(
        id=id,
        text=text,
        created_at=tweet_time(id, value.get("created_at"), value.get("timestamp_ms")),
        lang=lang_of(value),
        author_id=optional(digits_id, user, "id_str", "id")
        if isinstance(user, dict)
        else optional(digits_id, value, "user_id_str", "user_id"),
        is_retweet=isinstance(original, dict),
        found=found,
    )


def fuller(own: str | None, full: str | None, found: str) -> tuple[str | None, str]:
    """The text of a retweet, of its own and its original's, and what there is to say about it."""
    if full is None:
        return own, "cut" if own is not None and own.endswith(CUT_END) else ""
    return full, found if found == "cut" else "recovered" if _is_cut(own, full) else ""


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


def _is_v2_page(value: Record) -> bool:
    data = value.get("data")
    if not isinstance(data, list) or is_row(value):
        return False
    if not data and "id" in value:
        return False
    first = next((one for one in data if isinstance(one, dict)), {})
    return first.keys().isdisjoint(_OTHERS)


def _read_v2_page(value: Record) -> Iterator[Reading]:
    included = _included(value)
    for tweet in value["data"]:
        if isinstance(tweet, dict):
            included.setdefault(_name(tweet), tweet)
    return each(value["data"], lambda tweet: _v2_tweet(tweet, included), what="page")


def _is_v2_stream(value: Record) -> bool:
    data = value.get("data")
    return (
        isinstance(data, dict)
        and ("text" in data or "id" in data)
        and "legacy" not in data
        and "item_id" not in value
        and "_id" not in value
    )


def _read_v2_one(value: Record) -> Iterator[Reading]:
    included = _included(value)
    yield guarded(value["data"], lambda tweet: _v2_tweet(tweet, included))


def _is_v2_empty(value: Record) -> bool:
    return (
        not value.keys().isdisjoint(("meta", "errors")) and "id" not in value and not is_row(value)
    )


def _read_v2_empty(value: Record) -> Iterator[Reading]:
    yield Notice("errors" if "errors" in value else "page without tweets")


def _is_v2_flat(value: Record) -> bool:
    return "text" in value and "id" in value and "author_id" in value and "_id" not in value


def _v2_flat(value: Record) -> Post:
    return _v2_tweet(value, {})


def _any_row(value: Record) -> Post:
    """A row of an id and a text; of Twitter if the id is as long as tweets' are since 2010."""
    post = _v2_flat(value)
    if len(post.id) >= _TWEET_DIGITS:
        return post
    return post._replace(platform=None, created_at=time_of(value.get("created_at")))


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


def _v2_tweet(value: Record, included: Mapping[str, Record]) -> Post:
    id = digits_id(value, "id")
    text, found = _v2_text(value)
    retweeted = _v2_retweeted(value)
    if retweeted is not None:
        original = included.get(_name(retweeted), retweeted)
        full, _ = _v2_text(original)
        if full is not None:
            text, found = full, "recovered" if _is_cut(text, full) else ""
        elif text is not None and text.endswith(CUT_END):
            found = "cut"
    if text is None:
        raise BadRecord("no text")
    author = value.get("author")
    return Post(
        id=id,
        text=text,
        created_at=tweet_time(id, value.get("created_at")),
        lang=lang_of(value),
        author_id=optional(digits_id, value, "author_id")
        or (optional(digits_id, author, "id") if author is not None else None),
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


def lang_of(value: Record) -> str | None:
    """Twitter's own code for a tweet's language."""
    lang = value.get("lang")
    return join_surrogates(lang) if isinstance(lang, str) else None


def tweet_time(id: str, *values: Any) -> int | None:
    """Seconds since 1970 of the first of some values that is a time, else those in a tweet's id."""
    seconds = time_of(*values)
    if seconds is None and len(id) < 20:
        return snowflake_seconds(int(id))
    return seconds


FIRST = (
    RecordReader("v1.1 tweet", _is_v1, single(v1_tweet)),
    RecordReader("v2 stream", _is_v2_stream, _read_v2_one),
    RecordReader("v2 flat", _is_v2_flat, single(_v2_flat)),
)
"""The shapes that most dumps are of, told by keys that no other has together."""
NOTICE = (RecordReader("v1.1 notice", is_notice, _read_notice),)
NEXT = (RecordReader("v2 page", _is_v2_page, _read_v2_page),)
LAST = (
    RecordReader(
        "v1.1 tweet",
        lambda value: not value.keys().isdisjoint(("id_str", "full_text", "user")),
        single(v1_tweet),
    ),
    RecordReader(ID_AND_TEXT, lambda value: "id" in value and "text" in value, single(_any_row)),
    RecordReader("v2 page without tweets", _is_v2_empty, _read_v2_empty),
)
"""The same, told by less: behind all other shapes."""
