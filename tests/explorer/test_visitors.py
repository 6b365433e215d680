"""Whom the explorer answers, asked as browsers ask it."""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("panel", reason="needs the extra: salient-neurons[explore]")
from pipeline.commands.line import run_command
from pipeline.config import RunConfig
from pipeline.explorer.visitors import guard

PROXY = "hub.example.org"
WEBSOCKET = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "bokeh, x",
}
PATHS = ("/", "/ws", "/static/js/bokeh.min.js", "/metadata", "/autoload.js", "/nothing")


@pytest.fixture(scope="module")
def port(finished_run: Path) -> Iterator[int]:
    """Where the explorer answers, as the command serves it."""
    command = [sys.executable, "-m", "pipeline", "explore", RunConfig.load(finished_run).store.path]
    command += ["--port", "0", "--quiet", "--allow-host", PROXY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = re.match(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
            assert found
            yield int(found.group(1))
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()


def ask(port: int, path: str, host: str | None, **headers: str) -> tuple[int, str]:
    """Status and text of the answer to a request that calls the server ``host``."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.putrequest("GET", path, skip_host=True)
        if host is not None:
            connection.putheader("Host", host)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, "" if response.status == 101 else response.read().decode()
    finally:
        connection.close()


def test_other_names_for_this_machine_get_nothing(port: int) -> None:
    for host in (
        f"evil.example:{port}",
        "127.0.0.1.evil.example",
        "localhost.",
        "127.1",
        "0.0.0.0",
    ):
        for path in PATHS:
            status, text = ask(port, path, host)
            assert status == 403 and "Not answered" in text and "localhost" in text
            assert len(text) < 400
        origin = f"http://{host}"
        assert ask(port, "/ws", host, Origin=origin, **WEBSOCKET)[0] == 403
    assert "--allow-host evil.example\n" in ask(port, "/", f"evil.example:{port}")[1]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST", PROXY])
def test_its_own_names_are_answered_at_any_port(port: int, host: str) -> None:
    status, text = ask(port, "/", host)
    assert status == 200 and "<title>activations" in text
    for place in (host, f"{host}:{port}", f"{host}:9999"):  # 9999: an ssh tunnel
        assert ask(port, "/static/js/bokeh.min.js", place)[0] == 200
        assert ask(port, "/ws", place, Origin=f"http://{place}", **WEBSOCKET)[0] == 101


def test_pages_of_others_get_no_websocket(port: int) -> None:
    own = f"localhost:{port}"
    # The second is what another user of this machine serves, the last a page from a file.
    for origin in ("http://evil.example", "http://localhost:8000", "http://[", "null"):
        status, text = ask(port, "/ws", own, Origin=origin, **WEBSOCKET)
        assert status == 403 and "--allow-host NAME" in text
        assert ask(port, "/", own, Origin=origin)[0] == 403
        old = {"Sec-WebSocket-Origin": origin}  # what it was called once; the server heeds it
        assert ask(port, "/ws", own, **old, **WEBSOCKET)[0] == 403
    # A proxy may call the server by this machine's name; the page is the proxy's then.
    assert ask(port, "/ws", own, Origin=f"https://{PROXY}", **WEBSOCKET)[0] == 101


@pytest.mark.parametrize("name", ["https://hub.example.org", "hub.example.org:80", "*", "a/b", ""])
def test_what_is_no_name_is_refused(
    name: str, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = RunConfig.load(finished_run).store.path
    assert run_command(["explore", store, "--allow-host", name, "-q"]) == 2
    assert f"--allow-host {name!r}: not a host's name" in capsys.readouterr().err


def test_a_server_that_asks_other_rules_first_does_not_start() -> None:
    """Bokeh's router is its own affair, and may change."""
    from tornado.web import Application, RequestHandler

    class Other(Application):
        websocket_origins: set[str]

        def find_handler(self, request: Any, **_: Any) -> Any:
            return SimpleNamespace(handler_class=RequestHandler)

    other = Other()
    other.websocket_origins = set()
    with pytest.raises(RuntimeError, match="strangers"):
        guard(SimpleNamespace(_tornado=other))
    assert not other.websocket_origins
