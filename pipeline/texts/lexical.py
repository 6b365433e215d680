"""Which words a text has, as features: TF-IDF of word and character n-grams.

A source of features beside a model's layers. Words, single and in pairs, say what a text is about;
runs of two to five characters within words also know endings, misspellings, emoji, and scripts
that write no spaces. Case is ignored. Texts come normalised as the run says::

    lexicon = Lexicon.fit(train_texts)
    x = lexicon.features(texts)              # (n, terms) float32, sparse
    lexicon.terms[0]                         # word "a"
    again = Lexicon.from_json(lexicon.to_json(), lexicon.arrays())

scikit-learn's analysers cut the texts, and the numbers are those of its
``TfidfVectorizer(sublinear_tf=True)``. Counting is our own, since most words of a text came before:
a word's columns are looked up once and remembered. Features are the same bit for bit before and
after storing, and whatever the other texts of the call.
"""

from __future__ import annotations

import json
import math
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer

Array = NDArray[Any]
Analyser = Callable[[str], Iterable[str]]
WORD_NGRAMS = (1, 2)
"""Words in a term."""
CHARACTER_NGRAMS = (2, 5)
"""Characters in a term; a space stands for either end of a word."""
MAX_TERMS = 20_000
"""Of words, and again of characters: as good as all terms on three tasks of TweetEval, while the
files of a lexicon stay below 1 MB."""
FEW_TEXTS = 300
"""Below, a term that occurs once is kept too."""
KNOWN_PIECES, PIECE_LENGTH = 2**15, 32
"""How many words, up to which length, are remembered with their columns: some 30 MB at most."""


@dataclass(frozen=True, eq=False)
class Lexicon:
    """The terms that are counted, and what each is worth.

    A head that reads a few of the terms takes the columns ``features(texts)[:, index]``. The
    lexicon stays whole, because a row's length is that of all its terms.

    Attributes:
        words: one or two words, in the order of their code points.
        characters: two to five characters, likewise.
        idf: ``(terms,)`` float32, of the words and then the characters.
    """

    words: tuple[str, ...]
    characters: tuple[str, ...]
    idf: Array

    @classmethod
    def fit(
        cls, texts: Sequence[str], *, min_texts: int | None = None, max_terms: int = MAX_TERMS
    ) -> Lexicon:
        """The terms of training texts; 45,000 tweets take 150 MB meanwhile.

        Without any term the lexicon has no columns: no error, since other features may be there.

        Args:
            texts: normalised.
            min_texts: texts that a term occurs in, or it is left out; default: 2, but 1 where there
                are fewer than 300 texts.
            max_terms: words kept, and again characters: those in most texts, ties by code points.
        """
        if min_texts is None:
            min_texts = 1 if len(texts) < FEW_TEXTS else 2
        remembered = lru_cache(KNOWN_PIECES)(_character_analyser())

        def cut(piece: str) -> Iterable[str]:
            return remembered(piece) if len(piece) <= PIECE_LENGTH else _long_ngrams(piece)

        in_words: Counter[str] = Counter()
        in_characters: Counter[str] = Counter()
        for text in texts:
            lower = text.lower()
            in_words.update(set(_word_analyser()(lower)))
            in_characters.update(set().union(*map(cut, set(lower.split()))))
        words = _most_frequent(in_words, min_texts, max_terms)
        characters = _most_frequent(in_characters, min_texts, max_terms)
        counts = [*map(in_words.get, words), *map(in_characters.get, characters)]
        idf = np.log((1 + len(texts)) / (1 + np.array(counts, dtype=np.float64))) + 1
        return cls(words, characters, idf.astype(np.float32))

    def features(self, texts: Sequence[str]) -> sp.csr_array:
        """TF-IDF of normalised texts, ``(n, terms)`` float32 with sorted indices.

        The words and the characters of a text are vectors of length ``sqrt(1/2)`` each, or zero.
        """
        words, characters = array("i"), array("i")
        word_ends, character_ends = [0], [0]
        word_columns, character_columns = self._columns
        for text in texts:
            lower = text.lower()
            words.extend(word_columns(lower))
            word_ends.append(len(words))
            for piece in lower.split():
                characters.extend(character_columns(piece))
            character_ends.append(len(characters))
        num_words = len(self.words)
        blocks = [
            _unit_rows(words, word_ends, self.idf[:num_words]),
            _unit_rows(characters, character_ends, self.idf[num_words:]),
        ]
        return sp.hstack(blocks, format="csr")

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the columns: ``word "not good"``, ``characters " ng"``; what cannot be printed
        is escaped."""
        words = (f"word {_quoted(term)}" for term in self.words)
        return (*words, *(f"characters {_quoted(term)}" for term in self.characters))

    def to_json(self) -> dict[str, list[str]]:
        """The terms as JSON; :meth:`arrays` holds the rest."""
        return {"words": list(self.words), "characters": list(self.characters)}

    def arrays(self) -> dict[str, Array]:
        """``idf``: ``(terms,)`` float32."""
        return {"idf": self.idf}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any], arrays: Mapping[str, Array]) -> Lexicon:
        """The lexicon that :meth:`to_json` and :meth:`arrays` (shapes as there) told of.

        Raises:
            KeyError: ``words``, ``characters`` or ``idf`` is not there.
            ValueError: they are not a lexicon's, or not of the same one.
        """
        words, characters, idf = facts["words"], facts["characters"], arrays["idf"]
        for name, terms in (("words", words), ("characters", characters)):
            if not isinstance(terms, list) or not all(isinstance(term, str) for term in terms):
                raise ValueError(f"{name}: not a list of strings")
            if len(set(terms)) < len(terms):
                raise ValueError(f"{name}: {Counter(terms).most_common(1)[0][0]!r} is there twice")
        if idf.shape != (len(words) + len(characters),) or idf.dtype != np.float32:
            raise ValueError(
                f"idf: {idf.dtype} {idf.shape}, but there are {len(words)} words and"
                f" {len(characters)} characters: float32 ({len(words) + len(characters)},)"
            )
        return cls(tuple(words), tuple(characters), idf)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and sent without what it remembers."""
        return type(self), (self.words, self.characters, self.idf)

    @cached_property
    def _columns(self) -> tuple[Callable[[str], array[int]], Callable[[str], array[int]]]:
        """The columns of a lower-case text's words, and of the characters of one piece of it."""
        of_text = _looked_up(_word_analyser(), self.words)
        of_piece = _looked_up(_character_analyser(), self.characters)
        of_long = _looked_up(_long_ngrams, self.characters)
        remembered = lru_cache(KNOWN_PIECES)(of_piece)
        return (
            of_text,
            lambda piece: remembered(piece) if len(piece) <= PIECE_LENGTH else of_long(piece),
        )


