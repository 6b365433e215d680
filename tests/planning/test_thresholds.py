"""Thresholds of a cascade keep the stated loss."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.measures.metrics import score
from pipeline.planning.thresholds import Judged, find_thresholds


def judged(seed: int, num_classes: int, skill: float) -> Judged:
    draw = np.random.default_rng(seed)
    num_texts = 60
    rows = np.sort(draw.choice(num_texts, 40, replace=False))
    outputs = num_classes if num_classes > 2 else 1
    targets = draw.integers(num_classes, size=num_texts)
    signal = np.eye(num_classes)[targets][:, -outputs:] - 0.5
    early = signal * skill + draw.normal(size=(num_texts, outputs))
    plain = 4 * signal + draw.normal(size=(num_texts, outputs))
    sure = draw.uniform(1 / num_classes, 1, num_texts)
    return Judged("macro_f1", -1, rows, targets[rows], plain, early, sure)


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(0, 99), st.integers(2, 4), st.floats(0, 4)), min_size=1, max_size=3
    ),
    st.sampled_from([0.0, 0.02, 0.1, 1.0]),
)
def test_no_task_loses_more_than_stated(tasks: list[tuple[int, int, float]], loss: float) -> None:
    found = {f"task{i}": judged(*task) for i, task in enumerate(tasks)}
    thresholds = find_thresholds(found, loss=loss)
    leaves = np.ones(60, bool)
    for task, one in found.items():
        leaves &= one.confidence >= thresholds[task]
    for one in found.values():
        mixed = np.array([(one.early if leaves[i] else one.plain)[i] for i in one.rows])
        values = [score("macro_f1", one.targets, z) for z in (one.plain[one.rows], mixed)]
        assert values[1] >= values[0] - loss - 1e-8
    if loss == 1.0:
        assert leaves.all()
