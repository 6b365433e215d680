"""Activities of GNIP and PowerTrack: tweets as Activity Streams, from historical and academic buys.

A share has the text of the activity that it repeats. Messages of the stream (``info``, ``error``)
and activities that say what became of a tweet (``delete``) are notices.
"""

from __future__ import annotations

import re

from pipeline.texts.posts import (
    BadRecord,
    Notice,
    Post,
    Record,
    RecordReader,
    known,
    language,
    single,
    string,
)
from pipeline.texts.twitter import fuller, tweet_time

_MESSAGES = ("info", "error", "warn", "warning")
_VERBS = frozenset(
    {
        "delete", "scrub_geo", "status_withheld", "user_withheld", "tweet_edit", "favorite",
        "follow", "unfollow", "block", "unblock", "mute", "unmute", "user_delete",
        "user_undelete", "user_protect", "user_unprotect", "user_suspend", "user_unsuspend",
        "user_profile_modification",
    }
)  # fmt: skip
_TWEET_ID = re.compile(r"(?:tag|object):search\.twitter\.com,\d{4}:(\d+)", re.ASCII)
_PERSON_ID = re.compile(r"(?:id:twitter\.com:)?(\d+)", re.ASCII)


def _is_activity(value: Record) -> bool:
    return "objectType" in value and ("verb" in value or "body" in value)


def _is_message(value: Record) -> bool:
    if len(value) > 2:
        return False
    return any(isinstance(value.get(key), dict) and "message" in value[key] for key in _MESSAGES)


def _message(value: Record) -> Notice:
    return Notice(next(key for key in _MESSAGES if key in value))


def _activity(value: Record) -> Post | Notice:
    verb = value.get("verb", "post")
    if verb not in ("post", "share"):
        return Notice(known(verb, _VERBS))
    named = string(value, "id")
    match = _TWEET_ID.fullmatch(named or "")
    if match is None:
        raise BadRecord(
            "no id" if named is None else f"no tweet id: {named[:80]!r} is of another network"
        )
    id, (text, found) = match.group(1), _text(value)
    original = value.get("object")
    is_share = verb == "share"
    if is_share and isinstance(original, dict):
        text, found = fuller(text, *_text(original))
    if text is None:
        raise BadRecord("no text")
    return Post(
        id=id,
        text=text,
        created_at=tweet_time(id, value.get("postedTime")),
        lang=_language(value),
        author_id=_person(value.get("actor")),
        is_retweet=is_share,
        found=found,
    )


def _text(value: Record) -> tuple[str | None, str]:
    """The fullest text of an activity by itself, and what there is to say about it."""
    full = string(value.get("long_object"), "body")
    if full is not None:
        return full, "long"
    return string(value, "body", "summary"), ""


def _language(value: Record) -> str | None:
    own = string(value, "twitter_lang")
    if own is not None:
        return language(own)
    gnip = value.get("gnip")
    found = gnip.get("language") if isinstance(gnip, dict) else None
    return language(string(found, "value") if isinstance(found, dict) else found)


def _person(actor: object) -> str | None:
    match = _PERSON_ID.fullmatch(string(actor, "id") or "")
    return match.group(1) if match else None


READERS = (
    RecordReader("gnip activity", _is_activity, single(_activity)),
    RecordReader("gnip message", _is_message, single(_message)),
)
