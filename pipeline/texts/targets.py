"""A task's labels as arrays: positions in the store and targets, split by split.

``load_target(store, task)`` looks at the training and validation splits only; the test split is
read by :func:`Target.rows` when its caller asks for it, which is once, at the end of a run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.config import TaskConfig
from pipeline.errors import RunInputError
from store import ActivationStore
from store.tables import table_digest

Array = NDArray[Any]
Split = Literal["train", "val", "test"]
HELD_AS = {"classification": "classes", "regression": "numbers", "multilabel": "label sets"}


@dataclass(frozen=True)
class Rows:
    """Labelled rows of one split.

    Attributes:
        positions: ``(n,)`` int64 sample positions in the store; a text that the source repeats
            appears as often here.
        targets: ``(n,)`` int64 class indices or float64 values, or label sets ``(n, labels)`` int8.
        weights: ``(n,)`` float64, how much each row counts in fits; None for all alike.
    """

    positions: Array
    targets: Array
    weights: Array | None = None

    def __len__(self) -> int:
        return len(self.positions)


@dataclass(frozen=True)
class Target:
    """One task over the samples of one store.

    Attributes:
        task: its configuration.
        classes: class or label names in index order; empty for regression.
        texts: text hash -> normalised text, where they came from memory.
    """

    task: TaskConfig
    classes: tuple[str, ...]
    _table: pa.Table
    _store: ActivationStore
    texts: Mapping[str, str] | None = None

    @property
    def num_classes(self) -> int | None:
        """Number of classes or labels; None for regression."""
        return len(self.classes) or None

    @property
    def multilabel(self) -> bool:
        """Whether a text has a set of the labels, not one of the classes."""
        return self.task.type == "multilabel"

    @property
    def positive(self) -> int:
        """Index of the class that ``f1`` and ``auc`` are about; -1 for the last."""
        name = self.task.positive
        return self.classes.index(name) if name is not None else -1

    @property
    def digest(self) -> str:
        """Digest of labels, classes and labelled texts: what a fit on this target depends on."""
        classes = "\0".join(self.classes)
        samples = self._store.samples().select(["position", "text_hash"]).combine_chunks()
        known = self._store.positions(self._table["id"].to_pylist())
        rows = np.searchsorted(samples["position"].to_numpy(), known[known >= 0])
        texts = pa.table({"text_hash": samples["text_hash"].take(pa.array(rows))})
        parts = f"{table_digest(self._table)} {table_digest(texts)} {classes}"
        return hashlib.sha256(parts.encode()).hexdigest()

    def rows(self, split: Split) -> Rows:
        """Positions and targets of a split.

        Raises:
            RunInputError: a label outside the classes, or samples that the store does not hold.
        """
        table = self._table.filter(pc.equal(self._table["split"], split))
        positions = self._store.positions(table["id"].to_pylist())
        if (missing := int((positions < 0).sum())) > 0:
            raise RunInputError(
                f"task {self.task.name!r}: {missing} of {len(positions)} {split} samples are not in"
                " the store; run `salient extract` first"
            )
        weights = table["weight"].to_numpy() if "weight" in table.column_names else None
        if not self.classes:
            return Rows(positions, table["label"].to_numpy().astype(np.float64), weights)
        if self.multilabel:
            return Rows(positions, self._indicators(table["label"].to_pylist(), split), weights)
        codes = pc.index_in(table["label"], value_set=pa.array(self.classes, pa.string()))
        if codes.null_count:
            value = table["label"].filter(pc.is_null(codes))[0].as_py()
            raise self._unknown(value, split)
        return Rows(positions, codes.to_numpy().astype(np.int64), weights)

    def _indicators(self, sets: list[str], split: Split) -> Array:
        """``(n, labels)`` int8 of JSON arrays."""
        place = {name: at for at, name in enumerate(self.classes)}
        out = np.zeros((len(sets), len(place)), np.int8)
        for row, names in enumerate(map(json.loads, sets)):
            for name in names:
                if name not in place:
                    raise self._unknown(name, split)
                out[row, place[name]] = 1
        return out

    def _unknown(self, label: str, split: Split) -> RunInputError:
        return RunInputError(
            f"task {self.task.name!r}: label {label!r} of the {split} split is not among the"
            f" classes {list(self.classes)}; list it under `labels` or remove the row"
        )


def load_target(store: ActivationStore, task: TaskConfig) -> Target:
    """The labels of ``task`` that the store keeps.

    Raises:
        RunInputError: no labels, or too few to train and validate on.
    """
    if task.name not in store.tasks():
        raise RunInputError(
            f"task {task.name!r} has no labels in the store; it has {list(store.tasks())};"
            " run `salient extract` first"
        )
    table = store.labels(task.name)
    spec = store.label_spec(task.name)
    classes = tuple(spec.get("classes", ()))
    held = "multilabel" if spec.get("type") == "multilabel" else "classification"
    held = held if classes else "regression"
    if held != task.type:
        raise RunInputError(
            f"task {task.name!r}: the store holds it as {HELD_AS[held]}, the"
            f" configuration says {task.type}; run `salient extract` with this configuration first"
        )
    if task.positive is not None and task.positive not in classes:
        raise RunInputError(
            f"task {task.name!r}: positive {task.positive!r} is not one of {list(classes)}"
        )
    target = Target(task, classes, table, store)
    for split in ("train", "val"):
        if not len(target.rows(split)):
            raise RunInputError(
                f"task {task.name!r}: the {split} split is empty; check `split` or [splits]"
            )
    return target
