from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.probes.probing import assign_folds
from pipeline.texts.targets import Rows


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=5, max_size=80))
def test_folds_keep_a_sample_together_and_spread_the_rest(pairs: list[tuple[int, int]]) -> None:
    positions, targets = (np.array(column) for column in zip(*pairs, strict=True))
    folds = assign_folds(Rows(positions, targets), folds=3, seed=1)
    for position in np.unique(positions):
        assert len(set(folds[positions == position])) == 1
    first = np.unique(positions, return_index=True)[1]
    sizes = np.bincount(folds[first], minlength=3)
    assert sizes.max() - sizes.min() <= 1
    assert (folds == assign_folds(Rows(positions, targets), folds=3, seed=1)).all()
