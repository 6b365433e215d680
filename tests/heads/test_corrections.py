"""What is kept of a head so that shares can be corrected."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.heads.corrections import known_errors, read_errors
from pipeline.measures import LabelSets


def head_of(labels: int) -> Any:
    """Of labels, decided from one half on; its outputs are probabilities."""
    return SimpleNamespace(
        card=SimpleNamespace(type="multilabel", classes=tuple("abcdefgh"[:labels])),
        multilabel=True,
        probabilities=lambda outputs: outputs,
        decide=lambda probability: probability > 0.5,
    )


def test_label_sets_are_kept_where_rows_share_them_and_labels_where_not() -> None:
    draw = np.random.default_rng(0)
    outputs = draw.random((300, 8))
    targets = draw.random((300, 8)) < outputs
    few = known_errors(head_of(2), outputs[:, :2], targets[:, :2])
    sets = read_errors(few, "multilabel", 2)
    assert isinstance(sets, LabelSets) and len(sets.members) == 4 and sets.num_rest == 0
    many = read_errors(known_errors(head_of(8), outputs, targets), "multilabel", 8)
    assert isinstance(many, tuple) and len(many) == 8
    assert [one.num_rows for one in many] == [300] * 8
    with pytest.raises(ValueError, match="of 2 labels, not of 3"):
        read_errors(few, "multilabel", 3)
