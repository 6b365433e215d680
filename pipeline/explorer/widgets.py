"""The explorer's page: one session's widgets and panes, and what each change of them shows.

    Page(Sources("demo", Atlas.open(store)), {"layer": "3", "neuron": "417"}).view()

:mod:`pipeline.explorer.atlas` answers, :mod:`pipeline.explorer.fragments` turns answers into HTML,
and this module wires them to Panel's widgets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from pipeline.errors import ConfigError, missing
from pipeline.explorer.atlas import Atlas, Distribution, Neuron
from pipeline.neurons import RANKINGS
from store.errors import SalientError

try:
    import holoviews as hv
    import panel as pn

    from pipeline.explorer.fragments import explain_html, fragment, text_rows
    from pipeline.explorer.tokenmaps import TokenPlaces, TokenReader
    from pipeline.report import LEGEND, short_label
except ImportError as error:
    raise missing(error.name, "the explorer", extra="explore") from None

hv.renderer("bokeh")  # options can be set only for backends that are loaded
TOP_TEXTS = 12
CHOOSE = "choose …"
RANKING_LABELS = {name: ranking.label for name, ranking in RANKINGS.items()}
PALETTE = ("#1f6fb4", "#d9730d", "#2a8f4c", "#b3261e", "#7a4fb5", "#8a6d3b", "#5b626d", "#c2418d")
STYLE = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Sources:
    """What a session's page asks; shared by all sessions."""

    name: str
    atlas: Atlas
    reader: TokenReader | None
    places: TokenPlaces | None = None

    @property
    def highlights(self) -> str:
        """What the caption of top texts says of their colours."""
        if self.places is not None:
            return "; the outlined token is the one of the maximum"
        if self.reader is not None:
            return "; colour is the activation at each token, the outlined one is the maximum"
        return ""


