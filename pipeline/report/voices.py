"""What a neuron says in a task, and where the explorer shows it; of this page and the explorer's.

voice = voice_of(weights[:, feature], "classification", ("sad", "happy"))
voice.weights                               # {"sad": -0.031, "happy": +0.031}
stance(voice.kind, "happy", 0.031)          # "for happy"
neuron_address(task="mood", layer=3, pooling="max", neuron=417)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
VALUE = "value"
"""Name of the only output of a regression."""


@dataclass(frozen=True)
class Voice:
    """What a neuron says in a task: its weights in the probe on its layer.

    Attributes:
        task: the task's name.
        weights: class, label or value -> what one standard deviation more of the activation adds
            to its logit (of classes: against their average), or to the value.
        kind: type of the task.
    """

    task: str
    weights: Mapping[str, float]
    kind: str

    def by_size(self) -> list[tuple[str, float]]:
        """The weights, the largest first whatever its sign; of two alike the positive one."""
        return sorted(self.weights.items(), key=lambda item: (-abs(item[1]), -item[1]))


def voice_of(own: Array, kind: str, classes: Sequence[str], *, task: str = "") -> Voice | None:
    """The voice of a feature.

    Args:
        own: ``(outputs,)`` weights of the layer's probe on the standardised activation; of two
            classes one, the second's.
        kind: type of the task.
        classes: classes or labels; none for values.
        task: its name.

    Returns:
        None where the names are not of these weights: the labels have been given anew since.
    """
    own, names = np.asarray(own, np.float64), tuple(classes) or (VALUE,)
    if kind == "classification":
        if len(own) == 1:
            own = np.array([0.0, own[0]])
        own = own - own.mean()  # what all classes have in common decides nothing
    if len(own) != len(names):
        return None
    return Voice(task, dict(zip(names, own.tolist(), strict=True)), kind)


def stance(kind: str, name: str, weight: float) -> str:
    """``for happy``, ``against happy``; of values ``raises the value``."""
    if kind == "regression":
        return f"{'raises' if weight >= 0 else 'lowers'} the value"
    return f"{'for' if weight >= 0 else 'against'} {name}"


def neuron_address(**named: object) -> str:
    """The arguments of a neuron's page in the explorer, with the question mark.

    Args:
        named: ``task``, ``layer``, ``pooling``, ``neuron`` and what else the page is to show; what
            is None is left out.
    """
    return "?" + urlencode({name: value for name, value in named.items() if value is not None})
