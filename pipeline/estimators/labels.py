"""What a user gives as ``y``: classes, numbers, or label sets.

labels = Labels.of(y)       # classes, or label sets: an indicator or lists of labels
labels.rows                 # for a corpus: names, numbers, or tuples of names
check_classes(labels)       # refuses what cannot be learnt
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Number
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.multiclass import check_classification_targets

from pipeline.config import NAME_PATTERN, SCORE_COLUMNS
from pipeline.estimators.inputs import InputError
from pipeline.texts import BadLabel, is_missing, read_classes

Array = NDArray[Any]
Kind = Literal["classification", "multilabel", "regression"]
LISTS, INDICATOR = "lists of labels", "an indicator of 0 and 1"
RESERVED = (*SCORE_COLUMNS, "date")
"""Columns of scores, which no task can be called."""


@dataclass(frozen=True)
class Labels:
    """The labels of some texts.

    Attributes:
        kind: of the task.
        classes: ``(k,)`` classes or labels as the user has them, in order; empty for numbers.
        rows: of each text its class' or labels' names, or its number.
        lists: label sets came as lists of labels, not as an indicator ``(n, k)``.
    """

    kind: Kind
    classes: Array
    rows: list[Any]
    lists: bool = False
    names: tuple[str, ...] = field(init=False)
    """Of the classes, in their order: as they are written in heads and scores."""

    def __post_init__(self) -> None:
        names = tuple(map(class_name, self.classes.tolist()))
        if twice := [name for name in names if names.count(name) > 1]:
            raise InputError(f"y: two classes would both be called {twice[0]!r}; rename one")
        object.__setattr__(self, "names", names)

    @property
    def form(self) -> str:
        """What ``y`` was, in words."""
        if self.kind != "multilabel":
            return "classes" if self.kind == "classification" else "numbers"
        return LISTS if self.lists else INDICATOR

    @classmethod
    def of(cls, y: Any, labels: Sequence[Any] | None = None) -> Labels:
        """Classes or label sets.

        Args:
            y: as the user has them.
            labels: of an indicator's columns, where it does not name them; default 0 to k-1.

        Raises:
            InputError, ValueError: numbers that are no classes, a missing label, several kinds.
        """
        if y is None:
            raise InputError(
                "This classifier requires y to be passed, but the target y is None; give a label"
                " for each text"
            )
        if not hasattr(y, "__iter__"):
            y = np.asarray(y)
        columns = [*y.columns] if hasattr(y, "columns") else labels
        if hasattr(y, "toarray"):
            y = y.toarray()
        if (sets := _label_sets(y)) is not None:
            return cls._of_sets(sets)
        values = _array(y)
        if values.ndim == 2 and values.shape[1] > 1:
            return cls._of_indicator(values, columns)
        values = _flat(values)
        _refuse_missing(values)
        if values.dtype.kind == "f":
            check_classification_targets(values)
        classes, codes = np.unique(values, return_inverse=True)
        names = list(map(class_name, classes.tolist()))
        return cls("classification", classes, [names[code] for code in codes])

    @classmethod
    def _of_sets(cls, sets: Sequence[Any]) -> Labels:
        found = [one for own in sets for one in own]
        if any(map(is_missing, found)):
            raise InputError("y: a list holds a missing label; leave it out of the list")
        classes = np.unique(_alike(found))
        rows = [tuple(sorted({class_name(one) for one in own})) for own in sets]
        return cls("multilabel", classes, rows, lists=True)

    @classmethod
    def _of_indicator(cls, values: Array, columns: Sequence[Any] | None) -> Labels:
        _refuse_missing(values)
        if not np.isin(values, (0, 1)).all():
            raise InputError(
                f"Unknown label type: y has shape {values.shape}, and an indicator of label sets"
                " holds 0 and 1 only; for classes give one column"
            )
        classes = _alike(list(range(values.shape[1]) if columns is None else columns))
        if len(classes) != values.shape[1]:
            raise InputError(f"y has {values.shape[1]} columns for {len(classes)} labels")
        names = list(map(class_name, classes.tolist()))
        rows = [tuple(names[at] for at in np.flatnonzero(row)) for row in values]
        return cls("multilabel", classes, rows)

    @classmethod
    def numbers(cls, y: Any) -> Labels:
        """Finite numbers.

        Raises:
            InputError: something else, or a missing one.
        """
        if y is None:
            raise InputError(
                "This regressor requires y to be passed, but the target y is None; give a number"
                " for each text"
            )
        values = _flat(_array(y))
        _refuse_missing(values)
        try:
            values = values.astype(np.float64)
        except (TypeError, ValueError):
            raise InputError(
                f"y holds something else than numbers, such as {values[0]!r}; for classes take"
                " SalientClassifier"
            ) from None
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values))[0])
            raise InputError(f"Input y contains infinity: row {row} is {values[row]}")
        return cls("regression", np.empty(0), values.tolist())

    def taken(self, rows: Array) -> Labels:
        """The labels of some rows ``(m,)``; classes without a row are left out."""
        own = [self.rows[row] for row in rows]
        if self.kind != "classification":
            return Labels(self.kind, self.classes, own, self.lists)
        there = set(own)
        kept = [name in there for name in self.names]
        return Labels(self.kind, self.classes[kept], own, self.lists)

    def shares(self) -> Array:
        """``(k,)`` float64 share of the rows that each class or label has."""
        own = [row if isinstance(row, tuple) else (row,) for row in self.rows]
        counts = [sum(name in row for row in own) for name in self.names]
        return np.asarray(counts, np.float64) / max(len(self.rows), 1)


def class_name(value: Any) -> str:
    """How a class is written in heads and scores: as `salient run` spells labels."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def task_name(y: Any, default: str) -> str:
    """The name of a Series, where a task may be called so."""
    name = getattr(y, "name", None)
    fits = isinstance(name, str) and re.fullmatch(NAME_PATTERN, name)
    return str(name) if fits and name not in RESERVED else default