@cache
def _word_analyser() -> Analyser:
    """Cuts a lower-case text into words and pairs of words."""
    analyser: Analyser = CountVectorizer(
        lowercase=False, token_pattern=_word_pattern(), ngram_range=WORD_NGRAMS
    ).build_analyzer()
    return analyser


def _word_pattern() -> str:
    """One word.

    Single letters count (scikit-learn would drop them), and so do the vowel signs and other marks
    of a word, which ``\\w`` lacks.
    """
    codes = range(0x300, 0x10000)  # the few marks beyond would make matching five times slower
    marks = "".join(chr(code) for code in codes if unicodedata.category(chr(code))[0] == "M")
    return rf"\w[\w{marks}]*"


@cache
def _character_analyser() -> Analyser:
    """Cuts one piece of a lower-case text, without spaces, into characters."""
    analyser: Analyser = CountVectorizer(
        lowercase=False, analyzer="char_wb", ngram_range=CHARACTER_NGRAMS
    ).build_analyzer()
    return analyser


def _long_ngrams(piece: str) -> Iterator[str]:
    """What :func:`_character_analyser` cuts a piece of many characters into, one after another.

    A megabyte without a blank is four million of them.
    """
    padded = f" {piece} "
    for size in range(CHARACTER_NGRAMS[0], CHARACTER_NGRAMS[1] + 1):
        for start in range(len(padded) - size + 1):
            yield padded[start : start + size]


def _most_frequent(counts: Counter[str], min_texts: int, max_terms: int) -> tuple[str, ...]:
    terms = [term for term, count in counts.items() if count >= min_texts]
    terms.sort(key=lambda term: (-counts[term], term))
    return tuple(sorted(terms[:max_terms]))


def _looked_up(analyser: Analyser, terms: Iterable[str]) -> Callable[[str], array[int]]:
    """The function from what ``analyser`` cuts to the columns of the known terms in it."""
    find = {term: column for column, term in enumerate(terms)}.get

    def columns(text: str) -> array[int]:
        return array("i", (column for column in map(find, analyser(text)) if column is not None))

    return columns


def _unit_rows(columns: array[int], ends: list[int], idf: Array) -> sp.csr_array:
    """``(1 + ln count) idf`` in rows of length ``sqrt(1/2)``, ``(n, terms)`` float32.

    Args:
        columns: of the terms of all texts, as often as they occur.
        ends: ``n + 1`` positions in it: where each text's begin, and the end.
        idf: ``(terms,)`` float32.
    """
    shape = (len(ends) - 1, len(idf))
    ones = np.ones(len(columns), dtype=np.int32)
    counts = sp.csr_array(
        (ones, np.array(columns, np.int32), np.array(ends, np.int32)), shape=shape
    )
    counts.sum_duplicates()
    largest = int(counts.data.max(initial=0))
    frequency = np.array([1 + math.log(count) for count in range(1, largest + 1)])
    weights = frequency[counts.data - 1] * idf[counts.indices]
    row = np.repeat(np.arange(shape[0]), np.diff(counts.indptr))
    length = np.sqrt(2 * np.bincount(row, weights**2, minlength=shape[0]))
    data = (weights / length[row]).astype(np.float32)
    return sp.csr_array((data, counts.indices, counts.indptr), shape=shape)


def _quoted(term: str) -> str:
    return json.dumps(term, ensure_ascii=not term.isprintable())
