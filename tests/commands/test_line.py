from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.commands.line import run_command
from pipeline.config import RunConfig
from tests.builders.runs import RUN_TOML, write_mood_run


@pytest.mark.parametrize(
    ("arguments", "code", "unneeded"),
    [
        (["--help"], 0, {"pydantic", "numpy", "pyarrow", "torch", "dask", "rich.progress"}),
        (["run"], 2, {"pipeline.config", "numpy", "pyarrow", "torch", "dask", "rich.progress"}),
    ],
)
def test_help_and_usage_errors_import_little(
    arguments: list[str], code: int, unneeded: set[str]
) -> None:
    script = f"""
import sys
import pipeline.commands.line
assert pipeline.commands.line.run_command({arguments}) == {code}
assert not {unneeded} & set(sys.modules), {unneeded} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--help"]) == 0
    text = capsys.readouterr().out
    for command in (
        "init", "check", "run", "extract", "probe", "rank", "consolidate", "ablate", "score",
        "inspect", "demo", "store", "report", "explore", "push", "pull",
    ):  # fmt: skip
        assert command in text
        assert run_command([command, "--help"]) == 0


def test_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "inspect", "nowhere"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr == "salient: nowhere: no such file or folder\n"


def test_starter_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["init", str(tmp_path / "run.toml")]) == 0
    config = RunConfig.load(tmp_path / "run.toml")
    assert config.backbone.revision is not None
    assert run_command(["init", str(tmp_path / "run.toml")]) == 2
    assert "exists already" in capsys.readouterr().err
    # The commented lines show the defaults: with them switched on nothing changes.
    text = (tmp_path / "run.toml").read_text()
    shown = "\n".join(
        line.removeprefix("# ") if line.startswith(("# [", "# seed")) else line
        for line in text.splitlines()
    )
    section = ""
    lines = []
    for line in shown.splitlines():
        section = line if line.startswith("[") else section
        name = line.removeprefix("# ").split(" = ")[0]
        if line.startswith("# ") and " = " in line and name in (
            "dtype", "special_tokens", "check", "keep_text", "peaks", "val", "test",
            "html_unescape", "users", "urls", "C", "alpha", "penalty", "l1_ratio", "solver",
            "kinds", "eta", "training", "max_depth", "tolerance", "max_errors", "kind", "device",
        ):  # fmt: skip
            line = line.removeprefix("# ")
        lines.append(line)
    (tmp_path / "all.toml").write_text("\n".join(lines))
    assert RunConfig.load(tmp_path / "all.toml").fingerprint == config.fingerprint


def test_stages_one_by_one(
    tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(write_mood_run(tmp_path, tiny_bert))
    assert run_command(["extract", config, "-q"]) == 0
    assert "160 texts extracted" in capsys.readouterr().out
    assert run_command(["probe", config, "-q", "--json"]) == 0
    probes = json.loads(capsys.readouterr().out)
    assert len(probes) == 2 * (3 + 4)
    names = ["layer_000", "layer_001", "layer_002", "hidden_000"]
    assert [one["source"] for one in probes][:4] == names
    assert run_command(["consolidate", str(tmp_path / "run"), "-q"]) == 0
    out = capsys.readouterr().out
    for part in ("final hidden state", "TF-IDF", "best single layer", "chosen:", "3/3"):
        assert part in out
    assert (tmp_path / "run" / "figures" / "mood.png").stat().st_size > 10_000
    texts = tmp_path / "texts.txt"
    texts.write_text("a happy cat\nan angry dog\n")
    arguments = ["score", str(texts), "--run", config, "--out", str(tmp_path / "o"), "-q", "--json"]
    assert run_command(arguments) == 0
    assert json.loads(capsys.readouterr().out)["scored"] == 2
    for path, expected in (
        ("activations", "samples: 160"),
        ("run", "chosen:"),
        ("run/heads/mood/chosen", "kind: head"),
        ("run/heads/mood/chosen", "reads: "),
        ("run/heads/mood/chosen", "choice: "),
        ("o", "rows: 2"),
        ("run/importance/mood.parquet", "neuron_importance"),
        ("run.toml", "finished: True"),
    ):
        assert run_command(["inspect", str(tmp_path / path)]) == 0
        assert expected.replace("neuron_i", "neuron i") in capsys.readouterr().out
        assert run_command(["inspect", str(tmp_path / path), "--json"]) == 0
        assert isinstance(json.loads(capsys.readouterr().out), dict)


def corpus(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "tweets.csv").write_text(text) and None


def edit(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "run.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "model" / name).unlink()


def other_architecture(folder: Path) -> None:
    other = {"model_type": "mamba", "num_hidden_layers": 2, "hidden_size": 32}
    (folder / "model" / "config.json").write_text(json.dumps(other | {"vocab_size": 300}))


HEADER = "id,text,created_at,mood,level\n"
MISTAKES: dict[str, tuple[Callable[[Path], object], int, list[str]]] = {
    "missing file": (lambda f: (f / "tweets.csv").unlink(), 2, ["tweets.csv"]),
    "empty file": (corpus(""), 2, ["tweets.csv", "empty"]),
    "header only": (corpus(HEADER), 2, ["tweets.csv"]),
    "wrong column": (edit('id = "id"', 'text = "txt"'), 2, ["tweets.csv", "'txt'", "text"]),
    "unknown label": (
        edit('type = "classification"', 'type = "classification"\nlabels = ["glad", "blue"]'),
        2,
        ["tweets.csv", "'sad'", "glad", "blue"],
    ),
    "text for a number": (
        edit('level = "level"', 'level = "mood"'), 2, ["tweets.csv", "mood", "'glad'", "number"],
    ),
    "one class": (
        corpus(HEADER + "".join(f"{i},t{i},,a,0.{i}\n" for i in range(20))), 2, ["mood", "class"],
    ),
    "no such model": (edit("/model", "/modle"), 2, ["modle"]),
    "unpinned hub name": (
        lambda f: edit(str(f / "model"), "roberta-base")(f), 2, ["roberta-base", "revision"],
    ),
    "no tokenizer": (no_tokenizer, 2, ["model", "tokenizer"]),
    "no weights": (lambda f: (f / "model" / "model.safetensors").unlink(), 2, ["safetensors"]),
    "damaged weights": (
        lambda f: (f / "model" / "model.safetensors").write_bytes(b"x" * 50), 2, ["model"],
    ),
    "architecture": (other_architecture, 2, ["mamba", "missing", "config.json"]),
    "config typo": (edit("folds", "flods"), 2, ["head.flods", "did you mean 'folds'"]),
    "config syntax": (edit("[head]", "[head"), 2, ["run.toml", "TOML"]),
    "no config": (lambda f: (f / "run.toml").unlink(), 2, ["run.toml", "salient init"]),
    "broken gz": (
        lambda f: (
            edit("tweets.csv", "tweets.csv.gz")(f),
            (f / "tweets.csv.gz").write_bytes(gzip.compress((f / "tweets.csv").read_bytes())[:400]),
        ),
        2,
        ["tweets.csv.gz"],
    ),
    "bad bytes": (
        lambda f: (f / "tweets.csv").write_bytes(HEADER.encode() + b"1,caf\xe9,,glad,0.5\n"),
        2,
        ["tweets.csv", "2"],
    ),
    "duplicate id": (
        corpus(HEADER + "1,one,,glad,0.5\n1,two,,sad,0.1\n"), 2, ["tweets.csv", "1"],
    ),
    "store path is a file": (
        lambda f: (f / "activations").write_text("mine"), 2, ["activations"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_line_and_no_traceback(
    name: str, tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, code, expected = MISTAKES[name]
    shutil.copytree(tiny_bert, tmp_path / "model")
    config = write_mood_run(tmp_path, tmp_path / "model")
    change(tmp_path)
    found = run_command(["run", str(config), "-q"])
    error = capsys.readouterr().err
    assert found == code, error
    assert error.startswith("salient: ")
    assert error.count("\n") == 1, error
    for part in expected:
        assert part in error, error


def test_empty_and_long_texts_are_counted_not_fatal(
    tmp_path: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_mood_run(tmp_path, tiny_bert)
    with (tmp_path / "tweets.csv").open("a") as file:
        file.write('77,"  ",,glad,0.4\n78,"' + "cat " * 500 + '",,glad,0.4\n')
    assert run_command(["extract", str(config), "--json"]) == 0
    captured = capsys.readouterr()
    assert "1 row with an empty text dropped" in captured.err
    assert json.loads(captured.out)["num_truncated"] == 1


def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["run"]) == 2
    assert run_command(["nonsense"]) == 2
    assert run_command(["score", "x", "--run"]) == 2
    capsys.readouterr()


def test_markup_in_names_is_not_interpreted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "[bold]x[blue].toml"
    assert run_command(["init", str(path)]) == 0
    assert run_command(["inspect", str(path)]) == 0
    assert capsys.readouterr().out.count("[bold]x[blue]") == 2
    folder = tmp_path / "[bold]"
    folder.mkdir()
    (folder / "run.toml").write_text(RUN_TOML.format(model="[/m]/n"))
    assert run_command(["inspect", str(folder / "run.toml")]) == 0
    assert "model: [/m]/n" in capsys.readouterr().out