def _array(y: Any) -> Array:
    if hasattr(y, "to_pylist"):
        y = y.to_pylist()
    try:
        values = np.asarray(y.to_numpy() if hasattr(y, "to_numpy") else y)
    except ValueError:
        raise InputError("y holds rows of several lengths; give a label for each text") from None
    if values.dtype.kind == "c":
        raise InputError("y holds complex numbers. Complex data not supported")
    if values.ndim == 1 and (values.dtype == object or isinstance(y, list | tuple)):
        missing = [is_missing(one) for one in y]
        if any(missing):  # which numpy may have made a word of
            _refuse_missing(np.array([None if gone else "" for gone in missing], object))
        return _alike(list(y))
    return values


def _alike(values: list[Any]) -> Array:
    """Labels of one kind as an array ``(n,)`` of its plain dtype.

    Raises:
        InputError: of several kinds, or neither texts nor numbers; names them.
    """
    kinds = {_kind(one) for one in values}
    if len(kinds) > 1:
        raise InputError(
            f"y holds labels of several types: {', '.join(sorted(kinds))}; give all as one"
        )
    found = np.array(values) if kinds <= {"str", "number", "bool"} else np.array(None)
    if found.dtype == object:  # of no numpy type, such as dates and decimals
        raise InputError(f"y holds labels of type {kinds.pop()}; give texts or numbers")
    return found


def _kind(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return "bool"
    return (
        "number"
        if isinstance(value, Number)
        else "str"
        if isinstance(value, str)
        else (type(value).__name__)
    )


def _flat(values: Array) -> Array:
    """``(n,)``; a column is taken as scikit-learn takes it, with its warning."""
    if values.ndim == 2 and values.shape[1] == 1:
        warnings.warn(
            "A column-vector y was passed when a 1d array was expected; give y.ravel() or a Series",
            DataConversionWarning,
            stacklevel=5,
        )
        values = values[:, 0]
    if values.ndim != 1:
        raise InputError(f"y should be a 1d array, got an array of shape {values.shape} instead.")
    return values


def _refuse_missing(values: Array) -> None:
    missing = np.asarray([is_missing(one) for one in values.flat], bool)
    if missing.any():
        row = int(np.flatnonzero(missing.reshape(len(values), -1).any(axis=1))[0])
        raise InputError(f"Input y contains NaN: row {row} has no label; drop these rows")


def _label_sets(y: Any) -> list[Any] | None:
    """The label sets of a column of lists; None if it is something else, or an indicator."""
    if isinstance(y, np.ndarray) and y.dtype != object:
        return None
    if getattr(y, "ndim", 1) != 1 or isinstance(y, str):
        return None
    listed = getattr(y, "to_pylist", getattr(y, "to_list", y.__iter__))  # Arrow's, polars'
    rows = list(listed())
    kinds = (list, tuple, set, frozenset, np.ndarray)
    if not any(isinstance(row, kinds) for row in rows):
        return None
    if odd := [at for at, row in enumerate(rows) if not isinstance(row, kinds)]:
        raise InputError(
            f"y: row {odd[0]} is {rows[odd[0]]!r}, where others are lists of labels; give a list"
            " for each text, [] for none"
        )
    sets = [list(row) for row in rows]
    flags = all(
        isinstance(one, bool | int | float | np.number) and one in (0, 1)
        for row in sets
        for one in row
    )
    if flags and len({len(row) for row in sets}) == 1 and sets[0]:
        return None
    return sets


def check_classes(labels: Labels) -> None:
    """Refuse a single class, and what is written as classes and is not.

    Raises:
        InputError: naming it.
    """
    if labels.kind == "regression":
        return
    if len(labels.classes) < 2:
        noun = "label" if labels.kind == "multilabel" else "class"
        found = ", ".join(map(repr, labels.names)) or "none"
        raise InputError(
            f"Classifier can't train when only one {noun} is present (at least two classes or"
            f" labels are needed): found {found}"
        )
    for name in labels.names:
        if not name.isprintable() and any("\ud800" <= one <= "\udfff" for one in name):
            raise InputError(f"y: label {name!r} holds half a character; rename it")
    if labels.kind != "classification":
        return
    try:
        read_classes(labels.names, classes=None)
    except BadLabel as bad:
        reason = re.split("[,;] ", bad.reason)[0]
        raise InputError(
            f"y: row {labels.rows.index(bad.value)}: {bad.value!r} {reason}; give a list of"
            " labels for each text, as from y.map(ast.literal_eval) or y.str.split(';'); if it is"
            " one class, rename it"
        ) from None
