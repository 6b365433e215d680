"""Labels as they stand in files -> class names, sets of them, or numbers.

``1``, ``1.0``, ``"1"`` are one class, as are ``True`` and ``"true"``. Empty, null and NaN mean that
the row has no label. Where a task names its classes and a file has only their numbers 0 … k-1, the
numbers are places in that list.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence

from pipeline.errors import did_you_mean

_WHOLE = re.compile(r"([+-]?\d+)\.0*")
_INTEGER = re.compile(r"[+-]?\d+")
_ABSENT = {"", "nan"}
SEPARATOR = "|"
"""Between the labels of a set that is no JSON array."""
_FLAGS = {"1": True, "true": True, "0": False, "false": False}


class BadLabel(Exception):
    """A label that cannot be used: its row, its value, and what is wrong with it."""

    def __init__(self, row: int, value: str, reason: str) -> None:
        super().__init__(f"{value!r} {reason}")
        self.row, self.value, self.reason = row, value, reason


def canonical(value: str | None) -> str | None:
    """A label's one spelling; None for a missing one."""
    if value is None:
        return None
    value = value.strip()
    lower = value.lower()
    if lower in _ABSENT:
        return None
    if lower in ("true", "false"):
        return lower
    whole = _WHOLE.fullmatch(value)
    return whole.group(1) if whole else value


def read_classes(
    values: Sequence[str | None], *, classes: Sequence[str] | None
) -> list[str | None]:
    """Class names of a label column, spelled as in ``classes``; any name where those are not given.

    Raises:
        BadLabel: a label is none of ``classes``.
    """
    if classes is None:
        return [canonical(value) for value in values]
    spelled = {key: name for name in classes if (key := canonical(name)) is not None}
    spelled.update({name: name for name in classes})
    if all(_INTEGER.fullmatch(name) is None for name in spelled):
        numbers = {str(place): name for place, name in enumerate(classes)}
        found = {canonical(value) for value in values} - {None}
        if found and found <= numbers.keys():
            spelled.update(numbers)
    out: list[str | None] = []
    for row, value in enumerate(values):
        stripped, key = (value or "").strip(), canonical(value)
        name = spelled.get(stripped) or spelled.get(key or "")
        if name is None and key is not None:
            raise BadLabel(row, key, not_a_class(key, classes))
        out.append(name)
    return out


def not_a_class(value: str, classes: Sequence[str]) -> str:
    """What to say about a label that is none of the classes."""
    hint = did_you_mean(value, classes)
    return f"is none of the classes {', '.join(map(repr, classes))}{hint and f', {hint}'}"


def read_sets(
    values: Sequence[str | None], *, classes: Sequence[str] | None
) -> list[tuple[str, ...] | None]:
    """The label sets of a column, each sorted: ``["a", "b"]`` or ``a|b``; ``[]`` is the empty one.

    Raises:
        BadLabel: not a list of texts, or a label that is none of ``classes``.
    """
    lists = [_listed(row, value) for row, value in enumerate(values)]
    place = [row for row, found in enumerate(lists) for _ in found or ()]
    flat = [one for found in lists for one in found or ()]
    try:
        names = iter(read_classes(flat, classes=classes))
    except BadLabel as error:
        raise BadLabel(place[error.row], error.value, error.reason) from None
    out: list[tuple[str, ...] | None] = []
    for found in lists:
        own = None if found is None else {str(next(names)) for _ in found}
        out.append(None if own is None else tuple(sorted(own)))
    return out


def _listed(row: int, value: str | None) -> list[str] | None:
    """The labels of one cell; None for a missing one."""
    if value is None or value.strip().lower() in _ABSENT:
        return None
    value = value.strip()
    if not value.startswith("["):
        return [_one_label(row, value, one) for one in value.split(SEPARATOR)]
    try:
        found = json.loads(value)
    except json.JSONDecodeError:
        raise BadLabel(row, value, f'is no JSON array; write ["a", "b"] or a{SEPARATOR}b') from None
    return [_one_label(row, value, one) for one in found]


def _one_label(row: int, value: str, one: object) -> str:
    if isinstance(one, bool | int | float):
        one = str(one)
    key = canonical(one) if isinstance(one, str) else None
    if key is None:
        raise BadLabel(row, value, "has an element that is no label; give texts or numbers only")
    return key


def read_flags(
    columns: Mapping[str, Sequence[str | None]],
) -> list[tuple[str, ...] | None]:
    """Label sets from a column of 0 and 1 for each label; a row that lacks a value has no label.

    Raises:
        BadLabel: another value.
    """
    found: list[list[bool | None]] = []
    for name, values in columns.items():
        keys = [canonical(value) for value in values]
        for row, key in enumerate(keys):
            if key is not None and key not in _FLAGS:
                raise BadLabel(row, key, f"in column {name!r} is not 0 or 1")
        found.append([None if key is None else _FLAGS[key] for key in keys])
    return [
        None
        if None in flags
        else tuple(sorted(name for name, flag in zip(columns, flags, strict=True) if flag))
        for flags in zip(*found, strict=True)
    ]


def read_numbers(values: Sequence[str | None]) -> list[float | None]:
    """The numbers of a regression label column.

    Raises:
        BadLabel: a label is not a finite number.
    """
    out: list[float | None] = []
    for row, value in enumerate(values):
        if value is None or value.strip().lower() in _ABSENT:
            out.append(None)
            continue
        try:
            number = float(value)
        except ValueError:
            raise BadLabel(row, value, "is not a number; a regression task needs numbers") from None
        if not math.isfinite(number):
            raise BadLabel(row, value, "is not a finite number")
        out.append(number)
    return out


def sorted_classes(found: Iterable[str]) -> tuple[str, ...]:
    """Classes in their default order: by number if all are whole numbers, else by name."""
    names = set(found)
    if all(_INTEGER.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
