"""Who may ask the explorer: the browser that names this machine, or a proxy that was named.

    guard(server, names=["hub.example.org"])

Every page that a browser shows can make its own name lead to this machine (DNS rebinding) and then
read whatever answers here. A browser still says which name it asked for, so the server answers to
names of its own alone. The port may be any, for an ssh tunnel has another one at its other end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.routing import Matcher, Rule
from tornado.web import RequestHandler

from pipeline.errors import ConfigError

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]*|\[[0-9a-f:.]+\]")


def allowed_names(given: Sequence[str]) -> frozenset[str]:
    """Names of hosts that the explorer answers to: this machine's own, and those given.

    Raises:
        ConfigError: one that is no host's name.
    """
    for name in given:
        if not NAME.fullmatch(name.lower()):
            raise ConfigError(
                f"--allow-host {name!r}: not a host's name; give it without https://, port and"
                " path, as in hub.example.org"
            )
    return frozenset((*LOOPBACK, *(name.lower() for name in given)))


def problem(request: HTTPServerRequest, names: frozenset[str]) -> str | None:
    """Why a request is not answered; None if it is.

    Args:
        request: of any path; a websocket begins as one too.
        names: as of :func:`allowed_names`.
    """
    if request.host_name not in names:
        return (
            f"Not answered: this address calls the explorer {request.host_name!r}, and it answers"
            f" to {', '.join(sorted(names))}. Behind a proxy of that name, start it with"
            f" --allow-host {request.host_name}"
        )
    headers = request.headers
    for origin in (*headers.get_list("Origin"), *headers.get_list("Sec-WebSocket-Origin")):
        # The page that asks: the explorer's own, or the proxy's that stands before it.
        try:
            page = urlsplit(origin.lower())
            own = page.netloc == request.host.lower()
            own = own or str(page.hostname) in names.difference(LOOPBACK)
        except ValueError:
            own = False
        if not own:
            return (
                f"Not answered: a page of {origin!r} asks. Behind a proxy, start the explorer with"
                " --allow-host NAME, NAME being the proxy's"
            )
    return None


def guard(server: Any, *, names: Sequence[str] = ()) -> None:
    """Make a server refuse, before anything else of it is reached, who may not ask.

    Args:
        server: Bokeh's, before it starts.
        names: further hosts' names to answer to.

    Raises:
        ConfigError: see :func:`allowed_names`.
    """
    known = allowed_names(names)
    rule = Rule(_Strangers(known), _Refusal, {"names": known})
    application = server._tornado
    application.default_router.rules.insert(0, rule)
    for path in ("/", "/ws"):
        found = application.find_handler(_request(path))
        if found.handler_class is not _Refusal:
            raise RuntimeError("strangers would be answered: Bokeh asks other rules first")
    application.websocket_origins.add("*")  # Bokeh's own check knows one port; ours came before


def _request(path: str) -> HTTPServerRequest:
    """A stranger's."""
    start = RequestStartLine("GET", path, "HTTP/1.1")
    headers = HTTPHeaders({"Host": "stranger.invalid"})
    return HTTPServerRequest(start_line=start, headers=headers)


class _Strangers(Matcher):
    """Requests that are not answered, whatever they ask for."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        return None if problem(request, self._names) is None else {}


class _Refusal(RequestHandler):
    """Says why; of websockets too, which begin as requests."""

    def initialize(self, names: frozenset[str]) -> None:
        self._names = names

    def prepare(self) -> None:
        self.set_status(403)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.finish(f"{problem(self.request, self._names)}\n")
