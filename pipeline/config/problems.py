"""What is wrong with a configuration, in one line that names the key, the value and the remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ValidationError

from pipeline.errors import did_you_mean


def first_problem(error: ValidationError, root: type[BaseModel]) -> str:
    """One line for the first validation error (and how many more there are).

    Args:
        error: of ``root``'s validation.
        root: the model whose sections the error's location goes through.
    """
    problems = error.errors(include_url=False)
    first = problems[0]
    where = _location(first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        choices = sorted(_section_at(root, first["loc"][:-1]).model_fields)
        hint = did_you_mean(str(first["loc"][-1]), choices)
        message = f"unknown key; {hint and f'{hint} '}valid keys here: {', '.join(choices)}"
    elif first["type"] == "missing":
        message = "is required"
    elif not isinstance(first["input"], Mapping | Sequence) or isinstance(first["input"], str):
        message = f"{message}, not {first['input']!r}"
    rest = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
    return f"{where + ': ' if where else ''}{message}{rest}"


def _location(loc: Sequence[int | str]) -> str:
    out = ""
    for part in loc:
        out += f"[{part + 1}]" if isinstance(part, int) else f"{'.' if out else ''}{part}"
    return out


def _section_at(section: type[BaseModel], loc: Sequence[int | str]) -> type[BaseModel]:
    """The section within ``section`` that a validation error's location lies in."""
    for part in loc:
        if isinstance(part, int):
            continue
        annotation = section.model_fields[part].annotation
        section = next(
            candidate
            for candidate in (annotation, *getattr(annotation, "__args__", ()))
            if isinstance(candidate, type) and issubclass(candidate, BaseModel)
        )
    return section
