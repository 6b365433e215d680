"""README does what it says: its blocks are carried out from top to bottom in one folder.

What needs a cluster, a service, an installation or data that is not ours is only parsed, and named
below with the reason.
"""

from __future__ import annotations

import csv
import glob
import gzip
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.main import get_command

from pipeline.cluster.kinds import KINDS
from pipeline.commands.line import app, run_command
from pipeline.config import RunConfig
from tests.builders.paths import ROOT
from tests.builders.runs import write_mood_csv

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.M | re.S)
OTHER_PROGRAMS = {
    "make": "test_repository.py compares the targets",
    "pip": "installs",
    "conda": "installs",
    "podman": "builds and runs images",
}
PARSED = {
    "run tests/real/": "the public data sets are not part of the project",
    "plan runs/sentiment --cascade": "whether one pays depends on the model",
    "score new.csv --run runs/sentiment --out scores-cascade": "needs a cascade",
    "explore ": "serves until it is stopped",
    "push ": "needs a hub",
    "pull ": "needs a hub",
    "score new.csv --heads hub:": "needs a hub",
    "submit ": "starts a process that outlives the test",
    "status": "needs a submitted job",
    "logs": "needs a submitted job",
    "cancel": "needs a submitted job",
}
SMALLER = {"--top 50": "--top 20"}
"""The tiny backbone has 48 neurons a layer."""
FEWER = {"example_tweets()": "example_tweets().head(120)", "cv=3": "cv=2"}
"""So that the first lines take a moment; the slow test below runs them as they stand."""
FEW_HEADS = "\n[head]\nfolds = 3\nhidden_width = 4\neta = [0.25]\n"
TEXTS = ("happy happy cat mat today", "sad angry dog log sad", "it was a happy cat today")


def blocks(language: str) -> list[str]:
    return [text for found, text in BLOCKS if found == language]


def commands(block: str) -> Iterator[list[str]]:
    """The words of each line of a shell block, without its comment."""
    for line in block.replace("\\\n", "").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def parse(words: list[str]) -> None:
    """Check a command line of ``salient``: the command, its options and arguments exist."""
    command: Any = get_command(app)
    while hasattr(command, "commands"):
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words))


