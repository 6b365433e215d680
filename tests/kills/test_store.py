"""Every change of a store, killed at its steps: given again, all is there, once, and sound."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.builders.killing import everywhere, run_kills, spread
from tests.builders.store_stages import STORES


@pytest.mark.parametrize("stage", STORES.names())
def test_kills_all_over_a_stage(stage: str, tmp_path: Path) -> None:
    first = STORES.names().index(stage)  # so that all that may come then comes somewhere
    found = run_kills(STORES, stage, tmp_path, partial(spread, kills=4, first=first))
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STORES.names())
def test_kills_at_every_nineteenth_step_of_a_stage(stage: str, tmp_path: Path) -> None:
    found = run_kills(STORES, stage, tmp_path, partial(everywhere, stride=19))
    assert not found, "\n".join(found)
