"""What `pyproject.toml` asks for; the standard library is enough."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def wanted(*extras: str) -> list[str]:
    """Requirements of the base and of some extras, and of those extras that they name."""
    lines = set(PROJECT["dependencies"])
    left, seen = list(extras), set()
    while left:
        extra = left.pop()
        for line in () if extra in seen else PROJECT["optional-dependencies"][extra]:
            own = re.fullmatch(rf"{PROJECT['name']}\[(.+)\]", line)
            if own:
                left += own[1].split(",")
            else:
                lines.add(line)
        seen.add(extra)
    return sorted(lines)
