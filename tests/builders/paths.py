"""Where the repository and the real data are."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
"""Real tweets, labelled sets and a small decoder; not part of the project."""


def tracked_files() -> list[str]:
    """What git knows, relative to the root; skips the test where there is no checkout."""
    found = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.splitlines()
    if not found:
        pytest.skip("not a git checkout")
    return found
