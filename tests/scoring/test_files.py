"""Scoring: every row accounted for, every id once, whatever comes in and whenever it is killed."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import os
import random
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

from pipeline.commands.line import run_command
from pipeline.config import NormaliseConfig, RunConfig
from pipeline.errors import ConfigError, InputError, ScoreError
from pipeline.heads.activations import stored_activations
from pipeline.heads.model import Head
from pipeline.runfolder import RunFolder
from pipeline.scoring.batch import IncompleteScores, WrongInputs
from pipeline.scoring.files import ScoreOptions, score_files
from pipeline.scoring.folder import open_scores
from pipeline.scoring.ledger import Finished
from pipeline.scoring.scorer import Scorer
from pipeline.scoring.summary import REMEDIES, ScoreReport
from pipeline.texts.targets import load_target
from store import ActivationStore, text_hash
from store.tables import write_json
from tests.builders.dumps import (
    MADE_UP,
    RAW,
    REAL_COUNTS,
    assert_same_scores,
    independent_counts,
    jsonl,
    mutated,
    needs_raw,
    quarantine,
    real_objects,
    scores,
    some_real_objects,
    v1,
    write_tweets,
)
from tests.builders.heads import write_heads
from tests.builders.runs import write_mood_csv
from tests.builders.scoring import check_balance, run_without_model

Score = Callable[..., ScoreReport]
OPTIONS = {field.name for field in fields(ScoreOptions)}


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> list[Path]:
    """Folders of random heads over the tiny BERT."""
    return write_heads(tmp_path_factory.mktemp("heads"), tiny_bert)


@pytest.fixture
def score(heads: list[Path], tmp_path: Path) -> Score:
    """Score files into ``tmp_path / "out"``, with any options; never fails on bad lines."""

    def run(*inputs: Path, output: Path | None = tmp_path / "out", **words: Any) -> ScoreReport:
        own = {name: words.pop(name) for name in OPTIONS & set(words)}
        options = ScoreOptions(**{"heads": heads, **own})
        report = score_files(inputs, None, output, options=options, **{"max_errors": 1.0, **words})
        check_balance(report)
        return report

    return run


# --- a finished run -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scorer(finished_run: Path) -> Scorer:
    config = RunConfig.load(finished_run)
    folder = RunFolder(Path(config.run_dir))
    return Scorer([Head.load(folder.head(task.name)) for task in config.tasks])


def test_scoring_a_stored_text_gives_what_the_stored_activations_give(
    scorer: Scorer, finished_run: Path, tmp_path: Path
) -> None:
    config = RunConfig.load(finished_run)
    store = ActivationStore.open(config.store.path)
    worst = scorer.check_parity(store, 40)
    assert worst is not None and worst < 1e-3
    write_mood_csv(tmp_path / "in.csv")
    report = score_files([tmp_path / "in.csv"], finished_run, tmp_path / "out")
    assert check_balance(report)["scored"] == report.read == 160
    table = scores(tmp_path / "out")
    head = next(head for head in scorer.heads if head.card.task == "mood")
    target = load_target(store, config.task("mood"))
    positions = store.positions(table["id"].to_pylist())
    stored = stored_activations(head, store, positions)
    expected = head.decide(head.probabilities(head.outputs(stored)))
    found = [target.classes.index(name) for name in table["mood"].to_pylist()]
    assert np.mean(found == expected) == 1.0
    both = np.stack([table[f"mood_p_{name}"].to_numpy() for name in target.classes])
    np.testing.assert_allclose(both.sum(0), 1, atol=1e-6)
    assert sorted(p.name for p in (tmp_path / "out").glob("date=*")) == [
        f"date=2024-05-0{day}" for day in (1, 2, 3)
    ]
    assert set(table["fingerprint"].to_pylist()) == {scorer.fingerprint} == {report.fingerprint}


def test_heads_alone_score_like_their_run(finished_run: Path, tmp_path: Path) -> None:
    write_mood_csv(tmp_path / "in.csv", num_rows=30)
    run_dir = Path(RunConfig.load(finished_run).run_dir)
    score_files([tmp_path / "in.csv"], finished_run, tmp_path / "by_run")
    carried = tmp_path / "carried"
    shutil.copytree(run_dir / "heads", carried)
    folders = [carried / "mood" / "chosen", carried / "level" / "chosen"]
    options = ScoreOptions(heads=folders)
    score_files([tmp_path / "in.csv"], output=tmp_path / "by_heads", options=options)
    assert scores(tmp_path / "by_heads").equals(scores(tmp_path / "by_run"))


def test_another_normalisation_is_refused(finished_run: Path, tmp_path: Path) -> None:
    text = finished_run.read_text()
    changed = finished_run.with_name("changed.toml")
    changed.write_text(text + "[normalise]\nusers = false\n")
    write_mood_csv(tmp_path / "in.csv", num_rows=3)
    with pytest.raises(ScoreError, match=r"normalise\.users is false .* was true"):
        score_files([tmp_path / "in.csv"], changed, tmp_path / "out")
    changed.unlink()


def test_another_backbone_or_other_heads_are_refused(
    heads: list[Path], scorer: Scorer, score: Score, tmp_path: Path
) -> None:
    from tests.builders.models import make_tiny_model

    other = make_tiny_model("distilbert", tmp_path / "other")
    with pytest.raises(ScoreError, match="not the backbone"):
        Scorer(scorer.heads, model=str(other))
    dump = write_tweets(tmp_path / "in", [v1(0)])
    score(dump)
    for dry_run in (False, True):
        with pytest.raises(ScoreError, match="scores of other heads"):
            score(dump, tasks=["mood"], dry_run=dry_run)


def test_wrong_arguments(heads: list[Path], score: Score, tmp_path: Path) -> None:
    dump = write_tweets(tmp_path / "in", [v1(0)])
    for options, message in (
        ({"tasks": ["moood"]}, "--task 'moood': there are heads for mood, level"),
        ({"heads": ()}, "either --run RUN, or --heads"),
        ({"heads": [heads[0].parent]}, "no head here"),
        ({"heads": [heads[0], heads[0]]}, "two heads for one task"),
        ({"format": "xml"}, "choose one of auto, tweets, csv"),
        ({"since": "yesterday"}, "since 'yesterday' is no time"),
        ({"since": "2021-02-01", "until": "2021-01-01"}, "nothing would pass"),
        ({"retweets": "some"}, "retweets"),
        ({"max_errors": 2.0}, "max_errors"),
        ({"output": None}, "no output folder"),
    ):
        with pytest.raises(ConfigError, match=message):
            score(dump, **options)
    with pytest.raises(ConfigError, match="no such input"):
        score(tmp_path / "none")
    assert not (tmp_path / "out").exists()


# --- what is read -------------------------------------------------------------------------------


def test_tweets_notices_and_bad_lines(score: Score, tmp_path: Path) -> None:
    lines = [json.dumps(v1(i)) for i in range(5)]
    lines.insert(2, '{"delete": {"status": {"id": 1, "id_str": "1", "user_id": 2}}}')
    lines.insert(4, '{"broken')
    (tmp_path / "dump").write_text("\n".join(lines) + "\n")
    found = score(tmp_path / "dump").to_dict()
    assert (found["read"], found["scored"]) == (7, 5)
    assert found["filtered_by"] == {"delete": 1}
    assert found["quarantined_by"] == {"not JSON": 1}
    table = scores(tmp_path / "out")
    assert table["id"].to_pylist() == [v1(i)["id_str"] for i in range(5)]
    assert {str(t)[:10] for t in table["created_at"].to_pylist()} == {"2021-01-01"}
    (bad,) = quarantine(tmp_path / "out")
    assert (bad["source_file"], bad["line"], bad["excerpt"]) == ("dump", 5, '{"broken')
    # Readers of the whole folder see the scores and nothing else.
    whole = ds.dataset(tmp_path / "out", partitioning="hive").to_table()
    assert len(whole) == 5 and whole["date"].to_pylist() == ["2021-01-01"] * 5


def test_files_in_a_zip_are_named(score: Score, tmp_path: Path) -> None:
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/day.csv", "id,text\n1,rain\n")
        archive.writestr("b/day.csv", "id,text\n2,tea\n3,sun\n")
    with pytest.raises(ConfigError) as failure:
        score(path)
    remedy = f'{path}: holds 2 files: a/day.csv, b/day.csv; name one, as in "{path}/a/day.csv"'
    assert str(failure.value) == remedy
    assert score(path / "a" / "day.csv").scored == 1
    assert score(path / "b" / "day.csv").scored == 2
    assert score(path / "b" / "day.csv").inputs[0].state == "unchanged"
    with pytest.raises(ConfigError, match="no such input"):
        score(tmp_path / "none.zip" / "a.csv")


def test_too_many_bad_lines_fail_the_run_and_its_rerun(score: Score, tmp_path: Path) -> None:
    (tmp_path / "dump").write_bytes(jsonl([v1(0)]) + b"{broken\n")
    for unchanged in (0, 1):
        with pytest.raises(IncompleteScores, match="1 of 2 rows were unreadable") as failure:
            score(tmp_path / "dump", max_errors=0.1)
        found = check_balance(failure.value.report)
        assert (found["status"], found["inputs"]["unchanged"]) == ("failed", unchanged)
    assert len(scores(tmp_path / "out")) == len(quarantine(tmp_path / "out")) == 1


def test_a_file_of_rubbish_fails_a_run_with_however_many_other_rows(
    score: Score, tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir()
    write_tweets(tmp_path / "old" / "a", [v1(i) for i in range(100)])
    score(tmp_path / "old")
    (tmp_path / "old" / "b").write_bytes(b"{rubbish\n" * 3)
    for unchanged in (1, 2):  # as files are read, and when nothing is
        with pytest.raises(
            IncompleteScores, match=r"3 of 3 rows were unreadable.*0\.05"
        ) as failure:
            score(tmp_path / "old", max_errors=0.05)
        assert failure.value.report.to_dict()["inputs"]["unchanged"] == unchanged
    write_tweets(tmp_path / "old" / "b", [v1(200)])
    score(tmp_path / "old", max_errors=0.05)
    # Of a night's own rows a fifth, of all much less.
    (tmp_path / "old" / "c").write_bytes(jsonl([v1(i) for i in range(300, 304)]) + b"{rubbish\n")
    with pytest.raises(IncompleteScores, match="1 of 5 rows were unreadable"):
        score(tmp_path / "old", max_errors=0.05)


def test_a_dump_that_breaks_off_fails_until_it_is_whole(score: Score, tmp_path: Path) -> None:
    order = random.Random(0)
    tweets = [v1(i, text="".join(order.choices("abcdefgh ", k=200))) for i in range(300)]
    path, packed = tmp_path / "day.gz", gzip.compress(jsonl(tweets))
    path.write_bytes(packed[: len(packed) // 2])
    known = 0
    for _ in range(2):
        with pytest.raises(IncompleteScores, match=r"day\.gz: gz breaks off.*fetch") as failure:
            score(path)
        found = check_balance(failure.value.report)
        assert found["inputs"] == {"named": 1, "read": 0, "unchanged": 0, "stopped": 0, "failed": 1}
        assert found["already_scored"] == known and found["quarantined"] == 1
        known += found["scored"]
    assert 50 < known < 299 and len(quarantine(tmp_path / "out")) == 1
    path.write_bytes(packed)
    assert score(path).scored == 300 - known


def test_scores_are_not_written_among_what_is_scored(score: Score, tmp_path: Path) -> None:
    dumps = tmp_path / "dumps"
    dumps.mkdir()
    write_tweets(dumps / "a", [v1(0)])
    for target in (dumps, tmp_path, tmp_path / "dumps" / ".." / "dumps"):
        with pytest.raises(InputError, match=r"the folder of files to score.*give scores one"):
            score(dumps, output=target)
    (dumps / "link").symlink_to(dumps / "a")
    (dumps / "scores").mkdir()
    (dumps / "scores" / "link").symlink_to(dumps / "a")
    with pytest.raises(InputError, match="link: is a symbolic link"):
        score(dumps, output=dumps / "scores")
    assert sorted(one.name for one in dumps.iterdir()) == ["a", "link", "scores"]


def test_one_broken_file_does_not_stop_the_others(score: Score, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "empty").write_bytes(b"")
    dump = write_tweets(tmp_path / "dump", [v1(i) for i in range(5)])
    with pytest.raises(IncompleteScores, match=r"other\.csv: no column 'text'") as failure:
        score(tmp_path / "other.csv", tmp_path / "empty", dump)
    found = check_balance(failure.value.report)
    assert found["inputs"] == {"named": 3, "read": 2, "unchanged": 0, "stopped": 0, "failed": 1}
    assert len(scores(tmp_path / "out")) == 5


def test_a_file_without_rows_is_no_failure(score: Score, tmp_path: Path) -> None:
    (tmp_path / "quiet.csv").write_text("id,text\n")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "quiet.parquet")
    found = check_balance(score(tmp_path / "quiet.csv", tmp_path / "quiet.parquet"))
    assert found["inputs"] == {"named": 2, "read": 2, "unchanged": 0, "stopped": 0, "failed": 0}


def test_rows_of_files_of_texts(score: Score, tmp_path: Path) -> None:
    with (tmp_path / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["id", "text", "lang"], ["1", "a happy cat", "en"], ["2", "  ", "en"],
             ["1", "a happy cat", "en"], ["3", "dog", "de"], ["4"]]
        )  # fmt: skip
    found = score(tmp_path / "in.csv", languages=("en",), block_rows=2).to_dict()
    assert (found["scored"], found["repeated"], found["empty"]) == (2, 1, 1)
    assert found["filtered_by"] == {"language": 1}
    assert found["quarantined_by"] == {"wrong number of fields": 1}
    table = scores(tmp_path / "out")
    assert table["id"].to_pylist() == ["1", "2"]
    assert table["mood"].to_pylist()[1] is table["level"].to_pylist()[1] is None
    assert [p.name for p in (tmp_path / "out").glob("date=*")] == ["date=unknown"]


def test_odd_values_and_names_of_files_lose_nothing(score: Score, tmp_path: Path) -> None:
    binary = tmp_path / "hive.parquet"  # strings of writers that do not mark them as such
    columns = {"id": pa.array([b"123", b"124"]), "text": pa.array([b"happy cat", b"sad dog"])}
    pq.write_table(pa.table(columns), binary)
    same = tmp_path / "same.csv"
    same.write_text("id,text\n123,happy cat\n")
    odd = tmp_path / "odd.jsonl"
    odd.write_text(
        '{"id": "a", "text": "glad"}\n{"id": "b", "text": "x \\ud83d"}\n'
        '{"id": "d", "text": {"x": "\\ud83d"}}\n'
    )
    name = os.fsdecode(str(tmp_path / "tw").encode() + b"\xe9.csv")
    Path(name).write_text("id,text\nc,happy\n")
    report = score(binary, same, odd, Path(name))
    assert scores(tmp_path / "out")["id"].to_pylist() == ["123", "124", "a", "b", "c"]
    assert report.to_dict()["repeated"] == 1 and report.to_dict()["inputs"]["failed"] == 0
    reason = "… holds an object, no text; name what is in it, such as …"
    assert report.to_dict()["quarantined_by"] == {reason: 1}


def test_a_parquet_file_with_two_columns_of_one_name(score: Score, tmp_path: Path) -> None:
    path = tmp_path / "twice.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"])] * 2, names=["text", "text"]), path)
    with pytest.raises(ConfigError, match=r"twice\.parquet: is not a readable Parquet file"):
        score(path)


def test_a_named_text_column_is_taken_at_its_word(score: Score, tmp_path: Path) -> None:
    lines = [{"id": str(i), "text": "dirty", "clean": "happy"} for i in range(3)]
    (tmp_path / "in.jsonl").write_bytes(jsonl(lines))
    score(tmp_path / "in.jsonl", text="clean")
    assert scores(tmp_path / "out")["text_hash"].to_pylist() == [text_hash("happy")] * 3


def test_an_id_with_another_text(score: Score, tmp_path: Path) -> None:
    for day, text in (("day1", "a happy cat"), ("day2", "an angry dog")):
        (tmp_path / day).mkdir()
        (tmp_path / day / "texts.txt").write_text(text + "\n")
        report = score(tmp_path / day / "texts.txt")
    assert report.to_dict()["quarantined_by"] == {"scored before with another text": 1}
    assert [row["reason"] for row in quarantine(tmp_path / "out")] == [
        "scored before with another text: id 'texts:1'"
    ]
    # A tweet's id says which tweet it is: dumps hold cut and full texts of the same one.
    score(write_tweets(tmp_path / "a", [v1(0)]))
    assert score(write_tweets(tmp_path / "b", [v1(0, text="cut")])).to_dict()["already_scored"] == 1


def test_formats_are_told_from_the_content(score: Score, tmp_path: Path) -> None:
    tweets = [v1(i) for i in range(20)]
    expected = None
    tables = {"a.parquet": pa.Table.from_pylist([{"id": t["id"], "text": t["text"],
              "created_at": t["created_at"]} for t in tweets])}  # fmt: skip
    pq.write_table(tables["a.parquet"], tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_bytes(bz2.compress(json.dumps(tweets).encode()))
    (tmp_path / "c").write_bytes(gzip.compress(json.dumps({"statuses": tweets}).encode()))
    for name in ("a.parquet", "b.csv", "c"):
        report = score(tmp_path / name, output=tmp_path / f"out-{name}")
        assert report.scored == 20, name
        found = scores(tmp_path / f"out-{name}").drop_columns(["source_file", "platform"])
        expected = expected or found
        assert found.equals(expected)


@needs_raw
@pytest.mark.parametrize("name", REAL_COUNTS)
def test_real_dumps_give_the_counts_of_an_independent_count(
    name: str, score: Score, tmp_path: Path
) -> None:
    expected = independent_counts(name)
    found = score(RAW / name, block_rows=256).to_dict()
    for count in ("read", "retweets", "recovered", "long"):
        assert found[count] == expected[count], count
    assert found["filtered"] == expected["notices"]
    assert (found["quarantined"], found["repeated"]) == (0, 0)
    table = scores(tmp_path / "out")
    assert found["scored"] == len(table) == expected["tweets"]
    plain_ids = []
    for value in real_objects(name):
        plain_ids += [t["id"] for t in value["data"]] if "data" in value else []
        plain_ids += [value["id_str"]] if "id_str" in value else []
    assert table["id"].to_pylist() == sorted(plain_ids)
    assert found["computed"] < found["scored"]


def check_mutants(values: list[Any], heads: list[Path], folder: Path) -> None:
    dump = write_tweets(folder / "fuzz", [v1(0), *values, v1(0)])
    options = ScoreOptions(heads=heads, dry_run=True)
    report = score_files([dump], output=folder / "none", options=options, max_errors=1.0)
    found = check_balance(report)
    assert found["read"] >= len(values) + 2 and found["scored"] >= 1


fuzz = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@given(value=mutated(MADE_UP))
@fuzz
def test_no_line_of_mutated_objects_is_unaccounted_for(
    value: Any, heads: list[Path], tmp_path: Path
) -> None:
    check_mutants([value], heads, tmp_path)


@needs_raw
def test_no_line_of_mutated_real_objects_is_unaccounted_for(
    heads: list[Path], tmp_path: Path
) -> None:
    objects = [value for value in some_real_objects() if len(json.dumps(value)) < 20_000]

    @given(value=mutated(objects))
    @fuzz
    def check(value: Any) -> None:
        check_mutants([value], heads, tmp_path)

    check()


# --- columns, folders, what is not known --------------------------------------------------------


def write_rows(path: Path, columns: dict[str, Any], num_rows: int = 3) -> Path:
    """A CSV whose values are as given, or of a function of the row's number."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for i in range(num_rows):
            writer.writerow(value(i) if callable(value) else value for value in columns.values())
    return path


