"""Workers are let in that are like the client, and others told how they differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster.preflight import (
    OWN_PACKAGES,
    TOKEN,
    Ticket,
    code_digest,
    tokens,
    versions,
    worker_problem,
)
from pipeline.errors import ConfigError


@pytest.fixture
def ticket(tmp_path: Path) -> Iterator[Ticket]:
    with tokens([tmp_path], "abc"):
        yield Ticket("abc", versions(), (str(tmp_path),))


def test_a_worker_like_the_client_is_let_in(ticket: Ticket, tmp_path: Path) -> None:
    assert worker_problem(ticket) is None
    assert len(list(tmp_path.glob(f"{TOKEN}abc.*"))) == 1


def test_workers_that_differ_are_told_how(
    ticket: Ticket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.cluster.preflight.SEEN_WITHIN_S", 0.1)

    def problem(**changes: Any) -> str:
        return worker_problem(replace(ticket, **changes)) or ""

    assert "torch is" in problem(versions={**ticket.versions, "torch": "1.0"})
    assert "the code of salient is" in problem(versions={**ticket.versions, "salient": "0"})
    assert "is not the client's folder" in problem(id="other")
    assert "cannot be read there" in problem(inputs=(str(tmp_path / "model"),))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"), tokens([tmp_path / "file"], "x"):
        pass


def test_a_change_anywhere_in_the_code_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = tmp_path / "house_of_code" / "wing" / "corner" / "room.py"
    room.parent.mkdir(parents=True)
    for folder in room.parents[:3]:
        (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    digests = []
    for text in ("a = 1", "a = 2"):
        room.write_text(text)
        digests.append(code_digest(["house_of_code"]))
    room.rename(room.parents[1] / "room.py")
    digests.append(code_digest(["house_of_code"]))
    (room.parents[1] / "__init__.pyi").write_text("from .room import a as a")
    digests.append(code_digest(["house_of_code"]))
    assert len(set(digests)) == 4
    assert versions()["salient"] == code_digest(OWN_PACKAGES)
    for package in OWN_PACKAGES:
        assert code_digest([package]) != code_digest([])


def test_tokens_are_taken_away(tmp_path: Path) -> None:
    with tokens([tmp_path / "new"], "abc"):
        assert list((tmp_path / "new").iterdir())
    assert not list((tmp_path / "new").iterdir())
