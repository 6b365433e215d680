"""Bytes in any encoding of texts -> UTF-8 with line feeds, and what to say of bytes that are none.

``as_utf8(chunks, encoding)`` decodes a stream, whose byte order mark says its encoding where nobody
does; the lines of old Macs, which end in carriage returns, come out with line feeds. A byte that
the encoding does not have stays as it is, with 0xFF behind it, so that the line it is in is no
UTF-8 whatever stands around it: whoever decodes that line says which with :func:`stray_byte`.
Nothing is guessed, and nothing replaced.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from pipeline.texts.containers import StreamBreak, peek

_MARKS = {
    b"\xff\xfe\x00\x00": "utf-32-le",
    b"\x00\x00\xfe\xff": "utf-32-be",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
    b"\xef\xbb\xbf": "utf-8",
}
"""Byte order marks; the longer first."""
UTF8 = "utf-8"
_HEAD_BYTES = 1 << 16
_BEFORE_BYTES = 16  # a text has no zero bytes, UTF-16 of Western ones has every other
_FOREIGN_RUN = re.compile("[\udc80-\udcff]{2}[^\x00-\x7f]|[^\x00-\x7f][\udc80-\udcff]{2}")
"""Letters without ASCII between: no Western text has many, and pairs of them may be UTF-8."""
_WIDE = re.compile("[^\x00-\x7f\udc80-\udcff]")
_FEW = 8  # characters of two bytes that may be in UTF-8 by chance


def as_utf8(chunks: Iterator[bytes], encoding: str | None = None) -> Iterator[bytes]:
    """``chunks`` as UTF-8 without byte order mark, with line feeds where it has carriage returns.

    Args:
        chunks: of one unpacked file.
        encoding: a Python text codec; None: UTF-8, or what the byte order mark says.

    Raises:
        StreamBreak: the mark says otherwise, the bytes are UTF-16 or UTF-32 without a mark, an
            encoding of several bytes is damaged, or there is no such encoding.
    """
    if encoding is not None and not is_known(encoding):
        raise StreamBreak(
            f"encoding = {encoding!r} is none that Python knows",
            remedy="name one, such as utf-8, utf-16, cp1252 or shift_jis",
        )
    head, chunks = peek(chunks, _BEFORE_BYTES)
    if mark := _mark(head):
        marked = _MARKS[mark]
        name = codecs.lookup(encoding or marked).name.removesuffix("-sig")
        if name not in (marked, marked.removesuffix("-le").removesuffix("-be")):
            raise StreamBreak(
                f"begins with the byte order mark of {marked}, which encoding = {encoding!r} is"
                " not",
                remedy="leave encoding out",
            )
        encoding, chunks = marked, _behind(chunks, len(mark))
    elif encoding is None and (wide := _wide(head)):
        often = "every other byte" if "16" in wide else "three of four bytes"
        raise StreamBreak(
            f"has a zero in {often}, as {wide} has", remedy=f'set encoding = "{wide}"'
        )
    if encoding is not None and codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig"):
        chunks = _decoded(chunks, encoding)
    head, chunks = peek(chunks, _HEAD_BYTES)
    if b"\r" in head and b"\n" not in head:
        return (chunk.replace(b"\r", b"\n") for chunk in chunks)
    return chunks


def is_known(encoding: str) -> bool:
    """Whether there is an encoding of texts with that name."""
    try:
        return bool(codecs.lookup(encoding)._is_text_encoding)
    except (LookupError, ValueError):
        return False


def encoding_of(head: bytes, encoding: str | None = None) -> str:
    """The encoding of a stream that begins so and is said to have ``encoding``."""
    mark = _mark(head)
    return _MARKS[mark] if mark else encoding or UTF8


def _mark(head: bytes) -> bytes:
    return next((mark for mark in _MARKS if head.startswith(mark)), b"")


def _wide(head: bytes) -> str:
    """The kind of UTF-16 or UTF-32 that some first bytes are; "" for none."""
    for name, at in (("utf-32-le", 0), ("utf-32-be", 3)):
        if len(head) >= 8 and all(head[at::4]) and head.count(0) == len(head) - len(head[at::4]):
            return name
    for name, zeros, others in (("utf-16-le", 1, 0), ("utf-16-be", 0, 1)):
        if len(head) >= 4 and not any(head[zeros::2]) and all(head[others::2]):
            return name
    return ""


def _behind(chunks: Iterator[bytes], num_bytes: int) -> Iterator[bytes]:
    for chunk in chunks:
        rest = chunk[num_bytes:]
        num_bytes = max(num_bytes - len(chunk), 0)
        if rest:
            yield rest


def _decoded(chunks: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
    try:
        for chunk in chunks:
            yield decoder.decode(chunk).encode("utf-8", _STRAY)
        yield decoder.decode(b"", final=True).encode("utf-8", _STRAY)
    except UnicodeError as error:
        reason = getattr(error, "reason", str(error))
        raise StreamBreak(
            f"not {encoding}: {reason}", remedy="mend it, or set encoding to the file's own"
        ) from None


def _stray(error: UnicodeError) -> tuple[bytes, int]:
    """What stands for bytes that were not decoded; two of them alone may be UTF-8."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end].encode("utf-8", "surrogateescape")
    return b"".join(bytes((byte, 0xFF)) for byte in found), error.end