ROWS: dict[str, Any] = {
    "tid": str,
    "body": lambda i: f"a happy cat {i}",
    "posted": "2024-05-06",
    "tongue": lambda i: ["en", "de", ""][i],
}


def test_the_columns_of_the_run_and_named_ones(finished_run: Path, tmp_path: Path) -> None:
    path, run = write_rows(tmp_path / "in.csv", ROWS), finished_run.with_name("columns.toml")
    own = {"text": "body", "id": "tid", "time": "posted"}
    lines = finished_run.read_text().splitlines()
    kept = [line for line in lines if line.partition(" ")[0] not in own]
    at = kept.index("[[corpus]]") + 1
    kept[at:at] = [f'{name} = "{column}"' for name, column in own.items()]
    run.write_text("\n".join(kept) + "\n")
    said: list[str] = []
    score_files([path], run, tmp_path / "run", say=said.append)
    assert "columns: text = 'body', id = 'tid', time = 'posted'; none for lang, author" in said
    with run.open("a") as file:
        file.write('[score]\nlang = "tongue"\nlanguages = ["en"]\n')
    assert score_files([path], run, tmp_path / "lang").scored == 1
    run.unlink()
    options = ScoreOptions(**own, lang="tongue")
    score_files([path], finished_run, tmp_path / "named", options=options)
    for name in ("run", "named"):
        assert scores(tmp_path / name)["id"].to_pylist() == ["0", "1", "2"]
        assert [p.name for p in (tmp_path / name).glob("date=*")] == ["date=2024-05-06"]
    words = {"options": options, "since": "2024-06-01"}
    report = score_files([path], finished_run, tmp_path / "named", **words)
    assert report.to_dict()["filtered_by"] == {"too early": 3}
    other = write_rows(tmp_path / "other.csv", {"tid": str, "thoughts": "a cat"})
    with pytest.raises(ConfigError, match=r"no column 'text'.*--text"):
        score_files([other], finished_run, tmp_path / "none")
    assert not (tmp_path / "none").exists(), "and no model was loaded"


