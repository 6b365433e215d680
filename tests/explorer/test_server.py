"""The explorer's page without a browser: what each widget's change shows."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import sys
from pathlib import Path
from urllib.parse import parse_qsl

import numpy as np
import pytest

pytest.importorskip("panel", reason="needs the extra: salient-neurons[explore]")
from pipeline import stages
from pipeline.commands.line import run_command
from pipeline.config import RunConfig
from pipeline.explorer.atlas import Atlas, Distribution, Neuron
from pipeline.explorer.fragments import speaks
from pipeline.explorer.mapview import NEURON
from pipeline.explorer.plots import histogram, histogram_height
from pipeline.explorer.server import HOST, query_arguments, report_failure, tunnel_line
from pipeline.explorer.sources import Sources
from pipeline.explorer.tokenmaps import TokenPlaces, TokenReader
from pipeline.explorer.widgets import Page
from store.layout import ffn
from tests.builders.runs import write_mood_run


@pytest.fixture(scope="module")
def sources(finished_run: Path) -> Sources:
    config = RunConfig.load(finished_run)
    atlas = Atlas.open(config.store.path, run=config.run_dir)
    return Sources("mood", atlas, TokenReader.for_store(atlas.store.schema))


def test_page_starts_at_the_most_important_neuron_and_follows_its_widgets(sources: Sources) -> None:
    page = Page(sources)
    view = page.neurons
    assert "160 texts, 3 layers" in page.view()[0].object
    task = sources.atlas.tasks[0]
    assert view.task.value == task
    first = sources.atlas.most_important(task, 1)[0][0]
    assert view.chosen() == first and view.important.value == first
    assert f"neuron {first.neuron}" in view.heading.object
    assert view.texts.object.count("<li>") == 6 * 3 and "<mark" in view.texts.object
    view.neuron.value = 33 if first.neuron != 33 else 34
    assert f"neuron {view.neuron.value}" in view.heading.object
    whole = view.texts.object
    view.order.value = "lowest"
    assert view.texts.object != whole and view.texts.object.count("<li>") == 12
    assert "<h3>Lowest</h3>" in view.texts.object
    fifth = list(view.important.options.values())[5]
    view.important.value = fifth
    assert view.chosen() == fifth
    view.show_correlated()
    assert view.correlated.object.count("<tr>") == 11
    view.task.value = sources.atlas.tasks[1]
    assert view.correlated.object == ""


def test_each_pooling_has_its_ranks_weights_and_histogram(sources: Sources) -> None:
    view = Page(sources, {"task": "mood", "layer": "2", "pooling": "max", "neuron": "7"}).neurons
    for pooling, pane in view.standings.items():
        assert f"{pooling} pooling" in pane.object
        assert ("its texts are below" in pane.object) == (pooling == "max")
        for voice in sources.atlas.voices(Neuron(2, pooling, 7)):
            assert speaks(voice) in pane.object
        assert len(view.plots[pooling].object) == 2 * len(sources.atlas.heads["mood"].card.classes)
        assert f"{pooling} activation of neuron 7" in str(view.plots[pooling].object)
    view.pooling.value = "mean"
    assert "its texts are below" in view.standings["mean"].object


def test_texts_are_chosen_by_split_and_label(sources: Sources) -> None:
    view = Page(sources, {"task": "mood"}).neurons
    name = sources.atlas.heads["mood"].card.classes[0]
    view.label.value = name
    labels = re.findall(r'<span class="label">(.*?)</span>', view.texts.object)
    assert labels and set(labels) == {name}
    view.split.value = "test"
    assert "<li>" not in view.texts.object and "of 0" in view.texts.object
    view.label.value = ""
    assert "<li>" in view.texts.object and 'class="label"' not in view.texts.object
    rows = view._csv().getvalue().splitlines()
    assert len(rows) == 1 + view.texts.object.count("<li>") and all(
        ",test,," in r for r in rows[1:]
    )
    assert (
        view.export.filename
        == f"neuron-{view.layer.value}-{view.pooling.value}-{view.neuron.value}.csv"
    )
    view.task.value = "level"  # its own labels, and both choices begin anew
    assert list(view.label.options)[1:] == ["lower third", "middle third", "upper third"]
    assert (view.split.value, view.label.value) == ("", "")


def test_texts_are_found_and_explained(sources: Sources) -> None:
    view = Page(sources).texts
    view.query.value = "happy"
    assert "happy" in view.found.object and "?sample=" in view.found.object
    view.query.value = "<nothing>"
    assert "No stored text contains “&lt;nothing&gt;”" in view.found.object
    view.query.value = ""
    assert view.found.object == ""
    view.own_text.value = "an <b>angry</b> dog"
    assert "&lt;b&gt;angry" in view.sample.object and view.sample.object.count("<h3>") == 3
    view.show_sample(0)
    assert "contribution" in view.sample.object
    assert re.search(r"The 12 above carry \d+ % of the contributions", view.sample.object)
    assert re.search(r"all others \([\d,]+\)", view.sample.object)
    view.show_sample(10**6)
    assert "no sample at position 1000000" in view.sample.object


def test_the_map_is_drawn_and_says_which_texts_are_near(sources: Sources) -> None:
    pytest.importorskip("datashader", reason="needs the extra: salient-neurons[explore]")
    import holoviews as hv

    page = Page(sources, {"task": "mood", "layer": "1", "neuron": "7"})
    view = page.map
    assert view.source.value == ffn(1) and not view.plot.visible
    classes = len(sources.atlas.heads["mood"].card.classes)
    for colour, entries in (("mood", classes + 1), ("level", 0), (NEURON, 0)):
        view.colour.value = colour
        asyncio.run(view.draw())
        assert view.notice.object == "" and view.plot.visible and not view.bar.visible
        assert view.legend.object.count("<li>") == entries
        assert ("ramp" in view.legend.object) == (entries == 0)
        hv.render(view.plot.object, backend="bokeh")
    found = sources.text_map(ffn(1))
    view.show_near(*map(float, found.xy[3]))
    assert view.near.object.count("<li>") == 10
    assert sources.atlas.texts.ids(found.positions[3:4])[0] in view.near.object


def test_a_map_that_cannot_be_drawn_says_why(
    sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datashader", None)
    view = Page(sources).map
    asyncio.run(view.draw())
    assert "[explore]" in view.notice.object and not view.plot.visible
    assert not view.button.disabled and not view.bar.visible


def test_stored_peaks_are_outlined_without_the_model(tmp_path: Path, tiny_bert: Path) -> None:
    path = write_mood_run(tmp_path, tiny_bert)
    path.write_text(path.read_text().replace("[store]", "[store]\npeaks = true"))
    config = RunConfig.load(path)
    stages.extract(config)
    atlas = Atlas.open(config.store.path)
    places = TokenPlaces.for_store(atlas.store.schema)
    page = Page(Sources("mood", atlas, None, places))
    shown = page.neurons.texts.object
    assert shown.count('class="peak"') == shown.count("<mark") == 6 * 3
    assert "the outlined token is the one of the maximum" in shown
    assert "outlined" not in Page(Sources("mood", atlas, None)).neurons.texts.object


def test_addresses_are_read_with_care(sources: Sources) -> None:
    assert query_arguments({"a": [b"1", b"2"], "b": [b"\xff"], "c": []}) == {"a": "1", "c": ""}
    place = {"task": "level", "layer": "2", "pooling": "max", "neuron": "7", "texts": "90"}
    page = Page(sources, place | {"split": "val", "label": "upper third"})
    view = page.neurons
    assert view.chosen() == Neuron(2, "max", 7) and view.notice.object == ""
    assert (view.task.value, view.order.value) == ("level", "90")
    assert (view.split.value, view.label.value) == ("val", "upper third")
    # What the page shows then is an address that shows the same.
    again = dict(parse_qsl(view.address()[1:]))
    assert again == place | {"split": "val", "label": "upper third"}
    assert Page(sources, again).neurons.texts.object == view.texts.object
    page = Page(
        sources, {"layer": "99", "neuron": "7", "sample": "1", "task": "<b>", "texts": "12"}
    )
    for words in ("no layer 99", "task=&lt;b&gt;", "texts=12: cannot be chosen here; there are"):
        assert words in page.neurons.notice.object
    assert page.tab.value == "Texts" and "<h2>Layer" in page.neurons.heading.object


def test_the_browser_is_told_the_address_as_one_moves(sources: Sources) -> None:
    page = Page(sources, {"task": "level", "layer": "2", "pooling": "max", "neuron": "7"})
    page.neurons.neuron.value = 8
    assert page._place.value == ""  # nobody sees the page yet
    page.tell_place()
    assert page._place.value == "?task=level&layer=2&pooling=max&neuron=8"
    page.neurons.pooling.value = "mean"
    assert page._place.value == "?task=level&layer=2&pooling=mean&neuron=8"
    page = Page(sources, {"sample": "3", "task": "level"})
    page.tell_place()
    assert page._place.value == "?sample=3&task=level"
    strongest = page.texts.sample.object.split("Strongest neurons")[1]
    assert strongest.count("task=level&amp;layer=") == strongest.count("<a ") == 15
    assert 'href="?sample=' in page.neurons.texts.object
    assert page.neurons.texts.object.count("&amp;task=level") == 18


def test_a_neuron_without_values_has_an_empty_plot() -> None:
    assert len(next(iter(histogram(None, "x")))) == 0
    means, edges = np.array([np.nan]), np.linspace(0, 1, 5)
    one = Distribution(edges, (("a", 0),), np.zeros((1, 4)), means, 0.5)
    assert next(iter(histogram(one, "x"))).label == "a (0)"
    assert histogram_height(one) > histogram_height(None)


def test_a_remote_shell_is_told_of_the_tunnel() -> None:
    assert tunnel_line(5006, {}) is None
    line = tunnel_line(5007, {"SSH_CONNECTION": "10.0.0.2 50000 10.0.0.9 22"})
    assert line is not None and "ssh -L 5007:localhost:5007 10.0.0.9" in line
    assert "HOST" in str(tunnel_line(5007, {"SSH_CONNECTION": "?"}))


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["explore", str(tmp_path)]) == 2
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
