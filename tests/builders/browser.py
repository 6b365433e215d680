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

from tests.builders.waiting import wait_until

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


def set_scheme(browser: Any, scheme: str) -> None:
    """Let the page know that its reader likes it ``"light"`` or ``"dark"``."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def screenshot(browser: Any, path: Path | None = None) -> bytes:
    """The whole page as PNG; also written to a file if one is named."""
    options = {"format": "png", "captureBeyondViewport": True}
    data = base64.b64decode(browser.execute_cdp_cmd("Page.captureScreenshot", options)["data"])
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return data


def settled(browser: Any, path: Path | None = None) -> bytes:
    """As :func:`screenshot`, once the page is painted and two in a row are the same."""
    frames = "requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(arguments[0])))"
    last = b""

    def same() -> bool:
        nonlocal last
        browser.execute_async_script(frames)
        before, last = last, screenshot(browser, path)
        return before == last

    wait_until(same, timeout_s=60)
    return last


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


def overflowing(browser: Any) -> bool:
    """Whether the page is wider than its window."""
    script = "return document.documentElement.scrollWidth > innerWidth"
    return bool(browser.execute_script(script))


CONTROLS = frozenset(
    {"button", "checkbox", "combobox", "link", "listbox", "radio", "slider", "spinbutton"}
    | {"switch", "tab", "textbox", "searchbox"}
)


def unnamed_controls(browser: Any) -> list[str]:
    """Roles of the controls for which a screen reader has no name, as the browser sees them."""
    browser.execute_cdp_cmd("Accessibility.enable", {})
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    found = []
    for node in nodes:
        role = node.get("role", {}).get("value")
        name = str(node.get("name", {}).get("value", "")).strip()
        if not node.get("ignored") and role in CONTROLS and not name:
            found.append(str(role))
    return found


_CONTRAST = """
const dot = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
const known = new Map();
const rgba = colour => {
  if (!known.has(colour)) {
    dot.clearRect(0, 0, 1, 1); dot.fillStyle = colour; dot.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = dot.getImageData(0, 0, 1, 1).data;
    known.set(colour, [r, g, b, a / 255]);
  }
  return known.get(colour);
};
const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
const above = e => e.assignedSlot || e.parentElement || (e.getRootNode().host ?? null);
const paper = matchMedia('(prefers-color-scheme: dark)').matches
  && getComputedStyle(document.documentElement).colorScheme.includes('dark') ? [18, 18, 18]
  : [255, 255, 255];
const ground = e => {
  const layers = [];
  for (; e; e = above(e)) {
    const colour = rgba(getComputedStyle(e).backgroundColor);
    if (colour[3] > 0) layers.push(colour);
    if (colour[3] === 1) break;
  }
  return layers.reverse().reduce((below, top) => over(top, below), paper);
};
const light = rgb => {
  const [r, g, b] = rgb.map(v => v / 255).map(
    v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const found = [];
const check = (e, words) => {
  if (!e || !words.trim() || e.closest(':disabled')) return;
  const style = getComputedStyle(e), box = e.getBoundingClientRect();
  if (!box.width || !box.height || style.visibility !== 'visible') return;
  const [r, g, b, a] = rgba(e instanceof SVGElement ? style.fill : style.color);
  let seen = a;
  for (let at = e; at; at = above(at)) seen *= +getComputedStyle(at).opacity;
  if (seen === 0) return;
  const below = ground(e), ink = over([r, g, b, seen], below);
  const [high, low] = [light(ink), light(below)].sort((x, y) => y - x);
  const size = parseFloat(style.fontSize), bold = +style.fontWeight >= 700;
  const least = size >= 24 || bold && size >= 18.66 ? 3 : 4.5;
  const ratio = (high + 0.05) / (low + 0.05);
  if (ratio < least) found.push(`${words.trim().slice(0, 40)}: ${ratio.toFixed(2)} < ${least}`
    + ` (${ink.map(Math.round)} on ${below.map(Math.round)})`);
};
walk(document.body, n => {
  if (n.nodeType === 3) check(n.parentElement ?? n.parentNode.host, n.data);
  else if (['INPUT', 'SELECT', 'TEXTAREA'].includes(n.tagName)) check(n, n.value || 'x');
});
return [...new Set(found)];
"""


def low_contrast(browser: Any) -> list[str]:
    """Texts that WCAG AA finds too pale: under 4.5, or 3 where they are large.

    Texts within shadow roots are looked at too, those in a canvas and on a picture are not.
    """
    return list(browser.execute_script(_DEEP + _CONTRAST))
