"""The formats of files of rows: their readers, and how a file's format is told.

A reader is a function of a path and a ``Wanted`` (``pipeline.texts.blocks``) that yields blocks of
strings. A new format is a function, a row of ``FORMATS``, and, where its files have an ending or
first bytes of their own, one of the tables of those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipeline.errors import CorpusError
from pipeline.texts.blocks import Layout, RowBlock, Wanted
from pipeline.texts.charsets import as_utf8
from pipeline.texts.columnar import COLUMNAR, read_arrow, read_parquet
from pipeline.texts.containers import StreamBreak, members, peek, readable
from pipeline.texts.delimited import DELIMITERS, read_csv, read_lines, read_tsv
from pipeline.texts.jsonrows import read_jsonl
from pipeline.texts.objects import as_path
from pipeline.texts.published import TEXTS_ENDING, read_folders, read_trees, read_tweeteval
from pipeline.texts.recognition import recognised
from pipeline.texts.usual import plain

FORMATS: dict[str, Callable[[Path, Wanted], Iterator[RowBlock]]] = {
    "csv": read_csv,
    "tsv": read_tsv,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "text": read_lines,
    "tweeteval": read_tweeteval,
    "trees": read_trees,
    "folders": read_folders,
}
"""Format -> its reader."""
LABELLED = tuple(name for name in FORMATS if name != "text")
"""Formats of labelled sets."""
FOLDERS = "folders"
"""The one whose path is a folder."""
HEADERLESS = ("csv", "tsv")
"""Formats whose columns may be named from outside."""
BINARY = ("parquet", "arrow")
"""Formats that say themselves how their texts are encoded."""
_WORKBOOK_MAGIC = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""Of Excel's files before 2007; newer ones are zip archives (``containers``)."""
_SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
_PACKED = {".gz", ".bz2", ".xz", ".zst", ".zip"}
_HEAD_BYTES = 1 << 16
PLAIN = Layout()
"""Of a file that says all of itself."""


def detect_format(
    path: str | Path,
    *,
    text: str | Sequence[str] | None = None,
    layout: Layout = PLAIN,
    choices: Sequence[str] = (),
) -> str:
    """The key of ``FORMATS`` that a file's name and first bytes speak for.

    JSON is told by what it is, whatever the file is called. A file of tab-separated columns may be
    called ``.txt``; with ``text`` given, only if it has that column, or one of several, and other
    ``.txt`` files are plain lines of ``text``. An error offers ``choices``, default the formats of
    labelled sets.

    Raises:
        CorpusError: no such file, or the format cannot be told.
    """
    path = as_path(path)
    name, head = _beginning(path)
    if head.startswith(_WORKBOOK_MAGIC):
        raise CorpusError(f"{path}: is an Excel workbook; save its sheet as CSV, and name that")
    for magic, format in COLUMNAR.items():
        if head.startswith(magic):
            return format
    try:
        decoded, _ = peek(as_utf8(iter([head]), layout.encoding), _HEAD_BYTES)
    except StreamBreak as error:
        raise CorpusError(f"{path}: {error}; {error.remedy}") from None
    first = decoded.lstrip().partition(b"\n")[0].rstrip(b"\r")
    suffix = _suffix(name)
    if not name.endswith(TEXTS_ENDING) and recognised(path, layout).is_json:
        return "jsonl"
    if layout.delimiter is not None and _SUFFIXES.get(suffix) in (None, *HEADERLESS):
        return "tsv" if layout.delimiter == "\t" else "csv"
    if text is None and name.endswith(TEXTS_ENDING):
        return "tweeteval"
    if suffix == ".txt" and text is not None:
        return _of_lines(first.decode("utf-8", "replace"), text, layout)
    if (named := _SUFFIXES.get(suffix)) is not None:
        return "tsv" if named == "csv" and b"\t" in first and b"," not in first else named
    if first[:1] in (b"{", b"["):
        return "jsonl"
    if b"\t" in first:
        return "tsv"
    if b"," in first or not first:
        return "csv"
    raise CorpusError(
        f"{path}: cannot tell the format from the name or the first line; "
        f"set format to one of {', '.join(choices or LABELLED)}"
    )


def _of_lines(first: str, text: str | Sequence[str], layout: Layout) -> str:
    """The format of a ``.txt`` file by its first line: a table with the text, or plain lines."""
    wanted = [text] if isinstance(text, str) else list(text)
    names = [plain(one) for one in first.split("\t")]
    by_number = any(one.isdigit() for one in wanted)
    own = bool(layout.columns) or by_number or any(plain(one) in names for one in wanted)
    if len(names) > 1 and own:
        return "tsv"
    return "csv" if by_number and any(sign in first for sign in DELIMITERS) else "text"


def _beginning(path: Path) -> tuple[str, bytes]:
    """The name of an unpacked file, and its first bytes."""
    try:
        for member in members(path):
            head, _ = peek(member.chunks, _HEAD_BYTES)
            return member.name.rpartition(":")[2], head
    except StreamBreak as error:
        raise CorpusError(f"{path}: {error}; {error.remedy}") from None
    except FileNotFoundError:
        raise CorpusError(
            f"{path}: no such file; check the path (in a configuration it is relative to that)"
        ) from None
    except OSError as error:
        raise CorpusError(f"{path}: cannot be read: {error.strerror}") from None
    return path.name, b""


def file_stem(path: str | Path) -> str:
    """A file's name without the suffixes of format and packing: ``a.jsonl.gz`` -> ``a``."""
    path = as_path(path)
    while path.suffix.lower() in _PACKED or path.suffix.lower() in {*_SUFFIXES, ".txt"}:
        path = path.with_suffix("")
    return readable(path.name)


def _suffix(name: str) -> str:
    suffixes = [one.lower() for one in Path(name).suffixes]
    while suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""
