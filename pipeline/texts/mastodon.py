"""Posts of Mastodon and of all that speak its API or ActivityPub; their HTML becomes text.

A status of the API has the server's id; a boost has its own, and the text of the post it repeats.
An ActivityPub note has its URL as id. A content warning (``spoiler_text``, ``summary``) is no part
of the text: it names what the post is about, often with one word for many posts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.texts.framing import loads
from pipeline.texts.markup import plain_text
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
    unreadable,
)

_EVENTS = frozenset(
    {
        "delete", "notification", "filters_changed", "conversation", "announcement",
        "announcement.reaction", "announcement.delete", "status.update", "encrypted_message",
        "notifications_merged",
    }
)  # fmt: skip
_COLLECTIONS = frozenset(
    ("OrderedCollection", "OrderedCollectionPage", "Collection", "CollectionPage")
)
_ACTIVITIES = frozenset(
    {
        "Accept", "Add", "Announce", "Arrive", "Block", "Create", "Delete", "Dislike",
        "EmojiReact", "Flag", "Follow", "Ignore", "Invite", "Join", "Leave", "Like", "Listen",
        "Move", "Offer", "Read", "Reject", "Remove", "TentativeAccept", "TentativeReject",
        "Travel", "Undo", "Update", "View",
    }
)  # fmt: skip
_OBJECTS = frozenset(
    {
        "Article", "Audio", "ChatMessage", "Document", "Event", "Image", "Note", "Page", "Place",
        "Profile", "Question", "Relationship", "Tombstone", "Video", "Person", "Service", "Group",
        "Organization", "Application",
    }
)  # fmt: skip
_TYPES = _COLLECTIONS | _ACTIVITIES | _OBJECTS
_MARKS = frozenset(
    ("@context", "actor", "attributedTo", "object", "orderedItems", "items", "inbox", "first")
)


# --- the API --------------------------------------------------------------------------------------


def _is_status(value: Record) -> bool:
    return "content" in value and "id" in value and isinstance(value.get("account"), dict)


def _status(value: Record) -> Post | Notice:
    id = any_id(value, "id")
    boosted = value.get("reblog")
    shown = boosted if isinstance(boosted, dict) else value
    content = shown.get("content")
    if not isinstance(content, str):
        raise BadRecord("no text")
    text = plain_text(content)
    if not text:
        return Notice(NO_TEXT)
    return Post(
        id=id,
        text=text,
        created_at=time_of(value.get("created_at"), shown.get("created_at")),
        lang=language(shown.get("language")) or language(value.get("language")),
        author_id=optional(any_id, value["account"], "id"),
        is_retweet=shown is boosted,
        platform="mastodon",
    )


def _is_event(value: Record) -> bool:
    return isinstance(value.get("event"), str) and not value.keys().isdisjoint(
        ("payload", "stream")
    )


def _read_event(value: Record) -> Iterator[Reading | Inner]:
    """A message of the streaming API; the payload of ``update`` is a status, as JSON text."""
    if value["event"] != "update":
        yield Notice(known(value["event"], _EVENTS))
        return
    payload = value.get("payload")
    if isinstance(payload, str):
        try:
            payload = loads(payload.encode("utf-8", "surrogatepass"))
        except ValueError as error:
            yield unreadable(f"payload: {error}", value)
            return
    yield Inner(payload)


# --- ActivityPub ----------------------------------------------------------------------------------


def _is_activity(value: Record) -> bool:
    kind = value.get("type")
    return isinstance(kind, str) and kind in _TYPES and not value.keys().isdisjoint(_MARKS)


def _read_activity(value: Record) -> Iterator[Reading]:
    if value["type"] not in _COLLECTIONS:
        yield guarded(value, _activity)
        return
    items = value.get("orderedItems", value.get("items"))
    if not isinstance(items, list):
        items = [] if items is None else [items]
    if not items and isinstance(page := value.get("first"), dict):
        items = page.get("orderedItems", page.get("items"))
    if not isinstance(items, list) or not items:
        yield Notice("page without posts")
        return
    for item in items:
        # The export's lists of likes and bookmarks are URLs of posts.
        yield Notice("link") if isinstance(item, str) else guarded(item, _activity)


def _activity(value: Record) -> Post | Notice:
    kind = value.get("type")
    if kind == "Note":
        return _note(value, value.get("attributedTo"), None)
    note = value.get("object")
    if kind != "Create" or not isinstance(note, dict):
        return Notice(known(kind, _TYPES))
    if note.get("type") != "Note":
        return Notice(known(note.get("type"), _TYPES))
    return _note(note, note.get("attributedTo", value.get("actor")), value.get("published"))


def _note(note: Record, author: Any, published: Any) -> Post | Notice:
    id = any_id(note, "id")
    content, lang = _content(note)
    if content is None:
        return Notice(NO_TEXT)
    text = plain_text(content)
    if not text:
        return Notice(NO_TEXT)
    return Post(
        id=id,
        text=text,
        created_at=time_of(note.get("published"), published),
        lang=lang,
        author_id=_person(author),
        platform="mastodon",
    )


def _content(note: Record) -> tuple[str | None, str | None]:
    """A note's HTML, and its language if it says that."""
    content = string(note, "content")
    by_language = note.get("contentMap")
    if isinstance(by_language, dict):
        for lang, translation in by_language.items():
            if isinstance(translation, str) and (content is None or translation == content):
                return translation, None if lang == "und" else language(lang)
    return content, None


def _person(author: Any) -> str | None:
    if isinstance(author, list):
        author = author[0] if author else None
    if isinstance(author, str):
        return join_surrogates(author) or None
    return optional(any_id, author, "id")


STREAM = (RecordReader("mastodon stream", _is_event, _read_event),)
READERS = (
    RecordReader("mastodon status", _is_status, single(_status)),
    RecordReader("activitypub", _is_activity, _read_activity),
)
