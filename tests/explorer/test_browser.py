"""The explorer in a real browser: what it shows, to whom, and that text stays text."""

from __future__ import annotations

import http.client
import io
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

pytest.importorskip("selenium", reason="needs the extra: salient-neurons[dev]")
from PIL import Image
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

from pipeline import stages
from pipeline.config import RunConfig
from tests.builders.browser import (
    console_errors,
    find_all,
    low_contrast,
    overflowing,
    requested,
    resize,
    set_scheme,
    settled,
    unnamed_controls,
    wait_for,
)
from tests.builders.runs import SCRIPT, write_scripted_run
from tests.builders.waiting import wait_until

pytest.importorskip("panel", reason="needs the extra: salient-neurons[explore]")
pytest.importorskip("holoviews", reason="needs the extra: salient-neurons[report]")

SHOTS = os.environ.get("SALIENT_SCREENSHOTS")
"""A folder to put screenshots in, to be looked at."""


@pytest.fixture(scope="module")
def nasty_run(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> RunConfig:
    """A finished run with a tweet and a class that would run a script if they were not escaped."""
    config = RunConfig.load(write_scripted_run(tmp_path_factory.mktemp("nasty"), tiny_bert))
    stages.run(config)
    return config


@pytest.fixture
def browser(chromium: Any) -> Any:
    """The one browser, on an empty page, with nothing in its logs."""
    chromium.get("about:blank")
    requested(chromium)
    console_errors(chromium)
    return chromium


def keep(browser: Any, name: str) -> None:
    """Look at the page as it is on a phone and on a screen, in light and in dark."""
    for width in (390, 1400):
        for scheme in ("light", "dark"):
            resize(browser, width=width)
            set_scheme(browser, scheme)
            assert low_contrast(browser) == [], (width, scheme)
            assert not overflowing(browser), (width, scheme)
            if SHOTS:
                tall = browser.execute_script("return document.documentElement.scrollHeight")
                resize(browser, width=width, height=tall)
                settled(browser, Path(SHOTS) / f"{name}-{width}-{scheme}.png")
    assert unnamed_controls(browser) == []
    resize(browser, width=1280)
    set_scheme(browser, "light")


@pytest.fixture(scope="module")
def server_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the explorer's server says on standard error."""
    return tmp_path_factory.mktemp("server") / "log"


@pytest.fixture(scope="module")
def address(nasty_run: RunConfig, server_log: Path) -> Iterator[str]:
    """The explorer, as the command serves it."""
    command = [sys.executable, "-m", "pipeline", "explore", nasty_run.store.path]
    command += ["--run", nasty_run.run_dir, "--port", "0", "--quiet"]
    with (
        server_log.open("w") as errors,
        subprocess.Popen(command, stdout=PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            found = re.match(r"http://127\.0\.0\.1:\d+/", process.stdout.readline())
            assert found, server_log.read_text()
            yield found.group()
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert "Traceback" not in server_log.read_text()
        finally:
            process.kill()


def press(browser: Any, words: str) -> None:
    next(b for b in find_all(browser, "button") if b.text == words).click()


def write_neuron(browser: Any, number: int) -> None:
    box = next(b for b in find_all(browser, "input") if b.get_attribute("value").isdecimal())
    box.send_keys(Keys.END, *[Keys.BACKSPACE] * 4, str(number), Keys.ENTER)


def test_a_neuron_is_found_and_its_texts_are_shown(address: str, browser: Any) -> None:
    browser.get(address)
    text = wait_for(browser, "Texts by")
    for words in ("mood", "rank in its layer", "mean pooling", "max pooling", "Highest", "At 50 %"):
        assert words in text
    write_neuron(browser, 21)
    wait_for(browser, "neuron 21")
    assert len(find_all(browser, "ol.texts li")) == 18
    assert len(find_all(browser, "mark.peak")) == 18
    keep(browser, "neuron")
    assert console_errors(browser) == []


def test_the_address_follows_and_leads_back(address: str, browser: Any) -> None:
    place = "?task=level&layer=2&pooling=mean&neuron=9&texts=90&split=val"
    browser.get(address + place)
    wait_for(browser, "Layer 2, neuron 9")
    wait_until(lambda: browser.current_url == address + place, timeout_s=60)
    write_neuron(browser, 10)
    wait_until(
        lambda: browser.current_url == address + place.replace("neuron=9", "neuron=10"),
        timeout_s=60,
    )
    browser.get(f"{address}?layer=99&neuron=1&task=<i>{SCRIPT}")
    text = wait_for(browser, "no layer 99; the store has 0-2")
    assert "task=<i><script>" in text and "broken" not in browser.title


def test_nothing_is_left_of_a_plot_that_was_narrower(address: str, browser: Any) -> None:
    """Bokeh clears half of a canvas's first column only, and what is painted there stays."""
    resize(browser, width=390)
    browser.get(address)
    wait_for(browser, "Texts by")
    wait_until(lambda: len(find_all(browser, "canvas")) >= 2, timeout_s=60)
    for width in (800, 1280):
        resize(browser, width=width, height=2000)
        picture = Image.open(io.BytesIO(settled(browser))).convert("RGB")
    for plot in find_all(browser, ".bk-Figure"):
        box = plot.rect
        left, top = round(box["x"]), round(box["y"])
        strip = picture.crop((left - 3, top, left + 3, top + round(box["height"])))
        assert len(strip.getcolors()) == 1, "something is painted left of the plot"


def test_a_keyboard_reaches_everything(address: str, browser: Any) -> None:
    browser.get(address)
    wait_for(browser, "Texts by")
    found = []
    for _ in range(40):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        found.append(browser.execute_script(FOCUSED))
    for words in ("Neurons", "Map", "Copy link", "Texts as CSV", "SELECT", "INPUT"):
        assert any(words in one for one in found), (words, found)
    at = next(i for i, one in enumerate(found) if "Texts" in one and "CSV" not in one)
    browser.get(address)
    wait_for(browser, "Texts by")
    ActionChains(browser).send_keys(*[Keys.TAB] * (at + 1), Keys.ENTER).perform()
    wait_for(browser, "Find stored texts")


FOCUSED = """
let e = document.activeElement;
while (e.shadowRoot && e.shadowRoot.activeElement) e = e.shadowRoot.activeElement;
return e.tagName + ' ' + e.innerText;
"""


FOREIGN = """
const script = document.createElement('script');
script.src = 'https://cdn.invalid/x.js';
document.addEventListener('securitypolicyviolation', e => { window.refused = e.blockedURI; });
document.head.append(script);
"""
"""Asks for a script from elsewhere, as Bokeh does for one that sets formulas."""


def test_a_tweet_with_a_script_in_it_is_explained(address: str, browser: Any) -> None:
    browser.get(f"{address}?sample=0")
    text = wait_for(browser, "Strongest neurons")
    assert f"{SCRIPT} happy {SCRIPT}" in text
    assert "contribution" in text and "level" in text and "all others (" in text
    box = next(b for b in find_all(browser, "input") if b.get_attribute("placeholder"))
    box.send_keys("document.title", Keys.ENTER)
    wait_for(browser, f"{SCRIPT} happy {SCRIPT}", times=2)
    keep(browser, "text")
    assert "broken" not in browser.title
    assert console_errors(browser) == []
    outside = [url for url in requested(browser) if not re.match(r"(http|ws)://127\.0\.0\.1:", url)]
    assert [url for url in outside if not url.startswith(("data:", "blob:", "file:"))] == []
    browser.execute_script(FOREIGN)
    refused = "return window.refused === 'https://cdn.invalid/x.js'"
    wait_until(lambda: bool(browser.execute_script(refused)), timeout_s=60)


def test_the_map_is_drawn_and_clicked(address: str, browser: Any) -> None:
    pytest.importorskip("datashader", reason="needs the extra: salient-neurons[explore]")
    browser.get(address)
    wait_for(browser, "Texts by")
    press(browser, "Map")
    wait_for(browser, "Coloured by")
    press(browser, "Draw the map")
    wait_for(browser, "no label shown", seconds=120)
    wait_until(lambda: bool(find_all(browser, ".bk-events")), timeout_s=60)
    settled(browser)
    ActionChains(browser).move_to_element(find_all(browser, ".bk-events")[-1]).click().perform()
    wait_for(browser, "Texts nearest to the place")
    assert len(find_all(browser, "ol.texts li")) == 10
    keep(browser, "map")
    assert console_errors(browser) == []


def test_this_machine_only_is_answered(address: str, server_log: Path) -> None:
    with urllib.request.urlopen(address) as page:
        assert page.status == 200
    port = int(address.rstrip("/").rsplit(":", 1)[1])
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.putrequest("GET", "/ws")
    for name, value in (
        ("Origin", "http://elsewhere.example"), ("Upgrade", "websocket"),
        ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="), ("Sec-WebSocket-Protocol", "bokeh, x"),
    ):  # fmt: skip
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == 403
    connection.close()
    wait_until(lambda: "403 GET /ws" in server_log.read_text())
