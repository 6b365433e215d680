"""What a JSON object may hold: every member known, there and of its type, or a StoreError.

    RECORD = {"id": str, "count": int, "parent": (str, None), "layers": [int]}
    check_members(data, RECORD, where="store/.salient/x.json", remedy="restore it from a backup")

A type is taken exactly: True is no number, 1.0 is no count. Numbers fit 64 bits and texts are
UTF-8, so that neither numpy nor a terminal stumbles over them later. (Not pydantic, as of the
configuration: a record has columns of thousands of items, each opening of a store reads it, and
`import store` stays quick.)
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from store.disk.checked import damaged

Kind = Any
"""A type; None; several of them in a tuple; a list of one for a list of such items."""
MAX_INTEGER = 2**62


def check_members(
    data: Any,
    members: Mapping[str, Kind],
    *,
    where: str,
    remedy: str,
    of: str = "",
    optional: Collection[str] = (),
) -> dict[str, Any]:
    """The object, if it holds these members and no others.

    Args:
        data: from JSON.
        members: name -> kind.
        where: the file, for the error.
        remedy: what to do about a damaged one.
        of: what the object is, where it is a part of the file.
        optional: members that may be absent.

    Raises:
        StoreError: a member is unknown, missing or of another type.
    """
    inside = f"{of}: " if of else ""
    if type(data) is not dict:
        raise damaged(where, f"{inside}{_shown(data)} where an object should be", remedy)
    for name in data:
        if name not in members:
            raise damaged(where, f"{inside}unknown member {_shown(name)}", remedy)
    for name, kind in members.items():
        if name not in data:
            if name not in optional:
                raise damaged(where, f"{inside}no member {name!r}", remedy)
        elif not _fits(data[name], kind):
            what = f"{inside}{name!r} is {_shown(data[name])}, not {_named(kind)}"
            raise damaged(where, what, remedy)
    found: dict[str, Any] = data
    return found


def _fits(value: Any, kind: Kind) -> bool:
    if isinstance(kind, tuple):
        return any(_fits(value, one) for one in kind)
    if isinstance(kind, list):
        return type(value) is list and _all_fit(value, kind[0])
    if kind is None:
        return value is None
    if type(value) is not kind:
        return False
    sound = True
    if kind is int:
        sound = -MAX_INTEGER < value < MAX_INTEGER
    elif kind is float:
        sound = math.isfinite(value)
    elif kind is str:
        sound = _is_text(value)
    return sound


def _all_fit(values: list[Any], kind: type) -> bool:
    """Thousands at a time."""
    if not values or not set(map(type, values)) <= {kind}:
        return not values
    if kind is int:
        return _fits(min(values), int) and _fits(max(values), int)
    if kind is str:
        return _is_text("".join(values))
    return all(_fits(value, kind) for value in values)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return "\0" not in value


def _named(kind: Kind) -> str:
    if isinstance(kind, tuple):
        return " or ".join(_named(one) for one in kind)
    if isinstance(kind, list):
        return f"a list of {_named(kind[0])}"
    return "null" if kind is None else str(kind.__name__)


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
