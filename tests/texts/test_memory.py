"""A corpus from memory: what one from a file is, without a test split."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config import NormaliseConfig, TaskConfig
from pipeline.errors import CorpusError
from pipeline.texts.memory import memory_corpus, normalised
from store import text_hash
from tests.builders.moods import make_moods

MOOD = TaskConfig(name="mood", type="classification", labels=("glad", "sad"))
MOODS = make_moods(100)


def test_every_row_is_in_one_of_two_splits_whatever_their_order() -> None:
    rows = MOODS.mood.tolist()
    corpus = memory_corpus(MOODS.texts, rows, MOOD, val=0.2, seed=0)
    table = corpus.labels["mood"]
    assert corpus.report.splits["mood"] == {"train": 80, "val": 20}
    assert set(table["split"].to_pylist()) == {"train", "val"}
    assert corpus.samples["id"].to_pylist() == sorted(map(text_hash, MOODS.texts))
    assert corpus.classes == {"mood": ("glad", "sad")}
    order = np.random.default_rng(0).permutation(100)
    again = memory_corpus(
        [MOODS.texts[i] for i in order], [rows[i] for i in order], MOOD, val=0.2, seed=0
    )
    assert again.labels["mood"].equals(table) and again.samples.equals(corpus.samples)


def test_repeated_texts_are_rows_of_one_sample() -> None:
    texts, rows = [*MOODS.texts, MOODS.texts[0]], [*MOODS.mood.tolist(), "sad"]
    corpus = memory_corpus(texts, rows, MOOD, val=0.2, seed=0)
    assert (len(corpus.samples), len(corpus.labels["mood"])) == (100, 101)
    assert corpus.report.duplicate_texts == 1
    first = corpus.labels["mood"].to_pandas().query("id == @text_hash(@texts[0])")
    assert len(first) == 2 and first["split"].nunique() == 1


def test_weights_and_label_sets() -> None:
    task = TaskConfig(name="topics", type="multilabel", labels=("a", "b"))
    rows = [("b", "a") if i % 3 else () for i in range(100)]
    corpus = memory_corpus(MOODS.texts, rows, task, weights=[2.0] * 100, val=0.2, seed=0)
    table = corpus.labels["topics"]
    assert table.column_names == ["id", "split", "label", "weight"]
    assert set(table["label"].to_pylist()) == {"[]", '["a", "b"]'}


def test_what_cannot_be_learnt_is_refused() -> None:
    level = TaskConfig(name="level", type="regression")
    with pytest.raises(CorpusError, match="1 groups of near-duplicates: too few"):
        memory_corpus(["a"] * 9, ["glad", "sad", "sad"] * 3, MOOD, val=0.2, seed=0)
    with pytest.raises(CorpusError, match="nothing to learn"):
        memory_corpus(MOODS.texts, [1.0] * 100, level, val=0.2, seed=0)
    with pytest.raises(CorpusError, match="divide it by a constant"):
        memory_corpus(MOODS.texts, [1e300, *range(99)], level, val=0.2, seed=0)


def test_blank_texts_are_empty() -> None:
    assert normalised([" &nbsp; ", "a"], NormaliseConfig()) == ["", "a"]
