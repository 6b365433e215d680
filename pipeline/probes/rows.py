"""A task's training and validation rows, and the folds that near-duplicates share.

Tweets repeat with small changes. Unless all of a kind lie in one fold, what is said of a row by a
model that was fitted without its fold is still learnt from its like.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.config import RunConfig
from pipeline.errors import CorpusError, ExtractError, RunInputError
from pipeline.measures import label_folds, ordered_folds, stratified_folds
from pipeline.runfolder import RunFolder
from pipeline.texts import Target, sample_groups
from store import ActivationStore, StoreError
from store.tables import read_arrays, write_arrays

Array = NDArray[Any]
FEW_ROWS = 2000
"""Below so many rows the folds are drawn more than once: chance has a large part in one draw."""
MOST_ASSIGNMENTS = 10
MARK = "made_for"
"""Tensor that says which labels and settings a record belongs to."""


@dataclass(frozen=True)
class TaskRows:
    """Rows of a task, the training rows first.

    Attributes:
        positions: ``(n,)`` int64 in the store.
        targets: ``(n,)`` class indices or values, or label sets ``(n, labels)``.
        num_train: how many are training rows; the rest are validation rows.
        groups: ``(n,)`` int64 number of each row's group of near-duplicates.
        folds: assignments ``(n,)`` int64 of the rows to folds, Phase 1's first; groups whole, but
            not where folds are those of a shift.
        is_shift: whether folds are times or authors: what judges a row has seen nothing of its
            fold, not only none of its group.
        weights: ``(n,)`` float64, how much each row counts in fits; None for all alike.
    """

    positions: Array
    targets: Array
    num_train: int
    groups: Array
    folds: tuple[Array, ...]
    is_shift: bool = False
    weights: Array | None = None

    def __len__(self) -> int:
        return len(self.positions)


def task_rows(config: RunConfig, store: ActivationStore, target: Target) -> TaskRows:
    """The rows of a task; groups are found once and kept in the run folder.

    Raises:
        RunInputError: folds cannot be made, or all training rows are in one of them.
    """
    parts = [target.rows("train"), target.rows("val")]
    positions = np.concatenate([part.positions for part in parts])
    targets = np.concatenate([part.targets for part in parts])
    own = [part.weights for part in parts if part.weights is not None]
    groups = _groups(config, store, target, positions)
    try:
        folds = [_first_folds(config, store, positions, targets, groups)]
    except RunInputError as error:
        raise RunInputError(f"task {target.task.name!r}: {error}") from None
    if config.head.num_folds and len(np.unique(folds[0][: len(parts[0])])) == 1:
        by = config.head.folds_by
        why = "near-duplicates go together" if by is None else f"head.folds_by = {by!r}"
        raise RunInputError(
            f"task {target.task.name!r}: its {len(parts[0])} training texts are all in one of"
            f" {config.head.folds} folds ({why}), and nothing is left to learn from without it; add"
            " other texts, raise head.folds, or set head.training = 'seen', which needs no folds"
        )
    if config.head.folds_by is None and len(positions) < FEW_ROWS:
        count = min(MOST_ASSIGNMENTS, max(2, FEW_ROWS // len(positions)))
        options: dict[str, Any] = {"folds": config.head.folds, "groups": groups}
        folds += [
            stratified_folds(targets, seed=config.seed + i, **options) for i in range(1, count)
        ]
    is_shift = config.head.folds_by is not None
    weights = np.concatenate(own) if own else None
    return TaskRows(positions, targets, len(parts[0]), groups, tuple(folds), is_shift, weights)


def groups_are_known(config: RunConfig, target: Target) -> bool:
    """Whether near-duplicates among a task's rows have been found: not where its texts are neither
    in the store nor in the corpus files."""
    return RunFolder(Path(config.run_dir)).groups(target.task.name).is_file()


def known_groups(
    config: RunConfig, store: ActivationStore, target: Target, positions: Array
) -> Array | None:
    """The groups ``(n,)`` int64 that :func:`task_rows` kept; None if there are none of these rows.

    Args:
        config: of the run.
        store: of the run.
        target: of the task.
        positions: ``(n,)`` of the training rows and then the validation rows.
    """
    try:
        known = read_arrays(RunFolder(Path(config.run_dir)).groups(target.task.name))
        mark = _groups_mark(store, target)
        same = np.array_equal(known[MARK], mark) and np.array_equal(known["positions"], positions)
        groups = known["groups"]
        if same and groups.shape == positions.shape and groups.dtype.kind == "i":
            return groups
    except (StoreError, KeyError):
        pass  # missing, damaged or of other labels
    return None


def _groups_mark(store: ActivationStore, target: Target) -> Array:
    return np.frombuffer(f"{target.digest} {store.schema.fingerprint}".encode(), np.uint8)


def _groups(config: RunConfig, store: ActivationStore, target: Target, positions: Array) -> Array:
    """Each row is a group of its own where the texts are not there; that is not recorded."""
    groups = known_groups(config, store, target, positions)
    if groups is not None:
        return groups
    path = RunFolder(Path(config.run_dir)).groups(target.task.name)
    try:
        groups = sample_groups(store, positions, config, target.texts)
    except (CorpusError, ExtractError):
        path.unlink(missing_ok=True)  # of other labels
        return np.unique(positions, return_inverse=True)[1]
    mark = _groups_mark(store, target)
    write_arrays(path, {MARK: mark, "positions": positions, "groups": groups})
    return groups


def _first_folds(
    config: RunConfig, store: ActivationStore, positions: Array, targets: Array, groups: Array
) -> Array:
    """By near-duplicates, or by what a shift would come with: time, or the author."""
    by, folds = config.head.folds_by, config.head.folds
    if by is None:
        return stratified_folds(targets, folds=folds, seed=config.seed, groups=groups)
    column = {"time": "created_at", "author": "author_id"}[by]
    values = _column(store, column, positions)
    if values is None:
        raise RunInputError(
            f"head.folds_by = {by!r}: the store has no {by} for some labelled texts; name the"
            f" column as `{by}` in [[corpus]] and extract again, or leave folds_by out"
        )
    if by == "time":
        return ordered_folds(values, folds)
    return label_folds(values.tolist(), folds, what="authors")


def _column(store: ActivationStore, name: str, positions: Array) -> Array | None:
    samples: Any = store.samples()
    if name not in samples.column_names:
        return None
    rows = np.searchsorted(samples["position"].to_numpy(), positions)
    values = samples[name].take(rows)
    if values.null_count:
        return None
    return np.asarray(pc.cast(values, "int64").to_numpy() if name == "created_at" else values)
