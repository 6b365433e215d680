"""What a place is that a user names: a folder of this machine, a bucket, or another address."""

from __future__ import annotations

import os
import re
from pathlib import Path

from store.disk.location import LocalLocation, RemoteLocation
from store.disk.objects import ObjectLocation
from store.disk.storage import KINDS
from store.errors import StoreInputError

LOCAL_KINDS = ("file", "local")
"""What fsspec calls this machine's own files: they are read with the same care."""
_BEGINS_AS_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_HOLDS_ADDRESS = re.compile(
    r"(?:^|/)(abfss?|adl|az|dbfs|file|ftp|gcs|gs|hdfs|hf|https?|oci|r2|s3[an]?|sftp|ssh|webhdfs):(?:/|$)"
)


def address_kind(path: str | Path) -> str | None:
    """``s3`` of ``s3://bucket/scores``, also where it has become the path ``s3:/bucket/scores``.

    None for a path of this machine. What is written goes to one; a folder ``s3:`` is never meant.
    """
    text = str(path)
    found = _HOLDS_ADDRESS.search(text)
    if found is None and not Path(text.partition("/")[0]).is_dir():
        found = _BEGINS_AS_ADDRESS.match(text)
    return found[1] if found else None


def address_as_typed(path: str | Path) -> str:
    """``s3://bucket/x`` or ``file:///x``, also where it has become the path ``s3:/bucket/x``."""
    found = _BEGINS_AS_ADDRESS.match(str(path))
    if found is None:
        return str(path)
    rest = str(path)[found.end() :].lstrip("/")
    return f"{found[1]}://{'/' * (found[1] in LOCAL_KINDS)}{rest}"


def is_url(path: str | Path) -> bool:
    """Whether a place is an address such as ``s3://bucket/x``, and no path of this machine."""
    kind, colon, _ = str(path).partition("://")
    return bool(colon) and kind.lower() not in LOCAL_KINDS and address_kind(path) is not None


def join(place: str | Path, *parts: str) -> str:
    """A path or an address, with further parts behind it."""
    if is_url(place):
        return "/".join([str(place).rstrip("/"), *parts])
    return os.path.join(place, *parts)


def refuse_address(path: str | Path) -> None:
    """Refuse to write to an address that only reads, such as ``https://host/store``.

    Raises:
        StoreInputError: it is one.
    """
    kind = address_kind(path)
    if kind is not None:
        raise StoreInputError(
            f"{address_as_typed(path)}: this is written to this machine or a shared POSIX file"
            " system; copy it there afterwards (reading from there is fine)"
        )


def locate(path: str | Path) -> LocalLocation | ObjectLocation | RemoteLocation:
    """The location that a directory or an address stands for.

    Raises:
        StoreInputError: no such address can be.
        MissingExtra: a package is not installed that it needs.
    """
    if not isinstance(path, str) or "://" not in path:
        return LocalLocation(Path(path))
    kind, _, place = path.partition("://")
    if kind.lower() in LOCAL_KINDS:
        return LocalLocation(Path(place))
    if kind.lower() in KINDS:
        return ObjectLocation(path)
    return RemoteLocation(path)
