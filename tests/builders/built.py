"""The sdist and the wheel of what git knows, built as for a release.

sdist, wheel = build(tmp_path)
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.builders.paths import ROOT, tracked_files


def outside() -> dict[str, str]:
    """The environment's variables without those that lead Python back into the checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def build(home: Path) -> tuple[Path, Path]:
    """Build them in a folder, from a copy, with what is installed here; the wheel from the sdist.

    Args:
        home: an empty folder.
    """
    source = home / "source"
    for name in tracked_files():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(home), str(source)]
    done = subprocess.run(command, cwd=home, env=outside(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(home.glob("*.tar.gz")), next(home.glob("*.whl"))
