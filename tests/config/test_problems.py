from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from tests.builders.runs import RUN_TOML

VALID = RUN_TOML.format(model="some/model")
LABELS = 'labels = { mood = "mood", level = "level" }'
TASKS = VALID[VALID.index("[[tasks]]") : VALID.index("[probe]")]


def said(folder: Path, *changes: tuple[str, str], text: str = VALID) -> list[str]:
    """The lines of the error that a changed configuration gives, without the file's name."""
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        RunConfig.load(path)
    first, *rest = str(caught.value).removeprefix(f"{path}: ").split("\n  ")
    if rest:
        assert first == f"{len(rest)} problems"
    return rest or [first]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("[store]", "[stores]", "stores: unknown section; did you mean 'store'?"),
        (
            '"classification"',
            '"classify"',
            "tasks[1].type: should be 'classification', 'regression' or 'multilabel', not"
            " 'classify'; did you mean 'classification'?",
        ),
        (
            TASKS,
            '[tasks]\nname = "mood"\ntype = "classification"\n',
            "tasks: write [[tasks]] (two brackets): it may appear several times",
        ),
        (
            "[[corpus]]",
            "[corpus]",
            "corpus: write [[corpus]] (two brackets): it may appear several times",
        ),
        ("C = [1e-2, 1e-1]", "C = 0.1", "probe.C: write a list: C = [0.1]"),
        (
            LABELS,
            'labels = "sentiment"',
            'corpus[1].labels: write labels = { sentiment = "COLUMN" }, not "sentiment"',
        ),
        ("[head]", '[head]\nkinds = "dense"', 'head.kinds: write a list: kinds = ["dense"]'),
        (
            "[store]",
            "[store]\nmax_depth = 0.5",
            "store.max_depth: unknown key here; it belongs under [head]",
        ),
        (
            "[store]",
            "[store]\nseed = 3",
            "store.seed: unknown key here; it stands above the first section of the file",
        ),
        (
            "[probe]",
            "[head.probe]",
            "head.probe: unknown key here; write its header as [probe], without a dot",
        ),
        ('run_dir = "run"', "", 'run_dir: is required, as in run_dir = "runs/sentiment"'),
        (
            '[store]\npath = "activations"\nsamples_per_shard = 64',
            "",
            'store: is required: write [store] with path = "activations"',
        ),
        (
            "[head]",
            '[head]\nranking = "random"',
            "head.ranking: should be 'weight', 'l2', 'l1', 'mean_difference', 'probeless',"
            " 'anova_f', 'correlation' or 'mutual_information', not 'random'",
        ),
    ],
)
def test_one_problem_is_one_line_with_the_remedy(
    tmp_path: Path, old: str, new: str, line: str
) -> None:
    assert said(tmp_path, (old, new)) == [line]


def test_all_problems_come_at_once_with_unknown_keys_first(tmp_path: Path) -> None:
    lines = said(
        tmp_path,
        ("[store]", "[stores]"),
        ("folds = 3", "folds = 1"),
        ('"classification"', '"classify"'),
        ("[probe]", "[probe]\nCs = [1]"),
    )
    assert [line.partition(":")[0] for line in lines] == [
        "stores", "probe.Cs", "tasks[1].type", "head.folds",
    ]  # fmt: skip
    lines = said(tmp_path, ('name = "level"', 'name = "mood"'), ('{ mood = "', '{ modo = "'))
    assert len(lines) == 3 and "names must differ" in lines[0]
    assert "did you mean 'mood'" in lines[1] and "have no labels" in lines[2]
    assert [line.partition(":")[0] for line in said(tmp_path, text="tasks = []\n")] == [
        "name", "run_dir", "backbone", "corpus", "tasks", "store",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ('run_dir = "run"', 'run_dir = "s3://b/run"', ["run_dir: 's3://b/run'", "store.path"]),
        ('path = "tweets.csv"', 'path = "ftp://b/t.csv"', ["corpus[1].path", "fetch it", "hub ="]),
        ('path = "activations"', 'path = "ftp://b/a"', ["store.path: 'ftp://b/a'", "s3://BUCKET"]),
        ("[probe]", '[score]\noutput = "s3://"\n[probe]', ["score.output: 's3://'"]),
        (
            '"some/model"',
            '"https://huggingface.co/org/name"',
            ["backbone.model", "is an address", "as 'org/name'"],
        ),
    ],
)
def test_addresses_are_refused_where_they_cannot_work(
    tmp_path: Path, old: str, new: str, parts: list[str]
) -> None:
    (line,) = said(tmp_path, (old, new))
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("old", "new", "remedy"),
    [
        ("[[tasks]]", "[tasks]", "write [[tasks]] (two brackets), each time"),
        ('"some/model"', "some/model", "texts stand in quotes"),
        ('"some/model"', '"C:\\models"', "write / in place of \\ in paths"),
        ("folds = 3", "folds = 3\nfolds = 4", "a key stands once in its section"),
    ],
)
def test_mistakes_of_toml_get_a_remedy(tmp_path: Path, old: str, new: str, remedy: str) -> None:
    (line,) = said(tmp_path, text=VALID.replace(old, new))
    assert line.startswith("not valid TOML: ") and line.partition("; ")[2].startswith(remedy)