def test_a_run_that_knows_no_language_fails_until_it_does(score: Score, tmp_path: Path) -> None:
    columns = {"id": str, "text": "a cat", "lang": "", "tongue": "en"}
    path = write_rows(tmp_path / "in.csv", columns)
    known = write_tweets(tmp_path / "known", [v1(0)])
    for dry_run in (False, False, True):
        with pytest.raises(WrongInputs, match=r"nothing was scored: 3 rows left out .*--lang-col"):
            score(path, languages=("en",), dry_run=dry_run)
    # Beside a file whose languages are known it is a warning, and once.
    remedy = ", or ".join(REMEDIES["language unknown"])
    both = score(known, path, languages=("en",))
    assert both.warnings == [f"3 of 4 rows left out (language unknown); {remedy}"]
    again = score(known, path, languages=("en",))
    assert again.to_dict()["inputs"]["unchanged"] == 2 and again.warnings == []
    assert score(path, languages=("en",), lang="tongue").scored == 3
    assert "none is of the languages" in score(known, languages=("tl",)).warnings[0]
    # Nor is it a mistake beside an archive of an earlier run whose languages are known.
    late = write_tweets(tmp_path / "late", [v1(1, lang=None)])
    one = f"1 of 1 rows left out (language unknown); {REMEDIES['language unknown'][1]}"
    assert score(known, late, languages=("en",)).warnings == [one]
    nowhere = write_tweets(tmp_path / "nowhere", [{**v1(i), "lang": None} for i in (7, 8)])
    with pytest.raises(
        WrongInputs, match=r"2 rows left out \(language unknown\); .*leave --lang out$"
    ):
        score(nowhere, output=tmp_path / "other", languages=("en",))
    path = write_rows(tmp_path / "t.csv", {"id": str, "text": "b", "created_at": "soon"}, 2)
    with pytest.raises(WrongInputs, match=r"2 rows left out \(time unknown\).*--time"):
        score(path, since="2024-01-01")


