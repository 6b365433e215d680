"""What is kept of a head so that shares of its classes can be corrected: its errors, held out.

    errors = known_errors(head, outputs, targets)   # of rows that judged it: JSON, for its card
    read_errors(errors, head.card.type)             # as the arithmetic of shares takes it

A head of classes has one :class:`Confusion`, one of a regression a :class:`Slope`. One of label
sets has :class:`LabelSets`, or, where too few rows share a set, a confusion for each label (absent,
present). Of few rows, or of one class alone, they say that little is known.

The rows are held out of the fits, but calibration, thresholds and the choice among all candidates
were made on them; and their outputs are of the folds' models, not of the one that scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.heads.model import Head
from pipeline.measures import Confusion, LabelSets, Slope

Array = NDArray[Any]
Errors = tuple[Confusion, ...] | LabelSets | Slope
"""The confusion of the classes, or one for each label."""


def known_errors(
    head: Head, outputs: Array, targets: Array, *, groups: Array | None = None, seed: int = 0
) -> dict[str, Any]:
    """What a head gets wrong, as JSON.

    Args:
        head: the head.
        outputs: ``(n, outputs)``, calibrated, for rows that it was not fitted on.
        targets: ``(n,)`` class indices or values, or label sets ``(n, labels)``.
        groups: ``(n,)`` near-duplicates among the rows.
        seed: of what is drawn.
    """
    how: dict[str, Any] = {"groups": groups, "seed": seed}
    if head.card.type == "regression":
        return Slope.of(outputs[:, 0], targets, **how).to_dict()
    probability = head.probabilities(outputs)
    decided = head.decide(probability)
    if not head.multilabel:
        return Confusion.of(probability, decided, targets, **how).to_dict()
    sets = LabelSets.of(probability, targets, **how)
    if sets is not None:
        return {"sets": sets.to_dict()}
    each = [
        Confusion.of(
            two_sided(probability[:, i]),
            decided[:, i].astype(int),
            targets[:, i].astype(int),
            **how,
        )
        for i in range(len(head.card.classes))
    ]
    return {"labels": [one.to_dict() for one in each]}


def two_sided(probability: Array) -> Array:
    """Probabilities ``(n, 2)`` that a label is absent and present, of ``(n,)`` of the latter."""
    own = np.asarray(probability, np.float64)
    return np.stack([1 - own, own], axis=1)


def read_errors(errors: Mapping[str, Any], type: str, num_classes: int) -> Errors:
    """From JSON.

    Args:
        errors: of :func:`known_errors`.
        type: of the task.
        num_classes: its classes or labels.

    Raises:
        ValueError, KeyError, TypeError: it says something else.
    """
    if type == "regression":
        return Slope.from_dict(errors)
    if type == "multilabel" and "sets" in errors:
        sets = LabelSets.from_dict(errors["sets"])
        if sets.members.shape[1] != num_classes:
            raise ValueError(f"errors of {sets.members.shape[1]} labels, not of {num_classes}")
        return sets
    each = errors["labels"] if type == "multilabel" else [errors]
    found = tuple(map(Confusion.from_dict, each))
    size = len(found) if type == "multilabel" else len(found[0].table)
    if size != num_classes or (type == "multilabel" and any(len(one.table) != 2 for one in found)):
        raise ValueError(f"errors of {size} classes, where there are {num_classes}")
    return found
