"""What made the rows of a folder of scores: heads, backbone, engine, filters; and what changed.

    origin = origin_of(heads, folders, filters=filters, normalise=normalise, backbone=backbone)
    card = with_origin(found, origin, at)       # keeps what was there before as ``changes``

The card of the folder has the facts of the last run as ``origin`` and every change as an entry of
``changes``: when, and key by key what it was and is. Each Parquet file has the facts of the run
that wrote it in its metadata, under ``salient``. Neither holds a password, a token or the path of
a home folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store import StoreError
from store.layout import own_version
from store.tables import read_json

if TYPE_CHECKING:  # whoever only reads scores has no torch
    from pipeline.backbone import Backbone
    from pipeline.heads import Head

MOST_CHANGES = 1000
"""Entries of ``changes`` that are kept: the latest."""
SHOWN_CHARACTERS = 60
"""Of a value in the line that tells of a change."""
_HUB_RECORD = "hub.json"
_SNAPSHOT = re.compile(r"models--(?P<owner>.+?)--(?P<name>[^/]+)/snapshots/(?P<commit>[^/]+)")
_USER = re.compile(r"(?<=://)[^/@]*@")
_QUERY = re.compile(r"(?<=\w)\?\S*")
_BACKBONE = ("model", "revision", "dtype", "ffn_site", "max_length", "prefix", "template")


def origin_of(
    heads: Sequence[Head],
    folders: Sequence[Path],
    *,
    filters: Mapping[str, Any],
    normalise: Mapping[str, Any],
    backbone: Backbone,
    model: str | None = None,
    workers: str = "local",
    cascade: str | None = None,
) -> dict[str, Any]:
    """The facts of one run.

    Args:
        heads: that score; folders: where each lies.
        filters: which rows are scored, as JSON.
        normalise: how texts are normalised, as JSON.
        backbone: the loaded one.
        model: its location, if it is another than the heads say.
        workers: the kind of the cluster.
        cascade: fingerprint of how texts leave early.
    """
    card = heads[0].card
    said = dict(card.extraction.get("backbone") or {})
    made: dict[str, Any] = {
        "salient": own_version(),
        "heads": {
            head.card.task: {"fingerprint": head.fingerprint, "depth": head.card.depth}
            | _place(folder)
            for head, folder in zip(heads, folders, strict=True)
        },
        "backbone": {name: said[name] for name in _BACKBONE if said.get(name) is not None}
        | {"extraction_fingerprint": card.extraction_fingerprint},
        "engine": {"stored_dtype": card.stored_dtype, "workers": workers},
        "filters": {
            name: _time(value) if name in ("since", "until") else value
            for name, value in filters.items()
        },
        "normalise": dict(normalise),
    }
    made["backbone"]["model"] = public(str(model or said.get("model", "")))
    if model is not None:
        made["backbone"].pop("revision", None)
    made["backbone"]["fingerprint"] = backbone.fingerprint
    made["engine"] |= {"kernels": backbone.engine, "device": backbone.device.type}
    if cascade is not None:
        made["cascade"] = cascade
    found: dict[str, Any] = json.loads(json.dumps(made))  # tuples as they come back
    return found


def with_origin(
    card: Mapping[str, Any], origin: Mapping[str, Any], at: datetime
) -> tuple[dict[str, Any], str | None]:
    """A folder's card with the facts of the run at hand.

    Args:
        card: as it is; of a new folder, or one of an earlier version, without ``origin``.
        origin: from :func:`origin_of`.
        at: when the run began, with its time zone.

    Returns:
        The keys ``origin`` and ``changes`` of the card, and a line about what is other than before;
        None if nothing is.
    """
    changes = list(card.get("changes") or ())
    before = dict(card.get("origin") or {})
    when = at.astimezone(UTC).isoformat(timespec="seconds")
    since = before.pop("since", None)
    now = {**origin, "since": since or when}
    what = {} if not before else dict(_differences(before, dict(origin)))
    if not what:
        return {"origin": now, **({"changes": changes} if changes else {})}, None
    last = changes[-1]["at"] if changes else since
    now["since"] = when
    changes.append({"at": when, "what": {key: list(pair) for key, pair in what.items()}})
    said = ", ".join(f"{key} {_shown(old)} -> {_shown(new)}" for key, (old, new) in what.items())
    line = f"other than since {last}: {said}; rows that are there stay as they are"
    return {"origin": now, "changes": changes[-MOST_CHANGES:]}, line


def as_metadata(origin: Mapping[str, Any], fingerprint: str) -> bytes:
    """The facts as a Parquet file has them: JSON in one line."""
    return json.dumps({"fingerprint": fingerprint, **origin}, sort_keys=True).encode()


def public(place: str) -> str:
    """A path or an address without what should not leave this machine.

    The home folder becomes ``~``; user, password and query of an address go.
    """
    if "://" in place:
        return _QUERY.sub("", _USER.sub("", place))
    home = str(Path.home())
    return f"~{place[len(home) :]}" if place == home or place.startswith(f"{home}/") else place


def _place(folder: Path) -> dict[str, str]:
    """Where a head is from: the hub with its commit, else its folder."""
    if (found := _SNAPSHOT.search(folder.absolute().as_posix())) is not None:
        return {"hub": f"{found['owner']}/{found['name']}", "commit": found["commit"]}
    for above in list(folder.absolute().parents)[:2]:
        if (above / _HUB_RECORD).is_file():
            try:
                record = read_json(above / _HUB_RECORD)
                return {"hub": str(record["repository"]), "commit": str(record["commit"])}
            except (StoreError, KeyError):  # a copy that somebody has changed
                break
    return {"folder": public(str(folder))}


def _time(seconds: Any) -> str | None:
    if not isinstance(seconds, int):
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], path: str = ""
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Key with its path -> what it was and is, None where it was not."""
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{path}{key}.")
        elif old != new:
            yield f"{path}{key}", (old, new)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
