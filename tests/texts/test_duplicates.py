"""Near-duplicates: what is one text in two versions, and what is not."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.texts import duplicates
from pipeline.texts.duplicates import THRESHOLD, near_duplicates, plain_words, shingles
from tests.builders.paths import ROOT

SUBJECTS = ["bus", "train", "concert", "landlord", "exam", "coffee", "match", "weather", "phone"]
VERBS = ["made", "ruined", "saved", "delayed", "started", "finished", "improved", "broke", "fixed"]
WORDS = [
    a + b + c for a in "bdfgklmnprst" for b in ("a", "ai", "oo") for c in ("n", "ri", "lu", "ti")
]


def parts(groups: np.ndarray) -> set[frozenset[int]]:
    """The partition, apart from the numbers of its groups."""
    found = defaultdict(set)
    for row, group in enumerate(groups.tolist()):
        found[group].add(row)
    return {frozenset(rows) for rows in found.values()}


def made_tweets(count: int, rng: random.Random) -> list[str]:
    """Tweets that share phrases, as real ones do, but of which no two are nearly the same."""
    return [
        f"the {rng.choice(SUBJECTS)} {rng.choice(VERBS)} my day and "
        + " ".join(rng.sample(WORDS, 6))
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("So HAPPY today!!! :)", "so happy today"),
        ("RT @anna_b: so happy today http://t.co/aB1", "so happy today"),
        ("@user so happy today http", "so happy today"),
        ("so happy 😀 today 👍🏽❤️ #blessed #so_happy", "so happy today"),
        ("so #happy today pic.twitter.com/x1 www.site.example/a", "so happy today"),
        ("I don’t; don't I?", "i dont dont i"),
        ("we are #1 of 10", "we are 1 of 10"),
        ("still #1", "still 1"),
        ("#Monday #GoodMorning", "monday goodmorning"),
        ("mail me@site.example", "mail me site example"),
        ("Straße ＦＵＬＬ 𝐁𝐨𝐥𝐝™", "strasse full bold"),
        ("今日は、いい天気です。 https://t.co/xyz #晴れ", "今日はいい天気です"),
        ("今日は いい天気です #晴れ", "今日はいい天気です"),
        ("हिन्दी में लिखा है।", "हिन्दी में लिखा है"),
        ("@user", ""),
        ("http", ""),
        ("😀😀", ""),
        ("", ""),
        ("\ud800 !", ""),
    ],
)
def test_what_two_versions_have_in_common(text: str, plain: str) -> None:
    assert plain_words(text) == plain


def test_shingles_are_words_or_pairs_of_characters() -> None:
    assert shingles("no no never") == {"no", "never"}
    assert shingles("いい天気 in 東京") == {"いい", "い天", "天気", "in", "東京"}
    assert shingles("雨") == {"雨"}


def test_groups_are_numbered_in_the_order_of_their_first_texts() -> None:
    texts = ["rain", "so happy today", "RAIN!", "else", "@user So happy today :)"]
    groups = near_duplicates(texts)
    assert groups.tolist() == [0, 1, 0, 2, 1] and groups.dtype == np.int64
    assert near_duplicates([]).tolist() == []
    assert near_duplicates(["", "😀"]).tolist() == [0, 1]


@pytest.mark.parametrize(
    "base",
    [
        "the bus was late again and nobody at the stop knew why",
        "今日はとてもいい天気なので公園で友達と一緒にお弁当を食べました",
        "วันนี้อากาศดีมากเราจึงไปเดินเล่นที่สวนสาธารณะกับเพื่อน",
        "сегодня автобус снова опоздал и никто не знал почему так",
        "الحافلة تأخرت اليوم مرة أخرى ولا أحد يعرف لماذا حدث ذلك",
    ],
)
def test_a_small_change_keeps_the_group_in_any_script(base: str) -> None:
    other = " ".join(reversed(base.split())) if " " in base else base[::-1]
    added = f"{base} x"
    cut = base.rsplit(" ", 1)[0] if " " in base else base[:-2]
    groups = near_duplicates([base, added, cut, other + " new words here as well", base.upper()])
    assert groups[[0, 1, 2, 4]].tolist() == [0, 0, 0, 0] and groups[3] == 1


def test_texts_without_words_are_compared_as_they_are() -> None:
    texts = ["@user", "@user", "http", "@user http", "", " ", "😀", "😀😀", "😀", "!", "#"]
    assert near_duplicates(texts).tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 5, 7, 8]


def test_short_texts_need_the_same_words() -> None:
    texts = ["yes", "no", "yes!", "oh no", "oh yes", "good morning", "good night", "Good morning."]
    assert near_duplicates(texts).tolist() == [0, 1, 0, 2, 3, 4, 5, 4]


def test_long_texts() -> None:
    rng = random.Random(0)
    words = [f"w{i}" for i in range(3000)]
    reviews = [" ".join(rng.choices(words, k=1000)) for _ in range(40)]
    versions = [
        " ".join(words if rng.random() > 0.05 else "cut" for words in r.split()) for r in reviews
    ]
    groups = near_duplicates(reviews + versions)
    assert groups[:40].tolist() == groups[40:].tolist() == list(range(40))


def test_many_versions_of_one_template_are_one_group() -> None:
    line = "we just posted a new photo from the old harbour and you can see it here"
    texts = [f"{line} {i}" for i in range(3000)]
    assert set(near_duplicates(texts).tolist()) == {0}


TWEETS = st.lists(
    st.one_of(
        st.text(max_size=12),
        st.lists(st.sampled_from(WORDS[:8]), max_size=8).map(" ".join),
        st.sampled_from(["@user", "http", "#a #b", "", "いい天気", "今日はいい天気", "😀"]),
    ),
    max_size=30,
)


@given(texts=TWEETS, order=st.randoms())
def test_the_partition_does_not_depend_on_the_order(texts: list[str], order: random.Random) -> None:
    groups = near_duplicates(texts)
    seen = list(dict.fromkeys(groups.tolist()))
    assert seen == list(range(len(seen)))
    moved = order.sample(range(len(texts)), len(texts))
    again = near_duplicates([texts[row] for row in moved])
    assert {frozenset(moved[row] for row in rows) for rows in parts(again)} == parts(groups)


@given(texts=TWEETS)
def test_the_partition_is_the_closure_of_all_pairs(texts: list[str]) -> None:
    """Against the definition, pair by pair; few texts, so that no band is too full to compare."""
    forms = [plain_words(text) for text in texts]
    group = list(range(len(texts)))
    for a in range(len(texts)):
        for b in range(a):
            left, right = shingles(forms[a]), shingles(forms[b])
            same = (
                texts[a] == texts[b]
                if not forms[a] or not forms[b]
                else (len(left & right) >= THRESHOLD * len(left | right) - 1e-9)
            )
            if same:
                group = [group[a] if one == group[b] else one for one in group]
    assert parts(np.array(group)) == parts(near_duplicates(texts))


@given(
    text=st.lists(st.sampled_from(WORDS), min_size=1, max_size=20).map(" ".join),
    more=st.lists(
        st.sampled_from(
            ["#happy", "#晴れ", "@anna", "https://t.co/a1B", "http", "@user", "😀", "!!"]
        ),
        min_size=1,
        max_size=4,
    ),
    before=st.sampled_from(["", "RT @user: ", "@anna @ben ", "@user "]),
)
def test_hashtags_mentions_and_links_do_not_part_texts(
    text: str, more: list[str], before: str
) -> None:
    other = "something else entirely"
    version = before + " ".join([text.upper(), *more])
    assert near_duplicates([text, other, version]).tolist() == [0, 1, 0]


@given(seed=st.integers(0, 10_000))
def test_texts_that_share_phrases_only_stay_apart(seed: int) -> None:
    texts = list(dict.fromkeys(made_tweets(60, random.Random(seed))))
    assert len(set(near_duplicates(texts).tolist())) == len(texts)


def edited(text: str, rng: random.Random) -> str:
    """A version of a tweet of twelve words: one word is another, is gone or is added."""
    words = text.split()
    place = rng.randrange(len(words))
    kind = rng.randrange(3)
    if kind == 0:
        words[place] = "otherwise"
    elif kind == 1:
        del words[place]
    else:
        words.insert(place, "really")
    version = " ".join(words)
    return rng.choice(["RT @user: {}", "{} #fail #mondays", "{} http", "{}!! 😀"]).format(version)


def test_planted_versions_are_found_among_other_tweets() -> None:
    rng = random.Random(5)
    texts = made_tweets(3000, rng)
    origins = rng.sample(range(len(texts)), 300)
    groups = near_duplicates(texts + [edited(texts[row], rng) for row in origins])
    found = sum(groups[row] == groups[3000 + k] for k, row in enumerate(origins))
    assert found == 300
    own = {frozenset((row, 3000 + k)) for k, row in enumerate(origins)}
    false = [rows for rows in parts(groups) if len(rows) > 1 and rows not in own]
    assert len(false) == 0


def test_the_chance_of_a_candidate() -> None:
    miss = (1 - THRESHOLD**duplicates.BAND_SIZE) ** duplicates.NUM_BANDS
    assert 6e-4 < miss < 7.5e-4


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_pythons_hash_seed_and_threads_do_not_matter(hash_seed: str) -> None:
    code = (
        "import random\nfrom pipeline.texts.duplicates import near_duplicates\n"
        "rng = random.Random(0)\nwords = [f'w{i}' for i in range(14)]\n"
        "texts = [' '.join(rng.choices(words, k=9)) for _ in range(2000)]\n"
        "print(near_duplicates(texts).tolist())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed, threads in (("0", "1"), (hash_seed, "2"))
    }
    assert len(outputs) == 1
