"""Charts drawn once, with HoloViews, and rendered by Bokeh for a page or Matplotlib for a file.

    chart = line_chart([Series("test", [0, 1], [0.6, 0.7], style_of(0))], "blocks", "accuracy")
    figure = Figure("by-layer", "Score by layer", "How to read it.", chart)
    write_image(figure, Path("by-layer.svg"))       # Matplotlib; PNG or SVG by the suffix
    bokeh_model(figure)                             # to embed in a page
    legend_of(figure)                               # what its lines and marks are called

Elements are styled for both backends when they are made. Legends are drawn beside a plot, never in
it: by the page, or below a file's axes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pipeline.errors import missing
from pipeline.report.palette import BLACK, GREY, MATPLOTLIB_MARKS, YELLOW, Style

try:
    import holoviews as hv
except ImportError as error:
    raise missing(error.name, "a figure", extra="report") from None

for _backend in ("bokeh", "matplotlib"):  # options can be set only for backends that are loaded
    hv.renderer(_backend)

Array = NDArray[Any]
MAX_WRITTEN = 14
"""Classes up to which numbers are written into a matrix's cells."""
MAX_LABEL = 18
"""Characters of a class's name on an axis."""
THRESHOLD = Style(GREY, (4, 3), "")
"""Of a line that others are compared with."""
FILE_LEGEND: dict[str, Any] = {"frameon": False, "fontsize": 9, "handlelength": 3.2}
"""How a legend looks in a file."""
CHOSEN = Style(YELLOW, (), "star")
"""Of the chosen head's star, which has a dark line around it."""


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: stem of its files.
        title: plain text.
        caption: plain text: which rows it is of, and how to read it.
        element: the HoloViews object, styled for both backends.
        height: on a page, in CSS pixels.
        legend: whether it needs one; not where an axis names its marks.
    """

    name: str
    title: str
    caption: str
    element: Any
    height: int = 360
    legend: bool = True


@dataclass(frozen=True)
class Series:
    """A line of a chart, with marks and, where bounds are given, a band around it."""

    label: str
    x: Sequence[float] | Array
    y: Sequence[float] | Array
    style: Style
    low: Sequence[float] | Array | None = None
    high: Sequence[float] | Array | None = None


@dataclass(frozen=True)
class Entry:
    """A line of a legend; the style's ``mark`` is empty for a line without marks, and ``line`` is
    false for marks without one."""

    label: str
    style: Style
    line: bool


def for_both(element: Any, **options: Any) -> Any:
    """The element with options that mean the same to Bokeh and to Matplotlib."""
    return element.opts(backend="bokeh", **options).opts(backend="matplotlib", **options)


def line_chart(lines: Sequence[Series], x: str, y: str) -> Any:
    """Lines, as an overlay for both backends."""
    parts = []
    for line in lines:
        colour, dash = line.style.colour, line.style.dash
        if line.low is not None and line.high is not None:
            parts.append(_band(line, line.low, line.high, x, y))
        curve = hv.Curve((line.x, line.y), x, y, label=line.label)
        parts.append(
            curve.opts(
                backend="bokeh",
                color=colour,
                line_width=2,
                line_dash=list(dash) or "solid",
                tools=[] if line.style.mark else ["hover"],
            ).opts(
                backend="matplotlib",
                color=colour,
                linewidth=1.8,
                linestyle=(0, dash) if dash else "-",
            )
        )
        if line.style.mark:
            parts.append(dots(line.x, line.y, x, y, line.style, line.label))
    return hv.Overlay(parts)


def _band(line: Series, low: Any, high: Any, x: str, y: str) -> Any:
    """The interval along a line; of a single point, which has no width, a bar."""
    if len(line.x) == 1:
        return whiskers((line.x, line.x), (low, high), x, y, line.style)
    colour, band = line.style.colour, hv.Area((line.x, low, high), x, [y, f"{y} (high)"])
    return band.opts(backend="bokeh", color=colour, fill_alpha=0.13, line_alpha=0).opts(
        backend="matplotlib",
        color=colour,
        facecolor=colour,  # else one of a cycle of colours comes before it
        alpha=0.13,
        linewidth=0,
    )


def dots(xs: Any, ys: Any, x: str, y: str, style: Style, label: str) -> Any:
    """Marks of one colour, outlined so that pale ones are seen, too."""
    found = hv.Scatter((xs, ys), x, y, label=label)
    return found.opts(
        backend="bokeh",
        color=style.colour,
        line_color=GREY,
        size=16 if style == CHOSEN else 8,
        marker=style.mark,
        tools=["hover"],
    ).opts(
        backend="matplotlib",
        color=style.colour,
        edgecolors=BLACK if style == CHOSEN else GREY,
        linewidth=0.8,
        s=190 if style == CHOSEN else 38,
        marker=MATPLOTLIB_MARKS[style.mark],
    )


def star(x: float, y: float, x_name: str, y_name: str, label: str) -> Any:
    """A chart's star, for the head that was chosen."""
    return dots([x], [y], x_name, y_name, CHOSEN, label)


