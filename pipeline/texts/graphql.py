"""Tweets in the answers of the site's own interface, which scrapers keep: GraphQL, and before it
``globalObjects``.

An answer is walked for its tweets, whatever the query; those that quote or repeat hold others,
which are no tweets of the answer. Cursors, advertisements, people and tombstones are notices.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.texts.posts import (
    BadRecord,
    Notice,
    Post,
    Reading,
    Record,
    RecordReader,
    digits_id,
    guarded,
    is_row,
    not_known,
    optional,
    string,
    unreadable,
)
from pipeline.texts.twitter import fuller, lang_of, tweet_time, v1_tweet

_RESULTS = ("tweet_results", "tweetResult", "tweet_result")
_MARKS = frozenset((*_RESULTS, "rest_id", "entryId", "itemContent", "__typename", "cursorType"))
_WITHOUT_TWEET = {
    "TimelineTimelineCursor": "cursor",
    "TimelineUser": "user",
    "TimelineTombstone": "tombstone",
    "TweetTombstone": "tombstone",
    "TweetUnavailable": "unavailable",
    "TimelinePrompt": "prompt",
    "TimelineMessagePrompt": "prompt",
    "TimelineLabel": "label",
    "TimelineTrend": "trend",
    "TimelineTwitterList": "list",
    "TimelineCommunity": "community",
    "TimelineNotification": "notification",
    "TimelineSpelling": "spelling",
}
"""What a part of an answer calls itself -> the kind of notice."""
_TWEETS = frozenset(("Tweet", "TweetWithVisibilityResults"))


def _is_answer(value: Record) -> bool:
    if not value.keys().isdisjoint(_MARKS):
        return True
    if is_row(value):
        return False
    return isinstance(value.get("data"), dict) or any(
        isinstance(value.get(key), list) for key in ("instructions", "entries")
    )


def _read_answer(value: Record) -> Iterator[Reading]:
    num_found, is_answer = 0, "errors" in value
    waiting: list[Any] = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += reversed(node)
        if not isinstance(node, dict):
            continue
        is_answer = is_answer or "instructions" in node or not node.keys().isdisjoint(_MARKS)
        reading = _part(node)
        if reading is None:
            waiting += reversed(node.values())
        else:
            num_found += 1
            yield reading
    if not num_found:
        yield Notice("page without tweets") if is_answer else unreadable(not_known(value), value)


def _part(node: Record) -> Reading | None:
    """What one object of an answer is; None where it only holds others."""
    for key in _RESULTS:
        if key in node:
            if "promotedMetadata" in node:
                return Notice("promoted")
            found = node[key]
            if isinstance(found, list):
                return None
            return _result(found.get("result", found) if isinstance(found, dict) else found)
    if isinstance(node.get("legacy"), dict) and ("rest_id" in node or "id_str" in node["legacy"]):
        return _result(node)
    if "cursorType" in node:
        return Notice("cursor")
    for key in ("entryType", "itemType", "__typename"):
        name = node.get(key)
        if isinstance(name, str) and name in _WITHOUT_TWEET:
            return Notice(_WITHOUT_TWEET[name])
    if string(node, "__typename") in _TWEETS:
        return _result(node)
    return None


def _result(node: Any) -> Reading:
    if not node:  # {"tweet_results": {}}  of a tweet that is gone
        return Notice("unavailable")
    return guarded(node, _tweet)


def _unwrapped(node: Any) -> Any:
    """The tweet of ``TweetWithVisibilityResults``."""
    inner = node.get("tweet") if isinstance(node, dict) else None
    return inner if isinstance(inner, dict) else node


def _tweet(node: Record) -> Post | Notice:
    name = node.get("__typename")
    if isinstance(name, str) and name in _WITHOUT_TWEET:
        return Notice(_WITHOUT_TWEET[name])
    node = _unwrapped(node)
    legacy = node.get("legacy")
    if not isinstance(legacy, dict):
        if "tombstone" in node:
            return Notice("tombstone")
        raise BadRecord("no text: the tweet has no legacy part")
    if "screen_name" in legacy and "full_text" not in legacy:
        return Notice("user")
    id = digits_id(node, "rest_id") if "rest_id" in node else digits_id(legacy, "id_str")
    text, found = _text(node, legacy)
    result = legacy.get("retweeted_status_result")
    original = _unwrapped(result.get("result")) if isinstance(result, dict) else None
    if isinstance(original, dict) and isinstance(original.get("legacy"), dict):
        text, found = fuller(text, *_text(original, original["legacy"]))
    if text is None:
        raise BadRecord("no text")
    return Post(
        id=id,
        text=text,
        created_at=tweet_time(id, legacy.get("created_at")),
        lang=lang_of(legacy),
        author_id=_author(node) or optional(digits_id, legacy, "user_id_str"),
        is_retweet=isinstance(result, dict) or "retweeted_status_id_str" in legacy,
        found=found,
    )


def _inside(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _text(node: Record, legacy: Record) -> tuple[str | None, str]:
    note = _inside(node, "note_tweet", "note_tweet_results", "result")
    full = string(note, "text")
    if full is not None:
        return full, "long"
    return string(legacy, "full_text", "text"), ""


def _author(node: Record) -> str | None:
    for place in ("user_results", "user_result"):
        author = optional(digits_id, _inside(node, "core", place, "result"), "rest_id")
        if author is not None:
            return author
    return None


def _is_objects(value: Record) -> bool:
    objects = value.get("globalObjects")
    return isinstance(objects, dict) and isinstance(objects.get("tweets"), dict)


def _read_objects(value: Record) -> Iterator[Reading]:
    """Retweets name the tweet that they repeat, which is among the others."""
    tweets = value["globalObjects"]["tweets"]
    if not tweets:
        yield Notice("page without tweets")
    for tweet in tweets.values():
        original = tweets.get(string(tweet, "retweeted_status_id_str"))
        whole = tweet if original is None else {**tweet, "retweeted_status": original}
        yield guarded(whole, v1_tweet)


READERS = (
    RecordReader("globalObjects", _is_objects, _read_objects),
    RecordReader("graphql", _is_answer, _read_answer),
)
