"""The report in a real browser: what it shows, that text stays text, and who can read it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("selenium", reason="needs the extra: salient-neurons[dev]")
pytest.importorskip("holoviews", reason="needs the extra: salient-neurons[report]")

from pipeline import stages
from pipeline.config import RunConfig
from pipeline.report.page import write_report
from pipeline.report.palette import DARK, LIGHT
from tests.builders.browser import (
    console_errors,
    find_all,
    low_contrast,
    overflowing,
    requested,
    resize,
    screenshot,
    set_scheme,
    unnamed_controls,
    wait_for,
)
from tests.builders.runs import SCRIPT, write_scripted_run

SHOTS = os.environ.get("SALIENT_SCREENSHOTS")
"""A folder to put screenshots in, to be looked at."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """The report of a run with a tweet and a class that would run a script if not escaped."""
    config = RunConfig.load(write_scripted_run(tmp_path_factory.mktemp("nasty"), tiny_bert))
    stages.run(config)
    return write_report(Path(config.run_dir), images="none")[0]


@pytest.fixture
def browser(chromium: Any) -> Any:
    """The one browser, on an empty page, light and wide, with nothing in its logs."""
    chromium.get("about:blank")
    set_scheme(chromium, "light")
    resize(chromium, width=1400)
    requested(chromium)
    console_errors(chromium)
    return chromium


def show(browser: Any, page: Path) -> None:
    """Open the page and wait until every figure is drawn."""
    browser.get(page.as_uri())
    wait_for(browser, SCRIPT)
    wait_for(browser, "Provenance")
    browser.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 0))")


def test_it_shows_its_figures_and_loads_nothing(page: Path, browser: Any) -> None:
    show(browser, page)
    assert browser.title == "mood: Salient report"
    text = wait_for(browser, SCRIPT)
    for title in (
        "Score by layer", "Score by blocks read", "What a better score costs", "Class by class",
        "Importance over layers and neurons", "Confusion matrix", "Calibration",
        "Predicted against labelled values", "Provenance", "chosen:",
    ):  # fmt: skip
        assert title in text
    heights = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].map(e => e.offsetHeight)"
    )
    assert len(heights) >= 12 and min(heights) > 200
    assert len(find_all(browser, "canvas")) >= len(heights)
    assert console_errors(browser) == []
    addresses = {re.sub(r"[#?].*", "", url) for url in requested(browser)}
    assert {url for url in addresses if not url.startswith(("data:", "blob:"))} == {page.as_uri()}
    assert browser.title == "mood: Salient report"


def test_everybody_can_read_it(page: Path, browser: Any) -> None:
    """On a phone and a screen, in the light and in the dark, into which plots follow."""
    resize(browser, width=390)
    show(browser, page)
    ends = browser.execute_script(
        "return [...document.querySelectorAll('[id$=-scores] tr.chosen td:nth-child(2)')]"
        ".map(e => e.getBoundingClientRect().right)"
    )
    assert len(ends) == 2 and max(ends) <= 390  # the test scores are seen without scrolling
    wide = browser.execute_script(
        "return [...document.querySelectorAll('.wide:has(.stack)')].map(e => e.scrollWidth)"
    )
    assert wide and max(wide) <= 390  # and so are all texts
    for scheme, colours in (("light", LIGHT), ("dark", DARK)):
        set_scheme(browser, scheme)
        for width in (390, 1400):
            resize(browser, width=width)
            browser.execute_async_script("setTimeout(arguments[0], 300)")
            assert not overflowing(browser)
            assert low_contrast(browser) == []
            ground = [int(colours["card"][at : at + 2], 16) for at in (1, 3, 5)]
            assert np.abs(np.subtract(plot_ground(browser), ground)).max() <= 2
            if SHOTS:
                screenshot(browser, Path(SHOTS) / f"report-{width}-{scheme}.png")
    assert unnamed_controls(browser) == []


def plot_ground(browser: Any) -> list[int]:
    """Red, green and blue of a point of the first plot where nothing is drawn."""
    script = """
    const canvas = Bokeh.index.roots[0].canvas_view.primary.canvas;
    return [...canvas.getContext("2d").getImageData(3, 3, 1, 1).data].slice(0, 3);
    """
    return list(browser.execute_script(script))


def test_axe_finds_nothing_wrong(page: Path, browser: Any) -> None:
    axe = pytest.importorskip("axe_core_python.selenium", reason="needs axe-core-python")
    show(browser, page)
    for scheme in ("light", "dark"):
        set_scheme(browser, scheme)
        found = axe.Axe().run(browser, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21aa"]})
        wrong = {one["id"]: [n["html"][:200] for n in one["nodes"]] for one in found["violations"]}
        assert wrong == {}
