"""Labels as they stand in files -> class names, sets of them, or numbers.

``1``, ``1.0``, ``"1"`` are one class, as are ``True`` and ``"true"``. Empty, null and NaN mean that
the row has no label. Where a task names its classes and a file has only their numbers 0 … k-1, the
numbers are places in that list.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pipeline.errors import did_you_mean

_WHOLE = re.compile(r"([+-]?\d+)\.0*")
_INTEGER = re.compile(r"[+-]?\d+")
_ABSENT = {"", "nan"}
SEPARATOR = "|"
"""Between the labels of a set that is no JSON array."""
SET_FORMS = f'write ["a", "b"] or a{SEPARATOR}b'
MOST = 1e15
"""Largest number: its square and the sum of many such still are float32."""
LEAST_SPREAD = 1e-5
"""Standard deviation of training values against the largest, below which float32 outputs, steps of
1e-7 of their size, round away what they differ by."""
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
        BadLabel: a label is none of ``classes``, or no name where those are not given.
    """
    if classes is None:
        for row, value in enumerate(values):
            if value is not None and (kind := _json_kind(value)):
                raise BadLabel(row, value, f"is {kind}, no class; multilabel tasks take lists")
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


def _json_kind(value: str) -> str:
    """What a cell holds instead of a name; empty for names."""
    try:
        found = json.loads(value) if value.lstrip()[:1] in ("[", "{") else None
    except json.JSONDecodeError:
        return ""
    if isinstance(found, list):
        return "a list"
    return "an object" if isinstance(found, dict) else ""


def not_a_class(value: str, classes: Sequence[str]) -> str:
    """What to say about a label that is none of the classes."""
    hint = did_you_mean(value, classes)
    return f"is none of the classes {', '.join(map(repr, classes))}{hint and f', {hint}'}"


def read_sets(
    values: Sequence[str | None], *, classes: Sequence[str] | None
) -> list[tuple[str, ...] | None]:
    """The label sets of a column, each sorted: ``["a", "b"]`` or ``a|b``; ``[]`` is the empty one.

    Raises:
        BadLabel: not a list of texts, or a label that is none of ``classes``; where those are not
            given also ``a, b``, if both are labels elsewhere.
    """
    lists = [_listed(row, value) for row, value in enumerate(values)]
    if classes is None:
        _refuse_commas(values, lists)
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
    if value.startswith("{") and value.endswith("}"):
        raise BadLabel(row, value, f"is no list of labels; {SET_FORMS}")
    if not value.startswith("["):
        return [_one_label(row, value, one) for one in value.split(SEPARATOR)]
    try:
        found = json.loads(value)
    except json.JSONDecodeError:
        raise BadLabel(row, value, f"is no JSON array; {SET_FORMS}") from None
    return [_one_label(row, value, one) for one in found]


def _refuse_commas(values: Sequence[str | None], lists: Sequence[Sequence[str] | None]) -> None:
    """A name may have a comma; one whose parts are all found in other names too is a list."""
    names = {one for found in lists for one in found or () if "," in one}
    parts = {one: {canonical(part) for part in one.split(",")} for one in names}
    found_in = Counter(part for own in parts.values() for part in own)
    found_in.update({one for found in lists for one in found or ()} - names)
    for row, (value, found) in enumerate(zip(values, lists, strict=True)):
        if not found or found[0] not in names or value is None or value.strip()[0] == "[":
            continue
        if len(found) == 1 and all(found_in[part] > 1 for part in parts[found[0]]):
            raise BadLabel(
                row,
                found[0],
                f"looks like several labels; {SET_FORMS}, or, if it is one, name it under `labels`",
            )


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
        if abs(number) > MOST:
            raise BadLabel(row, value, f"is beyond {MOST:g}; divide the column by a constant")
        out.append(number)
    return out


def cannot_be_told(values: Sequence[float]) -> str | None:
    """Why outputs in float32 cannot tell the training values ``(n,)`` apart, and what to do about
    it; None if they can."""
    low, high, size = min(values), max(values), max(map(abs, values))
    if low == high:
        return (
            f"all {len(values)} training values are {low:g}, so there is nothing to learn; give"
            " rows whose values differ, or leave the task out"
        )
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum(((value - mean) / size) ** 2 for value in values) / len(values))
    if spread >= LEAST_SPREAD:
        return None
    return (
        f"the training values, {low:.10g} to {high:.10g}, have a standard deviation of"
        f" {spread * size:.2g}, which float32 cannot tell at that size; subtract a constant"
        f" from the column, such as {mean:.6g}"
    )


def sorted_classes(found: Iterable[str]) -> tuple[str, ...]:
    """Classes in their default order: by number if all are whole numbers, else by name."""
    names = set(found)
    if all(_INTEGER.fullmatch(name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))
