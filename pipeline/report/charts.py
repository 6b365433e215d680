"""Charts drawn once, with HoloViews, and rendered by Bokeh for a page or Matplotlib for a file.

    chart = line_chart([Series("test", [0, 1], [0.6, 0.7], BLUE)], "layer", "accuracy")
    figure = Figure("by-layer", "Score by layer", "How to read it.", chart)
    write_image(figure, Path("by-layer.svg"))       # Matplotlib; PNG or SVG by the suffix
    bokeh_model(figure)                             # to embed in a page

Elements are styled for both backends when they are made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from pipeline.errors import missing

try:
    import holoviews as hv
except ImportError as error:
    raise missing(error.name, "a figure", extra="report") from None

for _backend in ("bokeh", "matplotlib"):  # options can be set only for backends that are loaded
    hv.renderer(_backend)

Array = NDArray[Any]
BLUE, ORANGE, GREEN, RED, PURPLE, BROWN, TEAL, GREY, BLACK = (
    "#1f6fb4", "#d9730d", "#2a8f4c", "#b3261e", "#7a4fb5", "#8a5a2b", "#12959c", "#8a8f98",
    "#1a1c20",
)  # fmt: skip
MAX_WRITTEN = 14
"""Classes up to which numbers are written into a matrix's cells."""
MAX_LABEL = 18
"""Characters of a class's name on an axis."""


@dataclass(frozen=True)
class Figure:
    """One figure.

    Attributes:
        name: stem of its files.
        title: plain text.
        caption: plain text: how to read it.
        element: the HoloViews object, styled for both backends.
        height: on a page, in CSS pixels.
    """

    name: str
    title: str
    caption: str
    element: Any
    height: int = 400


@dataclass(frozen=True)
class Series:
    """A line of a chart, with points and, where bounds are given, a band around it."""

    label: str
    x: Sequence[float] | Array
    y: Sequence[float] | Array
    colour: str
    dashed: bool = False
    marks: bool = True
    low: Sequence[float] | Array | None = None
    high: Sequence[float] | Array | None = None


def for_both(element: Any, **options: Any) -> Any:
    """The element with options that mean the same to Bokeh and to Matplotlib."""
    return element.opts(backend="bokeh", **options).opts(backend="matplotlib", **options)


def line_chart(lines: Sequence[Series], x: str, y: str) -> Any:
    """Lines over whole numbers, as an overlay for both backends."""
    parts = []
    for line in lines:
        if line.low is not None and line.high is not None:
            band = hv.Area((line.x, line.low, line.high), x, [y, f"{y} (high)"])
            parts.append(
                band.opts(backend="bokeh", color=line.colour, fill_alpha=0.15, line_alpha=0).opts(
                    backend="matplotlib",
                    color=line.colour,
                    facecolor=line.colour,  # else one of a cycle of colours comes before it
                    alpha=0.15,
                    linewidth=0,
                )
            )
        curve = hv.Curve((line.x, line.y), x, y, label=line.label)
        parts.append(
            curve.opts(
                backend="bokeh",
                color=line.colour,
                line_width=2,
                line_dash="dashed" if line.dashed else "solid",
                tools=[] if line.marks else ["hover"],
            ).opts(
                backend="matplotlib",
                color=line.colour,
                linewidth=1.8,
                linestyle="--" if line.dashed else "-",
            )
        )
        if line.marks:
            parts.append(dots(line.x, line.y, x, y, line.colour))
    return hv.Overlay(parts)


def dots(xs: Any, ys: Any, x: str, y: str, colour: str, label: str = "") -> Any:
    """Points of one colour; diamonds with their own line of the legend if they have a label."""
    found = for_both(hv.Scatter((xs, ys), x, y, label=label), show_legend=bool(label))
    shape = ("diamond", "D") if label else ("circle", "o")
    return found.opts(
        backend="bokeh",
        color=colour,
        size=11 if label else 7,
        marker=shape[0],
        tools=["hover"],
    ).opts(backend="matplotlib", color=colour, s=44 if label else 30, marker=shape[1])


