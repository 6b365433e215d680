"""What lies beside data in folders and archives: notes, checksums, pages, pictures, programs.

is_no_data("README.txt")                                  # True, by its name
is_beside("assets/main.js", head, framing_of(head))       # True: no values behind JavaScript
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from pipeline.texts.framing import is_json_like

_NO_DATA = re.compile(
    r"(readme|licen[cs]e|(md5|sha\d+)sums?|checksums?|manifest)(\.\w+)?"
    r"|.*\.(md|md5|sha\d+|asc|sig|log|pdf|html?|css|rst|py|toml|ya?ml"
    r"|png|jpe?g|gif|webp|svg|ico|mp[34]|m4[av]|mov|webm|ogg|wav|m3u8|woff2?|[to]tf)",
    re.I,
)
_PROGRAM = re.compile(r".*\.m?js(\.map)?", re.I)
_NOTE = re.compile(r".*\.(txt|xml|rtf)", re.I)
_MAGIC = re.compile(
    rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF....(?:WEBP|WAVE)|....ftyp|\x1aE\xdf\xa3|OggS|ID3|wOF[F2]|%PDF-",
    re.S,
)
_BEGINNING = 1 << 12


def is_no_data(name: str) -> bool:
    """Whether a file of a folder is left out for its name."""
    return _NO_DATA.fullmatch(name) is not None


def is_beside(name: str, head: bytes, framing: str) -> bool:
    """Whether a file of an archive of posts is none of posts, by name and content.

    Args:
        name: with the folders in the archive.
        head: how it begins, in UTF-8.
        framing: from ``framing.framing_of``.
    """
    name = PurePosixPath(name.rpartition(":")[2]).name
    if _PROGRAM.fullmatch(name):
        return is_json_like(head[:_BEGINNING]) is None
    if framing:
        return False
    return is_no_data(name) or _NOTE.fullmatch(name) is not None or _MAGIC.match(head) is not None
