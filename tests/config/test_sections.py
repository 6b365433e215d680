from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from tests.builders.runs import RUN_TOML

VALID = RUN_TOML.format(model="some/model")


def load(folder: Path, text: str) -> RunConfig:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return RunConfig.load(path)


def test_relative_paths_are_resolved_against_the_file(tmp_path: Path) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    config = load(tmp_path, VALID.replace("some/model", "models/mine"))
    assert config.run_dir == str(tmp_path / "run")
    assert config.corpus[0].path == str(tmp_path / "tweets.csv")
    assert config.backbone.model == str(tmp_path / "models" / "mine")
    assert load(tmp_path, VALID).backbone.model == "some/model"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("[probe]", "[prob]"), ["prob", "unknown section", "did you mean 'probe'"]),
        (("folds = 3", "fold = 3"), ["head.fold", "did you mean 'folds'"]),
        (("folds = 3", "folds = 1"), ["head.folds", "greater than or equal to 2", "not 1"]),
        (('type = "regression"', 'type = "regresion"'), ["tasks[2].type", "'regresion'"]),
        (('name = "level"', 'name = "mood"'), ["names must differ"]),
        (('level = "level"', 'leven = "level"'), ["leven", "mood", "level"]),
        (('path = "tweets.csv"', ""), ["corpus[1]", "exactly one of"]),
        (('name = "mood"\nrun_dir', 'name = "a/b"\nrun_dir'), ["name", "'a/b'"]),
        (("C = [1e-2, 1e-1]", "C = []"), ["probe", "C needs at least one value"]),
        (('run_dir = "run"', ""), ["run_dir", "is required"]),
        (('name = "level"', 'name = "id"'), ["'id' is a column of the scores"]),
        (('name = "mood"', 'seed = -1\nname = "mood"'), ["seed", "-1"]),
        (("C = [1e-2, 1e-1]", "C = [nan]"), ["probe.C", "finite"]),
        (("[store]", '[store]\npoolings = ["mean"]\npeaks = true'), ["store", "add 'max'"]),
        (("[store]", "[store]\npoolings = []"), ["store: poolings []", "at least one"]),
        (("[store]", '[store]\npoolings = ["max", "max"]'), ["['max', 'max']", "each once"]),
        (
            ("[head]", '[head]\nfolds_by = "author"'),
            ["head.folds_by = 'author'", 'add `author = "COLUMN"` under [[corpus]]'],
        ),
        (
            ('path = "tweets.csv"', 'path = "tweets.csv"\nencoding = "cp1225"'),
            ["corpus[1].encoding", "no encoding of texts", "did you mean 'cp125", "not 'cp1225'"],
        ),
        (
            ('path = "tweets.csv"', 'path = "tweets.csv"\nencoding = "base64"'),
            ["corpus[1].encoding", "such as utf-8, utf-16, cp1252", "not 'base64'"],
        ),
        (
            ('path = "tweets.csv"', 'path = "tweets.csv"\ncolumns = ["text", "n", "text"]'),
            ["corpus[1].columns", "needs a name for each column, each another one, found ['text'"],
        ),
        (
            ('path = "tweets.csv"', 'path = "tweets.csv"\nlabel_names = { modo = "a.txt" }'),
            ["corpus[1]", "label_names is for tasks that labels has, not for 'modo'"],
        ),
        (
            ('path = "tweets.csv"', 'hub = "some/set"\nencoding = "cp1252"'),
            ["corpus[1]", "encoding, columns and delimiter are for files; leave them out with hub"],
        ),
        (
            ("[store]", '[score]\nencoding = "none"\n[store]'),
            ["score.encoding", "no encoding of texts has that name"],
        ),
        (("[store]", "[store]\nsites = []"), ["store", "sites names none"]),
        (("[store]", "[store]\nexperts = [1]"), ["experts [1]", "add 'experts' to sites"]),
        (("[store]", '[store]\nhidden = "some"'), ["store.hidden", "unknown key"]),
        (("[store]", "[store"), ["not valid TOML", "line"]),
        (('level = "level"', "level = 3"), ["corpus[1].labels.level", "3 is neither"]),
        (('level = "level"', 'level = ["a", "b"]'), ["several columns", "'level'", "multilabel"]),
        (('"regression"', '"multilabel"\nmetric = "auc"'), ["'auc'", "macro_f1, micro_f1, lrap"]),
        (('"regression"', '"multilabel"\npositive = "a"'), ["positive is for classification"]),
        (
            (
                'level = "level" }\n[[tasks]]\nname = "mood"\ntype = "classification"',
                'level = "level" }\n[[tasks]]\nname = "mood"\ntype = "multilabel"\nlabels = ["a"]',
            ),
            ["at least two different"],
        ),
    ],
)
def test_mistakes_are_named(tmp_path: Path, change: tuple[str, str], expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, VALID.replace(*change, 1))
    message = str(caught.value)
    assert "run.toml" in message
    for part in expected:
        assert part in message


