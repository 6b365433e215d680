"""Lexical features: scikit-learn's TF-IDF, the same before and after storing, in every script."""

from __future__ import annotations

import copy
import os
import pickle
import random
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from pipeline.texts.lexical import (
    KNOWN_PIECES,
    PIECE_LENGTH,
    Lexicon,
    _character_analyser,
    _long_ngrams,
)
from store.tables import read_arrays, read_json, write_arrays, write_json
from tests.builders.paths import ROOT

PLAIN = [
    "Not good, not GOOD at all :( http",
    "@user so good!!! 😀😀 good",
    "I am u and u are me",
    "今日はいい天気ですね。 今日は http",
    "Ο ΟΔΟΣ — ὀδός ❤️ café ❤",
    "#hashtag_1 100% don't  \t stop\n\nnow",
    "x" * (PIECE_LENGTH + 9) + " ok",
    "👩\u200d👩\u200d👧 \x00\u2028end \x1c",
]
TEXTS = [*PLAIN, "cafe\u0301 İstanbul", "नहीं नहीं यह अच्छा है"]
CLOSE = {"rtol": 1e-6, "atol": 0}


def same(first: sp.csr_array, second: sp.csr_array) -> bool:
    """Bit for bit, the order of entries included."""
    return first.shape == second.shape and all(
        getattr(first, name).dtype == getattr(second, name).dtype
        and getattr(first, name).tobytes() == getattr(second, name).tobytes()
        for name in ("data", "indices", "indptr")
    )


def reference(words: Any, characters: Any, texts: list[str], **options: Any) -> tuple[Any, Any]:
    """Names and features ``(n, terms)`` float64 by scikit-learn's own vectorisers."""
    names, blocks = [], []
    for own in ({"token_pattern": r"\w+"}, {"analyzer": "char_wb"}):
        span, vocabulary = ((2, 5), characters) if "analyzer" in own else ((1, 2), words)
        model = TfidfVectorizer(
            ngram_range=span, sublinear_tf=True, vocabulary=vocabulary, **own, **options
        )
        blocks.append(model.fit_transform(texts) * np.sqrt(0.5))
        names.append(tuple(model.get_feature_names_out()))
    return tuple(names), sp.hstack(blocks).toarray()


def test_features_are_those_of_scikit_learn() -> None:
    lexicon = Lexicon.fit(PLAIN)
    names, expected = reference(None, None, PLAIN)
    assert (lexicon.words, lexicon.characters) == names
    found = lexicon.features(PLAIN)
    assert found.dtype == lexicon.idf.dtype == np.float32 and found.has_canonical_format
    np.testing.assert_allclose(found.toarray(), expected, **CLOSE)


def test_features_of_real_tweets_are_those_of_scikit_learn(shared_data: Path) -> None:
    path = shared_data / "tweeteval/emotion/val_text.txt"
    texts = path.read_text(encoding="utf-8").split("\n")[:-1]
    lexicon = Lexicon.fit(texts, max_terms=500)
    names, _ = reference(None, None, texts, min_df=2)
    assert set(lexicon.words) < set(names[0]) and set(lexicon.characters) < set(names[1])
    assert len(lexicon.words) == len(lexicon.characters) == 500
    _, expected = reference(lexicon.words, lexicon.characters, texts)
    np.testing.assert_allclose(lexicon.features(texts).toarray(), expected, **CLOSE)


def test_rare_terms_are_left_out_of_many_texts_only() -> None:
    few = [f"same{i}" for i in range(299)]
    assert len(Lexicon.fit(few).words) == 299
    assert Lexicon.fit([*few, "same0"]).words == ("same0",)
    assert Lexicon.fit(["a b", "b c", "b"], min_texts=3).words == ("b",)
    assert Lexicon.fit([*few, "same0"], min_texts=1).words == Lexicon.fit(few).words


def test_the_terms_of_most_texts_are_kept_and_ties_are_in_order() -> None:
    texts = ["b c", "c b", "b a", "a d d d d"]
    assert Lexicon.fit(texts, max_terms=2).words == ("a", "b")  # a, b: 2, 3 texts; c: 2
    assert Lexicon.fit(texts, max_terms=3).words == ("a", "b", "c")
    assert Lexicon.fit(texts, max_terms=0).terms == ()


def test_combining_marks_belong_to_their_word() -> None:
    words = Lexicon.fit(TEXTS).words
    assert {"नहीं", "अच्छा", "है", "cafe\u0301", "café", "नहीं नहीं", "i", "user so"} <= set(words)


