"""The texts that a neuron's page shows, as CSV.

texts_csv(atlas, "mood", neuron, {"highest": positions}, values)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.explorer.atlas import Atlas
from pipeline.explorer.choices import splits
from pipeline.explorer.places import Neuron
from pipeline.report import csv_text

Array = NDArray[Any]


def texts_csv(
    atlas: Atlas,
    task: str | None,
    neuron: Neuron,
    shown: Mapping[str, Array],
    values: Mapping[str, Array],
) -> str:
    """A header and a row for each text; the column of texts only where the store keeps them.

    Args:
        atlas: the store.
        task: whose splits and labels to add, label sets as JSON arrays; labels of the test split
            are left out.
        neuron: whose values they are.
        shown: name of a quantile -> positions ``(k,)``.
        values: pooling -> ``(samples,)``.
    """
    kept = atlas.store.schema.store_text
    known = splits(atlas.texts, task) if task else {}
    header = ["id", "task", "split", "label", "layer", "neuron", "chosen_by", "quantile"]
    header += [*values, *(["text"] if kept else [])]
    rows: list[list[Any]] = []
    for name, positions in shown.items():
        if not len(positions):
            continue
        labels = _labels(atlas, task, positions) if task else [""] * len(positions)
        facts = zip(
            positions, atlas.texts.ids(positions), labels, atlas.texts.at(positions), strict=True
        )
        for position, id, label, text in facts:
            split = next((name for name, mask in known.items() if mask[position]), "")
            place = [id, task or "", split, label, neuron.layer, neuron.neuron, neuron.pooling]
            numbers = [f"{column[position]:.6g}" for column in values.values()]
            rows.append([*place, name, *numbers, *([text] if kept else [])])
    return csv_text(header, rows)


def _labels(atlas: Atlas, task: str, positions: Array) -> list[str]:
    """What a task's texts are labelled with, for a program; empty where that is not shown."""
    found = atlas.texts.labels(task)
    if found is None or found.values.ndim == 1:
        return atlas.texts.label_names(task, positions)
    names = np.array(found.classes)
    return [
        json.dumps(names[found.values[at] == 1].tolist(), ensure_ascii=False)
        if found.known[at]
        else ""
        for at in positions
    ]
