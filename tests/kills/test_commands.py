"""Every command that writes, killed at its steps: given again, it ends as one left in peace."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.builders.command_stages import COMMANDS, Commands
from tests.builders.killing import run_kills, spread

LONG = {"run", "consolidate", "score, of every kind", "score --follow"}
"""Commands that take seconds."""
NEW = {"score, of every kind", "score --follow"}
"""A hundred kills in all over the kinds of files that are read."""
USUAL = [name for name in COMMANDS if name != "consolidate" and "Delta" not in name]
"""Others are killed in the long tests; `test_delta` stops each step of a commit."""


def check(stage: str, tmp_path: Path, model: Path, *, kills: int) -> None:
    found = run_kills(Commands(model), stage, tmp_path, partial(spread, kills=kills))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("stage", USUAL)
def test_kills_all_over_a_command(stage: str, tmp_path: Path, tiny_bert: Path) -> None:
    check(stage, tmp_path, tiny_bert, kills=2 if stage in LONG else 4)


@pytest.mark.slow
@pytest.mark.parametrize("stage", COMMANDS)
def test_many_kills_all_over_a_command(stage: str, tmp_path: Path, tiny_bert: Path) -> None:
    check(stage, tmp_path, tiny_bert, kills=52 if stage in NEW else 12 if stage in LONG else 30)
