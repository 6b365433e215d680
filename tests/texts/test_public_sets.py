"""Sets as they are published, each read by five lines of TOML; the texts are made up."""

from __future__ import annotations

import json
import tomllib
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.errors import CorpusError
from pipeline.texts.corpus import Corpus, corpus_of, describe_corpus
from tests.builders.tables import made_rows

REST = """
name = "five"
run_dir = "run"
[backbone]
model = "./model"
[store]
path = "store"
"""
EMOTIONS = ["admiration", "amusement", "anger", "joy", "neutral"]


def read(folder: Path, lines: str) -> Corpus:
    """A corpus by lines of TOML that lie in a folder; the task's own section is not counted."""
    entry, _, task = lines.strip().partition("[[tasks]]")
    assert len(entry.strip().splitlines()) <= 6, entry  # [[corpus]] and five
    data = tomllib.loads(f"{REST}\n{entry}\n[[tasks]]\n{task}")
    return corpus_of(RunConfig.from_dict(data, origin=folder / "run.toml"))


def label_counts(corpus: Corpus, task: str = "mood") -> Counter[str]:
    return Counter(corpus.labels[task]["label"].to_pylist())


TASK = """
[[tasks]]
name = "mood"
type = "classification"
"""
SETS = TASK.replace("classification", "multilabel")


def test_sentiment140(tmp_path: Path) -> None:
    lines = [
        f'"{(0, 4, 2)[i % 3]}","{row["id"]}","Mon Apr 06 22:19:{i % 60:02} PDT 2009","NO_QUERY",'
        f'"someone{i}","caf\u00e9, {row["text"]} \u2013 so \u201cgood\u201d"'
        for i, row in enumerate(made_rows())
    ]
    (tmp_path / "training.csv").write_bytes("\r\n".join(lines).encode("cp1252"))
    toml = f"""
[[corpus]]
path = "training.csv"
encoding = "cp1252"
columns = ["target", "id", "date", "flag", "user", "text"]
id = "id"
time = "date"
labels = {{ mood = "target" }}
{TASK}"""
    entry = toml.replace('id = "id"\n', "")
    corpus = read(tmp_path, entry)
    assert label_counts(corpus) == {"0": 20, "2": 20, "4": 20}
    assert corpus.samples["text"][0].as_py().startswith("caf\u00e9, ")
    assert " \u2013 so \u201cgood\u201d" in corpus.samples["text"][0].as_py()
    assert corpus.samples["created_at"][0].as_py() == 1239081540  # 22:19:00 in Pacific daylight
    names = 'label_names = { mood = { 0 = "negative", 2 = "neutral", 4 = "positive" } }'
    named = read(tmp_path, entry.replace('time = "date"', names))
    assert named.classes["mood"] == ("negative", "neutral", "positive")
    two = read(tmp_path, entry.replace('time = "date"', "where = { target = [0, 4] }"))
    assert label_counts(two) == {"0": 20, "4": 20}
    with pytest.raises(CorpusError) as caught:
        read(tmp_path, entry.replace('encoding = "cp1252"\n', ""))
    assert str(caught.value) == (
        f"{tmp_path}/training.csv: line 1: not UTF-8: byte 0xE9 at position 69 looks like latin-1"
        ' or cp1252; set encoding = "cp1252"'
    )
    with pytest.raises(CorpusError, match=r"line 1 looks like a row of data: .* its 6 columns"):
        read(tmp_path, entry.replace("columns", "# columns"))


def test_airline_tweets(tmp_path: Path) -> None:
    lines = ["tweet_id,airline_sentiment,airline_sentiment_confidence,name,text,tweet_created"]
    lines += [
        f"{row['id']},{('negative', 'neutral', 'positive')[i % 3]},{(i // 3 % 5) / 4},someone{i},"
        f'"@Air {row["text"]}, late",2015-02-24 11:35:52 -0800'
        for i, row in enumerate(made_rows(150))
    ]
    (tmp_path / "Tweets.csv").write_text("\n".join(lines))
    corpus = read(
        tmp_path,
        f"""
[[corpus]]
path = "Tweets.csv"
id = "tweet_id"
time = "tweet_created"
where = {{ airline_sentiment_confidence = ">= 0.5" }}
labels = {{ mood = "airline_sentiment" }}
{TASK}""",
    )
    assert label_counts(corpus) == dict.fromkeys(("negative", "neutral", "positive"), 30)
    assert set(corpus.samples["created_at"].to_pylist()) == {1424806552}
    assert corpus.report.rows_filtered == 60


