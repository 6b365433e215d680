"""Files as streams of bytes, whatever they are packed in, in bounded memory.

``members(path)`` gives every file in ``path``: the file itself, each file of a tar, the one file of
a zip archive, or, for who takes ``several``, each; else the path names one: ``a.zip/train.csv``.
gz, bz2, xz and zst are unpacked, inside and outside, and so are archives within archives, up to
``MOST_LAYERS``. Packing is told from the first bytes, never from the name. Names in archives are
names only: nothing is written there, and links are not followed. Hidden files (``.DS_Store``,
``__MACOSX``) are passed over. A packed file that breaks off raises ``StreamBreak``, but only after
all that was readable before the break has been handed out.

However much a few bytes unpack to, they come out in pieces of a few megabytes at most, and no more
than ``MOST_TIMES`` as many. What a codec itself keeps to look back at is up to 256 MiB for xz, and
up to 2 GiB for zst, as its files may say.
"""

from __future__ import annotations

import bz2
import io
import lzma
import os
import re
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, cast

import zstandard

from pipeline.errors import CorpusError, did_you_mean, listed
from pipeline.texts.objects import ObjectPath, as_path
from pipeline.texts.readahead import ObjectFile

CHUNK_BYTES = 1 << 16
"""Bytes read at a time, and most bytes that a codec unpacks at a time if it can be told."""
_STEP_BYTES = 1 << 10  # what is lost before a damaged place
_ZSTD_STEP_BYTES = 1 << 7  # its blocks unpack whole: 4 bytes may be 128 kB
_TAR_MAGIC = b"ustar"
_TAR_MAGIC_AT = 257
_TAR_BLOCK_BYTES = 512
_ZEROS = bytes(_TAR_BLOCK_BYTES)
_TAR_NAME_BYTES = 1 << 20  # of a long name or of a pax header; tarfile reads them whole
_ZSTD_MAX_WINDOW = 1 << 31  # monthly archives are packed with `zstd --long=31`: up to 2 GiB
_XZ_MAX_MEMORY = 1 << 28  # `xz -9` needs 65 MB
_ZIP_MAGIC = re.compile(rb"PK(?:\x03\x04|\x05\x06)")
_ZIP_NAME = re.compile(r".+\.zip", re.I)
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the others unpack in pieces of any size
_ZIP_ENCRYPTED = 1
_ZIP_MOST_INDEX = 1 << 24  # bytes: some 200,000 files; zipfile keeps something of each
_ZIP_END_MAGIC = b"PK\x05\x06"
_ZIP_END_BYTES = (1 << 16) + 22
_ZIP_IN_MEMORY = 1 << 24
_ZIP_INSIDE_BYTES = 1 << 32
"""Of a zip archive in another archive, which is copied to an unnamed temporary file."""
MOST_LAYERS = 6
"""Of archives and codecs in one another; the months of archive.org have three."""
MOST_TIMES, _FREELY = 10_000, 1 << 30
"""How much more a file may unpack to than it has itself; up to a gigabyte nobody asks."""
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
    """One unpacked file.

    Attributes:
        name: ``archive.tar:member`` in a tar.
        chunks: its bytes.
        packing: what it was packed in, the outermost first: ``("gz", "tar")``.
        hidden: files beside it that were passed over so far.
    """

    name: str
    chunks: Iterator[bytes]
    packing: tuple[str, ...] = ()
    hidden: int = 0


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


def members(path: str | Path, *, several: bool = False) -> Iterator[Member]:
    """Every file in ``path``, unpacked, in the archive's order; each must be read before the next.

    Args:
        path: a file, or one in a zip archive, as in ``a.zip/b.csv``.
        several: take all files of a zip archive; else one of several is to be named.

    Raises:
        OSError: ``path`` cannot be opened.
        StreamBreak: an archive is damaged between its files; inside one, that file's chunks raise
            it.
    """
    path, inside = split_place(path)
    name = readable(path.name)
    with path.open("rb") as file:
        unpacking = _Unpacking(_size(file), several=several)
        head, raw = peek(_chunks(file), len(b"PK34"))
        if _ZIP_MAGIC.match(head):
            place = readable(str(path)) if inside is not None or not several else None
            yield from unpacking.zip(name, file, (), place=place, inside=inside)
            return
        if inside is not None:
            raise Refused(
                f"{name} is no zip archive, so there is no {inside} in it",
                remedy="name the file alone",
            )
        yield from unpacking.files(name, raw, ())


def split_place(path: str | Path) -> tuple[Path, str | None]:
    """A file, and which one in it is meant: ``a.zip/b/c.csv`` -> ``a.zip``, ``b/c.csv``."""
    path = as_path(path)
    for folder in path.parents:
        if isinstance(path, ObjectPath) and not _ZIP_NAME.fullmatch(folder.name):
            continue  # each look at another name would be a request
        if folder.is_file():
            return folder, path.relative_to(folder).as_posix()
        if folder.is_dir():
            break
    return path, None


