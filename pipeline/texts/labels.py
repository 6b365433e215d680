"""Labels as they stand in files -> class names, sets of them, or numbers.

``1``, ``1.0``, ``"1"`` are one class, as are ``True`` and ``"true"``. Empty, null and NaN mean that
the row has no label. Where a task names its classes and a file has only their numbers 0 … k-1, the
numbers are places in that list. A cell that holds several labels is no class: a list as JSON,
Python or numpy writes it, or labels with a separator between them, is a set of them
(``read_sets``).
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from pipeline.errors import did_you_mean

_WHOLE = re.compile(r"([+-]?\d+)\.0*")
_INTEGER = re.compile(r"[+-]?\d+")
_COMMA_NUMBER = re.compile(r"[+-]?\d+(?:,\d+)?")
_ABSENT = {"", "nan"}
_NULLS = {"NA", "N/A", "<NA>", "#N/A", "null", "NULL"}
"""How programs write a missing value; "None" and "none" are classes of many sets."""
SEPARATOR = "|"
"""Between the labels of a set that is no list, where no other one is named."""
SET_FORMS = f'write ["a", "b"] or a{SEPARATOR}b'
_OTHERS = (";", ",")
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_ITEM = re.compile(rf"({_QUOTED}|[+-]?\d+(?:\.\d*)?)(?:\s*,\s*|\s+|$)")
_BRACKETS = {"[": "]", "(": ")", "{": "}"}
_LONGEST_LIST = 1 << 16
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
    values: Sequence[str | None],
    *,
    classes: Sequence[str] | None,
    names: Mapping[str, str] | None = None,
) -> list[str | None]:
    """Class names of a label column, spelled as in ``classes``; any name where those are not given.

    Args:
        values: the cells.
        classes: the task's, if it names them.
        names: what stands in the cells -> the class that it means.

    Raises:
        BadLabel: a label is none of ``names`` or ``classes``, or several labels or an object where
            those are not given.
    """
    known = set(classes or ()) | set(names or ())
    several = {value: kind for value in {*values} - {None} if (kind := _kind(value, known))}
    if several:
        row = next(row for row, value in enumerate(values) if value in several)
        value = str(values[row])
        raise BadLabel(
            row,
            value,
            f'is {several[value]}, no class; set type = "multilabel" for lists of labels',
        )
    if not known:
        for separator in (SEPARATOR, *_OTHERS):
            names_found = {value for value in values if value}
            found = _lists_of_others(names_found, separator, whole=separator == ",")
            if found:
                row = next(row for row, value in enumerate(values) if value in found)
                raise BadLabel(
                    row,
                    str(values[row]),
                    f'looks like several labels; set type = "multilabel" and separator ='
                    f' "{separator}", or, if it is one class, name the classes under `labels`',
                )
        for row, cell in enumerate(values):
            if cell is not None and (reason := _no_name(cell.strip())):
                raise BadLabel(row, cell, reason)
    return _named(_renamed(values, names), classes)


def _like_a_list(value: str) -> bool:
    """Square brackets around more than a word, which some names have around them."""
    return value[:1] == "[" and value[-1:] == "]" and any(sign in value for sign in "'\",")


def _no_name(value: str) -> str:
    """Why a cell is hardly the name of a class; empty for names."""
    if value in _NULLS:
        return "may be a class or a missing label; name the classes under `labels`, or blank it"
    if len(value) > 1 and value[0] == value[-1] == '"':
        return "is in quotes; in CSV no blank stands before a quote"
    return ""


def _named(values: Sequence[str | None], classes: Sequence[str] | None) -> list[str | None]:
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


def _renamed(values: Sequence[str | None], names: Mapping[str, str] | None) -> Sequence[str | None]:
    """What the cells mean; a name itself stays as it is."""
    if not names:
        return values
    meant = {key: name for one, name in names.items() if (key := canonical(one)) is not None}
    meant.update({name: name for name in names.values() if name not in meant})
    out: list[str | None] = []
    for row, value in enumerate(values):
        key = canonical(value)
        if key is not None and key not in meant:
            hint = did_you_mean(key, meant)
            shown = ", ".join(map(repr, names))
            raise BadLabel(
                row, key, f"is none of label_names, which has {shown}{hint and f', {hint}'}"
            )
        out.append(None if key is None else meant[key])
    return out


def _kind(value: str | None, known: Collection[str]) -> str:
    """What a cell holds instead of a name; empty for names."""
    if value is None or value.lstrip()[:1] not in _BRACKETS or value.strip() in known:
        return ""
    if _as_list(value.strip()) is not None or _like_a_list(value.strip()):
        return "a list"
    try:
        return "an object" if isinstance(json.loads(value), dict) else ""
    except (ValueError, RecursionError):
        return ""


def _as_list(value: str) -> list[object] | None:
    """The elements of a list as JSON, Python (or a tuple or set) or numpy writes it; None for
    others."""
    if _BRACKETS.get(value[:1]) != value[-1:] or len(value) > _LONGEST_LIST:
        return None
    if value[0] == "[":
        try:
            found = json.loads(value)
        except (ValueError, RecursionError):
            pass
        else:
            return found if isinstance(found, list) else None
    elif "'" not in value and '"' not in value:
        return None
    inner, at, items = value[1:-1].strip(), 0, list[object]()
    while at < len(inner):
        match = _ITEM.match(inner, at)
        if match is None:
            return None
        item, at = match.group(1), match.end()
        items.append(re.sub(r"\\(.)", r"\1", item[1:-1]) if item[0] in "'\"" else item)
    return items


def _lists_of_others(names: Collection[str], separator: str, *, whole: bool) -> set[str]:
    """The names with a part between separators that is found in other names too, or with all of
    them (``whole``)."""
    listed = {one for one in names if separator in one}
    parts = {one: {canonical(part) for part in one.split(separator)} for one in listed}
    found_in = Counter(part for own in parts.values() for part in own)
    found_in.update({canonical(one) for one in names if one not in listed})
    enough = all if whole else any
    return {one for one, own in parts.items() if enough(found_in[part] > 1 for part in own if part)}


def not_a_class(value: str, classes: Sequence[str]) -> str:
    """What to say about a label that is none of the classes."""
    hint = did_you_mean(value, classes)
    return f"is none of the classes {', '.join(map(repr, classes))}{hint and f', {hint}'}"


def read_sets(
    values: Sequence[str | None],
    *,
    classes: Sequence[str] | None,
    separator: str | None = None,
    names: Mapping[str, str] | None = None,
) -> list[tuple[str, ...] | None]:
    """The label sets of a column, each sorted: ``["a", "b"]``, ``['a', 'b']``, ``['a' 'b']`` or
    ``a|b``; ``[]`` is the empty one.

    Args:
        values: the cells.
        classes: the task's labels, if it names them.
        separator: what stands between labels that are no list; None: a bar, and other separators
            are no part of a name where they seem to be one.
        names: what stands in the cells -> the label that it means.

    Raises:
        BadLabel: not a list of texts, or a label that is none of ``names`` or ``classes``; where
            neither these nor ``separator`` are given also ``a;b``, or ``a, b`` if both are labels
            elsewhere.
    """
    lists = [_labels_of(row, value, separator) for row, value in enumerate(values)]
    if separator is None and not classes and not names:
        _refuse_others(values, lists)
    place = [row for row, found in enumerate(lists) for _ in found or ()]
    flat = [one for found in lists for one in found or ()]
    try:
        labels = iter(_named(_renamed(flat, names), classes))
    except BadLabel as error:
        hint = _separator_of(error.value, {*(names or {}), *(classes or ())})
        reason = error.reason
        if separator is None and hint:
            reason = f'is none of the labels, but its parts are; set separator = "{hint}"'
        raise BadLabel(place[error.row], error.value, reason) from None
    out: list[tuple[str, ...] | None] = []
    for found in lists:
        own = None if found is None else {str(next(labels)) for _ in found}
        out.append(None if own is None else tuple(sorted(own)))
    return out


def is_listed(value: str, separator: str | None) -> bool:
    """Whether a cell is a list, or one with a separator; None: the one that needs no telling."""
    listed = separator is None and _as_list(value.strip()) is not None
    return listed or (separator or SEPARATOR) in value


def _separator_of(value: str, known: Collection[str]) -> str:
    """What stands between the known labels of a cell; "" if they are not all known."""
    keys = {canonical(one) for one in known}
    numbers = {str(place) for place in range(len(known))}
    for separator in _OTHERS:
        parts = {canonical(part) for part in value.split(separator)}
        if len(parts) > 1 and (parts <= keys or parts <= numbers):
            return separator
    return ""


def _labels_of(row: int, value: str | None, separator: str | None) -> list[str] | None:
    """The labels of one cell; None for a missing one."""
    if value is None or value.strip().lower() in _ABSENT:
        return None
    value = value.strip()
    found = _as_list(value) if value[0] in _BRACKETS else None
    if found is None:
        if separator is None and _BRACKETS.get(value[0]) == value[-1] and value[0] != "(":
            raise BadLabel(row, value, f"is no list of labels; {SET_FORMS}")
        found = [*value.split(separator or SEPARATOR)]
    return [_one_label(row, value, one) for one in found]


def _refuse_others(values: Sequence[str | None], lists: Sequence[Sequence[str] | None]) -> None:
    """A name may have a comma; one with a part that is found in other names too is a list. So is
    any with a semicolon between two parts."""
    names = {one for found in lists for one in found or ()}
    for separator in _OTHERS:
        several = _lists_of_others(names, separator, whole=False)
        if separator == ";":
            several |= {one for one in names if len([*filter(str.strip, one.split(";"))]) > 1}
        for row, (value, found) in enumerate(zip(values, lists, strict=True)):
            if not found or found[0] not in several or _as_list((value or "").strip()) is not None:
                continue
            if len(found) == 1:
                raise BadLabel(
                    row,
                    found[0],
                    f'looks like several labels; set separator = "{separator}", or, if it is one,'
                    " name it under `labels`",
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


def has_decimal_commas(labels: Collection[str]) -> bool:
    """Whether labels read like numbers with a decimal comma, or like two numbers each."""
    found = [_COMMA_NUMBER.fullmatch(one) for one in labels]
    return None not in found and any("," in one for one in labels)


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
            if "_" in value or not value.isascii():  # which Python takes
                raise ValueError
            number = float(value)
        except ValueError:
            remedy = "a regression task needs numbers"
            if _COMMA_NUMBER.fullmatch(value.strip()):
                remedy = "write a decimal point, not a comma"
            raise BadLabel(row, value, f"is not a number; {remedy}") from None
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
