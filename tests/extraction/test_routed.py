"""Which routed layers a record asks for."""

import numpy as np
import pytest

from pipeline.extraction.routed import RoutedLayers


@pytest.mark.parametrize(
    ("provenance", "kept"),
    [
        ({"extraction": {"kept_experts": [1, 3]}}, [1, 3]),
        ({"extraction": {"kept_experts": None}}, None),
        ({"extraction": {}}, None),
        ({"extraction": None}, None),
        ({}, None),
    ],
)
def test_a_record_says_which_experts_were_kept(provenance, kept):
    features = {2: np.array([5])}
    found = RoutedLayers.recorded(provenance, router={3, 1}, experts={2, 0}, features=features)
    assert found == RoutedLayers([1, 3], [0, 2], kept, features)
    assert RoutedLayers.recorded(provenance) == RoutedLayers([], [], kept)
