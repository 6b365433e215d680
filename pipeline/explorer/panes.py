"""Small parts that all tabs of the explorer are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from pipeline.errors import missing

try:
    import panel as pn
except ImportError as error:
    raise missing(error.name, "the explorer", extra="explore") from None

STYLE, CONTROLS, TABS = (
    resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    for name in ("style.css", "controls.css", "tabs.css")
)
COPY = """
const said = button.label;
navigator.clipboard.writeText(window.location.href).then(
  () => { button.label = 'Copied'; setTimeout(() => { button.label = said; }, 1500); },
  () => { button.label = 'Copy it from the address bar'; });
"""


def html(text: str = "") -> Any:
    """A pane of our own HTML."""
    return pn.pane.HTML(text, stylesheets=[STYLE], sizing_mode="stretch_width")


def chooser(label: str, options: Sequence[Any] | Mapping[str, Any], width: int) -> Any:
    """A list to choose one of."""
    return pn.widgets.Select(label=label, options=options, width=width, stylesheets=[CONTROLS])


def button(label: str, width: int, *, main: bool = False) -> Any:
    """A button; ``main`` is the one that a tab is about."""
    colour = "primary" if main else "default"
    return pn.widgets.Button(
        label=label, width=width, color=colour, stylesheets=[CONTROLS], align="end"
    )


def field(label: str, hint: str) -> Any:
    """A line to write in."""
    return pn.widgets.TextInput(
        label=label, placeholder=hint, min_width=240, stylesheets=[CONTROLS]
    )


def link_button() -> Any:
    """Copies the page's address, which shows the same to whoever opens it."""
    link = button("Copy link", 110)
    link.js_on_click(args={"button": link}, code=COPY)
    return link


def tab_bar(names: Sequence[str]) -> Any:
    """Buttons of which one is down."""
    return pn.widgets.RadioButtonGroup(
        options=list(names), value=names[0], stylesheets=[CONTROLS, TABS]
    )


def place_bar() -> Any:
    """Shows its value as the arguments of the page's address, in place of the last; unseen."""
    bar = pn.widgets.TextInput(visible=False)
    bar.jscallback(value="if (cb_obj.value) history.replaceState(null, '', cb_obj.value);")
    return bar
