from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.errors import ConfigError, HubError
from pipeline.sharing.address import HubAddress
from pipeline.sharing.hub import pull
from pipeline.sharing.refusals import cleared, told, unreached
from store.errors import MissingExtra
from tests.builders.hub import TOKEN

ADDRESS = HubAddress("alice/moods")


def said(error: Exception) -> str:
    with pytest.raises(HubError) as caught, told(ADDRESS, "pulled"):
        raise error
    return str(caught.value)


def test_secrets_are_not_told() -> None:
    line = f"GET https://me:pw@hub.example/a?X-Sig=abc&t=1 with Bearer abc.def and {TOKEN}\x1b[31m"
    found = cleared(line)
    for secret in (TOKEN, "pw", "X-Sig", "abc.def", "\x1b"):
        assert secret not in found
    assert "https://hub.example/a" in found


def test_statuses_and_causes() -> None:
    def http(status: int) -> Exception:
        error = RuntimeError("in full")
        error.response = SimpleNamespace(status_code=status)  # type: ignore[attr-defined]
        return error

    assert "HTTP 403: the token may not do that" in said(http(403))
    assert "run again later" in said(http(503)) and "HTTP 418: RuntimeError: in full" in said(
        http(418)
    )
    failed = RuntimeError("Error while uploading")
    failed.__cause__ = http(429)
    assert "too many requests" in said(failed)
    lost = RuntimeError("Error while uploading")
    lost.__cause__ = ConnectionError("refused")
    assert "cannot be reached" in said(lost) and "HF_ENDPOINT" in said(lost)
    assert unreached(ConnectionError()) and not unreached(ValueError())
    assert said(ValueError("odd")).endswith("(ValueError: odd)")
    with pytest.raises(ConfigError), told(ADDRESS, "pulled"):
        raise ConfigError("as it is")


def test_the_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"pip install .+\[extract\]'"):
        pull("hub:alice/moods")