def whiskers(xs: tuple[Any, Any], ys: tuple[Any, Any], x: str, y: str, style: Style) -> Any:
    """Bars of intervals from ``(xs[0], ys[0])`` to ``(xs[1], ys[1])``."""
    found = hv.Segments((xs[0], ys[0], xs[1], ys[1]), [x, y, f"{x} (end)", f"{y} (end)"])
    found = found.opts(backend="bokeh", color=style.colour, line_width=3, alpha=0.8)
    return found.opts(backend="matplotlib", color=style.colour, linewidth=2.4, alpha=0.8)


def points(
    xs: Sequence[float] | Array,
    ys: Sequence[float] | Array,
    x: str,
    y: str,
    *,
    style: Style | None = None,
    by: tuple[str, Sequence[float]] | None = None,
) -> Any:
    """A cloud of points of one style, or coloured by a named third quantity."""
    if by is None:
        assert style is not None
        cloud = hv.Points((xs, ys), [x, y])
        own = {"color": style.colour, "alpha": 0.5}
        cloud = cloud.opts(backend="bokeh", size=5, tools=["hover"], **own)
        return cloud.opts(backend="matplotlib", s=14, edgecolors="none", **own)
    name, values = by
    colour = {"color": name, "cmap": "viridis", "colorbar": True}
    cloud = hv.Points((xs, ys, values), [x, y], name)
    cloud = cloud.opts(backend="bokeh", size=9, line_color=GREY, tools=["hover"], **colour)
    return cloud.opts(backend="matplotlib", s=36, edgecolors=GREY, linewidth=0.5, **colour)


def labels_at(
    xs: Sequence[float] | Array,
    ys: Sequence[float] | Array,
    texts: Sequence[str],
    x: str,
    y: str,
) -> Any:
    """Words to the upper right of points, in a file only."""
    words = hv.Labels((xs, ys, [f" {text}" for text in texts]), [x, y], "text")
    return words.opts(
        backend="matplotlib",
        color=BLACK,
        horizontalalignment="left",
        verticalalignment="bottom",
        size=8,
    )


def legend_of(figure: Figure) -> list[Entry]:
    """What the lines and marks of a figure are called, in order, once each."""
    found: dict[str, Entry] = {}
    drawn = figure.legend and isinstance(figure.element, hv.Overlay)
    parts = figure.element if drawn else []
    for part in parts:
        if not isinstance(part, hv.Curve | hv.Scatter) or not part.label:
            continue
        own = hv.Store.lookup_options("bokeh", part, "style").kwargs
        dash = own.get("line_dash", "solid")
        style = Style(own["color"], () if dash == "solid" else tuple(dash), "")
        if isinstance(part, hv.Curve):
            found[part.label] = Entry(part.label, style, line=True)
        else:
            before = found.get(part.label, Entry(part.label, style, line=False))
            marked = replace(before.style, mark=own["marker"])
            found[part.label] = replace(before, style=marked)
    return list(found.values())


def heat_map(cells: Array, x: str, y: str, value: str, *, width: float) -> Any:
    """An image of ``(rows, columns)``, row 0 at the bottom, ``width`` long on its x axis."""
    image = hv.Image(
        cells[::-1],  # an image's first row is its top one
        bounds=(0, -0.5, width, len(cells) - 0.5),
        kdims=[x, y],
        vdims=value,
    )
    ticks = whole_ticks(range(len(cells)))
    image = for_both(image, cmap="viridis", colorbar=True, yticks=ticks)
    return image.opts(backend="bokeh", tools=["hover"]).opts(backend="matplotlib", aspect="auto")


