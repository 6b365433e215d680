"""A fit is a run: the same heads as of `salient run` on the same rows, and the real encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import stages
from pipeline.config import RunConfig, TaskConfig
from pipeline.demo import write_demo_tweets
from pipeline.estimators import SalientClassifier
from pipeline.scoring import Scorer
from pipeline.texts import memory_corpus
from store import text_hash
from tests.builders.moods import Moods, make_moods

TEST = make_moods(40, seed=2)


@pytest.mark.parametrize(
    "kinds", [["dense", "sparse", "stack"], pytest.param(["frozen"], marks=pytest.mark.slow)]
)
def test_a_fit_finds_the_head_of_a_run(
    quick: dict[str, Any], moods: Moods, tmp_path: Path, kinds: list[str]
) -> None:
    clf = SalientClassifier(**quick | {"kinds": kinds}).fit(moods.texts, moods.mood)
    task = TaskConfig(name="label", type="classification", labels=("glad", "sad"))
    corpus = memory_corpus(moods.texts, moods.mood.tolist(), task, val=0.15, seed=0)
    table = corpus.labels["label"]
    split = dict(zip(table["id"].to_pylist(), table["split"].to_pylist(), strict=True))
    rows = [
        {
            "id": text_hash(text),
            "text": text,
            "label": mood,
            "split": split.get(text_hash(text), "test"),
        }
        for part in (moods, TEST)
        for text, mood in zip(part.texts, part.mood.tolist(), strict=True)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = RunConfig.from_dict(
        {
            "name": "mood",
            "run_dir": "run",
            "backbone": {"model": quick["model"]},
            "store": {"path": "activations"},
            "corpus": [
                {"path": "rows.jsonl", "id": "id", "split": "split", "labels": {"label": "label"}}
            ],
            "tasks": [task.model_dump()],
            "probe": quick["config"]["probe"],
            "head": quick["config"]["head"] | {"kinds": kinds},
        },
        origin=tmp_path / "run.toml",
    )
    report = stages.run(config)["tasks"]["label"]
    card = clf.head_.card
    assert (report["chosen"]["kind"], report["chosen"]["depth"]) == (card.kind, card.depth)
    assert report["chosen"]["num_features"] == card.num_features
    assert report["chosen"]["loss"] == pytest.approx(clf.loss_, rel=1e-4)
    scorer = Scorer.load([tmp_path / "run/heads/label/chosen"])
    own, its = clf.predict_proba(TEST.texts), scorer.predict_proba(TEST.texts)
    assert np.allclose(own, its, atol=1e-3)


def test_with_the_real_encoder(minilm: str, tmp_path: Path) -> None:
    write_demo_tweets(tmp_path / "tweets.csv")
    tweets = pd.read_csv(tmp_path / "tweets.csv").dropna().head(160)
    train, test = tweets.head(120), tweets.tail(40)
    own: dict[str, Any] = {
        "kinds": ["sparse"],
        "cache": tmp_path / "cache",
        "progress": False,
        "config": {"head": {"eta": [0.5]}},
    }
    clf = SalientClassifier(**own).fit(train["text"], train["travel"])
    assert clf.score(test["text"], test["travel"]) > 0.7
    scorer = Scorer.load([clf.save(tmp_path / "head")])
    assert (scorer.predict(test["text"]) == clf.predict(test["text"])).all()
    probability = clf.predict_proba(test["text"]).astype(np.float32)
    assert (scorer.predict_proba(test["text"]) == probability).all()
