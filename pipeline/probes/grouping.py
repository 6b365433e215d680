"""Which tasks share the training rows of one design, and where each task's rows lie in it.

Tasks over the same texts are fitted in one lock step, a text without a task's label having weight 0
in it. Tasks over different texts would only multiply zeros, so they get designs of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.texts import Target

Array = NDArray[Any]
SAVED = 0.2
"""Share of the rows that must be saved for a task to join others."""


def shared_rows(parts: Sequence[Array]) -> tuple[Array, list[Array]]:
    """The union of several lists of positions, and each list's rows in it.

    Args:
        parts: int64 positions ``(n_t,)`` each, in any order; a repeated position stays repeated.

    Returns:
        ``(n,)`` int64 increasing positions, each as often as in the list that has it most often,
        and for each part the ``(n_t,)`` int64 different rows of the union that are its own.
    """
    keys = []
    copies = [_copy_numbers(part) for part in parts]
    base = 1 + max((int(copy.max(initial=0)) for copy in copies), default=0)
    for part, copy in zip(parts, copies, strict=True):
        keys.append(np.asarray(part, np.int64) * base + copy)
    union = np.unique(np.concatenate(keys)) if keys else np.empty(0, np.int64)
    return union // base, [np.searchsorted(union, key) for key in keys]


def _copy_numbers(positions: Array) -> Array:
    """0 for the first occurrence of a position, 1 for the second …"""
    order = np.argsort(positions, kind="stable")
    ordered = np.asarray(positions)[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))
    counts = np.diff(np.append(starts, len(ordered)))
    numbers = np.empty(len(ordered), np.int64)
    numbers[order] = np.arange(len(ordered)) - np.repeat(starts, counts)
    return numbers


def group_by_rows(parts: Sequence[Array]) -> list[list[int]]:
    """Group lists of positions that overlap enough to be worth one design.

    Args:
        parts: positions of each task's training rows.

    Returns:
        Indices of the parts, each in one group; groups and members in the order given.
    """
    groups: list[tuple[list[int], Array]] = []
    for index, part in enumerate(parts):
        for number, (members, union) in enumerate(groups):
            joint, _ = shared_rows([union, part])
            if len(joint) <= (1 - SAVED) * (len(union) + len(part)):
                groups[number] = ([*members, index], joint)
                break
        else:
            groups.append(([index], np.asarray(part)))
    return [members for members, _ in groups]


@dataclass(frozen=True)
class Group:
    """Tasks that share the training rows of one design.

    Attributes:
        targets: the tasks, in the configuration's order.
        positions: ``(n,)`` int64 increasing store positions of their training rows.
        rows: for each task the ``(n_t,)`` int64 indices of its training rows among ``positions``.
    """

    targets: tuple[Target, ...]
    positions: Array
    rows: tuple[Array, ...]

    @property
    def name(self) -> str:
        """The first task's."""
        return self.targets[0].task.name

    @property
    def digest(self) -> str:
        """Digest of what the tasks' probes depend on beside themselves; empty for a lone task."""
        if len(self.targets) == 1:
            return ""
        return hashlib.sha256(self.positions.tobytes()).hexdigest()[:16]


def group_tasks(targets: Sequence[Target]) -> list[Group]:
    """Tasks whose training texts overlap enough share a standardisation and every pass."""
    parts = [target.rows("train").positions for target in targets]
    groups = []
    for members in group_by_rows(parts):
        positions, rows = shared_rows([parts[i] for i in members])
        groups.append(Group(tuple(targets[i] for i in members), positions, tuple(rows)))
    return groups