def test_a_folder_is_scored_as_its_files(score: Score, tmp_path: Path) -> None:
    dumps = tmp_path / "dumps"
    (dumps / "2021" / "_part").mkdir(parents=True)
    write_tweets(dumps / "2021" / "b", [v1(1)])
    write_tweets(dumps / "2021" / "_part" / "c", [v1(2)])
    write_tweets(dumps / "a", [v1(0)])
    score(dumps, output=dumps / "scores")
    report = score(dumps, output=dumps / "scores")
    assert [Path(one.name).name for one in report.inputs] == ["a", "b"]
    assert report.to_dict()["inputs"]["unchanged"] == len(scores(dumps / "scores")) == 2


def test_ids_with_other_texts_are_no_unreadable_rows(score: Score, tmp_path: Path) -> None:
    score(write_rows(tmp_path / "in.csv", {"id": str, "text": "one"}))
    path = write_rows(tmp_path / "in.csv", {"id": str, "text": "two"})
    with pytest.raises(IncompleteScores, match="3 of 3 rows have ids that were sco") as failure:
        score(path, max_errors=0.5)
    assert "unreadable" not in str(failure.value)


def test_a_dry_run_says_how_long_it_takes_where_that_is_known(
    finished_run: Path, tmp_path: Path
) -> None:
    path = write_rows(tmp_path / "in.csv", {"id": str, "text": lambda i: f"cat {i % 2}"}, 8)
    config = RunConfig.load(finished_run)
    folder = RunFolder(Path(config.run_dir))
    heads = [(task.name, Head.load(folder.head(task.name))) for task in config.tasks]
    prints = {name: {"fingerprint": head.fingerprint} for name, head in heads}
    for known, expected in ((prints, 4.0), ({**prints, "mood": {"fingerprint": "x"}}, None)):
        plan = {"chosen": {"heads": known, "speed": {"texts_per_s": 0.5}}}
        write_json(folder.plan, plan)
        options = ScoreOptions(dry_run=True)
        report = score_files([path], finished_run, tmp_path / "out", options=options)
        assert report.estimate_s == expected
        assert ("about 4 s of computing" in report.summary()) == (expected is not None)
    folder.plan.unlink()


