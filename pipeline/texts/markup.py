"""HTML of posts as the text that a reader sees.

``plain_text('<p>tea &amp; rain<br>again</p><p>more</p>')`` is ``'tea & rain\\nagain\\nmore'``.
"""

from __future__ import annotations

import re
from html import unescape

from selectolax.lexbor import LexborHTMLParser, LexborNode

from pipeline.texts.normalise import join_surrogates
from pipeline.texts.posts import BadRecord

MAX_TAGS = 4000
"""Of one post. An HTML5 parser's work grows with the square of the depth: 30 ms at this one."""
_BLANKS = re.compile(" {2,}")
_BREAK = re.compile(
    r"<(?=/?(?:p|br|div|li|ul|ol|h[1-6r]|blockquote|pre|tr|table|d[ldt]|section|article|figure"
    r"|figcaption|details|summary)\b)",
    re.IGNORECASE,
)
"""Before and behind elements that stand on lines of their own."""
_HIDDEN_SPAN = '<span class="invisible">'
"""As Mastodon writes the ends of a shortened link; it is in half of all posts."""
_RARE = re.compile(r"<(?:head|i?frame|noscript|object|s(?:cript|tyle|vg)|title)")
_DROPPED = frozenset(
    {"frame", "head", "iframe", "noscript", "object", "script", "style", "svg", "template", "title"}
)
_HIDDEN = frozenset({"invisible", "quote-inline"})
"""Classes that Mastodon gives to the ends of links, and to the link of a quoted post."""


def plain_text(html: str) -> str:
    """The text of a post's HTML.

    Paragraphs, other blocks and ``<br>`` become line breaks, entities their characters; hidden
    spans and scripts are left out, links are what is shown of them.

    Raises:
        BadRecord: more than ``MAX_TAGS`` tags, which no post has.
    """
    html = join_surrogates(html)
    num_tags = html.count("<")
    if num_tags == 2 and html.startswith("<p>") and html.endswith("</p>"):
        return _lines(unescape(_flat(html[3:-4])))  # as most posts are
    if num_tags > MAX_TAGS:
        raise BadRecord(f"HTML of {num_tags} tags; a post has at most {MAX_TAGS}")
    if not num_tags and "&" not in html:
        return _lines(_flat(html))
    html = _without_hidden_ends(html)
    # A line break of the source is a blank, so that those of the text are these alone.
    body = LexborHTMLParser(_BREAK.sub("\n<", _flat(html))).body
    if body is None:
        return ""
    return _lines(_shown(body) if _hides(html) else body.text())


def _without_hidden_ends(html: str) -> str:
    """``html`` without the plainest of hidden spans, which need no walk through the tree then."""
    if _HIDDEN_SPAN not in html:
        return html
    first, *others = html.split(_HIDDEN_SPAN)
    parts = [first]
    for piece in others:
        hidden, end, rest = piece.partition("</span>")
        parts.append(rest if end and "<" not in hidden else _HIDDEN_SPAN + piece)
    return "".join(parts)


def _flat(html: str) -> str:
    return html.replace("\n", " ").replace("\r", " ").replace("\t", " ").replace("\f", " ")


def _lines(text: str) -> str:
    if "  " in text:
        text = _BLANKS.sub(" ", text)
    return "\n".join(part for line in text.split("\n") if (part := line.strip()))


def _hides(html: str) -> bool:
    """Whether some of it may not be shown."""
    return any(name in html for name in _HIDDEN) or _RARE.search(html.lower()) is not None


def _shown(body: LexborNode) -> str:
    """The text without what is hidden; a loop, because HTML may be deep."""
    parts: list[str] = []
    above: list[LexborNode] = []
    node = body.first_child
    while node is not None or above:
        if node is None:
            node = above.pop().next
        elif node.is_element_node and not _is_hidden(node):
            above.append(node)
            node = node.first_child
        else:
            if node.is_text_node:
                parts.append(node.text_content or "")
            node = node.next
    return "".join(parts)


def _is_hidden(node: LexborNode) -> bool:
    if node.tag in _DROPPED:
        return True
    classes = node.attrs.get("class")
    return classes is not None and not _HIDDEN.isdisjoint(classes.split())
