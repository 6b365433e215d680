"""Posts of Bluesky: Jetstream's commits, views and feeds of the API, records of a repository.

A post's id is its URI, ``at://DID/app.bsky.feed.post/RKEY``, and the author's the DID. Of a stream
only created posts are read; deletes, edits, likes and what happens to accounts are notices.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.texts.normalise import join_surrogates
from pipeline.texts.posts import (
    NO_TEXT,
    BadRecord,
    Inner,
    Notice,
    Post,
    Reading,
    Record,
    RecordReader,
    any_id,
    guarded,
    known,
    language,
    optional,
    single,
    string,
    time_of,
)

_POSTS = "app.bsky.feed.post"
_KINDS = frozenset(
    {
        "identity", "account", "handle", "tombstone", "info", "update", "delete", "like",
        "repost", "follow", "block", "list", "listitem", "listblock", "profile", "threadgate",
        "postgate", "generator", "starterpack", "verification", "status",
    }
)  # fmt: skip
_OPERATIONS = {"c": "create", "u": "update", "d": "delete"}
"""As the first Jetstreams had them."""
_ANSWERS = frozenset(
    ("app.bsky.feed.defs#notFoundPost", "app.bsky.feed.defs#blockedPost", "notFound", "blocked")
)


def _is_event(value: Record) -> bool:
    return "did" in value and ("commit" in value or "time_us" in value)


def _event(value: Record) -> Post | Notice:
    commit = value.get("commit")
    if not isinstance(commit, dict):
        return Notice(known(value.get("kind", value.get("type")), _KINDS))
    return _commit(commit, value.get("did"), value.get("time_us"))


def _is_tap(value: Record) -> bool:
    record = value.get("record")
    return isinstance(record, dict) and "collection" in record and "did" in record


def _tap(value: Record) -> Post | Notice:
    return _commit(value["record"], value["record"]["did"], None)


def _commit(commit: Record, did: Any, time_us: Any) -> Post | Notice:
    """One operation on a repository."""
    operation = commit.get("operation", commit.get("action", commit.get("type")))
    operation = _OPERATIONS.get(operation, operation) if isinstance(operation, str) else None
    collection = commit.get("collection")
    if collection != _POSTS:
        name = collection.rpartition(".")[2] if isinstance(collection, str) else None
        return Notice(known(name, _KINDS))
    if operation != "create":
        return Notice(known(operation, _KINDS))
    rkey = commit.get("rkey")
    if not (isinstance(did, str) and did and isinstance(rkey, str) and rkey):
        raise BadRecord("no id: did and rkey make it")
    seconds = time_us // 1_000_000 if isinstance(time_us, int) else None
    return _post(f"at://{did}/{_POSTS}/{rkey}", commit.get("record"), did, seconds)


def _post(
    uri: str, record: Any, author: str | None, *times: Any, is_retweet: bool = False
) -> Post | Notice:
    if not isinstance(record, dict):
        raise BadRecord("no text: there is no record of the post")
    text = record.get("text")
    if not isinstance(text, str):
        raise BadRecord("no text")
    if not text.strip():
        return Notice(NO_TEXT)
    languages = record.get("langs")
    return Post(
        id=join_surrogates(uri),
        text=text,
        created_at=time_of(record.get("createdAt"), record.get("created_at"), *times),
        lang=language(languages[0]) if isinstance(languages, list) and languages else None,
        author_id=join_surrogates(author) if author else None,
        is_retweet=is_retweet,
        platform="bluesky",
    )


def _is_uri(uri: Any) -> bool:
    return isinstance(uri, str) and uri.startswith("at://")


def _uri(value: Record) -> str:
    """A post's URI; of an entry of a map its key, which is its ``id``; empty without."""
    return next((value[key] for key in ("uri", "id") if _is_uri(value.get(key))), "")


def _did(uri: str) -> str | None:
    return uri.removeprefix("at://").partition("/")[0] or None


