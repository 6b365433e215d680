"""Tests what needs no torch on the newest Python here, with the newest versions of all the rest.

    python -m tests.newest .venv-newest

The lock holds what the oldest supported Python can have; this finds what newer releases break.
Torch is left out, and with it every test that imports it: its wheels for another Python are large.
"""

from __future__ import annotations

import glob
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.builders.extras import ROOT, wanted

EXTRAS = ("cluster", "report", "explore", "dev")
LEFT_OUT = {"torch", "transformers"}
STORE_TESTS = ("tests/store",)
"""They run with imports of torch as errors; others are skipped where they import it."""


def newest_python() -> str | None:
    """The newest released interpreter that is newer than this one."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    minors = range(sys.version_info.minor + 1, sys.version_info.minor + 10)
    candidates = [f"python3.{minor}" for minor in minors]
    candidates += map(str, pyenv.glob("versions/3.*/bin/python"))
    code = "import ensurepip, sys; print(*sys.version_info[:4])"
    found = {}
    for candidate in candidates:
        try:
            answer = subprocess.run([candidate, "-c", code], capture_output=True, text=True)
        except OSError:
            continue
        if answer.returncode == 0 and answer.stdout.endswith(" final\n"):
            version = tuple(map(int, answer.stdout.split()[:3]))
            found[version] = candidate
    newer = [version for version in found if version[:2] > sys.version_info[:2]]
    return found[max(newer)] if newer else None


def requirements() -> list[str]:
    """What `pyproject.toml` asks for, without torch."""
    return [line for line in wanted(*EXTRAS) if re.split(r"[^\w-]", line)[0] not in LEFT_OUT]


def main(folder: str) -> int:
    """Make the environment and run the tests there; the exit code."""
    python = newest_python()
    if python is None:
        print(f"skipped: no Python newer than {sys.version.split()[0]} on this machine")
        return 0
    subprocess.run([python, "-m", "venv", folder], check=True)
    own = str(Path(folder) / "bin" / "python")
    pip = [own, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    subprocess.run([*pip, "--upgrade", *requirements()], check=True)
    subprocess.run([*pip, "--no-deps", "-e", "."], cwd=ROOT, check=True)
    listing = [own, "-m", "pip", "list", "--format=freeze"]
    installed = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    print(installed)
    if re.search(r"^torch==", installed, re.M):
        print("a requirement brings torch in; leave it out in tests/newest.py", file=sys.stderr)
        return 1
    store = sorted(path for pattern in STORE_TESTS for path in glob.glob(pattern, root_dir=ROOT))
    rest = [f"--ignore={path}" for path in store]
    code = 0
    for options in (store, ["-p", "tests.without_torch", "tests", *rest]):
        print("+ pytest", *options, flush=True)
        code |= subprocess.run([own, "-m", "pytest", "-q", *options], cwd=ROOT).returncode
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
