"""A proxy in front of a server of buckets that does what networks and busy servers do.

    with FaultProxy(server.endpoint) as proxy:
        os.environ.update(server.environment(proxy.endpoint))
        proxy.plan(Fault("lose", method="PUT", key="snapshots/"))       # the next one, once
        proxy.plan(Fault("answer", share=0.1, times=None, status=503))  # every tenth of all

Faults of a request add up in the order of the plan until one of them ends it. Without any the proxy
counts: `proxy.requests["GET"]`, `proxy.sent["GET"]` (bytes of bodies to the client), `proxy.log`.
"""

from __future__ import annotations

import http.client
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

from tests.builders.buckets import BucketServer, set_environment

PIECE = 2**18
CONDITIONS = ("if-none-match", "if-match", "x-goog-if-generation-match")
HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
ERROR = "<Error><Code>{code}</Code><Message>Please reduce your request rate.</Message></Error>"
ENDS = ("lose", "reset", "answer", "cut")


class Passed(NamedTuple):
    """A request that came by; `status` 0: the client got no whole answer."""

    method: str
    path: str
    range: str
    status: int
    received: int
    sent: int
    fault: str


@dataclass(frozen=True)
class Fault:
    """What happens to some requests.

    Attributes:
        do: `lose`: the server acts, its answer gets lost; `reset`: the server never hears of it;
            `answer`: the proxy answers with `status`; `cut`: half of the answer's body arrives;
            `delay`: it takes `seconds` longer; `strip`: conditions are taken out of it; `call`:
            `call` is called with method and path, before the server acts or, with `late`, after.
        method, key: regular expressions found in the method and in the unquoted path with query.
        skip: how many such requests pass first.
        times: how often; None: always.
        share: the share of such requests that it happens to, drawn by the proxy's seed.
        status, code, retry_after, seconds, call, late, strips: see `do`.
    """

    do: str
    method: str = ""
    key: str = ""
    skip: int = 0
    times: int | None = 1
    share: float = 1.0
    status: int = 503
    code: str = "SlowDown"
    retry_after: int | None = None
    seconds: float = 0.0
    call: Callable[[str, str], None] | None = None
    late: bool = False
    strips: tuple[str, ...] = CONDITIONS


@dataclass
class _Planned:
    fault: Fault
    seen: int = 0
    happened: int = 0

    def happens(self, method: str, path: str, draw: random.Random) -> bool:
        """Whether this request meets it; counts."""
        fault = self.fault
        if not (re.search(fault.method, method) and re.search(fault.key, path)):
            return False
        self.seen += 1
        if self.seen <= fault.skip or (fault.times is not None and self.happened >= fault.times):
            return False
        if fault.share < 1 and draw.random() >= fault.share:
            return False
        self.happened += 1
        return True