def test_goemotions_simplified(tmp_path: Path) -> None:
    cells = ["2", "0,4", "1", "3", "0,1,3", "4"]
    for split, start, count in (("train", 0, 60), ("dev", 60, 20), ("test", 80, 20)):
        rows = made_rows(100)[start : start + count]
        lines = [f"{r['text']}\t{cells[i % len(cells)]}\tee{r['id']}" for i, r in enumerate(rows)]
        (tmp_path / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    (tmp_path / "emotions.txt").write_text("\n".join(EMOTIONS))
    entry = f"""
[[corpus]]
path = "*.tsv"
columns = ["text", "labels", "id"]
separator = ","
labels = {{ mood = "labels" }}
label_names = {{ mood = "emotions.txt" }}
{SETS}"""
    corpus = read(tmp_path, entry)
    assert corpus.classes["mood"] == tuple(EMOTIONS)
    assert label_counts(corpus)['["admiration", "amusement", "joy"]'] == 16
    assert f"  {tmp_path}/*.tsv: 3 files, in the order of their names" in describe_corpus(corpus)
    with pytest.raises(
        CorpusError, match="'0,4' is none of the labels, but its parts are; set sepa"
    ):
        read(tmp_path, entry.replace('separator = ","\n', ""))
    (tmp_path / "emotions.txt").write_text("\n".join(EMOTIONS[:4]))
    with pytest.raises(CorpusError, match="labels '4' is none of label_names, which has '0', '1',"):
        read(tmp_path, entry)


def test_goemotions_raw(tmp_path: Path) -> None:
    lines = [",".join(["text", "id", "rater_id", "example_very_unclear", *EMOTIONS])]
    for i, row in enumerate(made_rows()):
        flags = ",".join(str(int(i % len(EMOTIONS) == place)) for place in range(len(EMOTIONS)))
        lines.append(f"{row['text']},e{row['id']},{i % 3},{i % 10 == 0},{flags}")
    (tmp_path / "goemotions_1.csv").write_text("\n".join(lines))
    corpus = read(
        tmp_path,
        f"""
[[corpus]]
path = "goemotions_*.csv"
id = "id"
where = {{ example_very_unclear = false }}
labels = {{ mood = {json.dumps(EMOTIONS)} }}
{SETS}""",
    )
    assert corpus.classes["mood"] == tuple(EMOTIONS)
    assert corpus.report.rows_filtered == 6


def test_stanford_sentences_and_trees(tmp_path: Path) -> None:
    rows = made_rows(90)
    parts = {"train": rows[:50], "dev": rows[50:70], "test": rows[70:]}
    with zipfile.ZipFile(tmp_path / "trees.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            lines = ["index\tsentence\tlabel"]
            trees = []
            for i, row in enumerate(part):
                lines.append(f"{i}\t{row['text']} (so)\t{row['mood']}")
                words = [*row["text"].split(), "-LRB-", "so", "-RRB-"]
                tree = f"(2 {words[0]})"
                for word in words[1:]:
                    tree = f"({row['mood']} {tree} (2 {word}))"
                trees.append(tree)
            (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n")
            archive.writestr(f"trees/{name}.txt", "\n".join(trees) + "\n")
    sentences = read(
        tmp_path,
        f"""
[[corpus]]
train = "train.tsv"
val = "dev.tsv"
test = "test.tsv"
text = "sentence"
labels = {{ mood = "label" }}
{TASK}""",
    )
    trees = read(
        tmp_path,
        f"""
[[corpus]]
train = "trees.zip/trees/train.txt"
val = "trees.zip/trees/dev.txt"
test = "trees.zip/trees/test.txt"
format = "trees"
labels = {{ mood = "label" }}
{TASK}""",
    )
    assert sentences.report.splits["mood"] == {"train": 50, "val": 20, "test": 20}
    assert label_counts(trees) == label_counts(sentences)
    spaced = {text.replace("(so)", "( so )") for text in sentences.samples["text"].to_pylist()}
    assert set(trees.samples["text"].to_pylist()) == spaced


def test_imdb_folders(tmp_path: Path) -> None:
    rows = iter(made_rows(120))
    for split, count in (("train", 40), ("test", 15)):
        for folder in ("pos", "neg", "unsup"):
            (tmp_path / "aclImdb" / split / folder).mkdir(parents=True)
            for i in range(count if folder != "unsup" else 5):
                path = tmp_path / "aclImdb" / split / folder / f"{i}_7.txt"
                path.write_text(f"{next(rows)['text']}<br />\nand a line", encoding="utf-8")
        (tmp_path / "aclImdb" / split / "urls_pos.txt").write_text("http://example.org\n")
    corpus = read(
        tmp_path,
        f"""
[[corpus]]
train = "aclImdb/train"
test = "aclImdb/test"
format = "folders"
where = {{ folder = ["neg", "pos"] }}
labels = {{ mood = "folder" }}
{TASK}""",
    )
    assert label_counts(corpus) == {"neg": 55, "pos": 55}
    assert corpus.report.splits["mood"]["test"] == 30
    assert corpus.samples["text"][0].as_py().endswith("<br />\nand a line")
