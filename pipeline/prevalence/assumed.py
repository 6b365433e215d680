"""Whether drift speaks against corrected shares, by the reports that scoring left in the folder.

Corrections assume that texts of a class are as they were in training. Where the activations that a
head reads have drifted, the texts are others, and the shares are the less to be believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.prevalence.grouped import group_of_date
from pipeline.scoring import DRIFT, HeldScores, scores_at
from store.errors import StoreError

ACTIVATIONS = "the activations"
"""What a report calls them among what drifted."""


@dataclass(frozen=True)
class DriftSeen:
    """What drift reports say of a task's groups.

    Attributes:
        tested: groups of which a report says anything.
        drifted: those on whose dates the activations drifted, with these dates.
    """

    tested: frozenset[str]
    drifted: Mapping[str, tuple[str, ...]]


def read_drift(folder: Path | str | HeldScores, by: str | None) -> dict[str, DriftSeen]:
    """Task -> what the drift reports of a folder of scores say, of groups that are dates.

    Args:
        folder: of the scores.
        by: as of ``read_groups``.
    """
    tested: dict[str, set[str]] = {}
    drifted: dict[str, dict[str, set[str]]] = {}
    held = scores_at(folder)
    for name in held.records(DRIFT):
        for task, date, entry in _entries(held, name):
            if (group := group_of_date(date, by)) is None:
                continue
            tested.setdefault(task, set()).add(group)
            if ACTIVATIONS in entry.get("drifted", ()):
                drifted.setdefault(task, {}).setdefault(group, set()).add(date)
    return {
        task: DriftSeen(
            frozenset(groups),
            {group: tuple(sorted(dates)) for group, dates in drifted.get(task, {}).items()},
        )
        for task, groups in tested.items()
    }


def _entries(held: HeldScores, name: str) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Task, date and entry; nothing of a damaged report, which is no more than a hint."""
    try:
        tasks = held.read_record(name)["tasks"]
        return [
            (task, date, entry)
            for task, own in tasks.items()
            for date, entry in own["dates"].items()
            if isinstance(entry, dict)
        ]
    except (StoreError, KeyError, AttributeError, TypeError):
        return []