def _is_view(value: Record) -> bool:
    """``getPosts``, ``searchPosts`` (record); ``listRecords`` (value)."""
    return ("record" in value or "value" in value) and _uri(value) != ""


def _view(value: Record) -> Post | Notice:
    uri, record = _uri(value), value.get("record", value.get("value"))
    kind = string(record, "$type")
    if f"/{_POSTS}/" not in uri or kind not in (None, _POSTS):
        return Notice(known((kind or uri.rpartition("/")[0]).rpartition(".")[2], _KINDS))
    author = value.get("author")
    did = author if isinstance(author, str) else string(author, "did")
    times = (value.get("indexedAt"), value.get("indexed_at"))
    return _post(uri, record, did or _did(uri), *times)


def _is_feed_item(value: Record) -> bool:
    post = value.get("post")
    return isinstance(post, dict) and _is_uri(post.get("uri")) and "record" in post


def _feed_item(value: Record) -> Post | Notice:
    """A post as a feed shows it; a repost is an item of its own where the feed gives its URI."""
    found = _view(value["post"])
    reason = value.get("reason")
    if not isinstance(found, Post) or not isinstance(reason, dict):
        return found
    if not (string(reason, "$type") or "").endswith("Repost"):
        return found
    uri, by = string(reason, "uri"), reason.get("by")
    return Post(
        id=join_surrogates(uri) if uri else found.id,
        text=found.text,
        created_at=time_of(reason.get("indexedAt")) if uri else found.created_at,
        lang=found.lang,
        author_id=(optional(any_id, by, "did") if uri else None) or found.author_id,
        is_retweet=True,
        platform="bluesky",
    )


def _is_thread(value: Record) -> bool:
    thread = value.get("thread")
    return isinstance(thread, dict) and not thread.keys().isdisjoint(("post", "$type"))


def _read_thread(value: Record) -> Iterator[Reading | Inner]:
    """The post, those above it and those below; however deep they are."""
    waiting: list[Any] = [value["thread"]]
    while waiting:
        item = waiting.pop()
        if not isinstance(item, dict):
            continue
        if "post" in item:
            yield guarded(item["post"], _shown)
        elif not _ANSWERS.isdisjoint((string(item, "$type") or "", *item.keys())):
            yield Notice("post not shown")
        else:
            yield Inner(item)
        replies = item.get("replies")
        waiting += reversed(replies if isinstance(replies, list) else [])
        waiting.append(item.get("parent"))


def _shown(value: Record) -> Post | Notice:
    if not _is_view(value):
        raise BadRecord("no post of Bluesky: it lacks uri or record")
    return _view(value)


def _is_missing(value: Record) -> bool:
    return _is_uri(value.get("uri")) and not _ANSWERS.isdisjoint(value.keys())


def _is_flat(value: Record) -> bool:
    return isinstance(value.get("text"), str) and _uri(value) != ""


def _flat(value: Record) -> Post | Notice:
    uri = _uri(value)
    author = value.get("author")
    did = author if isinstance(author, str) else string(author, "did")
    times = (value.get("indexedAt"), value.get("indexed_at"))
    return _post(uri, value, did or string(value, "did") or _did(uri), *times)


def _bare(value: Record) -> Post | Notice:
    raise BadRecord("no id: a record of Bluesky without the URI that it has in its repository")


STREAM = (RecordReader("bluesky jetstream", _is_event, single(_event)),)
READERS = (
    RecordReader("bluesky post", _is_view, single(_view)),
    RecordReader("bluesky feed item", _is_feed_item, single(_feed_item)),
    RecordReader("bluesky thread", _is_thread, _read_thread),
    RecordReader("bluesky tap", _is_tap, single(_tap)),
    RecordReader("bluesky missing", _is_missing, lambda value: (Notice("post not shown"),)),
    RecordReader("bluesky flat", _is_flat, single(_flat)),
    RecordReader("bluesky record", lambda value: value.get("$type") == _POSTS, single(_bare)),
)
