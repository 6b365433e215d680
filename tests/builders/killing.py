"""Stages killed at their steps, what else comes then, the same call again, and what is counted.

python -m tests.builders.killing 'append' 120 SIGKILL delete     # one kill, and its faults
python -m tests.builders.killing 'append'                        # how many steps there are
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.builders.forking import start
from tests.builders.mortal import stop_at

KINDS = ("lost", "doubled", "revived", "stuck")
TALLY: Counter[str] = Counter()
"""Kills, by signal, and faults, of all tests of this process."""


@dataclass(frozen=True)
class Kill:
    """One kill of a stage: at which step, by which signal, and what comes before the same call."""

    step: int
    signal: signal.Signals
    then: str | None = None

    def __str__(self) -> str:
        return f"{self.step} {self.signal.name} {self.then or ''}".strip()


class Matrix(Protocol):
    """The stages of one kind of folder; everything happens in a folder of its own."""

    def prepare(self, stage: str, folder: Path) -> None:
        """Make what is there before the stage."""

    def thens(self, stage: str) -> Sequence[str]:
        """What may come between a kill and the same call again."""

    def call(self, stage: str) -> tuple[Callable[..., object], tuple[object, ...]]:
        """What is killed, as it can be sent to another process; it is given the folder last."""

    def between(self, stage: str, folder: Path) -> list[str]:
        """What is wrong after a kill, before anything else comes; each begins as in `faults`."""

    def go_on(self, stage: str, folder: Path, then: str | None) -> None:
        """What comes between, and the same call again; raises where it is stuck."""

    def faults(self, stage: str, folder: Path, then: str | None) -> list[str]:
        """What is wrong in the end; each begins with one of `KINDS`."""


def num_steps(matrix: Matrix, stage: str, origin: Path, folder: Path) -> tuple[int, list[str]]:
    """Run a stage that nothing stops; its steps, and what is wrong even so."""
    shutil.copytree(origin, folder, symlinks=True)
    counted = folder.with_name("counted")
    function, arguments = matrix.call(stage)
    process = start(stop_at, None, 0, folder, counted, function, *arguments, folder)
    process.join()
    assert process.exitcode == 0, f"{stage}: ended with {process.exitcode} without any kill"
    found = matrix.faults(stage, folder, None)
    shutil.rmtree(folder)
    return int(counted.read_text()), [f"{stage!r} without any kill: {fault}" for fault in found]


def spread(num: int, thens: Sequence[str], *, kills: int, first: int = 0) -> list[Kill]:
    """Some kills all over a stage, by both signals, with what may come then from the first on."""
    chosen = [None, *thens]
    kills = min(kills, num)
    return [
        Kill(
            (2 * i + 1) * num // (2 * kills),
            signal.SIGTERM if i % 2 else signal.SIGKILL,
            chosen[(first + i + i // len(chosen)) % len(chosen)],
        )
        for i in range(kills)
    ]


def everywhere(num: int, thens: Sequence[str], *, stride: int = 1) -> list[Kill]:
    """Every step: SIGKILL and the same again, SIGKILL and something else, SIGTERM and either."""
    chosen = [None, *thens]
    kills = []
    for i, step in enumerate(range(0, num, stride)):
        kills.append(Kill(step, signal.SIGKILL))
        kills.append(Kill(step, signal.SIGTERM, chosen[i % len(chosen)]))
        if thens:
            kills.append(Kill(step, signal.SIGKILL, thens[i % len(thens)]))
    return kills


def run_kills(
    matrix: Matrix, stage: str, tmp_path: Path, choose: Callable[[int, Sequence[str]], list[Kill]]
) -> list[str]:
    """Kill a stage again and again; returns the faults, and adds to `TALLY`."""
    origin = tmp_path / "origin"
    origin.mkdir()
    matrix.prepare(stage, origin)
    num, faults = num_steps(matrix, stage, origin, tmp_path / "whole")
    for kill, folder, code in _killed(matrix, stage, origin, choose(num, matrix.thens(stage))):
        if code == 0 and kill.signal == signal.SIGTERM and kill.step < num // 2:
            faults.append(f"{stage!r} {kill}: stuck: it went on as if nobody had told it to end")
        if code == 0 and kill.signal == signal.SIGKILL:
            shutil.rmtree(folder)  # this time it had fewer steps
            continue
        TALLY[kill.signal.name] += 1
        found = _after(matrix, stage, folder, kill, code)
        TALLY.update({fault.split(":")[0] for fault in found})
        faults += [f"{stage!r} {kill}: {fault}" for fault in found]
        shutil.rmtree(folder)
    return faults


def _after(matrix: Matrix, stage: str, folder: Path, kill: Kill, code: int | None) -> list[str]:
    wanted = (-9,) if kill.signal == signal.SIGKILL else (128 + kill.signal, 0)
    log = folder.with_name(f"{folder.name}.log").read_text(encoding="utf-8", errors="replace")
    if code not in wanted or "Traceback" in log:
        return [f"stuck: ended with {code}: {log[-800:]}"]
    try:
        if found := matrix.between(stage, folder):
            return found
        matrix.go_on(stage, folder, kill.then)
    except Exception as error:
        return [f"stuck: {type(error).__name__}: {error}"]
    return matrix.faults(stage, folder, kill.then)


def _killed(
    matrix: Matrix, stage: str, origin: Path, kills: Sequence[Kill]
) -> Iterator[tuple[Kill, Path, int | None]]:
    """Folders whose process has been killed; the next one is on its way meanwhile."""
    function, arguments = matrix.call(stage)

    def begin(number: int) -> tuple[Kill, Path, object]:
        kill, folder = kills[number], origin.with_name(f"killed{number}")
        shutil.copytree(origin, folder, symlinks=True)
        process = start(stop_at, kill.step, kill.signal, folder, None, function, *arguments, folder)
        return kill, folder, process

    coming = begin(0) if kills else None
    for number in range(len(kills)):
        assert coming is not None
        kill, folder, process = coming
        process.join()  # type: ignore[attr-defined]
        coming = begin(number + 1) if number + 1 < len(kills) else None
        yield kill, folder, process.exitcode  # type: ignore[attr-defined]


def summary() -> str:
    """What was counted so far."""
    kills = sum(number for name, number in TALLY.items() if name.startswith("SIG"))
    signals = ", ".join(f"{TALLY[name]} {name}" for name in sorted(TALLY) if name.startswith("SIG"))
    return f"{kills} kills ({signals}): " + ", ".join(f"{TALLY[kind]} {kind}" for kind in KINDS)


def main(words: Sequence[str]) -> None:
    """One kill from the command line."""
    from tests.builders.command_stages import made_up
    from tests.builders.store_stages import STORES

    stage, *rest = words
    matrix: Matrix = STORES if stage in STORES.names() else made_up()
    with tempfile.TemporaryDirectory() as folder:
        if not rest:
            (Path(folder) / "origin").mkdir()
            matrix.prepare(stage, Path(folder) / "origin")
            num, found = num_steps(matrix, stage, Path(folder) / "origin", Path(folder) / "whole")
            print(num, *found, sep="\n")
            return
        kill = Kill(int(rest[0]), signal.Signals[rest[1]], *rest[2:])
        found = run_kills(matrix, stage, Path(folder), lambda _num, _thens: [kill])
        print("\n".join(found) or f"sound; {summary()}")


if __name__ == "__main__":
    main(sys.argv[1:])
