"""The Parquet files of a folder of scores: read with every checksum compared, rewritten whole.

    for path in part_files(folder):
        for table in read_part(path):           # id and text_hash, or the lines of a quarantine
            keys_of(path, table)
    rewrite_part(path, keep)                    # without some rows, all of it or nothing
    for table in read_scores(folder, ["id"]):   # the rows, with their date

Files that Salient wrote hold a checksum of each column and of each page. Those that another program
put together, told by their names, are taken as they are: they have none, or copies of those of the
files that went in.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import ScoreError, ScoreInputError
from pipeline.scoring.sinks import ParquetSink, sink_of
from store import StoreError
from store.disk import COLUMN_CHECKSUMS, fill_file
from store.tables import read_table, write_table

QUARANTINE = "_quarantine"
SET_ASIDE = f"{QUARANTINE}/_damaged"
"""Damaged files lie here, as they were, where no reader takes them for scores."""
ORIGIN = b"salient"
"""Key of a file's metadata under which it says what made it (``pipeline.scoring.origin``)."""
ROW_COLUMNS = ("id", "text_hash")
LINE_COLUMNS = ("source_file", "line", "reason", "excerpt")
Key = int | str | bytes
"""A numeric id, any other id, or the digest of a quarantined line."""
_READ_ROWS = 65_536
_OWN = re.compile(r"part-[0-9a-f]{20}\.parquet")
"""Names of files that Salient wrote."""
_FILE_NAME = re.compile(r".*\.(parquet|json|png|safetensors|sqlite.*|tmp|lock)")
"""Names that no folder within a folder of scores has."""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_MAX_ID = 1 << 63
CHECKED: dict[str, Any] = {"page_checksum_verification": True}
"""How pyarrow opens a Parquet file."""
UNREADABLE = (pa.ArrowException, OSError, KeyError, ValueError, TypeError, MemoryError)
"""What reading Parquet may raise: arrow's errors are of several families, and the names of columns
may be no UTF-8 any more."""


class DamagedFile(ScoreError):
    """A file holds something else than was written: it can be set aside, or made again."""


def is_damage(error: BaseException) -> bool:
    """Whether an error in reading speaks against the file, and not against the disk or memory."""
    cause = error.__context__ if isinstance(error, StoreError) else error
    if isinstance(cause, OSError):  # arrow's own have no number
        return cause.errno is None
    return not isinstance(cause, MemoryError)


@contextmanager
def reading(path: Path, remedy: str, what: str = "damaged") -> Iterator[None]:
    """Read a file, and tell damage from what says nothing of the file.

    Args:
        path: the file.
        remedy: what to do about damage.
        what: is wrong with a damaged one.

    Raises:
        DamagedFile: it holds something else than was written.
        ScoreError: it cannot be read at the moment.
    """
    try:
        yield
    except (StoreError, *UNREADABLE) as error:
        if not is_damage(error):
            cause = error.__context__ if isinstance(error, StoreError) else error
            said = getattr(cause, "strerror", None) or cause or "too little memory"
            raise ScoreError(
                f"{path}: cannot be read ({said}), which says nothing of what it holds; mend the"
                " cause (disk, permissions, open files, memory) and try again"
            ) from None
        if isinstance(error, StoreError):
            raise DamagedFile(str(error)) from None
        raise DamagedFile(f"{path}: {what} ({error}); {remedy}") from None


def part_name(digest: str) -> str:
    """The name of a file with this digest of its rows (hex digits)."""
    return f"part-{digest[:20]}.parquet"


def repair_command(folder: Path | str) -> str:
    """What to type when a folder of scores is damaged."""
    return f"`salient score repair {folder}`"


