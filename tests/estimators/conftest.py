"""A tiny model, texts that it can learn, and estimators fitted to them once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.estimators import SalientClassifier, SalientRegressor
from tests.builders.moods import Moods, make_moods


@pytest.fixture(scope="session")
def moods() -> Moods:
    return make_moods()


@pytest.fixture(scope="session")
def quick(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Parameters of a fit that takes little time, with a cache that all tests share."""
    return {
        "model": str(tiny_bert),
        "kinds": ["sparse"],
        "cache": str(tmp_path_factory.mktemp("cache")),
        "progress": False,
        "config": {
            "probe": {"C": [1e-2, 1e-1], "alpha": [10.0, 100.0]},
            "head": {"folds": 3, "eta": [0.5]},
        },
    }


@pytest.fixture(scope="session")
def fitted(quick: dict[str, Any], moods: Moods) -> SalientClassifier:
    """Do not change it."""
    return SalientClassifier(**quick).fit(moods.texts, moods.mood)


@pytest.fixture(scope="session")
def fitted_numbers(quick: dict[str, Any], moods: Moods) -> SalientRegressor:
    """Do not change it."""
    return SalientRegressor(**quick).fit(moods.texts, moods.level)
