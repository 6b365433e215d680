"""Posts as tools write them in JSON of their own: snscrape, twscrape, twint, scrapers for hire; and
Reddit's comments and submissions as archives of them have it.
"""

from __future__ import annotations

import re
from typing import Any

from pipeline.texts.markup import plain_text
from pipeline.texts.posts import (
    NO_TEXT,
    BadRecord,
    Notice,
    Post,
    Record,
    RecordReader,
    any_id,
    digits_id,
    language,
    optional,
    single,
    string,
    time_of,
)
from pipeline.texts.twitter import fuller, lang_of, tweet_time

_TWEET_URL = re.compile(
    r"https?://(?:www\.|mobile\.)?(?:twitter|x)\.com/[^/?#]+/status(?:es)?/(\d+)", re.ASCII
)
_GONE = frozenset(("[deleted]", "[removed]", "[deleted by user]"))


def _of_twitter(value: Record) -> str | None:
    """The tweet's id in the URL of a record, if it is one of Twitter."""
    match = _TWEET_URL.match(string(value, "url", "twitterUrl", "link", "permalink") or "")
    return match.group(1) if match else None


# --- snscrape, twscrape ---------------------------------------------------------------------------


def _module(value: Record) -> str:
    """``twitter`` of ``snscrape.modules.twitter.Tweet``."""
    name = value.get("_type")
    parts = name.split(".") if isinstance(name, str) else []
    return parts[2] if len(parts) > 2 and parts[0] == "snscrape" else ""


def _is_snscrape(value: Record) -> bool:
    if "rawContent" in value or "renderedContent" in value:
        return True
    return ("_type" in value and _module(value) != "") or _is_old_snscrape(value)


def _is_old_snscrape(value: Record) -> bool:
    return "content" in value and "date" in value and _of_twitter(value) is not None


def _snscrape(value: Record) -> Post | Notice:
    module = _module(value)
    if module == "mastodon":
        return _toot(value)
    if module not in ("", "twitter"):
        raise BadRecord(f"no post of a known network: _type is {value['_type'][:60]!r}")
    kind = str(value.get("_type", "")).rpartition(".")[2]
    if kind in ("Tombstone", "TweetRef", "User"):
        return Notice(kind.lower())
    id = digits_id(value, "id_str", "id") if "id" in value or "id_str" in value else None
    id = id or _of_twitter(value)
    if id is None:
        raise BadRecord("no id")
    text, found = string(value, "rawContent", "content", "renderedContent"), ""
    original = value.get("retweetedTweet")
    if isinstance(original, dict):
        text, found = fuller(text, string(original, "rawContent", "content", "renderedContent"), "")
    if text is None:
        raise BadRecord("no text")
    return Post(
        id=id,
        text=text,
        created_at=tweet_time(id, value.get("date"), value.get("created_at")),
        lang=lang_of(value),
        author_id=optional(digits_id, value.get("user"), "id_str", "id"),
        is_retweet=isinstance(original, dict),
        found=found,
    )


def _toot(value: Record) -> Post | Notice:
    content = string(value, "content")
    if content is None:
        raise BadRecord("no text")
    text = plain_text(content)
    if not text:
        return Notice(NO_TEXT)
    return Post(
        id=any_id(value, "id", "url"),
        text=text,
        created_at=time_of(value.get("date")),
        lang=None,
        author_id=optional(any_id, value.get("user"), "id", "account"),
        platform="mastodon",
    )


# --- twint ----------------------------------------------------------------------------------------


def _is_twint(value: Record) -> bool:
    return (
        isinstance(value.get("tweet"), str)
        and "id" in value
        and not value.keys().isdisjoint(("conversation_id", "user_id", "username", "date"))
    )


def _twint(value: Record) -> Post:
    id = digits_id(value, "id")
    return Post(
        id=id,
        text=value["tweet"],
        created_at=_twint_time(id, value),
        lang=language(value.get("language", value.get("lang"))),
        author_id=optional(digits_id, value, "user_id"),
        is_retweet=value.get("retweet") is True,
    )


def _twint_time(id: str, value: Record) -> int | None:
    date, time, zone = (string(value, key) for key in ("date", "time", "timezone"))
    whole = " ".join(part for part in (date, time, zone) if part) if date and time else None
    return tweet_time(id, value.get("created_at"), whole, date)


# --- scrapers for hire ----------------------------------------------------------------------------


def _is_hired(value: Record) -> bool:
    return ("fullText" in value or "text" in value) and _of_twitter(value) is not None


def _hired(value: Record) -> Post:
    id = digits_id(value, "id_str", "id") if "id" in value or "id_str" in value else None
    id = id or _of_twitter(value)
    text, found = string(value, "fullText", "full_text", "text"), ""
    original = value.get("retweet", value.get("retweetedTweet"))
    if isinstance(original, dict):
        text, found = fuller(text, string(original, "fullText", "full_text", "text"), "")
    if id is None or text is None:
        raise BadRecord("no text" if id else "no id")
    times: list[Any] = [value.get(key) for key in ("createdAt", "created_at", "timestamp")]
    return Post(
        id=id,
        text=text,
        created_at=tweet_time(id, *times),
        lang=lang_of(value),
        author_id=optional(digits_id, value.get("author", value.get("user")), "id_str", "id")
        or optional(digits_id, value, "user_id_str", "userId"),
        is_retweet=isinstance(original, dict) or value.get("isRetweet") is True,
        found=found,
    )


# --- Reddit ---------------------------------------------------------------------------------------


def _is_reddit(value: Record) -> bool:
    return "subreddit" in value and ("body" in value or "selftext" in value) and "id" in value


def _reddit(value: Record) -> Post | Notice:
    """A comment's text, or a submission's title and text; the id with what it is of: ``t1_abc``."""
    is_comment = "body" in value
    name, id = optional(any_id, value, "name"), any_id(value, "id")
    parts = [string(value, "body")] if is_comment else [string(value, "title", "selftext")]
    if not is_comment and "title" in value:
        parts.append(string(value, "selftext"))
    if all(part is None for part in parts):
        raise BadRecord("no text")
    text = "\n".join(part for part in parts if part and part not in _GONE)
    if not text.strip():
        return Notice(NO_TEXT)
    author = optional(any_id, value, "author_fullname", "author")
    return Post(
        id=name or f"{'t1' if is_comment else 't3'}_{id}",
        text=text,
        created_at=time_of(*map(_whole, (value.get("created_utc"), value.get("created")))),
        lang=None,
        author_id=None if author in _GONE else author,
        platform="reddit",
    )


def _whole(value: Any) -> Any:
    return str(value) if isinstance(value, float) else value


READERS = (
    RecordReader("snscrape", _is_snscrape, single(_snscrape)),
    RecordReader("twint", _is_twint, single(_twint)),
    RecordReader("scraped tweet", _is_hired, single(_hired)),
    RecordReader("reddit", _is_reddit, single(_reddit)),
)
