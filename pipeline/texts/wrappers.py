"""What other tools put around posts of any shape: search engines, databases, pages, maps.

Each yields the values inside (``Inner``), which are then read as records themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pipeline.texts.posts import Inner, Notice, Reading, Record, RecordReader, is_row

_LISTS = (
    "statuses", "posts", "feed", "records", "results", "tweets", "toots", "ancestors",
    "descendants", "data",
)  # fmt: skip
"""Keys under which answers and collections list their posts."""
_BULK = ("index", "create", "update", "delete")
_MAX_DEPTH = 64
_POST_ID = re.compile(r"\d+|at://.+|https?://.+|tag:.+", re.ASCII)


# --- Elasticsearch --------------------------------------------------------------------------------


def _is_elastic(value: Record) -> bool:
    if "_source" in value:
        return isinstance(value["_source"], dict)
    hits = value.get("hits")
    return isinstance(hits, dict) and isinstance(hits.get("hits"), list)


def _read_elastic(value: Record) -> Iterator[Reading | Inner]:
    if "_source" in value:
        yield Inner(value["_source"])
        return
    hits = value["hits"]["hits"]
    if not hits:
        yield Notice("page without posts")
    for hit in hits:
        yield Inner(hit["_source"] if isinstance(hit, dict) and "_source" in hit else hit)


def _is_bulk(value: Record) -> bool:
    """A line that says what to do with the next: ``{"index": {"_index": "tweets"}}``."""
    if len(value) != 1:
        return False
    action = next((value[key] for key in _BULK if key in value), None)
    if not isinstance(action, dict):
        return False
    # {"index": {}}            the index is in the address
    # {"delete": {"status": …  a message of v1.1
    return not action or not action.keys().isdisjoint(("_index", "_id"))


# --- MongoDB --------------------------------------------------------------------------------------


def _read_mongo(value: Record) -> Iterator[Inner]:
    """A document without its ``_id``, unless that is the post's; its numbers and times plain."""
    plain = _inside({key: part for key, part in value.items() if key != "_id"}, 0)
    id = _plain(value["_id"])
    is_own = not isinstance(value["_id"], dict) or "$oid" not in value["_id"]
    if is_own and isinstance(id, int | str) and plain.keys().isdisjoint(("id", "id_str", "uri")):
        plain["id"] = id
    yield Inner(plain)


def _plain(value: Any, depth: int = 0) -> Any:
    """Extended JSON, canonical or relaxed, as JSON; times as seconds or as they are written."""
    if isinstance(value, list):
        return [_plain(one, depth + 1) for one in value] if depth < _MAX_DEPTH else value
    if not isinstance(value, dict) or depth > _MAX_DEPTH:
        return value
    if len(value) == 1:
        ((key, inner),) = value.items()
        if key in ("$numberLong", "$numberInt"):
            return int(inner) if _is_number(inner) else inner
        if key == "$date":
            inner = _plain(inner, depth + 1)
            return inner // 1000 if isinstance(inner, int) else inner
        if key == "$oid":
            return inner
    return _inside(value, depth)


def _inside(value: Record, depth: int) -> dict[str, Any]:
    return {
        key: _plain(part, depth + 1) if type(part) in (dict, list) else part
        for key, part in value.items()
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, str) and len(value) < 40 and bool(re.fullmatch(r"-?[0-9]+", value))


# --- Zeeschuimer and 4CAT, pages, maps ------------------------------------------------------------


def _is_collected(value: Record) -> bool:
    return "item_id" in value and isinstance(value.get("data"), dict)


def _list(value: Record) -> str | None:
    """The key of a page's list of records."""
    for key in _LISTS:
        found = value.get(key)
        if not isinstance(found, list):
            continue
        if found and not any(isinstance(one, dict) for one in found[:8]):
            continue
        if not is_row(value) and (found or value.keys().isdisjoint(("id", "id_str"))):
            return key
    return None


def _read_list(value: Record) -> Iterator[Reading | Inner]:
    found = [one for key in _LISTS if isinstance(value.get(key), list) for one in value[key]]
    if not found:
        yield Notice("page without tweets")
    for one in found:
        yield Inner(one)


def _is_map(value: Record) -> bool:
    return any(isinstance(part, dict) for part in value.values()) and all(
        _POST_ID.fullmatch(key) for key in value
    )


def _read_map(value: Record) -> Iterator[Inner]:
    for id, post in value.items():
        has_id = not isinstance(post, dict) or _is_named(post)
        yield Inner(post if has_id else {**post, "id": id})


def _is_named(post: Record) -> bool:
    """Whether a post in a map has an id beside the map's key."""
    return not post.keys().isdisjoint(("id", "id_str", "uri", "rest_id", "_source", "did", "tweet"))


DATABASES = (
    RecordReader("elasticdump", _is_elastic, _read_elastic),
    RecordReader("mongodb", lambda value: "_id" in value, _read_mongo),
    RecordReader("bulk action", _is_bulk, lambda value: (Notice("bulk action"),)),
)
READERS = (
    RecordReader("zeeschuimer", _is_collected, lambda value: (Inner(value["data"]),)),
    RecordReader("page", _list, _read_list),
)
MAPS = (RecordReader("map", _is_map, _read_map),)
