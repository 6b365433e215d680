"""HTML of posts: what a reader sees of it, however odd it is."""

from __future__ import annotations

from html import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.texts.markup import MAX_TAGS, plain_text
from pipeline.texts.posts import BadRecord

LINK = (
    '<a href="https://example.org/x"><span class="invisible">https://www.</span>'
    '<span class="ellipsis">example.org/a-long</span><span class="invisible">-end</span></a>'
)
MENTION = (
    '<span class="h-card"><a href="https://a.example/@b" class="u-url">@<span>b</span></a></span>'
)


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("", ""),
        ("plain", "plain"),
        ("plain &amp; <3", "plain & <3"),
        ("<p>one</p>", "one"),
        ("<p>one &lt;b&gt; &eacute;&#x1F612;</p>", "one <b> é😒"),
        ("<p>one</p><p>two</p>", "one\ntwo"),
        ("<p>one<br>two<br/>three<BR >four</p>", "one\ntwo\nthree\nfour"),
        ("<p>one</p>\n\n  <p>two\nthree</p>", "one\ntwo three"),
        ("<div>one<div>two</div>three</div>", "one\ntwo\nthree"),
        ("<ul><li>one<li>two</ul>", "one\ntwo"),
        ("<blockquote><p>one</p></blockquote>two", "one\ntwo"),
        (f"<p>see {LINK}!</p>", "see example.org/a-long!"),
        (f"<p>{MENTION} hi</p>", "@b hi"),
        ("<p>a <SPAN CLASS='x invisible'>b <i>c</i></SPAN>d</p>", "a d"),
        ('<p class="quote-inline">RE: <a href="x">x</a></p><p>so</p>', "so"),
        ("<p>a<script>b</script><style>c</style><!-- d --><template>e</template>f</p>", "af"),
        ("<p>a<b>b<i>c", "abc"),
        ("</p>a</div>b", "a\nb"),
        ("<b><p>a</b>b</p>", "ab"),
        ("<table><tr><td>a</td></tr><tr><td>b", "a\nb"),
        ("<p>a <img src=x alt='cat'> b</p>", "a b"),
        ('<p title="<p>x</p>">a</p>', "a"),
        ("<p>a\u00a0 b</p>", "a\u00a0 b"),
        ("<p>&amp;lt;</p>", "&lt;"),
        ("<p", ""),
        ("<frameset><frame></frameset>", ""),
        ("<p>\ud83d</p>", "\ufffd"),
    ],
)
def test_what_is_seen(html: str, expected: str) -> None:
    assert plain_text(html) == expected


@pytest.mark.parametrize("tag", ["div", "b", "span", "a", "p", "ul"])
def test_deep_html(tag: str) -> None:
    assert plain_text(f"<{tag}>" * MAX_TAGS + "end") == "end"
    assert plain_text('<i class="invisible">' + f"<{tag}>" * (MAX_TAGS - 1) + "end") in ("", "end")
    with pytest.raises(BadRecord, match="a post has at most"):
        plain_text(f"<{tag}>" * (MAX_TAGS + 1))


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Z"]) | st.just(" ")))
def test_escaped_text_comes_back(text: str) -> None:
    expected = " ".join(text.split())
    assert plain_text(f"<p>{escape(text)}</p>") == expected
    assert plain_text(f"<p><b>{escape(text)}</b></p>") == expected
    assert plain_text(f"<p><b>{escape(text)}</b><script>x</script></p>") == expected


ODD = [
    "<p>", "</p>", "<br>", "<b", "a", "&amp", "&#0;", "<!--", "-->", "'", '"', "<script>", "=", ">",
    "</script>", '<span class="invisible">', "</span>", "<svg>", "<select>", "<template>", "<td>",
    "<table>", "\0", "<title>", "<frameset>", "<plaintext>", " \n ",
]  # fmt: skip


@given(st.lists(st.sampled_from(ODD)))
def test_any_html_is_read(parts: list[str]) -> None:
    text = plain_text("".join(parts))
    assert text == text.strip()
