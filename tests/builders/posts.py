"""Made-up posts in every shape that is read: ``SHAPES[name](3)`` is a record with one post.

The text is ``TEXTS[n]``, in English, by person ``70 + n``, created n minutes after ``START``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from html import escape
from typing import Any

START = 1793782800
TEXTS = (
    "Finally a train on time, what a morning",
    "The café on the corner raised its prices again 😒",
    "Rain all week & I love it",
    "No idea why the app logs me out every hour",
)
FIRST = 9_000_000_000_000_000_000
"""A tweet's id beyond 2**53."""


def text(number: int) -> str:
    return TEXTS[number % len(TEXTS)]


def iso(number: int) -> str:
    return f"{datetime.fromtimestamp(START + 60 * number, UTC):%Y-%m-%dT%H:%M:%S.000Z}"


def twitter_time(number: int) -> str:
    return f"{datetime.fromtimestamp(START + 60 * number, UTC):%a %b %d %H:%M:%S +0000 %Y}"


def tweet(number: int, **extra: Any) -> dict[str, Any]:
    """A tweet of the v1.1 interface."""
    return {
        "created_at": twitter_time(number),
        "id": FIRST + number,
        "id_str": str(FIRST + number),
        "text": text(number),
        "lang": "en",
        "user": {"id": 70 + number, "id_str": str(70 + number), "screen_name": "someone"},
        **extra,
    }


def v2_tweet(number: int, **extra: Any) -> dict[str, Any]:
    return {
        "id": str(FIRST + number),
        "text": text(number),
        "created_at": iso(number),
        "lang": "en",
        "author_id": str(70 + number),
        **extra,
    }


def activity(number: int, **extra: Any) -> dict[str, Any]:
    """A post of GNIP."""
    return {
        "id": f"tag:search.twitter.com,2005:{FIRST + number}",
        "objectType": "activity",
        "verb": "post",
        "postedTime": iso(number),
        "actor": {"objectType": "person", "id": f"id:twitter.com:{70 + number}"},
        "body": text(number),
        "twitter_lang": "en",
        "object": {"objectType": "note", "summary": text(number)},
        **extra,
    }


def did(number: int) -> str:
    return f"did:plc:{70 + number}"


def at_uri(number: int, collection: str = "app.bsky.feed.post") -> str:
    return f"at://{did(number)}/{collection}/3l{number}"


def sky_record(number: int, **extra: Any) -> dict[str, Any]:
    return {
        "$type": "app.bsky.feed.post",
        "createdAt": iso(number),
        "langs": ["en-GB"],
        "text": text(number),
        **extra,
    }


def jetstream(number: int, **commit: Any) -> dict[str, Any]:
    return {
        "did": did(number),
        "time_us": (START + 60 * number) * 1_000_000,
        "kind": "commit",
        "commit": {
            "operation": "create",
            "collection": "app.bsky.feed.post",
            "rkey": f"3l{number}",
            "record": sky_record(number),
            **commit,
        },
    }


def sky_post(number: int, **extra: Any) -> dict[str, Any]:
    """A post of Bluesky as its interface shows it."""
    return {
        "uri": at_uri(number),
        "cid": "bafy",
        "author": {"did": did(number), "handle": "someone.example"},
        "record": sky_record(number),
        "indexedAt": iso(number),
        **extra,
    }


def html(number: int) -> str:
    return f"<p>{escape(text(number))}</p>"


def status(number: int, **extra: Any) -> dict[str, Any]:
    """A post of Mastodon."""
    return {
        "id": str(114_000_000_000_000_000 + number),
        "created_at": iso(number),
        "language": "en",
        "content": html(number),
        "spoiler_text": "",
        "account": {"id": str(70 + number), "acct": "someone@example.social"},
        "reblog": None,
        **extra,
    }


def note(number: int, **extra: Any) -> dict[str, Any]:
    return {
        "id": f"https://example.social/users/{70 + number}/statuses/{number}",
        "type": "Note",
        "content": html(number),
        "contentMap": {"en": html(number)},
        "published": iso(number),
        "attributedTo": f"https://example.social/users/{70 + number}",
        **extra,
    }


def create(number: int, **extra: Any) -> dict[str, Any]:
    """An activity of an ActivityPub outbox."""
    return {
        "id": f"{note(number)['id']}/activity",
        "type": "Create",
        "actor": note(number)["attributedTo"],
        "published": iso(number),
        "object": note(number),
        **extra,
    }


def result(number: int, **extra: Any) -> dict[str, Any]:
    """A tweet of the site's own interface."""
    return {
        "__typename": "Tweet",
        "rest_id": str(FIRST + number),
        "core": {"user_results": {"result": {"__typename": "User", "rest_id": str(70 + number)}}},
        "legacy": {
            "created_at": twitter_time(number),
            "full_text": text(number),
            "lang": "en",
            "id_str": str(FIRST + number),
            "user_id_str": str(70 + number),
        },
        **extra,
    }