def check_files(folder: Path) -> None:
    """Refuse a folder that leads elsewhere, or has something else at a file's place.

    What is written and deleted in it stays in it, and no command waits for a pipe.

    Raises:
        ScoreError: a symbolic link, a pipe, a socket or a device within the folder, or a folder
            that has a file's name.
    """
    places = (folder.glob(pattern) for pattern in ("*", "date=*/*", "_*/*", f"{SET_ASIDE}/*"))
    for place in places:
        for path in place:
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:  # another process has removed it since
                continue
            if stat.S_ISLNK(mode):
                raise ScoreInputError(
                    f"{path}: is a symbolic link; a folder of scores holds its files itself: put"
                    " the file in its place, or remove the link"
                )
            if stat.S_ISREG(mode) or (stat.S_ISDIR(mode) and not _FILE_NAME.fullmatch(path.name)):
                continue
            kind = _KINDS.get(stat.S_IFMT(mode), "no file")
            raise ScoreError(
                f"{path}: is {kind}, where a folder of scores holds files; remove it or move it"
                f" elsewhere, then {repair_command(folder)} makes again what can be"
            )


def part_files(folder: Path) -> list[Path]:
    """The files of rows by date, then those of quarantined lines."""
    return [*row_files(folder), *sorted(folder.glob(f"{QUARANTINE}/*.parquet"))]


def row_files(folder: Path) -> list[Path]:
    """The files of rows that count, by date: of a Delta table those that it lists."""
    return sink_of(folder).files()


