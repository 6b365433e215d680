"""Which texts of a neuron are shown: at quantiles of its activation, of a split and of a label.

    chosen = subset(atlas.texts, "mood", split="val", label="happy")
    for name, positions in at_quantiles(values, chosen, ["highest", "50"], 3):
        ...

The texts on which a neuron is most active may look alike while those below do not (Bolukbasi et al.
2021, arXiv 2104.07143): what it does is seen over its whole range.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.report import NO_LABEL
from pipeline.texts import StoredTexts

Array = NDArray[Any]
QUANTILES = {"highest": 1.0, "99": 0.99, "90": 0.90, "75": 0.75, "50": 0.50, "lowest": 0.0}
"""Name -> share of the texts that are not above it."""
THIRDS = ("lower third", "middle third", "upper third")
"""How values are chosen, which have no classes."""


def quantile_label(name: str) -> str:
    """For people: ``highest``, ``at 99 %``."""
    return f"at {name} %" if name.isdecimal() else name


def at_quantiles(
    values: Array, chosen: Array, names: Sequence[str], count: int
) -> Iterator[tuple[str, Array]]:
    """Positions ``(k,)`` of the texts nearest to each quantile, none twice.

    Args:
        values: ``(samples,)`` the neuron's, NaN where deleted.
        chosen: mask ``(samples,)`` of those that count.
        names: of ``QUANTILES``.
        count: how many of each; the highest first, of the lowest the lowest.
    """
    alive = np.flatnonzero(chosen & np.isfinite(values))
    order = alive[np.argsort(-values[alive], kind="stable")]
    shown = np.zeros(len(order), bool)
    for name in names:
        middle = (1 - QUANTILES[name]) * max(len(order) - 1, 0)
        free = np.flatnonzero(~shown)
        nearest = np.sort(free[np.argsort(np.abs(free - middle), kind="stable")[:count]])
        shown[nearest] = True
        yield name, order[nearest[::-1] if name == "lowest" else nearest]


def splits(texts: StoredTexts, task: str) -> dict[str, Array]:
    """Split -> mask ``(samples,)`` of a task's texts in it; no splits if the store has no labels.

    Which text is in the test split is no secret; its label is.
    """
    store = texts.store
    if task not in store.tasks():
        return {}
    table = store.labels(task)
    positions = store.positions(table["id"])
    found = {}
    for name in ("train", "val", "test"):
        own = pc.equal(table["split"], pa.scalar(name)).to_numpy(zero_copy_only=False)
        own = positions[own.astype(bool) & (positions >= 0)]
        if len(own):
            found[name] = np.zeros(store.num_samples, bool)
            found[name][own] = True
    return found


def groups_of(texts: StoredTexts, task: str) -> list[tuple[str, Array]]:
    """Class or label -> mask ``(samples,)`` of the texts with it, and last of those with no label,
    where there are such; none for values."""
    labels = texts.labels(task)
    if labels is None or not labels.classes:
        return []
    groups = labels.groups()
    if labels.values.ndim == 2 and NO_LABEL not in labels.classes:
        without = labels.known & ~(labels.values == 1).any(axis=1)
        groups += [(NO_LABEL, without)] if without.any() else []
    return groups


def label_groups(texts: StoredTexts, task: str) -> list[tuple[str, Array]]:
    """Class or label -> mask ``(samples,)`` of the texts with it; values are cut into thirds."""
    labels = texts.labels(task)
    if labels is None or not labels.known.any():
        return []
    if labels.classes:
        return groups_of(texts, task)
    values = labels.values
    low, high = np.quantile(values[labels.known], [1 / 3, 2 / 3])
    masks = (values <= low, (values > low) & (values <= high), values > high)
    return list(zip(THIRDS, masks, strict=True))


def subset(
    texts: StoredTexts, task: str | None, *, split: str | None = None, label: str | None = None
) -> Array:
    """Mask ``(samples,)`` of the texts in a split and with a label; None: whichever.

    Raises:
        ConfigError: there is no such split or label.
    """
    chosen = np.ones(texts.store.num_samples, bool)
    for kind, wanted, known in (
        ("split", split, splits(texts, task) if task and split else {}),
        ("label", label, dict(label_groups(texts, task)) if task and label else {}),
    ):
        if wanted is None:
            continue
        if wanted not in known:
            raise ConfigError(
                f"{kind}={wanted[:40]}: not of the task {task}; there are:"
                f" {', '.join(known) or 'none'}"
            )
        chosen &= known[wanted]
    return chosen
