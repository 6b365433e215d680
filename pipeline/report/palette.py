"""Colours, dashes and marks of the report and the explorer, in light and in dark.

    style_of(2)                     # the third line's colour, dash and mark
    css()                           # custom properties: --ink, --soft … and Bokeh's own

The colours of lines are those of Okabe and Ito (2008), told apart with every kind of colour
vision; each has a dash and a mark of its own too, and the same ones do on both grounds. Bokeh
reads the colours of its axes, grids and legends from custom properties (``--bk-…``), so that a
plot follows the page from light to dark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BLUE, ORANGE, GREEN, VERMILION, SKY, PURPLE, YELLOW = (
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7", "#f0e442",
)  # fmt: skip
GREY = "#7b818b"
"""Of what lines are compared with, and of outlines: seen on both grounds."""
BLACK = "#1a1c20"
FOR, AGAINST = BLUE, ORANGE
"""Bars to the right and to the left."""
LIGHT = {
    "ink": BLACK,
    "soft": "#565d68",
    "line": "#dfe3e8",
    "back": "#f6f7f9",
    "card": "#ffffff",
    "accent": "#00609a",
    "chip": "#e9edf1",
    "note": "#fff4dd",
    "peak": VERMILION,
    "heat": "255 146 43",
}
"""Name of a custom property -> its value; ``heat`` is for ``rgb(var(--heat) / 50%)``."""
DARK = {
    "ink": "#e8eaee",
    "soft": "#aab1bc",
    "line": "#3a404a",
    "back": "#121418",
    "card": "#1b1e24",
    "accent": "#7cc3f2",
    "chip": "#2b3039",
    "note": "#3a2f17",
    "peak": "#ff9a52",
    "heat": "214 110 20",
}
TEXT_ON = {
    "ink": ("back", "card", "chip", "note"),
    "soft": ("back", "card"),
    "accent": ("back", "card"),
}
"""Colours of text and the grounds that they are written on."""
BOKEH = {
    "ink": ("axis-label-text", "major-label-text", "text", "label-text", "title-text"),
    "soft": ("axis-line", "major-tick-line", "minor-tick-line"),
    "line": ("grid-line", "outline-line"),
    "card": ("background-fill", "border-fill"),
}
"""Colour -> parts of a plot that have it."""


@dataclass(frozen=True)
class Style:
    """How one line of several is drawn.

    Attributes:
        colour: of the line, its band and its marks.
        dash: lengths drawn and left out by turns, in widths of the line; empty: solid.
        mark: Bokeh's name of the marks; ``MATPLOTLIB_MARKS`` has the other's.
    """

    colour: str
    dash: tuple[int, ...] = ()
    mark: str = "circle"


STYLES = (
    Style(BLUE),
    Style(VERMILION, (7, 3), "square"),
    Style(GREEN, (2, 2), "triangle"),
    Style(PURPLE, (7, 2, 2, 2), "diamond"),
    Style(SKY, (12, 3), "inverted_triangle"),
    Style(ORANGE, (4, 2), "hex"),
    Style(YELLOW, (12, 2, 2, 2, 2, 2), "star"),
)
MATPLOTLIB_MARKS = {
    "circle": "o",
    "square": "s",
    "triangle": "^",
    "diamond": "D",
    "inverted_triangle": "v",
    "hex": "h",
    "star": "*",
    "plus": "P",
}
"""Bokeh's name of a mark -> Matplotlib's."""


def style_of(number: int) -> Style:
    """The style of a line by its number; those beyond the last take a colour again, and the dash
    and the mark of the next one."""
    turns, own = divmod(number, len(STYLES))
    other = STYLES[(own + turns) % len(STYLES)]
    return Style(STYLES[own].colour, other.dash, other.mark)


def css() -> str:
    """The custom properties of a page, light or dark as its reader has it."""
    plots = "".join(
        f" --bk-{part}-color: var(--{name});" for name, parts in BOKEH.items() for part in parts
    )
    return (
        f":root {{ color-scheme: light dark; {_properties(LIGHT)}{plots} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {_properties(DARK)} }} }}\n"
    )


def _properties(colours: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())
