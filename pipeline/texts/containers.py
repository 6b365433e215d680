"""Files as streams of bytes, whatever they are packed in, in bounded memory.

``members(path)`` gives every file in ``path``: the file itself, each file of a tar, or the one file
of a zip archive; of several in a zip the path names one: ``a.zip/train.csv``. gz, bz2, xz and zst
are unpacked, inside and outside. Packing is told from the first bytes, never from the name. A
packed file that breaks off raises ``StreamBreak``, but only after all that was readable before the
break has been handed out.

However much a few bytes unpack to, they come out in pieces of a few megabytes at most. What a codec
itself keeps to look back at is up to 256 MiB for xz, and up to 2 GiB for zst, as its files may say.
"""

from __future__ import annotations

import bz2
import io
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import zstandard

from pipeline.errors import did_you_mean, listed

CHUNK_BYTES = 1 << 16
"""Bytes read at a time, and most bytes that a codec unpacks at a time if it can be told."""
_STEP_BYTES = 1 << 10  # what is lost before a damaged place
_ZSTD_STEP_BYTES = 1 << 7  # its blocks unpack whole: 4 bytes may be 128 kB
_TAR_MAGIC = b"ustar"
_TAR_MAGIC_AT = 257
_TAR_BLOCK_BYTES = 512
_TAR_NAME_BYTES = 1 << 20  # of a long name or of a pax header; tarfile reads them whole
_ZSTD_MAX_WINDOW = 1 << 31  # monthly archives are packed with `zstd --long=31`: up to 2 GiB
_XZ_MAX_MEMORY = 1 << 28  # `xz -9` needs 65 MB
_ZIP_MAGIC = re.compile(rb"PK(?:\x03\x04|\x05\x06)")
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others unpack in pieces of any size
_ZIP_ENCRYPTED = 1
BREAKS_OFF, DAMAGED = "breaks off before its end", "damaged"
_WORKBOOK = "xl/workbook.xml"


class StreamBreak(Exception):
    """The stream cannot be read on from here; what came before is good.

    ``remedy`` says what a person can do.
    """

    def __init__(self, reason: str, *, remedy: str = "get the whole file again") -> None:
        super().__init__(reason)
        self.remedy = remedy


def is_break(reason: str) -> bool:
    """Whether a line could not be read because the stream breaks there."""
    return reason.endswith(BREAKS_OFF) or reason.startswith(DAMAGED)


class Refused(StreamBreak):
    """What is not read as it is, though nothing is damaged: an archive whose path does not say
    which file in it is meant, or one of a kind that is to be unpacked first."""


@dataclass(frozen=True)
class Member:
    """One unpacked file: its name (``archive.tar:member`` in a tar) and its bytes in chunks."""

    name: str
    chunks: Iterator[bytes]


@dataclass(frozen=True)
class Codec:
    """A kind of packing.

    Attributes:
        magic: the first bytes of a packed file.
        make: makes a decompressor of one packed stream.
        pieces: what a decompressor makes of some bytes, in bounded pieces.
        step_bytes: how many bytes to give to it at a time.
    """

    magic: re.Pattern[bytes]
    make: Callable[[], Any]
    pieces: Callable[[Any, bytes], Iterator[bytes]]
    step_bytes: int = _STEP_BYTES


def _zlib_pieces(decompressor: Any, data: bytes) -> Iterator[bytes]:
    piece = bytes(CHUNK_BYTES)
    while len(piece) == CHUNK_BYTES and not decompressor.eof:  # else there may be more of it
        piece = decompressor.decompress(data, CHUNK_BYTES)
        data = decompressor.unconsumed_tail
        yield piece


def _bounded_pieces(decompressor: Any, data: bytes) -> Iterator[bytes]:
    yield decompressor.decompress(data, CHUNK_BYTES)
    while not decompressor.eof and not decompressor.needs_input:
        yield decompressor.decompress(b"", CHUNK_BYTES)


def _whole(decompressor: Any, data: bytes) -> Iterator[bytes]:
    yield decompressor.decompress(data)


