"""Small facts that are dear to find out, kept in the user's cache folder.

    remember("checks", key, {"layout": "packed"})
    recall("checks", key)                             # the facts, or None

The folder may vanish or be read-only at any time: then the facts are found out again. It is
``SALIENT_CACHE``, or ``salient`` in the place that the system has for caches.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """The user's cache folder; it need not exist."""
    named = os.environ.get("SALIENT_CACHE")
    return Path(named) if named else user_cache_path("salient", appauthor=False)


def recall(kind: str, key: str) -> dict[str, Any] | None:
    """What was remembered under a key, or None.

    Args:
        kind: of the facts; a folder each.
        key: all that the facts depend on.
    """
    try:
        found = json.loads(_file(kind, key).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or found.get("key") != key:
        return None
    facts = found.get("facts")
    return facts if isinstance(facts, dict) else None


def remember(kind: str, key: str, facts: Mapping[str, Any]) -> None:
    """Keep facts (JSON-ready) under a key; does nothing where the folder cannot be written."""
    path = _file(kind, key)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"key": key, "facts": dict(facts)}, file)
            os.replace(name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise


def _file(kind: str, key: str) -> Path:
    return cache_folder() / kind / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
