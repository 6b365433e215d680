"""Label tables: one Parquet file per task, replaced as a whole, joined to samples by id."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from store import disk
from store.disk import Location
from store.errors import StoreInputError
from store.records.samples import read_parquet
from store.records.snapshots import LABELS, TASK_NAME, LabelRecord, Snapshot

LABEL_TYPES = (pa.string(), pa.float64())


class WriteTable(Protocol):
    """Keeps one of the store's own tables under a name that nothing else has."""

    def __call__(self, stem: str, table: pa.Table, *, key: str | None = None) -> str:
        """Write a table durably.

        Args:
            stem: how its path begins.
            table: any.
            key: names it in full; whoever dies and does the same again then writes the same file.

        Returns:
            The path.
        """


def as_labels(task: str, table: pa.Table) -> pa.Table:
    """Validate a label table: id (string), split (string), label (string or float64)."""
    if not TASK_NAME.fullmatch(task):
        raise StoreInputError(
            f"task name {task!r}: use letters, digits, '_', '-' and '.', beginning with a letter "
            "or digit"
        )
    missing = {"id", "split", "label"} - set(table.column_names)
    if missing:
        raise StoreInputError(
            f"labels of task {task!r} have the columns {', '.join(table.column_names)}; missing: "
            f"{', '.join(sorted(missing))}"
        )
    kind = table.schema.field("label").type
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    label = table["label"].cast(pa.float64() if numeric else pa.string())
    columns = {
        "id": table["id"].cast(pa.string()),
        "split": table["split"].cast(pa.string()),
        "label": label,
    }
    for name, column in columns.items():
        if column.null_count:
            raise StoreInputError(
                f"labels of task {task!r}: {column.null_count} rows have no {name}; drop them"
            )
    return pa.table(columns)


def write_labels(
    write: WriteTable, snapshot: Snapshot, task: str, table: pa.Table, spec: Mapping[str, Any]
) -> Snapshot:
    """Write a task's table; returns `snapshot` with it (not yet published)."""
    checked = as_labels(task, table)
    path = write(f"{LABELS}/{task}", checked)
    record = LabelRecord(path, json.loads(json.dumps(dict(spec))))
    return replace(snapshot, labels={**snapshot.labels, task: record})


def read_labels(location: Location, snapshot: Snapshot, task: str) -> pa.Table:
    """A task's table as it was put."""
    if task not in snapshot.labels:
        raise StoreInputError(
            f"{location.address}: no labels of task {task!r}; the store has "
            f"{', '.join(snapshot.labels) or 'none'}"
        )
    return read_label_file(location, snapshot.labels[task].path)


def read_label_file(location: Location, path: str) -> pa.Table:
    """The table of one file of labels: id, split, label; StoreError if it is no such table."""
    table = read_parquet(location, path)
    kinds = {field.name: field.type for field in table.schema}
    label = kinds.pop("label", None)
    if kinds != {"id": pa.string(), "split": pa.string()} or label not in LABEL_TYPES:
        found = ", ".join(f"{field.name} {field.type}" for field in table.schema)
        raise disk.damaged(
            f"{location.address}/{path}", f"its columns are {found}", disk.FROM_BACKUP
        )
    if any(column.null_count for column in table.columns):
        raise disk.damaged(
            f"{location.address}/{path}", "it has rows without a label", disk.FROM_BACKUP
        )
    return table


def matching(
    table: pa.Table, *, split: str | None = None, label: str | float | None = None
) -> npt.NDArray[np.bool_]:
    """Which rows of a label table have this split and label: `(rows,)` bool."""
    keep = np.ones(len(table), bool)
    if split is not None:
        keep &= pc.equal(table["split"], split).to_numpy()
    if label is not None:
        wanted = pa.scalar(label).cast(table.schema.field("label").type)
        keep &= pc.equal(table["label"], wanted).to_numpy()
    return keep