CODECS: dict[str, Codec] = {
    "gz": Codec(re.compile(rb"\x1f\x8b\x08"), lambda: zlib.decompressobj(wbits=31), _zlib_pieces),
    "bz2": Codec(
        re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), bz2.BZ2Decompressor, _bounded_pieces
    ),
    "xz": Codec(
        re.compile(rb"\xfd7zXZ\x00"),
        lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MAX_MEMORY),
        _bounded_pieces,
    ),
    "zst": Codec(
        re.compile(rb"[\x22-\x28]\xb5\x2f\xfd"),
        lambda: zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW).decompressobj(),
        _whole,
        _ZSTD_STEP_BYTES,
    ),
}
"""Name -> how it is told and unpacked."""
_MAGIC_BYTES = 10


def members(path: str | Path) -> Iterator[Member]:
    """Every file in ``path``, unpacked, in the archive's order; each must be read before the next.

    Raises:
        OSError: ``path`` cannot be opened.
        StreamBreak: a tar is damaged between its files; inside one, that file's chunks raise it.
    """
    path, inside = split_place(path)
    with path.open("rb") as file:
        head, raw = peek(_chunks(file), len(b"PK34"))
        if _ZIP_MAGIC.match(head):
            yield from _zip_members(path, inside)
            return
        if inside is not None:
            raise Refused(
                f"{readable(path.name)} is no zip archive, so there is no {inside} in it",
                remedy="name the file alone",
            )
        chunks = unpacked(raw)
        head, chunks = peek(chunks, _TAR_MAGIC_AT + len(_TAR_MAGIC))
        if head[_TAR_MAGIC_AT:] != _TAR_MAGIC:
            yield Member(readable(path.name), chunks)
            return
        yield from _tar_members(readable(path.name), chunks)


def split_place(path: str | Path) -> tuple[Path, str | None]:
    """A file, and which one in it is meant: ``a.zip/b/c.csv`` -> ``a.zip``, ``b/c.csv``."""
    path = Path(path)
    for folder in path.parents:
        if folder.is_file():
            return folder, path.relative_to(folder).as_posix()
        if folder.is_dir():
            break
    return path, None


def readable(name: str) -> str:
    """A file's name with bytes that are not UTF-8 written as ``\\xe9``, to be stored as text."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _zip_members(path: Path, inside: str | None) -> Iterator[Member]:
    name = readable(path.name)
    try:
        with zipfile.ZipFile(path) as archive:
            entry = _zip_entry(readable(str(path)), archive, inside)
            with archive.open(entry) as file:
                yield Member(f"{name}:{entry.filename}", unpacked(_zip_chunks(file)))
    except (StreamBreak, GeneratorExit):
        raise
    except Exception as error:  # of the many kinds that damaged headers raise
        raise StreamBreak(f"damaged zip: {error}") from None


def _zip_entry(place: str, archive: zipfile.ZipFile, inside: str | None) -> zipfile.ZipInfo:
    """The file of an archive that is meant: the one with that name, or its only one."""
    entries = {one.filename: one for one in archive.infolist() if not one.is_dir()}
    if _WORKBOOK in entries:
        raise Refused("is an Excel workbook", remedy="save its sheet as CSV, and name that")
    names = [one for one in entries if not _is_hidden(one)]
    if inside is None and len(names) != 1:
        raise Refused(
            f"holds {len(names)} files{': ' * bool(names)}{listed(map(readable, names))}",
            remedy=f'name one, as in "{place}/{names[0]}"' if names else "name another",
        )
    if inside is not None and inside not in entries:
        hint = did_you_mean(inside, names)
        raise Refused(
            f"holds no file {inside!r}{hint and f'; {hint}'}",
            remedy=f"it holds {listed(map(readable, names)) or 'none'}",
        )
    entry = entries[names[0] if inside is None else inside]
    if entry.flag_bits & _ZIP_ENCRYPTED:
        raise Refused("needs a password", remedy="unpack it, and name the file in it")
    if entry.compress_type not in _ZIP_METHODS:
        raise Refused(
            "is a zip archive of a rare kind", remedy="unpack it, and name the file in it"
        )
    return entry


def _is_hidden(name: str) -> bool:
    """What macOS and other systems put beside the files that are meant."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _zip_chunks(file: IO[bytes]) -> Iterator[bytes]:
    try:
        while chunk := cast(io.BufferedReader, file).read1(_STEP_BYTES):
            yield chunk
    except (zipfile.BadZipFile, *_DAMAGE) as error:
        raise StreamBreak(f"damaged zip: {error}") from None