def star(x: float, y: float, x_name: str, y_name: str, label: str) -> Any:
    """A chart's star, for the head that was chosen."""
    point = hv.Scatter(([x], [y]), x_name, y_name, label=label)
    return point.opts(backend="bokeh", color=BLACK, marker="star", size=17, tools=["hover"]).opts(
        backend="matplotlib", color=BLACK, marker="*", s=170
    )


def points(
    xs: Sequence[float] | Array,
    ys: Sequence[float] | Array,
    x: str,
    y: str,
    *,
    by: tuple[str, Sequence[float]] | None = None,
) -> Any:
    """A cloud of points, coloured by a named third quantity if one is given."""
    if by is None:
        cloud = hv.Points((xs, ys), [x, y])
        cloud = cloud.opts(backend="bokeh", color=BLUE, size=5, alpha=0.4, tools=["hover"])
        return cloud.opts(backend="matplotlib", color=BLUE, s=14, alpha=0.4, edgecolors="none")
    name, values = by
    colour = {"color": name, "cmap": "viridis", "colorbar": True}
    cloud = hv.Points((xs, ys, values), [x, y], name)
    cloud = cloud.opts(backend="bokeh", size=8, tools=["hover"], **colour)
    return cloud.opts(backend="matplotlib", s=36, edgecolors="none", **colour)


def labels_at(
    xs: Sequence[float] | Array,
    ys: Sequence[float] | Array,
    texts: Sequence[str],
    x: str,
    y: str,
) -> Any:
    """Words to the upper right of points."""
    words = hv.Labels((xs, ys, [f" {text}" for text in texts]), [x, y], "text")
    words = words.opts(
        backend="bokeh",
        text_color=BLACK,
        text_align="left",
        text_baseline="bottom",
        text_font_size="9pt",
    )
    return words.opts(
        backend="matplotlib",
        color=BLACK,
        horizontalalignment="left",
        verticalalignment="bottom",
        size=8,
    )


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


LEGEND = {
    "background_fill_alpha": 0.0,
    "border_line_alpha": 0.0,
    "label_text_font_size": "10pt",
    "padding": 2,
}


def bokeh_model(figure: Figure) -> Any:
    """The figure as a Bokeh model as wide as its place on the page."""
    common: dict[str, Any] = {
        "responsive": True,
        "height": figure.height,
        "min_width": 200,
        "title": "",
        "toolbar": None,
        "default_tools": [],  # a page must scroll and not zoom under the pointer
        "active_tools": [],
        "fontscale": 1.05,
    }
    element = figure.element
    if isinstance(element, hv.Overlay):
        legend = {"legend_position": "bottom", "legend_cols": 1, "padding": 0.06}
        element = element.opts(
            hv.opts.Overlay(backend="bokeh", legend_opts=LEGEND, **common, **legend)
        )
    else:
        element = element.opts(backend="bokeh", **common)
    return hv.render(element, backend="bokeh")


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
        _hide_minor_labels(image)
        image.savefig(path, dpi=150, bbox_inches="tight", metadata=_undated(path))
        pyplot.close(image)


def write_row(figures: Sequence[Figure], path: Path, *, title: str) -> None:
    """Write figures side by side as one PNG or SVG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _plain_text() as pyplot:
        parts = [
            _sized(figure).opts(backend="matplotlib", title=figure.title) for figure in figures
        ]
        layout = hv.Layout(parts).opts(
            backend="matplotlib", title=title, sublabel_format="", fig_inches=(13, 4.6), hspace=0.15
        )
        image = hv.render(layout, backend="matplotlib")
        _hide_minor_labels(image)
        image.savefig(path, dpi=120, bbox_inches="tight", metadata=_undated(path))
        pyplot.close(image)


def _hide_minor_labels(image: Any) -> None:
    """Logarithmic axes of less than a decade would label what lies between the ticks, too."""
    from matplotlib.ticker import NullFormatter

    for axes in image.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                axis.set_minor_formatter(NullFormatter())


def _sized(figure: Figure) -> Any:
    """The figure with the options that only a file needs."""
    size: dict[str, Any] = {"fig_inches": (7.0, 4.4), "aspect": "auto", "fontscale": 1.0}
    if isinstance(figure.element, hv.Overlay):
        return figure.element.opts(
            hv.opts.Overlay(backend="matplotlib", legend_position="best", padding=0.06, **size)
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
