"""A virtual environment that has what some extras ask for, and nothing else; nothing is fetched.

    python = bare_environment(tmp_path / "bare", "report")

Its packages are links to those of this environment, chosen by what `pyproject.toml` and they
themselves say that they need: what nobody asks for is not there.
"""

from __future__ import annotations

import sys
import venv
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from tests.builders.extras import wanted


def bare_environment(folder: Path, *extras: str, without: tuple[str, ...] = ()) -> Path:
    """Make it; returns its interpreter.

    Args:
        folder: not there yet.
        extras: of `pyproject.toml`; none: the base.
        without: distributions that are left out with all that only they need.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / version / "site-packages"
    for name in needed(wanted(*extras), without):
        found = metadata.distribution(name)
        parts = {Path(str(file)).parts[0] for file in found.files or ()}
        for part in parts - {"..", "__pycache__"}:
            if not (site / part).exists():
                (site / part).symlink_to(Path(str(found.locate_file(part))))
    return folder / "bin" / "python"


def needed(lines: list[str], without: tuple[str, ...] = ()) -> set[str]:
    """Names of the distributions that these requirements bring in, as they are installed here."""
    left, seen = [(Requirement(line), "") for line in lines], set()
    names = set()
    while left:
        wish, extra = left.pop()
        if wish.name in without or (wish.marker and not wish.marker.evaluate({"extra": extra})):
            continue
        for key in _asked(wish):
            if key not in seen:
                seen.add(key)
                names.add(wish.name)
                inner = metadata.distribution(wish.name).requires or ()
                left += [(Requirement(line), key[1]) for line in inner]
    return names


def _asked(wish: Requirement) -> Iterator[tuple[str, str]]:
    """The distribution itself, and each of its extras."""
    for extra in ("", *sorted(wish.extras)):
        yield wish.name.lower(), extra
