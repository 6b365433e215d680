"""Which texts are nearly the same: tweets that repeat with another hashtag, mention, link or word.

    near_duplicates(["So happy today!", "so HAPPY today :) #blessed", "rain"])  # [0, 0, 1]

Two texts are near-duplicates when :func:`plain_words` leaves the same of both, or when at least
``THRESHOLD`` of the words that either has are in both (the Jaccard similarity of the two sets). A
shingle is a word because an edit of a tweet is mostly a word added, left out or changed: that costs
one or two shingles of a dozen, but five to ten character n-grams. Scripts without blanks between
words are cut into pairs of characters instead.

Candidates come from MinHash signatures, cut into bands of which two texts must share one; their
similarity is then counted exactly, so nothing is merged by chance. Of 10,000 pairs right at the
threshold 7 are missed, of those at 0.9 none. Time and memory grow with the number of texts,
whatever they repeat. Nothing depends on the order of the texts, on threads or on Python's hash
seed.

Source: Broder, *On the resemblance and containment of documents* (1997); bands: Leskovec, Rajaraman
and Ullman, *Mining of Massive Datasets*, section 3.4.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

Array = NDArray[Any]

THRESHOLD = 0.8
"""Least Jaccard similarity of near-duplicates: a word of nine may be another (8 / 10)."""
NUM_BANDS, BAND_SIZE = 24, 6
"""Texts of similarity s share a band with a chance of ``1 - (1 - s ** BAND_SIZE) ** NUM_BANDS``."""
NUM_NEIGHBOURS = 16
"""Texts that share a band are compared with so many next to them in the order of texts. Where more
share it, nearly all are near-duplicates (one template, many fillings), and neighbours join them."""
_WORDS_AT_A_TIME = 1 << 20

# Printable ASCII only: Japanese and Chinese text often follows a link or a name without a blank.
_LINK = re.compile(r"https?://[!-~]*|\bhttps?\b|\bwww\.[!-~]+|\bpic\.twitter\.com/[!-~]+")
_LINKS_START = ("http", "www.", "pic.twitter.com")
_MENTION = re.compile(r"(?:\brt\s+)?(?<![a-z0-9_@])@[a-z0-9_]+")
# Thai, Lao, Burmese, Khmer, kana, Chinese characters.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_GAP = re.compile(f"(?<=[{_UNSPACED}]) (?=[{_UNSPACED}])")
_RUNS = re.compile(f"[{_UNSPACED}]+|[^ {_UNSPACED}]+")
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")


class _Kept(dict[int, str]):
    """For ``str.translate``: letters, marks and digits stay, the rest is a blank or nothing."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        kind = unicodedata.category(char)
        if char in "#\uff03":
            kept = " #"
        elif char in "'\u2019" or kind in ("Cf", "Me") or "\ufe00" <= char <= "\ufe0f":
            kept = ""  # don't is dont; joiners and variants of emoji belong to what goes
        else:
            kept = char if kind[0] in "LMN" or char == "_" else " "
        self[code] = kept
        return kept


_KEPT = _Kept()


def plain_words(text: str) -> str:
    """What two versions of a text have in common: its words, in small letters, a blank between.

    Mentions, links, trailing hashtags, the signs of other hashtags, punctuation and emoji go. A
    text of nothing but hashtags keeps their words. Empty where a text has no word of its own.
    """
    text = text.casefold()
    if any(start in text for start in _LINKS_START):
        text = _LINK.sub(" ", text)
    if "@" in text:
        text = _MENTION.sub(" ", text)
    words = unicodedata.normalize("NFKC", text.translate(_KEPT)).casefold().split()
    end = len(words)
    while end and words[end - 1][0] == "#" and not words[end - 1][1:].isdigit():
        end -= 1
    plain = " ".join(words[:end] or words).replace("#", "").replace("_", " ")
    plain = " ".join(plain.split())
    return plain if plain.isascii() else _GAP.sub("", plain)


def shingles(plain: str) -> set[str]:
    """The set of words of :func:`plain_words`; pairs of characters where no blanks part words."""
    if plain.isascii() or not _IS_UNSPACED.search(plain):
        return set(plain.split())
    found: set[str] = set()
    for run in _RUNS.findall(plain):
        if _IS_UNSPACED.match(run):
            found.update(run[i : i + 2] for i in range(max(1, len(run) - 1)))
        else:
            found.add(run)
    return found


