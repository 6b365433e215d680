"""What Salient has written as JSON for itself, read with its types checked.

    card = read_record(path, HeadCard, remedy="copy the head again", error=HeadError)

A checksum says that a file is as it was written, and not that Salient wrote it: older files have
none, and a folder from elsewhere holds what its maker likes. So what is read is held against a
dataclass or a :class:`Record`, strictly: a number is no text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import pyarrow as pa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pipeline.config.sections import NAME_PATTERN
from store.errors import SalientError, StoreError
from store.tables import AGAIN, read_json, read_table

T = TypeVar("T")


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("has control characters")
    return text


Line = Annotated[str, AfterValidator(_printable)]
"""Text that is shown as it is: without the control characters that terminals obey."""
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
"""Of a task or a run: it becomes a file's name, and no path."""


class Record(BaseModel):
    """Some members of a JSON object that are relied on; there may be others."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def checked(
    kind: type[T],
    data: Mapping[str, Any],
    *,
    where: str | Path,
    remedy: str = AGAIN,
    error: type[SalientError] = StoreError,
) -> T:
    """A JSON object as an instance of a class, every member of the type that it must have.

    Args:
        kind: a dataclass or a :class:`Record`.
        data: as it was read.
        where: the file, for the error.
        remedy: what to do about a file that is wrong.
        error: its kind.

    Raises:
        SalientError: naming the file and the member.
    """
    try:
        found: T = _adapter(cast(Any, kind)).validate_json(json.dumps(data), strict=True)
    except (ValidationError, ValueError, RecursionError) as trouble:
        raise error(f"{where}: {_what(trouble)}; {remedy}") from None
    return found


def read_record(
    path: Path, kind: type[T], *, remedy: str = AGAIN, error: type[SalientError] = StoreError
) -> T:
    """Read a file of JSON as `checked` does.

    Raises:
        SalientError: missing, damaged, or with a member that is missing or of another type.
    """
    return checked(kind, read_json(path, remedy=remedy), where=path, remedy=remedy, error=error)


COLUMNS: dict[str, Callable[[pa.DataType], bool]] = {
    "text": lambda kind: pa.types.is_string(
        kind.value_type if pa.types.is_dictionary(kind) else kind
    ),
    "whole": pa.types.is_integer,
    "number": lambda kind: pa.types.is_floating(kind) or pa.types.is_integer(kind),
}
"""What a table's column may hold."""


def read_columns(
    path: Path,
    columns: Mapping[str, str],
    *,
    remedy: str = AGAIN,
    error: type[SalientError] = StoreError,
) -> pa.Table:
    """Read a table that has some columns without gaps; it may have others.

    Args:
        path: the Parquet file.
        columns: name -> a key of ``COLUMNS``.
        remedy: what to do about a file that is wrong.
        error: its kind.

    Raises:
        SalientError: missing, damaged, or a column is missing or holds something else.
    """
    table = read_table(path, remedy=remedy)
    for name, kind in columns.items():
        if table.column_names.count(name) != 1:
            raise error(f"{path}: has {table.column_names.count(name)} columns {name!r}; {remedy}")
        column = table[name]
        if not COLUMNS[kind](column.type) or column.null_count:
            gaps = f", {column.null_count} of them empty" if column.null_count else ""
            raise error(
                f"{path}: column {name!r} holds {column.type}{gaps}, where a {kind} is expected in"
                f" each row; {remedy}"
            )
    return table


def _what(trouble: Exception) -> str:
    """The first member that is wrong, and how."""
    if not isinstance(trouble, ValidationError):
        return f"not a record ({trouble})"
    problems = trouble.errors(include_url=False)
    first = problems[0]
    name = ".".join(str(part) for part in first["loc"] if not str(part).startswith("function-"))
    message = first["msg"].removeprefix("Value error, ")
    value = first["input"]
    short = isinstance(value, str | int | float | None) and first["type"] != "missing"
    shown = f", not {str(value)[:60]!r}" if short else ""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"member {name!r}: {message}{shown}{more}"
