"""Progress: lines now and then where no bar can be drawn, a bar on a terminal, facts for jobs."""

from __future__ import annotations

import io
from typing import Any

import pytest

from pipeline import progress
from pipeline.progress import Terminal, advance, counted, silent, teller
from tests.builders.paths import ROOT


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_are_few_and_say_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("pipeline.progress.time.monotonic", lambda: now)
    stream = io.StringIO()
    say = Terminal(stream)
    for done in range(0, 1001, 10):
        advance(say, "extracted", done, 1000, "texts", note="3 workers")
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
    advance(say, "extracted", 5, 10, "texts")
    say("[red]a line[/red] between")
    advance(say, "extracted", 10, 10, "texts")
    say("the end")
    assert "10/10" in stream.getvalue()
    assert "[red]a line[/red] between" in stream.getvalue()


def test_quiet_is_quiet_but_watchers_know(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, object]] = []
    monkeypatch.setattr(progress, "_watchers", [])
    progress.watch(seen.append)
    stream = io.StringIO()
    say = Terminal(stream, quiet=True)
    say("nothing")
    advance(say, "scored", 1, 2, "rows")
    assert stream.getvalue() == ""
    assert (seen[0]["what"], seen[0]["done"], seen[0]["total"]) == ("scored", 1, 2)


def test_a_plain_function_hears_of_progress_too() -> None:
    lines: list[str] = []
    advance(lines.append, "extracted", 5, 10, "texts")
    assert lines == ["extracted 5 of 10 texts"]


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
        "from pipeline.progress import advance, teller\nsay = teller()",
        "advance(say, 'encoded', 5, 10, '<texts>')",
        "advance(say, 'encoded', 10, 10, 'texts')\nsay('the end')",
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
