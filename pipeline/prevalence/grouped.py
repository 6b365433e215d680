"""The texts of a folder of scores by group: counts of all of them, probabilities of some.

    for task, groups in read_groups(folder, tasks, by="week").items():
        groups["2026-11-23"].counts

A folder is read once, file by file. Of a group that has more than ``MAX_TEXTS`` texts so many are
kept (fewer where groups are many), drawn by their ids: which, does not depend on the order of the
files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ConfigError, did_you_mean
from pipeline.scoring import SCORE_CARD, HeldScores, scores_at
from store.disk import join

Array = NDArray[Any]
MAX_TEXTS = 10_000
"""Kept of a group; fewer where groups are many."""
MAX_KEPT = 4_000_000
"""Of all groups of a task."""
MAX_GROUPS = 2000
MAX_DATES = 8000
"""Groups that are dates: days of twenty years."""
ALL, UNKNOWN = "all", "unknown"
DATES = ("day", "week", "month")
TASK_TYPES = ("classification", "multilabel", "regression")


@dataclass(frozen=True)
class ScoredTask:
    """A task of a folder of scores.

    Attributes:
        name: of the task, and of the column of what was decided.
        type: "classification", "multilabel" or "regression".
        classes: or labels; empty for regression.
    """

    name: str
    type: str
    classes: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Of the scores."""
        return self.name, *(f"{self.name}_p_{one}" for one in self.classes)


@dataclass
class Group:
    """Texts of one group under one task.

    Attributes:
        num_texts: with a prediction.
        num_empty: without, for they have no text.
        counts: ``(k,)`` int64 by decided class or label; empty for regression.
        sums, squares: ``(k,)`` or ``(1,)`` float64 of the probabilities or values.
    """

    num_texts: int
    num_empty: int
    counts: Array
    sums: Array
    squares: Array
    _kept: list[tuple[Array, Array, Array]] = field(default_factory=list)
    """Order, values ``(n, k)`` and decided ``(n, k)`` of texts."""

    @classmethod
    def of(cls, task: ScoredTask) -> Group:
        """Of no text yet."""
        size = max(len(task.classes), 1)
        counts = np.zeros(len(task.classes), np.int64)
        return cls(0, 0, counts, np.zeros(size), np.zeros(size))

    def add(self, order: Array, values: Array, decided: Array) -> None:
        """Count texts.

        Args:
            order: ``(n,)`` uint64, by which some are kept: the least.
            values: ``(n, k)`` float32 probabilities, or ``(n, 1)``.
            decided: ``(n, k)`` bool; none of its columns for regression.
        """
        there = np.isfinite(values).all(axis=1)
        self.num_empty += int((~there).sum())
        order, values, decided = order[there], values[there], decided[there]
        self.num_texts += len(values)
        self.counts += decided.sum(axis=0)
        self.sums += values.sum(axis=0, dtype=np.float64)
        self.squares += np.square(values, dtype=np.float64).sum(axis=0)
        self._kept.append((order, values, decided))
        self.shorten(MAX_TEXTS)

    def shorten(self, most: int) -> None:
        """Keep ``most`` texts, once there are many more."""
        if sum(len(one) for one, *_ in self._kept) > 2 * most:
            self.keep(most)

    def keep(self, most: int) -> None:
        """Keep ``most`` texts, in one order, whatever that of the files."""
        if self._kept:
            order, values, decided = (np.concatenate(own) for own in zip(*self._kept, strict=True))
            least = np.argsort(order, kind="stable")[:most]
            self._kept = [(order[least], values[least], decided[least])]

    def sample(self) -> tuple[Array, Array]:
        """Values ``(n, k)`` and decided classes ``(n, k)`` of the texts, or of some of them."""
        if not self._kept:
            size = len(self.sums)
            return np.zeros((0, size), np.float32), np.zeros((0, len(self.counts)), bool)
        self.keep(MAX_TEXTS)
        return self._kept[0][1:]


def read_groups(
    folder: Path | str | HeldScores, tasks: Sequence[ScoredTask], *, by: str | None = None
) -> dict[str, dict[str, Group]]:
    """Task -> group -> its texts, groups in order.

    Args:
        folder: of the scores.
        tasks: of the folder.
        by: "day", "week" (called by its Monday), "month", or a column of the scores; None: all
            texts are one group.

    Raises:
        ConfigError: no such column, or too many groups.
        ScoreError: a damaged file.
    """
    held = scores_at(folder)
    columns = ["id", *(name for task in tasks for name in task.columns)]
    if by is not None and by not in DATES:
        _check_column(held, by)
        columns += [by] if by not in (*columns, "date") else []
    most_groups = MAX_DATES if by in (*DATES, "date") else MAX_GROUPS
    found: dict[str, dict[str, Group]] = {task.name: {} for task in tasks}
    named: set[str] = set()
    for table in held.tables(columns):
        labels, number = _groups(table, by)
        named.update(labels)
        if len(named) > most_groups:
            raise ConfigError(
                f"--by {by}: more than {most_groups:,} groups in {held.address}; choose a column"
                " with fewer values, or --by week or month"
            )
        order = pd.util.hash_array(np.asarray(table["id"].to_pylist(), object), categorize=False)
        places = np.split(
            np.argsort(number, kind="stable"),
            np.bincount(number, minlength=len(labels)).cumsum()[:-1],
        )
        most = _texts_kept(len(named))
        for task in tasks:
            values, decided = _of_task(table, task)
            groups = found[task.name]
            for label, here in zip(labels, places, strict=True):
                own = groups.setdefault(label, Group.of(task))
                own.add(order[here], values[here], decided[here])
            for own in groups.values():
                own.shorten(most)
    for groups in found.values():
        for own in groups.values():
            own.keep(_texts_kept(len(named)))
    return {task: dict(sorted(groups.items())) for task, groups in found.items()}