SETS = VALID.replace('"regression"', '"multilabel"').replace(
    'level = "level"', 'level = ["a", "b"]'
)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (('["a", "b"]', '["a"]'), ["at least two different columns", "['a']"]),
        (('"multilabel"', '"multilabel"\nlabels = ["a", "c"]'), ["['a', 'b']", "['a', 'c']"]),
        (("[head]", '[head]\nkinds = ["frozen"]'), ["head.kinds", "'level'", "add 'dense'"]),
        (
            ("[head]", '[head]\nkinds = ["final", "frozen"]\nmax_depth = 0.5'),
            ["'level'", "head.max_depth = 1"],
        ),
    ],
)
def test_label_columns_must_fit_their_task(
    tmp_path: Path, change: tuple[str, str], expected: list[str]
) -> None:
    config = load(tmp_path, SETS)
    assert config.corpus[0].labels["level"] == ("a", "b")
    assert config.task("level").selection_metric == "macro_f1"
    again = RunConfig.from_dict(config.model_dump(mode="json"), origin=tmp_path / "run.json")
    assert again.fingerprint == config.fingerprint
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, SETS.replace(*change, 1))
    for part in expected:
        assert part in str(caught.value)


def test_missing_file_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="salient init"):
        RunConfig.load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="is a folder"):
        RunConfig.load(tmp_path)


def test_fingerprint_covers_results_only(tmp_path: Path) -> None:
    base = load(tmp_path, VALID).fingerprint
    assert load(tmp_path, VALID.replace('"run"', '"elsewhere"')).fingerprint == base
    assert load(tmp_path, VALID.replace("[store]", "[store]\npeaks = true")).fingerprint == base
    assert load(tmp_path, VALID + '\n[cluster]\nkind = "processes"\n').fingerprint == base
    assert load(tmp_path, "seed = 1\n" + VALID).fingerprint != base
    assert load(tmp_path, VALID.replace("folds = 3", "folds = 4")).fingerprint != base


def test_metric_must_fit_the_task(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not fit a regression task"):
        load(tmp_path, VALID.replace('type = "regression"', 'type = "regression"\nmetric = "auc"'))


@pytest.mark.parametrize(
    ("line", "sites"),
    [("", None), ('hidden = "final"', ("ffn",)), ('hidden = "all"', ("ffn", "hidden"))],
)
def test_what_earlier_versions_said_of_hidden_states_is_read(
    tmp_path: Path, line: str, sites: tuple[str, ...] | None
) -> None:
    config = load(tmp_path, VALID.replace("[store]", f"[store]\n{line}"))
    assert config.store.sites == sites
    again = RunConfig.from_dict(config.model_dump(mode="json"), origin=tmp_path / "run.json")
    assert again.fingerprint == config.fingerprint


def test_how_files_are_read_is_part_of_the_corpus(tmp_path: Path) -> None:
    base = load(tmp_path, VALID).fingerprint
    entry = VALID.replace(
        'path = "tweets.csv"',
        """path = "tweets.csv"
encoding = "cp1252"
columns = ["text", "mood", "level"]
label_names = { mood = "a/names.txt", level = { 0 = "low" } }
where = { level = [1, true, "x"], mood = 2 }""",
    )
    config = load(tmp_path, entry)
    source = config.corpus[0]
    assert source.label_names == {"mood": str(tmp_path / "a/names.txt"), "level": {"0": "low"}}
    assert source.where == {"level": ("1", "true", "x"), "mood": "2"}
    assert config.fingerprint != base
    again = RunConfig.from_dict(config.model_dump(mode="json"), origin=tmp_path / "run.json")
    assert again == config
    assert load(tmp_path, entry.replace("a/names", "b/names")).fingerprint == config.fingerprint
    other = entry.replace('"cp1252"', '"latin-1"')
    assert load(tmp_path, other).fingerprint != config.fingerprint
    plain = load(tmp_path, VALID).corpus[0].model_dump()
    assert not plain.keys() & {"encoding", "columns", "label_names", "separator"}
