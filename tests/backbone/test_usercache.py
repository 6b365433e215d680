"""What is remembered of models, and that nothing depends on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.backbone.usercache import cache_folder, recall, remember


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_has_a_cache_of_its_own(turn: int) -> None:
    assert recall("checks", "of another test") is None
    remember("checks", "of another test", {"turn": turn})


def test_facts_come_back_under_their_key() -> None:
    assert recall("checks", "a") is None
    remember("checks", "a", {"layout": "packed"})
    remember("checks", "b", {"layout": "padded"})
    assert recall("checks", "a") == {"layout": "packed"}
    assert recall("others", "a") is None
    remember("checks", "a", {"layout": "alone"})
    assert recall("checks", "a") == {"layout": "alone"}


@pytest.mark.parametrize(
    "damage", [b"", b"[1]", b'{"key": "b", "facts": {}}', b"\xff", b'{"key": "a"}']
)
def test_damage_reads_as_nothing(own_cache: Path, damage: bytes) -> None:
    remember("checks", "a", {"layout": "packed"})
    (file,) = own_cache.rglob("*.json")
    file.write_bytes(damage)
    assert recall("checks", "a") is None
    remember("checks", "a", {"layout": "packed"})
    assert recall("checks", "a") == {"layout": "packed"}


def test_a_folder_that_cannot_be_written_stops_nothing(own_cache: Path) -> None:
    (own_cache / "checks").write_text("a file where the folder should be")
    remember("checks", "a", {"layout": "packed"})
    assert recall("checks", "a") is None


def test_the_default_is_the_systems_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SALIENT_CACHE")
    assert cache_folder().name == "salient"
