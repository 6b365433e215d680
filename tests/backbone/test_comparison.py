"""What counts as rounding."""

from __future__ import annotations

import pytest
import torch

from pipeline.backbone.comparison import Comparison, ratio, relative
from store.layout import Source

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("found", "expected", "difference"),
    [
        ([1.0, -4.0], [1.0, -4.0], 0.0),
        ([1.0, -3.0], [1.0, -4.0], 0.25),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0, 1e-30], [0.0, 0.0], 1e-10),  # nothing, beside nothing
        ([NAN, 1.0], [1.0, 1.0], INF),
        ([1.0, 1.0], [NAN, 1.0], INF),
        ([INF, 1.0], [INF, 1.0], INF),
    ],
)
def test_differences(found: list[float], expected: list[float], difference: float) -> None:
    assert relative(torch.tensor(found), torch.tensor(expected)) == pytest.approx(difference)


def test_undefined_is_worst() -> None:
    assert ratio(NAN, 1.0) == ratio(NAN, NAN) == INF
    found = Comparison({Source("ffn", 1): 1e-6, Source("hidden", 2): ratio(NAN, 1.0)}, 1e-4)
    assert found.worst == Source("hidden", 2) and not found.agrees
    assert found.trouble == "hidden state 2 differs by inf of its largest value (tolerance 1e-04)"
    assert Comparison({Source("ffn", 1): 1e-6}, 1e-4).trouble is None