class Page:
    """One session's widgets and panes.

    Args:
        sources: what to ask.
        place: the arguments of the page's address: which neuron or sample to show first.
    """

    def __init__(self, sources: Sources, place: Mapping[str, str] | None = None) -> None:
        self.sources = sources
        atlas, schema = sources.atlas, sources.atlas.store.schema
        self._quiet = False
        layers = sorted(schema.array("ffn").layers)
        tasks = list(atlas.tasks)
        self.task = pn.widgets.Select(label="Task", options=tasks or ["none"], width=190)
        self.layer = pn.widgets.Select(label="Layer", options=layers, width=90)
        self.pooling = pn.widgets.Select(label="Pooling", options=list(schema.poolings), width=100)
        self.neuron = pn.widgets.IntInput(
            label="Neuron", start=0, end=schema.neuron_size - 1, value=0, width=110
        )
        self.order = pn.widgets.Select(label="Texts", options=["highest", "lowest"], width=110)
        self.important = pn.widgets.Select(
            label="Most important for the task",
            options={CHOOSE: None},
            width=290,
            visible=bool(atlas.ranking.tasks),
        )
        self.other_layer = pn.widgets.Select(label="In layer", options=layers, width=90)
        self.correlate = pn.widgets.Button(label="Find correlated neurons", width=210)
        self.query = pn.widgets.TextInput(
            label="Find stored texts", placeholder="words or an id; Enter", min_width=240
        )
        self.own_text = pn.widgets.TextInput(
            label="Or explain any text", placeholder="write; Enter", min_width=240
        )
        self.notice, self.ranks, self.texts, self.correlated, self.found, self.sample = (
            pn.pane.HTML("", stylesheets=[STYLE], sizing_mode="stretch_width") for _ in range(6)
        )
        self.plot = pn.pane.HoloViews(
            None, backend="bokeh", sizing_mode="stretch_width", height=340, linked_axes=False
        )
        self.tabs = pn.Tabs(
            ("Neurons", self._neuron_tab()),
            ("Texts", self._text_tab()),
            sizing_mode="stretch_width",
            dynamic=False,
        )
        self._go_to(place or {})
        for widget in (self.layer, self.pooling, self.neuron, self.order):
            widget.param.watch(lambda _: self.show_neuron(), "value")
        self.task.param.watch(lambda _: self._change_task(), "value")
        self.important.param.watch(lambda _: self._take_important(), "value")
        self.correlate.on_click(lambda _: self.show_correlated())
        self.query.param.watch(lambda _: self.show_found(), "value")
        self.own_text.param.watch(lambda _: self.explain_own(), "value")

    # -- layout -----------------------------------------------------------------------------

    def view(self) -> Any:
        """The whole page."""
        atlas, schema = self.sources.atlas, self.sources.atlas.store.schema
        facts = (
            f"{atlas.store.num_living:,} texts, {len(schema.array('ffn').layers)} layers of"
            f" {schema.neuron_size:,} neurons, pooled by {' and '.join(schema.poolings)}"
        )
        header = fragment("header", self.sources.name, facts, atlas.notes)
        return pn.Column(
            pn.pane.HTML(header, stylesheets=[STYLE], sizing_mode="stretch_width"),
            self.notice,
            self.tabs,
            sizing_mode="stretch_width",
        )

    def _neuron_tab(self) -> Any:
        return pn.Column(
            pn.FlexBox(self.task, self.important),
            pn.FlexBox(self.layer, self.pooling, self.neuron, self.order),
            self.ranks,
            self.plot,
            self.texts,
            pn.FlexBox(self.other_layer, self.correlate, align_items="end"),
            self.correlated,
            sizing_mode="stretch_width",
        )

    def _text_tab(self) -> Any:
        return pn.Column(
            pn.FlexBox(self.query, self.own_text),
            self.found,
            self.sample,
            sizing_mode="stretch_width",
        )

    # -- the address ------------------------------------------------------------------------

    def _go_to(self, place: Mapping[str, str]) -> None:
        with self._silently():
            if place.get("task") in self.task.options:
                self.task.value = place["task"]
            self._fill_important()
            if len(known := list(self.important.options.values())) > 1:
                self._set_neuron(known[1])
            if (asked := _neuron_of(place)) is not None:
                try:
                    self.sources.atlas.check(asked)
                    self._set_neuron(asked)
                except ConfigError as error:
                    self.notice.object = fragment("message", str(error))
        self.show_neuron()
        if (sample := _number(place, "sample")) is not None:
            self.tabs.active = 1
            self.show_sample(sample)

    def _set_neuron(self, neuron: Neuron) -> None:
        with self._silently():
            self.layer.value = self.other_layer.value = neuron.layer
            self.pooling.value = neuron.pooling
            self.neuron.value = neuron.neuron

    @contextmanager
    def _silently(self) -> Iterator[None]:
        """Change widgets without an answer to each change."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    # -- neurons ----------------------------------------------------------------------------

    def _change_task(self) -> None:
        with self._silently():
            self._fill_important()
        self.show_neuron()

    def _fill_important(self) -> None:
        atlas = self.sources.atlas
        if self.task.value not in atlas.ranking.tasks:
            self.important.options = {CHOOSE: None}
            return
        rows = atlas.most_important(self.task.value)
        self.important.options = {CHOOSE: None} | {
            f"layer {n.layer} · {n.pooling} · {n.neuron} ({share:.2%} of its layer)": n
            for n, share in rows
        }

    def _take_important(self) -> None:
        if not self._quiet and isinstance(self.important.value, Neuron):
            self._set_neuron(self.important.value)
            self.show_neuron()

    def _chosen(self) -> Neuron:
        return Neuron(self.layer.value, self.pooling.value, int(self.neuron.value or 0))

    def show_neuron(self) -> None:
        """Ranks, distribution and top texts of the chosen neuron."""
        if self._quiet:
            return
        sources, neuron = self.sources, self._chosen()
        atlas = sources.atlas
        with self._silently():
            listed = neuron in self.important.options.values()
            self.important.value = neuron if listed else None
        task = self.task.value if self.task.value in atlas.tasks else None
        self.correlated.object = ""
        try:
            values = atlas.values(neuron)
            self.ranks.object = fragment("ranks", neuron, atlas.ranks(neuron), RANKING_LABELS)
            self.plot.object = distribution_plot(atlas.distribution(values, task), neuron)
            lowest = self.order.value == "lowest"
            positions = atlas.top(values, TOP_TEXTS, lowest=lowest)
            rows = text_rows(
                atlas, sources.reader, neuron, positions, values, task, places=sources.places
            )
            caption = f"Texts with the {self.order.value} activation{sources.highlights}"
            self.texts.object = fragment("texts", rows, caption)
        except SalientError as error:
            self.ranks.object = fragment("message", str(error))

    def show_correlated(self) -> None:
        """Correlated neurons in the chosen layer."""
        try:
            rows = self.sources.atlas.correlated(self._chosen(), layer=self.other_layer.value)
            self.correlated.object = fragment("correlated", rows, self.task.value)
        except SalientError as error:
            self.correlated.object = fragment("message", str(error))

    # -- texts ------------------------------------------------------------------------------

    def show_found(self) -> None:
        """Stored texts that match the search."""
        atlas, query = self.sources.atlas, str(self.query.value)
        positions = atlas.texts.find(query)
        texts = [text or "(not kept)" for text in atlas.texts.at(positions)]
        rows = [
            {"position": position, "id": id, "text": text}
            for position, id, text in zip(positions, atlas.texts.ids(positions), texts, strict=True)
        ]
        self.found.object = fragment("found", rows, query) if query.strip() else ""

    def show_sample(self, position: int) -> None:
        """Why each task decides as it does about one stored text."""
        atlas = self.sources.atlas
        if atlas.texts.has(position):
            html = explain_html(atlas, self.sources.reader, position=position)
        else:
            html = fragment("message", f"There is no sample at position {position}.")
        self.sample.object = html

    def explain_own(self) -> None:
        """The same for the text that was typed."""
        text = str(self.own_text.value)
        if text.strip():
            self.sample.object = explain_html(self.sources.atlas, self.sources.reader, text=text)


def _number(place: Mapping[str, str], name: str) -> int | None:
    text = place.get(name, "")
    return int(text) if text.isdecimal() and len(text) < 16 else None


def _neuron_of(place: Mapping[str, str]) -> Neuron | None:
    layer, neuron = _number(place, "layer"), _number(place, "neuron")
    if layer is None or neuron is None:
        return None
    return Neuron(layer, place.get("pooling", "mean"), neuron)


def distribution_plot(found: Distribution | None, neuron: Neuron) -> Any:
    """The histograms as lines, one per class."""
    if found is None:
        return hv.Curve([]).opts(backend="bokeh", responsive=True, height=300)
    x, y = f"activation of neuron {neuron.neuron}", "share of samples"
    middles = (found.edges[1:] + found.edges[:-1]) / 2
    parts = []
    for i, ((name, count), share) in enumerate(zip(found.names, found.shares, strict=True)):
        mean = "" if np.isnan(found.means[i]) else f", mean {found.means[i]:.3f}"
        label = f"{short_label(name)} ({count:,}{mean})"
        curve = hv.Curve((middles, share), x, y, label=label)
        parts.append(
            curve.opts(
                backend="bokeh",
                color=PALETTE[i % len(PALETTE)],
                interpolation="steps-mid",
                line_width=2,
                tools=["hover"],
            )
        )
    title = (
        "" if found.correlation is None else f"correlation with the value {found.correlation:+.3f}"
    )
    return hv.Overlay(parts).opts(
        hv.opts.Overlay(
            backend="bokeh",
            title=title,
            responsive=True,
            height=340,
            toolbar=None,
            active_tools=[],
            legend_position="bottom",
            legend_cols=1,
            legend_opts=LEGEND,
            show_legend=True,
            padding=0.03,
        )
    )