def with_section(section: str) -> dict[str, Any]:
    """The quick start's configuration with one section added or replaced."""
    return tomllib.loads(blocks("toml")[0]) | tomllib.loads(section)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that README takes for granted."""
    write_mood_csv(tmp_path / "mood.csv")
    with (tmp_path / "mood.csv").open(newline="") as file:
        rows = [row | {"label": row["mood"]} for row in csv.DictReader(file)]
    with (tmp_path / "tweets.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "text", "created_at", "label"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    lines = "".join(f'{i},"{text}"\n' for i, text in enumerate(TEXTS))
    (tmp_path / "new.csv").write_text(f"id,text\n{lines}")
    (tmp_path / "dumps").mkdir()
    with gzip.open(tmp_path / "dumps" / "2026-11-23.jsonl.gz", "wt") as dump:
        for i, text in enumerate(TEXTS):
            time = "Mon Nov 23 09:00:00 +0000 2026"
            tweet = {"id_str": str(7 * 10**18 + i), "full_text": text, "created_at": time}
            dump.write(json.dumps(tweet | {"lang": "en", "user": {"id_str": "1"}}) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SALIENT_JOBS", str(tmp_path / "jobs"))
    return tmp_path


def test_readme_from_top_to_bottom(
    folder: Path, tiny_bert: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    num_run = 0
    for language, text in BLOCKS:
        if language == "toml" and "name =" in text:
            model = tomllib.loads(text)["backbone"]["model"]
            (folder / "run.toml").write_text(text.replace(model, str(tiny_bert)) + FEW_HEADS)
            assert RunConfig.load(folder / "run.toml").tasks[0].name == "sentiment"
        elif language == "python" and "airflow" not in text:
            for whole, part in FEWER.items():
                text = text.replace(whole, part)
            exec(compile(text, "README.md", "exec"), names)
        elif language == "sh":
            for words in commands(text):
                num_run += carry_out(words)
    assert num_run >= 20
    store = names["store"]
    assert names["x"].shape == (len(store.samples()), 2 * store.schema.neuron_size)
    assert len(names["labelled"]) > 5 and len(names["scores"]) == 2 * len(TEXTS)

    capsys.readouterr()
    words = ["score", "new.csv", "--run", "run.toml", "--out", "more", "--json", "-q"]
    assert run_command(words) == 0
    (shown,) = blocks("json")
    assert list(json.loads(capsys.readouterr().out)) == list(json.loads(shown))
    (part,) = (folder / "more").glob("date=*/*.parquet")
    table = README[README.index("| column | type |") :].partition("\n\n")[0]
    documented = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.*?) \|", table, re.M)))
    for name in pq.read_schema(part).names:
        name = name.replace("sentiment", "TASK")
        assert re.sub(r"_p_\w+", "_p_CLASS", name) in documented


@pytest.mark.slow
def test_the_first_lines_print_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(compile(blocks("python")[0], "README.md", "exec"), names)
    every = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)
    printed, report = [text for language, text in every if not language][:2]
    assert capsys.readouterr().out == printed
    shown = [line.split() for line in report.splitlines()[1:]]
    found = [line.split() for line in str(names["clf"].report_).splitlines()[1:]]
    assert shown[0] == found[0] and [row[0] for row in shown] == [row[0] for row in found]
    # Other processors round otherwise: figures to a hundredth.
    chosen = {row[0]: float(row[-2]) for row in shown if row[0] == "chosen"}
    assert abs(chosen["chosen"] - names["clf"].loss_) < 0.01


def carry_out(words: list[str]) -> bool:
    """Run a command, or parse it where it is one of those; returns whether it was run."""
    if words[0] in OTHER_PROGRAMS:
        return False
    if words[0] == "python":
        source = (ROOT / words[1]).read_text()
        assert all(f'"{word}"' in source for word in words[2:] if word.startswith("--")), words
        return False
    assert words[0] == "salient", words
    line = " ".join(words[1:])
    for large, small in SMALLER.items():
        line = line.replace(large, small)
    arguments = [found for word in line.split() for found in sorted(glob.glob(word)) or [word]]
    if "--dry-run" not in line and line.startswith(tuple(PARSED)):
        parse(arguments)
        if line.startswith("run tests/"):
            RunConfig.load(ROOT / arguments[1])
        return False
    assert run_command(arguments) == 0, line
    return True


def test_sections_of_the_configuration_are_valid() -> None:
    sections = blocks("toml")[1:]
    assert len(sections) >= 2
    for text in sections:
        RunConfig.from_dict(with_section(text), origin=Path("run.toml"))


def test_schedulers_call_one_and_the_same_command() -> None:
    found = [
        line
        for language in ("ini", "cron", "python")
        for block in blocks(language)
        for line in re.findall(r"salient (score [^'\">\n]*)", block)
    ]
    assert len(found) == 3 and len({line.strip() for line in found}) == 1
    parse(shlex.split(found[0]))
    (airflow,) = (block for block in blocks("python") if "airflow" in block)
    compile(airflow, "README.md", "exec")


def test_every_kind_of_cluster_is_named() -> None:
    table = README[README.index("| `kind` |") :].partition("\n\n")[0]
    rows = table.splitlines()[2:]
    named = {kind for row in rows for kind in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert named == set(KINDS)
    for row in rows:
        extra = row.split("|")[4].strip(" `")
        for kind in re.findall(r"`(\w+)`", row.split("|")[1]):
            assert extra == ("" if kind == "local" else KINDS[kind].extra), kind


def test_files_that_are_named_exist() -> None:
    for name in set(re.findall(r"\b((?:notebooks|tests)/[\w./-]*\w\.\w+)", README)):
        assert (ROOT / name).is_file(), name
    assert (ROOT / "notebooks" / "demo_sentiment.png").stat().st_size < 200_000
