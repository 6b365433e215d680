"""The neurons that a task's probes weigh most: what they speak for, and which texts excite them.

neurons = with_weights(first_neurons(importance, ("mean", "max")), folder, "sentiment")
neurons[0].towards, neurons[0].weight       # "positive", +0.21
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import TaskConfig
from pipeline.neurons import RankTables
from pipeline.report.results import open_results
from pipeline.report.voices import neuron_address, voice_of
from pipeline.runfolder import RunFolder
from pipeline.texts import StoredTexts, load_target
from store import ActivationStore

Array = NDArray[Any]
NEURONS_SHOWN = 12
TEXTS_SHOWN = 3
MOST_READ = 5_000
"""Texts that are looked through for those that excite a neuron most."""
EXPLORER = "http://localhost:5006/"
"""Where `salient explore` shows its page unless it is told another port."""


@dataclass(frozen=True)
class SalientNeuron:
    """A neuron in one pooling, with what its layer's probe makes of it.

    Attributes:
        layer, pooling, neuron: which; layers are counted from 0.
        share: of the layer's squared importance.
        towards: what it speaks for or, where the weight is negative, against: a class, a label or
            ``VALUE``; empty where the probe is not there any more.
        weight: the probe's of it, on the standardised activation; see :class:`Voice`.
        texts: some that excite it most, the first most of all.
    """

    layer: int
    pooling: str
    neuron: int
    share: float
    towards: str = ""
    weight: float | None = None
    texts: tuple[str, ...] = ()

    def address(self, task: str) -> str:
        """Its place in the explorer."""
        where = neuron_address(
            task=task, layer=self.layer, pooling=self.pooling, neuron=self.neuron
        )
        return f"{EXPLORER}{where}"


def first_neurons(
    importance: Array, poolings: Sequence[str], limit: int = NEURONS_SHOWN
) -> tuple[SalientNeuron, ...]:
    """Those with the largest shares of their layers' squared importance, largest first.

    Args:
        importance: ``(layers, poolings, neurons)``.
        poolings: names of its second axis.
        limit: at most so many.
    """
    tables = RankTables({"": importance.reshape(len(importance), -1)}, {})
    size = importance.shape[2]
    return tuple(
        SalientNeuron(layer, poolings[feature // size], feature % size, share)
        for layer, feature, share in tables.first("", limit)
    )


def with_weights(
    neurons: Iterable[SalientNeuron], folder: RunFolder, task: str
) -> tuple[SalientNeuron, ...]:
    """The same with what their probes say of them.

    Raises:
        SalientError: no probes there, or damaged ones.
        KeyError: a layer without one.
    """
    results = open_results(folder.path)
    weights, entry = results.weights[task].ffn, results.metrics[task]
    found = []
    for one in neurons:
        at = weights.sel(layer=one.layer, pooling=one.pooling, neuron=one.neuron)
        voice = voice_of(at.values, entry["type"], entry["classes"], task=task)
        if voice is None:
            found.append(one)
            continue
        towards, weight = voice.by_size()[0]
        found.append(replace(one, towards=towards, weight=weight))
    return tuple(found)


def with_texts(
    neurons: Sequence[SalientNeuron], store: ActivationStore, task: TaskConfig
) -> tuple[SalientNeuron, ...]:
    """The same with training and validation texts that excite them most, each text once.

    Raises:
        SalientError: no labels or activations, or damaged ones.
    """
    target, texts = load_target(store, task), StoredTexts(store)
    rows = np.unique(np.concatenate([target.rows(s).positions for s in ("train", "val")]))
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), MOST_READ)).astype(np.int64)]
    if not len(rows) or texts.at(rows[:1]) == [None]:
        return tuple(neurons)
    size, poolings = store.schema.neuron_size, store.schema.poolings
    found = list(neurons)
    for layer in sorted({one.layer for one in neurons}):
        own = [i for i, one in enumerate(neurons) if one.layer == layer]
        wanted = [poolings.index(neurons[i].pooling) * size + neurons[i].neuron for i in own]
        features, place = np.unique(wanted, return_inverse=True)
        values: Array = store.read_features(layer=layer, features=features, samples=rows)
        for i, column in zip(own, place.tolist(), strict=True):
            best = np.argsort(values[:, column], kind="stable")[::-1][: 4 * TEXTS_SHOWN]
            said = [text for text in texts.at(rows[best]) if text is not None]
            found[i] = replace(found[i], texts=tuple(dict.fromkeys(said))[:TEXTS_SHOWN])
    return tuple(found)
