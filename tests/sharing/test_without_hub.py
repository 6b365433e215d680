from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipeline.sharing.hub import pull
from store.errors import MissingExtra


def test_the_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"pip install .+\[extract\]'"):
        pull("hub:alice/moods")
