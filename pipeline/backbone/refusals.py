"""What a hub's library raises, as one line: what it was about, the cause, the remedy.

    with told("org/model", "fetched", refused=BackboneError, unreachable=BackboneUnreachable):
        snapshot_download(...)

The library is an optional package whose exceptions change their modules between versions, so they
are known by their names, and its HTTP errors by their status. Whatever is told is first cleared of
secrets: the token, and what addresses carry.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import first_line
from store.errors import SalientError

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
BY_NAME = {
    "OfflineModeIsEnabled": (
        "it is not whole in the cache of huggingface_hub, and HF_HUB_OFFLINE is set; unset it, or"
        " fetch it once where there is a network"
    ),
    "GatedRepoError": f"its owner gives access on request: ask on its page, then {LOG_IN}",
    "DisabledRepoError": "the hub has disabled it; take another",
    "RevisionNotFoundError": (
        "it has no such revision; its page lists commits under Files and versions, and without"
        " @REVISION the main branch is taken"
    ),
    "RepositoryNotFoundError": (
        "no such repository, or a private one and nobody with access is logged in; check the name,"
        f" {LOG_IN}"
    ),
    "HFValidationError": "the hub allows no such name; check it",
}
"""Name of an exception's class -> cause and remedy."""
BY_STATUS = {
    401: f"the hub knows nobody by this token; {LOG_IN}",
    403: "the token may not do that; give one with write access to push, and with access to pull",
    409: "somebody else changes it at this moment; run again",
    412: "somebody else has changed it meanwhile; look at that, then run again",
    413: "the hub takes no files of this size",
    429: "too many requests; wait a few minutes and run again",
}
"""HTTP status -> the same."""
NETWORK = {"ConnectError", "TimeoutException", "NetworkError", "ProtocolError", "ProxyError"}
NETWORK |= {"ConnectionError", "ConnectTimeout", "Timeout", "LocalEntryNotFoundError"}
"""Exceptions of any HTTP library that say that the hub was not reached."""


PASSES = (408, 409, 412, 425, 429)
"""Of these, and of all from 500 on, the same may be asked again later."""


@contextmanager
def told(
    address: object,
    doing: str,
    *,
    refused: type[SalientError],
    unreachable: type[SalientError],
) -> Iterator[None]:
    """Raise what goes wrong inside as one of two classes.

    Args:
        address: what it is about.
        doing: "pulled", "pushed" or "fetched".
        refused: the hub's answer stays the same until something is mended.
        unreachable: it does not answer, or not now.
    """
    try:
        yield
    except SalientError:
        raise
    except Exception as error:
        cause, passes = _cause(error)
        raise (unreachable if passes else refused)(
            f"{address}: cannot be {doing} ({cause})"
        ) from None


def unreached(error: BaseException) -> bool:
    """Whether an error says that the hub was not reached, and not what it said."""
    names = _names(error)
    return "OfflineModeIsEnabled" not in names and bool(names & NETWORK)


def _cause(error: BaseException) -> tuple[str, bool]:
    """What is said of an error, and whether it may pass."""
    for one in _chain(error):
        names = _names(one)
        if "LocalEntryNotFoundError" in names and _offline():
            return BY_NAME["OfflineModeIsEnabled"], False
        if found := next((BY_NAME[name] for name in BY_NAME if name in names), None):
            return found, False
        status = getattr(getattr(one, "response", None), "status_code", None)
        if isinstance(status, int):
            said = BY_STATUS.get(status)
            if said is None and status >= 500:
                said = "the hub itself has trouble; run again later"
            said = f"HTTP {status}: {said or cleared(first_line(one))}"
            return said, status in PASSES or status >= 500
    if any(unreached(one) for one in _chain(error)):
        return (
            f"{_endpoint()} cannot be reached: {cleared(first_line(_chain(error)[-1]))}; check the"
            " network, and HF_ENDPOINT if you set it"
        ), True
    return cleared(first_line(error)), False


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _chain(error: BaseException) -> list[BaseException]:
    """The error and its causes: an upload's own error says only that it failed."""
    found: list[BaseException] = [error]
    while (cause := found[-1].__cause__) is not None and len(found) < 8:
        found.append(cause)
    return found


def _names(error: BaseException) -> set[str]:
    return {one.__name__ for one in type(error).__mro__}


def _endpoint() -> str:
    from huggingface_hub import constants

    return cleared(str(constants.ENDPOINT))


def cleared(text: str) -> str:
    """A text in one printable line, without tokens and what an address carries along."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := os.environ.get(name, "").strip():
            text = text.replace(token, "…")
    text = re.sub(r"hf_\w{6,}|(?i:bearer)\s+\S+", "…", text)
    text = re.sub(r"://[^/\s@]*@", "://", text)
    text = re.sub(r"\?[^\s'\")]*", "", text)
    return "".join(c if c.isprintable() else " " for c in text)
