"""Builds the sdist and the wheel from it, installs the wheel into empty environments and uses it.

    python -m tests.install

First the base alone, which pip fetches with what it needs; then with the extras `extract` and
`demo`, whose packages are those installed here, linked, so that nothing is fetched twice: `salient
demo` runs all stages on a real encoder, and README's table is held against what it prints.
Everything runs in folders that hold nothing of the checkout, and are gone afterwards.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.builders.bare import bare_environment
from tests.builders.built import build, outside
from tests.builders.pages import differences
from tests.builders.paths import ROOT

STORE = ROOT / "tests" / "formats" / "2" / "activations"
LINE = "salient: this needs the package torch: pip install '{}[extract]'\n"


def run(*words: object, cwd: Path, code: int = 0) -> str:
    """What a program prints; the end, with all that it said, where its exit code is another."""
    start = time.perf_counter()
    command = [str(word) for word in words]
    wide = {**outside(), "COLUMNS": "110"}  # as README's tables
    done = subprocess.run(command, cwd=cwd, env=wide, capture_output=True, text=True)
    print(f"{time.perf_counter() - start:6.1f} s", *command, flush=True)
    if done.returncode != code:
        raise SystemExit(f"exit code {done.returncode}, not {code}\n{done.stdout}{done.stderr}")
    return done.stdout or done.stderr


def pip(python: Path, *words: object, cwd: Path) -> None:
    """Run this environment's pip on another."""
    own = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    run(*own, *words, cwd=cwd)


def check_base(wheel: Path, home: Path, empty: Path) -> None:
    """The base alone looks, and names the extra that it lacks."""
    run(sys.executable, "-m", "venv", "--without-pip", home / "base", cwd=empty)
    own, salient = home / "base" / "bin" / "python", home / "base" / "bin" / "salient"
    lock = ["-c", ROOT / "requirements.lock"]
    pip(own, "install", "-q", "--no-compile", *lock, wheel, cwd=empty)
    run(own, "-c", "import salient", cwd=empty)
    run(salient, "--help", cwd=empty)
    shutil.copytree(STORE, home / "store")
    run(salient, "store", "info", home / "store", cwd=empty)
    code = "import salient, sys; print(salient.open(sys.argv[1]).ffn.mean('sample').compute())"
    run(own, "-c", code, home / "store", cwd=empty)
    if (said := run(salient, "demo", cwd=empty, code=2)) != LINE.format(wheel):
        raise SystemExit(f"`salient demo` without its extra says: {said}")


def check_demo(wheel: Path, home: Path, empty: Path) -> None:
    """With its extras the demo runs, and says what README shows."""
    own = bare_environment(home / "demo", "extract", "demo")
    salient = own.parent / "salient"
    pip(own, "install", "-q", "--no-deps", "--no-index", wheel, cwd=empty)
    pip(own, "check", cwd=empty)
    run(own, "-c", "import salient, torch; salient.SalientClassifier", cwd=empty)
    said = run(salient, "demo", "demo", cwd=empty)
    print(said[-2000:])
    if told := differences((ROOT / "README.md").read_text(encoding="utf-8"), said):
        raise SystemExit("README's table of the demo is another one:\n" + "\n".join(told))
    run(salient, "inspect", "demo/run", cwd=empty)


def main() -> None:
    """Build, install and use."""
    with tempfile.TemporaryDirectory(prefix="salient-install-") as folder:
        home = Path(folder)
        (empty := home / "empty").mkdir()
        _, wheel = build(home)
        check_base(wheel, home, empty)
        check_demo(wheel, home, empty)


if __name__ == "__main__":
    main()
