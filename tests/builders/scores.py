"""A folder of scores without a model: rows by date, and a card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.scoring.place import READABLE, SCORE_CARD
from store.tables import write_table


def write_scores(folder: Path, days: Mapping[str, pa.Table], tasks: Mapping[str, Any]) -> Path:
    """A folder that readers take for one of `salient score`.

    Args:
        folder: to be made.
        days: date -> rows, which get ids and texts' hashes.
        tasks: task -> its entry in the card.
    """
    start = 0
    for day, rows in days.items():
        ids = [str(start + i) for i in range(len(rows))]
        table = pa.table(
            {
                "id": pa.array(ids, pa.string()),
                "text_hash": pa.array([f"{int(one):032x}" for one in ids], pa.string()),
                **{name: rows[name] for name in rows.column_names},
            }
        )
        start += len(rows)
        path = folder / f"date={day}"
        path.mkdir(parents=True)
        write_table(path / f"part-{start:020x}.parquet", table)
    card = {"format_version": READABLE[1], "fingerprint": "x", "tasks": tasks}
    (folder / SCORE_CARD).write_text(json.dumps(card), encoding="utf-8")
    return folder


def class_rows(
    task: str, names: Sequence[str], probability: Any, *, empty: int = 0, **others: Any
) -> pa.Table:
    """Rows of a task of classes, decided by the most probable; some more without a text."""
    decided = [names[i] for i in probability.argmax(axis=1)] + [None] * empty
    columns = {
        f"{task}_p_{name}": pa.array([*probability[:, i].tolist(), *[None] * empty], pa.float32())
        for i, name in enumerate(names)
    }
    return pa.table({task: pa.array(decided, pa.string()), **columns, **others})
