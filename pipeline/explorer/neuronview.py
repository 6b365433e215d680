"""The explorer's first tab: one neuron in each pooling, and the texts that say what it does.

    view = NeuronView(sources, moved=print)
    view.go(read_place({"layer": "3", "neuron": "417"}, schema, tasks))
    view.layout()

Each change of a widget shows the neuron again and tells the new address.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import missing
from pipeline.explorer.choices import (
    QUANTILES,
    at_quantiles,
    label_groups,
    quantile_label,
    splits,
    subset,
)
from pipeline.explorer.exports import texts_csv
from pipeline.explorer.places import Neuron, Place, address
from pipeline.explorer.sources import Sources
from pipeline.neurons import RANKINGS
from store.errors import SalientError

try:
    import panel as pn

    from pipeline.explorer.fragments import TextGroup, fragment, standing_html, text_rows
    from pipeline.explorer.panes import CONTROLS, button, chooser, html, link_button
    from pipeline.explorer.plots import histogram, histogram_height
except ImportError as error:
    raise missing(error.name, "the explorer", extra="explore") from None

Array = NDArray[Any]
CHOOSE = "choose …"
WHOLE = "from high to low"
ANY = "any"
NOTHING = ""
"""The value of what is no choice; Panel shows None as a blank."""
TEXTS_AT_EACH = 3
TEXTS_AT_ONE = 12
RANKING_LABELS = {name: ranking.label for name, ranking in RANKINGS.items()}


class NeuronView:
    """One session's widgets and panes of the first tab.

    Args:
        sources: what to ask.
        moved: told the address of each neuron that is shown.
    """

    def __init__(
        self, sources: Sources, *, moved: Callable[[str], object] = lambda _: None
    ) -> None:
        self.sources, self.moved = sources, moved
        self._quiet = False
        self._shown: dict[str, Array] = {}
        self._values: dict[str, Array] = {}
        atlas, schema = sources.atlas, sources.atlas.store.schema
        layers = sorted(schema.array("ffn").layers)
        self.task = chooser("Task", list(atlas.tasks) or ["none"], 190)
        self.layer = chooser("Layer", layers, 90)
        self.pooling = chooser("Texts by pooling", list(schema.poolings), 140)
        self.neuron = pn.widgets.IntInput(
            label="Neuron",
            start=0,
            end=schema.neuron_size - 1,
            value=0,
            width=110,
            stylesheets=[CONTROLS],
        )
        at = {WHOLE: NOTHING} | {f"the {TEXTS_AT_ONE} {_named(name)}": name for name in QUANTILES}
        self.order = chooser("Texts", at, 190)
        self.split = chooser("Of split", {ANY: NOTHING}, 110)
        self.label = chooser("With label", {ANY: NOTHING}, 190)
        self.important = chooser("Most important for the task", {CHOOSE: NOTHING}, 300)
        self.important.visible = bool(atlas.ranking.tasks)
        self.other_layer = chooser("In layer", layers, 90)
        self.correlate = button("Find correlated neurons", 210)
        self.export = pn.widgets.FileDownload(
            callback=self._csv,
            filename="texts.csv",
            label="Texts as CSV",
            width=150,
            stylesheets=[CONTROLS],
            align="end",
        )
        self.notice, self.heading, self.texts, self.correlated = (html() for _ in range(4))
        self.standings = {name: html() for name in schema.poolings}
        self.plots = {
            name: pn.pane.HoloViews(
                None, backend="bokeh", sizing_mode="stretch_width", height=320, linked_axes=False
            )
            for name in schema.poolings
        }
        for widget in (self.layer, self.pooling, self.neuron, self.order, self.split, self.label):
            widget.param.watch(lambda _: self.show(), "value")
        self.task.param.watch(lambda _: self._change_task(), "value")
        self.important.param.watch(lambda _: self._take_important(), "value")
        self.correlate.on_click(lambda _: self.show_correlated())

    def layout(self) -> Any:
        """The tab."""
        columns = [
            pn.Column(
                self.standings[name],
                self.plots[name],
                sizing_mode="stretch_width",
                styles={"flex": "1 1 420px", "min-width": "min(100%, 300px)"},
            )
            for name in self.standings
        ]
        return pn.Column(
            pn.FlexBox(
                self.task, self.important, self.layer, self.neuron, link_button(), align_items="end"
            ),
            self.heading,
            pn.FlexBox(*columns, gap="16px", align_items="start"),
            pn.FlexBox(
                self.pooling, self.order, self.split, self.label, self.export, align_items="end"
            ),
            self.texts,
            pn.FlexBox(self.other_layer, self.correlate, align_items="end"),
            self.correlated,
            sizing_mode="stretch_width",
        )

    # -- where one is -----------------------------------------------------------------------

    def chosen(self) -> Neuron:
        """The neuron that is shown, in the pooling whose texts are."""
        return Neuron(self.layer.value, self.pooling.value, int(self.neuron.value or 0))

    @property
    def chosen_task(self) -> str | None:
        """The task that is chosen; None where there is none."""
        return self.task.value if self.task.value in self.sources.atlas.tasks else None

    def address(self) -> str:
        """The arguments of the address that shows the same."""
        return address(
            task=self.chosen_task,
            neuron=self.chosen(),
            texts=self.order.value or None,
            split=self.split.value or None,
            label=self.label.value or None,
        )

    def go(self, place: Place) -> None:
        """Show what an address asks for, or else the first task's most important neuron."""
        problems = list(place.problems)
        with self._silently():
            if place.task is not None:
                self.task.value = place.task
            self._fill_choices()
            for widget, name in (
                (self.order, "texts"),
                (self.split, "split"),
                (self.label, "label"),
            ):
                problems += _choose(widget, name, getattr(place, name))
            if len(known := list(self.important.options.values())) > 1:
                self._set(known[1])
            if place.neuron is not None:
                self._set(place.neuron)
        self.show()
        self.notice.object = fragment("messages", problems)

    def _set(self, neuron: Neuron) -> None:
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

    def _change_task(self) -> None:
        if self._quiet:
            return
        with self._silently():
            self._fill_choices()
        self.show()

    def _fill_choices(self) -> None:
        """What can be chosen depends on the task."""
        atlas, task = self.sources.atlas, self.chosen_task
        self.split.options = {ANY: NOTHING} | {
            name: name for name in splits(atlas.texts, task or "")
        }
        labels = label_groups(atlas.texts, task) if task else []
        self.label.options = {ANY: NOTHING} | {name: name for name, _ in labels}
        self.split.value = self.label.value = NOTHING
        rows = atlas.most_important(task) if task in atlas.ranking.tasks else []
        self.important.options = {CHOOSE: NOTHING} | {
            f"layer {n.layer} · {n.pooling} · {n.neuron} ({share:.2%} of its layer)": n
            for n, share in rows
        }

    def _take_important(self) -> None:
        if not self._quiet and isinstance(self.important.value, Neuron):
            self._set(self.important.value)
            self.show()

    # -- what is shown ----------------------------------------------------------------------

    def show(self) -> None:
        """The chosen neuron in each pooling, and its texts."""
        if self._quiet:
            return
        neuron, task = self.chosen(), self.chosen_task
        with self._silently():
            listed = neuron in self.important.options.values()
            self.important.value = neuron if listed else NOTHING
        self.correlated.object = self.notice.object = ""
        try:
            self._values = self.sources.atlas.in_each_pooling(neuron)
            self.heading.object = fragment("heading", neuron)
            for pooling, values in self._values.items():
                self._show_pooling(replace(neuron, pooling=pooling), values, task)
            self._show_texts(neuron, self._values[neuron.pooling], task)
        except SalientError as error:
            self.notice.object = fragment("message", str(error))
        self.moved(self.address())

    def _show_pooling(self, neuron: Neuron, values: Array, task: str | None) -> None:
        atlas = self.sources.atlas
        chosen = neuron.pooling == self.pooling.value
        self.standings[neuron.pooling].object = standing_html(
            atlas, neuron, task, RANKING_LABELS, chosen=chosen
        )
        name = f"{neuron.pooling} activation of neuron {neuron.neuron}"
        found = atlas.distribution(values, task)
        self.plots[neuron.pooling].height = histogram_height(found)
        self.plots[neuron.pooling].object = histogram(found, name)

    def _show_texts(self, neuron: Neuron, values: Array, task: str | None) -> None:
        atlas, sources = self.sources.atlas, self.sources
        one = str(self.order.value)
        names, count = ([one], TEXTS_AT_ONE) if one else ([*QUANTILES], TEXTS_AT_EACH)
        split, label = self.split.value or None, self.label.value or None
        chosen = subset(atlas.texts, task, split=split, label=label)
        self._shown = dict(at_quantiles(values, chosen, names, count))
        rows = text_rows(
            atlas,
            sources.reader,
            neuron,
            np.concatenate([*self._shown.values()]),
            values,
            task,
            places=sources.places,
        )
        groups, first = [], 0
        for name, positions in self._shown.items():
            own, first = rows[first : first + len(positions)], first + len(positions)
            groups.append(TextGroup(f"{quantile_label(name).capitalize()}", own))
        number = int((chosen & np.isfinite(values)).sum())
        caption = f"Texts by {neuron.pooling} activation, of {number:,}{sources.highlights}"
        self.texts.object = fragment("texts", groups, caption, task)
        self.export.filename = f"neuron-{neuron.layer}-{neuron.pooling}-{neuron.neuron}.csv"

    def _csv(self) -> io.StringIO:
        text = texts_csv(
            self.sources.atlas, self.chosen_task, self.chosen(), self._shown, self._values
        )
        return io.StringIO(text)

    def show_correlated(self) -> None:
        """Correlated neurons in the chosen layer."""
        try:
            rows = self.sources.atlas.correlated(self.chosen(), layer=self.other_layer.value)
            self.correlated.object = fragment("correlated", rows, self.chosen_task)
        except SalientError as error:
            self.correlated.object = fragment("message", str(error))


def _named(name: str) -> str:
    return f"nearest to {name} %" if name.isdecimal() else name


def _choose(widget: Any, name: str, wanted: str | None) -> list[str]:
    """Set a choice; what is wrong with it."""
    known: Mapping[str, Any] = widget.options
    if wanted is None or wanted in known.values():
        widget.value = wanted or NOTHING
        return []
    there = ", ".join(str(value) for value in known.values() if value != NOTHING) or "none"
    return [f"{name}={wanted[:40]}: cannot be chosen here; there are: {there}"]
