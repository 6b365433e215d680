"""Files as streams of bytes, whatever they are packed in, in bounded memory.

``members(path)`` gives every file in ``path``: the file itself, or each file of a tar; gz, bz2 and
zst are unpacked, inside and outside the tar. Packing is told from the first bytes, never from the
name. A packed file that breaks off raises ``StreamBreak``, but only after all that was readable
before the break has been handed out.
"""

from __future__ import annotations

import bz2
import io
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import zstandard

CHUNK_BYTES = 1 << 16
"""Bytes read at a time; small, because a packed chunk may be a thousand times larger unpacked."""
_STEP_BYTES = 1 << 10  # what is lost before a damaged place
_TAR_MAGIC = b"ustar"
_TAR_MAGIC_AT = 257
_TAR_BLOCK_BYTES = 512
_ZSTD_MAX_WINDOW = 1 << 31  # archives packed with `zstd --long=31`


class StreamBreak(Exception):
    """The stream cannot be read on from here; what came before is good."""


@dataclass(frozen=True)
class Member:
    """One unpacked file: its name (``archive.tar:member`` in a tar) and its bytes in chunks."""

    name: str
    chunks: Iterator[bytes]


def _zstd() -> Any:
    return zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW).decompressobj()


CODECS: dict[str, tuple[re.Pattern[bytes], Callable[[], Any]]] = {
    "gz": (re.compile(rb"\x1f\x8b\x08"), lambda: zlib.decompressobj(wbits=31)),
    "bz2": (re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), bz2.BZ2Decompressor),
    "zst": (re.compile(rb"[\x22-\x28]\xb5\x2f\xfd"), _zstd),
}
"""Name -> (first bytes of a packed file, maker of a decompressor of one packed stream)."""
_MAGIC_BYTES = 10


def members(path: str | Path) -> Iterator[Member]:
    """Every file in ``path``, unpacked, in the archive's order; each must be read before the next.

    Raises:
        OSError: ``path`` cannot be opened.
        StreamBreak: a tar is damaged between its files; inside one, that file's chunks raise it.
    """
    path = Path(path)
    with path.open("rb") as file:
        chunks = unpacked(_chunks(file))
        head, chunks = peek(chunks, _TAR_MAGIC_AT + len(_TAR_MAGIC))
        if head[_TAR_MAGIC_AT:] != _TAR_MAGIC:
            yield Member(readable(path.name), chunks)
            return
        yield from _tar_members(readable(path.name), chunks)


def readable(name: str) -> str:
    """A file's name with bytes that are not UTF-8 written as ``\\xe9``, to be stored as text."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _tar_members(name: str, chunks: Iterator[bytes]) -> Iterator[Member]:
    source = _ChunkReader(chunks)
    try:
        with tarfile.open(fileobj=cast(IO[bytes], source), mode="r|") as archive:
            for entry in archive:
                file = archive.extractfile(entry) if entry.isfile() else None
                if file is not None:
                    inner = readable(entry.name)
                    yield Member(f"{name}:{inner}", unpacked(_tar_chunks(file, source)))
    except tarfile.TarError as error:
        if not source.break_reported:
            raise source.broken or StreamBreak(f"damaged tar: {error}") from None
    if source.broken is not None and not source.break_reported:
        raise source.broken
    if source.num_bytes % _TAR_BLOCK_BYTES and not source.break_reported:
        raise StreamBreak("damaged tar: it breaks off within a header")


def _tar_chunks(file: IO[bytes], source: _ChunkReader) -> Iterator[bytes]:
    try:
        while chunk := cast(io.BufferedReader, file).read1(_STEP_BYTES):
            yield chunk
    except tarfile.TarError as error:
        source.break_reported = True
        raise source.broken or StreamBreak(f"damaged tar: {error}") from None


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def unpacked(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """``chunks`` decompressed as their first bytes say; as they are where those are no codec's.

    Several packed streams after one another are one stream, as with gzip and bzip2 themselves.

    Raises:
        StreamBreak: the packed data is damaged or breaks off.
    """
    head, chunks = peek(chunks, _MAGIC_BYTES)
    for name, (magic, make) in CODECS.items():
        if magic.match(head):
            return _decompressed(chunks, name, make)
    return chunks


def _decompressed(chunks: Iterator[bytes], name: str, make: Callable[[], Any]) -> Iterator[bytes]:
    decompressor = make()
    started = False
    for chunk in chunks:
        out: list[bytes] = []
        try:
            for at in range(0, len(chunk), _STEP_BYTES):
                data = chunk[at : at + _STEP_BYTES]
                while data and (started or data.strip(b"\0")):  # zero bytes between streams pad
                    started = True
                    out.append(decompressor.decompress(data))
                    data = b""
                    if decompressor.eof:
                        data, decompressor, started = decompressor.unused_data, make(), False
        except (zlib.error, OSError, EOFError, zstandard.ZstdError) as error:
            yield b"".join(out)
            raise StreamBreak(f"damaged {name}: {error}") from None
        yield b"".join(out)
    if started:
        raise StreamBreak(f"{name} breaks off before its end")


def peek(chunks: Iterator[bytes], num_bytes: int) -> tuple[bytes, Iterator[bytes]]:
    """The first ``num_bytes`` (fewer at the end of the data), and the same stream again from its
    start.

    A break within those bytes is raised again when the stream is read.
    """
    head: list[bytes] = []
    broken: StreamBreak | None = None
    try:
        while sum(map(len, head)) < num_bytes:
            head.append(next(chunks))
    except StopIteration:
        pass
    except StreamBreak as error:
        broken = error
    return b"".join(head)[:num_bytes], _rejoined(head, chunks, broken)


def _rejoined(
    head: list[bytes], rest: Iterator[bytes], broken: StreamBreak | None
) -> Iterator[bytes]:
    yield from head
    if broken is not None:
        raise broken
    yield from rest


class _ChunkReader:
    """The ``read`` that ``tarfile`` needs; ends early where the stream breaks, and remembers it."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = b""
        self.broken: StreamBreak | None = None
        self.break_reported = False
        self.num_bytes = 0

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; fewer at the end only."""
        parts, missing = [], size
        while missing > 0:
            if not self._left:
                try:
                    self._left = next(self._chunks)
                except StopIteration:
                    break
                except StreamBreak as error:
                    self.broken = error
                    break
            parts.append(self._left[:missing])
            self._left = self._left[missing:]
            missing -= len(parts[-1])
            self.num_bytes += len(parts[-1])
        return b"".join(parts)
