"""Records in every framing, and bytes in every container.

data = FRAMED["map"](records)            # records: JSON objects with an "id"
path.write_bytes(PACKED["zip"](data))
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import zstandard

Text = Callable[[Sequence[str]], bytes]


def _joined(before: str, between: str, behind: str) -> Text:
    return lambda records: (before + between.join(records) + behind).encode()


def _counted(records: Sequence[str]) -> bytes:
    return b"\r\n".join(b"%d\r\n%s\r\n" % (len(one.encode()) + 2, one.encode()) for one in records)


def _map(records: Sequence[str]) -> bytes:
    first = 9_000_000_000_000_000
    return (
        b"{"
        + b", ".join(b'"%d": %s' % (first + i, one.encode()) for i, one in enumerate(records))
        + b"}"
    )


FRAMED: dict[str, Text] = {
    "lines": _joined("", "\n", "\n"),
    "lines with CRLF, blanks and null": _joined("", "\r\n\r\nnull\r\n", ""),
    "lines with CR": _joined("", "\r", "\r"),
    "sequence": lambda records: b"".join(b"\x1e%s\n" % one.encode() for one in records),
    "counted": _counted,
    "glued": _joined("", "", ""),
    "array": _joined("[", ", ", "]"),
    "array by line": _joined("[\n", ",\n", "\n]\n"),
    "script": _joined("window.YTD.tweets.part0 = [\n", ",\n", "\n];\n"),
    "call": _joined("callback([", ",", "]);"),
    "map": _map,
    "events": _joined("event: update\ndata: ", "\n\n:thump\nevent: update\ndata: ", "\n\n"),
    "behind keys": _joined("17\t", "\n17\t", "\n"),
    "behind times": _joined("2026-11-04 09:00:00 INFO ", "\n2026-11-04 09:00:01 INFO ", ""),
    "in strings": lambda records: "\n".join(map(json.dumps, records)).encode(),
    "with commas": _joined("", ",", ""),
}
"""Framing -> of records as JSON, its bytes."""


def framed(name: str, records: Sequence[Mapping[str, Any]], *, ascii_only: bool = False) -> bytes:
    """Records in a framing."""
    if name == "Python's repr":
        return "".join(f"{record}\n" for record in records).encode()
    indent = 1 if name == "printed" else None
    texts = [json.dumps(one, ensure_ascii=ascii_only, indent=indent) for one in records]
    return FRAMED["glued" if name == "printed" else name](texts)


NAMES = (*FRAMED, "printed", "Python's repr")


def tar(files: Mapping[str, bytes]) -> bytes:
    """A tar of files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip archive of files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def zst(data: bytes) -> bytes:
    """Packed by Zstandard."""
    return zstandard.ZstdCompressor().compress(data)


_FORK = {"__MACOSX/._a.json": b"\0\5\x16\7", ".DS_Store": b"\0\0\0\1Bud1"}

PACKED: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zst,
    "zip": lambda data: zipped({"2026/a.json": data, **_FORK}),
    "tar": lambda data: tar({"./2026/a.json": data, "./2026/._a.json": b"\0\5\x16\7"}),
    "gz in tar in xz": lambda data: lzma.compress(tar({"a.json.gz": gzip.compress(data)})),
    "gz in tar in tar": lambda data: tar({"a.tar": tar({"a.json.gz": gzip.compress(data)})}),
    "zip in tar": lambda data: tar({"a.zip": zipped({"a.json": data})}),
    "tar in zip": lambda data: zipped({"a.tar": tar({"a.json": data})}),
    "zip in zip in gz": lambda data: gzip.compress(zipped({"a.zip": zipped({"a.json": data})})),
}
"""Container -> of a file's bytes, that of one which holds it."""
