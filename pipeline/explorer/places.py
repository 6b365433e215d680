"""Where one is in a store: a neuron, and the address of the page that shows it.

    place = read_place({"layer": "3", "neuron": "417"}, store.schema, tasks=["mood"])
    place.neuron, place.problems
    address(task="mood", neuron=place.neuron)     # "?task=mood&layer=3&pooling=mean&neuron=417"

An address comes from anywhere: whatever it says wrongly is told in a line, and the rest is heeded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from pipeline.errors import ConfigError
from pipeline.report import neuron_address
from store.layout import StoreSchema

MAX_SHOWN = 40
"""Characters of a value that are said again."""


@dataclass(frozen=True)
class Neuron:
    """One neuron of one layer, in one pooling."""

    layer: int
    pooling: str
    neuron: int


@dataclass(frozen=True)
class Place:
    """What an address asks for.

    Attributes:
        task: of the run or store.
        neuron: which.
        sample: position of a stored text.
        texts, split, label: which texts of the neuron, as the page's choices call them.
        problems: what it says and cannot be.
    """

    task: str | None = None
    neuron: Neuron | None = None
    sample: int | None = None
    texts: str | None = None
    split: str | None = None
    label: str | None = None
    problems: tuple[str, ...] = ()


def feature_of(schema: StoreSchema, neuron: Neuron) -> int:
    """The neuron's feature index in its layer, ``pooling * neurons + neuron``.

    Raises:
        ConfigError: no such layer, pooling or neuron.
    """
    layers = schema.array("ffn").layers
    if neuron.layer not in layers:
        raise ConfigError(f"no layer {neuron.layer}; the store has {min(layers)}-{max(layers)}")
    if neuron.pooling not in schema.poolings:
        raise ConfigError(
            f"no pooling {neuron.pooling[:MAX_SHOWN]!r}; the store has {', '.join(schema.poolings)}"
        )
    if not 0 <= neuron.neuron < schema.neuron_size:
        raise ConfigError(f"no neuron {neuron.neuron}; a layer has 0-{schema.neuron_size - 1}")
    return schema.poolings.index(neuron.pooling) * schema.neuron_size + neuron.neuron


def neuron_at(schema: StoreSchema, layer: int, feature: int) -> Neuron:
    """The neuron of a feature index ``pooling * neurons + neuron``."""
    pooling, neuron = divmod(int(feature), schema.neuron_size)
    return Neuron(int(layer), schema.poolings[pooling], neuron)


def read_place(arguments: Mapping[str, str], schema: StoreSchema, tasks: Sequence[str]) -> Place:
    """What the arguments of an address ask for; those of others are passed over.

    Args:
        arguments: of the address.
        schema: of the store.
        tasks: that there are.
    """
    problems: list[str] = []
    task = arguments.get("task")
    if task is not None and task not in tasks:
        known = ", ".join(tasks) or "none"
        problems.append(f"task={task[:MAX_SHOWN]}: no such task; there are: {known}")
        task = None
    sample = _number(arguments, "sample", problems)
    texts, split, label = (arguments.get(name) for name in ("texts", "split", "label"))
    neuron = _neuron(arguments, schema, problems)
    return Place(task, neuron, sample, texts, split, label, tuple(problems))


def _neuron(
    arguments: Mapping[str, str], schema: StoreSchema, problems: list[str]
) -> Neuron | None:
    if not arguments.keys() & {"layer", "pooling", "neuron"}:
        return None
    if lacking := [name for name in ("layer", "neuron") if name not in arguments]:
        problems.append(f"the address says no {lacking[0]}=; a neuron has a layer and a number")
        return None
    layer = _number(arguments, "layer", problems)
    number = _number(arguments, "neuron", problems)
    if layer is None or number is None:
        return None
    found = Neuron(layer, arguments.get("pooling", schema.poolings[0]), number)
    try:
        feature_of(schema, found)
    except ConfigError as error:
        problems.append(str(error))
        return None
    return found


def _number(arguments: Mapping[str, str], name: str, problems: list[str]) -> int | None:
    text = arguments.get(name)
    if text is None:
        return None
    if text.isascii() and text.isdecimal() and len(text) < 16:
        return int(text)
    problems.append(f"{name}={text[:MAX_SHOWN]}: is no whole number from 0")
    return None


def text_address(position: int, *, task: str | None) -> str:
    """The arguments of a stored text's page, with the question mark."""
    named = {"sample": position} | ({} if task is None else {"task": task})
    return "?" + urlencode(named)


def address(*, task: str | None, neuron: Neuron, **more: str | None) -> str:
    """The arguments of a neuron's page, with the question mark; what is None is left out."""
    return neuron_address(task=task, **vars(neuron), **more)
