"""Text normalisation."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import NormaliseConfig
from pipeline.texts.dumps import read_dump
from pipeline.texts.normalise import NORMALISERS, mask_urls, normaliser
from tests.builders.dumps import RAW, REAL_COUNTS, needs_raw, rows

everything = normaliser(NormaliseConfig())


def test_every_step_has_a_field_in_the_configuration() -> None:
    assert set(NORMALISERS) == set(NormaliseConfig.model_fields)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("@anna R&amp;D: https://t.co/abc", "@user R&D: http"),
        ("see (https://a.example/b?c=1&amp;d=2), ok", "see (http), ok"),
        ("https://t.co/abcこんにちは", "httpこんにちは"),
        ("https://medium.example/@anna/post", "http"),
        ("mail anna@example.org or @bob", "mail anna@example.org or @user"),
        ("RT @a_b: @c@d .@e", "RT @user: @user@d .@user"),
        ("R&Dnot AT&T &copy", "R&Dnot AT&T &copy"),
        ("&lt;3 &#128512; &#x1F600;", "<3 😀 😀"),
        ("http and httpbin stay", "http and httpbin stay"),
        ("cut https://t…", "cut http…"),
        ("", ""),
    ],
)
def test_normalise(raw: str, clean: str) -> None:
    assert everything(raw) == clean


def test_steps_can_be_left_out() -> None:
    raw = "@anna &amp; https://t.co/abc"
    assert normaliser(NormaliseConfig(users=False))(raw) == "@anna & http"
    assert normaliser(NormaliseConfig(urls=False))(raw) == "@user & https://t.co/abc"
    assert normaliser(NormaliseConfig(html_unescape=False))(raw) == "@user &amp; http"


def test_halves_of_surrogate_pairs() -> None:
    nothing = normaliser(NormaliseConfig(html_unescape=False, users=False, urls=False))
    assert nothing("\ud83d\ude00") == "😀"
    assert nothing("a\ud83d b\ude00") == "a\ufffd b\ufffd"


@given(st.text(alphabet=st.characters()))
def test_result_can_be_written_and_is_stable(text: str) -> None:
    clean = everything(text)
    clean.encode()
    masks_only = normaliser(NormaliseConfig(html_unescape=False))
    assert masks_only(clean) == clean


def mask_urls_by_patterns(text: str) -> str:
    """As it is put in words: a link is ``http``, but for the punctuation that it ends in."""

    def mask(match: re.Match[str]) -> str:
        tail = re.search(r"""[)\]}>"'.,;:!?]+$""", match.group())
        return "http" + (tail.group() if tail else "")

    return re.sub(r"\bhttps?://[!-~]*", mask, text)


@given(st.text(alphabet="htps:/) ].x\n今'\"", max_size=30))
def test_links_end_where_their_punctuation_begins(text: str) -> None:
    for one in (text, f"http://{text}", f"see https://a.b/{text}"):
        assert mask_urls(one) == mask_urls_by_patterns(one)


@needs_raw
def test_links_of_real_tweets() -> None:
    raw = NormaliseConfig(html_unescape=False, users=False, urls=False)
    for name in REAL_COUNTS:
        for row in rows(read_dump(RAW / name, normalise=raw)):
            assert mask_urls(row["text"]) == mask_urls_by_patterns(row["text"])
