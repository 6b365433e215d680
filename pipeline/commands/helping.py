"""``salient help``: what a key of the configuration means, or every key."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from pipeline.commands.options import LOOK, AsJson
from pipeline.commands.printing import WIDTH, out, print_json
from pipeline.errors import ConfigError, did_you_mean, listed

if TYPE_CHECKING:
    from pipeline.config import Key, SectionKeys

app = typer.Typer()


@app.command("help", rich_help_panel=LOOK)
def explain(
    context: typer.Context,
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="KEY",
            help="A key (head.max_depth, or max_depth), a section (head) or a command (score).",
        ),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="All keys as a page in Markdown.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a key of the configuration means, with an example; without one, list all keys."""
    from pipeline.config import configuration_page, every_key, every_section

    if markdown:
        if key is not None:
            raise ConfigError(f"--markdown prints all keys; leave out {key!r}, or --markdown")
        print(configuration_page(), end="")
        return
    commands = _commands(context)
    key = key and key.strip("[]")
    if key is not None and key in commands and key not in [one.name for one in every_section()]:
        print(_help_of(context, key))
        return
    found = [*every_key().values()] if key is None else _meant(key, [*commands])
    if as_json:
        print_json([one.to_dict() for one in found])
        return
    sections = [one for one in every_section() if one.name == key or key is None]
    lines = _list(sections) if sections else _each(found)
    for line in lines:
        out.print(escape(line))
    if key is None:
        out.print("", "more of one: salient help KEY, as salient help head.max_depth", sep="\n")
    elif key in commands:
        out.print("", f"the command {key}: salient {key} --help", sep="\n")


def _meant(wanted: str, commands: list[str]) -> list[Key]:
    """The keys that a word names: one, those of a section, or all of that name.

    Raises:
        ConfigError: none.
    """
    from pipeline.config import every_key, every_section

    keys, name = every_key(), wanted
    if name in keys:
        return [keys[name]]
    sections = {one.name: one for one in every_section() if one.name}
    if name in sections:
        return list(sections[name].keys)
    if found := [key for key in keys.values() if key.name == name]:
        return found
    section = name.partition(".")[0]
    choices = [*keys, *sections, *commands, *(key.name for key in keys.values())]
    if section in sections:
        choices = [key.path for key in sections[section].keys]
    hint = did_you_mean(name, choices)
    raise ConfigError(
        f"{wanted}: no such key of the configuration; {hint or f'sections are {_joined(sections)}'}"
        + ("" if hint else "; `salient help` lists all keys")
    )


def _joined(names: Any) -> str:
    return listed(names, most=20)


def _list(sections: list[SectionKeys]) -> Iterator[str]:
    """Sections with a line for each key: its name, default and the beginning of its meaning."""
    for number, section in enumerate(sections):
        if number:
            yield ""
        yield f"{section.header or '(above the first section)'}  {_plain(section.meaning)}"
        widest = max(len(key.path) for key in section.keys)
        for key in section.keys:
            first = f"  {key.path:<{widest}}  "
            meaning = f"{_plain(key.meaning)} ({_brief(key)})"
            if len(sections) > 1:
                meaning = f"{textwrap.shorten(_plain(key.meaning), 60, placeholder=' …')}"
                yield f"{first}{meaning} ({_brief(key)})"
                continue
            yield from textwrap.wrap(
                meaning, WIDTH, initial_indent=first, subsequent_indent=" " * len(first)
            )


def _brief(key: Key) -> str:
    return key.default if key.default in ("required", "not set") else f"default {key.default}"


def _each(keys: list[Key]) -> Iterator[str]:
    """All that is known of some keys."""
    from pipeline.config import every_section

    headers = {one.name: one.header for one in every_section()}
    for number, key in enumerate(keys):
        if number:
            yield ""
        yield key.path
        yield from textwrap.wrap(
            _plain(key.meaning), WIDTH, initial_indent="  ", subsequent_indent="  "
        )
        yield f"  type:     {key.type}"
        if key.choices:
            line = f"  choices:  {', '.join(key.choices)}"
            yield from textwrap.wrap(line, WIDTH, subsequent_indent=" " * 12)
        yield f"  default:  {key.default}"
        header = headers[key.section]
        yield f"  example:  {header or key.example}"
        if header:
            yield f"            {key.example}"


def _plain(text: str) -> str:
    return text.replace("``", "")


def _commands(context: typer.Context) -> dict[str, Any]:
    group: Any = context.parent and context.parent.command
    return dict(group.commands) if group else {}


def _help_of(context: typer.Context, name: str) -> str:
    command = _commands(context)[name]
    return str(command.get_help(typer.Context(command, info_name=name, parent=context.parent)))