# --- filters, retweets --------------------------------------------------------------------------


def test_filters(score: Score, tmp_path: Path) -> None:
    old = "Thu Dec 31 23:59:59 +0000 2020"
    dump = write_tweets(
        tmp_path / "dump",
        [v1(0), v1(1, lang="de"), v1(2, lang=None), v1(3, created_at=old),
         v1(4, retweeted_status=v1(0))],
    )  # fmt: skip
    found = score(dump, languages=("en",), since="2021-01-01", retweets="drop").to_dict()
    assert found["filtered_by"] == {
        "language": 1, "language unknown": 1, "retweet": 1, "too early": 1
    }  # fmt: skip
    assert scores(tmp_path / "out")["id"].to_pylist() == [v1(0)["id_str"]]
    # With other filters the file is not finished: what they let in is added.
    assert score(dump, retweets="only").to_dict()["filtered_by"] == {"not a retweet": 4}
    assert score(dump, until="2021-01-01").to_dict()["filtered_by"] == {"too late": 4}
    found = score(dump).to_dict()
    assert (found["scored"], found["already_scored"]) == (2, 3)


def test_repeated_texts_are_computed_once_and_every_tweet_has_its_row(
    score: Score, tmp_path: Path
) -> None:
    original = v1(0, text="a very happy cat sat on the mat today")
    retweets = [v1(i, text="RT @b: a very…", retweeted_status=original) for i in range(1, 90)]
    others = [v1(100 + i, text=f"dog {i}") for i in range(30)]
    tweets = [original, *retweets[:40], *others, *retweets[40:]]
    dump = write_tweets(tmp_path / "dump", tweets)
    found = score(dump, block_rows=10).to_dict()
    assert found["scored"] == len(tweets) == 120
    assert found["retweets"] == found["recovered"] == 89
    assert found["computed"] == 31
    table = scores(tmp_path / "out")
    same = table.filter(pa.array([h == text_hash(original["text"]) for h in
                                  table["text_hash"].to_pylist()]))  # fmt: skip
    assert len(same) == 90
    assert np.ptp(same["mood_p_glad"].to_numpy()) < 1e-3
    score(dump, output=tmp_path / "small", block_rows=7, cache_texts=4)
    assert_same_scores(scores(tmp_path / "small"), table)


