"""Headless Chromium for tests of pages; they are skipped where there is none."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

selenium = pytest.importorskip("selenium", reason="needs the extra: salient-neurons[dev]")


@contextmanager
def open_browser(*, width: int = 1280, height: int = 900) -> Iterator[Any]:
    """A Selenium driver of headless Chromium that logs its console and its requests."""
    from selenium import webdriver

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs Chromium: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--no-proxy-server",
        "--disable-background-networking",
        "--disable-component-update",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        resize(browser, width=width, height=height)
        yield browser
    finally:
        browser.quit()


def resize(browser: Any, *, width: int, height: int = 900) -> None:
    """Make the page as wide as a screen of ``width`` CSS pixels, narrower than a window can be."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def screenshot(browser: Any, path: Path) -> None:
    """The whole page as PNG."""
    options = {"format": "png", "captureBeyondViewport": True}
    data = browser.execute_cdp_cmd("Page.captureScreenshot", options)["data"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(base64.b64decode(data))


def console_errors(browser: Any) -> list[str]:
    """Messages of level SEVERE so far, refused loads among them."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def requested(browser: Any) -> list[str]:
    """Addresses that the page asked for since the last call."""
    addresses = []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
            params = message["params"]
            addresses.append(params.get("url") or params["request"]["url"])
    return addresses


_DEEP = """
const skipped = new Set(['STYLE', 'SCRIPT', 'LINK']);
const walk = (node, visit) => {
  if (skipped.has(node.tagName)) return;
  visit(node);
  if (node.shadowRoot) walk(node.shadowRoot, visit);
  for (const child of node.childNodes) walk(child, visit);
};
"""


def page_text(browser: Any) -> str:
    """All text of the page, that within shadow roots too."""
    script = "let t = ''; walk(document.body, n => { if (n.nodeType === 3) t += n.data + ' '; });"
    return str(browser.execute_script(_DEEP + script + "return t;"))


def find_all(browser: Any, selector: str) -> list[Any]:
    """Elements that match a selector, those within shadow roots too."""
    script = """
    const wanted = arguments[0], found = [];
    walk(document.body, n => { if (n.nodeType === 1 && n.matches(wanted)) found.push(n); });
    return found;
    """
    return list(browser.execute_script(_DEEP + script, selector))


def wait_for(browser: Any, words: str, *, times: int = 1, seconds: float = 30) -> str:
    """Wait until the page shows some words so many times; its whole text."""
    end = time.monotonic() + seconds
    while (text := page_text(browser)).count(words) < times:
        assert time.monotonic() < end, f"{words!r} did not appear; the page says: {text[:2000]}"
        time.sleep(0.1)
    return text