@dataclass
class FaultProxy:
    """Passes requests on to an endpoint, with faults; a context, open as long as it serves."""

    upstream: str
    seed: int = 0
    log: list[Passed] = field(default_factory=list)
    requests: Counter[str] = field(default_factory=Counter)
    received: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)
        self._plan: list[_Planned] = []
        self._lock = threading.Lock()

    def plan(self, *faults: Fault) -> None:
        """Add to what happens."""
        with self._lock:
            self._plan += [_Planned(fault) for fault in faults]

    def clear(self) -> None:
        """Nothing happens any more; what was counted stays."""
        with self._lock:
            self._plan = []

    def reset_counts(self) -> None:
        """Count from nothing."""
        with self._lock:
            self.log.clear()
            for counter in (self.requests, self.received, self.sent, self.faults):
                counter.clear()

    def met(self, method: str, path: str) -> list[Fault]:
        """The faults that a request meets, up to the first that ends it."""
        found = []
        with self._lock:
            for planned in self._plan:
                if planned.happens(method, path, self._draw):
                    self.faults[planned.fault.do] += 1
                    found.append(planned.fault)
                    if planned.fault.do in ENDS:
                        break
        return found

    def note(self, passed: Passed) -> None:
        """Count a request."""
        with self._lock:
            self.log.append(passed)
            self.requests[passed.method] += 1
            self.received[passed.method] += passed.received
            self.sent[passed.method] += passed.sent

    @property
    def endpoint(self) -> str:
        """`http://127.0.0.1:PORT`."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultProxy:
        self._server = _Server(("127.0.0.1", 0), type("Bound", (_Handler,), {"proxy": self}))
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        self.close_request(request)  # without a farewell, so that a reset is one

    def handle_error(self, *_: object) -> None:
        pass  # whoever was killed leaves in the midst of a request


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each small answer waits 40 ms
    wbufsize = PIECE
    proxy: FaultProxy

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        body = self._body()
        path = unquote(self.path)
        met = self.proxy.met(self.command, path)
        end = next((fault for fault in met if fault.do in ENDS), None)
        drop = next((fault.strips for fault in met if fault.do == "strip"), ())
        status = sent = 0
        for fault in met:
            if fault.do == "delay":
                time.sleep(fault.seconds)
        try:
            self._call(met, path, late=False)
            if end is not None and end.do == "reset":
                self._break()
            elif end is not None and end.do == "answer":
                status, sent = end.status, self._refuse(end)
            else:
                status, sent = self._pass_on(body, drop, end, lambda: self._call(met, path, True))
        finally:
            name = "+".join(fault.do for fault in met)
            asked = self.headers.get("range", "")
            self.proxy.note(Passed(self.command, path, asked, status, len(body), sent, name))

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _handle

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("transfer-encoding", ""):
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(pieces)

    def _call(self, met: list[Fault], path: str, late: bool) -> None:
        for fault in met:
            if fault.call is not None and fault.late == late:
                fault.call(self.command, path)

    def _pass_on(
        self, body: bytes, drop: tuple[str, ...], end: Fault | None, acted: Callable[[], None]
    ) -> tuple[int, int]:
        """Ask the server and answer; returns status and bytes that the client got."""
        upstream = urlsplit(self.proxy.upstream)
        connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port, timeout=60)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "content-length", "transfer-encoding", *drop):
                    connection.putheader(name, value)
            if body or self.command in ("PUT", "POST"):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            answer = connection.getresponse()
            acted()
            if end is not None and end.do == "lose":
                answer.read()
                self._break()
                return 0, 0
            return self._answer(answer, cut=end is not None)
        finally:
            connection.close()

    def _answer(self, answer: http.client.HTTPResponse, cut: bool) -> tuple[int, int]:
        size = answer.getheader("content-length")
        whole = None
        if size is None:
            whole = answer.read()
            size = str(len(whole))
        if cut and (self.command == "HEAD" or int(size) == 0):
            self._break()
            return 0, 0
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP:
                self.send_header(name, value)
        if answer.status not in (204, 304):
            self.send_header("Content-Length", size)
        self.end_headers()
        if self.command == "HEAD" or answer.status in (204, 304):
            return answer.status, 0
        left = int(size) // 2 if cut else int(size)
        sent = 0
        for piece in self._pieces(answer, whole):
            self.wfile.write(piece[: left - sent])
            sent += len(piece[: left - sent])
            if sent == left:
                break
        if cut:
            self._break()
            return 0, sent
        return answer.status, sent

    @staticmethod
    def _pieces(answer: http.client.HTTPResponse, whole: bytes | None) -> Iterator[bytes]:
        if whole is not None:
            yield whole
            return
        while piece := answer.read(PIECE):
            yield piece

    def _refuse(self, fault: Fault) -> int:
        body = b"" if self.command == "HEAD" else ERROR.format(code=fault.code).encode()
        self.send_response_only(fault.status)
        if fault.retry_after is not None:
            self.send_header("Retry-After", str(fault.retry_after))
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        return len(body)

    def _break(self) -> None:
        """End the connection with a reset in place of an answer."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True


@pytest.fixture
def fault_proxy(
    bucket: str, bucket_server: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultProxy]:
    """A proxy in front of the server, through which the environment leads to `bucket`."""
    with FaultProxy(bucket_server.endpoint) as proxy:
        set_environment(monkeypatch, bucket_server.environment(proxy.endpoint))
        yield proxy
