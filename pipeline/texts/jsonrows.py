"""Files of JSON objects, a row each: JSON lines, printed ones, arrays.

A column is a key, or a path through objects and lists: ``data.text``, ``labels.0.name``. A key that
has dots itself goes before a path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.texts.blocks import (
    Blocks,
    RowBlock,
    Wanted,
    as_text,
    missing_column,
    num_chars,
)
from pipeline.texts.containers import members
from pipeline.texts.framing import Unreadable, json_values, shown
from pipeline.texts.normalise import join_surrogates

_SHOWN_NAMES = 1000
_SHOWN_ROWS = 20
_SHOWN_ITEMS = 3
_DEEPEST = 4
_NOTHING = object()
_NOT_UTF8 = "not UTF-8"


def read_jsonl(path: Path, wanted: Wanted) -> Iterator[RowBlock]:
    """The wanted values of every object; a column may be absent from some of them."""
    rows, lacking = Blocks(wanted), dict.fromkeys(wanted.columns)
    columns, nested = wanted.columns, any("." in name for name in wanted.columns)
    found: dict[str, None] = {}
    num_rows = 0
    for line, record in _json_records(path, wanted):
        num_rows += 1
        if num_rows <= wanted.block_rows and lacking:
            lacking = {name: None for name in lacking if at(record, name) is _NOTHING}
            if lacking and len(found) < _SHOWN_NAMES:
                depth = _DEEPEST if num_rows <= _SHOWN_ROWS else 1
                found.update(dict.fromkeys(_paths(record, depth)))
        if num_rows == wanted.block_rows and lacking:
            break
        try:
            found_here = _nested(record, columns) if nested else [*map(record.get, columns)]
            if isinstance(found_here[0], dict | list):
                wanted.on_bad(line, _no_text(columns[0], found_here[0]), shown(found_here[0]))
                continue
            values = [_joined(as_text(one)) for one in found_here]
        except RecursionError:
            wanted.on_bad(line, "nested too deeply", "")
            continue
        if rows.add(values, line, num_chars(values)):
            yield from rows.block()
    if num_rows and lacking:
        raise missing_column(path, next(iter(lacking)), found)
    yield from rows.block()


def _no_text(column: str, value: Any) -> str:
    """What to say of an object or a list where a text was expected."""
    paths = [f"{column}.{path}" for path in _paths(value, _DEEPEST)]
    what = "an object" if isinstance(value, dict) else "a list"
    return f"{column!r} holds {what}, no text" + (
        f"; name what is in it, such as {paths[0]!r}" if paths else ""
    )


def _nested(record: dict[str, Any], columns: Sequence[str]) -> list[Any]:
    found = (at(record, name) for name in columns)
    return [None if one is _NOTHING else one for one in found]


def at(value: Any, path: str) -> Any:
    """What lies at a path of keys and places; ``_NOTHING`` where nothing does."""
    while True:
        if isinstance(value, dict) and path in value:
            return value[path]
        key, dot, rest = path.partition(".")
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return _NOTHING
        if not dot:
            return value
        path = rest


def _paths(value: Any, depth: int) -> Iterator[str]:
    """The names that columns of an object can have, for messages."""
    if isinstance(value, dict):
        items = [(key, one) for key, one in value.items() if isinstance(key, str)]
    else:
        items = [(str(place), one) for place, one in enumerate(value[:_SHOWN_ITEMS])]
    for key, one in items:
        if isinstance(one, dict | list) and one and depth > 1:
            yield from (f"{key}.{path}" for path in _paths(one, depth - 1))
        else:
            yield key


def _joined(value: str | None) -> str | None:
    return None if value is None else join_surrogates(value)


def _json_records(path: Path, wanted: Wanted) -> Iterator[tuple[int, dict[str, Any]]]:
    for member in members(path):
        encoding, limit = wanted.layout.encoding, wanted.max_line_bytes
        for item in json_values(member.chunks, max_bytes=limit, encoding=encoding):
            if isinstance(item, Unreadable):
                wanted.on_bad(item.line, _reason(item, encoding), item.excerpt)
            elif isinstance(item.value, dict):
                yield item.line, item.value
            else:
                beginning = shown(item.value)
                wanted.on_bad(item.line, f"not a JSON object: {beginning[:40]}", beginning)


def _reason(item: Unreadable, encoding: str | None) -> str:
    if not item.reason.startswith(_NOT_UTF8):
        return item.reason
    if encoding is not None:
        return f"not {encoding}{item.reason.removeprefix(_NOT_UTF8)} is not in it; mend the line"
    return f'{item.reason}; set encoding to the file\'s own, as in encoding = "cp1252"'
