"""The report and the explorer in a real browser: what they show, and that text stays text."""

from __future__ import annotations

import http.client
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
from selenium.webdriver.common.keys import Keys

from pipeline import stages
from pipeline.config import RunConfig
from tests.builders.browser import (
    console_errors,
    find_all,
    open_browser,
    requested,
    resize,
    screenshot,
    wait_for,
)
from tests.builders.runs import write_mood_run
from tests.builders.waiting import wait_until

pytest.importorskip("panel", reason="needs the extra: salient-neurons[explore]")
pytest.importorskip("holoviews", reason="needs the extra: salient-neurons[report]")

SCRIPT = "<script>document.title = 'broken'</script>"
SHOTS = os.environ.get("SALIENT_SCREENSHOTS")
"""A folder to put screenshots in, to be looked at."""


@pytest.fixture(scope="module")
def nasty_run(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> RunConfig:
    """A finished run with a tweet and a class that would run a script if they were not escaped."""
    path = write_mood_run(tmp_path_factory.mktemp("nasty"), tiny_bert)
    path.write_text(path.read_text() + 'eta = [0.25]\nkinds = ["sparse", "dense"]\n')
    file = path.parent / "tweets.csv"
    text = file.read_text().replace(",sad,", f",{SCRIPT},")
    header, *rows = text.splitlines()
    first = rows[0].split(",")
    first[1] = f"{SCRIPT} happy {SCRIPT}"
    file.write_text("\n".join([header, ",".join(first), *rows[1:]]) + "\n")
    config = RunConfig.load(path)
    stages.run(config)
    return config


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with open_browser() as driver:
        yield driver


@pytest.fixture
def browser(chromium: Any) -> Any:
    """The one browser, on an empty page, with nothing in its logs."""
    chromium.get("about:blank")
    requested(chromium)
    console_errors(chromium)
    return chromium


def keep(browser: Any, name: str) -> None:
    if SHOTS:
        for width in (1280, 390):
            resize(browser, width=width)
            screenshot(browser, Path(SHOTS) / f"{name}-{width}.png")
        resize(browser, width=1280)


def test_report_shows_its_figures_and_loads_nothing(nasty_run: RunConfig, browser: Any) -> None:
    from pipeline.report.page import write_report

    (page,) = write_report(Path(nasty_run.run_dir), images="none")
    browser.get(page.as_uri())
    assert browser.title == "mood: Salient report"
    text = wait_for(browser, SCRIPT)
    for title in (
        "Score by layer", "Score by depth", "What a better score costs",
        "Importance over layers and neurons", "Confusion matrix", "Calibration",
        "Predicted against labelled values", "Provenance", "chosen:",
    ):  # fmt: skip
        assert title in text
    heights = browser.execute_script(
        "return [...document.querySelectorAll('.plot')].map(e => e.offsetHeight)"
    )
    assert len(heights) == 11 and min(heights) > 250
    assert len(find_all(browser, "canvas.bk-layer, .bk-Canvas canvas, canvas")) >= 11
    for width in (1280, 390):
        resize(browser, width=width)
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    keep(browser, "report")
    assert console_errors(browser) == []
    addresses = {re.sub(r"[#?].*", "", url) for url in requested(browser)}
    assert {url for url in addresses if not url.startswith(("data:", "blob:"))} == {page.as_uri()}
    assert browser.title == "mood: Salient report"


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


def test_explorer_finds_a_neuron_and_shows_its_texts(address: str, browser: Any) -> None:
    browser.get(address)
    text = wait_for(browser, "Texts with the highest activation")
    assert "mood" in text and "rank in its layer" in text
    boxes = find_all(browser, "input")
    neuron = next(box for box in boxes if box.get_attribute("value").isdecimal())
    neuron.send_keys(Keys.CONTROL, "a")
    neuron.send_keys("21", Keys.ENTER)
    wait_for(browser, "neuron 21")
    assert len(find_all(browser, "ol.texts li")) == 12
    assert len(find_all(browser, "mark.peak")) == 12
    keep(browser, "explorer-neuron")
    assert console_errors(browser) == []


def test_explorer_explains_a_tweet_with_a_script_in_it(address: str, browser: Any) -> None:
    browser.get(f"{address}?sample=0")
    text = wait_for(browser, "Strongest neurons")
    assert f"{SCRIPT} happy {SCRIPT}" in text
    assert "contribution" in text and "level" in text
    box = next(b for b in find_all(browser, "input") if b.get_attribute("placeholder"))
    box.send_keys("document.title", Keys.ENTER)
    wait_for(browser, f"{SCRIPT} happy {SCRIPT}", times=2)
    keep(browser, "explorer-text")
    assert "broken" not in browser.title
    assert console_errors(browser) == []
    outside = [url for url in requested(browser) if not re.match(r"(http|ws)://127\.0\.0\.1:", url)]
    assert [url for url in outside if not url.startswith(("data:", "blob:", "file:"))] == []


def test_explorer_answers_this_machine_only(address: str, server_log: Path) -> None:
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
