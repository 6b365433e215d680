"""What a neuron says in a task, in numbers, in words and as an address."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.report.voices import neuron_address, stance, voice_of


def test_weights_of_classes_are_against_their_average() -> None:
    voice = voice_of(np.array([-0.5], np.float32), "classification", ("sad", "happy"), task="mood")
    assert voice is not None and voice.task == "mood"
    assert voice.weights == {"sad": 0.25, "happy": -0.25}
    assert voice.by_size()[0] == ("sad", 0.25)  # of two alike the positive one
    many = voice_of(np.array([0.4, 0.1, 0.1]), "classification", ("a", "b", "c"))
    assert many is not None and sum(many.weights.values()) == pytest.approx(0)
    assert many.weights["a"] == pytest.approx(0.2)


def test_labels_and_values_are_taken_as_they_are() -> None:
    sets = voice_of(np.array([0.4, 0.1]), "multilabel", ("a", "b"))
    assert sets is not None and sets.weights == {"a": 0.4, "b": 0.1}
    value = voice_of(np.array([0.4]), "regression", ())
    assert value is not None and value.weights == {"value": 0.4}
    assert voice_of(np.zeros(3), "classification", ("a", "b")) is None


def test_words_and_addresses() -> None:
    assert (stance("multilabel", "a", 0.1), stance("multilabel", "a", -0.1)) == (
        "for a", "against a",
    )  # fmt: skip
    assert stance("regression", "value", -0.1) == "lowers the value"
    address = neuron_address(task="a & b", layer=3, pooling="max", neuron=417, split=None)
    assert address == "?task=a+%26+b&layer=3&pooling=max&neuron=417"
