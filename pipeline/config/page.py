"""Every key of a run's configuration, and the page of them: what ``salient help`` prints."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.config.keys import Key, SectionKeys, sections_of
from pipeline.config.whole import RunConfig

_BEGINNING = """\
# Every key of the configuration

Written by `salient help --markdown`, from what the program checks files by; `salient help KEY` says
it of one key, as in `salient help head.max_depth`. `salient init` writes a file to begin with,
`salient inspect run.toml` shows where a file differs from the defaults. Paths are relative to the
file; a key that it lacks has its default, and one that is not in this list is refused.
"""


def every_section() -> tuple[SectionKeys, ...]:
    """All sections of a run's configuration, the keys above them first."""
    return sections_of(RunConfig)


def every_key() -> dict[str, Key]:
    """``section.name`` -> the key, in the order of the file."""
    return {key.path: key for section in every_section() for key in section.keys}


def configuration_page() -> str:
    """The whole page, a table for each section."""
    return "\n".join([_BEGINNING, *_lines()])


def _lines() -> Iterator[str]:
    sections = every_section()
    for section in sections[1:]:
        yield f"- [`{section.header}`](#{section.name}): {_markdown(section.meaning)}"
    yield ""
    for section in sections:
        yield from _section(section)


def _section(section: SectionKeys) -> Iterator[str]:
    yield f"## {section.name or 'Above all sections'}"
    yield ""
    several = " May come several times." if section.header.startswith("[[") else ""
    needed = " Every run needs one." if section.name and section.required else ""
    yield f"{_markdown(section.meaning)}{several}{needed}"
    yield ""
    yield "| key | type | default | meaning | example |"
    yield "|---|---|---|---|---|"
    for key in section.keys:
        cells = (f"`{key.name}`", _type(key), _default(key), _markdown(key.meaning))
        yield f"| {' | '.join((*map(_cell, cells), f'`{_cell(key.example)}`'))} |"
    yield ""


def _type(key: Key) -> str:
    return (
        f"{key.type}: {', '.join(f'`{one}`' for one in key.choices)}" if key.choices else key.type
    )


def _default(key: Key) -> str:
    return (
        f"`{key.default}`" if key.default[:1] in '"[' or key.default[-1:].isdigit() else key.default
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _markdown(text: str) -> str:
    return re.sub(r"``(.+?)``", r"`\1`", text)
