"""README and the pages of the guide: their blocks, inline code, links, and the demo's table.

page = pages()["README.md"]
page.blocks                          # what is to be run
differences(README's table, found)   # lines, none if a demo run says the same
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.builders.paths import ROOT

GUIDE = ROOT / "notebooks" / "guide"
TOLERANCE = 0.02
"""Of a score or loss in the demo's table. The kernels of other processors change them by .001 (but
for ``DRAWN``); other versions of torch and scikit-learn round otherwise, too, and a threshold or
penalty may follow. With 289 test texts .02 are six decisions, half of what the printed interval
leaves to either side: a table that is wrong by more is of another program."""
DRAWN = ("random features",)
"""Rows of features drawn at random, as many as a sparse head reads: where rounding gives that head
one more, the draw is another. They may differ by half of their own printed interval."""


class Block(NamedTuple):
    """A fenced block of code: its page, language ("" for what is printed) and text."""

    page: str
    language: str
    text: str


class Page:
    """One Markdown file, parsed once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.relative_to(ROOT).as_posix()
        self.text = path.read_text(encoding="utf-8")
        self._tokens = MarkdownIt("commonmark").enable("table").parse(self.text)

    @property
    def blocks(self) -> list[Block]:
        """Its blocks of code, in order."""
        fences = [token for token in self._tokens if token.type in ("fence", "code_block")]
        return [Block(self.name, token.info.strip(), token.content) for token in fences]

    @property
    def inline(self) -> list[str]:
        """What stands between backticks in its text, each on one line."""
        found = (token for token in self._inline() if token.type == "code_inline")
        return [" ".join(token.content.split()) for token in found]

    @property
    def links(self) -> list[str]:
        """Where its links and pictures lead."""
        names = {"link_open": "href", "image": "src"}
        found = (token for token in self._inline() if token.type in names)
        return [str(token.attrGet(names[token.type])) for token in found]

    @property
    def anchors(self) -> set[str]:
        """The names that code hosts give its headings."""
        slugs: list[str] = []
        for token, inside in zip(self._tokens, self._tokens[1:], strict=False):
            if token.type == "heading_open":
                plain = "".join(t.content for t in inside.children or () if t.content)
                slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
                slugs.append(f"{slug}-{slugs.count(slug)}" if slug in slugs else slug)
        return set(slugs)

    @property
    def prose(self) -> Iterator[str]:
        """Its paragraphs and cells, as plain text."""
        for token in self._tokens:
            if token.type == "inline":
                yield " ".join(token.content.split())

    def _inline(self) -> Iterator[Token]:
        for token in self._tokens:
            yield from token.children or ()


@cache
def pages() -> dict[str, Page]:
    """README, then the guide with its index first."""
    guide = sorted(GUIDE.glob("*.md"), key=lambda path: (path.name != "README.md", path.name))
    return {page.name: page for page in map(Page, [ROOT / "README.md", *guide])}


# The demo's table.


class Row(NamedTuple):
    """A line of a task's table."""

    name: str
    blocks: str
    loss: float | None
    score: float | None
    test: float | None
    half: float
    """Of its test score's interval."""


def task_table(text: str) -> list[Row]:
    """The rows of the first task's table in what `salient demo` prints, up to the chosen head."""
    lines = text[text.index("sentiment: macro_f1") :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("model "))
    columns = [(found[0], found.end()) for found in re.finditer(r"\S+(?: \S+)*", lines[start])]
    rows = []
    for line in lines[start + 1 :]:
        if re.match(r"\w", line):
            name = re.split(r"\s{2,}", line)[0]
            cells, left = {}, len(name)
            for column, right in columns[1:]:
                cells[column.split()[0]] = line[left:right].strip()
                left = max(left, right)
            numbers = [_number(cells.get(column, "")) for column in ("loss", "score", "test")]
            rows.append(Row(name, cells["blocks"], *numbers, _half(cells.get("test", ""))))
        if line.startswith("chosen"):
            return rows
    raise ValueError("the table names no chosen head")


def differences(shown: str, found: str) -> list[str]:
    """Where a demo run says something else than README: names, choice, scores; not the features."""
    ours, theirs = task_table(shown), task_table(found)
    names = [[_bare(row.name) for row in rows] for rows in (ours, theirs)]
    if names[0] != names[1]:
        return [f"rows: README has {names[0]}, the run {names[1]}"]
    told = []
    for here, there in zip(ours, theirs, strict=True):
        if here.name.startswith("chosen") and here[:2] != there[:2]:
            told.append(
                f"README: {here.name}, {here.blocks}; the run: {there.name}, {there.blocks}"
            )
        allowed = here.half if here.name in DRAWN else TOLERANCE
        for column in ("loss", "score", "test"):
            a, b = getattr(here, column), getattr(there, column)
            if (a is None) != (b is None) or (a is not None and abs(a - b) > allowed):
                told.append(f"{here.name}, {column}: README {a}, the run {b}")
    return told


def _bare(name: str) -> str:
    """A row's name without the kind or layer that it found best."""
    return name.partition(":")[0]


def _half(cell: str) -> float:
    """Half the width of the interval in a cell."""
    found = re.search(r"\[(.*), (.*)\]", cell)
    return (float(found[2]) - float(found[1])) / 2 if found else 0.0


def _number(cell: str) -> float | None:
    found = re.match(r"-?\d*\.\d+", cell)
    return float(found[0]) if found else None
