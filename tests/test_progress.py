"""Progress: lines now and then where no bar can be drawn, a bar on a terminal or in a notebook."""

from __future__ import annotations

import io
from typing import Any

import pytest

from pipeline.events import RowsScored, Tally, emit, watch
from pipeline.progress import Terminal, counted, showing, silent, teller
from tests.builders.paths import ROOT


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_are_few_and_say_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("pipeline.progress.time.monotonic", lambda: now)
    stream = io.StringIO()
    say = Terminal(stream)
    tally = Tally("extracted", 1000, "texts")
    with watch(say.hear):
        for done in range(0, 1001, 10):
            tally(done, note="3 workers")
            now += 1
    say("the end")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[0].endswith("extracted 100 of 1,000 texts (10%), 10 texts/s, 1:30 left, 3 workers")
    assert lines[-2].endswith("extracted 1,000 of 1,000 texts (100%), 10 texts/s, 3 workers")
    assert lines[-1].endswith("the end")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Screen()
    say = Terminal(stream)
    tally = Tally("extracted", 10, "texts")
    with watch(say.hear):
        tally(5)
        say("[red]a line[/red] between")
        tally(10)
        say("the end")
    assert "10/10" in stream.getvalue()
    assert "[red]a line[/red] between" in stream.getvalue()


def test_a_quiet_one_shows_nothing() -> None:
    stream = io.StringIO()
    say = Terminal(stream, quiet=True)
    say("nothing")
    with watch(say.hear):
        Tally("drawn", 2, "figures")(2)
    assert stream.getvalue() == ""


def test_a_bar_of_work_that_failed_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", Screen())
    with pytest.raises(RuntimeError), showing() as say:
        assert isinstance(say, Terminal)
        Tally("extracted", 10, "texts")(5)
        assert say._bar is not None
        raise RuntimeError
    assert say._bar is None
    Tally("extracted", 10, "texts")(6)
    assert say._bar is None  # hears no more


def test_rows_scored_are_said_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("pipeline.progress.time.monotonic", lambda: now)
    stream = io.StringIO()
    with watch(Terminal(stream).hear):
        for block in range(1, 8):
            now += 2
            facts = {"num_rows": 900, "read": 1000 * block, "scored": 900 * block, "rate": 450.0}
            dry_run = block > 5
            emit(RowsScored(path="a.jsonl", files_done=1, num_files=3, dry_run=dry_run, **facts))
    assert [line.partition("] ")[2] for line in stream.getvalue().splitlines()] == [
        "3,000 rows read, 2,700 scored (450 rows/s), 1 of 3 files done",
        "6,000 rows read, 5,400 to score (450 rows/s), 1 of 3 files done",
    ]


def test_one_thing_is_no_things() -> None:
    assert [counted(n, "row") for n in (0, 1, 2, 1200)] == [
        "0 rows",
        "1 row",
        "2 rows",
        "1,200 rows",
    ]


def test_python_hears_of_it_where_a_bar_can_be_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert teller(False) is silent and teller() is silent  # no terminal here
    assert isinstance(teller(True), Terminal)
    monkeypatch.setattr("sys.stderr", Screen())
    assert isinstance(teller(), Terminal) and teller(False) is silent


def test_a_notebook_gets_a_bar_that_goes() -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs the extra: salient-neurons[dev]")
    nbformat = pytest.importorskip("nbformat", reason="needs the extra: salient-neurons[dev]")
    cells = [
        "from pipeline.events import Tally, watch\nfrom pipeline.progress import teller",
        "say = teller()\nstop = watch(say.hear)\ntally = Tally('encoded', 10, '<texts>')\ntally(5)",
        "tally(10)\nstop()\nsay('the end')",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    resources = {"metadata": {"path": str(ROOT)}}
    during = []

    def seen(cell: Any, cell_index: int, **_: Any) -> None:
        during.append([dict(one.get("data", {})) for one in notebook.cells[1].get("outputs", [])])

    client = nbclient.NotebookClient(
        notebook, timeout=60, kernel_name="python3", resources=resources, on_cell_executed=seen
    )
    client.execute()
    (bar,) = during[1]
    assert bar["text/plain"] == "encoded 5 of 10 <texts> (50%)"
    assert bar["text/html"].startswith('<progress value="5" max="10">')
    assert "&lt;texts&gt;" in bar["text/html"]
    assert during[2] == [{"text/plain": "", "text/html": ""}]
    assert notebook.cells[2]["outputs"][0]["text"] == "the end\n"