def read_scores(folder: Path, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of a folder of scores, file by file, in bounded memory.

    Args:
        folder: of the scores, Parquet by date or a Delta table.
        columns: to read; null where a file of an earlier version has none.

    Yields:
        Tables ``(rows,)`` of these columns and ``date``, a string: ``2026-11-23`` or ``unknown``.

    Raises:
        ScoreError: a file is damaged, or cannot be read.
    """
    for path in row_files(folder):
        there = tuple(name for name in columns if has_column(path, name))
        for table in read_part(path, there or ("id",), all_columns=False):
            nulls = pa.nulls(len(table))
            own = {name: table[name] if name in there else nulls for name in columns}
            date = pa.array([path.parent.name.removeprefix("date=")] * len(table), pa.string())
            yield pa.table({**own, "date": date})


def read_part(
    path: Path, columns: tuple[str, ...] = (), *, all_columns: bool = True
) -> Iterator[pa.Table]:
    """The rows of a file, in bounded memory.

    Args:
        path: the file.
        columns: by default those that keys are made of.
        all_columns: compare every column with its checksum, not only those asked for.

    Raises:
        DamagedFile: it is damaged, or holds no scores.
        ScoreError: it cannot be read at the moment.
    """
    wanted = list(columns or (LINE_COLUMNS if is_quarantine(path) else ROW_COLUMNS))
    remedy = (
        f"{repair_command(path.parent.parent)} sets it aside, and its rows can come back (if"
        " another program rewrote it, give it a name of its own)"
    )
    with reading(path, remedy, "damaged, or no scores"):
        with path.open("rb") as source, pq.ParquetFile(source, **CHECKED) as file:
            foreign = _is_foreign(path, file.schema_arrow)
            if foreign:
                for batch in file.iter_batches(batch_size=_READ_ROWS, columns=wanted):
                    yield pa.Table.from_batches([batch]).select(wanted)
        if not foreign:
            read = None if all_columns else wanted
            whole = read_table(path, read, remedy=remedy).select(wanted)
            for start in range(0, len(whole), _READ_ROWS):
                yield whole.slice(start, _READ_ROWS)


def keys_of(path: Path, table: pa.Table) -> list[tuple[Key, int]]:
    """Key and text digest of every row of a table that was read from a file.

    Raises:
        DamagedFile: something else stands in the columns.
    """
    try:
        if is_quarantine(path):
            return line_keys(table)
        for name in ROW_COLUMNS:
            if not _is_text(table.schema.field(name).type):
                raise TypeError(f"{name} is {table.schema.field(name).type}, must be string")
        return row_keys(table)
    except (AttributeError, TypeError, ValueError) as error:
        raise DamagedFile(
            f"{path}: damaged, or no scores ({error}); {repair_command(path.parent.parent)} sets"
            " it aside, and its rows can come back"
        ) from None


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(
        test(kind)
        for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    )


def part_keys(path: Path, sources: set[str]) -> Iterator[tuple[Key, int]]:
    """Key and text digest of every row of a file; its ``source_file`` are added to ``sources``."""
    own = LINE_COLUMNS if is_quarantine(path) else (*ROW_COLUMNS, "source_file")
    for table in read_part(path, own if has_column(path, "source_file") else ()):
        if "source_file" in table.column_names:
            sources.update(one for one in table["source_file"].unique().to_pylist() if one)
        yield from keys_of(path, table)


def has_column(path: Path, name: str) -> bool:
    """Whether a file has a column; False if it is too damaged to tell.

    Raises:
        ScoreError: it cannot be read at the moment.
    """
    try:
        with reading(path, ""), path.open("rb") as file:
            return name in pq.read_schema(file).names
    except DamagedFile:
        return False


def num_rows(path: Path) -> int:
    """The rows of a file, by its ids: what the footer says has no checksum.

    Raises:
        ScoreError: it is damaged, or holds no scores.
    """
    return sum(len(table) for table in read_part(path, ("id",), all_columns=False))


def rewrite_part(path: Path, keep: NDArray[np.bool_]) -> Path | None:
    """Take rows out of a file; in its place, or in one of its own where versions are kept.

    Args:
        path: the file.
        keep: which of its rows stay, ``(rows,)`` bool.

    Returns:
        The file that has the others; None if there are none.

    Raises:
        ScoreError: it is damaged.
    """
    # Quarantined lines are plain files, whatever the rows are.
    sink = ParquetSink(path.parent.parent) if is_quarantine(path) else sink_of(path.parent.parent)
    if not keep.any():
        sink.commit([], [path])
        return None
    with path.open("rb") as source, pq.ParquetFile(source) as file:
        schema = file.schema_arrow
    foreign = _is_foreign(path, schema)
    columns = tuple(schema.names)
    kept = {} if schema.metadata is None else schema.metadata
    facts = {ORIGIN: kept[ORIGIN]} if ORIGIN in kept else None

    def tables() -> Iterator[pa.Table]:
        start = 0
        for table in read_part(path, columns):
            yield table.filter(pa.array(keep[start : start + len(table)]))
            start += len(table)

    def fill(target: Path) -> None:
        options = {"compression": "zstd", "write_page_checksum": True}
        with (
            target.open("wb") as file,  # a path may read like an address
            pq.ParquetWriter(file, schema.with_metadata(facts), **options) as writer,
        ):
            for table in tables():
                writer.write_table(table.replace_schema_metadata(facts))

    target = sink.successor(path, keep.tobytes())
    if foreign:  # of any size
        fill_file(target, fill, shared=True)
    else:
        write_table(target, pa.concat_tables(tables()).replace_schema_metadata(facts))
    if target != path:
        sink.commit([target], [path])
    return target


def _is_foreign(path: Path, schema: pa.Schema) -> bool:
    return not _OWN.fullmatch(path.name) or COLUMN_CHECKSUMS not in (schema.metadata or {})


# -- keys -----------------------------------------------------------------------------------------


def is_quarantine(path: Path) -> bool:
    """Whether a file holds lines that could not be read, rather than rows of scores."""
    return path.parent.name == QUARANTINE


def id_key(id: str) -> int | str:
    """The key of an id: the number where that is the id exactly, which is the shorter."""
    if id.isascii() and id.isdigit() and (id[0] != "0" or id == "0"):
        number = int(id) if len(id) < 20 else _MAX_ID
        if number < _MAX_ID:
            return number
    return id


def text_digest(text_hash: str) -> int:
    """64 bits of a text's hash, to tell another text under the same id."""
    return int.from_bytes(bytes.fromhex(text_hash[:16]), "big", signed=True)


def row_keys(table: pa.Table) -> list[tuple[Key, int]]:
    """Key and text digest of every row of scores (``id``, ``text_hash``)."""
    ids, hashes = table["id"].to_pylist(), table["text_hash"].to_pylist()
    return [(id_key(one), text_digest(text)) for one, text in zip(ids, hashes, strict=True)]


def line_keys(table: pa.Table) -> list[tuple[Key, int]]:
    """Key of every quarantined line (all of ``LINE_COLUMNS``): the same line is kept once."""
    columns = (table[name].to_pylist() for name in LINE_COLUMNS)
    return [
        (hashlib.blake2b(json.dumps(line).encode(), digest_size=16).digest(), 0)
        for line in zip(*columns, strict=True)
    ]