def matrix(
    values: Array,
    x: str,
    y: str,
    name: str,
    labels: Sequence[str],
    *,
    texts: Sequence[Sequence[str]] | None = None,
) -> Any:
    """A square ``(labels, labels)`` of values between 0 and 1, written into its cells.

    Rows go down, as in print. Numbered axes with named ticks: Matplotlib's renderer does not write
    into cells of named ones.
    """
    size = len(labels)
    image = hv.Image(values, bounds=(-0.5, -0.5, size - 0.5, size - 0.5), kdims=[x, y], vdims=name)
    xticks = [(i, short_label(label)) for i, label in enumerate(labels)]
    yticks = [(size - 1 - i, short_label(label)) for i, label in enumerate(labels)]
    axes = {"xticks": xticks, "yticks": yticks, "xrotation": 30, "clim": (0, 1), "cmap": "Blues"}
    parts = [for_both(image, **axes)]
    for dark, colour in ((False, BLACK), (True, "white")):  # white letters on dark squares
        cells = [
            (j, size - 1 - i, texts[i][j] if texts else f"{values[i, j]:.2f}")
            for i in range(size)
            for j in range(size)
            if (values[i, j] > 0.55) == dark
        ]
        if cells and size <= MAX_WRITTEN:
            part = hv.Labels(cells, [x, y], "text")
            part = part.opts(backend="bokeh", text_color=colour, text_font_size="10pt")
            parts.append(part.opts(backend="matplotlib", color=colour, size=10))
    return hv.Overlay(parts)


def short_label(label: str) -> str:
    """A class's name for an axis or legend, without what Bokeh would fetch MathJax for."""
    label = re.sub(r"\$(?=\$)|\\(?=[\[(])", r"\g<0> ", label)
    return label if len(label) <= MAX_LABEL else label[: MAX_LABEL - 1] + "…"