def readable(name: str) -> str:
    """A file's name with bytes that are not UTF-8 written as ``\\xe9``, to be stored as text."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class _Unpacking:
    """Of one file: all that is in it, however deep, and how much of it there may be."""

    def __init__(self, num_bytes: int, *, several: bool) -> None:
        self._several = several
        self._left = max(_FREELY, MOST_TIMES * num_bytes)

    def files(
        self, name: str, chunks: Iterator[bytes], packing: tuple[str, ...]
    ) -> Iterator[Member]:
        """What a stream is, or holds."""
        while (codec := _codec(head := (peeked := peek(chunks, _MAGIC_BYTES))[0])) is not None:
            chunks = self._counted(_decompressed(peeked[1], codec, CODECS[codec]))
            packing = (*packing, codec)
            if len(packing) > MOST_LAYERS:
                yield Member(name, _refused(f"is packed more than {MOST_LAYERS} times"), packing)
                return
        head, chunks = peek(peeked[1], _TAR_MAGIC_AT + len(_TAR_MAGIC))
        is_tar, is_zip = head[_TAR_MAGIC_AT:] == _TAR_MAGIC, _ZIP_MAGIC.match(head)
        if (is_tar or is_zip) and len(packing) == MOST_LAYERS:
            reason = f"is an archive that is packed {MOST_LAYERS} times"
            yield Member(name, _refused(reason), packing)
        elif is_tar:
            yield from self._tar(name, chunks, (*packing, "tar"))
        elif is_zip:
            with tempfile.SpooledTemporaryFile(_ZIP_IN_MEMORY) as copy:
                _copy(chunks, copy)
                yield from self.zip(name, copy, packing, place=None)
        else:
            yield Member(name, chunks, packing)

    def _inside(
        self, name: str, chunks: Iterator[bytes], packing: tuple[str, ...], hidden: int
    ) -> Iterator[Member]:
        """What a file of an archive is or holds; its damage is its own."""
        try:
            for member in self.files(name, chunks, packing):
                yield replace(member, hidden=member.hidden + hidden)
        except StreamBreak as error:
            yield Member(name, _broken(error), packing, hidden)

    def _counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._left -= len(chunk)
            if self._left < 0:
                raise Refused(
                    f"unpacks to more than {MOST_TIMES} times its size",
                    remedy="unpack it, if it is no trap, and name the files in it",
                )
            yield chunk

    def zip(
        self,
        name: str,
        file: IO[bytes],
        packing: tuple[str, ...],
        *,
        place: str | None,
        inside: str | None = None,
    ) -> Iterator[Member]:
        """Files of a zip archive: with ``place``, its path, the one that is meant; else each."""
        try:
            _check_count(file)
            archive = zipfile.ZipFile(file)
        except (StreamBreak, CorpusError):
            raise
        except Exception as error:  # of the many kinds that damaged headers raise
            raise StreamBreak(f"damaged zip: {error}") from None
        packing = (*packing, "zip")
        with archive:
            entries = _visible(archive, inside)
            hidden = sum(not one.is_dir() for one in archive.infolist()) - len(entries)
            if place is not None:
                entries = [_one_entry(place, entries, inside)]
            elif not self._several and len(entries) != 1:
                raise Refused(_holds(entries), remedy="unpack it, and name one")
            for entry in entries:
                inner = f"{name}:{readable(entry.filename)}"
                try:
                    if place is None:
                        _check_entry(entry)
                    opened = archive.open(entry)
                except StreamBreak as error:
                    yield Member(inner, _broken(error), packing, hidden)
                except CorpusError:
                    raise
                except Exception as error:
                    broken = StreamBreak(f"damaged zip: {error}")
                    yield Member(inner, _broken(broken), packing, hidden)
                else:
                    with opened:
                        chunks = self._counted(_zip_chunks(opened))
                        yield from self._inside(inner, chunks, packing, hidden)

    def _tar(
        self, name: str, chunks: Iterator[bytes], packing: tuple[str, ...]
    ) -> Iterator[Member]:
        source, hidden = _ChunkReader(chunks), 0
        try:
            with _opened(source) as archive:
                while (entry := _next_entry(archive)) is not None:
                    inner = f"{name}:{readable(entry.name)}"
                    if entry.isfile() and _is_hidden(entry.name):
                        hidden += 1
                    elif entry.issparse():  # a few bytes that stand for any number of zeros
                        sparse = _refused("a sparse file in a tar is not read")
                        yield Member(inner, sparse, packing, hidden)
                    elif entry.isfile() and (file := archive.extractfile(entry)) is not None:
                        inside = _tar_chunks(file, source)
                        yield from self._inside(inner, inside, packing, hidden)
        except tarfile.TarError as error:
            if not source.break_reported:
                raise source.broken or StreamBreak(f"damaged tar: {error}") from None
        if source.broken is not None and not source.break_reported:
            raise source.broken
        if source.num_bytes % _TAR_BLOCK_BYTES and not source.break_reported:
            raise StreamBreak("damaged tar: it breaks off within a header")


def _check_count(file: IO[bytes]) -> None:
    """Refuse a zip archive of more files than memory should hold."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(end - _ZIP_END_BYTES, 0))
    tail = file.read(_ZIP_END_BYTES)
    at = tail.rfind(_ZIP_END_MAGIC)
    size = int.from_bytes(tail[at + 12 : at + 16], "little") if at >= 0 else 0
    if size > _ZIP_MOST_INDEX:
        raise Refused("is a zip archive of too many files", remedy="unpack it, and name them")
    file.seek(0)