def test_each_block_of_a_text_has_half_the_length() -> None:
    lexicon = Lexicon.fit(TEXTS)
    x = lexicon.features([*TEXTS, "!!!", "", " \n", "unseen", "字"]).toarray()
    square = np.square(x, dtype=np.float64)
    num_words = len(lexicon.words)
    np.testing.assert_allclose(square[: len(TEXTS)].sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(square[: len(TEXTS), :num_words].sum(axis=1), 0.5, rtol=1e-6)
    assert square[len(TEXTS), :num_words].sum() == 0  # "!!!" has no words, but characters
    assert square[len(TEXTS)].sum() == pytest.approx(0.5)
    assert not square[len(TEXTS) + 1 : len(TEXTS) + 3].any()


def test_a_row_does_not_depend_on_the_others() -> None:
    lexicon = Lexicon.fit(TEXTS)
    whole = lexicon.features(TEXTS * 3)
    rows = [lexicon.features([text]) for text in TEXTS * 3]
    assert same(whole, sp.vstack(rows, format="csr"))


def test_forgotten_pieces_are_looked_up_again() -> None:
    lexicon = Lexicon.fit(TEXTS)
    first = lexicon.features(TEXTS)
    lexicon.features([" ".join(map(str, range(KNOWN_PIECES + 1)))])
    assert same(lexicon.features(TEXTS), first)


@pytest.mark.parametrize("texts", [[], [""], ["", " ", "\n"]])
def test_no_term_is_no_column(texts: list[str]) -> None:
    lexicon = Lexicon.fit(texts)
    assert lexicon.terms == () and lexicon.idf.shape == (0,)
    assert lexicon.features(["a word", ""]).shape == (2, 0)
    assert Lexicon.from_json(lexicon.to_json(), lexicon.arrays()).terms == ()


def test_no_texts_are_no_rows() -> None:
    lexicon = Lexicon.fit(["one text"])
    assert lexicon.features([]).shape == (0, len(lexicon.terms))
    assert lexicon.features(["one text"]).shape == (1, len(lexicon.terms))


def test_terms_have_clear_names() -> None:
    lexicon = Lexicon.fit(['not good "a" 👩\u200d👧'])
    names = lexicon.terms
    assert names[0] == 'word "a"' and 'word "not good"' in names
    assert {'characters " not "', 'characters " \\"a\\" "'} <= set(names)
    assert 'characters "\\ud83d\\udc69\\u200d"' in names  # a joiner cannot be seen
    assert len(set(names)) == len(names) == len(lexicon.idf)


SOME = st.lists(st.text(max_size=40), max_size=8)


@given(texts=SOME, others=SOME)
def test_a_stored_lexicon_gives_the_same_features(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], others: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("lexicon")
    lexicon = Lexicon.fit(texts)
    write_json(folder / "lexicon.json", lexicon.to_json())
    write_arrays(folder / "lexicon.safetensors", lexicon.arrays())
    again = Lexicon.from_json(
        read_json(folder / "lexicon.json"), read_arrays(folder / "lexicon.safetensors")
    )
    assert (again.words, again.characters) == (lexicon.words, lexicon.characters)
    for some in (texts, others):
        assert same(again.features(some), lexicon.features(some))


DIGEST = """
import hashlib, sys
from pathlib import Path
from pipeline.texts.lexical import Lexicon
from store.tables import read_arrays, read_json

def digest(lexicon, texts):
    x = lexicon.features(texts)
    parts = [repr(lexicon.terms).encode(), lexicon.idf, x.data, x.indices, x.indptr]
    return hashlib.sha256(b"".join(bytes(part) for part in parts)).hexdigest()

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    texts = read_json(folder / "texts.json")["texts"]
    stored = Lexicon.from_json(read_json(folder / "a.json"), read_arrays(folder / "a.safetensors"))
    print(digest(Lexicon.fit(texts, max_terms=60), texts), digest(stored, texts))
"""


def test_features_are_the_same_in_every_process(tmp_path: Path) -> None:
    """Whatever the order of sets there."""
    lexicon = Lexicon.fit(TEXTS, max_terms=60)
    write_json(tmp_path / "texts.json", {"texts": TEXTS})
    write_json(tmp_path / "a.json", lexicon.to_json())
    write_arrays(tmp_path / "a.safetensors", lexicon.arrays())
    names: dict[str, Any] = {"__name__": "digest"}
    exec(DIGEST, names)
    own = names["digest"](lexicon, TEXTS)
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", DIGEST, str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == [own, own]


def test_a_lexicon_is_copied_without_what_it_remembers() -> None:
    lexicon = Lexicon.fit(TEXTS)
    size, first = len(pickle.dumps(lexicon)), lexicon.features(TEXTS)
    assert len(pickle.dumps(lexicon)) == size
    assert same(copy.deepcopy(lexicon).features(TEXTS), first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"words": "ab"}, "words: not a list of strings"),
        ({"characters": [1, 2]}, "characters: not a list of strings"),
        ({"words": ["a", "a"]}, "words: 'a' is there twice"),
        (
            {"words": ["a"]},
            "idf: float32 (5,), but there are 1 words and 3 characters: float32 (4,)",
        ),
        ({"idf": np.ones(5)}, "idf: float64 (5,), but there are 2 words and 3 characters"),
    ],
)
def test_what_does_not_belong_together_is_refused(change: dict[str, Any], message: str) -> None:
    facts = {"words": ["a", "b"], "characters": [" a", "a ", " a "], "idf": np.ones(5, np.float32)}
    facts |= change
    with pytest.raises(ValueError) as caught:
        Lexicon.from_json(facts, {"idf": facts["idf"]})
    assert message in str(caught.value)


@pytest.mark.parametrize("missing", ["words", "characters", "idf"])
def test_what_is_missing_is_named(missing: str) -> None:
    lexicon = Lexicon.fit(["a b"])
    facts: dict[str, Any] = {**lexicon.to_json(), **lexicon.arrays()}
    del facts[missing]
    with pytest.raises(KeyError, match=missing):
        Lexicon.from_json(facts, facts)


@pytest.mark.parametrize("size", [PIECE_LENGTH + 1, 500])
def test_a_piece_of_any_length_is_cut_alike(size: int) -> None:
    piece = "".join(random.Random(0).choices("ab\u4eca\u0301.", k=size))
    assert Counter(_long_ngrams(piece)) == Counter(_character_analyser()(piece))


def test_a_long_piece_is_not_held_as_a_list_of_its_ngrams() -> None:
    lexicon = Lexicon.fit(["ab ba", "aab b"], min_texts=1)
    piece = "ab" * 200_000
    tracemalloc.start()
    try:
        features = lexicon.features([piece])
        assert tracemalloc.get_traced_memory()[1] < 40_000_000  # a list would be four times that
    finally:
        tracemalloc.stop()
    assert features.nnz
