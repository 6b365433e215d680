"""`salient explore`: a local web page about the neurons of a store; served to this machine only.

    serve(Path("runs/demo/activations"), run=Path("runs/demo/run"))

A place on the page is an address (``?task=mood&layer=3&pooling=max&neuron=417`` or ``?sample=17``),
which the browser shows as one moves, so links and bookmarks work. The page itself is in
:mod:`pipeline.explorer.widgets`.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from pipeline.errors import ConfigError, missing

try:
    import panel as pn
    from tornado.websocket import WebSocketClosedError

    from pipeline.explorer.atlas import Atlas
    from pipeline.explorer.sources import Sources
    from pipeline.explorer.tokenmaps import TokenPlaces, TokenReader
    from pipeline.explorer.visitors import allowed_names, guard
    from pipeline.explorer.widgets import Page
    from pipeline.report import AGAINST, FOR, css
except ImportError as error:
    raise missing(error.name, "the explorer", extra="explore") from None
from pipeline.progress import Say, silent
from pipeline.runfolder import RunFolder, read_card
from store.disk import is_url
from store.errors import SalientError

HOST = "127.0.0.1"
OWN = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; connect-src 'self' ws: wss:;"
    " object-src 'none'; base-uri 'none'; form-action 'none'"
)
"""What the page may load: nothing from elsewhere. Bokeh needs inline scripts and templates."""
PAGE = (
    """
{% extends base %}
{% block preamble %}
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<meta http-equiv="Content-Security-Policy" content="OWN">
<style>
  COLOURS
  :root {
    --for: FOR; --against: AGAINST;
    --bk-border-fill-color: var(--back); --bk-background-fill-color: var(--back);
    --design-background-color: var(--card); --design-background-text-color: var(--ink);
    --design-surface-color: var(--card); --design-surface-text-color: var(--ink);
    --panel-border-color: var(--soft); --panel-primary-color: var(--accent);
  }
  html, body { margin: 0; background: var(--back); color: var(--ink); overflow-x: clip; }
  body { max-width: 1180px; margin: 0 auto !important; padding: 0 16px 40px !important; }
</style>
<script>
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
    for (const view of Bokeh.index.query(view => view.request_repaint)) view.request_repaint();
  });
</script>
{% endblock %}
{% block contents %}{{ embed(roots.explorer) }}{% endblock %}
""".replace("COLOURS", css())
    .replace("OWN", OWN)
    .replace("AGAINST", AGAINST)
    .replace("FOR", FOR)
)


def serve(
    store: str | Path,
    *,
    run: Path | None = None,
    port: int = 5006,
    model: str | None = None,
    allow_hosts: Sequence[str] = (),
    show: bool = False,
    say: Say = silent,
    announce: Say = silent,
) -> None:
    """Serve the page on this machine until interrupted.

    Answered are requests for localhost, 127.0.0.1 and [::1] with any port, as of an ssh tunnel, and
    of their own pages alone.

    Args:
        store: the activation store, a folder or an address.
        run: the folder of a finished run on it.
        port: on 127.0.0.1; 0 takes any free one.
        model: the backbone's location, if it moved.
        allow_hosts: names under which a proxy shows the page, as ``hub.example.org``.
        show: open a browser.
        say: told what is not available.
        announce: told the address.

    Raises:
        ConfigError: the port is taken, or a name is none.
        SalientError: no store or run there.
    """
    allowed_names(allow_hosts)
    atlas = Atlas.open(store, run=run)
    schema = atlas.store.schema
    reader, places, missed = None, None, "Tokens are not highlighted"
    try:
        if schema.peaks:
            places = TokenPlaces.for_store(schema, model=model)
            missed = "New texts cannot be explained"
        reader = TokenReader.for_store(schema, model=model)
    except (SalientError, ValueError) as error:
        atlas.notes.append(f"{missed}: {error}")
    for note in atlas.notes:
        say(note)
    place = store if is_url(store) else Path(store).resolve()
    name = PurePath(place).name if run is None else str(read_card(RunFolder(run)).get("name"))
    sources = Sources(name, atlas, reader, places)
    atlas.texts.has(0)  # reads the sample table now and not at the first question
    port = _free_port(port)

    def page() -> Any:
        template = pn.Template(PAGE, nb_template=None)
        template.title = f"{sources.name}: neurons"
        shown = Page(sources, query_arguments(pn.state.session_args))
        template.add_panel("explorer", shown.view())
        pn.state.onload(shown.tell_place)
        return template

    pn.config.notifications = False
    server = pn.serve(
        {"/": page},
        address=HOST,
        port=port,
        websocket_origin=[f"{HOST}:{port}", f"localhost:{port}"],
        show=show,
        verbose=False,
        title=sources.name,
        start=False,
    )
    guard(server, names=allow_hosts)
    announce(f"http://{HOST}:{port}/  (stop with Ctrl-C)")
    if (tunnel := tunnel_line(port, os.environ)) is not None:
        say(tunnel)
    server.io_loop.asyncio_loop.set_exception_handler(report_failure)
    server.start()
    server.io_loop.start()


def tunnel_line(port: int, environment: Mapping[str, str]) -> str | None:
    """How to reach the page from one's own machine, where this is the shell of another one."""
    if not environment.get("SSH_CONNECTION"):
        return None
    host = environment["SSH_CONNECTION"].split()
    name = host[2] if len(host) == 4 else "HOST"
    return (
        f"from your own machine: ssh -L {port}:localhost:{port} {name}, then open"
        f" http://localhost:{port}/"
    )


def report_failure(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what failed unseen; a page that is closed before its answer comes is no failure."""
    if not isinstance(context.get("exception"), WebSocketClosedError):
        loop.default_exception_handler(context)


def query_arguments(arguments: Mapping[str, Any]) -> dict[str, str]:
    """The first value of each argument of an address, undecodable ones left out."""
    found = {}
    for key, values in arguments.items():
        value = values[0] if isinstance(values, list) and values else b""
        try:
            found[key] = value.decode() if isinstance(value, bytes) else str(value)
        except UnicodeDecodeError:
            continue
    return found


def _free_port(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"--port {port}: cannot be used ({reason}); choose another, or 0 for any free one"
            ) from None
        return int(probe.getsockname()[1])