def near_duplicates(texts: Sequence[str]) -> NDArray[np.int64]:
    """The group ``(n,)`` int64 of each text: 0, 1, … in the order of first appearance.

    Near-duplicates of near-duplicates are in one group too. Texts without a word of their own
    (emoji, a mention, nothing) are in one group only where they are identical.

    Args:
        texts: of any length, in any script.
    """
    # In sorted order, so that nothing below depends on the order of the texts.
    forms = [plain_words(text) or "\0" + text for text in texts]
    different = sorted(set(forms))
    place = {form: index for index, form in enumerate(different)}
    joined = _join(set() if form[0] == "\0" else shingles(form) for form in different)
    groups = joined[np.array([place[form] for form in forms], np.int64)]
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    return number[group]


def least_hashes(texts: Mapping[str, str]) -> dict[str, str]:
    """Text hash -> the least text hash of its near-duplicates, itself included.

    Args:
        texts: text hash -> text.
    """
    numbers = near_duplicates(list(texts.values())).tolist()
    least: dict[int, str] = {}
    for one, number in zip(texts, numbers, strict=True):
        least[number] = min(one, least.get(number, one))
    return {one: least[number] for one, number in zip(texts, numbers, strict=True)}


def _join(sets: Iterable[set[str]]) -> Array:
    """The component ``(n,)`` of each set in the graph of similar ones."""
    vocabulary: dict[str, int] = {}
    columns: list[int] = []
    starts = [0]
    for one in sets:
        columns += [vocabulary.setdefault(word, len(vocabulary)) for word in one]
        starts.append(len(columns))
    sizes = np.diff(starts)
    codes = np.fromiter((zlib.crc32(word.encode()) for word in vocabulary), np.uint64)
    words = csr_array(
        (np.ones(len(columns), np.int32), np.array(columns, np.int32), np.array(starts)),
        shape=(len(sizes), max(1, len(vocabulary))),
    )
    full = np.flatnonzero(sizes)
    joined = np.arange(len(sizes))
    for pairs in _candidates(words[full], codes):
        pairs = full[pairs]
        pairs = pairs[joined[pairs[:, 0]] != joined[pairs[:, 1]]]
        links = joined[pairs[_similar(words, sizes, pairs)]]
        if len(links):
            edges = coo_array((np.ones(len(links)), tuple(links.T)), shape=(len(sizes),) * 2)
            joined = connected_components(edges, directed=False)[1][joined]
    return joined


def _candidates(words: csr_array, codes: Array) -> Iterator[Array]:
    """Pairs ``(p, 2)`` of rows that share a band of their MinHash signatures."""
    random = np.random.default_rng(0)
    for _ in range(NUM_BANDS):
        band = np.zeros(words.shape[0], np.uint64)
        for _ in range(BAND_SIZE):
            factor, shift, mix = random.integers(1, 1 << 63, 3, np.uint64) | np.uint64(1)
            ranks = (codes * factor + shift) >> np.uint64(32)
            least = np.minimum.reduceat(ranks[words.indices], words.indptr[:-1])
            band = (band ^ least) * mix
        order = np.argsort(band, kind="stable")
        band = band[order]
        for distance in range(1, NUM_NEIGHBOURS + 1):
            same = np.flatnonzero(band[distance:] == band[:-distance])
            if not len(same):
                break
            yield np.stack([order[same], order[same + distance]], axis=1)


def _similar(words: csr_array, sizes: Array, pairs: Array) -> Array:
    """Whether ``(p,)`` the sets of each pair reach the threshold."""
    out = np.zeros(len(pairs), bool)
    step = max(1, _WORDS_AT_A_TIME // int(sizes.max(initial=1)))
    for start in range(0, len(pairs), step):
        left, right = pairs[start : start + step].T
        shared = words[left].multiply(words[right]).sum(axis=1)
        either = sizes[left] + sizes[right] - shared
        out[start : start + len(left)] = shared >= THRESHOLD * either - 1e-9
    return out
