"""The explorer's map of texts: drawn when it is asked for, shaded anew as one moves in it.

view = MapView(sources, chosen=lambda: Neuron(3, "max", 417))
view.layout()
await view.draw()
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.errors import missing
from pipeline.explorer.places import Neuron
from pipeline.explorer.projection import TextMap
from pipeline.explorer.sources import Sources
from store.errors import SalientError
from store.layout import Source, stored_sources

try:
    import holoviews as hv
    import panel as pn

    from pipeline.explorer.fragments import fragment
    from pipeline.explorer.panes import button, chooser, html
    from pipeline.explorer.plots import VALUE_COLOURS, Colouring, compile_map, map_plot
except ImportError as error:
    raise missing(error.name, "the explorer", extra="explore") from None

NEURON = "the neuron of the first tab"
NUM_NEAR = 10
SHADING = "Drawing; the first map of a session takes some seconds more."
ABOUT = (
    "Each point is a text, or several. The axes are the two directions in which the chosen layer's"
    " activations vary most (principal components): texts that lie together activate it alike."
    " Click for the texts nearest to a place; zoom with the tools at the right."
)


class MapView:
    """One session's widgets and panes of the map.

    Args:
        sources: what to ask.
        chosen: the neuron of the first tab.
    """

    def __init__(self, sources: Sources, *, chosen: Callable[[], Neuron]) -> None:
        self.sources, self._chosen = sources, chosen
        self._done = 0.0
        self._map: TextMap | None = None
        schema = sources.atlas.store.schema
        layers = [s for s in stored_sources(schema) if s.site in ("ffn", "hidden")]
        self.source = chooser("Activations of", {s.label: s for s in layers}, 190)
        self.colour = chooser("Coloured by", [*self._colours(), NEURON], 260)
        self.button = button("Draw the map", 150, main=True)
        self.bar = pn.indicators.Progress(
            label="Progress", value=0, max=100, sizing_mode="stretch_width", visible=False
        )
        self.notice, self.legend, self.near = (html() for _ in range(3))
        self.plot = pn.pane.HoloViews(
            None, backend="bokeh", sizing_mode="stretch_width", height=520, visible=False
        )
        self.button.on_click(self.draw)

    def layout(self) -> Any:
        """The tab."""
        return pn.Column(
            html(fragment("about", ABOUT)),
            pn.FlexBox(self.source, self.colour, self.button, align_items="end"),
            self.bar,
            self.notice,
            self.legend,
            self.plot,
            self.near,
            sizing_mode="stretch_width",
        )

    async def draw(self, _: object = None) -> None:
        """Make the map, or take one made before, and colour it; the page goes on meanwhile."""
        if self.button.disabled:
            return
        self.button.disabled, self.bar.value, self._done = True, 0, 0.0
        self.bar.visible = True
        self.notice.object = self.near.object = ""
        try:
            source = self.source.value
            work = asyncio.create_task(asyncio.to_thread(self._make, source))
            while not work.done():
                await asyncio.wait([work], timeout=0.25)
                self.bar.value = round(100 * self._done)
                if self._done >= 1:
                    self.notice.object = fragment("message", SHADING)
            self.show(await work)
            self.notice.object = ""
        except SalientError as error:
            self.notice.object = fragment("message", str(error))
        finally:
            self.bar.visible = self.button.disabled = False

    def _make(self, source: Source) -> TextMap:
        found = self.sources.text_map(source, self._progress)
        compile_map()
        return found

    def _progress(self, done: float) -> None:
        self._done = done

    def show(self, found: TextMap) -> None:
        """A map that has been made, coloured as chosen."""
        colouring = self.colouring()
        tap = hv.streams.Tap(x=None, y=None)
        drawn = map_plot(found, colouring, streams=[tap])
        tap.add_subscriber(self._take_tap)
        self._map = found
        self.plot.object = drawn
        self.plot.visible = True
        if colouring.names:
            self.legend.object = fragment("legend", colouring.legend())
        else:
            low, high = colouring.limits()
            self.legend.object = fragment("scale", colouring.title, low, high, VALUE_COLOURS)

    def _take_tap(self, x: float | None, y: float | None) -> None:
        if x is not None and y is not None and self._map is not None:
            self.show_near(x, y)

    def show_near(self, x: float, y: float) -> None:
        """The texts nearest to a place of the map."""
        assert self._map is not None
        texts = self.sources.atlas.texts
        positions = self._map.nearest(x, y, NUM_NEAR)
        task = self._task()
        labels = texts.label_names(task, positions) if task else [""] * len(positions)
        rows = [
            {"position": int(at), "id": id, "text": text or "(not kept)", "label": label}
            for at, id, text, label in zip(
                positions, texts.ids(positions), texts.at(positions), labels, strict=True
            )
        ]
        self.near.object = fragment("near", rows, self._task())

    # -- colours ----------------------------------------------------------------------------

    def _colours(self) -> dict[str, tuple[str, int | None]]:
        """What people choose -> the task, and of label sets which label."""
        found: dict[str, tuple[str, int | None]] = {}
        for task in self.sources.atlas.store.tasks():
            labels = self.sources.atlas.texts.labels(task)
            if labels is None:
                continue
            if labels.values.ndim == 2:
                found |= {f"{task}: {name}": (task, i) for i, name in enumerate(labels.classes)}
            else:
                found[task] = (task, None)
        return found

    def _task(self) -> str | None:
        own = self._colours().get(self.colour.value)
        return own[0] if own else None

    def colouring(self) -> Colouring:
        """The chosen colours of all positions."""
        atlas, chosen = self.sources.atlas, self.colour.value
        own = self._colours().get(chosen)
        if own is None:
            neuron = self._chosen()
            title = f"layer {neuron.layer}, {neuron.pooling}, neuron {neuron.neuron}"
            return Colouring(title, (), atlas.values(neuron))
        task, label = own
        labels = atlas.texts.labels(task)
        assert labels is not None
        if not labels.classes:
            return Colouring(task, (), labels.values)
        values = labels.values if label is None else labels.values[:, label]
        names = labels.classes
        if label is not None:
            names = (f"not {names[label]}", names[label])
        return Colouring(chosen, names, np.where(np.isfinite(values), values, -1).astype(np.int64))
