"""Text normalisation and times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import NormaliseConfig
from pipeline.texts.normalise import NORMALISERS, normaliser
from pipeline.texts.timestamps import parse_time, snowflake_seconds

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


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("Fri Jan 01 07:29:00 +0000 2021", 1609486140),
        ("Fri Jan 01 09:29:00 +0200 2021", 1609486140),
        ("2021-01-01T07:29:00.000Z", 1609486140),
        ("2021-01-01 07:29:00", 1609486140),
        ("2021-01-01T09:29:00+02:00", 1609486140),
        ("1609486140", 1609486140),
        ("1609486140123", 1609486140),
        ("1609486140.75", 1609486140),
        ("2021-01-01", 1609459200),
        ("-1", -1),
    ],
)
def test_times(value: str, seconds: int) -> None:
    assert parse_time(value) == seconds


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "Fri Foo 01 07:29:00 +0000 2021",
        "Fri Jan 45 07:29:00 +0000 2021",
        "9" * 40,
        "0001-01-01T00:00:00+05:00",
    ],
)
def test_no_times(value: str) -> None:
    assert parse_time(value) is None


@given(st.text())
def test_smoke_parse_time_never_fails(value: str) -> None:
    parse_time(value)


def test_time_of_a_tweet_id() -> None:
    assert snowflake_seconds(1344908468193435649) == 1609486140
    assert snowflake_seconds(20) is None
    assert snowflake_seconds(1 << 70) is None
