"""What a file was recognised as: its container, framing and encoding, from its beginning alone.

recognised(Path("month.tar"), options)
# Recognised(container="gz in tar in tar", framing="JSON lines", encoding="utf-8")
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.errors import CorpusError
from pipeline.texts.charsets import UTF8, as_utf8, encoding_of
from pipeline.texts.columnar import COLUMNAR
from pipeline.texts.containers import Member, StreamBreak, members, peek
from pipeline.texts.framing import HEAD_BYTES, framing_of

PLAIN = "plain"
"""Container of a file that is in none."""
COLUMNS, ROWS = "columns", "lines of text"
"""Framings of what is no JSON: Parquet and Arrow; CSV, TSV and plain lines."""

_MOST_FILES = 64


class Encoded(Protocol):
    """Options of reading a file."""

    @property
    def encoding(self) -> str | None:
        """A Python text codec; None: UTF-8, or as the byte order mark says."""


@dataclass(frozen=True)
class Recognised:
    """What a file is; of an archive its first file, of a zip archive its first of JSON."""

    container: str
    """``plain``, or codecs and archives, the innermost first: ``gz in tar``; and what is passed
    over in an archive: ``zip, 2 hidden files left out``."""
    framing: str
    """The name of a row of ``framing.FRAMINGS``, or, of what is no JSON, ``columns`` or ``lines of
    text``."""
    encoding: str
    """A Python text codec; empty where the file says it itself (Parquet, Arrow)."""

    @property
    def is_json(self) -> bool:
        """Whether it is JSON, also behind JavaScript, or Python's repr of dicts: no plain text."""
        return self.framing not in (COLUMNS, ROWS)


def recognised(path: str | Path, options: Encoded) -> Recognised:
    """What a file is, as far as its beginning says.

    Raises:
        CorpusError: the file cannot be opened, or is not read as it is.
    """
    first: Recognised | None = None
    foreign: StreamBreak | None = None
    try:
        for number, member in enumerate(members(path, several=True), 1):
            try:
                found = _recognised(member, options.encoding)
            except StreamBreak as error:  # in another encoding: reading leaves that file out
                foreign = foreign or error
                continue
            first = first or found
            if found.is_json:
                return found
            if member.packing[:1] != ("zip",) or number == _MOST_FILES:  # others are read to pass
                break
    except StreamBreak as error:
        if first is None:
            raise CorpusError(f"{path}: {error}; {error.remedy}") from None
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror or error}") from None
    if first is None and foreign is not None:
        raise CorpusError(f"{path}: {foreign}; {foreign.remedy}")
    return first or Recognised(PLAIN, ROWS, options.encoding or UTF8)


def _recognised(member: Member, encoding: str | None) -> Recognised:
    container = " in ".join(reversed(member.packing)) or PLAIN
    if member.hidden:
        container += f", {member.hidden} hidden file{'s' * (member.hidden > 1)} left out"
    head, _ = peek(member.chunks, HEAD_BYTES)
    if head.startswith(tuple(COLUMNAR)):
        return Recognised(container, COLUMNS, "")
    decoded, _ = peek(as_utf8(iter([head]), encoding), HEAD_BYTES)
    return Recognised(container, framing_of(decoded) or ROWS, encoding_of(head, encoding))
