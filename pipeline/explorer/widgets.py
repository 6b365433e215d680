"""The explorer's page: one session's tabs, and the address that they are at.

    Page(Sources("demo", Atlas.open(store), None), {"layer": "3", "neuron": "417"}).view()

:mod:`pipeline.explorer.atlas` answers, :mod:`pipeline.explorer.fragments` turns answers into HTML,
:mod:`pipeline.explorer.neuronview` and :mod:`pipeline.explorer.mapview` are two of the tabs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline.errors import missing
from pipeline.explorer.places import read_place, text_address
from pipeline.explorer.sources import Sources
from store.layout import ffn

try:
    import panel as pn

    from pipeline.explorer.fragments import explain_html, fragment
    from pipeline.explorer.mapview import MapView
    from pipeline.explorer.neuronview import NeuronView
    from pipeline.explorer.panes import field, html, place_bar, tab_bar
except ImportError as error:
    raise missing(error.name, "the explorer", extra="explore") from None


class TextView:
    """One session's widgets and panes of the tab of texts.

    Args:
        sources: what to ask.
        task: the one that is chosen in the first tab.
    """

    def __init__(self, sources: Sources, *, task: Callable[[], str | None] = lambda: None) -> None:
        self.sources, self._task = sources, task
        self.query = field("Find stored texts", "words or an id; Enter")
        self.own_text = field("Or explain any text", "write; Enter")
        self.found, self.sample = html(), html()
        self.query.param.watch(lambda _: self.show_found(), "value")
        self.own_text.param.watch(lambda _: self.explain_own(), "value")

    def layout(self) -> Any:
        """The tab."""
        return pn.Column(
            pn.FlexBox(self.query, self.own_text),
            self.found,
            self.sample,
            sizing_mode="stretch_width",
        )

    def show_found(self) -> None:
        """Stored texts that match the search."""
        atlas, query = self.sources.atlas, str(self.query.value)
        positions = atlas.texts.find(query)
        texts = [text or "(not kept)" for text in atlas.texts.at(positions)]
        rows = [
            {"position": position, "id": id, "text": text, "label": ""}
            for position, id, text in zip(positions, atlas.texts.ids(positions), texts, strict=True)
        ]
        html = fragment("found", rows, query, self._task()) if query.strip() else ""
        self.found.object = html

    def show_sample(self, position: int) -> None:
        """Why each task decides as it does about one stored text."""
        atlas = self.sources.atlas
        if atlas.texts.has(position):
            self.sample.object = explain_html(
                atlas, self.sources.reader, position=position, task=self._task()
            )
        else:
            wrong = f"There is no sample at position {position}."
            self.sample.object = fragment("message", wrong)

    def explain_own(self) -> None:
        """The same for the text that was typed."""
        text = str(self.own_text.value)
        if text.strip():
            atlas, reader = self.sources.atlas, self.sources.reader
            self.sample.object = explain_html(atlas, reader, text=text, task=self._task())


class Page:
    """One session's page.

    Args:
        sources: what to ask.
        arguments: of the page's address: which neuron or text to show first.
    """

    def __init__(self, sources: Sources, arguments: Mapping[str, str] | None = None) -> None:
        self.sources = sources
        self._address, self._open = "", False
        self._place = place_bar()
        self.neurons = NeuronView(sources, moved=self._move)
        self.texts = TextView(sources, task=lambda: self.neurons.chosen_task)
        self.map = MapView(sources, chosen=self.neurons.chosen)
        # Not Panel's tabs, which no keyboard reaches.
        views: dict[str, Any] = {"Neurons": self.neurons, "Texts": self.texts, "Map": self.map}
        self._layouts = {name: view.layout() for name, view in views.items()}
        self.tab = tab_bar([*self._layouts])
        self._body = pn.Column(sizing_mode="stretch_width")
        self.tab.param.watch(lambda _: self._turn(), "value")
        self._turn()
        self.go(arguments or {})

    def view(self) -> Any:
        """The whole page."""
        atlas, schema = self.sources.atlas, self.sources.atlas.store.schema
        facts = (
            f"{atlas.store.num_living:,} texts, {len(schema.array('ffn').layers)} layers of"
            f" {schema.neuron_size:,} neurons, pooled by {' and '.join(schema.poolings)}"
        )
        header = fragment("header", self.sources.name, facts, atlas.notes)
        return pn.Column(
            html(header),
            self.neurons.notice,
            self.tab,
            self._body,
            self._place,
            sizing_mode="stretch_width",
        )

    def go(self, arguments: Mapping[str, str]) -> None:
        """Show what an address asks for."""
        atlas = self.sources.atlas
        place = read_place(arguments, atlas.store.schema, atlas.tasks)
        self.neurons.go(place)
        self.map.source.value = ffn(self.neurons.chosen().layer)
        if place.sample is not None:
            self._address = text_address(place.sample, task=place.task)
            self.tab.value = "Texts"
            self.texts.show_sample(place.sample)

    def _turn(self) -> None:
        self._body.objects = [self._layouts[self.tab.value]]

    def tell_place(self) -> None:
        """From now on the browser shows the address of what is shown."""
        self._open = True
        self._place.value = self._address

    def _move(self, address: str) -> None:
        self._address = address
        if self._open:
            self.tell_place()
