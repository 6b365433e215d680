"""Every key of the configuration: its type, default, choices and meaning, as the classes have them.

Nothing is written here that `sections` and `whole` do not say: meanings are the docstrings below
the fields, types and bounds their annotations, examples their ``examples``.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel

from pipeline.config.sections import Section
from pipeline.config.writing import toml_value

NOT_SET = "not set"
"""The default of a key that may be left out."""
_ONE = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}
_MANY = {"string": "texts", "integer": "whole numbers", "number": "numbers"}
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


@dataclass(frozen=True)
class Key:
    """One key of a section.

    Attributes:
        section: the section's name; "" for the keys above all sections.
        name: the key's.
        type: in words, with its bounds.
        default: as TOML; ``required``, or ``not set``.
        choices: all valid values as TOML; none where the type says it all.
        meaning: what it does.
        example: ``key = value``, as TOML.
    """

    section: str
    name: str
    type: str
    default: str
    choices: tuple[str, ...]
    meaning: str
    example: str

    @property
    def path(self) -> str:
        """``section.name``."""
        return f"{self.section}.{self.name}" if self.section else self.name

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"key": self.path, **asdict(self)}


@dataclass(frozen=True)
class SectionKeys:
    """One section.

    Attributes:
        name: "" for the keys above all sections.
        header: ``[head]``, or ``[[tasks]]`` where it may come several times; "" for none.
        required: whether a run needs one.
        meaning: what it is about.
        keys: in order.
    """

    name: str
    header: str
    required: bool
    meaning: str
    keys: tuple[Key, ...]


@cache
def sections_of(root: type[BaseModel]) -> tuple[SectionKeys, ...]:
    """All sections of the class of a file in its order, the keys above them first."""
    schema = root.model_json_schema()
    meanings, own, rest = _meanings(root), list[Key](), list[SectionKeys]()
    for name, field in root.model_fields.items():
        facts = schema["properties"][name]
        below = section_class(field.annotation)
        if below is None:
            own.append(_key("", name, facts, meanings[name], field.is_required(), field.examples))
            continue
        header = f"[[{name}]]" if facts.get("type") == "array" else f"[{name}]"
        meaning = _words(inspect.getdoc(below) or "")
        keys = tuple(_keys(name, below, schema["$defs"][below.__name__]["properties"]))
        rest.append(SectionKeys(name, header, field.is_required(), meaning, keys))
    above = "What the whole run is about."
    return (SectionKeys("", "", True, above, tuple(own)), *rest)


def section_class(annotation: Any) -> type[Section] | None:
    """The class of a field that is a section, or several of one kind; None for a plain value."""
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


def _keys(section: str, kind: type[BaseModel], schema: Mapping[str, Any]) -> Iterator[Key]:
    meanings = _meanings(kind)
    for name, field in kind.model_fields.items():
        yield _key(section, name, schema[name], meanings[name], field.is_required(), field.examples)


def _key(
    section: str,
    name: str,
    facts: Mapping[str, Any],
    meaning: str,
    required: bool,
    examples: list[Any] | None,
) -> Key:
    default = facts.get("default")
    choices = _choices(facts)
    others = [one for one in choices if one != default]
    if examples:
        example = examples[0]
    elif isinstance(default, bool):
        example = not default
    elif others:
        example = others[0]
    else:
        example = default
    shown = "required" if required else NOT_SET if default in (None, [], {}) else None
    return Key(
        section,
        name,
        _type(facts),
        shown or toml_value(default),
        tuple(map(toml_value, choices)),
        meaning,
        f"{name} = {toml_value(example)}",
    )


def _choices(facts: Mapping[str, Any]) -> list[Any]:
    """The values that a field, or each element of it, may have; none where they are not listed."""
    if "const" in facts:
        return [facts["const"]]
    if "enum" in facts:
        return list(facts["enum"])
    inner = [facts["items"]] if "items" in facts else facts.get("anyOf", ())
    return [value for one in inner for value in _choices(one)]


def _type(facts: Mapping[str, Any], *, many: bool = False) -> str:
    """A field's type and bounds in words."""
    if "anyOf" in facts:
        options = [one for one in facts["anyOf"] if one.get("type") != "null"]
        return " or ".join(_type(one, many=many) for one in options)
    kind = facts.get("type", "")
    if kind == "array":
        return f"list of {_type(facts['items'], many=True)}"
    if kind == "object":
        inner = facts.get("additionalProperties")
        value = _type(inner) if isinstance(inner, Mapping) else "value"
        return f"table of name = {value}"
    words = (_MANY if many else _ONE)[kind]
    bounds = [f"{word} {facts[key]:g}" for key, word in _BOUNDS.items() if key in facts]
    return ", ".join([words, *bounds])


def _meanings(kind: type[BaseModel]) -> dict[str, str]:
    """Field -> the docstring below it."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for field, after in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            found[field.target.id] = _words(after.value.value)
    return found


def _words(text: str) -> str:
    return " ".join(text.split())