def _visible(archive: zipfile.ZipFile, inside: str | None) -> list[zipfile.ZipInfo]:
    """The files of an archive that are meant for reading.

    Raises:
        Refused: it is a workbook, or has none.
    """
    entries = {one.filename: one for one in archive.infolist() if not one.is_dir()}
    if _WORKBOOK in entries:
        raise Refused("is an Excel workbook", remedy="save its sheet as CSV, and name that")
    return [one for name, one in entries.items() if name == inside or not _is_hidden(name)]


def _holds(entries: Sequence[zipfile.ZipInfo]) -> str:
    names = [readable(one.filename) for one in entries]
    return f"holds {len(names)} files{': ' * bool(names)}{listed(names)}"


def _one_entry(
    place: str, entries: Sequence[zipfile.ZipInfo], inside: str | None
) -> zipfile.ZipInfo:
    """The file of an archive that is meant: the one with that name, or its only one."""
    names = [one.filename for one in entries]
    if inside is None and len(names) != 1:
        raise Refused(
            _holds(entries),
            remedy=f'name one, as in "{place}/{names[0]}"' if names else "name another",
        )
    if inside is not None and inside not in names:
        hint = did_you_mean(inside, names)
        raise Refused(
            f"holds no file {inside!r}{hint and f'; {hint}'}",
            remedy=f"it holds {listed(map(readable, names)) or 'none'}",
        )
    entry = entries[0 if inside is None else names.index(inside)]
    _check_entry(entry)
    return entry


def _check_entry(entry: zipfile.ZipInfo) -> None:
    if entry.flag_bits & _ZIP_ENCRYPTED:
        raise Refused("needs a password", remedy="unpack it, and name the file in it")
    if entry.compress_type not in _ZIP_METHODS:
        raise Refused(
            "is a zip archive of a rare kind", remedy="unpack it, and name the file in it"
        )


def _is_hidden(name: str) -> bool:
    """What macOS and other systems put beside the files that are meant."""
    parts = [part for part in name.split("/") if part not in (".", "..")]
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _zip_chunks(file: IO[bytes]) -> Iterator[bytes]:
    try:
        while chunk := cast(io.BufferedReader, file).read1(_STEP_BYTES):
            yield chunk
    except (zipfile.BadZipFile, *_DAMAGE) as error:
        raise StreamBreak(f"damaged zip: {error}") from None


class _Entry(tarfile.TarInfo):
    """A header of a tar that holds no more than a name or a few attributes need; zeros before it,
    as between joined archives, are passed over."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Entry:
        """The next header of an archive."""
        stream: Any = archive.fileobj
        while (block := stream.read(_TAR_BLOCK_BYTES)) == _ZEROS:
            pass
        try:
            entry = cls.frombuf(block, archive.encoding, archive.errors)
        except tarfile.InvalidHeaderError as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(f"{error}, behind a file or its end") from None
        entry.offset = stream.tell() - _TAR_BLOCK_BYTES
        return cast(_Entry, entry._proc_member(archive))

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
    except (tarfile.TarError, CorpusError):
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


def _size(file: IO[bytes]) -> int:
    return file.size if isinstance(file, ObjectFile) else os.fstat(file.fileno()).st_size


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
    name = _codec(head)
    return chunks if name is None else _decompressed(chunks, name, CODECS[name])


def _codec(head: bytes) -> str | None:
    """The codec that packed what begins so."""
    return next((name for name, codec in CODECS.items() if codec.magic.match(head)), None)


def _copy(chunks: Iterator[bytes], file: IO[bytes]) -> None:
    """Write a zip archive that is in another to where it can be read from its end."""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > _ZIP_INSIDE_BYTES:
            raise Refused(
                f"is a zip archive of more than {_ZIP_INSIDE_BYTES >> 30} GiB in another",
                remedy="unpack it, and name it",
            )
        file.write(chunk)


def _refused(reason: str) -> Iterator[bytes]:
    return _broken(Refused(reason, remedy="unpack it, and name the files in it"))


def _broken(error: StreamBreak) -> Iterator[bytes]:
    raise error
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
