"""The explorer's plots: a neuron's histograms, and the map of texts.

    histogram(atlas.distribution(values, "mood"), "max activation of neuron 417")
    map_plot(found, Colouring.classes("mood", names, codes))

Text and axes take their colours from the page (see :func:`pipeline.report.css`), lines and points
those of :func:`pipeline.report.style_of`, which are the same in light and in dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.errors import missing
from pipeline.explorer.atlas import Distribution
from pipeline.explorer.projection import TextMap

try:
    import holoviews as hv
    from bokeh.models import HoverTool

    from pipeline.report import LEGEND, UNCLEARED, short_label, style_of
except ImportError as error:
    raise missing(error.name, "the explorer", extra="explore") from None

Array = NDArray[Any]
hv.renderer("bokeh")  # options can be set only for backends that are loaded
NUM_COLOURS = 7
"""Classes with a colour of their own on the map; further ones are drawn alike."""
FEW_TEXTS = 20_000
"""Fewer are drawn larger on the map."""
OTHER = "#8a919c"
"""Colour of texts without a label, and of further classes."""
VALUE_COLOURS = ["#7a3fb0", "#3b6fd4", "#1f9e89", "#7fb32a", "#e69f00"]
"""From low to high; none of them is lost on a light or on a dark ground."""


def _finish(plot: Any, _: Any) -> None:
    figure = plot.state
    figure.stylesheets = [*figure.stylesheets, UNCLEARED]
    figure.toolbar.logo = None
    for legend in figure.legend:
        legend.location, legend.margin = "top_left", 0
        legend.stylesheets = [".bk-label { color: var(--ink) !important; }"]


def _hide_hover(plot: Any, _: Any) -> None:
    for tool in plot.state.tools:  # its mark would lie beside the plot, with no button to belong to
        if isinstance(tool, HoverTool):
            tool.visible = False


def _keep_still(plot: Any, _: Any) -> None:
    toolbar = plot.state.toolbar  # the page must scroll and not the plot move
    toolbar.active_scroll = toolbar.active_drag = toolbar.active_inspect = None


def histogram_height(found: Distribution | None) -> int:
    """Pixels that the plot needs: its legend has a line for each class."""
    return 260 + 24 * (0 if found is None else len(found.names))


def histogram(found: Distribution | None, name: str) -> Any:
    """Histograms as lines, one per class.

    Args:
        found: what to draw; None for nothing.
        name: of the axis of activations.
    """
    parts: list[Any] = []
    if found is None:
        parts.append(hv.Curve([], name, "share of texts").opts(backend="bokeh"))
    else:
        middles = (found.edges[1:] + found.edges[:-1]) / 2
        for i, ((label, count), share) in enumerate(zip(found.names, found.shares, strict=True)):
            mean = "" if np.isnan(found.means[i]) else f", mean {found.means[i]:.3f}"
            parts += _line(i, f"{short_label(label)} ({count:,}{mean})", name, middles, share)
    correlation = None if found is None else found.correlation
    title = "" if correlation is None else f"correlation with the value {correlation:+.3f}"
    return hv.Overlay(parts).opts(
        hv.opts.Overlay(
            backend="bokeh",
            title=title,
            responsive=True,
            height=histogram_height(found),
            toolbar="right",
            default_tools=["save", "reset", "box_zoom", "pan"],
            active_tools=[],  # the page must scroll and not the plot move
            legend_position="bottom",
            legend_cols=1,
            legend_opts=LEGEND,
            show_legend=True,
            padding=0.03,
            hooks=[_finish, _hide_hover],
        )
    )


def _line(number: int, label: str, name: str, middles: Array, share: Array) -> list[Any]:
    """A histogram's line, and marks on every fourth of its bins; both with one legend entry."""
    style = style_of(number)
    curve = hv.Curve((middles, share), name, "share of texts", label=label).opts(
        backend="bokeh",
        color=style.colour,
        line_dash=list(style.dash) or "solid",
        interpolation="steps-mid",
        line_width=2,
        tools=["hover"],
    )
    some = slice(number % 4, None, 4)
    marks = hv.Scatter((middles[some], share[some]), name, "share of texts", label=label).opts(
        backend="bokeh", color=style.colour, marker=style.mark, size=7
    )
    return [curve, marks]


