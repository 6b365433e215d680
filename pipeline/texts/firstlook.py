"""A first look at a labelled file: its columns by their usual names, the tasks by their values.

What `salient init --csv` writes down. The file is read as a corpus is, so what is found here is
what a run finds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.config import SCORE_COLUMNS
from pipeline.errors import CorpusError, listed
from pipeline.progress import counted
from pipeline.texts.blocks import Layout, MissingColumn
from pipeline.texts.counts import DIFFER, spelled_alike
from pipeline.texts.formats import PLAIN
from pipeline.texts.labels import (
    SEPARATOR,
    BadLabel,
    canonical,
    has_decimal_commas,
    is_listed,
    read_classes,
    read_numbers,
    read_sets,
    sorted_classes,
)
from pipeline.texts.objects import as_path
from pipeline.texts.rows import exact_ids, read_rows
from pipeline.texts.sources import SPLIT_NAMES
from pipeline.texts.timestamps import parse_time, time_trouble
from pipeline.texts.usual import AND, USUAL, fitting

LABELLED: Mapping[str, tuple[str, ...]] = {
    **{use: names for use, names in USUAL.items() if use != "lang"},
    "split": ("split", "set", "partition", "subset"),
    "label": ("label", "labels", "class", "target", "category", "annotation"),
}
"""What a column of a labelled set is for -> how it is usually called, the likelier first."""
MOST_CLASSES = 20
"""Different whole numbers up to which they are taken for classes."""
_ODD = re.compile(r"[^A-Za-z0-9_.-]+")
_ASKED = "\x00"  # is no column's name


@dataclass(frozen=True)
class TaskGuess:
    """What a label column seems to be.

    Attributes:
        name: the task's.
        column: its label column.
        type: classification, regression or multilabel.
        separator: what stands between the labels of a cell, where it must be said.
        why: what its values are, with counts, for people.
        labels: its classes, or the labels of its sets.
    """

    name: str
    column: str
    type: str
    separator: str | None
    why: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Glance:
    """What a first look at a file finds.

    Attributes:
        path: the file.
        num_rows: rows in it.
        columns: use (text, id, time, author, split) -> the column, of those that it has.
        tasks: one for each label column.
        notes: what was left out and why, a line each.
    """

    path: Path
    num_rows: int
    columns: dict[str, str]
    tasks: tuple[TaskGuess, ...]
    notes: tuple[str, ...]


def column_names(
    path: Path, *, asked: Sequence[str] = (), layout: Layout = PLAIN
) -> tuple[str, ...]:
    """The columns of a file of texts: numbers, where ``asked`` has some and there is no header.

    Raises:
        CorpusError: a file that cannot be read, or that is empty.
    """
    try:
        for _ in read_rows(path, [_ASKED, *asked], layout=layout):
            pass
    except MissingColumn as error:
        if error.is_data and not fitting("text", error.columns, LABELLED):
            raise CorpusError(
                f"{path}: its first line looks like a row of data, not like a header; write one"
                f" above it, or name columns by number, as --text {len(error.columns)} --label 1"
            ) from None
        return error.columns
    return ("text",)  # of plain lines


def glance(
    path: Path,
    labels: Sequence[str],
    *,
    given: dict[str, str] | None = None,
    layout: Layout = PLAIN,
) -> Glance:
    """Look at a file before it is a corpus.

    Args:
        path: any file that a corpus can be.
        labels: its label columns, as ``COLUMN`` or ``TASK=COLUMN``; none: the one that is called as
            they usually are.
        given: use -> the column, where it is known.
        layout: encoding, delimiter, names of columns.

    Raises:
        CorpusError: a column that is not there, no text column, or labels that are no task.
    """
    path = as_path(path)
    if path.is_dir():
        raise CorpusError(
            f"{path}: is a folder; name one file of it, and then write the folder, or train, val"
            " and test files, into the configuration (`salient help corpus`)"
        )
    given = dict(given or {})
    asked = [*given.values(), *(one.rpartition("=")[2] for one in labels)]
    names = column_names(path, asked=asked, layout=layout)
    guessed = {use: one for use in LABELLED if (one := _usual(use, names)) is not None}
    if "text" not in given | guessed:
        raise _no_name(path, "texts", "text", names)
    if not labels and "label" not in guessed:
        raise _no_name(path, "labels", "label", names)
    tasks = _named_tasks(labels or [guessed["label"]], names)
    uses = {use: one for use, one in (guessed | given).items() if use != "label"}
    values = _read(path, (*uses.values(), *tasks.values()), layout)
    notes: list[str] = []
    for use, column in list(uses.items()):
        if use == "text" and column in tasks.values():
            raise CorpusError(
                f"{path}: column {column!r} is the text, and cannot be a label; name a column of"
                " labels, or the text by --text COLUMN"
            )
        if column in tasks.values() and use not in given:
            del uses[use]
            continue
        why = _CHECKS[use](path, values[column]) if use in _CHECKS else None
        if why is not None:
            if use in given:
                raise CorpusError(f"{path}: --{use} {column}: {why}")
            notes.append(f"column {column!r} is not taken as the {use}: {why}")
            del uses[use]
    num_rows = len(values[uses["text"]])
    if not any((one or "").strip() for one in values[uses["text"]]):
        raise CorpusError(f"{path}: column {uses['text']!r} is empty in all {num_rows:,} rows")
    found = tuple(_guess(path, task, column, values[column]) for task, column in tasks.items())
    _check_separators(path, found, values)
    for task in found:
        notes += [
            f"column {task.column!r}: {listed(map(repr, own))} {DIFFER}; `label_names` of the"
            " corpus entry joins them"
            for own in spelled_alike(task.labels)
        ]
    return Glance(path, num_rows, uses, found, tuple(notes))


def _check_separators(
    path: Path, tasks: Sequence[TaskGuess], values: dict[str, list[str | None]]
) -> None:
    """Refuse label columns whose sets need different separators: a corpus entry has one."""
    used: dict[str, str] = {}
    for task in tasks:
        separator = task.separator or SEPARATOR
        if task.type == "multilabel" and any(
            separator in (one or "") for one in values[task.column]
        ):
            used.setdefault(separator, task.column)
    if len(used) > 1:
        told = " and ".join(f"{column!r} by {separator!r}" for separator, column in used.items())
        raise CorpusError(
            f"{path}: label columns part their labels differently, {told}, and a file is read with"
            " one separator; write both alike in the file, or name one of them"
        )


def _usual(use: str, names: Sequence[str]) -> str | None:
    """The column of a use: by its name, or by the end of its path in JSON."""
    if found := [name for name in fitting(use, names, LABELLED) if AND not in name]:
        return found[0]
    ends = {name.rpartition(".")[2].lower(): name for name in reversed(names) if "." in name}
    return next((ends[one] for one in LABELLED[use][:3] if one in ends), None)


def _no_name(path: Path, what: str, option: str, names: Sequence[str]) -> CorpusError:
    usual = ", ".join(LABELLED[option][:4])
    return CorpusError(
        f"{path}: no column is called as {what} usually are ({usual} …); name it: --{option}"
        f" COLUMN; the columns are {listed(map(repr, names), most=30)}"
    )


def _named_tasks(labels: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    tasks: dict[str, str] = {}
    for one in labels:
        task, sign, column = one.partition("=")
        if not sign or one in names:
            task, column = _ODD.sub("_", one).strip("_.-") or "task", one
            task += "_label" if task in (*SCORE_COLUMNS, "date") else ""
        if task in tasks:
            raise CorpusError(f"label {one!r}: two tasks are called {task!r}; write TASK={column}")
        tasks[task] = column
    return tasks


def _read(path: Path, columns: Sequence[str], layout: Layout) -> dict[str, list[str | None]]:
    values: dict[str, list[str | None]] = {name: [] for name in columns}
    for block in read_rows(path, columns, layout=layout):
        for name in values:
            values[name] += block.columns[name]
    return values


def _bad_ids(path: Path, ids: list[str | None]) -> str | None:
    try:
        exact = exact_ids(path, ids, list(range(len(ids))))
    except CorpusError:
        return "its numbers went through a float and lost digits"
    counts = Counter(one for one in exact if one is not None)
    if not counts:
        return "it is empty"
    repeated = [one for one, number in counts.items() if number > 1]
    return f"{repeated[0]!r} comes {counts[repeated[0]]} times" if repeated else None


def _bad_times(path: Path, times: list[str | None]) -> str | None:
    odd = next((one for one in times if one and one.strip() and parse_time(one) is None), None)
    if odd is not None:
        return f"{odd!r} {time_trouble(odd) or 'is no time that can be read'}"
    return None if any(times) else "it is empty"


def _bad_splits(path: Path, splits: list[str | None]) -> str | None:
    known = {(one or "").strip().lower() for one in splits}
    odd = sorted(known - SPLIT_NAMES.keys())
    return f"{odd[0]!r} is no split; those are train, val and test" if odd else None


_CHECKS: dict[str, Callable[[Path, list[str | None]], str | None]] = {
    "id": _bad_ids,
    "time": _bad_times,
    "split": _bad_splits,
}
"""Use -> why values cannot serve it, or None."""


def _guess(path: Path, task: str, column: str, values: list[str | None]) -> TaskGuess:
    """The type of a task by the values of its column.

    Raises:
        CorpusError: no label at all, one class, or values that are no labels.
    """
    labels = [key for value in values if (key := canonical(value)) is not None]
    where, without = f"{path}: column {column!r}", len(values) - len(labels)
    if not labels:
        raise CorpusError(f"{where} has no label in any of {len(values):,} rows")
    ending = f"; {counted(without, 'row')} without" if without else ""
    if (numbers := _numbers(labels)) is not None:
        why = f"numbers from {min(numbers):g} to {max(numbers):g}, {len(set(numbers)):,} different"
        return TaskGuess(task, column, "regression", None, f"{why}{ending}")
    if has_decimal_commas(labels):
        one = next(one for one in labels if "," in one)
        raise CorpusError(
            f"{where} has values such as {one!r}: write numbers with a point, not a comma; several"
            " labels with a bar between them, as a|b"
        )
    try:
        read_classes(values, classes=None)
    except BadLabel as error:
        for separator in (None, ";", ","):
            if not any(is_listed(one, separator) for one in labels):
                continue
            try:
                sets = read_sets(values, classes=None, separator=separator)
            except BadLabel:
                continue
            counts = Counter(one for own in sets if own is not None for one in own)
            why = f"{_shown(counts, 'label')}{ending}"
            return TaskGuess(task, column, "multilabel", separator, why, tuple(counts))
        raise CorpusError(f"{where}: row {error.row + 1}: {error}") from None
    counts = Counter(labels)
    if len(counts) < 2:
        raise CorpusError(
            f"{where} has one class only, {labels[0]!r}, in all {len(labels):,} labelled rows; at"
            " least two are needed"
        )
    if len(counts) > max(2, len(labels) // 2):
        raise CorpusError(
            f"{where} has {len(counts):,} different values in {len(labels):,} rows, such as"
            f" {listed(map(repr, list(counts)[:3]))}: these are no classes; name a column of labels"
        )
    why = f"{_shown(counts, 'class')}{ending}"
    return TaskGuess(task, column, "classification", None, why, tuple(counts))


def _numbers(labels: list[str]) -> list[float] | None:
    """The labels as numbers, where they are no numbers of classes."""
    try:
        numbers = [one for one in read_numbers(labels) if one is not None]
    except BadLabel:
        return None
    whole = all(one.is_integer() for one in numbers)
    return None if whole and len(set(numbers)) <= MOST_CLASSES else numbers


def _shown(counts: Counter[str], noun: str) -> str:
    each = [f"{name} {counts[name]:,}" for name in sorted_classes(counts)]
    plural = {"class": "classes", "label": "labels"}[noun]
    return f"{len(counts):,} {plural}: {listed(each, most=12)}"
