"""What is wrong with a configuration: a line each that names the key, the value and the remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.config.addresses import without_login
from pipeline.config.keys import section_class, sections_of
from pipeline.config.writing import toml_key, toml_value
from pipeline.errors import did_you_mean

Location = tuple[int | str, ...]


def first_problem(error: ValidationError, root: type[BaseModel]) -> str:
    """One line for the first validation error (and how many more there are).

    Args:
        error: of ``root``'s validation.
        root: the model whose sections the error's location goes through.
    """
    first, *others = every_problem(error, root)
    more = len(others)
    return first + (f" (and {more} more problem{'s' * (more > 1)})" if more else "")


def every_problem(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """A line for each problem, unknown keys first; what only follows from another is left out.

    Args:
        error: of ``root``'s validation.
        root: the model whose sections the error's location goes through.
    """
    found = error.errors(include_url=False)
    unknown = [one for one in found if one["type"] == "extra_forbidden"]
    meant = {(*one["loc"][:-1], _meant(root, one["loc"])) for one in unknown}
    unknown.sort(key=lambda one: len(one["loc"]))  # sections first
    lines = [_unknown(one["loc"], one["input"], root) for one in unknown]
    named: list[Location] = []
    for one in found:
        loc, kind = one["loc"], one["type"]
        follows = any(loc[: len(other)] == other for other in named)
        follows |= kind == "missing" and loc in meant
        follows |= kind == "too_short" and any(_lies_in(other["loc"], loc) for other in found)
        if kind == "extra_forbidden" or follows:
            continue
        if one["type"] in _WHOLE_VALUE:
            named.append(_of_field(root, loc))
        lines += [line for line in _lines(one, root) if line not in lines]
    return lines


def _lies_in(loc: Location, outer: Location) -> bool:
    return len(loc) > len(outer) and loc[: len(outer)] == outer


_WHOLE_VALUE = {"tuple_type", "dict_type", "model_type"}
"""A value of another kind than wanted; of a key with several kinds each complains."""


def _lines(problem: Mapping[str, Any], root: type[BaseModel]) -> Iterator[str]:
    loc, kind, value = problem["loc"], problem["type"], problem["input"]
    where = _location(loc)
    before = f"{where}: " if where else ""
    if kind == "missing":
        yield f"{before}is required{_as_in(loc, root)}"
        return
    if (remedy := _rewritten(loc, kind, value, root)) is not None:
        yield before + remedy
        return
    message = problem["msg"].removeprefix("Value error, ")
    message = message.removeprefix("Input ") if kind != "value_error" else message
    plain = not isinstance(value, Mapping | Sequence) or isinstance(value, str)
    if plain and repr(value) not in message and without_login(str(value)) == str(value):
        message = f"{message}, not {value!r}"
    if kind == "literal_error" and isinstance(value, str):
        hint = did_you_mean(value, _expected(problem))
        message += f"; {hint}" if hint else ""
    for line in message.split("\n"):  # a validator may find several
        yield before + line


def _rewritten(loc: Location, kind: str, value: Any, root: type[BaseModel]) -> str | None:
    """How a value of the wrong shape is to be written; None where its shape is right."""
    name = str(loc[-1]) if loc else ""
    if kind == "tuple_type":
        if isinstance(value, Mapping) and len(loc) == 1:
            return f"write [[{name}]] (two brackets): it may appear several times"
        if not isinstance(value, Mapping):
            return f"write a list: {toml_key(name)} = {_shown([value])}"
    if kind == "too_short" and len(loc) == 1:
        return f"needs at least one entry{_as_in(loc, root)}"
    if kind in ("dict_type", "model_type") and not isinstance(value, Mapping):
        if kind == "model_type" and len(loc) <= 2:
            header = f"[[{loc[0]}]]" if len(loc) == 2 else f"[{name}]"
            return f"is a section: write {header}, and its keys below it, not {_shown(value)}"
        example = {"labels": {"sentiment": "COLUMN"}}.get(name, {"NAME": "VALUE"})
        return f"write {toml_key(name)} = {toml_value(example)}, not {_shown(value)}"
    return None


def _shown(value: Any) -> str:
    try:
        return toml_value(value)
    except TypeError:
        return repr(value)


def _as_in(loc: Location, root: type[BaseModel]) -> str:
    """How a missing key is written, where the configuration's classes tell."""
    names = [part for part in loc if isinstance(part, str)]
    for section in sections_of(root):
        if [section.name] == names:
            first, *rest = section.keys
            needed = [first, *(key for key in rest if key.default == "required")]
            return f": write {section.header} with {', '.join(key.example for key in needed)}"
        for key in section.keys:
            if key.path == ".".join(names):
                return f", as in {key.example}"
    return ""


def _unknown(loc: Location, value: Any, root: type[BaseModel]) -> str:
    """What to say of a key that nothing has: the one that was meant, or where it belongs."""
    name, here = str(loc[-1]), _section_at(root, loc[:-1])
    section = isinstance(value, Mapping) or (
        isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)
    )
    said = f"{_location(loc)}: unknown {'section' if section and len(loc) == 1 else 'key'}"
    hint = did_you_mean(name, here.model_fields)
    if hint:
        return f"{said}; {hint}"
    if name in root.model_fields and len(loc) > 1:
        if section:
            return f"{said} here; write its header as [{name}], without a dot"
        return f"{said} here; it stands above the first section of the file"
    owners = [
        f"[{section}]"
        for section, field in root.model_fields.items()
        if (kind := section_class(field.annotation)) is not None and name in kind.model_fields
    ]
    if owners:
        return f"{said} here; it belongs under {' or '.join(owners)}"
    return f"{said}; valid keys here: {', '.join(sorted(here.model_fields))}"


def _meant(root: type[BaseModel], loc: Location) -> str:
    """The key that an unknown one was meant to be; "" if none is close."""
    hint = did_you_mean(str(loc[-1]), _section_at(root, loc[:-1]).model_fields)
    return hint.removeprefix("did you mean '").removesuffix("'?")


def _expected(problem: Mapping[str, Any]) -> list[str]:
    """The values of a literal, which its error has in words: ``'a', 'b' or 'c'``."""
    words = str(problem["ctx"]["expected"]).replace(" or ", ", ")
    return [word.strip("'") for word in words.split(", ")]


def _of_field(root: type[BaseModel], loc: Location) -> Location:
    """The part of a location that leads to a field; what follows is inside its value."""
    section: type[BaseModel] | None = root
    for place, part in enumerate(loc):
        if isinstance(part, int):
            continue
        field = section.model_fields.get(part) if section is not None else None
        if field is None:
            return loc[:place]
        section = section_class(field.annotation)
    return loc


def _location(loc: Location) -> str:
    out = ""
    for part in loc:
        out += f"[{part + 1}]" if isinstance(part, int) else f"{'.' if out else ''}{part}"
    return out


def _section_at(section: type[BaseModel], loc: Location) -> type[BaseModel]:
    """The section within ``section`` that a validation error's location lies in."""
    for part in loc:
        if isinstance(part, str):
            section = section_class(section.model_fields[part].annotation) or section
    return section