_STRAY = "salient.stray"
codecs.register_error(_STRAY, _stray)


def is_utf8(chunks: Iterator[bytes], *, encoding: str) -> bool:
    """Whether a stream is UTF-8 from end to end and holds enough of it to be no chance.

    Texts in another encoding hardly ever are: reading such a stream with it would garble it.

    Args:
        chunks: of one unpacked file; read up to the first byte that is none.
        encoding: that it is said to have.
    """
    if codecs.lookup(encoding).name.startswith("utf"):
        return False
    every = bytes(range(256))
    enough = 1 if len(every.decode(encoding, "replace")) == len(every) else _FEW
    decoder, num_wide = codecs.getincrementaldecoder("utf-8")(), 0
    try:
        for chunk in chunks:
            num_wide += len(chunk) - len(decoder.decode(chunk))
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return num_wide >= enough


def _is_nearly_latin1(encoding: str) -> bool:
    """Whether an encoding has the letters of latin-1, and not all of its bytes."""
    letters = bytes(range(0xC0, 0x100))
    own = letters.decode(encoding, "replace")
    return own == letters.decode("latin-1") and codecs.lookup(encoding).name != "iso8859-1"


def stray_byte(
    data: bytes, error: UnicodeDecodeError, *, encoding: str | None = None, wide: bool = False
) -> str:
    """What to say of a line with a byte that is not in its encoding.

    Args:
        data: the line, as :func:`as_utf8` gives it.
        error: of decoding it as UTF-8.
        encoding: that the file was read with; None: UTF-8.
        wide: lines before it were UTF-8 and more than ASCII.
    """
    byte = f"byte 0x{data[error.start]:02X}"
    if encoding is not None:
        other = ', or set "latin-1"' if _is_nearly_latin1(encoding) else ""
        return f"not {encoding}: {byte} is not in it; mend the line{other}"
    found = f"not UTF-8: {byte} at position {error.start + 1}"
    text = data.decode("utf-8", "surrogateescape")
    if _FOREIGN_RUN.search(text) and not wide:
        return (
            f"{found}; set encoding to the file's own, such as cp1251 (Cyrillic), gb18030 (Chinese)"
            " or shift_jis (Japanese), or mend the line"
        )
    if wide or _WIDE.search(text):
        return (
            f"{found}, though what is before it is UTF-8; mend the line, or, if the file is another"
            ' one after all, set encoding, as in encoding = "cp1252"'
        )
    return f'{found} looks like latin-1 or cp1252; set encoding = "cp1252"'
