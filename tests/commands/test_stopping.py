"""Commands that are told to end: their exit codes, what they print, what they leave behind.

Each is a process of its own that sends itself the signal at a step of its work, so nothing here
depends on how fast it is.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.commands.line import run_command
from store import ActivationStore
from store.upkeep.inspection import verify
from tests.builders.paths import ROOT
from tests.builders.runs import write_mood_run
from tests.builders.waiting import default_signals, ignored_signals, wait_until

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
SAID = {
    130: "salient: interrupted; run the same command again to go on\n",
    143: "salient: told to stop; run the same command again to go on\n",
}
AT_A_STEP = """
import sys
from pathlib import Path
from tests.builders.mortal import command_with_signal
step, number, folder = int(sys.argv.pop(1)), int(sys.argv.pop(1)), Path(sys.argv.pop(1))
command_with_signal(step, number, folder)
"""
IN_AN_IMPORT = """
import os, sys
def watch(event, arguments):
    if event == "import" and arguments[0] == "typer":
        os.kill(os.getpid(), int(sys.argv[1]))
sys.addaudithook(watch)
from pipeline.commands import main
main()
"""
AT_THE_END = """
import atexit, os, sys
number = int(sys.argv.pop(1))
atexit.register(lambda: os.kill(os.getpid(), number))
from pipeline.commands import main
main()
"""
Start = Callable[[], None]


def run_python(code: str, *words: str, start: Start = default_signals) -> tuple[int, str]:
    """Exit code and standard error of a process; nothing that it has started outlives it."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
            preexec_fn=start,
        )
        try:
            process.wait(300)
            wait_until(lambda: not members_of(process.pid))  # they go by themselves, if not at once
        finally:
            process.kill()
        errors.seek(0)
        return process.returncode, errors.read()


def members_of(session: int) -> list[Path]:
    """The processes of a session."""
    return [one for one in Path("/proc").glob("[0-9]*") if session_of(one) == session]


def session_of(process: Path) -> int:
    """The session of a process, 0 if it has gone."""
    try:
        state, _, _, session = (process / "stat").read_text().rpartition(")")[2].split()[:4]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if state == "Z" else int(session)


def stop(words: list[str], folder: Path, number: int, step: int, start: Start) -> None:
    """Run a command that gets a signal at a step."""
    facts = (str(step), str(int(number)), str(folder))
    code, said = run_python(AT_A_STEP, *facts, *words, start=start)
    assert code == CODES[signal.Signals(number)], said
    assert SAID[code] in said
    assert "Traceback" not in said and "ignored in" not in said, said


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A folder with a store of which some samples are deleted."""
    folder = tmp_path_factory.mktemp("extracted")
    config = write_mood_run(folder, tiny_bert, num_rows=40)
    assert run_command(["extract", str(config), "--quiet"]) == 0
    store = ActivationStore.open(folder / "activations")
    store.delete(store.samples()["id"].to_pylist()[:10])
    return folder


@pytest.mark.parametrize("start", [default_signals, ignored_signals])
@pytest.mark.parametrize("number", CODES)
def test_a_signal_ends_a_command_with_its_code(
    extracted: Path, tmp_path: Path, number: signal.Signals, start: Start
) -> None:
    store = tmp_path / "activations"
    shutil.copytree(extracted / "activations", store)
    words = ["store", "compact", str(store)]
    stop(words, store, number, 40, start)
    assert run_command(words) == 0
    assert verify(ActivationStore.open(store)).sound
    assert ActivationStore.open(store).num_living == 30


@pytest.mark.parametrize("number", CODES)
def test_a_signal_while_the_command_is_imported(number: signal.Signals) -> None:
    code, said = run_python(IN_AN_IMPORT, str(int(number)))
    assert (code, said) == (CODES[number], SAID[CODES[number]])


@pytest.mark.parametrize("number", CODES)
def test_a_signal_after_the_work_changes_nothing(extracted: Path, number: signal.Signals) -> None:
    words = ["store", "info", str(extracted / "activations")]
    assert run_python(AT_THE_END, str(int(number)), *words) == (0, "")


STEPS = {"extract": 150, "probe": 60, "consolidate": 30, "score": 30, "store add": 60}
"""Somewhere in the middle of each command."""


@pytest.mark.parametrize(
    "command",
    [
        name if name in ("extract", "score") else pytest.param(name, marks=pytest.mark.slow)
        for name in STEPS
    ],
)
def test_long_commands_end_with_their_code_and_go_on(
    command: str, finished_run: Path, tmp_path: Path, tiny_bert: Path
) -> None:
    folder = tmp_path / "own"
    shutil.copytree(finished_run.parent, folder)
    texts = folder / "new.txt"
    texts.write_text("".join(f"a happy cat {i}\n" for i in range(60)))
    config = str(folder / "run.toml")
    gone = {"probe": ["run/probes"], "consolidate": ["run/heads", "run/metrics.json"]}
    for name in gone.get(command, ["activations", "run"] if command == "extract" else []):
        path = folder / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
    words = [*command.split(), config]
    if command == "score":
        words = ["score", str(texts), "--run", config, "--out", str(folder / "scores")]
    if command == "store add":
        words = ["extract", str(write_with_final_states(tmp_path / "final", tiny_bert)), "-q"]
        assert run_command(words) == 0
        folder = tmp_path / "final"
        words = ["store", "add", str(folder / "activations"), "--hidden", "all"]
    stop([*words, "--quiet"], folder, signal.SIGTERM, STEPS[command], ignored_signals)
    assert run_command([*words, "--quiet"]) == 0


def write_with_final_states(folder: Path, model: Path) -> Path:
    config = write_mood_run(folder, model, num_rows=40)
    text = config.read_text(encoding="utf-8").replace("[store]", '[store]\nhidden = "final"')
    config.write_text(text, encoding="utf-8")
    return config


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_workers_end_with_their_command(
    tmp_path: Path, tiny_bert: Path, number: signal.Signals
) -> None:
    pytest.importorskip("distributed", reason="needs the extra: salient-neurons[cluster]")
    config = write_mood_run(tmp_path, tiny_bert)
    config.write_text(config.read_text() + '[cluster]\nkind = "processes"\nworkers = 1\n')
    stop(["extract", str(config), "--quiet"], tmp_path, number, 150, ignored_signals)
    config.write_text(config.read_text().replace('"processes"', '"local"'))
    assert run_command(["extract", str(config), "--quiet"]) == 0


def test_an_interrupt_that_came_through_exec_changes_no_exit_code(tmp_path: Path) -> None:
    (tmp_path / "started.py").write_text(
        "from pipeline.commands import exit_with\n"
        "try:\n    exec('raise KeyboardInterrupt')\n"
        "except KeyboardInterrupt:\n    pass\n"
        "exit_with(143)\n"
    )
    found = subprocess.run(
        [sys.executable, "-m", "started"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert found.returncode == 143


@pytest.mark.parametrize("number", CODES)
def test_a_signal_is_how_the_explorer_ends(
    finished_run: Path, tmp_path: Path, number: signal.Signals
) -> None:
    pytest.importorskip("panel", reason="needs the extra: salient-neurons[explore]")
    code = f"""
import os, sys
import pipeline.explorer
from pipeline.explorer import server

def serve(*_, announce, **__):
    announce("http://127.0.0.1/")
    os.kill(os.getpid(), {int(number)})

server.serve = pipeline.explorer.serve = serve
from pipeline.commands import main
main()
"""
    run = str(finished_run.parent / "run")
    assert run_python(code, "explore", run) == (0, "salient: stopped\n")
