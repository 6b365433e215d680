from __future__ import annotations

import json

import pytest

from pipeline.commands.line import run_command
from pipeline.config import configuration_page, every_key, every_section


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert run_command(["help", *words]) == code
    captured = capsys.readouterr()
    return captured.err if code else captured.out


def test_a_key_says_all_there_is_to_know(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "head.max_depth")
    for part in (
        "head.max_depth", "type:     number, above 0, at most 1", "default:  1.0", "[head]",
        "max_depth = 0.67", "share of the backbone",
    ):  # fmt: skip
        assert part in text
    assert said(capsys, "max_depth") == text
    assert 'choices:  "classification", "regression", "multilabel"' in said(capsys, "tasks.type")
    both = said(capsys, "path")
    assert "corpus.path\n" in both and "store.path\n" in both
    (one,) = json.loads(said(capsys, "head.max_depth", "--json"))
    assert one["key"] == "head.max_depth" and one["default"] == "1.0"


def test_without_a_key_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(capsys).splitlines()
    for section in every_section():
        assert not section.header or any(line.startswith(section.header) for line in lines)
    for key in every_key():
        assert len([line for line in lines if line.split()[:1] == [key]]) == 1, key
    assert said(capsys, "--markdown") == configuration_page()
    assert len(json.loads(said(capsys, "--json"))) == len(every_key())


def test_a_section_and_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "store")
    assert "store.keep_text" in text and "the command store: salient store --help" in text
    assert said(capsys, "[store]") == text
    assert "--dry-run" in said(capsys, "run")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["head.maxdepth"], ["head.maxdepth: no such key", "did you mean 'head.max_depth'?"]),
        (["heads"], ["did you mean 'head'?"]),
        (["quux"], ["sections are backbone, corpus, tasks", "`salient help` lists all keys"]),
        (["head", "--markdown"], ["--markdown prints all keys"]),
    ],
)
def test_a_typo_is_named(
    words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, *words, code=2)
    for part in parts:
        assert part in text


def test_version_and_help_without_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--version"]) == 0
    assert capsys.readouterr().out.startswith("salient ")
    assert run_command([]) == 0
    alone = capsys.readouterr().out
    assert run_command(["--help"]) == 0
    assert capsys.readouterr().out.strip() == alone.strip() and "First steps" in alone