def whole_ticks(values: Sequence[int]) -> list[int]:
    """At most some twelve of consecutive whole numbers, the first and the last among them."""
    step = max(1, -(-len(values) // 12))
    return sorted({*values[::step], values[-1]})


def log_ticks(values: Sequence[float]) -> list[tuple[int, str]]:
    """1, 3, 10, 30 … as far as the values go; 1, 2, 5, 10 … within a decade."""
    steps = (1, 2, 5) if max(values) <= 10 * min(values) else (1, 3)
    ticks = [step * 10**power for power in range(10) for step in steps]
    return [(n, f"{n:,}") for n in ticks if min(values) / 3 < n < max(values) * 3]


UNCLEARED = ":host { clip-path: inset(1px 0 0 1px) }"
"""A plot's stylesheet: Bokeh clears half of a canvas's first column and row of pixels only, and
what was painted there while the plot was narrower would stay."""
LEGEND = {
    "background_fill_alpha": 0.0,
    "border_line_alpha": 0.0,
    "label_text_font_size": "10pt",
    "padding": 2,
}
"""Of Bokeh's own legends, for plots that have one."""


def bokeh_model(figure: Figure) -> Any:
    """The figure as a Bokeh model as wide as its place on the page, without a legend; its colours
    of text, grid and ground are the page's (``--bk-…``)."""
    common: dict[str, Any] = {
        "responsive": True,
        "height": figure.height,
        "min_width": 200,
        "title": "",
        "toolbar": "above",
        "default_tools": ["box_zoom", "pan", "reset", "save"],
        "active_tools": [],
        "fontscale": 1.05,
    }
    element = figure.element
    if isinstance(element, hv.Overlay):
        options = hv.opts.Overlay(backend="bokeh", show_legend=False, padding=0.06, **common)
        element = element.opts(options)
    else:
        element = element.opts(backend="bokeh", **common)
    model = hv.render(element, backend="bokeh")
    model.stylesheets = [UNCLEARED]
    model.toolbar.stylesheets = [".bk-tool-overflow { color: var(--ink) }"]
    model.toolbar.logo = None
    # A page must scroll under the finger; who wants to zoom takes the tool.
    model.toolbar.active_drag = model.toolbar.active_scroll = model.toolbar.active_tap = None
    for bar in (*model.right, *model.left, *model.above, *model.below):
        if type(bar).__name__ == "ColorBar":
            bar.background_fill_color = None
    return model


def write_image(figure: Figure, path: Path, *, title: str = "") -> None:
    """Write a figure as PNG or SVG, by the suffix of ``path``.

    Args:
        figure: the figure.
        path: its file; the folder is made.
        title: put before the figure's own title.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _plain_text() as pyplot:
        image = hv.render(_sized(figure), backend="matplotlib")
        image.axes[0].set_title(f"{title}: {figure.title}" if title else figure.title, fontsize=12)
        _finish(image, [figure])
        image.savefig(path, dpi=150, bbox_inches="tight", metadata=_undated(path))
        pyplot.close(image)


def write_row(
    figures: Sequence[Figure],
    path: Path,
    *,
    title: str,
    columns: int | None = None,
    one_legend: bool = False,
) -> None:
    """Write figures side by side, in rows of so many columns, as one PNG or SVG.

    Args:
        figures: what to write.
        path: the file.
        title: above all.
        columns: figures a row; default all.
        one_legend: below all, in place of one below each.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _plain_text() as pyplot:
        parts = [
            _sized(figure).opts(backend="matplotlib", title=figure.title) for figure in figures
        ]
        across = min(columns or len(parts), len(parts))
        down = -(-len(parts) // across)
        size = (13, 4.6) if columns is None else (1 + 5 * across, 4.6 * down)
        layout = hv.Layout(parts).cols(across)
        layout = layout.opts(
            backend="matplotlib",
            title=title,
            sublabel_format="",
            fig_inches=size,
            hspace=0.15 if down == 1 else 0.4 if one_legend else 0.75,
        )
        image = hv.render(layout, backend="matplotlib")
        _finish(image, [] if one_legend else figures)
        if one_legend:
            entries = {entry.label: entry for figure in figures for entry in legend_of(figure)}
            handles = [_handle(entry) for entry in entries.values()]
            how: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.04)}
            image.legend(handles=handles, ncols=4, **FILE_LEGEND, **how)
        image.savefig(path, dpi=120, bbox_inches="tight", metadata=_undated(path))
        pyplot.close(image)


def _finish(image: Any, figures: Sequence[Figure]) -> None:
    """Legends below the axes; no labels between the ticks, which logarithmic axes of less than a
    decade would have."""
    from matplotlib.ticker import NullFormatter

    for axes in image.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                axis.set_minor_formatter(NullFormatter())
    for axes, figure in zip(image.axes, figures, strict=False):
        handles = [_handle(entry) for entry in legend_of(figure)]
        if handles:
            axes.legend(
                handles=handles,
                loc="upper center",
                bbox_to_anchor=(0.5, -0.14),
                ncols=min(2, math.ceil(len(handles) / 2)),
                **FILE_LEGEND,
            )


def _handle(entry: Entry) -> Any:
    """An entry of a legend, for Matplotlib."""
    from matplotlib.lines import Line2D

    dash: Any = (0, entry.style.dash) if entry.style.dash else "-"
    star = entry.style.mark == "star"
    return Line2D(
        [],
        [],
        color=entry.style.colour,
        linestyle=dash if entry.line else "none",
        marker=MATPLOTLIB_MARKS.get(entry.style.mark, ""),
        markeredgecolor=BLACK if star else GREY,
        markersize=13 if star else 6.5,
        label=entry.label,
    )


def _sized(figure: Figure) -> Any:
    """The figure with the options that only a file needs."""
    size: dict[str, Any] = {"fig_inches": (7.0, 4.4), "aspect": "auto", "fontscale": 1.0}
    if isinstance(figure.element, hv.Overlay):
        return figure.element.opts(
            hv.opts.Overlay(backend="matplotlib", show_legend=False, padding=0.06, **size)
        )
    return figure.element.opts(backend="matplotlib", **size)


@contextmanager
def _plain_text() -> Iterator[Any]:
    """Matplotlib off screen, with names of tasks and classes taken as they are: no formulas."""
    import matplotlib
    from matplotlib import pyplot

    settings: Any = {"text.parse_math": False, "svg.hashsalt": "salient", "svg.fonttype": "path"}
    before = matplotlib.get_backend()
    pyplot.switch_backend("agg")
    try:
        with matplotlib.rc_context(settings):
            yield pyplot
    finally:
        pyplot.switch_backend(before)


def _undated(path: Path) -> dict[str, Any]:
    """File metadata without a date, so that the same figure gives the same bytes."""
    return {"Date": None} if path.suffix == ".svg" else {"Software": "salient"}