def _texts_kept(num_groups: int) -> int:
    """Of each group, so that all together stay in memory."""
    return min(MAX_TEXTS, MAX_KEPT // max(num_groups, 1))


def _check_column(held: HeldScores, by: str) -> None:
    any_file = False
    known = {"date"}
    for schema in held.schemas():  # parts of earlier versions have fewer columns
        any_file = True
        known |= set(schema.names)
        if by in known:
            return
    if any_file:
        hint = did_you_mean(by, [*DATES, *sorted(known)])
        raise ConfigError(
            f"--by {by!r}: {hint and f'{hint} '}day, week, month, or a column of the scores"
            f" ({', '.join(sorted(known))})"
        )


def _groups(table: pa.Table, by: str | None) -> tuple[list[str], Array]:
    """Names of groups, all of which have rows, and the number of each row's ``(n,)``."""
    if by is None or not len(table):
        return [ALL] * (by is None), np.zeros(len(table), np.int64)
    column = table["date" if by in DATES else by].combine_chunks()
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        raise ConfigError(f"--by {by!r}: holds lists (label sets); choose another column")
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    rename = {"week": monday_of, "month": _month_of}.get(by, _named)
    names = [rename(_named(value)) for value in column.dictionary.to_pylist()] + [UNKNOWN]
    index = pc.fill_null(column.indices, len(names) - 1).to_numpy(zero_copy_only=False)
    used, number = np.unique(np.array(names, object)[index], return_inverse=True)
    return used.tolist(), number


def _named(value: object) -> str:
    """Its name; of no value, and of what is no number (which equals nothing), unknown."""
    return UNKNOWN if value is None or value != value else str(value)


def monday_of(day: str) -> str:
    """The Monday of a date's ISO week; what is no date stays as it is."""
    try:
        found = date.fromisoformat(day)
    except ValueError:
        return day
    return (found - timedelta(days=found.weekday())).isoformat()


def _month_of(day: str) -> str:
    try:
        return date.fromisoformat(day).isoformat()[:7]
    except ValueError:
        return day


def group_of_date(day: str, by: str | None) -> str | None:
    """The group of a date; None where groups are no dates."""
    rename = {"day": _named, "date": _named, "week": monday_of, "month": _month_of}
    return ALL if by is None else rename[by](day) if by in rename else None


def _of_task(table: pa.Table, task: ScoredTask) -> tuple[Array, Array]:
    """Probabilities or values ``(n, k)`` float32, NaN where there are none; decided ``(n, k)``."""
    own, *probabilities = task.columns
    wanted = probabilities or [own]
    values = np.stack(
        [pc.cast(table[name], pa.float32()).to_numpy(zero_copy_only=False) for name in wanted], 1
    ).astype(np.float32)
    if task.type == "classification":
        number = {name: i for i, name in enumerate(task.classes)}
        index = np.array([number.get(name, -1) for name in table[own].to_pylist()], np.int64)
        return values, index[:, None] == np.arange(len(task.classes))
    if task.type == "regression":
        return values, np.zeros((len(values), 0), bool)
    sets = [frozenset(names or ()) for names in table[own].to_pylist()]
    decided = [[name in names for name in task.classes] for names in sets]
    return values, np.array(decided, bool).reshape(len(values), len(task.classes))


def tasks_of(folder: Path | str | HeldScores, card: Mapping[str, Any]) -> list[ScoredTask]:
    """The tasks that a folder's card names; an older one does not say their types.

    Raises:
        ConfigError: the card says something else than it should.
    """
    held = scores_at(folder)
    schema = next(held.schemas(), pa.schema([]))
    found = []
    for name, own in card.get("tasks", {}).items():
        classes = own.get("classes", ()) if isinstance(own, Mapping) else None
        classes = () if classes is None and isinstance(own, Mapping) else classes
        kind = "classification" if classes else "regression"
        if name in schema.names and pa.types.is_list(schema.field(name).type):
            kind = "multilabel"
        kind = own.get("type", kind) if isinstance(own, Mapping) else kind
        if not isinstance(classes, list | tuple) or kind not in TASK_TYPES:
            raise ConfigError(
                f"{join(held.address, SCORE_CARD)}: task {name!r}: {own!r} is no entry with classes"
                f" and a type ({', '.join(TASK_TYPES)}); `salient score … --out` of this folder"
                " writes it anew"
            )
        found.append(ScoredTask(name, kind, tuple(classes)))
    return found
