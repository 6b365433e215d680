"""What to install is named as this program was installed."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from store.errors import missing_extra


class Installed:
    """A distribution with what pip has noted of its origin."""

    def __init__(self, origin: dict[str, Any] | None) -> None:
        self.origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self.origin is None else json.dumps(self.origin)


@pytest.mark.parametrize(
    ("origin", "hint"),
    [
        ({"url": "file://{0}/my%20checkout", "dir_info": {"editable": True}},
         "-c '{0}/my checkout/requirements.lock' -e '{0}/my checkout[report]'"),
        ({"url": "file://{0}/plain", "dir_info": {}}, "'{0}/plain[report]'"),
        ({"url": "file://{0}/x.whl", "archive_info": {}}, "'{0}/x.whl[report]'"),
        ({"url": "https://host.example/r.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
         "'salient-neurons[report] @ git+https://host.example/r.git@abc'"),
    ],
)  # fmt: skip
def test_an_extra_is_named_as_it_can_be_installed(
    origin: dict[str, Any], hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("my checkout", "plain"):
        (tmp_path / folder).mkdir()
    (tmp_path / "my checkout" / "requirements.lock").touch()
    (tmp_path / "x.whl").touch()
    found = {**origin, "url": origin["url"].format(tmp_path)}
    monkeypatch.setattr(metadata, "distributions", lambda name: [Installed(None), Installed(found)])
    line = str(missing_extra("bokeh", "report", "the report"))
    assert line == f"the report needs the package bokeh: pip install {hint.format(tmp_path)}"


def test_an_index_is_named_if_nothing_else_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = {"url": f"file://{tmp_path}/gone.whl", "archive_info": {}}
    monkeypatch.setattr(metadata, "distributions", lambda name: [Installed(gone)])
    monkeypatch.setattr("store.errors.__file__", str(tmp_path / "site" / "store" / "errors.py"))
    line = str(missing_extra(None, "hub", "to_hf_dataset"))
    assert line == "to_hf_dataset needs the extra hub: pip install 'salient-neurons[hub]'"
