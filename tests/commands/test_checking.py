from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.backbone import selfcheck
from pipeline.commands.line import run_command
from pipeline.extraction import checking
from tests.builders.models import CONTEXT, FFN_WIDTH, LAYERS, make_tiny_model
from tests.builders.odd import make_odd_model
from tests.builders.runs import write_mood_run


@pytest.fixture(autouse=True)
def short_races(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "RATE_SECONDS", 0.0)


def checked(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, object]:
    assert run_command(["check", *words, "--json", "-q"]) == code
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    facts = json.loads(printed)
    assert isinstance(facts, dict)
    return facts


def test_a_right_model(tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["check", str(tiny_bert)]) == 0
    out, err = capsys.readouterr()
    for part in (
        "bert, a known type", f"{LAYERS} layers of {FFN_WIDTH} numbers", "packed",
        f"{CONTEXT} tokens", "[CLS]", "tweets/s", "for a million texts", "own forward pass",
        "first block alone", "fine: this model can be used",
    ):  # fmt: skip
        assert part in out
    assert "loading" in err


def test_the_words_fit_a_terminal(
    tiny_bert: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.commands.printing.out._width", 80)
    assert run_command(["check", str(tiny_bert), "-q"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_json_has_every_documented_key(
    tiny_bert: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = checked(capsys, str(tiny_bert))
    documented = checking.check_model.__doc__ or ""
    for key in set(facts) - {"model", "settings"}:
        assert f"``{key}``" in documented, key
    assert facts["status"] == "fine" and facts["problem"] is None
    assert facts["sites"]["ffn"]["width"] == FFN_WIDTH  # type: ignore[index]
    assert facts["disk"]["ffn"] == LAYERS * 2 * FFN_WIDTH * 2 * 1_000_000  # type: ignore[index]
    assert facts["plain"]["agrees"] and facts["cut"]["agrees"]  # type: ignore[index]
    assert [rate["blocks"] for rate in facts["rate"]] == [LAYERS, 1]  # type: ignore[attr-defined]
    assert {"salient", "torch", "transformers"} <= set(facts["versions"])  # type: ignore[call-overload]


def test_options_reach_the_model(tiny_bert: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--max-length", "9", "--dtype", "bfloat16", "--device", "cpu"]
    site = "encoder.layer.{i}.output.dense"
    facts = checked(capsys, str(tiny_bert), *words, "--ffn-site", site)
    assert facts["dtype"] == "bfloat16"
    assert facts["context"] == {"tokens": 9, "limited_by": "max_length, as asked for"}


def test_of_a_run_its_backbone(
    tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_mood_run(tmp_path, tiny_bert)
    facts = checked(capsys, str(config), "--max-length", "8")
    assert facts["model"] == str(tiny_bert)
    assert facts["context"]["tokens"] == 8  # type: ignore[index]


def test_a_large_model_is_compared_when_asked_to(
    tiny_bert: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "PLAIN_UP_TO", 1000)
    assert "--full" in checked(capsys, str(tiny_bert))["plain"]["skipped"]  # type: ignore[index]
    assert checked(capsys, str(tiny_bert), "--full")["plain"]["agrees"]  # type: ignore[index]


def test_a_model_with_other_numbers_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(make_odd_model("odd-width", tmp_path))
    facts = checked(capsys, path, code=2)
    assert facts["status"] == "failed" and "own forward pass" in str(facts["problem"])
    assert run_command(["check", path, "-q"]) == 2
    out, err = capsys.readouterr()
    assert "fine" not in out and "own forward pass" in out
    assert err.startswith("salient: ") and err.count("\n") == 1


def test_a_model_that_cannot_be_cut_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(make_odd_model("odd-depth", tmp_path))
    assert not checked(capsys, path)["cut"]["agrees"]  # type: ignore[index]
    assert run_command(["check", path, "-q"]) == 0
    assert "scoring will load all blocks" in capsys.readouterr().out


def test_it_measures_anew(
    tiny_bert: Path, capsys: pytest.CaptureFixture[str], own_cache: Path
) -> None:
    first = checked(capsys, str(tiny_bert))
    (file,) = (own_cache / "checks").iterdir()
    file.write_text(file.read_text().replace('"packed"', '"padded"'))
    found = checked(capsys, str(tiny_bert))
    assert found["layout"] == "packed" and found["batches"] == first["batches"]


def test_what_was_passed_over_and_did_not_fit_is_told(
    tiny_bert: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, calls = selfcheck._observed, []

    def observed(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise ValueError("a slip")
        return whole(*args)

    def full(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(selfcheck, "_observed", observed)
    monkeypatch.setattr(checking, "against_cut", full)
    monkeypatch.setattr(checking, "against_plain", full)
    assert run_command(["check", str(tiny_bert), "-q"]) == 0
    out = capsys.readouterr().out
    assert "passed over packed: ValueError: a slip" in out
    assert "for want of memory" in out and "no room for it in memory" in out


def test_a_refused_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = checked(capsys, str(tmp_path), code=2)
    assert facts["status"] == "refused" and "no config.json" in str(facts["problem"])
    assert {"versions", "machine"} <= set(facts) and "family" not in facts
    assert run_command(["check", str(tmp_path), "-q"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1


def test_no_traceback_and_no_home(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_tiny_model("bert", tmp_path / "home" / "model")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def broken(*_: object, **__: object) -> None:
        raise KeyError(f"{path}/weights")

    monkeypatch.setattr(checking, "load_from_settings", broken)
    facts = checked(capsys, "~/model/bert", code=2)
    assert "KeyError" in str(facts["problem"]) and "broken" in str(facts["traceback"])
    assert str(tmp_path / "home") not in json.dumps(facts)


@pytest.mark.parametrize(
    "words", [[], ["model", "--dtype", "int3"], ["model", "--max-length", "1"], ["x.toml"]]
)
def test_wrong_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["check", *words]) == 2
    assert capsys.readouterr().out == ""


def test_a_mixture_of_experts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(make_tiny_model("qwen3_moe", tmp_path))
    facts = checked(capsys, path)
    assert {"hidden", "router", "experts"} <= set(facts["sites"])  # type: ignore[call-overload]
    assert run_command(["check", path, "-q"]) == 0
    out = capsys.readouterr().out
    assert "a mixture of experts" in out and "router 0" in out and "names them" in out