# --- again and again ----------------------------------------------------------------------------


def test_a_rerun_reads_nothing_and_a_grown_file_adds_what_is_new(
    score: Score, tmp_path: Path
) -> None:
    dump = write_tweets(tmp_path / "dump", [v1(i) for i in range(50)])
    with dump.open("ab") as file:
        file.write(b'{"cut":')
    score(dump)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.parquet")}
    found = score(dump).to_dict()
    assert (found["read"], found["inputs"]["unchanged"], found["unchanged_rows"]) == (0, 1, 51)
    assert found["files_written"] == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.parquet")} == before
    shutil.copy(dump, tmp_path / "copied")
    assert score(tmp_path / "copied").to_dict()["inputs"]["unchanged"] == 1
    with dump.open("ab") as file:
        file.write(b"\n" + jsonl([v1(i) for i in range(50, 80)]))
    found = score(dump).to_dict()
    assert (found["scored"], found["already_scored"], found["quarantined"]) == (30, 50, 1)
    assert scores(tmp_path / "out")["id"].to_pylist() == [v1(i)["id_str"] for i in range(80)]
    lines = [(row["line"], row["reason"]) for row in quarantine(tmp_path / "out")]
    assert len(lines) == len(set(lines)) == 2  # cut at the end of the file, then within it