def _tar_members(name: str, chunks: Iterator[bytes]) -> Iterator[Member]:
    source = _ChunkReader(chunks)
    try:
        with _opened(source) as archive:
            while (entry := _next_entry(archive)) is not None:
                inner = f"{name}:{readable(entry.name)}"
                if entry.issparse():  # a few bytes that stand for any number of zeros
                    yield Member(inner, _refused("a sparse file in a tar is not read"))
                elif entry.isfile() and (file := archive.extractfile(entry)) is not None:
                    yield Member(inner, unpacked(_tar_chunks(file, source)))
    except tarfile.TarError as error:
        if not source.break_reported:
            raise source.broken or StreamBreak(f"damaged tar: {error}") from None
    if source.broken is not None and not source.break_reported:
        raise source.broken
    if source.num_bytes % _TAR_BLOCK_BYTES and not source.break_reported:
        raise StreamBreak("damaged tar: it breaks off within a header")


class _Entry(tarfile.TarInfo):
    """A header of a tar that holds no more than a name or a few attributes need."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _NAME_TYPES and self.size > _TAR_NAME_BYTES:
            raise tarfile.ReadError(f"a name or header of {self.size} bytes")
        found: tarfile.TarInfo = super()._proc_member(archive)  # type: ignore[misc]
        return found


_NAME_TYPES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


def _opened(source: _ChunkReader) -> tarfile.TarFile:
    with _as_tar_error():
        return tarfile.open(fileobj=cast(IO[bytes], source), mode="r|", tarinfo=_Entry)


def _next_entry(archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    with _as_tar_error():
        archive.members.clear()  # type: ignore[attr-defined]  # else it remembers every file
        if archive.firstmember is None:  # type: ignore[attr-defined]
            _pass(archive.fileobj, archive.offset)
        return archive.next()


@contextmanager
def _as_tar_error() -> Iterator[None]:
    """Whatever ``tarfile`` stumbles over in a damaged header is a ``TarError``."""
    try:
        yield
    except tarfile.TarError:
        raise
    except Exception as error:
        raise tarfile.ReadError(str(error)) from None


def _pass(stream: Any, place: int) -> None:
    """Read on to a place; ``tarfile`` itself would go on for ever behind a stream's end."""
    while (missing := place - stream.tell()) > 0:
        if not stream.read(min(missing, CHUNK_BYTES)):
            raise tarfile.ReadError("unexpected end of data")


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
    for name, codec in CODECS.items():
        if codec.magic.match(head):
            return _decompressed(chunks, name, codec)
    if _ZIP_MAGIC.match(head):
        return _refused("a zip archive in another is not read")
    return chunks


def _refused(reason: str) -> Iterator[bytes]:
    raise StreamBreak(reason, remedy="unpack it, and name the files in it")
    yield b""


def _decompressed(chunks: Iterator[bytes], name: str, codec: Codec) -> Iterator[bytes]:
    decompressor = codec.make()
    started = False
    for chunk in chunks:
        for at in range(0, len(chunk), codec.step_bytes):
            data = chunk[at : at + codec.step_bytes]
            while data := data if started else data.lstrip(b"\0"):  # zeros between streams pad
                started = True
                try:
                    yield from codec.pieces(decompressor, data)
                except _DAMAGE as error:
                    raise StreamBreak(f"{DAMAGED} {name}: {error}") from None
                data = b""
                if decompressor.eof:
                    data, decompressor, started = decompressor.unused_data, codec.make(), False
    if started:
        raise StreamBreak(f"{name} {BREAKS_OFF}")


_DAMAGE = (zlib.error, OSError, EOFError, lzma.LZMAError, zstandard.ZstdError)


def peek(chunks: Iterator[bytes], num_bytes: int) -> tuple[bytes, Iterator[bytes]]:
    """The first ``num_bytes`` (fewer at the end of the data), and the same stream again from its
    start.

    A break within those bytes is raised again when the stream is read.
    """
    head: list[bytes] = []
    broken: StreamBreak | None = None
    missing = num_bytes
    try:
        while missing > 0:
            head.append(next(chunks))
            missing -= len(head[-1])
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