def item(found: Any, **extra: Any) -> dict[str, Any]:
    content = {"itemType": "TimelineTweet", "tweet_results": {"result": found}, **extra}
    return {"entryType": "TimelineTimelineItem", "itemContent": content}


def answer(*entries: Any) -> dict[str, Any]:
    instructions = [
        {"type": "TimelineClearCache"},
        {
            "type": "TimelineAddEntries",
            "entries": [{"entryId": f"e-{n}", "content": one} for n, one in enumerate(entries)],
        },
    ]
    timeline = {"timeline": {"instructions": instructions}}
    return {"data": {"user": {"result": {"__typename": "User", "timeline_v2": timeline}}}}


def snscraped(number: int, **extra: Any) -> dict[str, Any]:
    return {
        "_type": "snscrape.modules.twitter.Tweet",
        "url": f"https://twitter.com/someone/status/{FIRST + number}",
        "date": iso(number).replace(".000Z", "+00:00"),
        "rawContent": text(number),
        "renderedContent": text(number),
        "id": FIRST + number,
        "lang": "en",
        "user": {"id": 70 + number},
        **extra,
    }


def twinted(number: int, **extra: Any) -> dict[str, Any]:
    return {
        "id": FIRST + number,
        "conversation_id": str(FIRST + number),
        "date": iso(number)[:10],
        "time": iso(number)[11:19],
        "timezone": "+0000",
        "user_id": 70 + number,
        "tweet": text(number),
        "language": "en",
        **extra,
    }


def stored(number: int) -> dict[str, Any]:
    """A tweet as MongoDB exports it."""
    document = tweet(
        number, id={"$numberLong": str(FIRST + number)}, created_at={"$date": iso(number)}
    )
    return {"_id": {"$oid": f"{number:024x}"}, **document}


SHAPES: dict[str, Callable[[int], Any]] = {
    "v1.1 tweet": tweet,
    "v2 stream": lambda number: {"data": v2_tweet(number)},
    "v2 flat": v2_tweet,
    "v2 page": lambda number: {"data": [v2_tweet(number)], "meta": {}},
    "archived note": lambda number: {
        "noteTweet": {
            "noteTweetId": str(FIRST + number),
            "createdAt": iso(number),
            "core": {"text": text(number)},
        }
    },
    "gnip activity": activity,
    "bluesky jetstream": jetstream,
    "bluesky post": sky_post,
    "bluesky feed item": lambda number: {"post": sky_post(number)},
    "bluesky thread": lambda number: {"thread": {"post": sky_post(number), "replies": []}},
    "bluesky flat": lambda number: {
        "uri": at_uri(number),
        "text": text(number),
        "created_at": iso(number),
        "langs": ["en"],
        "author": did(number),
    },
    "bluesky tap": lambda number: {
        "type": "record",
        "record": {"did": did(number), "action": "create", **jetstream(number)["commit"]},
    },
    "mastodon status": status,
    "activitypub": create,
    "graphql": lambda number: answer(item(result(number))),
    "globalObjects": lambda number: {
        "globalObjects": {
            "tweets": {str(FIRST + number): tweet(number, user=None, user_id_str=str(70 + number))}
        }
    },
    "snscrape": snscraped,
    "twint": twinted,
    "scraped tweet": lambda number: {
        "url": f"https://x.com/someone/status/{FIRST + number}",
        "id": str(FIRST + number),
        "fullText": text(number),
        "text": text(number)[:20] + "…",
        "createdAt": twitter_time(number),
        "author": {"id": str(70 + number)},
        "lang": "en",
    },
    "reddit": lambda number: {
        "id": f"k{number}",
        "subreddit": "trains",
        "body": text(number),
        "created_utc": START + 60 * number,
        "author": str(70 + number),
    },
    "mastodon status in mastodon stream": lambda number: {
        "stream": ["public"],
        "event": "update",
        "payload": json.dumps(status(number)),
    },
    "v1.1 tweet in elasticdump": lambda number: {
        "_index": "t",
        "_id": str(number),
        "_source": tweet(number),
    },
    "v1.1 tweet in mongodb": stored,
    "v1.1 tweet in archive": lambda number: {"tweet": tweet(number)},
    "graphql in zeeschuimer": lambda number: {
        "item_id": str(FIRST + number),
        "source_platform": "twitter.com",
        "data": {**result(number), "id": str(FIRST + number)},
    },
    "bluesky post in page": lambda number: {"posts": [sky_post(number)], "cursor": "1"},
    "v1.1 tweet in map": lambda number: {str(FIRST + number): tweet(number)},
}
"""The name under which a shape is counted -> its record number n."""