def test_rows_wait_for_files_of_some_size(score: Score, tmp_path: Path) -> None:
    days = [f"Fri Jan {1 + i % 20:02d} 07:29:00 +0000 2021" for i in range(400)]
    tweets = [v1(i, created_at=day) for i, day in enumerate(days)]
    dump = write_tweets(tmp_path / "dump", tweets)
    assert score(dump, block_rows=16).files_written == 20
    report = score(dump, output=tmp_path / "tight", block_rows=16, buffer_rows=100)
    assert 20 < report.files_written <= 200
    assert_same_scores(scores(tmp_path / "tight"), scores(tmp_path / "out"))


def test_a_run_that_stops_at_any_block_is_completed(tmp_path: Path) -> None:
    tweets = [v1(i, text=f"dog {i % 37}") for i in range(100)]
    spans = ((0, 40), (30, 40), (35, 70), (60, 100))  # the second has no new row
    inputs = [write_tweets(tmp_path / f"{a}-{b}", tweets[a:b]) for a, b in spans]
    inputs[2].write_bytes(inputs[2].read_bytes() + b"{bad\n")
    stop, stopped = 0, True
    while stopped:
        output = tmp_path / f"out{stop}"
        try:
            run_without_model(inputs, output, stop)
            stopped = False
        except ScoreError:
            run_without_model(inputs, output, None)
        found = scores(output)
        assert found["id"].to_pylist() == [tweet["id_str"] for tweet in tweets]
        assert found["of"].equals(found["text_hash"])
        assert found["text_hash"].to_pylist() == [text_hash(tweet["text"]) for tweet in tweets]
        assert len(quarantine(output)) == 1
        assert run_without_model(inputs, output, 0).to_dict()["inputs"]["unchanged"] == 4
        stop += 1
    assert stop > 12, "one for every block"


def test_a_lost_ledger_is_made_again(score: Score, tmp_path: Path) -> None:
    dump = write_tweets(tmp_path / "dump", [v1(i) for i in range(20)])
    (tmp_path / "dump").write_bytes(dump.read_bytes() + b"{bad\n")
    score(dump)
    (tmp_path / "out" / "_ledger.sqlite").unlink()
    found = score(dump).to_dict()
    assert (found["scored"], found["already_scored"], found["quarantined"]) == (0, 20, 1)
    assert score(dump).to_dict()["inputs"]["unchanged"] == 1
    assert len(quarantine(tmp_path / "out")) == 1


def test_rows_of_a_deleted_file_come_back(score: Score, tmp_path: Path) -> None:
    dump = write_tweets(tmp_path / "dump", [v1(i) for i in range(20)])
    other = write_tweets(tmp_path / "b", [v1(i, created_at="2021-02-03") for i in range(20, 30)])
    score(dump, other)
    (deleted,) = (tmp_path / "out" / "date=2021-02-03").iterdir()
    deleted.unlink()
    found = score(dump, other).to_dict()
    assert (found["scored"], found["already_scored"]) == (10, 20)
    # Files may be put together by other programs, even while both copies are there.
    files = sorted((tmp_path / "out").glob("date=*/*.parquet"))
    pq.write_table(scores(tmp_path / "out"), files[0].with_name("compacted.parquet"))
    score(dump, other)
    for file in files:
        file.unlink()
    assert score(dump, other).to_dict()["already_scored"] == 30


def test_folders_that_are_no_scores_are_refused(
    finished_run: Path, score: Score, tmp_path: Path
) -> None:
    dump = write_tweets(tmp_path / "dump", [v1(0)])
    config = RunConfig.load(finished_run)
    for folder in (config.store.path, config.run_dir):
        with pytest.raises(ScoreError, match="no folder for scores"):
            score(dump, output=Path(folder))
    score(dump)
    next((tmp_path / "out").glob("date=*/*.parquet")).write_bytes(b"broken")
    with pytest.raises(ScoreError, match="damaged"):
        score(dump)


def test_a_dry_run_counts_and_writes_nothing(score: Score, tmp_path: Path) -> None:
    dump = write_tweets(tmp_path / "dump", [v1(0), v1(1), v1(0), v1(2, lang="de")])
    found = score(dump, dry_run=True, languages=("en",)).to_dict()
    assert (found["status"], found["scored"], found["repeated"]) == ("dry run", 2, 1)
    assert not (tmp_path / "out").exists()
    score(write_tweets(tmp_path / "first", [v1(0)]))
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    found = score(dump, dry_run=True, buffer_rows=1, block_rows=1).to_dict()
    assert (found["scored"], found["already_scored"], found["repeated"]) == (2, 2, 0)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before


