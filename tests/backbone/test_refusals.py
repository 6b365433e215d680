from __future__ import annotations

from types import SimpleNamespace

import pytest

from pipeline.backbone.refusals import cleared, told, unreached
from pipeline.errors import ConfigError, HubError, HubInputError, HubUnreachable
from tests.builders.hub import TOKEN


def said(error: Exception, kind: type[HubError] = HubInputError) -> str:
    raised = {"refused": HubInputError, "unreachable": HubUnreachable}
    with pytest.raises(HubError) as caught, told("hub:alice/moods", "pulled", **raised):  # type: ignore[arg-type]
        raise error
    assert type(caught.value) is kind
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
    assert "run again later" in said(http(503), HubUnreachable)
    assert "HTTP 418: RuntimeError: in full" in said(http(418))
    failed = RuntimeError("Error while uploading")
    failed.__cause__ = http(429)
    assert "too many requests" in said(failed, HubUnreachable)
    lost = RuntimeError("Error while uploading")
    lost.__cause__ = ConnectionError("refused")
    found = said(lost, HubUnreachable)
    assert "cannot be reached" in found and "HF_ENDPOINT" in found
    assert unreached(ConnectionError()) and not unreached(ValueError())
    assert said(ValueError("odd")).endswith("(ValueError: odd)")
    with (
        pytest.raises(ConfigError),
        told("x", "pulled", refused=HubInputError, unreachable=HubUnreachable),
    ):
        raise ConfigError("as it is")