@dataclass(frozen=True)
class Colouring:
    """What the points of a map are coloured by.

    Attributes:
        title: in words.
        names: of the classes, in the order of ``codes``; none for values.
        codes: ``(samples,)`` index of each text's class, -1 without one; or values and NaN.
    """

    title: str
    names: tuple[str, ...]
    codes: Array

    def legend(self) -> list[tuple[str, str]]:
        """Name and colour of each class; those without a label last."""
        entries = [(name, colour) for name, colour in self._named() if name]
        return [*entries, ("no label shown", OTHER)]

    def limits(self) -> tuple[float, float]:
        """Values at the ends of the scale; all but a few of the lowest and highest are between."""
        known = self.codes[np.isfinite(self.codes)]
        if not len(known):
            return 0.0, 1.0
        low, high = (float(value) for value in np.quantile(known, [0.005, 0.995]))
        return low, max(high, low + 1e-6)

    def _named(self) -> list[tuple[str, str]]:
        return [
            (name, style_of(i).colour if i < NUM_COLOURS else OTHER)
            for i, name in enumerate(self.names)
        ]


def compile_map() -> None:
    """Have what shades maps compiled, for some seconds; may run in a thread, before the first map.

    Raises:
        MissingExtra: Datashader is not installed.
    """
    try:
        import datashader
        from datashader import transfer_functions
    except ImportError as error:
        raise missing(error.name, "the map of texts", extra="explore") from None
    place = np.zeros(1, np.float32)
    for colour, reduction in (
        (pd.Categorical.from_codes([0], pd.Index(["0", "1"])), datashader.count_cat("colour")),
        (np.zeros(1, np.float32), datashader.mean("colour")),
    ):
        frame = pd.DataFrame({"x": place, "y": place, "colour": colour})
        ranges = {"x_range": (-1.0, 1.0), "y_range": (-1.0, 1.0)}
        drawn = datashader.Canvas(8, 8, **ranges).points(frame, "x", "y", reduction)
        keys = {"color_key": ["#000000", "#ffffff"]} if drawn.ndim == 3 else {}
        transfer_functions.dynspread(transfer_functions.shade(drawn, **keys))


def map_plot(found: TextMap, colouring: Colouring, *, streams: Sequence[Any] = ()) -> Any:
    """The map, shaded anew whenever it is moved; so many texts are too many for a browser.

    Args:
        found: where the texts lie.
        colouring: how they are told apart.
        streams: of HoloViews, that are to hear of the plot.

    Raises:
        MissingExtra: Datashader is not installed.
    """
    try:
        import datashader
        from holoviews.operation.datashader import dynspread, rasterize, shade, spread
    except ImportError as error:
        raise missing(error.name, "the map of texts", extra="explore") from None
    x, y = (f"direction {i} ({s:.0%} of the variance)" for i, s in enumerate(found.explained, 1))
    codes = colouring.codes[found.positions]
    frame = pd.DataFrame({x: found.xy[:, 0], y: found.xy[:, 1]})
    left_right, low_high = found.window()
    if colouring.names:
        whole = np.where(codes < 0, len(colouring.names), codes).astype(int)
        keys = [str(i) for i in range(len(colouring.names) + 1)]
        frame["colour"] = pd.Categorical.from_codes(whole, pd.Index(keys))
        colours = [*(colour for _, colour in colouring._named()), OTHER]
        points = hv.Points(frame, [x, y], ["colour"])
        drawn = rasterize(points, aggregator=datashader.count_cat("colour"))
        drawn = shade(drawn, color_key=dict(zip(keys, colours, strict=True)), min_alpha=130)
    else:
        frame["colour"] = codes.astype(np.float32)
        points = hv.Points(frame.dropna(), [x, y], ["colour"])
        drawn = rasterize(points, aggregator=datashader.mean("colour"))
        drawn = shade(drawn, cmap=VALUE_COLOURS, cnorm="linear", clims=colouring.limits())
    if len(frame) < FEW_TEXTS:
        drawn = spread(drawn, px=1)
    drawn = dynspread(drawn, max_px=3, threshold=0.7)
    for stream in streams:
        stream.source = drawn
    return drawn.opts(
        backend="bokeh",
        responsive=True,
        height=520,
        xlim=left_right,
        ylim=low_high,
        toolbar="right",
        default_tools=["save", "reset", "box_zoom", "pan", "wheel_zoom"],
        active_tools=[],
        show_legend=False,  # it would say the keys; the page has one with the names
        hooks=[_finish, _keep_still],
        title=f"{found.source.label}, by {short_label(colouring.title)}",
    )
