"""The look at the test split: in which direction a gain is one."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.heads.evaluation import HeldOut
from pipeline.measures.bootstrap import Resamples
from pipeline.measures.metrics import score
from pipeline.probes.model import Problem


@pytest.mark.parametrize("metric", ["mae", "r2", "pearson"])
def test_a_gain_is_positive_where_the_head_is_better(metric: str) -> None:
    draw = np.random.default_rng(0)
    targets = draw.normal(size=80)
    better, worse = (
        (targets + scale * draw.normal(size=80)).astype(np.float32)[:, None] for scale in (0.1, 2)
    )
    held_out = HeldOut(targets, Problem(None, metric), Resamples(80))
    gain, loss = held_out.gain(better, worse), held_out.gain(worse, better)
    apart = abs(score(metric, targets, better) - score(metric, targets, worse))
    assert gain["value"] == pytest.approx(apart)
    assert 0 < gain["low"] < gain["value"] < gain["high"]
    assert loss["value"] == -gain["value"]
    assert loss["high"] == pytest.approx(-gain["low"])
