"""The explorer's page without a browser: what each widget's change shows."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("panel", reason="needs the extra: salient-neurons[explore]")
from pipeline import stages
from pipeline.commands.line import run_command
from pipeline.config import RunConfig
from pipeline.explorer.atlas import Atlas, Distribution, Neuron
from pipeline.explorer.server import HOST, query_arguments, report_failure
from pipeline.explorer.tokenmaps import TokenPlaces, TokenReader
from pipeline.explorer.widgets import Page, Sources, distribution_plot
from tests.builders.runs import write_mood_run


@pytest.fixture(scope="module")
def sources(finished_run: Path) -> Sources:
    config = RunConfig.load(finished_run)
    atlas = Atlas.open(config.store.path, run=config.run_dir)
    return Sources("mood", atlas, TokenReader.for_store(atlas.store.schema))


def test_page_starts_at_the_most_important_neuron_and_follows_its_widgets(sources: Sources) -> None:
    page = Page(sources)
    header, *panes = page.view()
    assert "160 texts, 3 layers" in header.object and panes == [page.notice, page.tabs]
    task = sources.atlas.tasks[0]
    assert page.task.value == task
    first = sources.atlas.most_important(task, 1)[0][0]
    assert Neuron(page.layer.value, page.pooling.value, page.neuron.value) == first
    assert page.important.value == first
    assert f"neuron {first.neuron}" in page.ranks.object
    assert page.texts.object.count("<li>") == 12 and "<mark" in page.texts.object
    page.neuron.value = 33 if first.neuron != 33 else 34
    assert f"neuron {page.neuron.value}" in page.ranks.object
    highest = page.texts.object
    page.order.value = "lowest"
    assert page.texts.object != highest and "lowest activation" in page.texts.object
    fifth = list(page.important.options.values())[5]
    page.important.value = fifth
    assert Neuron(page.layer.value, page.pooling.value, page.neuron.value) == fifth
    page.show_correlated()
    assert page.correlated.object.count("<tr>") == 11
    page.task.value = sources.atlas.tasks[1]
    assert page.correlated.object == "" and len(page.plot.object) == (2, 1)[task == "mood"]


def test_texts_are_found_and_explained(sources: Sources) -> None:
    page = Page(sources)
    page.query.value = "happy"
    assert "happy" in page.found.object and "?sample=" in page.found.object
    page.query.value = "<nothing>"
    assert "No stored text contains “&lt;nothing&gt;”" in page.found.object
    page.query.value = ""
    assert page.found.object == ""
    page.own_text.value = "an <b>angry</b> dog"
    assert "&lt;b&gt;angry" in page.sample.object and page.sample.object.count("<h3>") == 3
    page.show_sample(0)
    assert "contribution" in page.sample.object
    page.show_sample(10**6)
    assert "no sample at position 1000000" in page.sample.object


def test_stored_peaks_are_outlined_without_the_model(tmp_path: Path, tiny_bert: Path) -> None:
    path = write_mood_run(tmp_path, tiny_bert)
    path.write_text(path.read_text().replace("[store]", "[store]\npeaks = true"))
    config = RunConfig.load(path)
    stages.extract(config)
    atlas = Atlas.open(config.store.path)
    places = TokenPlaces.for_store(atlas.store.schema)
    page = Page(Sources("mood", atlas, None, places))
    assert page.texts.object.count('class="peak"') == page.texts.object.count("<mark") == 12
    assert "the outlined token is the one of the maximum" in page.texts.object
    assert "outlined" not in Page(Sources("mood", atlas, None)).texts.object


def test_addresses_are_read_with_care(sources: Sources) -> None:
    assert query_arguments({"a": [b"1", b"2"], "b": [b"\xff"], "c": []}) == {"a": "1", "c": ""}
    place = {"layer": "2", "pooling": "max", "neuron": "7", "task": "level"}
    page = Page(sources, place)
    assert (page.layer.value, page.pooling.value, page.neuron.value) == (2, "max", 7)
    assert page.task.value == "level" and page.notice.object == ""
    page = Page(sources, {"layer": "99", "neuron": "7", "sample": "1", "task": "x"})
    assert "no layer 99" in page.notice.object and page.tabs.active == 1
    page = Page(sources, {"layer": "-1", "neuron": "9" * 40, "sample": "9" * 5000})
    assert page.notice.object == "" and page.tabs.active == 0


def test_a_neuron_without_values_has_an_empty_plot() -> None:
    neuron = Neuron(0, "max", 1)
    assert len(distribution_plot(None, neuron)) == 0
    means, edges = np.array([np.nan]), np.linspace(0, 1, 5)
    one = Distribution(edges, (("a", 0),), np.zeros((1, 4)), means, 0.5)
    assert next(iter(distribution_plot(one, neuron))).label == "a (0)"


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["explore", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert str(tmp_path) in error and error.count("\n") == 1


def test_a_port_in_use_is_named(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = RunConfig.load(finished_run).store.path
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert run_command(["explore", store, "--port", port, "-q"]) == 2
    assert f"--port {port}" in capsys.readouterr().err


def test_a_page_closed_in_the_middle_of_an_answer_is_not_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from tornado.websocket import WebSocketClosedError

    loop = asyncio.new_event_loop()
    try:
        with caplog.at_level(logging.ERROR, logger="asyncio"):
            report_failure(loop, {"message": "closed", "exception": WebSocketClosedError()})
            assert not caplog.records
            report_failure(loop, {"message": "broken", "exception": ValueError("7")})
            assert "broken" in caplog.text
    finally:
        loop.close()
