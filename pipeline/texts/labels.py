"""Labels as they stand in files -> class names or numbers.

``1``, ``1.0``, ``"1"`` are one class, as are ``True`` and ``"true"``. Empty, null and NaN mean that
the row has no label. Where a task names its classes and a file has only their numbers 0 … k-1, the
numbers are places in that list.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from pipeline.errors import did_you_mean

_WHOLE = re.compile(r"([+-]?\d+)\.0*")
_INTEGER = re.compile(r"[+-]?\d+")
_ABSENT = {"", "nan"}


class BadLabel(Exception):
    """A label that cannot be used: its row, its value, and what is wrong with it."""

    def __init__(self, row: int, value: str, reason: str) -> None:
        super().__init__(f"{value!r} {reason}")
        self.row = row


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