def test_two_runs_at_once(score: Score, tmp_path: Path) -> None:
    dump = write_tweets(tmp_path / "dump", [v1(i) for i in range(300)])
    reports: list[ScoreReport] = []
    runs = [
        threading.Thread(target=lambda: reports.append(score(dump, block_rows=20)))
        for _ in range(2)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert sorted(report.scored for report in reports) == [0, 300]
    assert len(scores(tmp_path / "out")) == 300


def test_the_command_prints_a_summary_line_whatever_happens(
    heads: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dump = write_tweets(tmp_path / "dump", [v1(0)])
    dump.write_bytes(dump.read_bytes() + b"{bad\n")
    command = ["score", str(dump), "--out", str(tmp_path / "out"), "-q", "--json"]
    command += [word for folder in heads for word in ("--heads", str(folder))]
    for more, code, status in (
        (["--dry-run", "--max-errors", "1"], 0, "dry run"),
        (["--max-errors", "0.6", "--since", "2021-01-01", "--lang", "en"], 0, "done"),
        (["--max-errors", "0"], 1, "failed"),
    ):
        assert run_command([*command, *more]) == code
        found = capsys.readouterr()
        assert json.loads(found.out.splitlines()[-1])["status"] == status
        assert ("rows were unreadable" in found.err) == (code == 1)
    assert run_command([*command, "--max-errors", "7"]) == 2
    runs = sorted((tmp_path / "out" / "_runs").glob("*.json"))
    assert [json.loads(run.read_text())["status"] for run in runs] == ["done", "failed"]


def test_the_command_says_what_it_does_and_refuses_early(
    heads: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = write_rows(tmp_path / "in.csv", ROWS), tmp_path / "out"
    command = ["score", str(path), *(w for folder in heads for w in ("--heads", str(folder)))]
    columns = ["--text", "body", "--id", "tid", "--time", "posted", "--lang-column", "tongue"]
    asked = ["--lang", "en", "--since", "2024-05-06", "--check-content", "--dry-run"]
    assert run_command([*command, *columns, *asked, "--out", str(out)]) == 0
    found = capsys.readouterr()
    assert found.err.startswith("[    0.0 s] loading")
    assert "columns: text = 'body', id = 'tid', time = 'posted', lang = 'tongue'" in found.err
    assert found.out.endswith("3 rows read, 1 to score, 1 left out (language), 1 left out (language"
                              " unknown)\n")  # fmt: skip
    for words in (
        [*columns[:4], "--lang", "english"],
        [*columns[:4], "--lang", "en"],
        [*columns[:4], "--out", "s3://bucket/scores"],
        ["--text", "boddy"],
    ):
        assert run_command([*command, "--out", str(out), *words, "-q"]) == 2
    assert run_command(["score", str(tmp_path / "none"), *command[2:], "--out", str(out)]) == 2
    assert not out.exists()


def test_texts_are_kept_as_in_the_store_of_the_run(finished_run: Path, tmp_path: Path) -> None:
    config = finished_run.with_name("without.toml")
    config.write_text(finished_run.read_text().replace("[store]", "[store]\nkeep_text = false"))
    dump = write_tweets(tmp_path / "dump", [v1(0)])
    dump.write_bytes(dump.read_bytes() + b'{"text": "secret\n')
    for name, keep_text in (("run", None), ("said", True)):
        options = ScoreOptions(keep_text=keep_text)
        score_files([dump], config, tmp_path / name, options=options, max_errors=1.0)
        (line,) = quarantine(tmp_path / name)
        assert ("secret" in line["excerpt"]) == bool(keep_text)
    headless = tmp_path / "headless.csv"
    headless.write_text("7,secret\n8,other\n")
    for name, keep_text in (("run", None), ("said", True)):
        with pytest.raises(IncompleteScores, match="secret"):
            options = ScoreOptions(keep_text=keep_text)
            score_files([dump, headless], config, tmp_path / name, options=options, max_errors=1.0)
        records = "".join(run.read_text() for run in (tmp_path / name / "_runs").iterdir())
        assert ("secret" in records) == bool(keep_text)
    config.unlink()


def test_normalisation_is_that_of_the_heads(tiny_bert: Path, tmp_path: Path) -> None:
    raw = NormaliseConfig(users=False, urls=False, html_unescape=False)
    folders = write_heads(tmp_path / "raw", tiny_bert, normalise=raw)
    dump = write_tweets(tmp_path / "dump", [v1(0)])
    score_files([dump], output=tmp_path / "out", options=ScoreOptions(heads=folders))
    assert scores(tmp_path / "out")["text_hash"].to_pylist() == [text_hash(v1(0)["text"])]


def test_rows_torn_from_their_write_finish_no_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread is ended amid a write while another reads on: the input is read again."""
    card, done = {"fingerprint": "made", "tasks": {}}, Finished("day", {"read": 2})
    rows = pa.table(
        {
            "id": ["1", "2"],
            "text_hash": [text_hash("tea")] * 2,
            "source_file": ["day"] * 2,
            "created_at": pa.array([0, 0], pa.timestamp("s", tz="UTC")),
        }
    )

    def ended(batches: Iterator[object], _: object) -> None:
        next(batches)
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        monkeypatch.context() as patch,
        open_scores(tmp_path, card, buffer_rows=1) as folder,
    ):
        patch.setattr(folder._keeper, "write", ended)
        with pytest.raises(KeyboardInterrupt):
            folder.add(rows, 0)
        patch.undo()
        folder.finish(0, "key", done)
        with pytest.raises(ScoreError, match="could not be written"):
            folder.flush()
        raise KeyboardInterrupt
    with open_scores(tmp_path, card, buffer_rows=1) as folder:
        assert folder.finished("key") is None
