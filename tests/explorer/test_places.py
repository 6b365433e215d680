"""Addresses of the explorer's page: read with care, and written so that they read back."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest

from pipeline.errors import ConfigError
from pipeline.explorer.places import Neuron, address, feature_of, neuron_at, read_place
from store import StoreSchema

SCHEMA = StoreSchema(num_layers=2, neuron_size=5)
TASKS = ("mood", "a & b")


def test_an_address_reads_back() -> None:
    neuron = Neuron(1, "max", 4)
    written = address(task="a & b", neuron=neuron, texts="90", split=None, label="<i> = 50 %")
    assert written.startswith("?task=a+%26+b&layer=1&pooling=max&neuron=4&texts=90&label=")
    place = read_place(dict(parse_qsl(written[1:])), SCHEMA, TASKS)
    assert (place.task, place.neuron, place.texts) == ("a & b", neuron, "90")
    assert (place.split, place.label, place.problems) == (None, "<i> = 50 %", ())
    assert neuron_at(SCHEMA, 1, feature_of(SCHEMA, neuron)) == neuron


def test_an_address_without_a_place_is_none() -> None:
    place = read_place({"utm_source": "x"}, SCHEMA, TASKS)
    assert place == read_place({}, SCHEMA, TASKS) and place.neuron is None and not place.problems
    assert read_place({"layer": "1", "neuron": "3"}, SCHEMA, TASKS).neuron == Neuron(1, "mean", 3)
    assert read_place({"sample": "17"}, SCHEMA, TASKS).sample == 17


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"layer": "9", "neuron": "1"}, "no layer 9; the store has 0-1"),
        ({"layer": "1", "neuron": "5"}, "no neuron 5; a layer has 0-4"),
        ({"layer": "1", "neuron": "1", "pooling": "last"}, "'last'; the store has mean, max"),
        ({"layer": "-1", "neuron": "1"}, "layer=-1: is no whole number"),
        ({"layer": "1", "neuron": "٣"}, "neuron=٣: is no whole number"),
        ({"sample": "9" * 5000}, f"sample={'9' * 40}: is no whole number"),
        ({"layer": "1"}, "says no neuron="),
        ({"pooling": "max"}, "says no layer="),
        ({"task": "x"}, "task=x: no such task; there are: mood, a & b"),
    ],
)
def test_what_an_address_says_wrongly_is_told(arguments: dict[str, str], words: str) -> None:
    place = read_place(arguments, SCHEMA, TASKS)
    (problem,) = place.problems
    assert words in problem and len(problem) < 200
    assert (place.task, place.neuron, place.sample) == (None, None, None)


def test_a_neuron_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="no layer 2"):
        feature_of(SCHEMA, Neuron(2, "max", 0))
