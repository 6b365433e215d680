"""What is known of the errors of the heads that made some scores: from the folder, or the heads.

A folder of scores says it itself, if its heads are of this version. Otherwise a run (or head
folders) is asked, also one of an earlier version: that one's labels and held-out outputs are there
still.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.heads import Errors, Head, known_errors, read_errors, read_held_out
from pipeline.prevalence.grouped import ScoredTask
from pipeline.scoring import SCORE_CARD, find_heads
from pipeline.texts import load_target, sample_groups
from store import ActivationStore
from store.disk import join
from store.errors import SalientError


def errors_of_card(
    folder: Path | str, card: Mapping[str, Any], tasks: Sequence[ScoredTask]
) -> dict[str, Errors]:
    """Task -> errors of its head, of those that a folder's card knows.

    Raises:
        ConfigError: the card says something else than it should.
    """
    found = {}
    for task in tasks:
        errors = card["tasks"][task.name].get("errors")
        if errors is not None:
            found[task.name] = _read(errors, task, join(folder, SCORE_CARD))
    return found


def _read(errors: Any, task: ScoredTask, where: Path | str) -> Errors:
    try:
        return read_errors(errors, task.type, len(task.classes))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{where}: errors of task {task.name!r}: {error}; give --run RUN or --heads FOLDER,"
            " which say them too"
        ) from None


def errors_of_heads(
    run: Path | None,
    heads: Sequence[Path],
    card: Mapping[str, Any],
    tasks: Sequence[ScoredTask],
) -> dict[str, Errors]:
    """Task -> errors of its head, as a run or head folders say.

    Args:
        run: a run's folder or TOML file; or
        heads: head folders, one a task.
        card: of the folder of scores, which must be of the same heads.
        tasks: of which.

    Raises:
        ConfigError: other heads than those that made the scores, or no errors to be had.
    """
    wanted = {task.name: task for task in tasks}
    source = find_heads(run, heads, [name for name in wanted if run is not None])
    found = {}
    for folder in source.folders:
        head = Head.load(folder)
        if head.card.task not in card["tasks"]:
            raise ConfigError(
                f"{folder}: a head of task {head.card.task!r}; the scores are of"
                f" {', '.join(card['tasks'])}"
            )
        if (task := wanted.get(head.card.task)) is None:
            continue
        made = card["tasks"][task.name].get("fingerprint")
        if made not in (None, head.fingerprint):
            raise ConfigError(
                f"{folder}: is not the head that made the scores of task {task.name!r}; give the"
                " run (or heads) that they were scored with"
            )
        errors = head.card.metrics.get("errors")
        if errors is None:
            errors = _found_again(source.config, folder, head)
        found[task.name] = _read(errors, task, folder / "head.json")
    return found


def _found_again(config: RunConfig | None, folder: Path, head: Head) -> dict[str, Any]:
    """Errors of a head of an earlier version, from its held-out outputs and its run's labels."""
    task, said = head.card.task, "its labels and held-out outputs are needed"
    remedy = "`salient consolidate` of its run makes it again, with what it gets wrong"
    if config is None:
        raise ConfigError(f"{folder}: a head of an earlier version; give --run RUN, or {remedy}")
    try:
        held = read_held_out(folder, head)
        store = ActivationStore.open(config.store.path)
        target = load_target(store, config.task(task))
        parts = [target.rows("train"), target.rows("val")]
    except SalientError as error:
        raise ConfigError(
            f"{folder}: a head of an earlier version: {said} ({error}); {remedy}"
        ) from None
    positions = np.concatenate([part.positions for part in parts])
    targets = np.concatenate([part.targets for part in parts])
    order = np.argsort(positions, kind="stable")
    place = order[np.searchsorted(positions[order], held["positions"]).clip(max=len(order) - 1)]
    there = positions[place] == held["positions"]
    try:
        groups = sample_groups(store, held["positions"][there], config)
    except SalientError:  # texts are gone: rows are taken one by one
        groups = None
    rows = held["outputs"][there], targets[place[there]]
    return known_errors(head, *rows, groups=groups, seed=config.seed)
