from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders.hub import Client, StandIn
from tests.builders.paths import ROOT

MADE = ROOT / "tests" / "formats" / "2"


@pytest.fixture(scope="module")
def hub() -> Iterator[StandIn]:
    with StandIn() as hub:
        yield hub


@pytest.fixture(scope="module")
def client(hub: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with Client(hub, tmp_path_factory.mktemp("hf")) as client:
        yield client


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy of a finished run with two tasks, whose model was at ``/fixture/bert``."""
    shutil.copytree(MADE / "run", tmp_path / "mood")
    return tmp_path / "mood"


@pytest.fixture(scope="session")
def model() -> Path:
    """The model of that run."""
    return MADE / "bert"
